"""Reads the facts of boards: by ssh where the cluster file says how, and of this machine in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from distredge.errors import ExecutionError
from distredge.remote.checks.facts import Facts, read_facts
from distredge.remote.fleet import each
from distredge.remote.ssh import Board

READ_S: Final = 30.0
"""Within which a board has told all of its facts; most take two or three seconds."""


@dataclass(frozen=True)
class Reading:
    """What a board told, and when it was asked.

    Attributes:
        facts: of the board.
        before_s, after_s: this machine's clock around the board's answer, seconds since 1970.
    """

    facts: Facts
    before_s: float
    after_s: float


def read_boards(
    boards: Mapping[str, Board], scripts: Mapping[str, str], timeout_s: float = READ_S
) -> tuple[dict[str, Reading], dict[str, str]]:
    """Reads boards by ssh, all at the same time.

    Args:
        boards: by name, logged in to.
        scripts: of `facts.script`, by name.
        timeout_s: for each.

    Returns:
        What was read, and why what is missing could not be.
    """

    def read(name: str, board: Board) -> Reading:
        # Asked for alone, since the rest of the script takes seconds.
        before_s = time.time()
        clock = board.run("date +%s.%N", timeout_s=timeout_s).stdout
        after_s = time.time()
        told = board.run(scripts[name], timeout_s=timeout_s)
        return _reading(clock, told.stdout, before_s, after_s)

    outcome = each(boards, read)
    return dict(outcome.done), dict(outcome.failed)


def read_here(script: str, timeout_s: float = READ_S) -> Reading:
    """Reads this machine.

    Raises:
        ExecutionError: if it takes too long.
    """
    before_s = time.time()
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
        cwd=os.path.expanduser("~"), start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise ExecutionError(f"this machine's tools did not answer within {timeout_s:g} s") from None
    return _reading("", out, before_s, time.time())


def _reading(clock: str, told: str, before_s: float, after_s: float) -> Reading:
    try:
        facts = read_facts(told if not clock else f"{told}\n@@ clock\n{clock}")
    except (ValueError, OverflowError) as error:
        raise ExecutionError(f"its answer cannot be read: {error}") from error
    if not facts.complete:
        raise ExecutionError("its answer broke off: is its shell a POSIX one?")
    return Reading(facts, before_s, after_s)
