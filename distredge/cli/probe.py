"""`distredge probe`: measures the links of a cluster over the transport that the runtime uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import check_writable, print_json
from distredge.cli._options import Number, json_option, verbose_option

if TYPE_CHECKING:
    from distredge.cluster import Cluster
    from distredge.runtime.links.several_links import Flow
    from distredge.runtime.protocol.addresses import WorkerAddress
    from distredge.runtime.protocol.transport import ZmqNetwork

_ANSWER_S = 10.0
"""Within which a worker says that it is there; a link may take longer to be measured."""


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
@click.option("--trace", "trace_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a link's rate over time as a trace (CSV): from A to B, or to the first worker.")  # fmt: skip
@click.option("--seconds", type=Number(0, 86400, above=True), default=60.0, show_default=True,
              help="How long to follow it.")  # fmt: skip
@click.option("--every", "every_s", type=Number(0.05, 3600), default=1.0, show_default=True,
              help="Seconds from one figure of the trace to the next.")  # fmt: skip
@json_option
@verbose_option
def probe(
    cluster_name: str,
    between: tuple[str, str] | None,
    repeats: int,
    timeout_s: float,
    keys_path: Path | None,
    plaintext: bool,
    trace_path: Path | None,
    seconds: float,
    every_s: float,
    as_json: bool,
) -> None:
    """Measure round trip, cost per message and rate of the links of a cluster, both ways, alone and at the same time.

    On a cluster of this machine it starts workers and ends them, and then once more without encryption, to show what
    that costs; on boards `distredge worker` runs already, idle.
    """
    from distredge.cluster import load_cluster
    from distredge.runtime.hosting.boards import is_local

    made = load_cluster(cluster_name)
    wanted = between or made.names
    if between is not None and between[0] == between[1]:
        raise click.UsageError(f"--between: found '{between[0]}' twice, accepted: two different workers")
    for name in wanted:
        made.device(name)
    check_writable(trace_path)
    say = (lambda line: None) if as_json else click.echo
    result: dict[str, Any] = {"cluster": made.name, "encrypted": not plaintext}
    with _workers(made, cluster_name, wanted, keys_path, plaintext, timeout_s) as (network, addresses):
        flows = _flows(addresses, between is not None)
        if trace_path is not None:
            result["trace"] = _follow(network, flows[0], trace_path, seconds, every_s, timeout_s, say)
        else:
            links = result["links"] = []
            for flow in flows:
                links.append(_link(network, flow, repeats, timeout_s))
                say(_line(links[-1]))
            if between is None:
                result["cluster_file"] = _for_the_cluster_file(links)
                for name, ways in result["cluster_file"].items():
                    say(f"for {name} in the cluster file, in place of its link:")
                    for way, link in ways.items():
                        say(f"    {_as_toml(way, link)}")
            result["together"] = _together(network, addresses, between is not None, timeout_s, say)
            if is_local(made, wanted) and result["together"]["verdict"] != "separate":
                say("    (workers of one machine share its cores and memory, whatever lies between them)")
    if trace_path is None and not plaintext and is_local(made, wanted):
        with _workers(made, cluster_name, wanted[:2], keys_path, True, timeout_s) as (network, addresses):
            plain = _link(network, _flows(addresses, between is not None)[0], repeats, timeout_s)
        result["encryption"] = _encryption(result["links"][0], plain)
        say(
            f"encryption: {1e6 * result['encryption']['message_s']:+.1f} us per message, "
            f"{1e9 * result['encryption']['s_per_byte']:+.3f} ns per byte, both ends together"
        )
    if as_json:
        print_json(result)


@contextmanager
def _workers(
    made: Cluster, cluster_name: str, wanted: tuple[str, ...], keys_path: Path | None, plaintext: bool, timeout_s: float
) -> Iterator[tuple[ZmqNetwork, tuple[WorkerAddress, ...]]]:
    """Reaches the workers, starting them where the cluster is this machine."""
    from distredge.runtime.hosting.boards import cluster_keys, is_local, keys_folder, worker_addresses
    from distredge.runtime.hosting.worker_process import START_S, WorkerProcesses, local_order
    from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
    from distredge.runtime.protocol.transport import ZmqNetwork

    keys: Keys | None = None
    with ExitStack() as stack:
        if is_local(made, wanted):
            every = make_keys(wanted)
            orders = [local_order(name, None if plaintext else every[name].for_worker()) for name in wanted]
            workers = WorkerProcesses(orders)
            stack.callback(workers.close)
            keys = None if plaintext else every[REQUESTER_NAME]
            addresses = workers.wait(START_S, keys)
        else:
            keys = None if plaintext else cluster_keys(made, keys_folder(cluster_name, keys_path))
            addresses = worker_addresses(made, wanted, keys.public if keys is not None else None)
        network = ZmqNetwork(keys.for_requester() if keys is not None else None)
        stack.callback(network.close)
        if not is_local(made, wanted):
            _check_answering(network, addresses, cluster_name, min(timeout_s, _ANSWER_S))
        yield network, addresses


def _check_answering(
    network: ZmqNetwork, addresses: tuple[WorkerAddress, ...], cluster_name: str, timeout_s: float
) -> None:
    """Names every worker that is not there before the first link is measured."""
    from distredge.errors import ExecutionError, PeerTimeout
    from distredge.runtime.hosting.boards import start_on_boards
    from distredge.runtime.links.one_link import ask_all

    answers = ask_all(network, addresses, timeout_s)
    silent = {name: answer for name, answer in answers.items() if isinstance(answer, PeerTimeout)}
    if silent:
        raise PeerTimeout(f"{'; '.join(map(str, silent.values()))}; {start_on_boards(cluster_name, silent)}")
    for answer in answers.values():
        if isinstance(answer, ExecutionError):
            raise answer


def _flows(addresses: tuple[WorkerAddress, ...], between: bool) -> tuple[Flow, ...]:
    """The links to measure, each in both directions."""
    from distredge.runtime.links.several_links import Flow
    from distredge.runtime.protocol.addresses import PeerAddress

    peers = [PeerAddress(a.name, a.data, a.public_key) for a in addresses]
    if between:
        return Flow(addresses[0], peers[1]), Flow(addresses[1], peers[0])
    return tuple(Flow(None, peer, back) for peer in peers for back in (False, True))


def _link(network: ZmqNetwork, flow: Flow, repeats: int, timeout_s: float) -> dict[str, Any]:
    from distredge.runtime.links.one_link import SIZES, fit
    from distredge.runtime.protocol.security import REQUESTER_NAME

    figures = fit(SIZES, flow.measure(network, SIZES, repeats, timeout_s))
    source, target = flow.names(REQUESTER_NAME)
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
    sizes = ", ".join(
        f"{_size(int(size))} {1e3 * seconds:.3f} ms" for size, seconds in found["medians_s"].items() if int(size)
    )
    return (
        f"{found['source']} > {found['destination']}: round trip {1e3 * found['rtt_s']:.3f} ms, "
        f"{1e3 * found['fixed_s']:.3f} ms per message, {rate}\n    there and an empty answer back: {sizes}"
    )


def _for_the_cluster_file(links: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """What each worker's link is in a cluster file; what messages cost its processor is in its profile.

    Args:
        links: to and from each worker in turn, as `_link` returns them.
    """
    return {
        there["destination"]: {
            way: {"rate_bps": "unbounded" if link["rate_bps"] is None else link["rate_bps"], "rtt_s": link["rtt_s"]}
            for way, link in (("uplink", back), ("downlink", there))
        }
        for there, back in zip(links[::2], links[1::2], strict=True)
    }


def _as_toml(way: str, link: dict[str, Any]) -> str:
    rate = link["rate_bps"] if isinstance(link["rate_bps"], float) else math.inf
    text = f"{rate:.3g}" if math.isfinite(rate) else '"unbounded"'
    return f"{way} = {{ rate_bps = {text}, rtt_s = {link['rtt_s']:.2g} }}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10} KiB"


def _together(
    network: ZmqNetwork,
    addresses: tuple[WorkerAddress, ...],
    between: bool,
    timeout_s: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Runs flows between several pairs at once: is the medium shared?"""
    from distredge.runtime.links.several_links import measure_together, ring
    from distredge.runtime.protocol.addresses import PeerAddress
    from distredge.runtime.protocol.security import REQUESTER_NAME

    peers = [PeerAddress(a.name, a.data, a.public_key) for a in addresses]
    flows = _flows(addresses, True) if between else ring(addresses, peers)
    found = measure_together(network, flows, timeout_s=timeout_s)
    names = [flow.names(REQUESTER_NAME) for flow in flows]
    say(f"at the same time ({len(flows)} flows of 1 MiB messages):")
    for (source, target), alone, beside in zip(names, found.alone_bps, found.together_bps, strict=True):
        say(f"    {source} > {target}: {alone / 1e6:.1f} Mbps alone, {beside / 1e6:.1f} Mbps beside the others")
    say(f"    each keeps {100 * found.ratio:.0f} % of its rate: the medium is {found.verdict}")
    return {
        "flows": [
            {"source": source, "destination": target, "alone_bps": alone, "together_bps": beside}
            for (source, target), alone, beside in zip(names, found.alone_bps, found.together_bps, strict=True)
        ],
        "ratio": found.ratio,
        "verdict": found.verdict,
    }


def _encryption(secret: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """What CURVE adds to a message and to a byte of it."""
    per_byte = [8.0 / found["rate_bps"] if found["rate_bps"] else 0.0 for found in (secret, plain)]
    return {"message_s": secret["fixed_s"] - plain["fixed_s"], "s_per_byte": per_byte[0] - per_byte[1]}


def _follow(
    network: ZmqNetwork,
    flow: Flow,
    path: Path,
    seconds: float,
    every_s: float,
    timeout_s: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes a link's rate over time; what was measured before Ctrl-C is kept."""
    from distredge.profiles.network import Trace
    from distredge.runtime.links.several_links import over_time
    from distredge.runtime.protocol.security import REQUESTER_NAME

    source, target = flow.names(REQUESTER_NAME)
    moments = []
    try:
        for moment in over_time(network, flow, seconds, every_s, timeout_s):
            moments.append(moment)
            rate = f"{moment.rate_bps / 1e6:.1f} Mbps" if moment.rate_bps else "nothing gets through"
            say(f"{moment.time_s:8.2f} s: {rate}, round trip {1e3 * moment.rtt_s:.3f} ms")
    finally:
        if moments:
            times_s = [moment.time_s - moments[0].time_s for moment in moments]
            name = f"{source}-{target}"
            trace = Trace(
                times_s,
                [moment.rate_bps for moment in moments],
                [moment.rtt_s for moment in moments],
                times_s[-1] + every_s,
                name,
                f"measured by distredge probe, {source} to {target}",
            )
            trace.save(path)
            say(f"{path}: {len(trace)} rates, mean {trace.mean_bps / 1e6:.1f} Mbps")
    return {"file": str(path), "rates": len(trace), "mean_bps": trace.mean_bps, "source": source, "destination": target}
