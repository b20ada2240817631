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
_HERE = "this-machine"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
@verbose_option
def init(path: Path, devices: tuple[str, ...], rate_mbps: float, rtt_ms: float) -> None:
    """Write a cluster file to start from."""
    from distredge.cluster import FORMAT, load_cluster
    from distredge.errors import FileError

    if path.exists():
        raise FileError(f"{path}: is there already; give another name")
    check_writable(path)
    name_of_file = _NOT_IN_NAMES.sub("-", path.stem).lstrip("-._")[:63] or "cluster"
    boards = [_board(text) for text in devices]
    addresses = [address for _, address, _ in boards]
    link = f"link = {{ rate_bps = {rate_mbps * 1e6:g}, rtt_s = {rtt_ms / 1e3:g} }}"
    hosts = _hosts(addresses)
    lines = [
        f'format = "{FORMAT}"',
        f'name = "{name_of_file}"',
        'link_model = "shared"',
        "encrypted = true",
        "",
        "[requester]",
    ]
    lines += [f'host = "{_HERE}"'] if _HERE in hosts.values() else []
    lines += [link]
    for host in dict.fromkeys(hosts.values()):
        cores = '"all"' if host == _HERE else f"{_THREADS}  # of its processor, which its workers share: correct it"
        lines += ["", "[[host]]", f'name = "{host}"', f"cores = {cores}"]
    for name, address, profile in boards:
        lines += ["", "[[device]]", f'name = "{name}"', f'profile = "{profile or "default:pi3"}"']
        lines += [f'address = "{address}"', f"threads = {_THREADS}"]
        lines += [f'host = "{hosts[_place(address)]}"'] if _place(address) in hosts else []
        lines += [link]
    try:
        write(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        load_cluster(str(path) if path.suffix == ".toml" else f"./{path}")
    except BaseException:
        path.unlink()
        raise
    click.echo(f"wrote {path}; next: distredge keys {path}, then on each board: distredge worker --cluster {path.name}")


def _board(text: str) -> tuple[str, str, str]:
    """Name, address and profile ("": not given) of a `--device`."""
    from distredge.errors import ConfigError

    name, equals, rest = text.partition("=")
    address, _, profile = rest.partition(",")
    if not (name and equals and address) or not text.isprintable() or '"' in text:
        raise ConfigError(f"--device: found '{text}', accepted: NAME=ADDRESS or NAME=ADDRESS,PROFILE")
    return name, address, profile


def _place(address: str) -> str:
    """The computer of an address, without the port; an address that cannot be read is refused later, with the file."""
    from distredge.network_addresses import read_address

    try:
        return read_address(address)[0]
    except ValueError:
        return address


def _hosts(addresses: Sequence[str]) -> dict[str, str]:
    """Computers on which several workers are, or a worker beside the requester: address -> name of the host."""
    places = [_place(address) for address in addresses]
    several = [place for place in dict.fromkeys(places) if place in _LOOPBACK or places.count(place) > 1]
    return {place: _HERE if place in _LOOPBACK else f"host-{k}" for k, place in enumerate(several)}


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

    made = load_cluster(cluster_name)
    addresses, keys = _reach(made, cluster_name, keys_path, plaintext)
    found = _ask_all(addresses, keys, timeout_s)
    if as_json:
        print_json(found)
    else:
        for name, state in found.items():
            click.echo(f"{name}: {_line(state)}")
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


def _ask_all(addresses: tuple[WorkerAddress, ...], keys: Keys | None, timeout_s: float) -> dict[str, dict[str, Any]]:
    import time
    from concurrent.futures import ThreadPoolExecutor

    from distredge.errors import ExecutionError
    from distredge.runtime.links.one_link import ping
    from distredge.runtime.protocol.transport import ZmqNetwork

    network = ZmqNetwork(keys.for_requester() if keys is not None else None)

    def ask(address: WorkerAddress) -> dict[str, Any]:
        started_s = time.monotonic()
        try:
            pong = ping(network, address, timeout_s)
        except ExecutionError as error:
            return {"control": address.control, "error": str(error)}
        about = pong.about
        return {
            "control": address.control,
            "answered_s": time.monotonic() - started_s,
            "version": about.version,
            "engine": about.engine,
            "providers": list(about.providers),
            "threads": about.threads,
            "plans": len(about.plans),
            "dropped": dict(pong.dropped),
        }

    try:
        # A thread and a socket each: one that does not answer keeps nobody waiting.
        with ThreadPoolExecutor(len(addresses)) as pool:
            return dict(zip([a.name for a in addresses], pool.map(ask, addresses), strict=True))
    finally:
        network.close()


def _line(state: dict[str, Any]) -> str:
    if "error" in state:
        return str(state["error"])
    dropped = {why: count for why, count in state["dropped"].items() if count}
    return (
        f"distredge {state['version']}, {state['engine']} ({state['providers'][0]}), {state['threads']} threads, "
        f"{state['plans']} plans" + (f", dropped {dropped}" if dropped else "")
    )
