"""Ctrl-C that waits while something is written down."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Raises `KeyboardInterrupt` on Ctrl-C and on SIGTERM, but not in the midst of `held`: then at its end.

    So it does when the terminal goes (SIGHUP), unless that is ignored, as under nohup.

    A context manager; outside the main thread, which alone gets signals, it does nothing.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._is_held = False
        self._came = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds interrupts back until the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._is_held:
            self._came = True
        else:
            raise KeyboardInterrupt
