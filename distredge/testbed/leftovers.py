"""Which testbeds there are in network namespaces of this machine, and removing those whose owner is no more."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass

import psutil

from distredge.errors import ExecutionError
from distredge.testbed.commands import call
from distredge.testbed.namespaces import FOLDER, PREFIX

_OURS = re.compile(rf"{re.escape(PREFIX)}(\d+)(?:-\d+)?")


@dataclass(frozen=True)
class Found:
    """Namespaces of one testbed.

    Attributes:
        number: of the testbed.
        namespaces: their names.
        pids: processes in them.
        watched: whether its watchdog runs: its owner lives, or what it made is being removed.
    """

    number: int
    namespaces: tuple[str, ...]
    pids: tuple[int, ...]
    watched: bool


def find_testbeds() -> tuple[Found, ...]:
    """Returns the testbeds whose namespaces are there, by number; other namespaces are none of its business."""
    by_number: dict[int, list[str]] = {}
    names = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []
    for name in names:
        match = _OURS.fullmatch(name)
        if match is not None:
            by_number.setdefault(int(match[1]), []).append(name)
    watched = _watched()
    return tuple(
        Found(number, tuple(group), tuple(pid for name in group for pid in _pids(name)), bool(watched & set(group)))
        for number, group in sorted(by_number.items())
    )


def clean() -> tuple[str, ...]:
    """Ends processes in, and removes, the namespaces of testbeds that nobody watches; returns their names.

    Raises:
        ExecutionError: if one cannot be removed.
    """
    removed = []
    for found in find_testbeds():
        if found.watched:
            continue
        for pid in found.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for name in found.namespaces:
            call(["ip", "netns", "del", name])
            removed.append(name)
    return tuple(removed)


def _pids(name: str) -> list[int]:
    with suppress(ExecutionError):
        return [int(pid) for pid in call(["ip", "netns", "pids", name]).split()]
    return []


def _watched() -> set[str]:
    """Namespaces that some watchdog has among its arguments."""
    found: set[str] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if any(word.endswith("after_owner.py") for word in command):
                found |= set(command)
    return found
