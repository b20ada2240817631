"""What goes into the pace tables for a strategy: seconds of its parts, costs of its messages, all dilated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from distredge.latency import evaluate
from distredge.latency.costs.computers import access_of, has_spare_core
from distredge.latency.simulator.simulation import part_seconds
from distredge.model.layout import REQUESTER
from distredge.profiles.compute import THIS_MACHINE, load_profile
from distredge.profiles.schema import Copy, Handling
from distredge.testbed.pace_table import (
    DELAY,
    DELAY_BYTE,
    HERE_RECEIVE_BYTE,
    HERE_RECEIVE_FIXED,
    HERE_SEND_BYTE,
    HERE_SEND_FIXED,
    PACE,
    PACED,
    REAL,
    RECEIVE_BYTE,
    RECEIVE_FIXED,
    SEND_BYTE,
    SEND_FIXED,
    SETTINGS,
    WIRE_BYTE,
    PaceTable,
    check_size,
)
from distredge.testbed.pace_table import TOLERANCE as TOLERANCE_S
from distredge.testbed.places import requester_profile, together

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distredge.cluster import Cluster, Device, Link, Requester
    from distredge.problem import Problem
    from distredge.runtime.deployment import Deployment

TOLERANCE: Final = 0.01
"""Share of the predicted latency by which a part may be late: less than what measuring it twice differs by."""

_BITS: Final = 8.0
_NOTHING: Final = Copy()


class Paces:
    """Fills the tables of a cluster's boards and of its requester.

    Args:
        problem: the model, and the cluster as it is to be emulated.
        deployment: of the strategy that is to run.
        encrypted: whether messages are.
        paced: whether parts and messages take the profiles' time; else only delays on the way are added.
    """

    def __init__(self, problem: Problem, deployment: Deployment, encrypted: bool, paced: bool) -> None:
        self._problem, self._deployment = problem, deployment
        self._cluster: Cluster = problem.cluster
        self._encrypted, self._paced = encrypted, paced
        layout = deployment.layout
        check_size(len(layout.stages) + 1, len(layout.devices))
        self._seconds: Mapping[tuple[int, int], float] = {}
        if paced:
            self._seconds = part_seconds(problem, layout)
        self.tolerance_s = TOLERANCE * evaluate(problem, deployment.strategy) if paced else 0.0
        self._here = load_profile(THIS_MACHINE).messages

    def parts(self, device: int) -> dict[int, float]:
        """Returns stage -> undilated seconds of a device's parts."""
        return {stage: seconds for (stage, who), seconds in self._seconds.items() if who == device}

    def fill(self, table: PaceTable, device: int, dilation: float) -> None:
        """Fills the table, (ROWS, COLUMNS) float64, of one device of the strategy, or of the requester (-1)."""
        table[PACE] = table[REAL] = table[DELAY] = table[DELAY_BYTE] = table[WIRE_BYTE] = 0.0
        table[SETTINGS] = 0.0
        table[SETTINGS, PACED] = float(self._paced)
        table[SETTINGS, TOLERANCE_S] = self.tolerance_s * dilation
        for stage, seconds in self.parts(device).items():
            table[PACE, stage] = seconds * dilation
        if self._paced:
            self._fill_handling(table, device, dilation)
        for source in range(REQUESTER, len(self._deployment.devices)):
            if source != device:
                self._fill_way(table, source, device, dilation)

    def _fill_handling(self, table: PaceTable, device: int, dilation: float) -> None:
        settings = table[SETTINGS]
        spare = has_spare_core(self._cluster, self._member(device))
        for end, at, here_at in (
            (self._handling(device, "send"), (SEND_FIXED, SEND_BYTE), (HERE_SEND_FIXED, HERE_SEND_BYTE)),
            (self._handling(device, "receive"), (RECEIVE_FIXED, RECEIVE_BYTE), (HERE_RECEIVE_FIXED, HERE_RECEIVE_BYTE)),
        ):  # fmt: skip
            parts = (end.own,) if spare else (end.own, self._io(end))
            settings[at[0]] = dilation * sum(part.fixed_s for part in parts)
            settings[at[1]] = dilation * sum(part.s_per_byte for part in parts)
            # A message is packed before it is held, and placed after it: only what comes after is taken off.
            sending = at[0] == SEND_FIXED
            here: tuple[Copy, ...] = (_NOTHING if sending else self._here.receive.own,)
            if not spare:
                here = (*here, self._io(self._here.send if sending else self._here.receive))
            settings[here_at[0]] = sum(part.fixed_s for part in here)
            settings[here_at[1]] = sum(part.s_per_byte for part in here)

    def _fill_way(self, table: PaceTable, source: int, device: int, dilation: float) -> None:
        """What a message spends between two threads: on links that the kernel does not emulate, and in io threads."""
        fixed_s = per_byte_s = 0.0
        if not together(self._cluster, self._name(source), self._name(device)):
            up, down = self._links(source)[0], self._links(device)[1]
            fixed_s = dilation * (up.fixed_s + down.fixed_s)
            rates = [link.rate_bps for link in (up, down) if link.rate_bps is not None]
            if rates and up.trace is None and down.trace is None:
                table[WIRE_BYTE, source + 1] = dilation * _BITS / min(rates)
        if self._paced:
            for end, kind in ((source, "send"), (device, "receive")):
                if not has_spare_core(self._cluster, self._member(end)):
                    continue
                there = self._io(self._handling(end, kind))
                here = self._io(self._here.send if kind == "send" else self._here.receive)
                fixed_s += dilation * there.fixed_s - here.fixed_s
                per_byte_s += dilation * there.s_per_byte - here.s_per_byte
        table[DELAY, source + 1] = max(0.0, fixed_s)
        table[DELAY_BYTE, source + 1] = max(0.0, per_byte_s)

    def _handling(self, device: int, kind: str) -> Handling:
        name = self._name(device)
        profile = requester_profile(self._cluster) if name is None else self._cluster.device(name).profile
        if profile is None:
            return Handling()
        return profile.messages.send if kind == "send" else profile.messages.receive

    def _io(self, end: Handling) -> Copy:
        return end.io_encrypted if self._encrypted else end.io

    def _links(self, device: int) -> tuple[Link, Link]:
        who = access_of(self._cluster, self._member(device))
        return who.uplink, who.downlink

    def _member(self, device: int) -> Device | Requester:
        name = self._name(device)
        return self._cluster.requester if name is None else self._cluster.device(name)

    def _name(self, device: int) -> str | None:
        return None if device == REQUESTER else self._deployment.devices[device]
