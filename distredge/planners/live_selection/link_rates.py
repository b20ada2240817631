"""The rates of the moment, learnt from what the transfers of the frames themselves took.

Nothing is sent for it. The simulator says what the transfers of the same frame take at the rates known so far. Where
those of a pair of members took longer, or shorter, one of the two access links between them has changed. It is the one
over which the transfers of all pairs have changed; where that may be both, the one that limits them in the simulation.
Its rate is scaled by the time in which anything was on it, less what of that does not depend on the rate (fixed costs,
waiting for processors).

A rate is the exponentially weighted mean, of logarithms, of what frames tell. A link of which frames tell nothing falls
back to the rate of the cluster file by and by, so that a variant that was too slow once is tried again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from distredge.latency.costs.computers import access_of, computer_of
from distredge.planners.live_selection.pricing import REQUESTER_NAME, Transfer

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device, Link, Requester

WEIGHT: Final = 0.7
"""Of the latest frame in a link's mean. On the channel of `experiments/bench/selection.py`, simulated, 97.5 % of the
frames are in time with it, 95 % with 0.3, 96.5 % with 0.5, and no more with 0.85."""

FALL_BACK_S: Final = 30.0
"""In which the logarithm of what is known of a link of which nothing is told falls to a third (1 / e)."""

MOST_FACTOR: Final = 1e3
"""A rate is no further than this from that of the cluster file."""

ALIKE: Final = 1.25
"""What differs by less looks equal: changes of two links, or how much they limit their transfers."""

LEAST_SHARE: Final = 0.5
"""Of the time that a link is in use: where bytes take less of it, small changes tell nothing of its rate."""

GREAT_CHANGE: Final = 2.0
"""Of that time: one that tells something even then."""

MOST_RISE: Final = 4.0
"""By how many times a rate rises with one frame: what is left of a short time is not known well."""


class AccessLink(NamedTuple):
    """A computer's access to the network in one direction; all of them are one where they share the air."""

    owner: str
    way: Literal["up", "down", "air"]


Factors: TypeAlias = dict[AccessLink, float]


Pair: TypeAlias = tuple[str, str]
"""Source and destination."""


class _Use(NamedTuple):
    """What one frame did with a link: seconds in which anything was on it, and seconds for its bits at a rate."""

    busy_s: float
    wire_s: float

    @property
    def share(self) -> float:
        return self.wire_s / self.busy_s if self.busy_s > 0 else 0.0


class LinkRates:
    """The access links of a cluster.

    Args:
        cluster: with the rates to begin with; of a link that varies, the mean.

    Attributes:
        factors: what is known: times the rate of the cluster file.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._file = cluster
        self._members: dict[str, Device | Requester] = {device.name: device for device in cluster.devices}
        self._members[REQUESTER_NAME] = cluster.requester
        self.factors: Factors = {}
        self._learnt_s: dict[AccessLink, float] = {}

    def cluster(self, factors: Mapping[AccessLink, float] | None = None) -> Cluster:
        """Returns the cluster at the rates of the moment, or at others."""
        given = self.factors if factors is None else factors
        devices = tuple(
            replace(d, uplink=self._link(d, d.uplink, "up", given), downlink=self._link(d, d.downlink, "down", given))
            for d in self._file.devices
        )
        asks = self._file.requester
        requester = replace(
            asks,
            uplink=self._link(asks, asks.uplink, "up", given),
            downlink=self._link(asks, asks.downlink, "down", given),
        )
        return replace(self._file, devices=devices, requester=requester)

    def fall_back(self, now_s: float) -> None:
        """Lets what is known of links of which nothing is told fade; time in seconds of any clock."""
        for link, learnt_s in self._learnt_s.items():
            if now_s > learnt_s:
                self.factors[link] **= math.exp(-(now_s - learnt_s) / FALL_BACK_S)
                self._learnt_s[link] = now_s

    def observe(self, measured: Sequence[Transfer], predicted: Sequence[Transfer], now_s: float) -> Factors:
        """Learns from a frame.

        Args:
            measured: its transfers.
            predicted: the same at the rates known so far.
            now_s: the time now.

        Returns:
            What the frame alone tells of the links that it used, what is known of the others.
        """
        found, expected = self._uses(measured), self._uses(predicted)
        moment = dict(self.factors)
        changed = self._changed(measured, predicted, expected)
        for link in changed:
            moment[link] = self._told(found[link], expected[link]) * self._factor(link)
        for link in found:
            if link not in changed and (link not in expected or expected[link].share < LEAST_SHARE):
                # It would have taken about as long at another rate.
                continue
            mean = math.exp((1.0 - WEIGHT) * math.log(self._factor(link)) + WEIGHT * math.log(moment.get(link, 1.0)))
            self.factors[link] = min(MOST_FACTOR, max(1.0 / MOST_FACTOR, mean))
            self._learnt_s[link] = now_s
        return moment

    def _factor(self, link: AccessLink) -> float:
        return self.factors.get(link, 1.0)

    def _told(self, use: _Use, expected: _Use) -> float:
        """By how much the rate of a link has changed."""
        if expected.share < LEAST_SHARE and use.busy_s < GREAT_CHANGE * expected.busy_s:
            return 1.0
        fixed_s = max(0.0, expected.busy_s - expected.wire_s)
        return 1.0 / max(1.0 / MOST_RISE, (use.busy_s - fixed_s) / expected.wire_s)

    def _changed(
        self, measured: Sequence[Transfer], predicted: Sequence[Transfer], expected: Mapping[AccessLink, _Use]
    ) -> set[AccessLink]:
        """The links that account for pairs whose transfers took longer or shorter than predicted."""
        took_s, should_s = _by_pair(measured), _by_pair(predicted)
        pairs = {
            pair: math.log(seconds / should_s[pair])
            for pair, seconds in took_s.items()
            if seconds > 0 and should_s.get(pair, 0.0) > 0
        }
        by_link: dict[AccessLink, list[float]] = defaultdict(list)
        for pair, change in pairs.items():
            for link in self._links(*pair):
                by_link[link].append(change)
        common = {link: _common(changes) for link, changes in by_link.items()}
        changed: set[AccessLink] = set()
        for pair in pairs:
            links = self._links(*pair)
            most = max((abs(common[link]) for link in links), default=0.0)
            links = [link for link in links if abs(common[link]) > most - math.log(ALIKE)]
            limit = max((expected[link].share for link in links), default=0.0)
            changed |= {link for link in links if common[link] != 0.0 and expected[link].share * ALIKE >= limit}
        return changed

    def _uses(self, transfers: Iterable[Transfer]) -> dict[AccessLink, _Use]:
        """Of each link, at the rates known so far."""
        spans: dict[AccessLink, list[tuple[float, float]]] = defaultdict(list)
        wire_s: dict[AccessLink, float] = defaultdict(float)
        for transfer in transfers:
            for link in self._links(transfer.source, transfer.destination):
                spans[link].append((transfer.start_s, transfer.stop_s))
                wire_s[link] += self._wire_s(link, transfer)
        return {link: _Use(_union_s(found), wire_s[link]) for link, found in spans.items()}

    def _links(self, source: str, destination: str) -> list[AccessLink]:
        """The access links whose rates matter between two members; none where both are one computer."""
        sends, gets = self._members[source], self._members[destination]
        if computer_of(self._file, sends) == computer_of(self._file, gets):
            return []
        up, down = access_of(self._file, sends), access_of(self._file, gets)
        ways: list[AccessLink] = []
        if up.uplink.rate_bps:
            ways.append(self._access(up, "up"))
        if down.downlink.rate_bps:
            ways.append(self._access(down, "down"))
        return list(dict.fromkeys(ways))

    def _wire_s(self, link: AccessLink, transfer: Transfer) -> float:
        """Seconds that the bits of a transfer occupy a link."""
        bits = 8.0 * transfer.size_bytes / self._factor(link)
        up = access_of(self._file, self._members[transfer.source]).uplink.rate_bps
        down = access_of(self._file, self._members[transfer.destination]).downlink.rate_bps
        rates = {"up": (up,), "down": (down,), "air": (up, down)}[link.way]
        return sum(bits / rate for rate in rates if rate)

    def _access(self, owner: Device | Requester, way: Literal["up", "down"]) -> AccessLink:
        if self._file.shared_medium:
            return AccessLink("", "air")
        return AccessLink(REQUESTER_NAME if owner is self._file.requester else owner.name, way)

    def _link(
        self, member: Device | Requester, link: Link, way: Literal["up", "down"], factors: Mapping[AccessLink, float]
    ) -> Link:
        if not link.rate_bps:
            return link
        factor = factors.get(self._access(access_of(self._file, member), way), 1.0)
        return replace(link, rate_bps=factor * link.rate_bps, trace=None)


def _union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    total_s, until_s = 0.0, -math.inf
    for start_s, stop_s in sorted(spans):
        total_s += max(0.0, stop_s - max(start_s, until_s))
        until_s = max(until_s, stop_s)
    return total_s


def _by_pair(transfers: Iterable[Transfer]) -> dict[Pair, float]:
    """Seconds that the transfers of each pair took, one after the other."""
    seconds: dict[Pair, float] = defaultdict(float)
    for transfer in transfers:
        seconds[transfer.source, transfer.destination] += transfer.stop_s - transfer.start_s
    return seconds


def _common(changes: Sequence[float]) -> float:
    """What all changes have at least in common: the smallest if all are of one sign, else nothing."""
    least, most = min(changes), max(changes)
    return max(0.0, least) + min(0.0, most)
