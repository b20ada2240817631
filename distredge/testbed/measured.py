"""What a testbed measured, in the undilated time of the cluster that it emulates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from distredge.errors import ExecutionError
from distredge.runtime.buffers import Array
from distredge.timeline import Timeline


@dataclass(frozen=True, eq=False)
class Measured:
    """Frames of one strategy.

    Attributes:
        latencies_s: of the valid frames, in their order.
        starts_s: when these started, on the links' traces.
        invalid: frames that are left out: a board's real computing took longer than its pace.
        frames: all that were run, without those to warm up.
        seconds: from the first frame's start to the last one's end.
        outputs: of the last frame: output name -> array, such as (N, classes).
        timeline: of the frame of the median latency.
        dilation: by which everything was slowed down.
        processor_share: share of this machine's cores that was busy meanwhile, 0 to 1.
        late_s: by how much later than the profiles say messages were handed over, per frame, all boards together.
    """

    latencies_s: tuple[float, ...]
    starts_s: tuple[float, ...]
    invalid: int
    frames: int
    seconds: float
    outputs: Mapping[str, Array]
    timeline: Timeline
    dilation: float
    processor_share: float
    late_s: float

    @property
    def latency_s(self) -> float:
        """Median of the valid frames.

        Raises:
            ExecutionError: if there is none.
        """
        if not self.latencies_s:
            raise ExecutionError(
                f"none of {self.frames} frames is valid: computing took longer than its pace in all of them; "
                f"dilation was {self.dilation:g}"
            )
        return median(self.latencies_s)

    @property
    def throughput_per_s(self) -> float:
        """Frames per second, all of them."""
        return self.frames / self.seconds


def undilated(timeline: Timeline, frame: int, dilation: float) -> Timeline:
    """Returns one frame of a timeline in the emulated cluster's time, beginning at 0."""
    spans = [span for span in timeline.spans if span.frame == frame]
    zero_s = min((span.start_s for span in spans), default=0.0)
    moved = tuple(
        dataclasses.replace(
            span, start_s=(span.start_s - zero_s) / dilation, stop_s=(span.stop_s - zero_s) / dilation, frame=0
        )
        for span in spans
    )
    latency_s = timeline.frame_latency_s[frame] / dilation
    return dataclasses.replace(timeline, latency_s=latency_s, spans=moved, frame_latency_s=(latency_s,))
