"""`distredge probe`: measures the links of a cluster over the transport that the runtime uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import Number, json_option, print_json, verbose_option

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.runtime.peers import WorkerAddress
    from distredge.runtime.probe import LinkFigures
    from distredge.runtime.transport import ZmqNetwork


@click.command()
@click.option("--cluster", "cluster_name", required=True, help="A cluster file, or a shipped one such as this-machine.")
@click.option("--between", nargs=2, metavar="A B", help="Two workers; default: the requester and each worker.")
@click.option("--repeats", type=click.IntRange(1, 1000), default=10, show_default=True, help="Messages per size.")
@click.option("--timeout", "timeout_s", type=Number(0, 600, above=True), default=30.0, show_default=True,
              help="Seconds for each link.")  # fmt: skip
@click.option("--keys", "keys_path", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of keys; default: 'keys' beside the cluster file.")  # fmt: skip
@click.option(
    "--plaintext", is_flag=True, help="No encryption, no authentication: what encryption costs is the difference."
)
@json_option
@verbose_option
def probe(
    cluster_name: str,
    between: tuple[str, str] | None,
    repeats: int,
    timeout_s: float,
    keys_path: Path | None,
    plaintext: bool,
    as_json: bool,
) -> None:
    """Measure round trip, cost per message and rate of the links of a cluster, both ways.

    On a cluster of this machine it starts workers and ends them; on boards `distredge worker` runs already, idle.
    """
    from distredge.cluster import load_cluster

    made = load_cluster(cluster_name)
    wanted = between or made.names
    for name in wanted:
        made.device(name)
    found = []
    with _workers(made, cluster_name, wanted, keys_path, plaintext) as (network, addresses):
        for source, target, figures in _measure(network, addresses, between is not None, repeats, timeout_s):
            found.append(_figures(source, target, figures))
            if not as_json:
                click.echo(_line(found[-1]))
    if as_json:
        print_json({"cluster": made.name, "encrypted": not plaintext, "links": found})


@contextmanager
def _workers(
    made: Cluster, cluster_name: str, wanted: tuple[str, ...], keys_path: Path | None, plaintext: bool
) -> Iterator[tuple[ZmqNetwork, tuple[WorkerAddress, ...]]]:
    """Reaches the workers, starting them where the cluster is this machine."""
    from distredge.runtime.boards import cluster_keys, is_local, keys_folder, worker_addresses
    from distredge.runtime.local import START_S, Workers
    from distredge.runtime.process import local_order
    from distredge.runtime.security import REQUESTER_NAME, Keys, make_keys
    from distredge.runtime.transport import ZmqNetwork

    keys: Keys | None = None
    with ExitStack() as stack:
        if is_local(made, wanted):
            every = make_keys(wanted)
            orders = [local_order(name, None if plaintext else every[name].for_worker()) for name in wanted]
            workers = Workers(orders)
            stack.callback(workers.close)
            keys = None if plaintext else every[REQUESTER_NAME]
            addresses = workers.wait(START_S, keys)
        else:
            keys = None if plaintext else cluster_keys(made, keys_folder(cluster_name, keys_path))
            addresses = worker_addresses(made, wanted, keys.public if keys is not None else None)
        network = ZmqNetwork(keys.for_requester() if keys is not None else None)
        stack.callback(network.close)
        yield network, addresses


def _measure(
    network: ZmqNetwork, addresses: tuple[WorkerAddress, ...], between: bool, repeats: int, timeout_s: float
) -> Iterator[tuple[str, str, LinkFigures]]:
    from distredge.runtime.plan import PeerAddress
    from distredge.runtime.probe import SIZES, fit, measure_between, measure_link
    from distredge.runtime.security import REQUESTER_NAME

    peers = [PeerAddress(a.name, a.data, a.public_key) for a in addresses]
    if between:
        for source, target in ((0, 1), (1, 0)):
            times_s = measure_between(network, addresses[source], peers[target], SIZES, repeats, timeout_s)
            yield peers[source].name, peers[target].name, fit(SIZES, times_s)
        return
    for peer in peers:
        for back in (False, True):
            times_s = measure_link(network, peer, SIZES, repeats, timeout_s, back=back)
            ends = (peer.name, REQUESTER_NAME) if back else (REQUESTER_NAME, peer.name)
            yield *ends, fit(SIZES, times_s)


def _figures(source: str, target: str, figures: LinkFigures) -> dict[str, Any]:
    return {
        "source": source,
        "destination": target,
        "rtt_s": figures.round_trip_s,
        "fixed_s": figures.message_s,
        "rate_bps": figures.rate_bps,
        "medians_s": {str(size): seconds for size, seconds in figures.medians_s.items()},
    }


def _line(found: dict[str, Any]) -> str:
    rate = "unbounded" if found["rate_bps"] is None else f"{found['rate_bps'] / 1e6:.1f} Mbps"
    return (
        f"{found['source']} > {found['destination']}: round trip {1e3 * found['rtt_s']:.3f} ms, "
        f"{1e3 * found['fixed_s']:.3f} ms per message, {rate}"
    )
