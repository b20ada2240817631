"""What a strategy costs, event by event: the reference that the compiled kernel must equal.

For each image:

- A part starts when its device is free and every message that it needs has arrived. A device takes the parts of one
  image in the order of the stages; between images, whichever is ready first.
- What a stage needs from one source is one message. It leaves when the source has done the last stage that makes any
  of it, and takes: handling at the source, the fixed cost of both ends, its bits over the connection, handling at the
  destination. Messages of one ordered pair of boards follow each other on their connection, those of one image in the
  order of the stages that need them.
- A picture that comes in its file is decoded by the device that gets it, once an image: the thread that computes does
  so under either link model, when the turn of the part that needs the file has come.
- A part whose volume computes first what others wait for sends before it is done: see `latency.costs.boundary_first`.
- The image is done when the last of its outputs has arrived at the requester.

The rates of connections are those of `latency.costs.links`, which also says what handling costs.

Under `independent` handling lies on the message's way and disturbs nobody: a device computes, sends and receives at the
same time. The requester handles nothing, and what stays on a board costs nothing.

Under `shared` handling takes the time of the thread that computes (`End.busy_s`), and only the rest lies on the way:

- A part's messages are handled one after the other when it ends, in the order of the stages that need them, then of
  their destinations. The device is free after the last of them. In a part that sends before it is done they interrupt
  computing, which ends later by as much.
- Messages that have arrived are handled when the turn of the part that needs them has come, in the order in which they
  arrived, each when it is there and the one before it is done. The part starts after the last of them.
- The requester handles likewise: its input from the start of the image on, and results as they arrive.
- Devices on one computer, and the requester beside them, send each other over no link, but handle what they send. To
  all others they have one access link. Parts that compute in the same stage on one host take as many times longer as
  their threads outnumber its cores: see `latency.costs.computers`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from distredge.errors import Infeasible
from distredge.latency.costs.computers import crowding
from distredge.latency.costs.links import ClusterLinks, finish, max_min
from distredge.latency.costs.part_costs import part_costs
from distredge.latency.costs.pictures import decoding_s
from distredge.latency.simulator.under_way import Connection, Message, SimulatedFrame, Work
from distredge.model.layout import REQUESTER, Layout
from distredge.model.messages_of_layout import messages_of_layout

if TYPE_CHECKING:
    from distredge.problem import Problem

_Event = Callable[[float], None]


class Simulation:
    """Runs images through a layout.

    Args:
        layout: who computes and sends what; a truncated one (without results) is run until nothing is left to do.
        seconds: compute seconds of each part, by (stage, device).
        network: links of the layout's devices.
        strips: of parts that compute first what others wait for, the seconds until that is done and in all, instead.
        decoding_s: seconds that each device decodes a picture's file; None where none comes.

    Attributes:
        free_s: from when on each device, and the requester at the end, has nothing to do.
    """

    def __init__(
        self,
        layout: Layout,
        seconds: dict[tuple[int, int], float],
        network: ClusterLinks,
        strips: Mapping[tuple[int, int], tuple[float, float]] | None = None,
        decoding_s: Sequence[float] | None = None,
    ) -> None:
        self.layout = layout
        self.seconds = seconds
        self.strips = strips or {}
        self.decoding_s = decoding_s or (0.0,) * len(layout.devices)
        self.network = network
        messages = messages_of_layout(layout)
        self._messages = [(key, messages[key]) for key in sorted(messages) if key.source != key.destination]
        self.fluid = network.shared or network.medium
        self.frames: list[SimulatedFrame] = []
        self.in_flight = 1
        self._active: dict[int, SimulatedFrame] = {}
        self._events: list[tuple[float, int, _Event]] = []
        self._count = 0
        self._connections: dict[tuple[int, int], Connection] = {}
        self._flowing: list[Connection] = []
        self._rates: list[float] = []
        self._changed = False
        self._busy: list[Work | None] = [None] * len(layout.devices)
        self.free_s = [0.0] * (len(layout.devices) + 1)
        self._last: list[Work | None] = [None] * len(layout.devices)
        self._to_start = 0

    def run(self, frames: int = 1, in_flight: int = 1) -> None:
        """Runs `frames` images, at most `in_flight` at a time, each started as soon as that allows.

        Raises:
            Infeasible: if a message has to cross a link that is down.
        """
        self._to_start = frames
        self.in_flight = in_flight
        for _ in range(min(frames, in_flight)):
            self._start_frame(0.0)
        now = 0.0
        while self._events or self._flowing:
            after = self._events[0][0] if self._events else math.inf
            if self.fluid and self._flowing:
                after = self._flow(now, after)
            now = after
            while self._events and self._events[0][0] <= now:
                heapq.heappop(self._events)[2](now)

    def _at(self, time_s: float, event: _Event) -> None:
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, event))

    def _start_frame(self, now: float) -> None:
        frame = self._make_frame(len(self.frames), now)
        self.frames.append(frame)
        self._active[frame.number] = frame
        self._to_start -= 1
        self.free_s[REQUESTER] = self._send_all(frame.first, None, now, max(now, self.free_s[REQUESTER]))
        for device in range(len(self.layout.devices)):
            self._try_device(device, now)

    def _make_frame(self, number: int, now: float) -> SimulatedFrame:
        layout = self.layout
        pending: list[list[Work]] = [[] for _ in layout.devices]
        works: dict[tuple[int, int], Work] = {}
        for stage in layout.stages:
            for part in stage.parts:
                if not part.empty:
                    key = stage.index, part.device
                    lead_s, seconds = self.strips.get(key, (self.seconds[key], self.seconds[key]))
                    works[key] = work = Work(number, stage.index, part.device, seconds, lead_s, 0, line_s=now)
                    pending[part.device].append(work)
        frame = SimulatedFrame(number, now, pending, list(works.values()), [], [], 0, len(works))
        decoded: set[int] = set()
        for (needed, source, destination), parts in self._messages:
            waits = works[needed, destination] if destination != REQUESTER else None
            size, packed = sum(t.size_bytes for t in parts), sum(t.packed_bytes for t in parts)
            names = tuple(dict.fromkeys(t.tensor for t in parts))
            message = Message(number, needed, source, destination, size, packed, names, waits)
            if destination not in decoded and any(t.is_file for t in parts):
                decoded.add(destination)
                message.decoding_s = self.decoding_s[destination]
            frame.messages.append(message)
            made = max(t.produced for t in parts)
            if source == REQUESTER:
                frame.first.append(message)
            else:
                works[made, source].outgoing.append(message)
                works[made, source].send_s += self.network.sends[source].busy_s(size, packed)
            if waits is None:
                frame.results += 1
            else:
                waits.missing += 1
            if self.network.crosses(source, destination):
                connection = self._connections.setdefault((source, destination), Connection(source, destination))
                connection.queues.setdefault(number, []).insert(0, message)
        for queue in pending:
            queue.reverse()
        return frame

    def _send_all(self, messages: Iterable[Message], cause: Work | None, now: float, free_s: float) -> float:
        """Handles messages one after the other from `free_s` on; returns when that is done."""
        network = self.network
        for message in messages:
            message.leave_s = now
            message.cause = cause
            source, destination = message.source, message.destination
            if network.is_free(source, destination):
                message.ready_s = message.wire_s = message.sent_s = now
                self._arrive(message, now)
                continue
            free_s += network.sends[source].busy_s(message.size_bytes, message.packed_bytes)
            ready = free_s + network.sends[source].way_s(message.size_bytes)
            ready += network.fixed_s(source, destination)
            self._at(ready, partial(self._offer if network.crosses(source, destination) else self._pass, message))
        return free_s

    def _pass(self, message: Message, now: float) -> None:
        """Lets a message through that crosses no link."""
        message.ready_s = message.wire_s = message.sent_s = now
        self._land(message, now)

    def _offer(self, message: Message, now: float) -> None:
        message.ready_s = now
        self._try_connection(self._connections[message.source, message.destination], now)

    def _try_connection(self, connection: Connection, now: float) -> None:
        """Puts the next message on a free connection: the first ready between images, in stage order within one."""
        if connection.current is not None:
            return
        heads = [queue[-1] for queue in connection.queues.values()]
        offered = [m for m in heads if not math.isnan(m.ready_s)]
        if not offered:
            return
        message = min(offered, key=lambda m: (m.ready_s, m.frame))
        queue = connection.queues[message.frame]
        queue.pop()
        if not queue:
            del connection.queues[message.frame]
        connection.current = message
        message.wire_s = now
        if connection.last is not None and message.ready_s < now:
            message.cause = connection.last
        bits = 8.0 * message.size_bytes
        if self.fluid:
            message.left_bits = bits
            self._flowing.append(connection)
            self._changed = True
            return
        net = self.network
        end = finish(net.up[message.source], net.down[message.destination], now, bits)
        if math.isinf(end):
            raise net.refuse(message.source, message.destination, message.size_bytes)
        self._at(end, lambda at: self._sent(connection, at))

    def _sent(self, connection: Connection, now: float) -> None:
        message = connection.current
        assert message is not None
        message.sent_s = now
        connection.current, connection.last = None, message
        self._land(message, now)
        self._try_connection(connection, now)

    def _land(self, message: Message, now: float) -> None:
        """Takes in a message whose last bit is over."""
        way_s = self.network.receives[message.destination].way_s(message.size_bytes)
        self._at(now + way_s, partial(self._arrive, message))

    def _arrive(self, message: Message, now: float) -> None:
        message.arrived_s = now
        busy_s = self._taking_in_s(message)
        work = message.destination_work
        if work is not None:
            work.missing -= 1
            work.inputs.append(message)
            work.line_s = max(work.line_s, now) + busy_s
            work.receive_s += busy_s
            work.cause = message
            work.ready_s = now
            self._try_device(work.device, now)
            return
        frame = self.frames[message.frame]
        if frame.last is None or now >= self.free_s[REQUESTER]:
            frame.last = message
            frame.tail.clear()
        frame.tail.append(message)
        message.arrived_s = self.free_s[REQUESTER] = max(self.free_s[REQUESTER], now) + busy_s
        frame.results -= 1
        if frame.results == 0:
            frame.done_s = message.arrived_s
            if frame.done_s > now:
                self._at(frame.done_s, self._follow)
            else:
                self._follow(now)

    def _taking_in_s(self, message: Message) -> float:
        """Seconds for which its destination does nothing else."""
        if self.network.is_free(message.source, message.destination):
            return message.decoding_s
        end = self.network.receives[message.destination]
        return end.busy_s(message.size_bytes, message.packed_bytes) + message.decoding_s

    def _follow(self, now: float) -> None:
        """Starts the next image after one is done."""
        if self._to_start > 0:
            self._start_frame(now)

    def _try_device(self, device: int, now: float) -> None:
        """Starts the next part on a free device: in stage order within an image, the first ready between images."""
        if self._busy[device] is not None:
            return
        heads = [f.pending[device][-1] for f in self._active.values() if f.pending[device]]
        ready = [work for work in heads if work.missing == 0]
        if not ready:
            return
        for work in ready:
            if math.isnan(work.ready_s):
                work.ready_s = self.frames[work.frame].start_s
        work = min(ready, key=lambda w: (w.ready_s, w.frame))
        frame = self.frames[work.frame]
        frame.pending[device].pop()
        frame.to_start -= 1
        if frame.to_start == 0:
            del self._active[frame.number]
        self._begin(work, now)

    def _begin(self, work: Work, now: float) -> None:
        """Gives a device to a part, which starts when its inputs are handled."""
        device = work.device
        self._busy[device] = work
        if self._last[device] is not None and work.ready_s < now:
            work.cause = self._last[device]
        work.start_s = now
        if work.receive_s > 0.0:
            work.start_s = max(self.free_s[device] + work.receive_s, work.line_s)
            self._handle_inputs(work)
        interrupted_s = work.send_s if work.lead_s < work.seconds else 0.0
        if work.lead_s < work.seconds:
            self._at(work.start_s + work.lead_s, lambda at: self._hand_out(work, at))
        self._at(work.start_s + work.seconds + interrupted_s, lambda at: self._computed(work, at))

    def _handle_inputs(self, work: Work) -> None:
        """Says when each input is in place, and for what the device waited last."""
        time_s = self.free_s[work.device]
        work.cause = self._last[work.device]
        for message in work.inputs:
            if work.cause is None or message.arrived_s >= time_s:
                work.cause = message
            busy_s = self._taking_in_s(message)
            if busy_s > 0.0 or not self.network.is_free(message.source, message.destination):
                message.arrived_s = time_s = min(max(time_s, message.arrived_s) + busy_s, work.start_s)

    def _hand_out(self, work: Work, now: float) -> None:
        self._send_all(work.outgoing, work, now, now)

    def _computed(self, work: Work, now: float) -> None:
        work.stop_s = now
        interrupted = work.lead_s < work.seconds
        if not interrupted and work.send_s > 0.0:
            self._hand_out(work, now)
            self._at(now + work.send_s, lambda at: self._release(work, at))
            return
        self._release(work, now, not interrupted)

    def _release(self, work: Work, now: float, sends: bool = False) -> None:
        """Frees the device of a part that is done; `sends`: whether its messages, which take no time, leave now."""
        device = work.device
        work.free_s = self.free_s[device] = now
        self._busy[device], self._last[device] = None, work
        if sends:
            self._hand_out(work, now)
        self._try_device(device, now)

    def _flow(self, now: float, until: float) -> float:
        """Lets bits flow until the next event, the end of a message or a change of a rate; returns when that is."""
        if self._changed:
            self._rates = self._fair_rates(now)
            self._changed = False
        ends = [
            now + c.current.left_bits / rate if rate > 0 else (now if c.current.left_bits == 0 else math.inf)
            for c, rate in zip(self._flowing, self._rates, strict=True)
            if c.current is not None
        ]
        change = self._next_change(now)
        at = min(until, change, *ends)
        if math.isinf(at):
            stuck = self._flowing[0].current
            assert stuck is not None
            raise self.network.refuse(stuck.source, stuck.destination, stuck.size_bytes)
        flowing, self._flowing = self._flowing, []
        finished = []
        for connection, rate, end in zip(flowing, self._rates, ends, strict=True):
            assert connection.current is not None
            if end <= at:
                finished.append(connection)
            else:
                connection.current.left_bits -= rate * (at - now)
                self._flowing.append(connection)
        if finished or at >= change:
            self._changed = True
        for connection in finished:
            self._sent(connection, at)
        return at

    def _fair_rates(self, now: float) -> list[float]:
        """Rates of the connections in use; resources are numbered as they are met."""
        net = self.network
        numbers: dict[object, int] = {}
        capacities: list[float] = []
        flows: list[tuple[int, ...]] = []
        weights: list[tuple[float, ...]] = []

        def resource(key: object, capacity: float) -> int:
            if key not in numbers:
                numbers[key] = len(capacities)
                capacities.append(capacity)
            return numbers[key]

        for c in self._flowing:
            up, down = net.up[c.source].piece(now)[0], net.down[c.destination].piece(now)[0]
            if net.shared:
                used = [
                    resource(("up", id(net.up[c.source])), up),
                    resource(("down", id(net.down[c.destination])), down),
                ]
            else:
                used = [resource(id(c), min(up, down))]
            taken = [1.0] * len(used)
            if net.medium and up > 0 and down > 0:
                used.append(resource("medium", 1.0))
                taken.append(1.0 / up + 1.0 / down)
            flows.append(tuple(used))
            weights.append(tuple(taken))
        return max_min(flows, weights, capacities)

    def _next_change(self, now: float) -> float:
        net = self.network
        return min(
            (min(net.up[c.source].piece(now)[1], net.down[c.destination].piece(now)[1]) for c in self._flowing),
            default=math.inf,
        )


def part_seconds(problem: Problem, layout: Layout) -> dict[tuple[int, int], float]:
    """Compute seconds of every non-empty part, by (stage, device), on cores that others on its host may share.

    Raises:
        ProfileError: if a device's profile lacks an operator that it has to run.
    """
    costs = [part_costs(problem, name) for name in layout.devices]
    crowded = crowding(problem, layout)
    return {
        (stage.index, part.device): costs[part.device].part_s(part) * crowded.get((stage.index, part.device), 1.0)
        for stage in layout.stages
        for part in stage.parts
        if not part.empty
    }


def run(
    problem: Problem,
    layout: Layout,
    frames: int = 1,
    in_flight: int = 1,
    start_s: float = 0.0,
    strips: Mapping[tuple[int, int], tuple[float, float]] | None = None,
) -> Simulation:
    """Runs a layout, truncated or not, and returns the simulation with all its times.

    Args:
        problem: model and cluster.
        layout: what to run.
        frames: images to run.
        in_flight: images that may be under way at once.
        start_s: time on the links' traces at which the first image starts.
        strips: of `latency.costs.boundary_first.strip_seconds`; None for a strategy whose parts send when they are
            done.
    """
    network = ClusterLinks.of(problem.cluster, layout.devices, start_s)
    decoding = decoding_s(problem, layout)
    simulation = Simulation(layout, part_seconds(problem, layout), network, strips, decoding)
    simulation.run(frames, in_flight)
    unfinished = next((w for f in simulation.frames for w in f.works if math.isnan(w.stop_s)), None)
    if unfinished is not None:
        name = layout.devices[unfinished.device]
        raise Infeasible(f"stage {unfinished.stage} on '{name}' never gets all of its inputs")
    return simulation
