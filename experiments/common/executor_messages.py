"""What messages cost in workers and in bare pairs of sockets: processor time, rate of large ones, small round trips."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import zmq

from distredge.errors import PeerTimeout
from distredge.experiments.common.executor_children import (
    SMALL,
    BareOrder,
    Child,
    Sends,
    bare_dealer,
    bare_end,
    child,
    head_now,
    tcp_receiver,
    tcp_sender,
)
from distredge.experiments.common.executor_workers import (
    Arrays,
    Running,
    noise_for,
    own_cores,
    processes,
    running,
)
from distredge.model.capture import load_model
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.hosting.message_costs import SIZES, measure_ends
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.device_plan import TensorBox
from distredge.runtime.protocol.messages import Echo, encode
from distredge.runtime.protocol.row_messages import rows_form
from distredge.runtime.protocol.security import make_keys
from distredge.runtime.protocol.transport import Network
from distredge.strategy import Strategy

CHANNELS = 64
CHUNKS, COUNTED = 4, 2
"""Of so many chunks so many, the best, count in each round, at either side (`message_costs` does the same)."""

WAIT_S = 30.0
WORKER_PARTS = ("receiving", "sending", "io")
_NAMES = ("worker-0", "worker-1")


def frame_sizes(rows: int, columns: int) -> tuple[int, ...]:
    """Sizes in bytes of the frames of a message of float32 rows of 64 channels, that with the head included."""
    box = TensorBox("y", (0, 0, 0, 0), (1, CHANNELS, rows, columns), "float32")
    return rows_form([box]).frames


# Bare pairs.


@dataclass(frozen=True)
class BarePair:
    """Two bare ends, `first` passing on to `second`, and this process's connections to both."""

    first: Child
    second: Child
    to_first: zmq.Socket[bytes]
    to_second: zmq.Socket[bytes]

    def send(self, sizes: tuple[int, ...], fills: bool) -> None:
        """Says of what frames a message of the first end to the second is; that answers a small one."""
        self.first.ask(Sends(sizes, fills))
        self.second.ask(Sends(SMALL, fills))

    def frames(self, count: int) -> None:
        """Runs frames: four bytes to the first, from there to the second, and four bytes back."""
        for _ in range(count):
            self._there_and_back(self.to_first)

    def round_trips_s(self, count: int) -> list[float]:
        """Seconds of small messages to the second end and back."""
        found = []
        for _ in range(count):
            began_s = time.perf_counter()
            self._there_and_back(self.to_second)
            found.append(time.perf_counter() - began_s)
        return found

    def _there_and_back(self, socket: zmq.Socket[bytes]) -> None:
        socket.send(head_now(SMALL[0]))
        if not self.to_second.poll(int(1000 * WAIT_S)):
            raise PeerTimeout("no answer from the bare pair")
        self.to_second.recv_multipart(copy=False)


@contextmanager
def bare_pair(encrypted: bool, cores: Sequence[Sequence[int]]) -> Iterator[BarePair]:
    """A pair of bare ends.

    Args:
        encrypted: with CURVE.
        cores: that each of the two may use.
    """
    keys = [zmq.curve_keypair() for _ in range(3)] if encrypted else [None, None, None]
    public = [pair[0] if pair is not None else b"" for pair in keys]
    with ExitStack() as stack:
        second = stack.enter_context(child(bare_end, cores[1], BareOrder(keys[1])))
        first = stack.enter_context(child(bare_end, cores[0], BareOrder(keys[0], second.told, public[1])))
        context = stack.enter_context(zmq.Context())
        to_second = stack.enter_context(bare_dealer(context, second.told, keys[2], public[1]))
        to_first = stack.enter_context(bare_dealer(context, first.told, keys[2], public[0]))
        pair = BarePair(first, second, to_first, to_second)
        # The second end answers whoever writes first.
        pair.round_trips_s(10)
        pair.frames(10)
        yield pair


# Processor time.


def processor_time(encrypted: bool, rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """Processor seconds of a frame at both ends, all threads, without what fills the caches: workers and bare pairs.

    A frame is, in both: four bytes to the first end, rows of one of `SIZES` to the second, four bytes back; so each
    end receives one message and sends one. Ends may use every core, as those of `message_costs` do.

    Args:
        encrypted: with CURVE.
        rounds: of both in turn.
        seconds: of each in a round.

    Returns:
        "worker" and "bare" -> one list for each size, a figure per round; of a worker's also "receiving", "sending"
        (both in its own thread) and "io" (libzmq's).
    """
    found: dict[str, list[list[float]]] = {who: [[] for _ in SIZES] for who in ("worker", "bare", *WORKER_PARTS)}
    cores = own_cores().all
    with bare_pair(encrypted, [cores, cores]) as pair:
        for _ in range(rounds):
            ends = measure_ends(make_keys(("sender", "receiver")) if encrypted else None, seconds)
            for number in range(len(SIZES)):
                costs = [end[number] for end in ends]
                for part in WORKER_PARTS:
                    found[part][number].append(sum(getattr(cost, f"{part}_s") for cost in costs))
                found["worker"][number].append(sum(found[part][number][-1] for part in WORKER_PARTS))
            for number, (rows, columns) in enumerate(SIZES):
                found["bare"][number].append(_bare_frame_s(pair, frame_sizes(rows, columns), seconds / len(SIZES)))
    return found


def _bare_frame_s(pair: BarePair, sizes: tuple[int, ...], seconds: float) -> float:
    pair.send(sizes, fills=True)
    began_s = time.perf_counter()
    pair.frames(3)
    count = max(3, int(seconds / CHUNKS / ((time.perf_counter() - began_s) / 3)))
    chunks = []
    for _ in range(CHUNKS):
        before = sum(end.ask(None).processor_s for end in (pair.first, pair.second))
        pair.frames(count)
        chunks.append((sum(end.ask(None).processor_s for end in (pair.first, pair.second)) - before) / count)
    return statistics.fmean(sorted(chunks)[:COUNTED])


# Large rows.


def one_message() -> Deployment:
    """VGG-16 in two volumes on a worker each: what crosses between them are the 3.2 MB after its first pool."""
    graph = load_model("vgg16")
    last = len(graph.cuts) - 1
    first = next(k for k, cut in enumerate(graph.cuts) if cut.height == 112)
    volumes = [(first, [0, 112, 112]), (last, [0, 0, graph.cuts[last].height])]
    return deploy(graph, Strategy.make(graph, _NAMES, volumes, head=_NAMES[1]))


def large_rows(rounds: int, frames: int) -> dict[str, list[float]]:
    """Seconds that 3.2 MB take, one message at a time, between two processes with a core each.

    "rows" and "rows_curve": between two workers, from the beginning of packing until they are placed, as their records
    say. "tcp": one connection, from the first `sendall` until the last byte is in the receiver's memory. "zmq" and
    "zmq_curve": a bare pair, in the same parts, until all are received.

    Args:
        rounds: of all in turn.
        frames: of each in a round.
    """
    deployment = one_message()
    message = next(m for m in deployment.messages if (m.source, m.destination) == (0, 1))
    sizes = rows_form(message.boxes).frames
    inputs = noise_for(deployment)
    cores = [[core] for core in own_cores().workers]
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways: dict[str, Callable[[int], list[float]]] = {"tcp": stack.enter_context(tcp_pair(message.size_bytes))}
        for mark, encrypted in (("", False), ("_curve", True)):
            workers = stack.enter_context(running(deployment, encrypted=encrypted, engine="sleep"))
            pair = stack.enter_context(bare_pair(encrypted, cores))
            pair.send(sizes, fills=False)
            ways[f"rows{mark}"] = functools.partial(_rows_s, workers, inputs, message.stage)
            ways[f"zmq{mark}"] = functools.partial(_bare_way_s, pair)
        for way in ways.values():
            way(3)
        for number in range(rounds):
            order = list(ways)
            for name in order if number % 2 == 0 else order[::-1]:
                found.setdefault(name, []).extend(ways[name](frames))
    return found


def _rows_s(workers: Running, inputs: Arrays, stage: int, count: int) -> list[float]:
    workers.latencies_s(inputs, count)
    spans = [s for s in workers.coordinator.timeline(count).spans if s.stage == stage and s.bytes]
    begins = {s.frame: s.start_s for s in spans if s.lane == "send" and s.device == _NAMES[0]}
    ends = {s.frame: s.stop_s for s in spans if s.lane == "receive" and s.device == _NAMES[1]}
    return [ends[frame] - begins[frame] for frame in sorted(begins)]


def _bare_way_s(pair: BarePair, count: int) -> list[float]:
    pair.second.ask(None)
    pair.frames(count)
    found: list[float] = pair.second.ask(None).on_the_way_s
    return found


@contextmanager
def tcp_pair(size: int) -> Iterator[Callable[[int], list[float]]]:
    """Two processes with a core each and one TCP connection; what is given sends `size` bytes so many times.

    Returns:
        A function: number of times -> seconds of each.
    """
    cores = own_cores().workers
    with (
        child(tcp_receiver, [cores[1]], size) as receiver,
        child(tcp_sender, [cores[0]], size, receiver.told) as sender,
    ):

        def run(count: int) -> list[float]:
            found = []
            for _ in range(count):
                receiver.tell(None)
                sender.tell(None)
                found.append(-sender.answer() + receiver.answer())
            return found

        yield run


# Round trips.


def round_trips(rounds: int, count: int) -> dict[str, list[float]]:
    """Seconds of a small message to the data port of a worker and back, and of one to a bare end.

    Args:
        rounds: of all in turn.
        count: of each in a round.

    Returns:
        "worker", "worker_curve", "bare" and "bare_curve".
    """
    cores = [[core] for core in own_cores().workers]
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways: dict[str, Callable[[int], list[float]]] = {}
        for mark, encrypted in (("", False), ("_curve", True)):
            _, addresses, network = stack.enter_context(processes(_NAMES[:1], encrypted, "sleep"))
            ways[f"worker{mark}"] = _echoes(network, addresses[0])
            ways[f"bare{mark}"] = stack.enter_context(bare_pair(encrypted, cores[::-1])).round_trips_s
        for way in ways.values():
            way(20)
        for number in range(rounds):
            order = list(ways)
            for name in order if number % 2 == 0 else order[::-1]:
                found.setdefault(name, []).extend(ways[name](count))
    return found


def _echoes(network: Network, address: WorkerAddress) -> Callable[[int], list[float]]:
    """Round trips over a data connection to a worker."""
    endpoint = network.connect(address.data, "data", address.public_key)
    waiter = network.waiter([endpoint])
    until_s = time.monotonic() + WAIT_S
    while not any(event.kind == "connected" for event in endpoint.events()):
        if time.monotonic() > until_s:
            raise PeerTimeout(f"no connection to {address.data}")
        waiter.wait(1.0)

    def run(count: int) -> list[float]:
        found = []
        for token in range(count):
            message = encode(Echo(token, False))
            began_s = time.perf_counter()
            endpoint.send([message])
            while endpoint.receive() is None:
                if time.perf_counter() > began_s + WAIT_S:
                    raise PeerTimeout(f"no answer from {address.data}")
                waiter.wait(1.0)
            found.append(time.perf_counter() - began_s)
        return found

    return run
