"""Links under load: do transfers between different pairs slow each other down, and how does a rate change over time?"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from distredge.errors import AuthError, ExecutionError, ProtocolError
from distredge.runtime.links.one_link import TIMEOUT_S, measure_between, measure_link
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.messages import MAX_ECHOES
from distredge.runtime.protocol.transport import Network

FLOW_BYTES: Final = 1_048_576
"""Content of a message while flows run at the same time."""

_SEPARATE: Final = 0.85
"""Share of its lone rate that a transfer keeps at least where the medium is not shared."""


@dataclass(frozen=True)
class Flow:
    """Messages that go one way between two ends.

    Attributes:
        source: the worker that sends; None is this program.
        target: the worker that receives.
        back: the other way round, which only this program can ask for: from `target` to here.
    """

    source: WorkerAddress | None
    target: PeerAddress
    back: bool = False

    def names(self, requester: str) -> tuple[str, str]:
        """Returns the names of sender and receiver."""
        other = self.source.name if self.source is not None else requester
        return (self.target.name, other) if self.back else (other, self.target.name)

    def measure(
        self, network: Network, sizes: Sequence[int], repeats: int, timeout_s: float
    ) -> tuple[tuple[float, ...], ...]:
        """Returns seconds there and back of each repeat, by size."""
        if self.source is None:
            return measure_link(network, self.target, sizes, repeats, timeout_s, back=self.back)
        return measure_between(network, self.source, self.target, sizes, repeats, timeout_s)


@dataclass(frozen=True)
class Together:
    """How flows do at the same time.

    Attributes:
        flows: what ran.
        alone_bps: (flows,) rate of each by itself, messages of one size, the answer's way included.
        together_bps: (flows,) rate of each beside the others.
    """

    flows: tuple[Flow, ...]
    alone_bps: tuple[float, ...]
    together_bps: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """What a flow keeps of its rate beside the others, mean; 1 / flows where they share one medium."""
        kept = [b / a for a, b in zip(self.alone_bps, self.together_bps, strict=True)]
        return sum(kept) / len(kept)

    @property
    def verdict(self) -> str:
        """`separate`, `shared`, or `partly shared` for what is neither."""
        if self.ratio >= _SEPARATE:
            return "separate"
        half_way = (1.0 + 1.0 / len(self.flows)) / 2
        return "shared" if self.ratio <= half_way else "partly shared"


def ring(addresses: Sequence[WorkerAddress], peers: Sequence[PeerAddress]) -> tuple[Flow, ...]:
    """Returns flows from here through all workers and back: every access link is used once in each direction.

    So what they take from each other is the medium's, not an access link's, unless one carries both directions in turn.
    """
    between = [Flow(addresses[i], peers[i + 1]) for i in range(len(peers) - 1)]
    return (Flow(None, peers[0]), *between, Flow(None, peers[-1], back=True))


def measure_together(
    network: Network,
    flows: Sequence[Flow],
    seconds: float = 1.0,
    size: int = FLOW_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Together:
    """Measures flows one after the other, and then all at once.

    Args:
        network: makes sockets.
        flows: what to measure; two of them from one worker would wait for each other.
        seconds: how long each phase lasts, roughly.
        size: bytes of a message.
        timeout_s: for each phase.

    Raises:
        PeerTimeout: if one is not reached or does not answer in time.
        ExecutionError: what a worker reports.
    """
    alone_s = []
    for flow in flows:
        first_s = median(flow.measure(network, (size,), 2, timeout_s)[0])
        repeats = max(2, min(MAX_ECHOES, math.ceil(seconds / len(flows) / first_s)))
        alone_s.append(median(flow.measure(network, (size,), repeats, timeout_s)[0]))
    # All run for about as long, so that most messages of each meet the others'.
    repeats_of = [max(3, min(MAX_ECHOES, math.ceil(seconds / each_s))) for each_s in alone_s]
    found = _all_at_once(
        [
            lambda flow=flow, repeats=repeats: flow.measure(network, (size,), repeats, timeout_s)[0]  # type: ignore[misc]
            for flow, repeats in zip(flows, repeats_of, strict=True)
        ]
    )
    bits = 8.0 * size
    return Together(tuple(flows), tuple(bits / s for s in alone_s), tuple(bits / median(times_s) for times_s in found))


def _all_at_once(actions: Sequence[Callable[[], tuple[float, ...]]]) -> list[tuple[float, ...]]:
    """Runs actions in threads that start together; returns their results or raises the first error."""
    results: list[tuple[float, ...]] = [()] * len(actions)
    errors: list[Exception] = []
    gate = threading.Barrier(len(actions))

    def work(place: int) -> None:
        gate.wait()
        try:
            results[place] = actions[place]()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(place,), name=f"flow-{place}") for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@dataclass(frozen=True)
class Moment:
    """A link at one time: seconds since the first, bits per second, seconds there and back of an empty message.

    A link that carried nothing in its time has rate 0.
    """

    time_s: float
    rate_bps: float
    rtt_s: float


def over_time(
    network: Network, flow: Flow, seconds: float, every_s: float, timeout_s: float = TIMEOUT_S
) -> Iterator[Moment]:
    """Measures a flow every so many seconds; yields as it goes.

    Messages are sized so that a measurement takes about a third of the time until the next one: it is a mean over that,
    and the link is left to others for the rest.

    Args:
        network: makes sockets.
        flow: what to measure.
        seconds: until when to go on.
        every_s: seconds from one measurement to the next; one that takes longer delays the next.
        timeout_s: after which the link counts as down.

    Raises:
        ExecutionError: if the first measurement does not succeed; later ones count as a link that is down.
    """
    size = 65_536
    first = time.monotonic()
    steps = max(1, math.ceil(seconds / every_s - 1e-9))
    for step in range(steps):
        time.sleep(max(0.0, first + step * every_s - time.monotonic()))
        begun_s = time.monotonic() - first
        try:
            empty, full = flow.measure(network, (0, size), 3, timeout_s)
        except ExecutionError as error:
            if step == 0 or isinstance(error, (ProtocolError, AuthError)):
                raise
            yield Moment(begun_s, 0.0, 0.0)
            continue
        # The answer comes back without content: its time is in the empty message's, too, and is half of all at most.
        whole_s = median(full)
        carried_s = max(whole_s - median(empty) / 2, whole_s / 2)
        rate_bps = 8.0 * size / carried_s
        yield Moment(begun_s, rate_bps, median(empty))
        size = int(min(max(rate_bps / 8 * every_s / 8, 16_384), 4_194_304))
