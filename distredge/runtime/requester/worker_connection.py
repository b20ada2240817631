"""One worker as the coordinator sees it, and what the owner of the connections does with what comes in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

from distredge.device_sample import DeviceSample
from distredge.errors import ExecutionError
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import About, FrameFailed, Ping, Pong, ToCoordinator
from distredge.runtime.protocol.row_messages import Rows
from distredge.runtime.protocol.transport import Endpoint
from distredge.runtime.requester.clock_offsets import ClockOffsets
from distredge.runtime.requester.leases import HeldBy

ASKED_KEPT: Final = 64
"""Pings without an answer that are remembered: on a slow link answers wait behind constants."""


class WorkerConnection:
    """One worker as the coordinator sees it.

    Attributes:
        about: what it said of itself, once greeted.
        data: endpoint to its data port, once greeted.
        session: what only this requester and that worker know: it says whose data connection is whose.
        dialled: the address that `data` connects to.
        stands: whether both planes are up, in both directions.
        trouble: why not, as far as known.
        fatal: an error that waiting does not mend.
        ours: whether its lease is this coordinator's, as far as known, though it may have to be greeted again.
        held: by whom else it is held, until it is greeted again; `held_before` as it said last.
        heard_s: when anything came in from it last (monotonic).
        asked: token of a ping -> when it was sent (monotonic nanoseconds); of the latest ones.
        clock: its clock against this process's.
        latest: how it was last, and when that came in (monotonic nanoseconds).
        answers: kind of answer -> the latest, and when it came in (monotonic nanoseconds).
    """

    def __init__(self, address: WorkerAddress, control: Endpoint) -> None:
        self.address = address
        self.session = os.urandom(16)
        self.control = control
        self.data: Endpoint | None = None
        self.dialled = ""
        self.about: About | None = None
        self.wanted = False
        self.linked = False
        self.greeting = False
        self.greet_again_s = 0.0
        self.ours = False
        self.held: HeldBy | None = None
        self.held_before: HeldBy | None = None
        self.greeted = False
        self.echoed = False
        self.trouble = ""
        self.fatal: ExecutionError | None = None
        self.heard_s = 0.0
        self.asked: dict[int, int] = {}
        self.clock = ClockOffsets()
        self.latest: tuple[Pong, int] | None = None
        self.answers: dict[type, tuple[ToCoordinator, int]] = {}

    @property
    def name(self) -> str:
        """The worker's name."""
        return self.address.name

    @property
    def stands(self) -> bool:
        """Whether it can be given work."""
        return self.greeted and self.echoed

    @property
    def dynamic_rows(self) -> bool:
        """Whether it is given sub-models whose row axes are dynamic."""
        return self.about is not None and self.about.dynamic_rows

    @property
    def data_address(self) -> str:
        """Where its data port is."""
        if self.address.data.endswith(":0") and self.about is not None:
            port = self.about.data_endpoint.rpartition(":")[2]
            return self.address.data[:-1] + (port if port.isdecimal() else "0")
        return self.address.data

    def for_others(self) -> PeerAddress:
        """Its data address as other workers need it."""
        return PeerAddress(self.name, self.data_address, self.address.public_key)

    def ask(self, token: int, now_ns: int) -> Ping:
        """What to ask for a sign of life with; the answer then says how the clocks stand."""
        while len(self.asked) >= ASKED_KEPT:
            del self.asked[next(iter(self.asked))]
        self.asked[token] = now_ns
        return Ping(token)

    def pong(self, message: Pong, came_ns: int) -> None:
        """Takes in how it is, and what that says of its clock."""
        sent_ns = self.asked.pop(message.token, None)
        if sent_ns is None:
            return
        self.clock.add(sent_ns, message.heard_ns, message.clock_ns, came_ns)
        self.latest = (message, came_ns)

    def forget_clock(self) -> None:
        """Forgets how the clocks stand."""
        self.asked.clear()
        self.clock.clear()

    def sample(self) -> DeviceSample | None:
        """How it was last; None before its first answer. Called by any thread."""
        if self.latest is None:
            return None
        (pong, came_ns), load = self.latest, self.latest[0].load
        offset = self.clock.at(came_ns)
        return DeviceSample(
            self.name,
            pong.clock_ns / 1e9,
            came_ns / 1e9,
            load.state,
            load.frames,
            load.open_frames,
            load.queued,
            load.busy_ns / 1e9,
            load.received_bytes,
            load.sent_bytes,
            load.temperature_c,
            sum(pong.dropped.values()),
            None if offset is None else offset.offset_ns / 1e9,
            None if offset is None else offset.error_ns / 1e9,
        )

    def told(self) -> str:
        """Which it is, where it is looked for, and what is known of why it does not stand."""
        where = self.data_address if self.greeted else self.address.control
        return f"'{self.name}' at {where}" + (f" ({self.trouble})" if self.trouble else "")


class Handler(Protocol):
    """What the owner of the connections does with what comes in."""

    def control_message(self, worker: WorkerConnection, message: ToCoordinator) -> bool:
        """A control message that is none of the connections' own business; whether it makes sense."""

    def data_message(self, worker: WorkerConnection, message: Rows | FrameFailed, frames: Sequence[Bytes]) -> None:
        """Rows of a result, or the report that there will be none."""

    def lost(self, worker: WorkerConnection, reason: str) -> None:
        """A worker that stood does no longer."""

    def taken(self, worker: WorkerConnection, holder: str) -> None:
        """Somebody else has taken a worker over."""
