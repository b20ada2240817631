"""From a finished simulation to a `Timeline`: spans, critical path, energy and memory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from distredge.errors import ConfigError, located
from distredge.latency.costs.boundary_first import strip_seconds
from distredge.latency.costs.links import ClusterLinks
from distredge.latency.costs.memory import peak_memory_bytes
from distredge.latency.simulator.simulation import Simulation, run
from distredge.latency.simulator.under_way import Message, Work
from distredge.model.laying_out import lay_out
from distredge.timeline import Span, Timeline

if TYPE_CHECKING:
    from distredge.latency.costs.links import ClusterLinks
    from distredge.problem import Problem
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline


def timeline_of(problem: Problem, simulation: Simulation) -> Timeline:
    """Returns the timeline of a simulation that has run to its end."""
    names = simulation.network.names
    volumes = [stage.volume for stage in simulation.layout.stages]
    spans: list[Span] = []
    owner: dict[int, list[Span]] = {}
    for frame in simulation.frames:
        for work in frame.works:
            span = _compute_span(work, names, volumes)
            spans.append(span)
            owner[id(work)] = [span]
        for message in frame.messages:
            free = simulation.network.is_free(message.source, message.destination)
            crosses = simulation.network.crosses(message.source, message.destination)
            pair = _message_spans(message, names, volumes, crosses) if message.size_bytes and not free else []
            spans.extend(pair)
            owner[id(message)] = pair
    spans.sort(key=lambda s: (s.start_s, s.stop_s, s.frame, s.stage, s.device, s.lane, s.peer))
    place = {id(span): index for index, span in enumerate(spans)}
    latencies = tuple(frame.done_s - frame.start_s for frame in simulation.frames)
    end_s = max(frame.done_s for frame in simulation.frames)
    return Timeline(
        latency_s=sum(latencies) / len(latencies),
        spans=tuple(spans),
        devices=names,
        frame_latency_s=latencies,
        critical_path=tuple(place[id(span)] for span in _critical(simulation, owner)),
        throughput_per_s=throughput_per_s(simulation),
        bottleneck=bottleneck(simulation),
        energy_j=energy_j(problem, simulation, end_s),
        peak_memory_bytes=peak_memory_bytes(problem.graph, simulation.layout),
        details={"recompute_ratio": simulation.layout.recompute_ratio(problem.graph)},
    )


def throughput_per_s(simulation: Simulation) -> float | None:
    """Images per second in the steady state; None for one image and where nothing takes time.

    Counted over the last half of the images, by whole groups of as many as may be under way at once, because such a
    group may arrive in a burst.
    """
    done = sorted(frame.done_s for frame in simulation.frames)
    group = min(simulation.in_flight, len(done) - 1)
    if group == 0:
        return None
    images = group * max(1, len(done) // (2 * group))
    images = images if images < len(done) else group
    seconds = done[-1] - done[-1 - images]
    return images / seconds if seconds > 0 else None


_ROUNDS: Final = 6
"""Times that as many images as are under way at once go through."""


@dataclass(frozen=True)
class Throughput:
    """What several images in flight are predicted to reach.

    Attributes:
        images_per_s: in the steady state; None where nothing takes time.
        resource: the busiest one, as `bottleneck` names it; None where nothing takes time.
        bound_per_s: images per second that it allows, however many are in flight.
    """

    images_per_s: float | None
    resource: str | None
    bound_per_s: float | None


def throughput(problem: Problem, strategy: Strategy, in_flight: int) -> Throughput:
    """Predicts how many images per second a strategy runs.

    Args:
        problem: model and cluster.
        strategy: what to run; it must fit both.
        in_flight: images under way at once.

    Raises:
        StrategyError, ClusterError, ProfileError, Infeasible: as `simulate`.
    """
    layout = lay_out(problem.graph, strategy)
    frames = _ROUNDS * max(2, in_flight)
    simulation = run(problem, layout, frames, in_flight, 0.0, strip_seconds(problem, layout))
    busy_s = _busy_seconds(simulation)
    resource = bottleneck(simulation)
    bound_per_s = None if resource is None else frames / busy_s[resource]
    images_per_s = throughput_per_s(simulation)
    if images_per_s is not None and bound_per_s is not None:
        # The last images come faster: nothing follows them.
        images_per_s = min(images_per_s, bound_per_s)
    return Throughput(images_per_s, resource, bound_per_s)


def bottleneck(simulation: Simulation) -> str | None:
    """The busiest resource: it bounds the throughput as soon as enough images are in flight; None for one image.

    Of computing and of connections that have their links to themselves that is how long they are in use, "a compute" or
    "a>b link" as `timeline.place_of` names them; of what several connections share, how long it needs at least for what
    it carries: "a uplink", "b downlink" or "medium".
    """
    busy_s = _busy_seconds(simulation) if len(simulation.frames) > 1 else {}
    place = max(busy_s, key=lambda name: busy_s[name], default=None)
    return place if place is not None and busy_s[place] > 0 else None


def _busy_seconds(simulation: Simulation) -> Mapping[str, float]:
    busy_s: dict[str, float] = defaultdict(float)
    net = simulation.network
    for frame in simulation.frames:
        for work in frame.works:
            busy_s[f"{net.names[work.device]} compute"] += work.busy_s
        for message in frame.messages:
            if not net.crosses(message.source, message.destination):
                continue
            ends = message.source, message.destination
            for name, seconds in _used(net, *ends, 8.0 * message.size_bytes, message.sent_s - message.wire_s):
                busy_s[name] += seconds
    return busy_s


def _used(net: ClusterLinks, source: int, destination: int, bits: float, seconds: float) -> Iterator[tuple[str, float]]:
    """What a message occupies, and for how long."""
    if bits == 0:
        return
    up_s, down_s = bits / net.up[source].mean_bps, bits / net.down[destination].mean_bps
    if net.medium:
        yield "medium", up_s + down_s
    if net.shared:
        yield f"{net.names[net.computer[source]]} uplink", up_s
        yield f"{net.names[net.computer[destination]]} downlink", down_s
    else:
        yield f"{net.names[source]}>{net.names[destination]} link", seconds


def energy_j(problem: Problem, simulation: Simulation, end_s: float) -> dict[str, float]:
    """Joules of each device until the last result is there: idle watts, and busy ones while its processor works.

    Devices whose profile has no watts are left out; so are boards of the cluster that the strategy does not name.
    """
    busy_s = [0.0] * len(simulation.layout.devices)
    for frame in simulation.frames:
        for work in frame.works:
            busy_s[work.device] += work.busy_s
    found: dict[str, float] = {}
    for name, seconds in zip(simulation.layout.devices, busy_s, strict=True):
        profile = problem.cluster.device(name).profile
        if profile.idle_w is not None and profile.busy_w is not None:
            found[name] = profile.idle_w * end_s + (profile.busy_w - profile.idle_w) * seconds
    return found


def _compute_span(work: Work, names: tuple[str, ...], volumes: list[int]) -> Span:
    volume = volumes[work.stage]
    label = "head" if volume < 0 else f"volume {volume}"
    return Span(names[work.device], "compute", label, work.start_s, work.stop_s, work.frame, work.stage, volume)


def _message_spans(message: Message, names: tuple[str, ...], volumes: list[int], crosses: bool) -> list[Span]:
    """What a message takes at both ends; one that crosses no link has no bytes."""
    volume = volumes[message.stage] if message.stage < len(volumes) else -1
    source, destination = names[message.source], names[message.destination]
    label = ", ".join(message.tensors)
    rest = (message.frame, message.stage, volume, message.size_bytes if crosses else 0)
    return [
        Span(source, "send", label, message.leave_s, message.sent_s, *rest, destination),
        Span(destination, "receive", label, message.wire_s, message.arrived_s, *rest, source),
    ]


def _critical(simulation: Simulation, owner: dict[int, list[Span]]) -> list[Span]:
    """Follows the causes back from the last image's last result, and returns the chain in time order."""
    frame = simulation.frames[-1]
    chain: list[Span] = []
    for message in reversed(frame.tail[1:]):
        chain.extend(owner[id(message)][1:])
    item: Work | Message | None = frame.last
    while item is not None and item.frame == frame.number:
        chain.extend(reversed(owner[id(item)]))
        cause = item.cause
        if isinstance(item, Work) and item.receive_s > 0.0:
            # What the device handled after it had waited for the last time, and before that for others.
            first = item.inputs.index(cause) + 1 if isinstance(cause, Message) else 0
            for message in reversed(item.inputs[first:]):
                chain.extend(owner[id(message)][1:])
        if isinstance(cause, Work) and cause.send_s > 0.0:
            chain.extend(owner[id(cause.outgoing[-1])][:1])
        item = cause
    chain.reverse()
    return chain


def simulate(
    problem: Problem, strategy: Strategy, *, frames: int = 1, in_flight: int = 1, start_s: float = 0.0
) -> Timeline:
    """Says what happens when when a strategy runs.

    Args:
        problem: model and cluster.
        strategy: what to run; it must fit both.
        frames: images to run.
        in_flight: images that may be under way at once; 1 is one at a time.
        start_s: time on the links' traces at which the first image starts.

    Returns:
        Spans of every device, the critical path, and what they cost.

    Raises:
        StrategyError, ClusterError: if the strategy does not fit the model or the cluster.
        ProfileError: if a profile lacks an operator.
        Infeasible: if a message has to cross a link that is down.
        ConfigError: if `frames` or `in_flight` is below 1 or `start_s` negative.
    """
    for key, value, low in (("frames", frames, 1), ("in_flight", in_flight, 1), ("start_s", start_s, 0)):
        if not (math.isfinite(value) and value >= low):
            raise ConfigError(located("simulate", key, value, f"a number >= {low}"))
    layout = lay_out(problem.graph, strategy)
    strips = strip_seconds(problem, layout)
    simulation = run(problem, layout, frames, in_flight, start_s, strips)
    return timeline_of(problem, simulation)
