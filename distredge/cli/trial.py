"""`distredge trial`: all that an owner of boards can run in ten minutes, and one file of what came out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click

from distredge.cli._common import check_writable, print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.cli._remote import reached, say_failed, ssh_of, ssh_options
from distredge.cli._trial_file import content, save, tell

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
_DEPLOY_S = 180.0
_PROFILE_S = 240.0
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
    started_s = time.monotonic()
    boards = read_boards(cluster_name)
    graph = load_model(model_name)
    made = load_cluster(cluster_name)
    # A question of ssh's is not to be drawn over.
    with _logged_in(made, boards, not no_profile, ssh_option, batch) as at, _progress() as say:
        left_out: dict[str, str] = {}
        if not no_profile:
            say("measures a quick profile of every board")
            profiles, left_out = _profiles(made, boards, model_name, at)
            devices = (replace(d, profile=profiles.get(d.name, d.profile)) for d in made.devices)
            made = replace(made, devices=tuple(devices))
        say("measures the links")
        links, unmeasured = _links(made, boards, cluster_name, keys_path)
        made = _with_links(made, links)
        made.check_covers([graph])
        say("plans")
        problem, strategy = _plan(graph, made, budget_s)
        say("deploys")
        left_s = max(30.0, min(_DEPLOY_S, started_s + LIMIT_S - time.monotonic()))
        run = _deploy(problem, strategy, cluster_name, keys_path, frames, left_s)
    found = content(problem, strategy, run, links, {**left_out, **unmeasured}, time.monotonic() - started_s)
    save(out, found)
    say_failed({**left_out, **unmeasured})
    if as_json:
        print_json(found)
    else:
        tell(found, out)


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
    made: Cluster, boards: BoardEntries, model: str, at: Outcome[Board] | None
) -> tuple[dict[str, ComputeProfile], dict[str, str]]:
    """Fresh profiles by device, and why others have none."""
    from distredge.remote.fleet import each
    from distredge.runtime.hosting.boards import is_local

    if is_local(made, made.names):
        threads = {device.threads for device in made.devices}
        by_threads = {count: _own_profile(model, count) for count in threads}
        return {device.name: by_threads[device.threads] for device in made.devices}, {}
    if at is None:
        return {}, dict.fromkeys(made.names, "the cluster file names no ssh: its own profile holds")
    done = each(
        at.done,
        lambda name, board: _read(_measured(board, boards.device(name), model)),
    )
    return dict(done.done), {**at.failed, **done.failed}


def _measured(board: Board, entry: BoardEntry, model: str) -> bytes:
    from distredge.remote.measuring import measure_profile

    return measure_profile(board, entry.name, (model,), entry.threads, _PROFILE_S, entry.provider, entry.engine_python)


def _read(content: bytes) -> ComputeProfile:
    from distredge.checked_reading import decode_json
    from distredge.errors import ProfileError
    from distredge.profiles.compute import ComputeProfile
    from distredge.profiles.schema import ProfileFile

    return ComputeProfile(decode_json(content, ProfileFile, "the board's profile", ProfileError), "measured now")


def _own_profile(model: str, threads: int) -> ComputeProfile:
    """A quick profile of this machine, measured by a process of its own."""
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
                command, env=python_environment(), capture_output=True, text=True, timeout=_PROFILE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ExecutionError(f"no profile of this machine within {_PROFILE_S:.0f} s; try --no-profile") from None
        if done.returncode != 0 or not path.is_file():
            said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise ExecutionError(f"cannot measure a profile of this machine: {said[0].removeprefix('error: ')}")
        return ComputeProfile.load(path)


def _links(
    made: Cluster, boards: BoardEntries, cluster_name: str, keys_path: Path | None
) -> tuple[dict[str, tuple[LinkMeasured, LinkMeasured]], dict[str, str]]:
    from distredge.remote.measuring import measure_links

    with _workers(made, boards, cluster_name, keys_path) as (peers, keys):
        return measure_links(peers, keys)


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


def _deploy(
    problem: Problem, strategy: Strategy, cluster_name: str, keys_path: Path | None, frames: int, limit_s: float
) -> dict[str, Any]:
    """Runs frames; what is measured before the time is over counts."""
    from distredge.cli._deployment import difference, whole_model
    from distredge.latency import evaluate
    from distredge.runtime.hosting.session import open_session

    until_s = time.monotonic() + limit_s
    inputs = _noise(problem.graph, strategy)
    latencies_s: list[float] = []
    with open_session(problem, strategy, cluster_name, keys_path=keys_path) as session:
        outputs = session.coordinator.infer(inputs)
        while len(latencies_s) < frames and time.monotonic() < until_s:
            session.coordinator.infer(inputs)
            latencies_s.append(session.coordinator.last_latency_s or 0.0)
        where, encrypted = session.where, session.encrypted
    as_run = replace(problem, cluster=replace(problem.cluster, encrypted=encrypted))
    return {
        "where": where,
        "encrypted": encrypted,
        "frames": len(latencies_s),
        "latencies_s": latencies_s,
        "measured_s": median(latencies_s) if latencies_s else None,
        "predicted_s": evaluate(as_run, strategy),
        "largest_relative_difference": difference(whole_model(problem.graph, strategy, inputs), outputs),
    }


def _noise(graph: Graph, strategy: Strategy) -> dict[str, NDArray[Any]]:
    """Seeded pixels, or what the model takes."""
    import numpy as np

    rng = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for name, shape in zip(graph.input_names, graph.input_shapes, strict=True):
        dtype = np.dtype(strategy.input.dtype if strategy.input.pixels else graph.tensors[name].dtype)
        noise = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.standard_normal(shape)
        found[name] = noise.astype(dtype)
    return found
