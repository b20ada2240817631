"""What is written down of each frame of a stream as it ends."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.errors import FileError
from distredge.writing import as_text, descriptor_of

if TYPE_CHECKING:
    from distredge.cli._stream import Sink, StreamedFrame
    from distredge.cli._stream_meaning import Found
    from distredge.runtime.requester.picture_frames import PictureResult

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")
"""A file's name, or what a worker says, is not to move a terminal's cursor, nor to begin a line."""

_LONGEST_STEM_BYTES = 200
"""Of a name that gets a number and another ending; systems allow 255 bytes."""

_ANEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def say(frame: StreamedFrame, result: PictureResult, found: Found) -> None:
    """Writes a line for people of a frame."""
    if frame.latency_s is None:
        named = "" if frame.name in (frame.error or "") else f"{frame.name}: "
        told = f"failed: {named}{frame.error}"
    else:
        told = f"{1e3 * frame.latency_s:8.2f} ms  {frame.name}{found.text()}"
    click.echo(f"{frame.number:6d}  {told.translate(_CONTROLS)}")


@contextlib.contextmanager
def json_lines(path: Path) -> Iterator[Sink]:
    """Gives what writes a JSON line of each frame, which is there as soon as the frame has ended.

    Raises:
        FileError: if the file cannot be written.
    """

    def write(frame: StreamedFrame, result: PictureResult, found: Found) -> None:
        line: dict[str, Any] = {
            "frame": frame.number,
            "name": as_text(frame.name),
            "latency_s": frame.latency_s,
            "ended_s": frame.ended_s,
        }
        line |= found.figures() if frame.error is None else {"error": as_text(frame.error)}
        rest = memoryview(json.dumps(line, allow_nan=False).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            raise _cannot(path, error) from error

    open_already = descriptor_of(path)
    try:
        descriptor = os.open(path, _ANEW, 0o666) if open_already is None else os.dup(open_already)
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        yield write
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def progress(count: int | None) -> Iterator[Sink]:
    """Gives what shows how far a stream is, on stderr where that is a terminal.

    Args:
        count: of its pictures; None if nobody knows.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=count)
        yield lambda *_: bar.advance(task)


def annotated(folder: Path) -> Sink:
    """Returns what writes each picture with its boxes into a folder.

    Raises:
        FileError: if the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(folder, error) from error

    def draw(frame: StreamedFrame, result: PictureResult, found: Found) -> None:
        if found.boxes is None:
            return
        from distredge.media.annotating import annotate

        stem = os.fsdecode(os.fsencode(Path(frame.name).stem)[:_LONGEST_STEM_BYTES])
        annotate(result.picture.taken(), found.boxes, folder / f"{frame.number:06d}-{stem}.jpg")

    return draw


def _cannot(path: Path, error: OSError) -> FileError:
    return FileError(f"{path}: cannot be written: {error.strerror or error}")
