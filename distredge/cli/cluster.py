"""`distredge cluster`: writes a cluster file; starts, stops, lists and upgrades workers, here and on boards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.cli._remote import Step, dry_run_option, say_steps, ssh_options
from distredge.cli.cluster_boards import RUNNERS, Ssh, in_words, logs, start_boards, states_of, stop_boards, upgrade
from distredge.cli.cluster_init import init
from distredge.cli.worker import PROVIDERS

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.errors import ClusterError
    from distredge.remote.worker_scripts import Runner
    from distredge.runtime.protocol.addresses import WorkerAddress
    from distredge.runtime.protocol.security import Keys

_FOLDER = click.Path(file_okay=False, path_type=Path)
_KEYS_HELP = "Folder of keys; default: 'keys' beside the cluster file."


@click.group()
@verbose_option
def cluster() -> None:
    """Write a cluster file; start, stop, list and upgrade its workers, here and by ssh."""


for command in (init, logs, upgrade):
    cluster.add_command(command)


@cluster.command()
@click.argument("cluster_name", metavar="CLUSTER")
@click.option("--runner", type=click.Choice(RUNNERS), default="auto", show_default=True,
              help="On boards: a unit of systemd, or a process; auto: a unit where it outlasts logouts.")  # fmt: skip
@click.option("--provider", type=click.Choice(PROVIDERS),
              help="On boards: what computes on all of them; default: as the cluster file says.")  # fmt: skip
@click.option("--keys", "keys_path", type=_FOLDER, help=_KEYS_HELP)
@click.option("--plaintext", is_flag=True, help="On boards: no encryption, no authentication.")
@ssh_options
@dry_run_option
@json_option
@verbose_option
def start(
    cluster_name: str,
    runner: Runner,
    provider: str | None,
    keys_path: Path | None,
    plaintext: bool,
    ssh_option: tuple[str, ...],
    batch: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start the workers of a cluster; they go on until `cluster stop`.

    Boards whose `ssh` the cluster file names get what their worker reads and nothing else: the cluster file, its own
    profile, and its keys. What runs already with the very same goes on. For other boards it says what to run on each.
    """
    from distredge.cluster import load_cluster
    from distredge.cluster_file import read_boards
    from distredge.runtime.hosting.background import start_background
    from distredge.runtime.hosting.boards import is_local

    boards = read_boards(cluster_name)
    if any(entry.ssh is not None for entry in boards.devices):
        options = ("--provider", provider) if provider is not None else ()
        options = (*options, "--plaintext") if plaintext else options
        keys = None if plaintext else _keys_folder(cluster_name, keys_path)
        start_boards(Path(cluster_name), boards, runner, options, keys, Ssh(ssh_option, batch), dry_run, as_json)
        return
    made = load_cluster(cluster_name)
    if not is_local(made, made.names):
        raise _by_hand(made, cluster_name)
    if dry_run:
        say_steps([Step("here", f"starts {len(made.names)} worker processes: {', '.join(made.names)}")], as_json)
        return
    workers = start_background(
        made.name,
        {device.name: device.threads for device in made.devices},
        {device.name: device.memory_bytes for device in made.devices},
    )
    if as_json:
        print_json({name: {"pid": w.pid, "control": w.control, "data": w.data} for name, w in workers.items()})
        return
    for name, worker in workers.items():
        click.echo(f"{name}: process {worker.pid}, control {worker.control}, data {worker.data}")
    click.echo(
        f"deploy-strategy --cluster {cluster_name} uses them; end them with: distredge cluster stop {cluster_name}"
    )


def _by_hand(made: Cluster, cluster_name: str) -> ClusterError:
    from distredge.errors import ClusterError

    commands = "; ".join(
        f"on {device.address}: distredge worker --cluster {Path(cluster_name).name} --name {device.name}"
        for device in made.devices
    )
    return ClusterError(
        f"cluster '{made.name}' has boards of their own; start their workers there: {commands}; or write "
        'ssh = "user@host" under each device, and this command does it'
    )


def _keys_folder(cluster_name: str, keys_path: Path | None) -> Path:
    from distredge.runtime.hosting.boards import keys_folder

    return keys_folder(cluster_name, keys_path)


@cluster.command()
@click.argument("cluster_name", metavar="CLUSTER")
@ssh_options
@dry_run_option
@json_option
@verbose_option
def stop(cluster_name: str, ssh_option: tuple[str, ...], batch: bool, dry_run: bool, as_json: bool) -> None:
    """End the workers that `cluster start` started."""
    from distredge.cluster import load_cluster
    from distredge.cluster_file import read_boards
    from distredge.runtime.hosting.background import background_workers, stop_background

    boards = read_boards(cluster_name)
    if any(entry.ssh is not None for entry in boards.devices):
        stop_boards(Path(cluster_name), boards, Ssh(ssh_option, batch), dry_run, as_json)
        return
    name = load_cluster(cluster_name).name
    if dry_run:
        say_steps([Step("here", f"ends {', '.join(background_workers(name)) or 'nothing'}")], as_json)
        return
    names = stop_background(name)
    if as_json:
        print_json({"stopped": list(names)})
    else:
        click.echo(f"ended {', '.join(names)}" if names else "no workers of this cluster run in the background")


@cluster.command()
@click.argument("cluster_name", metavar="CLUSTER")
@click.option("--keys", "keys_path", type=_FOLDER, help=_KEYS_HELP)
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication.")
@click.option("--timeout", "timeout_s", type=Number(0, above=True), default=3.0, show_default=True,
              help="Seconds to wait for each worker.")  # fmt: skip
@ssh_options
@json_option
@verbose_option
def status(
    cluster_name: str,
    keys_path: Path | None,
    plaintext: bool,
    timeout_s: float,
    ssh_option: tuple[str, ...],
    batch: bool,
    as_json: bool,
) -> None:
    """Ask every worker how it is; exit code 1 when one does not answer.

    Of boards whose `ssh` the cluster file names it also says what runs there, and which version is installed.
    """
    from distredge.cluster import load_cluster
    from distredge.cluster_file import read_boards
    from distredge.runtime.hosting.boards import is_local, start_on_boards

    made = load_cluster(cluster_name)
    boards = read_boards(cluster_name)
    by_ssh = any(entry.ssh is not None for entry in boards.devices)
    addresses, keys = _reach(made, cluster_name, keys_path, plaintext)
    found, silent = _ask_all(addresses, keys, timeout_s)
    if by_ssh:
        for name, seen in states_of(Path(cluster_name), boards, Ssh(ssh_option, batch)).items():
            found[name]["ssh"] = seen
    if as_json:
        print_json(found)
    else:
        for name, answer in found.items():
            click.echo(f"{name}: {_line(answer)}{_other_version(answer, cluster_name, by_ssh)}")
            if "ssh" in answer:
                click.echo(f"    {in_words(answer['ssh'])}")
    if silent and not as_json and not is_local(made, made.names):
        click.echo(f"distredge cluster start {cluster_name}" if by_ssh else start_on_boards(cluster_name, silent))
    if any("error" in answer for answer in found.values()):
        raise SystemExit(1)


def _reach(
    made: Cluster, cluster_name: str, keys_path: Path | None, plaintext: bool
) -> tuple[tuple[WorkerAddress, ...], Keys | None]:
    from distredge.errors import ExecutionError
    from distredge.runtime.hosting.background import background_addresses
    from distredge.runtime.hosting.boards import cluster_keys, is_local, keys_folder, worker_addresses

    if is_local(made, made.names):
        running = background_addresses(made.name, made.names)
        if running is None:
            raise ExecutionError(
                f"no workers of '{made.name}' run; start them with: distredge cluster start {made.name}"
            )
        return running
    keys = None if plaintext else cluster_keys(made, keys_folder(cluster_name, keys_path))
    return worker_addresses(made, made.names, keys.public if keys is not None else None), keys


def _ask_all(
    addresses: tuple[WorkerAddress, ...], keys: Keys | None, timeout_s: float
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What each worker says, and those that say nothing."""
    from distredge.errors import ExecutionError, PeerTimeout
    from distredge.runtime.links.one_link import ask_all
    from distredge.runtime.protocol.transport import ZmqNetwork

    network = ZmqNetwork(keys.for_requester() if keys is not None else None)
    try:
        answers = ask_all(network, addresses, timeout_s)
    finally:
        network.close()
    found: dict[str, dict[str, Any]] = {}
    for address, answer in zip(addresses, answers.values(), strict=True):
        if isinstance(answer, ExecutionError):
            found[address.name] = {"control": address.control, "error": str(answer)}
            continue
        about = answer.pong.about
        found[address.name] = {
            "control": address.control,
            "answered_s": answer.after_s,
            "version": about.version,
            "engine": about.engine,
            "providers": list(about.providers),
            "threads": about.threads,
            "dynamic_rows": about.dynamic_rows,
            "plans": len(about.plans),
            "preparing": [{"loaded": plan.loaded, "models": plan.models} for plan in about.preparing],
            "dropped": dict(answer.pong.dropped),
        }
    return found, [name for name, answer in answers.items() if isinstance(answer, PeerTimeout)]


def _line(state: dict[str, Any]) -> str:
    if "error" in state:
        return str(state["error"])
    dropped = {why: count for why, count in state["dropped"].items() if count}
    return (
        f"distredge {state['version']}, {state['engine']} ({next(iter(state['providers']), 'no provider')}), "
        f"{_count(state['threads'], 'thread')}, {_count(state['plans'], 'plan')}"
        + "".join(f", preparing: {p['loaded']} of {p['models']} sub-models" for p in state["preparing"])
        + (f", dropped {dropped}" if dropped else "")
    )


def _other_version(state: dict[str, Any], cluster_name: str, by_ssh: bool) -> str:
    """What to do where a worker is of another version; "" where it is not."""
    from distredge.runtime.protocol.messages import package_version

    if state.get("version") in (None, package_version()):
        return ""
    how = f"run: distredge cluster upgrade {cluster_name}" if by_ssh else "install the same there"
    return f"; this is {package_version()}: {how}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
