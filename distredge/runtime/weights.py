"""The constants that a worker holds: by content hash, kept from plan to plan, the least recently used dropped first."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distredge.errors import ProtocolError
from distredge.runtime.buffers import Array, allocate
from distredge.runtime.protocol.device_plan import DTYPES
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import WEIGHT_CHUNK_BYTES, Weight


class Digester(Protocol):
    """What hashlib returns."""

    def update(self, content: Bytes, /) -> None:
        """Takes more bytes in."""

    def hexdigest(self) -> str:
        """Hexadecimal digits of what has been taken in."""


@dataclass
class _Arriving:
    dtype: str
    shape: tuple[int, ...]
    content: Array
    digester: Digester
    received_bytes: int = 0


class WeightStore:
    """Constants by content hash.

    Args:
        cap_bytes: what may be held; constants of plans that live are never dropped, so these can exceed it.
    """

    def __init__(self, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._held: OrderedDict[str, Array] = OrderedDict()
        self._pins: dict[int, frozenset[str]] = {}
        self._arriving: dict[str, _Arriving] = {}
        self._reading: dict[str, Array] = {}
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes held, and of what is coming in or being read: each constant whole from its first piece on."""
        with self._lock:
            return sum(array.nbytes for array in self._held.values()) + self._coming_bytes()

    def sizes_bytes(self, digests: Iterable[str]) -> int:
        """Bytes of those of these constants that are held, coming in or being read."""
        with self._lock:
            found = [self._held.get(d) if d in self._held else self._room_of(d) for d in digests]
            return sum(array.nbytes for array in found if array is not None)

    def make_room(self, room_bytes: int) -> None:
        """Drops constants that no plan needs, until no more than `room_bytes` are held or none of them is left."""
        with self._lock:
            self._drop_down_to(room_bytes - self._coming_bytes())

    def begins(self, message: Weight, size_bytes: int) -> int:
        """Returns how much memory a piece takes that begins a constant; 0 where its constant has its memory already.

        Args:
            message: what is said of the piece.
            size_bytes: its bytes.

        Raises:
            ProtocolError: if it contradicts itself or no plan asked for it.
        """
        check_weight(message, size_bytes)
        with self._lock:
            if message.digest in self._held or message.digest in self._arriving:
                return 0
            if not any(message.digest in pins for pins in self._pins.values()):
                raise ProtocolError("a constant that no plan asked for")
        return message.total_bytes

    def pin(self, plan: int, digests: Iterable[str]) -> tuple[str, ...]:
        """Notes what a plan needs; returns what is missing."""
        wanted = frozenset(digests)
        with self._lock:
            self._pins[plan] = wanted
            for digest in wanted & self._held.keys():
                self._held.move_to_end(digest)
            return tuple(sorted(wanted - self._held.keys()))

    def unpin(self, plan: int) -> None:
        """Notes that a plan is over; its constants stay while there is room."""
        with self._lock:
            self._pins.pop(plan, None)
            wanted = frozenset[str]().union(*self._pins.values())
            self._arriving = {d: a for d, a in self._arriving.items() if d in wanted}
            self._reading = {d: a for d, a in self._reading.items() if d in wanted}
            self._drop_down_to(self._cap_bytes)

    def receive(self, message: Weight, content: Bytes) -> bool:
        """Takes one piece in; returns whether its constant is complete now.

        Raises:
            ProtocolError: if no plan asked for it, pieces come out of order, or the content is not what the hash says.
            MemoryError: if there is no memory for it; ask for the room first (`begins`).
        """
        chunk = np.frombuffer(content, dtype=np.uint8)
        check_weight(message, chunk.nbytes)
        with self._lock:
            if message.digest in self._held:
                return True
            if not any(message.digest in pins for pins in self._pins.values()):
                raise ProtocolError("a constant that no plan asked for")
            arriving = self._arriving.get(message.digest)
            if arriving is None or (message.offset == 0 and message.total_bytes == arriving.content.nbytes):
                room = allocate((message.total_bytes,), "uint8") if arriving is None else arriving.content
                digester = begin_digest(message.dtype, message.shape)
                arriving = _Arriving(message.dtype, message.shape, room, digester)
                self._arriving[message.digest] = arriving
            if message.offset != arriving.received_bytes or message.total_bytes != arriving.content.nbytes:
                raise ProtocolError(f"a piece of a constant at {message.offset} where {arriving.received_bytes} is due")
            arriving.content[message.offset : message.offset + chunk.nbytes] = chunk
            # Piece by piece: hundreds of megabytes at the end would keep this thread from answering for seconds.
            arriving.digester.update(chunk.data)
            arriving.received_bytes += chunk.nbytes
            if arriving.received_bytes < arriving.content.nbytes:
                return False
            del self._arriving[message.digest]
        if arriving.digester.hexdigest() != message.digest:
            raise ProtocolError("a constant whose content does not match its hash")
        with self._lock:
            self._held[message.digest] = arriving.content.view(arriving.dtype).reshape(arriving.shape)
            self._drop_down_to(self._cap_bytes)
        return True

    def begin_reading(self, digest: str, dtype: str, shape: Sequence[int]) -> Array:
        """Returns the array (d0, d1, ...) of that shape and dtype into which a constant is to be read, not sent.

        Raises:
            MemoryError: if there is no memory for it.
        """
        into = allocate(shape, dtype)
        with self._lock:
            self._reading[digest] = into
        return into

    def reads(self, digest: str, into: Array | None = None) -> bool:
        """Whether a constant is being read, into that array (d0, d1, ...) if one is given; called by any thread."""
        with self._lock:
            found = self._reading.get(digest)
            return found is not None and (into is None or found is into)

    def end_reading(self, digest: str, into: Array, whole: bool) -> bool:
        """Holds the constant that was read, if it is `whole`; returns whether it was still wanted in that array.

        Args:
            digest: its content hash.
            into: what `begin_reading` returned, (d0, d1, ...).
            whole: whether its content is what the hash says.
        """
        with self._lock:
            if self._reading.get(digest) is not into:
                return False
            del self._reading[digest]
            if whole:
                self._held[digest] = into
                self._drop_down_to(self._cap_bytes)
            return True

    def held(self, digest: str) -> Array | None:
        """Returns a constant (d0, d1, ...), or None if it is not held; called by any thread."""
        with self._lock:
            return self._held.get(digest)

    def take(self, plan: int) -> Mapping[str, Array]:
        """Returns the constants of a plan: content hash -> (d0, d1, ...), shape and dtype as in the graph.

        Raises:
            ProtocolError: if some are missing.
        """
        with self._lock:
            missing = self._pins[plan] - self._held.keys()
            if missing:
                raise ProtocolError(f"{len(missing)} constants of the plan are missing")
            return {digest: self._held[digest] for digest in self._pins[plan]}

    def _room_of(self, digest: str) -> Array | None:
        arriving = self._arriving.get(digest)
        return arriving.content if arriving is not None else self._reading.get(digest)

    def _coming_bytes(self) -> int:
        arriving_bytes = sum(arriving.content.nbytes for arriving in self._arriving.values())
        return arriving_bytes + sum(array.nbytes for array in self._reading.values())

    def _drop_down_to(self, most_bytes: int) -> None:
        pinned = frozenset[str]().union(*self._pins.values())
        total_bytes = sum(array.nbytes for array in self._held.values())
        for digest in list(self._held):
            if total_bytes <= most_bytes:
                return
            if digest not in pinned:
                total_bytes -= self._held.pop(digest).nbytes


def weight_messages(plan: int, digest: str, array: Array) -> Iterator[tuple[Weight, Bytes]]:
    """Yields a constant in pieces of WEIGHT_CHUNK_BYTES.

    Args:
        plan: number of the plan that needs it.
        digest: its content hash.
        array: (d0, d1, ...), any shape and dtype of `DTYPES`.
    """
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for offset in range(0, content.nbytes, WEIGHT_CHUNK_BYTES):
        message = Weight(plan, digest, array.dtype.name, array.shape, offset, content.nbytes)
        yield message, content[offset : offset + WEIGHT_CHUNK_BYTES].data


def begin_digest(dtype: str, shape: Sequence[int]) -> Digester:
    """Begins the content hash of a constant: SHA-256 over dtype, shape and bytes (as `Graph.weight_hash`)."""
    return hashlib.sha256(f"{np.dtype(dtype).str}{tuple(shape)}".encode())


def check_weight(message: Weight, size_bytes: int) -> None:
    """Refuses a piece of a constant that contradicts itself.

    Raises:
        ProtocolError: if dtype, shape, offset and size do not fit together.
    """
    if message.dtype not in DTYPES:
        raise ProtocolError(f"a constant of dtype '{message.dtype}'")
    whole_bytes = math.prod(message.shape) * np.dtype(message.dtype).itemsize
    if whole_bytes != message.total_bytes or message.offset + size_bytes > whole_bytes or size_bytes == 0:
        raise ProtocolError(
            f"{size_bytes} bytes at {message.offset} of a constant of {message.total_bytes} bytes "
            f"and shape {message.shape}"
        )
