"""Running `ip` and `tc`, which make and shape emulated networks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from distredge.errors import ExecutionError

COMMAND_S = 30.0
"""Within which one call must end."""


def why_no_namespaces() -> str | None:
    """Returns why this process cannot make network namespaces; None when nothing speaks against it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no '{tool}' here (package iproute2)"
    return None


def call(argv: Sequence[str], lines: Iterable[str] = ()) -> str:
    """Runs one command and returns what it writes.

    Args:
        argv: program and arguments.
        lines: its standard input.

    Raises:
        ExecutionError: if it fails, with what it says.
    """
    text = "".join(f"{line}\n" for line in lines)
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExecutionError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ExecutionError(f"{' '.join(argv)}: {said}")
    return done.stdout


def in_namespace(tool: str, namespace: str, lines: Iterable[str]) -> None:
    """Runs several commands of `ip` or `tc` in a namespace, one a line, up to the first that fails.

    Raises:
        ExecutionError: if one fails.
    """
    call([tool, "-n", namespace, "-batch", "-"], lines)
