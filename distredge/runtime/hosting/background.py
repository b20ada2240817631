"""Workers of this machine that go on after the command that started them, and the file that remembers them.

The folder of a cluster (``$XDG_STATE_HOME/distredge/clusters/NAME``, readable by its owner alone) holds a fresh set of
keys, the workers' logs and ``workers.json``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import psutil
from msgspec import Struct

from distredge.errors import ExecutionError, FileError
from distredge.folders import user_folder
from distredge.runtime.hosting.worker_process import START_S, WorkerProcess, local_order, stop_all
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.orders import STOP_S
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys, read_keys, write_keys

STATE_FILE: Final = "workers.json"


class BackgroundWorker(Struct, frozen=True):
    """One worker: its process, when that started (process ids come again), and where it listens."""

    pid: int
    started_s: float
    control: str
    data: str

    @property
    def alive(self) -> bool:
        """Whether that very process runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class _State(Struct, frozen=True):
    workers: dict[str, BackgroundWorker]


def state_folder(cluster: str) -> Path:
    """Where a cluster's background workers are remembered."""
    return user_folder("XDG_STATE_HOME", ".local", "state") / "distredge" / "clusters" / cluster


def background_workers(cluster: str) -> dict[str, BackgroundWorker]:
    """The background workers of a cluster that run."""
    try:
        state = msgspec.json.decode((state_folder(cluster) / STATE_FILE).read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError):
        return {}
    return {name: worker for name, worker in state.workers.items() if worker.alive}


def background_addresses(cluster: str, names: Iterable[str]) -> tuple[tuple[WorkerAddress, ...], Keys] | None:
    """Addresses and the requester's keys, when all of these workers run in the background; else None."""
    running = background_workers(cluster)
    wanted = list(names)
    if not wanted or any(name not in running for name in wanted):
        return None
    keys = read_keys(state_folder(cluster), REQUESTER_NAME)
    addresses = [WorkerAddress(n, running[n].control, running[n].data, keys.public[n]) for n in wanted]
    return tuple(addresses), keys


def background_ended(cluster: str) -> Callable[[str], str | None]:
    """Returns what says how one of the workers that run now has ended, for people; None while it runs.

    Nobody starts it again where it listened: the next ones get ports and keys of their own.
    """
    running = background_workers(cluster)
    return lambda name: None if name not in running or running[name].alive else "its process has ended"


def start_background(
    cluster: str, threads: Mapping[str, int], memory_bytes: Mapping[str, int | None]
) -> dict[str, BackgroundWorker]:
    """Starts workers that go on after this process.

    Args:
        cluster: name of the cluster.
        threads: worker -> threads of its engine.
        memory_bytes: worker -> what it may use; None, or none named: the machine's.

    Raises:
        ExecutionError: if some of the cluster's workers run already, or one does not come up.
    """
    running = background_workers(cluster)
    if running:
        raise ExecutionError(f"workers of '{cluster}' run already: {', '.join(running)}; end them with: cluster stop")
    folder = state_folder(cluster)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made: {error.strerror}; set XDG_STATE_HOME to another place") from error
    keys = make_keys(threads)
    write_keys(keys, folder)
    processes: list[WorkerProcess] = []
    try:
        for name, count in threads.items():
            order = local_order(
                name,
                keys[name].for_worker(),
                threads=count,
                memory_bytes=memory_bytes.get(name),
                outlive_parent=True,
            )
            processes.append(WorkerProcess(order, folder / f"{name}.log"))
        until_s = time.monotonic() + START_S
        workers = {}
        for process in processes:
            bound = process.wait_bound(until_s)
            started_s = psutil.Process(process.pid).create_time()
            workers[process.name] = BackgroundWorker(process.pid, started_s, bound.control, bound.data)
        (folder / STATE_FILE).write_bytes(msgspec.json.encode(_State(workers)))
    except BaseException:
        stop_all(processes)
        raise
    for process in processes:
        process.let_go()
    return workers


def stop_background(cluster: str) -> tuple[str, ...]:
    """Ends the background workers of a cluster; returns their names."""
    running = background_workers(cluster)
    for worker in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGTERM)
    until_s = time.monotonic() + STOP_S
    for worker in running.values():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(worker.pid)
            try:
                process.wait(max(0.0, until_s - time.monotonic()))
            except psutil.TimeoutExpired:
                if worker.alive:
                    process.kill()
    shutil.rmtree(state_folder(cluster), ignore_errors=True)
    return tuple(running)
