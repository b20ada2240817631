"""Asks the workers of a cluster themselves: whether they are there, of which version and keys, how fast their links."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from distredge.cluster import Cluster, Device
from distredge.errors import AuthError, ExecutionError, PeerTimeout, ProtocolError
from distredge.network_addresses import Resolve, is_loopback, resolve
from distredge.remote.checks.findings import Finding
from distredge.remote.checks.surroundings import virtual, written_bps
from distredge.runtime.links.one_link import Answer, fit, measure_link
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.transport import Network

OPEN: Final = "open"
KNOCK_S: Final = 2.0
"""Within which a port that is open accepts a connection."""

_FIRST_SIZES: Final = (0, 16_384, 65_536)
_SIZES: Final = (0, 65_536, 1_048_576)
_REPEATS: Final = 4
_SLOW_BPS: Final = 5e6
"""Below this rate the large messages would take too long; the small ones tell it as well."""
_SLOW, _POOR, _FAST = 0.7, 0.5, 1.5
"""Of the rate in the cluster file: from where on plans are off."""

_WHY = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.EHOSTUNREACH: "no way leads there",
    errno.ENETUNREACH: "no way leads there",
}


def numeric_address(device: Device, find: Resolve = resolve) -> tuple[str | None, list[Finding]]:
    """Returns a board's address in numbers, None where its name has none here, and what is wrong with its name."""
    try:
        found = find(device.address)
    except OSError as error:
        todo = "correct it, write the numeric address, or install avahi-daemon and libnss-mdns for .local names"
        detail = f"'{device.address}' has no address here: {error.strerror or error}"
        return None, [Finding(device.name, "name", "bad", detail, todo)]
    outward = [address for address in found if not is_loopback(address.partition("%")[0])]
    if not outward and not is_loopback(device.address):
        detail = f"'{device.address}' is this machine itself here ({', '.join(found)})"
        todo = "write the numeric address into the cluster file, or correct /etc/hosts"
        return found[0], [Finding(device.name, "name", "bad", detail, todo)]
    return (outward or list(found))[0], []


def check_route(device: Device, numeric: str) -> Iterator[Finding]:
    """Yields through which of this machine's interfaces a board is reached, where it is a wrong one."""
    import psutil

    family = socket.AF_INET6 if ":" in numeric else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            # A datagram socket's connecting sends nothing: the system only chooses the way.
            one.connect((numeric.partition("%")[0], 9))
        except OSError as error:
            detail = f"no way leads from here to {numeric}: {error.strerror or error}"
            yield Finding(device.name, "route", "bad", detail, "is this machine in the boards' network?")
            return
        own = one.getsockname()[0]
    name = next(
        (n for n, all_ in psutil.net_if_addrs().items() for a in all_ if a.address.partition("%")[0] == own), ""
    )
    if virtual(name):
        detail = f"{numeric} is looked for through {name}, {virtual(name)}"
        todo = f"give the boards another subnet than {name}'s, or docker another (bip in /etc/docker/daemon.json)"
        yield Finding(device.name, "route", "bad", detail, todo)


def check_answer(
    device: Device, answer: Answer | ExecutionError, version: str, cluster_file: str, numeric: str | None
) -> Iterator[Finding]:
    """Yields what a worker says of itself, or why it says nothing.

    Args:
        device: of the cluster file.
        answer: of its worker.
        version: of Distredge here.
        cluster_file: as the command was given it.
        numeric: the worker's address; None where its name has none.
    """
    if isinstance(answer, AuthError):
        todo = (
            "copy keys/public.json and the board's own secret to it, from the set that this machine has, and start "
            "its worker anew"
        )
        yield Finding(device.name, "keys", "bad", f"its worker and this machine have different keys ({answer})", todo)
    elif isinstance(answer, ProtocolError):
        todo = f"distredge cluster upgrade {cluster_file}, or install {version} there"
        yield Finding(device.name, "version", "bad", f"its worker speaks another version's language: {answer}", todo)
    elif isinstance(answer, ExecutionError):
        yield _silent(device, answer, cluster_file, numeric)
    else:
        about = answer.pong.about
        if about.version != version:
            detail = f"distredge {about.version} there, {version} here"
            todo = f"distredge cluster upgrade {cluster_file}, or install {version} there"
            yield Finding(device.name, "version", "bad", detail, todo)
        detail = (
            f"answers in {1e3 * answer.after_s:.0f} ms: distredge {about.version}, {about.engine}, "
            f"{about.providers[0] if about.providers else 'no provider'}, {about.threads} threads"
        )
        if about.threads != device.threads and about.threads:
            todo = "start it with the cluster file's threads: its profile holds for those"
            yield Finding(device.name, "worker", "warning", f"{detail}; {device.threads} in the cluster file", todo)
        else:
            yield Finding(device.name, "worker", "ok", detail)


def _silent(device: Device, answer: ExecutionError, cluster_file: str, numeric: str | None) -> Finding:
    start = (
        f"distredge cluster start {cluster_file}, or on the board: distredge worker --cluster "
        f"{os.path.basename(cluster_file)} --name {device.name}"
    )
    if numeric is None or not isinstance(answer, PeerTimeout):
        return Finding(device.name, "worker", "bad", str(answer), start)
    why = {port: knock(numeric, port) for port in (device.control_port, device.data_port)}
    said = "; ".join(f"port {port}: {text}" for port, text in why.items())
    if why[device.control_port] == _WHY[errno.ECONNREFUSED]:
        return Finding(device.name, "worker", "bad", f"no worker runs at {numeric} ({said})", start)
    if why[device.control_port] != OPEN:
        todo = f"is the board on, and do its firewall and the network let {' and '.join(map(str, why))} through?"
        return Finding(device.name, "worker", "bad", f"{numeric} is not reached ({said})", todo)
    todo = "another program may listen there, or the worker waits for other keys: look at its log"
    return Finding(device.name, "worker", "bad", f"something at {numeric} does not answer ({said})", todo)


def knock(numeric: str, port: int, timeout_s: float = KNOCK_S) -> str:
    """Returns "open" where something accepts connections at a TCP port; else what is in the way."""
    try:
        socket.create_connection((numeric, port), timeout_s).close()
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return _WHY.get(error.errno or 0, error.strerror or str(error))
    return OPEN


def check_rates(
    network: Network, cluster: Cluster, device: Device, address: WorkerAddress, timeout_s: float
) -> Iterator[Finding]:
    """Measures a board's link both ways and yields how it compares with the cluster file; its worker must be idle.

    Args:
        network: makes the socket.
        cluster: of the board.
        device: the board.
        address: of its worker.
        timeout_s: for each way.
    """
    asks = cluster.requester
    peer = PeerAddress(address.name, address.data, address.public_key)
    ways = (
        ("to it", False, written_bps(asks.uplink, device.downlink)),
        ("from it", True, written_bps(device.uplink, asks.downlink)),
    )
    told, slow, poor = [], [], []
    for words, back, written in ways:
        try:
            measured = _measured_bps(network, peer, timeout_s, back)
        except ExecutionError as error:
            todo = f"let port {device.data_port} through: rows come in there"
            yield Finding(device.name, "throughput", "bad", str(error), todo)
            return
        told.append(f"{words} {_mbps(measured)}, {_mbps(written)} in the cluster file")
        if measured is not None and written is not None and written > 0:
            ratio = measured / written
            slow += [words] if ratio < _SLOW or ratio > _FAST else []
            poor += [words] if ratio < _POOR else []
    detail = "; ".join(told)
    if slow:
        todo = (
            "write what `distredge probe` prints into the cluster file, and plan anew; a slow link: cable, Wi-Fi, hub"
        )
        yield Finding(device.name, "throughput", "bad" if poor else "warning", detail, todo)
    else:
        yield Finding(device.name, "throughput", "ok", detail)


def _measured_bps(network: Network, peer: PeerAddress, timeout_s: float, back: bool) -> float | None:
    first = fit(_FIRST_SIZES, measure_link(network, peer, _FIRST_SIZES, 2, timeout_s, back=back)).rate_bps
    if first is not None and first < _SLOW_BPS:
        return first
    return fit(_SIZES, measure_link(network, peer, _SIZES, _REPEATS, timeout_s, back=back)).rate_bps


def _mbps(rate_bps: float | None) -> str:
    return "unbounded" if rate_bps is None else f"{rate_bps / 1e6:.0f} Mbit/s"
