"""What every test relies on: one thread per library, no timed assertion, and nothing left running."""

from __future__ import annotations

import os

# Before numpy, torch or numba is imported: their threads would fight with the workers that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import tempfile

# A profile of this machine that its user has measured must not change what a test finds.
os.environ["XDG_DATA_HOME"] = os.path.join(tempfile.gettempdir(), f"distredge-tests-{os.getpid()}")

import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

# `make test` finds the same examples every time; `make test-all` looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("fixed")

_GRACE_S = 5.0

# Helpers that live as long as the process that first needed them: Python's own, tqdm's and pyzmq's.
_LASTING_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_LASTING_THREADS = ("TMonitor", "GarbageCollectorThread")


def _children() -> set[psutil.Process]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if not any(name in command for name in _LASTING_PROCESSES):
            found.add(child)
    return found


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if type(thread).__name__ not in _LASTING_THREADS}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves a child process or a thread of its own behind.

    What a fixture of a wider scope started before the test is not the test's own. Both may take up to 5 s to end after
    they were told to.
    """
    children_before = _children()
    threads_before = _threads()
    yield
    stop_at = time.monotonic() + _GRACE_S
    _, alive = psutil.wait_procs(_children() - children_before, timeout=_GRACE_S)
    for thread in _threads() - threads_before:
        thread.join(max(0.0, stop_at - time.monotonic()))
    names = [thread.name for thread in _threads() - threads_before]
    for process in alive:
        process.kill()
    assert not alive, f"child processes left running (now killed): {alive}"
    assert not names, f"threads left running: {names}"
