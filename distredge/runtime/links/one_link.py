"""Measures links over the transport that the runtime uses (sockets, encryption, parts), and asks workers how they are.

A worker that is computing answers late: probe idle workers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Final

from distredge.errors import AuthError, ExecutionError, PeerTimeout, ProtocolError
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.messages import (
    Echo,
    LinkMeasured,
    Measure,
    Ping,
    Pong,
    Refused,
    ToWorker,
    decode_on_data,
    decode_to_coordinator,
    echo_parts,
    encode,
)
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received

SIZES: Final = (0, 1024, 16_384, 65_536, 262_144, 1_048_576, 4_194_304)
REPEATS: Final = 10
TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class LinkFigures:
    """What a link costs, as cluster files want it.

    Attributes:
        round_trip_s: median, of messages without content.
        message_s: what a message costs beside its bytes: half of the round trip, and what the line through the sizes
            has at size 0 beyond a whole one.
        rate_bps: bits per second of the content; None when no size took longer than an empty message.
        medians_s: size in bytes -> median seconds there and back.
    """

    round_trip_s: float
    message_s: float
    rate_bps: float | None
    medians_s: dict[int, float]


def fit(sizes: Sequence[int], times_s: Sequence[Sequence[float]]) -> LinkFigures:
    """Fits seconds = round trip + rest + size / rate to medians, least squares of relative errors.

    Args:
        sizes: bytes; the first is 0.
        times_s: repeats of each size.
    """
    medians = [median(repeats) for repeats in times_s]
    round_trip_s = medians[0]
    points = [(size, seconds) for size, seconds in zip(sizes, medians, strict=True) if size > 0]
    weights = [1.0 / seconds**2 for _, seconds in points]
    total = sum(weights)
    mean_size = sum(w * size for w, (size, _) in zip(weights, points, strict=True)) / total
    mean_s = sum(w * seconds for w, (_, seconds) in zip(weights, points, strict=True)) / total
    spread = sum(w * (size - mean_size) ** 2 for w, (size, _) in zip(weights, points, strict=True))
    slope = sum(w * (x - mean_size) * (y - mean_s) for w, (x, y) in zip(weights, points, strict=True)) / spread
    message_s = round_trip_s / 2 + max(0.0, mean_s - slope * mean_size - round_trip_s)
    return LinkFigures(
        round_trip_s, message_s, 8.0 / slope if slope > 0 else None, dict(zip(sizes, medians, strict=True))
    )


def measure_link(
    network: Network,
    peer: PeerAddress,
    sizes: Sequence[int] = SIZES,
    repeats: int = REPEATS,
    timeout_s: float = TIMEOUT_S,
    *,
    back: bool = False,
) -> tuple[tuple[float, ...], ...]:
    """Sends messages of several sizes to a worker's data port, which answers each with an empty one.

    Args:
        network: makes sockets.
        peer: whose data port.
        sizes: bytes of content.
        repeats: messages per size, one after the other.
        timeout_s: for everything.
        back: the other way round: empty messages, answers of several sizes.

    Returns:
        Seconds there and back of each repeat, by size.

    Raises:
        PeerTimeout: if it is not reached or does not answer in time.
    """
    where = f"'{peer.name}' at {peer.endpoint}"
    with _ProbedConnection(network, where, peer.endpoint, "data", peer.public_key, timeout_s) as connection:
        found = []
        tokens = itertools.count(1)
        for size in sizes:
            parts = [] if back else echo_parts(size)
            times_s = []
            for _ in range(repeats):
                token = next(tokens)
                head = encode(Echo(token, False, size if back else 0))
                started_s = time.monotonic()
                connection.send([head, *parts])
                answer = decode_on_data(connection.receive().parts[0])
                times_s.append(time.monotonic() - started_s)
                if not isinstance(answer, Echo) or not answer.answer or answer.token != token:
                    raise ProtocolError(f"{where} answers with something else")
            found.append(tuple(times_s))
        return tuple(found)


def measure_between(
    network: Network,
    source: WorkerAddress,
    target: PeerAddress,
    sizes: Sequence[int] = SIZES,
    repeats: int = REPEATS,
    timeout_s: float = TIMEOUT_S,
) -> tuple[tuple[float, ...], ...]:
    """Lets a worker measure its link to another one; see `measure_link`.

    Raises:
        PeerTimeout: if the worker is not reached or does not answer in time.
        ExecutionError: what it reports.
    """
    request = Measure(1, target, False, tuple(sizes), repeats, timeout_s)
    answer = _ask(network, source, request, timeout_s + 5.0)
    if not isinstance(answer, LinkMeasured):
        reason = answer.reason if isinstance(answer, Refused) else "an answer to something else"
        raise ExecutionError(f"worker '{source.name}': {reason}")
    if answer.error:
        raise ExecutionError(f"worker '{source.name}': {answer.error}")
    return answer.round_trips_s


def ping(network: Network, worker: WorkerAddress, timeout_s: float) -> Pong:
    """Asks a worker how it is, without taking it for a session.

    Raises:
        AuthError: if one side refuses the other's key.
        PeerTimeout: if it is not reached or does not answer in time.
        ProtocolError: if it speaks another version.
    """
    answer = _ask(network, worker, Ping(1), timeout_s)
    if not isinstance(answer, Pong):
        raise ProtocolError(f"worker '{worker.name}' answers with something else")
    return answer


@dataclass(frozen=True)
class Answer:
    """What a worker said of itself, and after how long."""

    pong: Pong
    after_s: float


def ask_all(
    network: Network, addresses: Sequence[WorkerAddress], timeout_s: float
) -> dict[str, Answer | ExecutionError]:
    """Asks workers how they are, all at the same time: one that does not answer keeps nobody waiting.

    Args:
        network: makes a socket for each.
        addresses: whom to ask; at least one.
        timeout_s: within which each is to answer.

    Returns:
        Worker -> its answer, or why there is none, in the order of `addresses`.
    """

    def ask(address: WorkerAddress) -> Answer | ExecutionError:
        started_s = time.monotonic()
        try:
            return Answer(ping(network, address, timeout_s), time.monotonic() - started_s)
        except ExecutionError as error:
            return error

    with ThreadPoolExecutor(len(addresses)) as pool:
        return dict(zip([a.name for a in addresses], pool.map(ask, addresses), strict=True))


def _ask(network: Network, worker: WorkerAddress, message: ToWorker, timeout_s: float) -> object:
    where = f"worker '{worker.name}' at {worker.control}"
    with _ProbedConnection(network, where, worker.control, "control", worker.public_key, timeout_s) as connection:
        connection.send([encode(message)])
        try:
            return decode_to_coordinator(connection.receive().parts[0])
        except ProtocolError as error:
            raise ProtocolError(f"{where}: {error}") from error


class _ProbedConnection:
    """One endpoint of its own, with a deadline for everything."""

    def __init__(
        self, network: Network, where: str, address: str, plane: str, public_key: str, timeout_s: float
    ) -> None:
        self._network = network
        self._where = where
        self._timeout_s = timeout_s
        self._until_s = time.monotonic() + timeout_s
        self._trouble = ""
        self._endpoint: Endpoint = network.connect(address, "control" if plane == "control" else "data", public_key)
        self._waiter = network.waiter([self._endpoint])

    def __enter__(self) -> _ProbedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._network.drop(self._endpoint)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Sends, once there is a connection."""
        while True:
            try:
                self._endpoint.send(parts)
                return
            except NotConnected:
                self._wait("cannot be reached", True)

    def receive(self) -> Received:
        """Waits for the next message."""
        while (received := self._endpoint.receive()) is None or not received.parts:
            self._wait("does not answer", False)
        return received

    def _wait(self, what: str, writable: bool) -> None:
        for event in self._endpoint.events():
            if event.kind != "connected":
                self._trouble = f": {event.reason}"
            if event.kind == "refused":
                raise AuthError(f"{self._where} {what}{self._trouble}")
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise PeerTimeout(f"{self._where} {what} within {self._timeout_s:g} s{self._trouble}")
        self._waiter.wait(min(left_s, 0.5), [self._endpoint] if writable else ())
