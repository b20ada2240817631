"""The compiled kernel: the simulator's recurrence over arrays, in batches.

`kernel` is its door and says what it takes; `arguments` are what compiled code takes, `link_arrays` makes some of them.
Compiled are `common_ground`, `independent_links` for the case that searches meet most, and `general_path`,
`shared_links`, `processor_time` and `fair_shares` for all others, which work in `traffic`; `approximate_links` is what
searches take for `shared_links` when they may, and works in `coarse_room`. All come together in `batches`;
`entry_points` are what Python calls of them. Importing this package loads no numba.
"""

from __future__ import annotations

from distredge.errors import Unsupported
from distredge.latency.kernel.kernel import Kernel, is_warm, kernel_of, warm

__all__ = ["Kernel", "Unsupported", "is_warm", "kernel_of", "warm"]
