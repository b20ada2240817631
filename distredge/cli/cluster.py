"""`distredge cluster`: writes a cluster file; starts, stops and lists workers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import check_writable, print_json
from distredge.cli._options import Number, json_option, verbose_option
from distredge.writing import write

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.runtime.protocol.addresses import WorkerAddress
    from distredge.runtime.protocol.security import Keys

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_FOLDER = click.Path(file_okay=False, path_type=Path)
_THREADS = 4
"""Of a worker, and cores of a computer, until the user says otherwise."""
_PROFILE = "default:pi3"
_HERE = "this-machine"
_KEYS_HELP = "Folder of keys; default: 'keys' beside the cluster file."


@click.group()
@verbose_option
def cluster() -> None:
    """Write a cluster file; start, stop and list its workers."""


@cluster.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--device",
    "devices",
    metavar="NAME=ADDRESS[,PROFILE]",
    multiple=True,
    required=True,
    help="A board, its address and its compute profile (default: default:pi3); once per board.",
)
@click.option("--rate-mbps", type=Number(0, above=True), default=100.0, show_default=True,
              help="Rate of every board's link, until you measure it.")  # fmt: skip
@click.option("--rtt-ms", type=Number(0), default=2.0, show_default=True, help="Its round trip.")
@json_option
@verbose_option
def init(path: Path, devices: tuple[str, ...], rate_mbps: float, rtt_ms: float, as_json: bool) -> None:
    """Write a cluster file to start from.

    PROFILE is a shipped one, or a file of `distredge profile run`, by its path from where the cluster file will be.
    Workers at one address are given ports of their own.
    """
    from distredge.cluster import load_cluster
    from distredge.errors import FileError
    from distredge.runtime.hosting.boards import check_addresses

    if path.exists():
        raise FileError(f"{path}: is there already; give another name")
    check_writable(path)
    boards = [_board(text) for text in devices]
    link = f"link = {{ rate_bps = {rate_mbps * 1e6:g}, rtt_s = {rtt_ms / 1e3:g} }}"
    try:
        write(path, "\n".join(_lines(path, boards, link)) + "\n")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    name = str(path) if path.suffix == ".toml" else f"./{path}"
    try:
        made = load_cluster(name)
        check_addresses(made)
    except BaseException:
        path.unlink()
        raise
    if as_json:
        print_json({"cluster": made.name, "file": str(path), "devices": list(made.names)})
        return
    click.echo(f"wrote {path}; next: distredge keys {name}, which says what to copy to which board")


def _lines(path: Path, boards: Sequence[tuple[str, str, str]], link: str) -> list[str]:
    """The lines of a cluster file of boards, each its name, address and profile."""
    from distredge.cluster_file import FORMAT

    hosts = _hosts([address for _, address, _ in boards])
    lines = [
        f'format = "{FORMAT}"',
        f'name = "{_NOT_IN_NAMES.sub("-", path.stem).lstrip("-._")[:63] or "cluster"}"',
        'link_model = "shared"',
        "encrypted = true",
        "",
        # A rate given here would stay as it is when the boards' are measured.
        "[requester]  # its link is as fast as the fastest board's, unless one is given here",
    ]
    lines += [f'host = "{_HERE}"'] if _HERE in hosts.values() else []
    for host in dict.fromkeys(hosts.values()):
        cores = '"all"' if host == _HERE else f"{_THREADS}  # of its processor, which its workers share: correct it"
        lines += ["", "[[host]]", f'name = "{host}"', f"cores = {cores}"]
    for (name, address, profile), ports in zip(boards, _ports([a for _, a, _ in boards]), strict=True):
        lines += ["", "[[device]]", f'name = "{name}"', f'profile = "{profile or _PROFILE}"']
        lines += [f'address = "{address}"', *ports, f"threads = {_threads(path.parent, profile or _PROFILE)}"]
        lines += [f'host = "{hosts[_place(address)]}"'] if _place(address) in hosts else []
        lines += [link]
    return lines


def _ports(addresses: Sequence[str]) -> list[list[str]]:
    """What to write of ports: nothing for a worker that has its address to itself, else what the others leave."""
    from distredge.cluster_file import CONTROL_PORT, DATA_PORT
    from distredge.network_addresses import OWN

    asked = [(_HERE if place in OWN else place, port) for place, port in map(_place_and_port, addresses)]
    taken = {(place, port) for place, port in asked if port is not None}
    written = []
    for place, port in asked:
        lines = []
        control = port
        if control is None:
            control = next(free for free in range(CONTROL_PORT, 65536) if (place, free) not in taken)
            lines += [f"control_port = {control}"] if control != CONTROL_PORT else []
        taken.add((place, control))
        data = next(free for free in (DATA_PORT, *range(control + 1, 65536)) if (place, free) not in taken)
        lines += [f"data_port = {data}"] if data != DATA_PORT else []
        taken.add((place, data))
        written.append(lines)
    return written


def _threads(folder: Path, profile: str) -> int:
    """Threads that a profile was measured with; one that cannot be read is refused later, with the file."""
    from distredge.errors import ProfileError
    from distredge.profiles.compute import load_profile

    try:
        return load_profile(folder / profile if profile.endswith(".json") else profile).board.threads
    except ProfileError:
        return _THREADS


def _board(text: str) -> tuple[str, str, str]:
    """Name, address and profile ("": not given) of a `--device`."""
    from distredge.errors import ConfigError

    name, equals, rest = text.partition("=")
    address, _, profile = rest.partition(",")
    if not (name and equals and address) or not text.isprintable() or '"' in text:
        raise ConfigError(f"--device: found '{text}', accepted: NAME=ADDRESS or NAME=ADDRESS,PROFILE")
    return name, address, profile


def _place_and_port(address: str) -> tuple[str, int | None]:
    """Computer and port of an address; one that cannot be read is refused later, with the file."""
    from distredge.network_addresses import read_address

    try:
        return read_address(address)
    except ValueError:
        return address, None


def _place(address: str) -> str:
    return _place_and_port(address)[0]


def _hosts(addresses: Sequence[str]) -> dict[str, str]:
    """Computers on which several workers are, or a worker beside the requester: address -> name of the host."""
    from distredge.network_addresses import OWN

    places = [_place(address) for address in addresses]
    several = [place for place in dict.fromkeys(places) if place in OWN or places.count(place) > 1]
    return {place: _HERE if place in OWN else f"host-{k}" for k, place in enumerate(several)}


@cluster.command()
@click.argument("cluster_name", metavar="CLUSTER")
@json_option
@verbose_option
def start(cluster_name: str, as_json: bool) -> None:
    """Start the workers of a cluster of this machine; they go on until `cluster stop`.

    For boards it says what to run on each.
    """
    from distredge.cluster import load_cluster
    from distredge.errors import ClusterError
    from distredge.runtime.hosting.background import start_background
    from distredge.runtime.hosting.boards import is_local

    made = load_cluster(cluster_name)
    if not is_local(made, made.names):
        commands = "; ".join(
            f"on {device.address}: distredge worker --cluster {Path(cluster_name).name} --name {device.name}"
            for device in made.devices
        )
        raise ClusterError(f"cluster '{made.name}' has boards of their own; start their workers there: {commands}")
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


@cluster.command()
@click.argument("cluster_name", metavar="CLUSTER")
@json_option
@verbose_option
def stop(cluster_name: str, as_json: bool) -> None:
    """End the workers that `cluster start` started."""
    from distredge.cluster import load_cluster
    from distredge.runtime.hosting.background import stop_background

    names = stop_background(load_cluster(cluster_name).name)
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
@json_option
@verbose_option
def status(cluster_name: str, keys_path: Path | None, plaintext: bool, timeout_s: float, as_json: bool) -> None:
    """Ask every worker how it is; exit code 1 when one does not answer."""
    from distredge.cluster import load_cluster
    from distredge.runtime.hosting.boards import is_local, start_on_boards

    made = load_cluster(cluster_name)
    addresses, keys = _reach(made, cluster_name, keys_path, plaintext)
    found, silent = _ask_all(addresses, keys, timeout_s)
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            click.echo(f"{name}: {_line(state)}")
    if silent and not as_json and not is_local(made, made.names):
        click.echo(start_on_boards(cluster_name, silent))
    if any("error" in state for state in found.values()):
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
        f"distredge {state['version']}, {state['engine']} ({state['providers'][0]}), "
        f"{_count(state['threads'], 'thread')}, {_count(state['plans'], 'plan')}"
        + "".join(f", preparing: {p['loaded']} of {p['models']} sub-models" for p in state["preparing"])
        + (f", dropped {dropped}" if dropped else "")
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
