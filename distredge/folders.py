"""Folders of the user's own, also on machines where there is no home, or nothing in it can be written."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distredge.errors import FileError

_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where temporary files may be, after `TMPDIR` and what the session has of its own."""

_MATPLOTLIB, _TORCH = "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"


def private_folder(name: str) -> tuple[Path, bool] | None:
    """Returns a folder for temporary files that is this user's alone, and whether it was made now; None without one.

    It outlives the process, so that a cache in it is one. What is read from a cache may be run: a folder that anybody
    else made or can write is not taken.

    Args:
        name: what it is for; part of its own name.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    for base in (os.environ.get("TMPDIR"), os.environ.get("XDG_RUNTIME_DIR"), *_PLACES):
        if not base or not os.path.isabs(base):
            continue
        folder = Path(base) / f"distredge-{name}-{user}"
        try:
            made = _make(folder)
            found = folder.lstat()
        except OSError:
            continue
        is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022
        if is_private and os.access(folder, os.W_OK | os.X_OK):
            return folder, made
    return None


def can_be_made(folder: str | Path) -> bool:
    """Whether files can be written into a folder, which may have to be made with those above it."""
    path = Path(folder).absolute()
    nearest = next((place for place in (path, *path.parents) if _is_there(place)), None)
    return nearest is not None and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def home() -> Path | None:
    """Returns the user's home; None where neither `HOME` nor the system knows one."""
    path = os.path.expanduser("~")
    return Path(path) if os.path.isabs(path) else None


def user_folder(variable: str, *below_home: str) -> Path:
    """Returns the folder of one kind of the user's files, which need not exist.

    Args:
        variable: of the environment; wins where it is set, as the XDG base directory specification has it.
        below_home: where it is in the user's home otherwise.
    """
    given = os.environ.get(variable)
    if given:
        return Path(given)
    base = home()
    if base is None:
        found = private_folder("home")
        base = found[0] if found is not None else Path(os.devnull)
    return base.joinpath(*below_home)


def settle_caches(spare: Path | None = None) -> None:
    """Tells libraries where their caches are to be, where what they would choose themselves cannot be written.

    matplotlib warns then, and without a folder for temporary files neither it nor torch's optimisers can be imported.

    Args:
        spare: a folder of the user's that can be written; a last resort, in which nothing is left at the end.
    """
    if not _has_temporary():
        place = _passing(spare)
        if place is not None:
            os.environ["TMPDIR"] = tempfile.tempdir = place
        elif _TORCH not in os.environ:
            # It must be there, and is only written when something is compiled with torch, which nothing here does.
            os.environ[_TORCH] = os.path.dirname(os.path.abspath(__file__))
    own = (user_folder("XDG_CONFIG_HOME", ".config"), user_folder("XDG_CACHE_HOME", ".cache"))
    if all(can_be_made(folder / "matplotlib") for folder in own):
        return
    found = private_folder("matplotlib") if _MATPLOTLIB not in os.environ else None
    if found is not None:
        os.environ[_MATPLOTLIB] = str(found[0])


@contextlib.contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Makes a folder that is removed at the end.

    Args:
        purpose: what it is needed for, as the end of "... is needed ...".

    Raises:
        FileError: if there is no folder for temporary files that can be written.
    """
    try:
        found = tempfile.TemporaryDirectory(prefix="distredge-")
    except OSError as error:
        raise FileError(f"a folder for temporary files is needed {purpose}: {error.strerror}; set TMPDIR") from error
    with found as name:
        yield Path(name)


def _passing(spare: Path | None) -> str | None:
    """Makes a folder in another that is removed when the process ends; None where that is not possible."""
    if spare is None:
        return None
    try:
        place = tempfile.mkdtemp(prefix=".distredge-", dir=spare)
    except OSError:
        return None
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def _has_temporary() -> bool:
    try:
        tempfile.gettempdir()
    except OSError:
        return False
    return True


def _is_there(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return False


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True
