"""A worker's data plane: rows come in, stages run, rows go out. One thread does it all and owns the sockets.

Receiving, encrypting and sending happen in libzmq's own thread meanwhile; a thread of ours for each would only add
hand-overs to the way of every message.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from distredge.errors import EngineError, MediaError, ProtocolError, TransportError
from distredge.runtime.engine import lives
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.messages import (
    Attach,
    Echo,
    FrameFailed,
    Record,
    Situation,
    decode_on_data,
    echo_parts,
    encode,
)
from distredge.runtime.protocol.row_messages import (
    CONTENT,
    HEAD_BYTES,
    ROWS,
    Rows,
    VersionMismatch,
    read_head,
    write_head,
)
from distredge.runtime.protocol.security import REQUESTER_NAME
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received
from distredge.runtime.worker.loaded_plan import LoadedPlan, Peer
from distredge.runtime.worker.next_actions import AtHand, Report, Run, WorkerState

LOOK_S: Final = 1.0
"""Between two looks at the peers that rows are sent to."""

PEER_S: Final = 10.0
"""How long a plan waits for connections to the peers that it sends to."""

_log = logging.getLogger(__name__)


class AddPlan(NamedTuple):
    """Take a plan in, connect to its peers, and say so."""

    loaded: LoadedPlan


class RemovePlan(NamedTuple):
    """Forget a plan."""

    plan: int


class RedialPeer(NamedTuple):
    """Make the connection to another device of a plan anew."""

    plan: int
    device: int


class Stop(NamedTuple):
    """End."""


Instruction: TypeAlias = AddPlan | RemovePlan | RedialPeer | Stop


class PlanStands(NamedTuple):
    """A plan is ready for frames."""

    loaded: LoadedPlan


class PlanFails(NamedTuple):
    """A plan cannot be run, or not any more: a "peer" is not there, or the "engine" has come to its end."""

    plan: int
    kind: str
    reason: str


PlanOutcome: TypeAlias = PlanStands | PlanFails


class Computed(NamedTuple):
    """What the engine has done.

    Attributes:
        total_ns: computing, all stages that are done.
        since_ns: when the stage that runs began; 0 while none does.
        until_ns: when the latest one that is done ended; 0 before the first.
    """

    total_ns: int
    since_ns: int
    until_ns: int

    def busy_ns(self, now_ns: int) -> int:
        """Computing until now."""
        return self.total_ns + (max(0, now_ns - self.since_ns) if self.since_ns else 0)


@dataclass
class _Connecting:
    loaded: LoadedPlan
    until_s: float


class DataPlane:
    """Runs plans.

    Args:
        network: makes sockets.
        address: where to bind.

    Attributes:
        session: secret of the session that the worker serves, b"" without one; set by the control plane's thread.
        on_outcome: called when `outcomes` has something new; set before `run`.
        computed: replaced as a whole, so that another thread sees figures that belong together.
        received_bytes, sent_bytes: of rows, since the start.
    """

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self.endpoint = network.bind(address, "data")
        self.session = b""
        self.on_outcome: Callable[[], None] = _nothing
        self._route = b""
        self._bell = network.bell()
        self._instructions: deque[Instruction] = deque()
        self.outcomes: deque[PlanOutcome] = deque()
        self.dropped: Counter[str] = Counter()
        self.computed = Computed(0, 0, 0)
        self.received_bytes = self.sent_bytes = 0
        self._state = WorkerState()
        self._plans: dict[int, LoadedPlan] = {}
        self._connecting: list[_Connecting] = []
        self._peers: dict[PeerAddress, Peer] = {}
        self._awaited: list[Peer] = []
        self._waiter = network.waiter([self.endpoint], [self._bell])
        self._stopping = False

    def instruct(self, instruction: Instruction) -> None:
        """Leaves an instruction; called by any thread, and by handlers of signals."""
        self._instructions.append(instruction)
        self._bell.ring()

    def records(self, plan: int, since: int) -> tuple[Record, ...]:
        """What was done for frames from `since` on; called by another thread."""
        loaded = self._plans.get(plan)
        return tuple(Record(*r) for r in list(loaded.records) if r[1] >= since) if loaded is not None else ()

    def situation(self, plan: int, frame: int) -> Situation | None:
        """How far a frame has come; called by another thread."""
        return self._state.situation(plan, frame)

    @property
    def frames_done(self) -> int:
        """Frames of which nothing is left to compute here; called by another thread."""
        return self._state.frames_done

    def at_hand(self) -> AtHand:
        """What is begun and what could run now; called by another thread."""
        return self._state.at_hand()

    @property
    def plans(self) -> tuple[int, ...]:
        """Numbers of the plans that stand."""
        return tuple(self._plans)

    def run(self) -> None:
        """Works until it is told to stop."""
        only_rows: list[Endpoint] = [self.endpoint]
        look_at_s = 0.0
        while not self._stopping:
            ready = self._waiter.wait(0.05 if self._connecting else LOOK_S)
            now_s = time.monotonic()
            if ready != only_rows or self._connecting or now_s >= look_at_s:
                self._take_instructions()
                self._watch_peers()
                look_at_s = now_s + LOOK_S
            self._work()

    def _work(self) -> None:
        """Takes in what has come, runs what can run, until nothing is left to do."""
        receive, next_run = self.endpoint.receive, self._state.next_run
        while not self._stopping:
            received = receive()
            if received is not None:
                self._message(received)
                # What else has come is taken before something runs; where nothing can, waiting finds it.
                if next_run() is None:
                    return
                continue
            run = next_run()
            if run is None:
                return
            self._run(run)
            if next_run() is None:
                return
            if self._instructions or self._connecting:
                self._take_instructions()
                self._watch_peers()

    def _message(self, received: Received) -> None:
        head = received.parts[0] if received.parts else b""
        try:
            if len(head) >= HEAD_BYTES and head[CONTENT] == ROWS:
                self._rows(received, read_head(head))
                return
            message = decode_on_data(head)
        except VersionMismatch as error:
            self._drop("version", error)
            return
        except ProtocolError as error:
            self._drop("unreadable", error)
            return
        if isinstance(message, Echo) and not message.answer:
            self._answer(received.peer, message)
        elif isinstance(message, Attach):
            self._attach(received, message)
        else:
            self._drop("not for a worker", type(message).__name__)

    def _rows(self, received: Received, rows: Rows) -> None:
        # All of a message's way is here and not in functions of its own: each costs as much as copying 16 KiB of rows
        # while the caches hold what the engine has left in them.
        arrived_ns = time.monotonic_ns()
        source, stage, plan, frame, sent_ns = rows
        loaded = self._plans.get(plan)
        if loaded is None:
            self._drop("unknown plan", plan)
            return
        inbox = loaded.slots[0].inboxes.get((stage, source))
        if inbox is None:
            self._drop("not in the plan", (stage, source))
            return
        if received.user:
            sender = REQUESTER_NAME if source == REQUESTER else loaded.plan.devices[source]
            if received.user != sender:
                self._drop("imposter", f"'{received.user}' speaks as '{sender}'")
                return
        try:
            opened = inbox.open(received.parts)
        except ProtocolError as error:
            self._drop("not in the plan", error)
            return
        slot = self._state.rows_arrived(plan, frame, stage, source)
        if isinstance(slot, str):
            self._drop(slot, frame)
            return
        if slot:
            inbox = loaded.slots[slot].inboxes[stage, source]
        try:
            inbox.place(opened)
        except MediaError as error:
            self._report(self._state.picture_failed(plan, frame, str(error)[:2000]))
            return
        size_bytes = sum(map(len, received.parts)) - HEAD_BYTES
        self.received_bytes += size_bytes
        loaded.records.append(("receive", frame, stage, source, sent_ns, time.monotonic_ns(), arrived_ns, size_bytes))

    def _run(self, run: Run) -> None:
        plan, frame, slot, stage = run
        loaded = self._plans[plan]
        done_ns, _, until_ns = self.computed
        started_ns = time.monotonic_ns()
        self.computed = Computed(done_ns, started_ns, until_ns)
        try:
            loaded.runs[slot][stage]()
        except EngineError as error:
            self.computed = Computed(done_ns, 0, time.monotonic_ns())
            reason = f"stage {stage}: {error}"[:2000]
            self._report(self._state.stage_failed(run, reason))
            if not all(map(lives, loaded.models)):
                self._remove(plan)
                self._tell(PlanFails(plan, "engine", reason))
            return
        stopped_ns = time.monotonic_ns()
        self.computed = Computed(done_ns + stopped_ns - started_ns, 0, stopped_ns)
        loaded.records.append(("compute", frame, stage, REQUESTER, started_ns, stopped_ns, stopped_ns, 0))
        after = self._state.stage_done(run)
        for index in after.sends:
            self._send(loaded, frame, slot, index)
        for kept in after.keeps:
            loaded.slots[slot].keepers[kept, stage].keep()

    def _send(self, loaded: LoadedPlan, frame: int, slot: int, index: int) -> None:
        outbox = loaded.slots[slot].outboxes[index]
        message = outbox.message
        peer = loaded.routes[index]
        started_ns = time.monotonic_ns()
        try:
            pack = outbox.pack()
            sent_ns = time.monotonic_ns()
            write_head(pack.head, loaded.number, frame, message.stage, message.source, sent_ns)
            if peer is None:
                pack.tracker = self.endpoint.send(pack.frames, self._requester(), outbox.shared)
            else:
                pack.tracker = peer.endpoint.send(pack.frames, b"", outbox.shared)
        except NotConnected as error:
            self._report(self._state.send_failed(loaded.number, frame, message.destination, str(error)))
            return
        self.sent_bytes += pack.size_bytes
        times_ns = (started_ns, time.monotonic_ns(), sent_ns)
        loaded.records.append(("send", frame, message.stage, message.destination, *times_ns, pack.size_bytes))

    def _report(self, report: Report | None) -> None:
        if report is None:
            return
        _log.warning("frame %d: %s", report.frame, report.reason)
        device = self._plans[report.plan].plan.device
        message = FrameFailed(report.plan, report.frame, device, report.kind, report.reason)
        try:
            self.endpoint.send([encode(message)], self._requester())
        except NotConnected:
            self._drop("requester gone", report.frame)

    def _attach(self, received: Received, message: Attach) -> None:
        """Sends results over this connection from now on.

        Whoever knows the session's secret and has the requester's key is the requester: other workers, which may
        connect here too, have neither.
        """
        if received.user not in ("", REQUESTER_NAME):
            self._drop("imposter", f"'{received.user}' speaks as '{REQUESTER_NAME}'")
        elif not self.session or message.session != self.session:
            self._drop("another session", received.user)
        else:
            self._route = received.peer
            self._answer(received.peer, Echo(message.token, False))

    def _requester(self) -> bytes:
        if not self._route:
            raise NotConnected("the requester is not connected")
        return self._route

    def _answer(self, peer: bytes, message: Echo) -> None:
        content = echo_parts(message.answer_bytes)
        try:
            # Shared: what waits for somebody who does not read is no copy, and in the end the door is closed to them.
            self.endpoint.send([encode(Echo(message.token, True)), *content], peer, bool(content))
        except NotConnected:
            self._drop("requester gone", "echo")

    def _drop(self, why: str, detail: object) -> None:
        self.dropped[why] += 1
        _log.debug("dropped a message: %s: %s", why, detail)

    # Instructions and peers.

    def _take_instructions(self) -> None:
        while self._instructions:
            instruction = self._instructions.popleft()
            if isinstance(instruction, Stop):
                self._stopping = True
            elif isinstance(instruction, RemovePlan):
                self._remove(instruction.plan)
            elif isinstance(instruction, RedialPeer):
                self._redial(instruction)
            else:
                self._add(instruction.loaded)

    def _add(self, loaded: LoadedPlan) -> None:
        try:
            for address in loaded.plan.peers.values():
                if address not in self._peers:
                    endpoint = self._network.connect(address.endpoint, "data", address.public_key)
                    self._peers[address] = Peer(address, endpoint)
        except TransportError as error:
            self._remove(loaded.plan.plan)
            self._tell(PlanFails(loaded.plan.plan, "peer", str(error)))
            return
        self._plans[loaded.plan.plan] = loaded
        self._state.add(loaded.plan)
        addresses = [loaded.plan.peers.get(str(message.destination)) for message in loaded.plan.outgoing]
        loaded.routes = tuple(None if address is None else self._peers[address] for address in addresses)
        self._allow()
        self._rebuild()
        self._connecting.append(_Connecting(loaded, time.monotonic() + PEER_S))

    def _remove(self, plan: int) -> None:
        self._plans.pop(plan, None)
        self._state.remove(plan)
        self._connecting = [p for p in self._connecting if p.loaded.plan.plan != plan]
        wanted = {address for loaded in self._plans.values() for address in loaded.plan.peers.values()}
        for address in [a for a in self._peers if a not in wanted]:
            self._network.drop(self._peers.pop(address).endpoint)
        self._allow()
        self._rebuild()

    def _allow(self) -> None:
        """Lets peers have waiting what the plans announce: every slot's rows, and those of frames given up."""
        plans = [loaded.plan for loaded in self._plans.values()]
        unread = sum(message.size_bytes * plan.slots for plan in plans for message in plan.incoming)
        unsent = sum(message.size_bytes * plan.slots for plan in plans for message in plan.outgoing)
        self.endpoint.allow(2 * unread, 2 * unsent)

    def _redial(self, instruction: RedialPeer) -> None:
        loaded = self._plans.get(instruction.plan)
        address = loaded.plan.peers.get(str(instruction.device)) if loaded is not None else None
        if address is None or address not in self._peers:
            return
        try:
            fresh = self._network.connect(address.endpoint, "data", address.public_key)
        except TransportError as error:
            _log.warning("'%s' is not dialled anew: %s", address.name, error)
            return
        peer = self._peers[address]
        self._network.drop(peer.endpoint)
        peer.endpoint, peer.connected, peer.greeted = fresh, False, False
        self._rebuild()

    def _rebuild(self) -> None:
        # Peers that stand have nothing to say: one that is lost is found out by sending, or when nothing has come for
        # a while. Each socket more to wait with would cost as much as a kilobyte of rows.
        self._awaited = [peer for peer in self._peers.values() if not peer.greeted]
        self._waiter = self._network.waiter([self.endpoint, *(peer.endpoint for peer in self._awaited)], [self._bell])

    def _watch_peers(self) -> None:
        for peer in self._peers.values():
            for event in peer.endpoint.events():
                peer.connected = event.kind == "connected"
                peer.trouble = event.reason
                peer.greeted = False
            if peer.connected and not peer.greeted:
                # Rows may come much later, and a connection that has said nothing is nobody's.
                with contextlib.suppress(NotConnected):
                    peer.endpoint.send([encode(Echo(0, False))])
                    peer.greeted = True
            while peer.endpoint.receive() is not None:
                pass  # only answers to that
        if self._awaited != [peer for peer in self._peers.values() if not peer.greeted]:
            self._rebuild()
        for waiting in tuple(self._connecting):
            peers = [self._peers[address] for address in waiting.loaded.plan.peers.values()]
            absent = [peer for peer in peers if not peer.greeted]
            if not absent:
                self._connecting.remove(waiting)
                self._tell(PlanStands(waiting.loaded))
            elif time.monotonic() >= waiting.until_s:
                self._connecting.remove(waiting)
                first = absent[0]
                why = f": {first.trouble}" if first.trouble else ""
                reason = f"cannot reach '{first.address.name}' at {first.address.endpoint} within {PEER_S:g} s{why}"
                self._remove(waiting.loaded.plan.plan)
                self._tell(PlanFails(waiting.loaded.plan.plan, "peer", reason))

    def _tell(self, outcome: PlanOutcome) -> None:
        self.outcomes.append(outcome)
        self.on_outcome()


def _nothing() -> None:
    """What is called where nobody wants to be told."""
