"""Where the pictures of a stream come from, opened before anything else is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from distredge.media.pictures import Picture, ReadAhead, find_pictures, lines_of, read_picture

if TYPE_CHECKING:
    from distredge.media.jpeg import FileLimits

READERS: Final = 2
"""Pictures of a list that are decoded at once; Python leaves the processor to others meanwhile."""


class PictureSource(Protocol):
    """Pictures, read one by one as they are taken; a context manager."""

    @property
    def count(self) -> int | None:
        """How many there are; None if nobody knows."""

    @property
    def dropped(self) -> int:
        """Pictures so far that nobody took in time."""

    def __iter__(self) -> Iterator[Picture]: ...

    def close(self) -> None:
        """Gives back what it holds."""


class _Files:
    """Files that are there, or whose names come one by one."""

    dropped = 0

    def __init__(self, names: Iterator[str], count: int | None, keep_files: FileLimits | None) -> None:
        self._names = names
        self._keep_files = keep_files
        self._ahead = None if count is None else ReadAhead(names, READERS, keep_files)
        self.count = count

    def __iter__(self) -> Iterator[Picture]:
        # Names that come one by one, as from a camera's folder, are not waited for with a picture in hand.
        if self._ahead is not None:
            return iter(self._ahead)
        return (read_picture(name, self._keep_files) for name in self._names)

    def close(self) -> None:
        """Ends the threads that read: a stream that was broken off may hold on to what it iterates over."""
        if self._ahead is not None:
            self._ahead.close()


def open_files(what: str, keep_files: FileLimits | None = None) -> PictureSource:
    """Opens a folder, a pattern such as 'folder/*.jpg', or a file.

    Args:
        what: where they are.
        keep_files: JPEG files within these limits are left as they are, for those who get them to decode.

    Raises:
        MediaError: if there are no pictures.
    """
    paths = find_pictures(what)
    return _Files(map(str, paths), len(paths), keep_files)


def open_names(descriptor: int, keep_files: FileLimits | None = None) -> PictureSource:
    """Opens a list of names, one a line, that may go on growing.

    Args:
        descriptor: of the open list, such as 0 for stdin; it stays open.
        keep_files: as for `open_files`.
    """
    return _Files(lines_of(descriptor), None, keep_files)
