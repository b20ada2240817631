"""What the C library's allocator keeps and gives back. Only glibc is told anything: others have no such functions."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""glibc's numbers of what `mallopt` sets."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Free memory that is kept at the most, in each arena."""

FRAME_BYTES: Final = 4 * 1024 * 1024
"""What is larger has memory of its own, which goes back when it is freed: constants and buffers, not frames."""


def keep_freed_frames() -> None:
    """Lets the frames of messages take memory that earlier ones have left.

    libzmq allocates each frame anew. By default glibc returns the memory of one of a megabyte to the system, which then
    fills the next one with zeros, page by page, before a byte is received: about as long as receiving it takes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, FRAME_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_TOP_PAD, FRAME_BYTES)


def give_memory_back() -> None:
    """Returns to the system what the allocator keeps: loading leaves tens of megabytes that nobody uses."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
