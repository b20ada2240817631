"""Access links as the cost model sees them: rates that may vary in time, and who shares them.

Every device reaches the network over an uplink and a downlink. Messages of one ordered pair of boards use one
connection and follow each other on it. Under `independent` a connection gets the smaller of its two link rates; under
`shared` the connections that are in use share every access link max-min fair, and with a shared medium (Wi-Fi) also
its airtime: a bit from a to b occupies the medium for 1 / (a's uplink rate) + 1 / (b's downlink rate) seconds, and the
stations get equal rates, not equal airtime (Heusse et al., "Performance anomaly of 802.11b", INFOCOM 2003).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distredge.errors import Infeasible

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Link

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
class ClusterLinks:
    """Links and message costs of a strategy's devices, in its order, with the requester last (index -1).

    Attributes:
        names: device names, then the requester's.
        up, down: access links; the requester on a device's board has that board's.
        fixed_up_s, fixed_down_s: fixed cost per message at the sending and the receiving end.
        copy_fixed_s, copy_s_per_byte: packing and placing, each end; 0 for the requester.
        crypt_s_per_byte: encryption and decryption, each end; 0 when the cluster does not encrypt.
        board: index of the device that is the requester's board; None when it has its own.
        shared: whether connections share the access links.
        medium: whether they share one medium as well.
    """

    names: tuple[str, ...]
    up: tuple[Rate, ...]
    down: tuple[Rate, ...]
    fixed_up_s: Seconds
    fixed_down_s: Seconds
    copy_fixed_s: Seconds
    copy_s_per_byte: Seconds
    crypt_s_per_byte: Seconds
    board: int | None
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
        chosen = [cluster.device(name) for name in devices]
        board = devices.index(cluster.requester.device) if cluster.requester.device in devices else None
        home = cluster.requester if cluster.requester.device is None else cluster.device(cluster.requester.device)
        uplinks = [*(d.uplink for d in chosen), home.uplink]
        downlinks = [*(d.downlink for d in chosen), home.downlink]
        up, down = [Rate(link, start_s) for link in uplinks], [Rate(link, start_s) for link in downlinks]
        if board is not None:
            up[-1], down[-1] = up[board], down[board]
        return cls(
            names=(*devices, cluster.requester.name),
            up=tuple(up),
            down=tuple(down),
            fixed_up_s=tuple(link.fixed_s for link in uplinks),
            fixed_down_s=tuple(link.fixed_s for link in downlinks),
            copy_fixed_s=(*(d.profile.copy_fixed_s for d in chosen), 0.0),
            copy_s_per_byte=(*(d.profile.copy_s_per_byte for d in chosen), 0.0),
            crypt_s_per_byte=(*(d.profile.encrypt_s_per_byte if cluster.encrypted else 0.0 for d in chosen), 0.0),
            board=board,
            shared=cluster.link_model == "shared",
            medium=cluster.shared_medium,
        )

    def same_board(self, source: int, destination: int) -> bool:
        """Whether what goes from one to the other stays on its board and costs nothing."""
        if source == destination:
            return True
        return self.board is not None and {source, destination} == {self.board, -1}

    def pack_s(self, source: int, size_bytes: int) -> float:
        """Seconds between the end of computing and the start of sending: packing and encrypting."""
        per_byte = self.copy_s_per_byte[source] + self.crypt_s_per_byte[source]
        return self.copy_fixed_s[source] + per_byte * size_bytes

    def fixed_s(self, source: int, destination: int) -> float:
        """Fixed seconds of one message on the way."""
        return self.fixed_up_s[source] + self.fixed_down_s[destination]

    def place_s(self, destination: int, size_bytes: int) -> float:
        """Seconds between the last bit's arrival and the rows being in place: decrypting and placing."""
        per_byte = self.copy_s_per_byte[destination] + self.crypt_s_per_byte[destination]
        return self.copy_fixed_s[destination] + per_byte * size_bytes

    def refuse(self, source: int, destination: int, size_bytes: int) -> Infeasible:
        """The error about a connection over which nothing gets."""
        a, b = self.names[source], self.names[destination]
        return Infeasible(
            f"no transfer from '{a}' to '{b}' is possible: the uplink of '{a}' or the downlink of '{b}' is down "
            f"(rate 0), and the strategy sends {size_bytes} bytes there"
        )


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
