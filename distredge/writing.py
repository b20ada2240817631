"""Writing a result file: whole or not at all, and into whatever the path leads to.

A file is written beside its place and renamed, so that nobody finds half of one. A pipe, a terminal or another device
has no such place: the bytes go into it. `/dev/stdout`, `/dev/fd/63` (a shell's `>(command)`) and their like stand for
something that is open already, which is written on where it stands: opening it anew would cut a file short that others
write to, and is not possible at all for a socket.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from distredge.errors import FileError, located

PICTURES = (".png", ".svg", ".pdf")
"""Endings of pictures that can be drawn."""

_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/(?:self|thread-self|\d+/task/\d+|(\d+))/fd/(\d+)")
_MOST_LINKS = 40


def descriptor_of(path: str | Path) -> int | None:
    """Returns which open descriptor of this process a path stands for; None for an ordinary path."""
    place = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        if place in _STANDARD:
            return _STANDARD[place]
        found = _DESCRIPTOR.fullmatch(place)
        if found is not None and found[2] in (None, str(os.getpid())):
            return int(found[1] or found[3])
        try:
            place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
        except OSError:
            return None
    return None


def is_file(path: str | Path) -> bool:
    """Whether a path is, or can become, a regular file of its own; false for pipes, terminals and other devices."""
    if descriptor_of(path) is not None:
        return False
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def write(path: str | Path, content: bytes | str) -> None:
    """Writes a file, or into what a path stands for that is none.

    Args:
        path: where to.
        content: text is written as UTF-8.

    Raises:
        OSError: if that is not possible.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    descriptor = descriptor_of(path)
    if descriptor is not None:
        _write_on(descriptor, data)
    elif is_file(path):
        _replace(Path(os.path.realpath(path)), data)
    else:
        with open(path, "wb") as file:
            file.write(data)


def as_text(name: str) -> str:
    """Returns a file's name as files and other machines can hold it: bytes of it that are no UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def picture_format(path: str | Path) -> str:
    """Returns what kind of picture a path asks for: its ending, PNG where it leads to what has no name of its own.

    Raises:
        FileError: if the ending is none of `PICTURES`.
    """
    suffix = Path(path).suffix.lower()
    if not suffix and not is_file(path):
        return "png"
    if suffix not in PICTURES:
        raise FileError(located(path, "", suffix or "no ending", " or ".join(PICTURES)))
    return suffix[1:]


def write_picture(figure: Any, path: str | Path, **options: Any) -> None:
    """Writes a chart.

    Args:
        figure: matplotlib's.
        path: its ending says the format, see `picture_format`.
        options: of `Figure.savefig`.

    Raises:
        FileError: if the ending says none, or it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=picture_format(path), **options)
    try:
        write(path, content.getvalue())
    except OSError as error:
        raise FileError(f"{path}: cannot write the picture: {error.strerror or error}") from error


def _write_on(descriptor: int, data: bytes) -> None:
    # What was said before stands before.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)


def _replace(target: Path, data: bytes) -> None:
    beside = target.with_name(f".{os.getpid()}.{target.name}"[:200])
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    try:
        try:
            beside.write_bytes(data)
        except OSError as error:
            if mode is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            # A file that may be written in a folder that may not, such as one that a container is given.
            target.write_bytes(data)
            return
        if mode is not None:
            beside.chmod(mode)
        try:
            os.replace(beside, target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            target.write_bytes(data)  # it is a mount point of its own
    finally:
        beside.unlink(missing_ok=True)
