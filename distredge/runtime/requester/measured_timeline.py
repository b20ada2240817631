"""A timeline from what the processes of a run recorded, all times in the requester's clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from distredge import metric_names
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.messages import Record
from distredge.runtime.protocol.security import REQUESTER_NAME

if TYPE_CHECKING:
    from distredge.model.layout import Layout
    from distredge.timeline import Span, Timeline


class Recorded(NamedTuple):
    """What one process recorded, its clock minus the requester's, and how wrong that may be."""

    offset_ns: int
    records: tuple[Record, ...]
    error_ns: int = 0


def latest_frames(records: Iterable[Record], count: int) -> tuple[int, ...]:
    """The latest frames that the requester both sent and got something of, in order."""
    sent: set[int] = set()
    got: set[int] = set()
    for record in tuple(records):
        (sent if record.kind == "send" else got).add(record.frame)
    return tuple(sorted(sent & got)[-count:])


def build_timeline(layout: Layout, recorded: Mapping[int, Recorded], frames: tuple[int, ...]) -> Timeline:
    """Puts the records of all processes on one clock.

    A message is a span at either end: "send" from the start of packing until it came in, "receive" from when it was
    handed over until its rows were placed. A clock's error can put an arrival before its sending; a span is then empty.
    How wrong each device's times may be is in the timeline's details, and so in its trace.

    Args:
        layout: of the strategy that ran.
        recorded: device index (-1 the requester) -> what it recorded.
        frames: the frames wanted, at least one.
    """
    from distredge.timeline import Timeline

    own = [r for r in recorded[REQUESTER].records if r.frame in frames]
    starts_ns = {f: min(r.start_ns for r in own if r.frame == f and r.kind == "send") for f in frames}
    ends_ns = {f: max(r.stop_ns for r in own if r.frame == f and r.kind == "receive") for f in frames}
    spans = list(_Spans(layout, recorded, frames, min(starts_ns.values())).all())
    spans.sort(key=lambda span: (span.start_s, span.stop_s))
    latencies_s = tuple((ends_ns[f] - starts_ns[f]) / 1e9 for f in frames)
    return Timeline(
        sum(latencies_s) / len(latencies_s),
        tuple(spans),
        (*layout.devices, REQUESTER_NAME),
        "measured",
        latencies_s,
        details=_clocks(layout, recorded),
    )


def _clocks(layout: Layout, recorded: Mapping[int, Recorded]) -> dict[str, dict[str, float]]:
    """How the devices' clocks stand to the requester's."""
    of_devices = {layout.devices[index]: one for index, one in recorded.items() if index != REQUESTER}
    return {
        metric_names.CLOCK_OFFSET_S: {name: one.offset_ns / 1e9 for name, one in of_devices.items()},
        metric_names.CLOCK_ERROR_S: {name: one.error_ns / 1e9 for name, one in of_devices.items()},
    }


class _Spans:
    def __init__(
        self, layout: Layout, recorded: Mapping[int, Recorded], frames: tuple[int, ...], origin_ns: int
    ) -> None:
        self._layout = layout
        self._recorded = recorded
        self._frames = {number: place for place, number in enumerate(frames)}
        self._origin_ns = origin_ns
        self._packing_ns = {
            (device, r.peer, r.frame, r.stage): r.start_ns - one.offset_ns
            for device, one in recorded.items()
            for r in one.records
            if r.kind == "send"
        }

    def all(self) -> Iterator[Span]:
        for device, one in self._recorded.items():
            for record in one.records:
                if record.frame not in self._frames:
                    continue
                if record.kind == "compute":
                    times_ns = (record.start_ns - one.offset_ns, record.stop_ns - one.offset_ns)
                    yield self._span(device, "compute", self._what(record.stage), times_ns, record)
                elif record.kind == "receive":
                    yield from self._message(device, one.offset_ns, record)

    def _message(self, device: int, offset_ns: int, record: Record) -> Iterator[Span]:
        sender = self._recorded.get(record.peer)
        handed_ns = record.start_ns - (sender.offset_ns if sender is not None else offset_ns)
        packing_ns = self._packing_ns.get((record.peer, device, record.frame, record.stage), handed_ns)
        label = f"rows for {self._what(record.stage)}"
        sent_ns = (packing_ns, record.arrived_ns - offset_ns)
        placed_ns = (handed_ns, record.stop_ns - offset_ns)
        yield self._span(record.peer, "send", label, sent_ns, record, self._name(device))
        yield self._span(device, "receive", label, placed_ns, record, self._name(record.peer))

    def _span(
        self, device: int, lane: str, label: str, times_ns: tuple[int, int], record: Record, peer: str = ""
    ) -> Span:
        from distredge.timeline import Span

        start_s = max(0.0, (times_ns[0] - self._origin_ns) / 1e9)
        stop_s = max(start_s, (times_ns[1] - self._origin_ns) / 1e9)
        size_bytes = record.size_bytes if peer else 0
        frame = self._frames[record.frame]
        volume = self._volume(record.stage)
        return Span(self._name(device), lane, label, start_s, stop_s, frame, record.stage, volume, size_bytes, peer)

    def _name(self, device: int) -> str:
        return REQUESTER_NAME if device == REQUESTER else self._layout.devices[device]

    def _volume(self, stage: int) -> int:
        return self._layout.stages[stage].volume if stage < len(self._layout.stages) else -1

    def _what(self, stage: int) -> str:
        if stage >= len(self._layout.stages):
            return "the result"
        volume = self._volume(stage)
        return "the head" if volume < 0 else f"volume {volume}"
