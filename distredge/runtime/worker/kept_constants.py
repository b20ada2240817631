"""Reads constants from a worker's disk, and writes them there, beside all else that the worker does."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from distredge.runtime.buffers import Array
from distredge.runtime.weights import WeightStore
from distredge.runtime.worker.supervisor import Supervisor
from distredge.runtime.worker.thread_priority import stand_back
from distredge.runtime.worker.weight_disk import Form, WeightDisk

READING_NICE: Final = 5
WRITING_NICE: Final = 10
"""Frames come first: this much lower is the priority of the threads."""

T = TypeVar("T")


class ReadEnd(NamedTuple):
    """How reading a constant ended: `array` holds it if it is `whole`."""

    digest: str
    array: Array
    whole: bool


class KeptConstants:
    """The constants on disk of one worker; its methods belong to the thread of its control plane.

    Args:
        disk: where they are; None: nowhere.
        store: the constants in memory.
        supervisor: starts threads.
        wake: called when one has been read, or could not be; `take_ends` is called then.
    """

    def __init__(
        self, disk: WeightDisk | None, store: WeightStore, supervisor: Supervisor, wake: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._store = store
        self._wake = wake
        self._stopping = threading.Event()
        self._ends: queue.SimpleQueue[ReadEnd] = queue.SimpleQueue()
        self._reader = _Line[tuple[str, Array]]("read-constants", self._read_one, supervisor, READING_NICE)
        self._writer = _Line[str]("write-constants", self._write_one, supervisor, WRITING_NICE)

    def form(self, digest: str) -> Form | None:
        """Returns the form of a constant on disk, by its content hash; None where there is none."""
        return None if self._disk is None else self._disk.form(digest)

    def read(self, digest: str, into: Array) -> None:
        """Begins to read a constant, of the form that `form` returned, into an array (d0, d1, ...) of the store."""
        if not self._reader.put((digest, into)):
            self._ends.put(ReadEnd(digest, into, False))
            self._wake()

    def write(self, digest: str) -> None:
        """Begins to write a constant that the store holds."""
        if self._disk is not None:
            self._writer.put(digest)

    def take_ends(self) -> list[ReadEnd]:
        """Returns how reading ended, of those of which that has not been returned yet."""
        found = []
        while not self._ends.empty():
            found.append(self._ends.get())
        return found

    def stop(self) -> None:
        """Gives up what is not done, and waits for the threads."""
        self._stopping.set()
        for line in (self._reader, self._writer):
            line.stop()

    def _read_one(self, item: tuple[str, Array]) -> None:
        digest, into = item

        def wanted() -> bool:
            return self._store.reads(digest, into) and not self._stopping.is_set()

        whole = self._disk is not None and self._disk.read(digest, into, wanted)
        self._ends.put(ReadEnd(digest, into, whole))
        self._wake()

    def _write_one(self, digest: str) -> None:
        # Taken now, not when it was put in line: what the store has dropped since is not kept in memory for this.
        array = self._store.held(digest)
        if array is not None and self._disk is not None:
            self._disk.write(digest, array, lambda: not self._stopping.is_set())


class _Line(Generic[T]):
    """Does one thing after the other in a thread that lives as long as there is something to do.

    Args:
        name: of the thread.
        do: what is done with each.
        supervisor: starts the thread.
        nice: how far it stands back.
    """

    def __init__(self, name: str, do: Callable[[T], None], supervisor: Supervisor, nice: int) -> None:
        self._name = name
        self._do = do
        self._supervisor = supervisor
        self._nice = nice
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._works = False

    def put(self, item: T) -> bool:
        """Appends something; returns whether it will be done."""
        with self._lock:
            self._items.append(item)
            if self._works:
                return True
            self._works = True
        try:
            self._thread = self._supervisor.start(self._name, self._work, daemon=True)
        except (RuntimeError, MemoryError):
            with self._lock:
                self._works = False
                self._items.clear()
            return False
        return True

    def stop(self) -> None:
        """Forgets what is not begun, and waits for the rest."""
        with self._lock:
            self._items.clear()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        stand_back(self._nice)
        while True:
            with self._lock:
                if not self._items:
                    self._works = False
                    return
                item = self._items.popleft()
            self._do(item)
