"""What happened when: spans per device and lane, from the simulator or from a run, in one form.

Saved as a Chrome trace-event file, which opens in Perfetto (ui.perfetto.dev).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distredge import chrome_trace
from distredge.errors import FileError, InputError, located

LANES = ("compute", "send", "receive")
"""Lanes of a device, in the order in which they are shown."""

FORMAT = "distredge.timeline/1"


@dataclass(frozen=True)
class Span:
    """One thing that one lane of one device did.

    Attributes:
        device: name of the device or of the requester.
        lane: "compute", "send" (packing, encrypting and the way over the link, at the source) or "receive" (the way
            over the link and placing, at the destination).
        name: what was done, for people.
        start_s, stop_s: seconds since the first frame started.
        frame: number of the image.
        stage: index of the stage in the layout; of a message, the stage that needs it.
        volume: index of the layer-volume; -1 for the head and for results.
        bytes: size of the message; 0 for computing.
        peer: the other end of a message; "" for computing.
    """

    device: str
    lane: str
    name: str
    start_s: float
    stop_s: float
    frame: int = 0
    stage: int = -1
    volume: int = -1
    bytes: int = 0
    peer: str = ""

    def __post_init__(self) -> None:
        if self.lane not in LANES:
            raise InputError(located(f"span '{self.name}'", "lane", self.lane, ", ".join(LANES)))
        if not (math.isfinite(self.start_s) and math.isfinite(self.stop_s) and self.start_s <= self.stop_s):
            found = (self.start_s, self.stop_s)
            raise InputError(located(f"span '{self.name}'", "start_s, stop_s", found, "finite seconds in order"))

    @property
    def length_s(self) -> float:
        """Seconds from start to stop."""
        return self.stop_s - self.start_s


@dataclass(frozen=True)
class Timeline:
    """A timeline with what follows from it.

    Attributes:
        latency_s: mean seconds from the start of a frame to the arrival of its last output at the requester.
        spans: in order of starting.
        devices: every device of the strategy, then the requester; devices that do nothing are among them.
        origin: "simulated" or "measured".
        frame_latency_s: latency of each frame, in frame order.
        critical_path: indices into `spans` of the chain that the latency of the last frame follows, in time order;
            empty when unknown.
        throughput_per_s: images per second in the steady state with several in flight; None for one frame.
        bottleneck: the busiest resource, which bounds the throughput of many in flight; None when unknown.
        energy_j: joules of each device over the whole timeline; devices without known watts are absent.
        peak_memory_bytes: weights and live activations of each device; empty when unknown.
        details: more figures, by name.
    """

    latency_s: float
    spans: tuple[Span, ...]
    devices: tuple[str, ...] = ()
    origin: str = "simulated"
    frame_latency_s: tuple[float, ...] = ()
    critical_path: tuple[int, ...] = ()
    throughput_per_s: float | None = None
    bottleneck: str | None = None
    energy_j: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise InputError(located("timeline", "latency_s", self.latency_s, "finite seconds >= 0"))
        if self.origin not in ("simulated", "measured"):
            raise InputError(located("timeline", "origin", self.origin, "simulated, measured"))
        wrong = next((i for i in self.critical_path if not 0 <= i < len(self.spans)), None)
        if wrong is not None:
            raise InputError(located("timeline", "critical_path", wrong, f"0 to {len(self.spans) - 1}"))
        if not self.devices:
            object.__setattr__(self, "devices", tuple(dict.fromkeys(s.device for s in self.spans)))

    @property
    def images_per_s(self) -> float:
        """IPS: images per second one at a time, 1 / latency."""
        return 1.0 / self.latency_s if self.latency_s > 0 else math.inf

    @property
    def end_s(self) -> float:
        """When the last span ends."""
        return max((s.stop_s for s in self.spans), default=0.0)

    @property
    def bytes_sent(self) -> int:
        """Bytes over all links."""
        return sum(s.bytes for s in self.spans if s.lane == "send")

    @property
    def link_bytes(self) -> dict[str, int]:
        """Bytes over each ordered pair of devices, key "source>destination"."""
        found: dict[str, int] = defaultdict(int)
        for span in self.spans:
            if span.lane == "send":
                found[f"{span.device}>{span.peer}"] += span.bytes
        return dict(sorted(found.items()))

    @property
    def utilisation(self) -> dict[str, dict[str, float]]:
        """Share of the timeline during which each lane of each device was busy, device -> lane -> 0 to 1."""
        end_s = self.end_s
        busy: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for span in self.spans:
            busy[span.device, span.lane].append((span.start_s, span.stop_s))
        return {
            device: {lane: covered_s(busy[device, lane]) / end_s if end_s > 0 else 0.0 for lane in LANES}
            for device in self.devices
        }

    @property
    def shares(self) -> dict[str, float]:
        """Seconds of the critical path on each device ("a compute") and connection ("a>b link"), largest first.

        An instant that two spans of the path cover counts once, for the earlier span; the shares add up to what the
        path covers.
        """
        found: dict[str, float] = defaultdict(float)
        reached = -math.inf
        for index in self.critical_path:
            span = self.spans[index]
            found[place_of(span)] += max(0.0, span.stop_s - max(span.start_s, reached))
            reached = max(reached, span.stop_s)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def bound_by(self) -> str | None:
        """What the critical path spends most of its time on; None when the path is unknown."""
        return next(iter(self.shares), None)

    def save(self, path: str | Path) -> None:
        """Writes a Chrome trace-event file."""
        critical = {index: order for order, index in enumerate(self.critical_path)}
        events = [
            chrome_trace.Event(
                s.device,
                s.lane,
                s.name,
                s.start_s,
                s.stop_s,
                {"frame": s.frame, "stage": s.stage, "volume": s.volume, "bytes": s.bytes, "peer": s.peer, "number": i}
                | ({"critical": critical[i]} if i in critical else {}),
            )
            for i, s in enumerate(self.spans)
        ]
        about = {
            "format": FORMAT,
            "latency_s": self.latency_s,
            "devices": list(self.devices),
            "origin": self.origin,
            "frame_latency_s": list(self.frame_latency_s),
            "throughput_per_s": self.throughput_per_s,
            "bottleneck": self.bottleneck,
            "energy_j": dict(self.energy_j),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
            "details": dict(self.details),
        }
        chrome_trace.save(path, events, LANES, about)

    @classmethod
    def from_chrome(cls, path: str | Path) -> Timeline:
        """Reads a file that `save` wrote.

        Raises:
            FileError: if it is missing, no trace file, or not one of a timeline.
        """
        events, about = chrome_trace.load(path)
        if about.get("format") != FORMAT:
            raise FileError(located(path, "otherData.format", about.get("format"), FORMAT))
        try:
            events.sort(key=lambda e: e.args["number"])
            spans = tuple(_span(event) for event in events)
            path_order = sorted((e.args["critical"], i) for i, e in enumerate(events) if "critical" in e.args)
            return cls(
                latency_s=about["latency_s"],
                spans=spans,
                devices=tuple(about["devices"]),
                origin=about["origin"],
                frame_latency_s=tuple(about["frame_latency_s"]),
                critical_path=tuple(i for _, i in path_order),
                throughput_per_s=about["throughput_per_s"],
                bottleneck=about["bottleneck"],
                energy_j=about["energy_j"],
                peak_memory_bytes=about["peak_memory_bytes"],
                details=about["details"],
            )
        except KeyError as error:
            raise FileError(located(path, str(error.args[0]), None, "a value")) from error
        except TypeError as error:
            raise FileError(f"{path}: a value of the wrong type: {error}") from error
        except InputError as error:
            raise FileError(f"{path}: {error}") from error


def place_of(span: Span) -> str:
    """The resource that a span occupies: "device compute" or "source>destination link"."""
    if span.lane == "compute":
        return f"{span.device} compute"
    if span.lane == "send":
        return f"{span.device}>{span.peer} link"
    return f"{span.peer}>{span.device} link"


def covered_s(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of the intervals covers."""
    total, reached = 0.0, -math.inf
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def _span(event: chrome_trace.Event) -> Span:
    args = event.args
    return Span(
        event.process,
        event.lane,
        event.name,
        event.start_s,
        event.stop_s,
        args["frame"],
        args["stage"],
        args["volume"],
        args["bytes"],
        args["peer"],
    )
