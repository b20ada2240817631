"""Options of `deploy-strategy` for a stream of pictures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from distredge.cli._common import check_folder, check_writable
from distredge.cli._options import Number
from distredge.errors import ModelError
from distredge.writing import is_file

if TYPE_CHECKING:
    from distredge.media.jpeg import FileLimits
    from distredge.media.picture_source import PictureSource
    from distredge.model.graph import Graph

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_STDIN = 0


@dataclass(frozen=True)
class StreamOptions:
    """What was asked of a stream.

    Attributes:
        images: folder, pattern or file; "-" for names from stdin; None for none.
        video: file or device; None for none.
        out: file for a JSON line of each frame.
        report: file for the figures of all.
        annotate: folder for pictures with boxes.
        min_score: of boxes that are said and drawn, from 0 to 1.
        watch: whether it is shown how it stands; None: where stderr is a terminal.
        prometheus: [HOST:]PORT at which Prometheus may ask; None: nowhere.
        trace_frame: frame whose timeline is written, by number or "slowest"; None: the latest.
    """

    images: str | None
    video: str | None
    out: Path | None
    report: Path | None
    annotate: Path | None
    min_score: float
    watch: bool | None
    prometheus: str | None
    trace_frame: str | None

    @property
    def wanted(self) -> bool:
        """Whether there is a stream."""
        return self.images is not None or self.video is not None

    def check(self, image: Path | None, repeat: int, timeline: Path | None) -> None:
        """Checks before any work that the options go together, and that what is to be written can be.

        Raises:
            click.UsageError: naming the option that does not.
            FileError: naming what cannot be written.
        """
        if self.images is not None and self.video is not None:
            raise click.UsageError("--images and --video are two streams: give one of them")
        stream = "--images" if self.images is not None else "--video"
        if self.wanted:
            if image is not None:
                raise click.UsageError(f"{stream} runs a stream and --image one picture: give one of them")
            if repeat != 1:
                raise click.UsageError(f"{stream} runs each picture once: leave --repeat away")
        for name in ("out", "report", "annotate", "watch", "prometheus", "trace_frame"):
            if getattr(self, name) is not None and not self.wanted:
                raise click.UsageError(f"--{name.replace('_', '-')} is for a stream: give --images or --video")
        self._check_watching(timeline)
        check_writable(self.out)
        check_writable(self.report)
        _check_distinct({"--out": self.out, "--report": self.report, "--timeline": timeline})
        if self.annotate is not None:
            check_folder(self.annotate)

    def _check_watching(self, timeline: Path | None) -> None:
        if self.prometheus is not None:
            from distredge.monitor.prometheus import read_endpoint

            read_endpoint(self.prometheus)
        if self.trace_frame is not None:
            from distredge.monitor.frame_trace import read_choice

            read_choice(self.trace_frame)
            if timeline is None:
                raise click.UsageError("--trace-frame says which frame --timeline writes: give --timeline FILE")

    def open(self, graph: Graph, keep_files: FileLimits | None = None) -> PictureSource:
        """Opens the source.

        Args:
            graph: the model that its pictures are for.
            keep_files: JPEG files within these limits are left as they are, for devices to decode.

        Raises:
            MediaError, MissingDependency: as `open_source`.
            ModelError: as `check_model`.
        """
        self.check_model(graph)
        return self.open_source(keep_files)

    def check_model(self, graph: Graph) -> None:
        """Checks that a model can do what is asked for.

        Raises:
            ModelError: if it takes no pictures, or finds no boxes where they are to be drawn.
        """
        from distredge.runtime.requester.picture_frames import check_takes_pictures

        check_takes_pictures(graph)
        if self.annotate is not None and graph.detector is None:
            raise ModelError(f"{graph.name}: finds no boxes to be drawn, accepted with --annotate: {_detectors()}")

    def open_source(self, keep_files: FileLimits | None = None) -> PictureSource:
        """Opens the source, whatever model its pictures are for; `keep_files` as for `open`.

        Raises:
            MediaError: if it is not there.
            MissingDependency: if a video is asked for and OpenCV is not installed.
        """
        from distredge.media.picture_source import open_files, open_names
        from distredge.media.video import open_video

        if self.video is not None:
            return open_video(self.video)
        assert self.images is not None
        return open_names(_STDIN, keep_files) if self.images == "-" else open_files(self.images, keep_files)


def _check_distinct(files: Mapping[str, Path | None]) -> None:
    """Checks that no file is written twice: the later one would take the earlier one's place."""
    seen: dict[str, str] = {}
    for option, path in files.items():
        if path is not None and is_file(path):
            place = os.path.realpath(path)
            if place in seen:
                raise click.UsageError(f"{seen[place]} and {option} are one file, '{path}': give two")
            seen[place] = option


def _detectors() -> str:
    from distredge.model import zoo

    return ", ".join(entry.name for entry in zoo.entries() if entry.detector is not None)


_OPTIONS = (
    click.option("--images", metavar="DIR|GLOB|-",
                 help="Pictures to infer on, one after the other; - takes their names from stdin, one a line."),
    click.option("--video", metavar="FILE|DEVICE", help="Frames of a video, or of a camera: 0 or /dev/video0."),
    click.option("--out", type=_FILE, help="Of a stream: write a JSON line for each frame as it ends."),
    click.option("--report", type=_FILE, help="Of a stream: write its figures as JSON at the end."),
    click.option("--watch/--no-watch", default=None,
                 help="Of a stream: show how it stands; default: on a terminal, without --json."),
    click.option("--prometheus", metavar="[HOST:]PORT", help="Of a stream: let Prometheus ask there for its figures."),
    click.option("--trace-frame", metavar="N|slowest", help="Of a stream: the frame that --timeline writes."),
    click.option("--annotate", type=_FOLDER, help="Of a stream: write pictures with the detector's boxes there."),
    click.option("--min-score", type=Number(0, 1), default=0.5, show_default=True,
                 help="How sure a detector must be of a box, 0 to 1."),
)  # fmt: skip


def stream_options(command: F) -> F:
    """Adds the options of a stream; `stream` is passed to the command as `StreamOptions`."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        stream = StreamOptions(**{field.name: options.pop(field.name) for field in fields(StreamOptions)})
        return command(stream=stream, **options)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
