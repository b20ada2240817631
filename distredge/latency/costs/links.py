"""Access links as the cost model sees them: rates that may vary in time, and who shares them.

Every device reaches the network over an uplink and a downlink. Messages of one ordered pair of boards use one
connection and follow each other on it. Under `independent` a connection gets the smaller of its two link rates; under
`shared` the connections that are in use share every access link max-min fair, and with a shared medium (Wi-Fi) also
its airtime: a bit from a to b occupies the medium for 1 / (a's uplink rate) + 1 / (b's downlink rate) seconds, and the
stations get equal rates, not equal airtime (Heusse et al., "Performance anomaly of 802.11b", INFOCOM 2003).

What messages cost the processor stands here too (`End`), because the link model decides it. Under `independent` packing
and encrypting, decrypting and placing lie on a message's way and disturb nobody: the papers' assumption. Under `shared`
they take the time of the thread that computes: its own share of them always, the transport's where the computer has no
core to spare for it; with a spare one the latter lies on the message's way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.errors import Infeasible
from distredge.latency.costs.computers import access_of, computer_of, first_of_each, has_spare_core

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device, Link, Requester
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.schema import Handling

_PERIODS_WITHOUT_A_BIT = 10_000

Seconds = tuple[float, ...]
"""Of every device in a strategy's order, and the requester last."""


class Rate:
    """Bits per second of one access link over time.

    Args:
        link: the link; no rate means unbounded.
        start_s: time on the link's trace at which the simulation's zero lies.
    """

    def __init__(self, link: Link, start_s: float = 0.0) -> None:
        self.constant: float | None = math.inf if link.rate_bps is None else link.rate_bps
        self.mean_bps = self.constant if link.trace is None else link.trace.mean_bps
        if link.trace is None:
            return
        self.constant = None
        self._times = link.trace.times_s.tolist()
        self._rates = link.trace.rates_bps.tolist()
        self._period = link.trace.period_s
        self._start = start_s
        # Where the last question was answered: time goes forward, so the next answer is there or soon after.
        self._period_at = math.floor(start_s / self._period)
        self._row = 0

    def piece(self, time_s: float) -> tuple[float, float]:
        """Returns the rate from `time_s` on and the time at which it changes next (infinite for a constant)."""
        if self.constant is not None:
            return self.constant, math.inf
        period, row = self._period_at, self._row
        if self._time(period, row) > time_s:
            period, row = math.floor((time_s + self._start) / self._period) - 1, 0
        while True:
            after = (period, row + 1) if row + 1 < len(self._times) else (period + 1, 0)
            change_s = self._time(*after)
            if change_s > time_s:
                self._period_at, self._row = period, row
                return self._rates[row], change_s
            period, row = after

    def _time(self, period: int, row: int) -> float:
        return float(period * self._period + self._times[row] - self._start)


def finish(up: Rate, down: Rate, start_s: float, bits: float) -> float:
    """Returns when a transfer ends that has both links to itself, at the smaller of their rates at every instant.

    Infinite when nothing gets through in thousands of periods of the traces.
    """
    if up.constant is not None and down.constant is not None:
        rate = min(up.constant, down.constant)
        if bits == 0:
            return start_s
        return start_s + bits / rate if rate > 0 else math.inf
    now, left, idle = start_s, bits, 0
    while left > 0:
        (rate_up, change_up), (rate_down, change_down) = up.piece(now), down.piece(now)
        rate, change = min(rate_up, rate_down), min(change_up, change_down)
        if math.isinf(rate) or left <= rate * (change - now):
            return now + left / rate
        idle = idle + 1 if rate == 0 else 0
        if idle > _PERIODS_WITHOUT_A_BIT:
            return math.inf
        left -= rate * (change - now)
        now = change
    return now


@dataclass(frozen=True)
class End:
    """What a message of so many bytes costs at one end, each fixed_s + s_per_byte * bytes.

    Attributes:
        busy_fixed_s, busy_s_per_byte: time of the thread that computes.
        way_fixed_s, way_s_per_byte: time on the message's way that disturbs nobody.
        busy_s_per_packed_byte: further time of the thread that computes, for each byte of float32 that is packed or
            comes of unpacking.
    """

    busy_fixed_s: float = 0.0
    busy_s_per_byte: float = 0.0
    way_fixed_s: float = 0.0
    way_s_per_byte: float = 0.0
    busy_s_per_packed_byte: float = 0.0

    def busy_s(self, size_bytes: float, packed_bytes: float = 0.0) -> float:
        """Seconds that the device does not compute."""
        plain_s = self.busy_fixed_s + self.busy_s_per_byte * size_bytes
        return plain_s + self.busy_s_per_packed_byte * packed_bytes

    def way_s(self, size_bytes: float) -> float:
        """Seconds between that and the connection, at the receiving end the other way round."""
        return self.way_fixed_s + self.way_s_per_byte * size_bytes

    def total_s(self, size_bytes: float) -> float:
        """Seconds that this end adds to the way of a message that waits for nothing."""
        return self.busy_s(size_bytes) + self.way_s(size_bytes)


@dataclass(frozen=True)
class ClusterLinks:
    """Links and message costs of a strategy's devices, in its order, with the requester last (index -1).

    Attributes:
        names: device names, then the requester's.
        up, down: access links; members of one computer have one.
        fixed_up_s, fixed_down_s: fixed cost per message at the sending and the receiving end of what crosses a link.
        sends, receives: what messages cost the processor at either end.
        computer: equal for members of one computer: the place of the first of them, the requester's is n.
        shared: whether connections share the access links.
        medium: whether they share one medium as well.
    """

    names: tuple[str, ...]
    up: tuple[Rate, ...]
    down: tuple[Rate, ...]
    fixed_up_s: Seconds
    fixed_down_s: Seconds
    sends: tuple[End, ...]
    receives: tuple[End, ...]
    computer: tuple[int, ...]
    shared: bool
    medium: bool

    @classmethod
    def of(cls, cluster: Cluster, devices: Sequence[str], start_s: float = 0.0) -> ClusterLinks:
        """Takes the devices of a strategy out of a cluster.

        Args:
            cluster: the cluster.
            devices: names in slab order.
            start_s: time on the traces at which the first frame starts.

        Raises:
            ClusterError: if a device is not in the cluster.
        """
        members: list[Device | Requester] = [*(cluster.device(name) for name in devices), cluster.requester]
        accesses = [access_of(cluster, member) for member in members]
        computer = first_of_each([computer_of(cluster, member) for member in members])
        up = [Rate(access.uplink, start_s) for access in accesses]
        down = [Rate(access.downlink, start_s) for access in accesses]
        return cls(
            names=(*devices, cluster.requester.name),
            up=tuple(up[first] for first in computer),
            down=tuple(down[first] for first in computer),
            fixed_up_s=tuple(access.uplink.fixed_s for access in accesses),
            fixed_down_s=tuple(access.downlink.fixed_s for access in accesses),
            sends=tuple(_end(cluster, member, sending=True) for member in members),
            receives=tuple(_end(cluster, member, sending=False) for member in members),
            computer=computer,
            shared=cluster.link_model == "shared",
            medium=cluster.shared_medium,
        )

    def crosses(self, source: int, destination: int) -> bool:
        """Whether what goes from one to the other crosses a link: not within one computer."""
        return self.computer[source] != self.computer[destination]

    def is_free(self, source: int, destination: int) -> bool:
        """Whether what goes from one to the other costs nothing at all."""
        return source == destination or not (self.shared or self.crosses(source, destination))

    def fixed_s(self, source: int, destination: int) -> float:
        """Fixed seconds of one message on the way."""
        return self.fixed_up_s[source] + self.fixed_down_s[destination] if self.crosses(source, destination) else 0.0

    def refuse(self, source: int, destination: int, size_bytes: int) -> Infeasible:
        """The error about a connection over which nothing gets."""
        a, b = self.names[source], self.names[destination]
        return Infeasible(
            f"no transfer from '{a}' to '{b}' is possible: the uplink of '{a}' or the downlink of '{b}' is down "
            f"(rate 0), and the strategy sends {size_bytes} bytes there"
        )


def _end(cluster: Cluster, member: Device | Requester, *, sending: bool) -> End:
    """What a message costs at one end."""
    profile = _profile(cluster, member)
    if cluster.link_model == "independent":
        if profile is None or member is cluster.requester:
            return End()
        crypt = profile.encrypt_s_per_byte if cluster.encrypted else 0.0
        return End(way_fixed_s=profile.copy_fixed_s, way_s_per_byte=profile.copy_s_per_byte + crypt)
    if profile is None:
        return End()
    handling: Handling = profile.messages.send if sending else profile.messages.receive
    own, io = handling.own, handling.io_encrypted if cluster.encrypted else handling.io
    packing = profile.messages.compress_s_per_byte if sending else profile.messages.expand_s_per_byte
    if has_spare_core(cluster, member):
        return End(own.fixed_s, own.s_per_byte, io.fixed_s, io.s_per_byte, packing)
    return End(own.fixed_s + io.fixed_s, own.s_per_byte + io.s_per_byte, busy_s_per_packed_byte=packing)


def _profile(cluster: Cluster, member: Device | Requester) -> ComputeProfile | None:
    """Whose figures a member's messages cost; the requester without a profile has its device's."""
    if member.profile is None and cluster.requester.device is not None:
        return cluster.device(cluster.requester.device).profile
    return member.profile


def max_min(
    flows: Sequence[tuple[int, ...]], weights: Sequence[tuple[float, ...]], capacities: Sequence[float]
) -> list[float]:
    """Max-min fair rates by progressive filling: all grow alike until a resource is full, the others then go on.

    Args:
        flows: resources that each flow uses.
        weights: how much of each of them one unit of rate takes, same shape.
        capacities: of each resource; may be infinite.

    Returns:
        Rate of each flow; infinite for one that only unbounded resources carry.
    """
    rates = [math.inf] * len(flows)
    left = list(capacities)
    growing = set(range(len(flows)))
    while growing:
        load: dict[int, float] = {}
        for flow in growing:
            for resource, weight in zip(flows[flow], weights[flow], strict=True):
                load[resource] = load.get(resource, 0.0) + weight
        level, tight = min(((max(0.0, left[r]) / w, r) for r, w in load.items() if w > 0), default=(math.inf, -1))
        if math.isinf(level):
            break
        for flow in [f for f in growing if tight in flows[f] and weights[f][flows[f].index(tight)] > 0]:
            growing.remove(flow)
            rates[flow] = level
            for resource, weight in zip(flows[flow], weights[flow], strict=True):
                left[resource] -= weight * level
    return rates
