"""How a thread of a worker stands back behind those that compute frames."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def stand_back(nice: int) -> None:
    """Lowers the calling thread's priority where the platform lets single threads have one.

    Threads that it starts from then on inherit that for good.

    Args:
        nice: by how much, as of `nice(1)`.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
