"""Memory that an engine's process has, too: what is handed over once, and the arrays that rows are placed in."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from distredge.errors import EngineError
from distredge.runtime.buffers import ALIGNMENT_BYTES, Array

REGION_BYTES: Final = 4 * 1024 * 1024
"""Taken from the system at once; what is larger has a region of its own."""


class Region(NamedTuple):
    """A piece of shared memory: its number, its descriptor as long as somebody has it, and where it is here."""

    number: int
    descriptor: int
    address: int
    size_bytes: int


class Regions:
    """Memory for arrays; a region is given back when nobody has an array in it any more.

    Args:
        gone: called by any thread with the number of a region that is given back.
    """

    def __init__(self, gone: Callable[[int], None]) -> None:
        self._gone = gone
        self._lock = threading.Lock()
        self._regions: dict[int, Region] = {}
        self._count = 0
        self._open: weakref.ref[mmap.mmap] | None = None
        self._used_bytes = 0

    def take(self, size_bytes: int) -> Array:
        """Returns so many bytes, zeros: (size_bytes,) of uint8.

        Raises:
            EngineError: if there is no memory that can be shared.
        """
        with self._lock:
            memory = self._open() if self._open is not None else None
            if memory is None or self._used_bytes + size_bytes > len(memory):
                memory = self._made(max(REGION_BYTES, size_bytes))
                self._open, self._used_bytes = weakref.ref(memory), 0
            start = self._used_bytes
            self._used_bytes += size_bytes
            return np.frombuffer(memory, np.uint8, size_bytes, start)

    def place(self, held: Array) -> tuple[Region, int] | None:
        """Returns where an array (d0, d1, ...) lies: region and bytes from its begin; None if in other memory."""
        address = held.ctypes.data
        for region in tuple(self._regions.values()):
            if region.address <= address < region.address + region.size_bytes and held.flags.c_contiguous:
                return region, address - region.address
        return None

    def _made(self, size_bytes: int) -> mmap.mmap:
        descriptor = _descriptor(size_bytes)
        memory = mmap.mmap(descriptor, size_bytes)
        self._count += 1
        address = np.frombuffer(memory, np.uint8, 1).ctypes.data
        self._regions[self._count] = Region(self._count, descriptor, address, size_bytes)
        weakref.finalize(memory, self._forget, self._count).atexit = False
        return memory

    def _forget(self, number: int) -> None:
        os.close(self._regions.pop(number).descriptor)
        self._gone(number)


class HandedOver:
    """Memory to be shared: places in it are handed out first, then it is made and filled."""

    def __init__(self) -> None:
        self._size_bytes = 0
        self._contents: list[tuple[int, Array]] = []
        self._map: mmap.mmap | None = None

    def reserve(self, size_bytes: int) -> int:
        """Returns where there will be room for so many bytes, on a cache line."""
        start = self._size_bytes
        self._size_bytes += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return start

    def add(self, array: Array) -> int:
        """Returns where an array (d0, d1, ...) will lie."""
        start = self.reserve(array.nbytes)
        self._contents.append((start, array))
        return start

    @property
    def size_bytes(self) -> int:
        """Bytes of the places so far."""
        return self._size_bytes

    @contextlib.contextmanager
    def made(self) -> Iterator[int]:
        """Makes it; the descriptor is closed at the end, which leaves the memory to those that have mapped it."""
        descriptor = _descriptor(max(self._size_bytes, 1))
        try:
            self._map = mmap.mmap(descriptor, max(self._size_bytes, 1))
            for start, array in self._contents:
                flat = np.frombuffer(self._map, np.uint8, array.nbytes, start)
                np.copyto(flat, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            self._contents.clear()
            yield descriptor
        finally:
            os.close(descriptor)

    def view(self, entry: Mapping[str, Any]) -> Array:
        """Returns an array (d0, d1, ...) that lies in it, as `entry` describes it."""
        assert self._map is not None
        shape = entry["shape"]
        return np.frombuffer(self._map, entry["dtype"], math.prod(shape), entry["start"]).reshape(shape)


def entry(name: str, held: Array, start: int) -> dict[str, Any]:
    """Describes an array (d0, d1, ...) of shared memory, for `engine_host`."""
    return {"name": name, "dtype": held.dtype.name, "shape": list(held.shape), "start": start}


def _descriptor(size_bytes: int) -> int:
    """Returns a descriptor of so much new memory."""
    try:
        descriptor = os.memfd_create("distredge-engine")
    except (AttributeError, OSError) as error:
        raise EngineError(f"no memory that can be shared with another process: {error}") from error
    try:
        os.ftruncate(descriptor, size_bytes)
    except OSError as error:
        os.close(descriptor)
        raise EngineError(f"no memory that can be shared with another process: {error}") from error
    return descriptor
