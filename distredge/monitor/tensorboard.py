"""Writes figures, pictures and texts that TensorBoard shows.

Needs the package `tensorboard`, neither torch nor TensorFlow. Tags are those of `metric_names`.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distredge import metric_names
from distredge.errors import MissingDependency
from distredge.writing import as_text

if TYPE_CHECKING:
    from distredge.timeline import Timeline

_FLUSH_EVERY_S = 10

TRAINING_CHARTS: Mapping[str, Sequence[str]] = {
    "images per second": (
        metric_names.EPISODE_IMAGES_PER_S,
        metric_names.BEST_IMAGES_PER_S,
        metric_names.OFFLOAD_IMAGES_PER_S,
    ),
    "latency (s)": (metric_names.EPISODE_LATENCY_S, metric_names.BEST_LATENCY_S),
}
"""Charts of the "custom scalars" page for a training run: title -> tags in one chart."""


class TensorboardWriter:
    """One event file in a folder; a context manager.

    Args:
        folder: where the file goes; made when it is missing.

    Raises:
        MissingDependency: if `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError as error:
            raise MissingDependency("tensorboard", "to write TensorBoard logs", "train") from error
        self.folder = Path(folder)
        self._opened: int | None = None
        place = str(folder)
        if as_text(place) != place:
            # TensorBoard knows names that are text alone; by its descriptor a folder has another one.
            self.folder.mkdir(parents=True, exist_ok=True)
            self._opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            place = f"/proc/self/fd/{self._opened}"
        self._events: Any = EventFileWriter(place, flush_secs=_FLUSH_EVERY_S)

    def __enter__(self) -> TensorboardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Adds a figure."""
        self._add(step, tag=tag, simple_value=float(value))

    def image(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """Adds a picture: (height, width, 3), uint8, red, green, blue."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        height, width, channels = picture.shape
        encoded = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=content.getvalue()
        )
        self._add(step, tag=tag, image=encoded)

    def timeline(self, tag: str, timeline: Timeline, step: int, title: str = "") -> None:
        """Adds a picture of a timeline."""
        from distredge.monitor import gantt

        canvas: Any = gantt.figure(timeline, title).canvas
        canvas.draw()
        self.image(tag, np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3], step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Adds a text, in Markdown."""
        from tensorboard.plugins.text import metadata

        self._string(tag, markdown.encode(), metadata.create_summary_metadata(None, None), step)

    def charts(self, charts: Mapping[str, Sequence[str]]) -> None:
        """Says which tags the "custom scalars" page draws into one chart: title -> tags."""
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata

        made = [
            layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))
            for title, tags in charts.items()
        ]
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title="training", chart=made)])
        tag = metadata.CONFIG_SUMMARY_TAG
        self._string(tag, layout.SerializeToString(), metadata.create_summary_metadata(), 0)

    def flush(self) -> None:
        """Writes what is waiting."""
        self._events.flush()

    def close(self) -> None:
        """Writes what is waiting and closes the file; may be called twice."""
        if self._events is not None:
            self._events.close()
            self._events = None
            if self._opened is not None:
                os.close(self._opened)

    def _string(self, tag: str, content: bytes, metadata: Any, step: int) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=TensorShapeProto())
        self._add(step, tag=tag, tensor=tensor, metadata=metadata)

    def _add(self, step: int, **value: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value)])
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=summary))
