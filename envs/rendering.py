"""Pictures of an episode: what the devices do in the volumes that are decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge.latency import simulate
from distredge.monitor import gantt
from distredge.strategy import Strategy
from distredge.timeline import Timeline

if TYPE_CHECKING:
    from distredge.problem import Problem


def decided_timeline(
    problem: Problem, volumes: Sequence[tuple[int, Sequence[int]]], head: int, start_s: float, dtype: str
) -> Timeline:
    """The timeline of the volumes decided so far; of the whole strategy when that is all of them.

    Args:
        problem: model and cluster.
        volumes: (index into `graph.cuts`, cut points) of the volumes decided.
        head: index of the head device.
        start_s: time on the links' traces at which the image starts.
        dtype: dtype in which the requester sends the input.
    """
    names = problem.cluster.names
    last = problem.graph.cuts[-1]
    if not volumes:
        return Timeline(0.0, (), (*names, problem.cluster.requester.name))
    decided = list(volumes)
    whole = decided[-1][0] == last.index
    if not whole:
        # A strategy has to reach the end of the body: what is not decided goes to the first device, and is not shown.
        decided.append((last.index, (0, *[last.height] * len(names))))
    strategy = Strategy.make(problem.graph, names, decided, head=names[head], input_dtype=dtype)
    timeline = simulate(problem, strategy, start_s=start_s)
    if whole:
        return timeline
    spans = tuple(span for span in timeline.spans if 0 <= span.volume < len(volumes))
    return Timeline(max((s.stop_s for s in spans), default=0.0), spans, timeline.devices)


def ansi(timeline: Timeline, title: str) -> str:
    """The timeline as text, under its title."""
    return f"{title}\n{gantt.text(timeline)}\n"


def rgb_array(timeline: Timeline, title: str) -> NDArray[np.uint8]:
    """The timeline as a picture, (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(gantt.figure(timeline, title))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()
