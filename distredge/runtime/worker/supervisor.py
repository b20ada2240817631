"""A worker's threads: the end of one by an exception is the end of the worker, with a reason."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from distredge.errors import ExecutionError

_log = logging.getLogger(__name__)


class WorkerDied(ExecutionError):
    """A thread of the worker ended by an exception; a worker that lacks one would answer nobody and say nothing."""


class Supervisor:
    """Runs the threads of a worker and remembers the first that died.

    Args:
        on_death: called by the thread that died first; must make the others end.
    """

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._on_death = on_death
        self._lock = threading.Lock()
        self._died: WorkerDied | None = None

    @property
    def died(self) -> WorkerDied | None:
        """Which thread died first, and of what; None while all are well."""
        return self._died

    def start(self, name: str, work: Callable[[], None], daemon: bool = False) -> threading.Thread:
        """Starts a thread.

        Raises:
            RuntimeError, MemoryError: if the system has no room for one more.
        """
        thread = threading.Thread(target=self.run, args=(name, work), name=name, daemon=daemon)
        thread.start()
        return thread

    def run(self, name: str, work: Callable[[], None]) -> None:
        """Works in the caller's thread; what is raised ends here and is remembered."""
        try:
            work()
        except BaseException as error:  # whatever it is, the thread is gone
            self.report(name, error)

    def report(self, name: str, error: BaseException) -> None:
        """Takes note that a thread died; called by any thread."""
        with self._lock:
            first, self._died = self._died is None, self._died or _named(name, error)
        _log.info("the thread '%s' died", name, exc_info=error)
        if first:
            self._on_death()


def _named(name: str, error: BaseException) -> WorkerDied:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    made = WorkerDied(f"the worker ends: its thread '{name}' died of {text}")
    made.__cause__ = error
    return made
