"""A bell that is a pipe of the system: threads and handlers of signals ring it, a poller hears it."""

from __future__ import annotations

import contextlib
import os


class PipeBell:
    """A bell that is a pipe of the system, which a handler of signals may write to as well.

    Attributes:
        reads: the descriptor to poll.

    Raises:
        OSError: if this process may open no more files.
    """

    def __init__(self) -> None:
        self.reads, self._writes = os.pipe()
        os.set_blocking(self.reads, False)
        os.set_blocking(self._writes, False)
        self._closed = False

    def ring(self) -> None:
        """Ends the wait of who polls it, or its next one."""
        # One that is full rings already.
        if not self._closed:
            with contextlib.suppress(OSError):
                os.write(self._writes, b"!")

    def silence(self) -> None:
        """Takes away what was rung."""
        with contextlib.suppress(OSError):
            os.read(self.reads, 4096)

    def close(self) -> None:
        """Gives its descriptors back."""
        if not self._closed:
            self._closed = True
            os.close(self.reads)
            os.close(self._writes)
