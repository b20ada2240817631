"""The critical path of a frame that was measured: what its computing and its bytes alone would take.

Stages take as long as they did in that very frame. A message leaves when the stage is done that makes the last of its
rows and arrives after its bytes at the rate of raw TCP, with nothing for its handling, and however many others are on
the way at the same time. A device runs its stages in the order in which it did. The inputs leave the requester at time
zero; the frame ends with its last result. Everything else in the latency is overhead: packing, placing, encrypting,
waking up, Python, and waiting for a core that another thread has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage
from distredge.timeline import Timeline

Computed = Mapping[int, Sequence[tuple[int, float]]]
"""Device -> (stage, seconds) in the order in which it ran them."""


def critical_path_s(messages: Iterable[SourceMessage], computed: Computed, bytes_per_s: float) -> float:
    """Returns when a frame would end if only computing and bytes took time.

    Args:
        messages: of one frame, and what stays on a device (source == destination), as in `Deployment`.
        computed: what each device ran, and how long.
        bytes_per_s: at which rows travel between two devices, > 0.

    Raises:
        ValueError: if a device ran a stage before what it reads can have been made.
    """
    wanted: dict[tuple[int, int], list[SourceMessage]] = defaultdict(list)
    for message in messages:
        wanted[message.destination, message.stage].append(message)
    done: dict[tuple[int, int], float] = {}
    free_s = dict.fromkeys(computed, 0.0)
    left = {device: list(stages) for device, stages in computed.items()}
    while any(left.values()):
        moved = False
        for device, stages in left.items():
            while stages:
                stage, seconds = stages[0]
                arrivals = [_arrival_s(message, done, bytes_per_s) for message in wanted[device, stage]]
                known = [arrival_s for arrival_s in arrivals if arrival_s is not None]
                if len(known) < len(arrivals):
                    break
                del stages[0]
                free_s[device] = done[device, stage] = max([free_s[device], *known]) + seconds
                moved = True
        if not moved:
            raise ValueError(f"stages wait for each other: {left}")
    results = [
        _arrival_s(message, done, bytes_per_s)
        for (destination, _), found in wanted.items()
        if destination == REQUESTER
        for message in found
    ]
    return max([s for s in results if s is not None], default=max(free_s.values(), default=0.0))


def _arrival_s(message: SourceMessage, done: Mapping[tuple[int, int], float], bytes_per_s: float) -> float | None:
    """When a message has arrived; None while what it carries is not made."""
    left_s = 0.0
    for stage in message.made_in:
        if message.source == REQUESTER:
            continue
        made_s = done.get((message.source, stage))
        if made_s is None:
            return None
        left_s = max(left_s, made_s)
    return left_s if message.source == message.destination else left_s + message.size_bytes / bytes_per_s


def computed_in(timeline: Timeline, devices: Sequence[str]) -> list[dict[int, list[tuple[int, float]]]]:
    """Says what each device computed in each frame of a timeline.

    Args:
        timeline: measured.
        devices: names of the strategy's devices, in its order.

    Returns:
        For each frame: device -> (stage, seconds) in the order in which it ran them.
    """
    index = {name: k for k, name in enumerate(devices)}
    found: list[dict[int, list[tuple[int, float]]]] = [defaultdict(list) for _ in timeline.frame_latency_s]
    for span in sorted(timeline.spans, key=lambda span: span.start_s):
        if span.lane == "compute":
            found[span.frame][index[span.device]].append((span.stage, span.length_s))
    return [dict(frame) for frame in found]


def overhead(latency_s: float, path_s: float) -> float:
    """The share of a latency that the critical path does not explain."""
    return (latency_s - path_s) / latency_s


def speedup_bound(whole_s: float, split_s: float, split_speedup: float) -> float:
    """How much faster a model can be of which a part alone is split.

    Args:
        whole_s: of the whole model on one core.
        split_s: of that part on one core.
        split_speedup: of that part.
    """
    return whole_s / (split_s / split_speedup + whole_s - split_s)
