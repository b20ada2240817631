"""`distredge trial`: all that an owner of boards can run in ten minutes, and one file of what came out."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click

from distredge.cli._common import check_writable, print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.cli._remote import reached, ssh_of, ssh_options
from distredge.cli._trial_file import LeftOut, content, save, tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.cluster import Cluster
    from distredge.cluster_file import BoardEntries, BoardEntry
    from distredge.model.graph import Graph
    from distredge.problem import Problem
    from distredge.profiles.compute import ComputeProfile
    from distredge.remote.fleet import Outcome
    from distredge.remote.measuring import LinkMeasured
    from distredge.remote.ssh import Board
    from distredge.runtime.protocol.addresses import PeerAddress
    from distredge.runtime.protocol.security import Keys
    from distredge.strategy import Strategy

LIMIT_S: Final = 600.0
"""Of everything; what has no time left is left out, and the file says so."""

_PLAN_S = 20.0

_STEPS_S: Final = {"profiles": (240.0, 160.0), "links": (120.0, 100.0), "plan": (120.0, 60.0), "run": (180.0, 10.0)}
"""What each step takes at most, and what it leaves for those after it."""
_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)

Say = Callable[[str], None]


@click.command()
@click.option("--cluster", "cluster_name", required=True, help="A cluster file, or a shipped one such as this-machine.")
@click.option("--model", "model_name", default="mobilenet-v2", show_default=True, help="Of the zoo.")
@click.option("--frames", type=click.IntRange(1, 1000), default=20, show_default=True, help="To run, after one more.")
@click.option("--out", type=_FILE, default="trial.json", show_default=True, help="The file to send back.")
@click.option("--budget-s", type=Number(0, 120, above=True), default=_PLAN_S, show_default=True,
              help="Seconds for planning.")  # fmt: skip
@click.option("--no-profile", is_flag=True, help="Measure no profiles; those of the cluster file hold.")
@click.option("--keys", "keys_path", type=_FOLDER, help="Folder of keys; default: 'keys' beside the cluster file.")
@ssh_options
@json_option
@verbose_option
def trial(
    cluster_name: str,
    model_name: str,
    frames: int,
    out: Path,
    budget_s: float,
    no_profile: bool,
    keys_path: Path | None,
    ssh_option: tuple[str, ...],
    batch: bool,
    as_json: bool,
) -> None:
    """Profile, probe, plan, deploy and compare, within ten minutes, and write one file that can be sent back.

    On boards their workers run already (`distredge cluster start`) and are idle. The file holds figures, kinds of
    processors and versions; no addresses, no names of users or boards, no keys.
    """
    from distredge.cluster import load_cluster
    from distredge.cluster_file import read_boards
    from distredge.errors import ConfigError
    from distredge.model import zoo
    from distredge.model.capture import load_model

    check_writable(out)
    if zoo.find(model_name) is None:
        raise ConfigError(f"--model: found '{model_name}', accepted: a model of the zoo, which boards have too")
    clock = _Clock(LIMIT_S)
    boards = read_boards(cluster_name)
    graph = load_model(model_name)
    made = load_cluster(cluster_name)
    # A question of ssh's is not to be drawn over.
    with _logged_in(made, boards, not no_profile, ssh_option, batch) as at, _progress() as say:
        left_out: list[LeftOut] = []
        if not no_profile:
            say("measures a quick profile of every board")
            profiles, without = _profiles(made, boards, model_name, at, clock)
            left_out += [LeftOut(name, "profile", why) for name, why in without.items()]
            devices = (replace(d, profile=profiles.get(d.name, d.profile)) for d in made.devices)
            made = replace(made, devices=tuple(devices))
        say("measures the links")
        links, unmeasured = _links(made, boards, cluster_name, keys_path, clock)
        left_out += [LeftOut(name, "link", why) for name, why in unmeasured.items()]
        made = _with_links(made, links)
        made.check_covers([graph])
        say("plans")
        problem, strategy = _plan(graph, made, min(budget_s, max(1.0, clock.left_s("plan"))))
        say("deploys")
        run = _Run(problem, strategy, frames)
        if not clock.bounded("run", lambda limit_s: run.go(cluster_name, keys_path, limit_s)):
            left_out.append(LeftOut(None, "run", f"its time was over after {len(run.latencies_s)} of {frames} frames"))
    found = content(problem, strategy, run.told(), links, left_out, clock.passed_s)
    save(out, found)
    for device, what, why in left_out:
        click.echo(f"{'' if device is None else f'{device}: '}{what}: {why}", err=True)
    if as_json:
        print_json(found)
    else:
        tell(found, out)


class _TimeOver(BaseException):
    """A step's time is over: no error of a board, which would be told as one and gone on with."""


class _Clock:
    """What is left of the time for everything.

    Args:
        limit_s: that time.
    """

    def __init__(self, limit_s: float) -> None:
        self._began_s, self._limit_s = time.monotonic(), limit_s

    @property
    def passed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_s

    def left_s(self, step: str) -> float:
        """Seconds that a step has, 0 if none."""
        most_s, kept_s = _STEPS_S[step]
        return max(0.0, min(most_s, self._limit_s - self.passed_s - kept_s))

    def bounded(self, step: str, work: Callable[[float], None]) -> bool:
        """Does a step, which ends as by Ctrl-C when its time is over; returns whether it came to its own end.

        Args:
            step: which.
            work: told its seconds; of the main thread.
        """
        left_s = self.left_s(step)
        if left_s <= 0:
            return False

        def come(number: int, frame: object) -> None:
            raise _TimeOver

        before = signal.signal(signal.SIGALRM, come)
        try:
            signal.setitimer(signal.ITIMER_REAL, left_s)
            try:
                work(left_s)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except _TimeOver:
            return False
        finally:
            signal.signal(signal.SIGALRM, before)
        return True


@contextlib.contextmanager
def _progress() -> Iterator[Say]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=1)
        yield lambda text: shown.update(task, description=text)


@contextlib.contextmanager
def _logged_in(
    made: Cluster, boards: BoardEntries, profiles: bool, ssh_option: Sequence[str], batch: bool
) -> Iterator[Outcome[Board] | None]:
    """The boards on which profiles are measured; None: on none."""
    from distredge.runtime.hosting.boards import is_local

    if not profiles or is_local(made, made.names) or all(entry.ssh is None for entry in boards.devices):
        yield None
        return
    with reached(ssh_of(boards), ssh_option, batch) as at:
        yield at


def _profiles(
    made: Cluster, boards: BoardEntries, model: str, at: Outcome[Board] | None, clock: _Clock
) -> tuple[dict[str, ComputeProfile], dict[str, str]]:
    """Fresh profiles by device, and why others have none."""
    from distredge.errors import ExecutionError
    from distredge.remote.fleet import each
    from distredge.runtime.hosting.boards import is_local

    if is_local(made, made.names):
        by_threads: dict[int, ComputeProfile] = {}
        failed: dict[int, str] = {}
        for count in sorted({device.threads for device in made.devices}):
            try:
                by_threads[count] = _own_profile(model, count, clock.left_s("profiles"))
            except ExecutionError as error:
                failed[count] = str(error)
        found = {device.name: by_threads[device.threads] for device in made.devices if device.threads in by_threads}
        return found, {device.name: failed[device.threads] for device in made.devices if device.threads in failed}
    if at is None:
        return {}, dict.fromkeys(made.names, "the cluster file names no ssh: its own profile holds")
    # Workers of one computer would disturb each other's profiles.
    turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def measure(name: str, board: Board) -> ComputeProfile:
        entry = boards.device(name)
        with turns[entry.address]:
            limit_s = clock.left_s("profiles")
            if limit_s <= 0:
                raise ExecutionError("no time is left")
            return _read(_measured(board, entry, model, limit_s))

    done = each(at.done, measure)
    return dict(done.done), {**at.failed, **done.failed}


def _measured(board: Board, entry: BoardEntry, model: str, limit_s: float) -> bytes:
    from distredge.remote.measuring import measure_profile

    return measure_profile(board, entry.name, (model,), entry.threads, limit_s, entry.provider, entry.engine_python)


def _read(content: bytes) -> ComputeProfile:
    from distredge.checked_reading import decode_json
    from distredge.errors import ProfileError
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.schema import ProfileFile

    return ComputeProfile(decode_json(content, ProfileFile, "the board's profile", ProfileError), "measured now")


def _own_profile(model: str, threads: int, limit_s: float) -> ComputeProfile:
    """A quick profile of this machine, measured by a process of its own within a time."""
    import subprocess

    from distredge.child_processes import python_command, python_environment
    from distredge.errors import ExecutionError
    from distredge.folders import temporary_folder
    from distredge.profiles.compute import ComputeProfile

    with temporary_folder("to measure a profile") as folder:
        path = folder / "profile.json"
        command = python_command(
            "distredge", "profile", "run", "--quick", "--json", "--model", model, "--threads", str(threads),
            "--out", str(path),
        )  # fmt: skip
        try:
            done = subprocess.run(
                command, env=python_environment(), capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExecutionError(f"no profile of this machine within {limit_s:.0f} s") from None
        if done.returncode != 0 or not path.is_file():
            said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise ExecutionError(f"cannot measure a profile of this machine: {said[0].removeprefix('error: ')}")
        return ComputeProfile.load(path)


def _links(
    made: Cluster, boards: BoardEntries, cluster_name: str, keys_path: Path | None, clock: _Clock
) -> tuple[dict[str, tuple[LinkMeasured, LinkMeasured]], dict[str, str]]:
    from distredge.remote.measuring import measure_links

    with _workers(made, boards, cluster_name, keys_path) as (peers, keys):
        return measure_links(peers, keys, limit_s=clock.left_s("links"))


@contextlib.contextmanager
def _workers(
    made: Cluster, boards: BoardEntries, cluster_name: str, keys_path: Path | None
) -> Iterator[tuple[list[PeerAddress], Keys]]:
    """Where the workers are, and the requester's keys; for a cluster of this machine some are started meanwhile."""
    from distredge.remote.measuring import peers_of
    from distredge.runtime.hosting.boards import check_addresses, cluster_keys, is_local, keys_folder
    from distredge.runtime.hosting.worker_process import START_S, WorkerProcesses, local_order
    from distredge.runtime.protocol.addresses import PeerAddress
    from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys

    if not is_local(made, made.names):
        check_addresses(boards)
        keys = cluster_keys(boards, keys_folder(cluster_name, keys_path))
        yield peers_of(boards, made.names, keys), keys
        return
    every = make_keys(made.names)
    with contextlib.closing(WorkerProcesses([local_order(n, every[n].for_worker()) for n in made.names])) as workers:
        addresses = workers.wait(START_S, every[REQUESTER_NAME])
        yield [PeerAddress(a.name, a.data, a.public_key) for a in addresses], every[REQUESTER_NAME]


def _with_links(made: Cluster, links: Mapping[str, tuple[LinkMeasured, LinkMeasured]]) -> Cluster:
    """The cluster with what was measured; one that was not keeps the file's link."""
    from distredge.cluster import Link

    devices = []
    for device in made.devices:
        pair = links.get(device.name)
        up, down = (Link(way.rate_bps, rtt_s=way.rtt_s) for way in pair) if pair else (device.uplink, device.downlink)
        devices.append(replace(device, uplink=up, downlink=down))
    return replace(made, devices=tuple(devices))


def _plan(graph: Graph, made: Cluster, budget_s: float) -> tuple[Problem, Strategy]:
    from distredge.planners import run
    from distredge.planners.budget import Budget
    from distredge.problem import Problem

    problem = Problem.lossless(graph, made)
    return problem, run(problem, "auto", Budget(budget_s), 0)


class _Run:
    """Running frames; what is measured before the time is over counts.

    Args:
        problem: what was planned for.
        strategy: what is run.
        frames: how many, after one more.
    """

    def __init__(self, problem: Problem, strategy: Strategy, frames: int) -> None:
        self._problem, self._strategy, self._frames = problem, strategy, frames
        self._where: str | None = None
        self._encrypted = problem.cluster.encrypted
        self._difference: float | None = None
        self.latencies_s: list[float] = []

    def go(self, cluster_name: str, keys_path: Path | None, limit_s: float) -> None:
        """Deploys and runs."""
        from distredge.cli._deployment import difference, whole_model
        from distredge.runtime.hosting.session import open_session

        problem, strategy = self._problem, self._strategy
        inputs = _noise(problem.graph, strategy)
        expected = whole_model(problem.graph, strategy, inputs)
        with open_session(problem, strategy, cluster_name, keys_path=keys_path, deadline_s=limit_s) as session:
            self._where, self._encrypted = session.where, session.encrypted
            self._difference = difference(expected, session.coordinator.infer(inputs))
            while len(self.latencies_s) < self._frames:
                session.coordinator.infer(inputs)
                self.latencies_s.append(session.coordinator.last_latency_s or 0.0)

    def told(self) -> dict[str, Any]:
        """What came of it so far."""
        from distredge.latency import evaluate

        as_run = replace(self._problem, cluster=replace(self._problem.cluster, encrypted=self._encrypted))
        return {
            "where": self._where,
            "encrypted": self._encrypted,
            "frames": len(self.latencies_s),
            "latencies_s": self.latencies_s,
            "measured_s": median(self.latencies_s) if self.latencies_s else None,
            "predicted_s": evaluate(as_run, self._strategy),
            "largest_relative_difference": self._difference,
        }


def _noise(graph: Graph, strategy: Strategy) -> dict[str, NDArray[Any]]:
    """Seeded pixels, or what the model takes."""
    import numpy as np

    rng = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for name, shape in zip(graph.input_names, graph.input_shapes, strict=True):
        dtype = np.dtype(strategy.input.element_dtype if strategy.input.pixels else graph.tensors[name].dtype)
        noise = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.standard_normal(shape)
        found[name] = noise.astype(dtype)
    return found
