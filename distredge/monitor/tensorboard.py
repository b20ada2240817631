"""Writes figures, histograms, pictures and texts that TensorBoard shows.

Needs the package `tensorboard`, neither torch nor TensorFlow. Tags are those of `metric_names`.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distredge.timeline import Timeline

_numbers = itertools.count()


class TensorboardWriter:
    """One event file in a folder, made with the first thing that is written; a context manager.

    Everything is in the file when a method returns, so that a page beside the run is as new as the run. TensorBoard's
    own `EventFileWriter` does the same in a thread for each file, whose time nobody can account for; runs here have a
    dozen files.

    Args:
        folder: where the file goes; made when it is missing.

    Raises:
        MissingDependency: if `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ModuleNotFoundError as error:
            raise MissingDependency("tensorboard", "to write TensorBoard logs", "train") from error
        self.folder = Path(folder)
        self._record_writer: Any = RecordWriter
        self._file: BinaryIO | None = None
        self._records: Any = None

    def __enter__(self) -> TensorboardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Adds a figure."""
        self.scalars({tag: value}, step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds figures of one step, by tag; nothing when there are none."""
        if values:
            self._add(step, *({"tag": tag, "simple_value": float(value)} for tag, value in values.items()))

    def histogram(self, tag: str, counts: NDArray[np.int64], edges: NDArray[np.float64], step: int) -> None:
        """Adds a histogram.

        Args:
            tag: its name.
            counts: (n_bins,) int64, how many values are in each bin.
            edges: (n_bins + 1,) float64, rising.
            step: number of the episode or frame.
        """
        from tensorboard.plugins.histogram import metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        bins = np.stack([edges[:-1], edges[1:], counts.astype(np.float64)], axis=1)
        about = metadata.create_summary_metadata(None, None)
        self._add(step, {"tag": tag, "tensor": make_tensor_proto(bins), "metadata": about})

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
        self._add(step, {"tag": tag, "image": encoded})

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Adds a chart of matplotlib's as a picture."""
        canvas: Any = figure.canvas
        canvas.draw()
        self.image(tag, np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3], step)

    def timeline(self, tag: str, timeline: Timeline, step: int, title: str = "") -> None:
        """Adds a picture of a timeline."""
        from distredge.monitor import gantt

        self.figure(tag, gantt.figure(timeline, title), step)

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        """Adds a text, in Markdown."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.text import metadata

        content = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=TensorShapeProto())
        self._add(step, {"tag": tag, "tensor": content, "metadata": metadata.create_summary_metadata(None, None)})

    def summary(self, value: Any) -> None:
        """Adds a `Summary.Value` that was made elsewhere, such as one of `monitor.hparams`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(0, Summary(value=[value]))

    def close(self) -> None:
        """Closes the file; may be called twice."""
        file, self._file, self._records = self._file, None, None
        if file is not None:
            file.close()

    def _add(self, step: int, *values: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step, Summary(value=[Summary.Value(**value) for value in values]))

    def _write(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._records is None:
            self._open()
        self._records.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
        self._records.flush()

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.folder.mkdir(parents=True, exist_ok=True)
        now_s = time.time()
        # The form that TensorBoard looks for; two files of one process and second differ by the number.
        name = f"events.out.tfevents.{int(now_s):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = (self.folder / name).open("wb")
        self._records = self._record_writer(self._file)
        self._records.write(Event(wall_time=now_s, file_version="brain.Event:2").SerializeToString())
