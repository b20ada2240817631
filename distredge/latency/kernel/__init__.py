"""The compiled kernel: the simulator's recurrence over arrays, in batches.

`kernel` is its door and says what it takes; `common_ground`, `independent_links`, `general_path`, `shared_links` and
`busy_times` are its compiled parts, `entry_points` what Python calls of them. Importing this package loads no numba.
"""

from __future__ import annotations

from distredge.errors import Unsupported
from distredge.latency.kernel.kernel import Kernel, is_warm, kernel_of, warm

__all__ = ["Kernel", "Unsupported", "is_warm", "kernel_of", "warm"]
