"""Keys for boards that join: a set that is there keeps its keys, and everybody's list grows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from distredge.errors import FileError
from distredge.runtime.protocol.security import (
    FORMAT,
    PUBLIC_FILE,
    REQUESTER_NAME,
    make_keys,
    read_keys,
    write_keys,
)
from distredge.writing import write


def complete_keys(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Makes keys for those that have none; returns their names.

    Args:
        folder: of the keys; made where there is none.
        names: of all devices.

    Raises:
        FileError: if a file cannot be read or written, or a secret is there without its public key.
        KeyFileError: if the requester's key cannot be used.
    """
    if not (folder / PUBLIC_FILE).exists():
        write_keys(make_keys(names), folder)
        return tuple(names)
    public = dict(read_keys(folder, REQUESTER_NAME).public)
    lacking = [name for name in names if name not in public]
    if not lacking:
        return ()
    made = make_keys(lacking)
    public |= {name: made[name].public[name] for name in lacking}
    written: list[Path] = []
    try:
        for name in lacking:
            path = folder / f"{name}.secret"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                written.append(path)
                file.write(made[name].secret_key + "\n")
        write(folder / PUBLIC_FILE, json.dumps({"format": FORMAT, "keys": public}, indent=1) + "\n")
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise FileError(f"{error.filename or folder}: cannot write the keys: {error.strerror}") from error
    return tuple(lacking)
