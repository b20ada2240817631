"""Judges where a board is in the network: its interfaces, its ports, names, its clock, the other boards' reach."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Final

from distredge.cluster import Cluster, Device, Link
from distredge.network_addresses import is_loopback, is_numeric
from distredge.remote.checks.facts import Facts, Interface
from distredge.remote.checks.findings import Finding, State

_BRIDGES = re.compile(r"docker|br-|virbr|veth|lxc|lxd|podman|cni|flannel|cali")
_SIDEWAYS = re.compile(r"l4tbr|usb|rndis|tun|tap|wg|tailscale|zt|ppp|wwan")
_APART_S: Final = 2.0
_FAR_APART_S: Final = 86400.0


def check_interfaces(device: Device, facts: Facts, numeric: str | None) -> Iterator[Finding]:
    """Yields whether the board has the address of the cluster file, and at which interface.

    Args:
        device: of the cluster file.
        facts: of its board.
        numeric: the address; None where its name has none.
    """
    others = [one for one in facts.interfaces if not is_loopback(_bare(one.address))]
    if numeric is None or not facts.interfaces:
        return
    if is_loopback(numeric):
        yield Finding(device.name, "interfaces", "ok", f"{numeric}: only this machine reaches it")
        return
    found = next((one for one in others if _bare(one.address) == _bare(numeric)), None)
    if found is None:
        has = ", ".join(f"{one.name} {one.address}" for one in others if _plain(one)) or "none"
        todo = "write the address that it has into the cluster file; a fixed one in the router keeps it"
        yield Finding(device.name, "interfaces", "bad", f"no interface has {numeric}; there are: {has}", todo)
        return
    kind = virtual(found.name)
    if kind:
        plain = next((one for one in others if _plain(one)), None)
        better = f'write address = "{plain.address}" ({plain.name})' if plain else "give it an address of its network"
        state: State = "bad" if _BRIDGES.match(found.name) else "warning"
        yield Finding(device.name, "interfaces", state, f"{numeric} is at {found.name}, {kind}", better)
        return
    yield from _rate(device, found)


def _rate(device: Device, found: Interface) -> Iterator[Finding]:
    """Whether the cable carries what the cluster file promises."""
    told = f"{found.address} is at {found.name}" + (", Wi-Fi" if found.wireless else "")
    promised = max((link.rate_bps for link in (device.uplink, device.downlink) if link.rate_bps is not None), default=0)
    if found.rate_bps is not None:
        told += f", {found.rate_bps / 1e6:.0f} Mbit/s"
        if promised > found.rate_bps:
            todo = "another cable or port of the switch, or the rates of `distredge probe` in the cluster file"
            detail = f"{told}; the cluster file has {promised / 1e6:.0f} Mbit/s"
            yield Finding(device.name, "interfaces", "bad", detail, todo)
            return
    yield Finding(device.name, "interfaces", "ok", told)


def virtual(name: str) -> str:
    """Returns what kind of interface a name stands for, in words, where other boards do not reach it; else ""."""
    if _BRIDGES.match(name):
        return "a bridge of containers or virtual machines, which no other board reaches"
    if _SIDEWAYS.match(name):
        return "a cable to one computer, or a tunnel, which other boards may not reach"
    return ""


def _plain(one: Interface) -> bool:
    return not virtual(one.name) and not one.address.lower().startswith("fe80:")


def _bare(address: str) -> str:
    return address.partition("%")[0]


def check_ports(device: Device, facts: Facts, answers: bool) -> Iterator[Finding]:
    """Yields who has the worker's ports.

    Args:
        device: of the cluster file.
        facts: of its board.
        answers: whether its worker answers.
    """
    ports = [port for port in (device.control_port, device.data_port) if port]
    taken = {port: facts.listeners[port] for port in ports if port in facts.listeners}
    if not ports or not facts.listeners or answers:
        return
    if taken:
        who = ", ".join(f"{port} by {program or 'a program of another user'}" for port, program in taken.items())
        todo = "end it, or give the device other ports in the cluster file; an old worker: distredge cluster stop"
        yield Finding(device.name, "ports", "bad", f"taken, and no worker answers: {who}", todo)
    else:
        yield Finding(device.name, "ports", "ok", f"{', '.join(map(str, ports))} are free there")


def check_names(cluster: Cluster, device: Device, facts: Facts) -> Iterator[Finding]:
    """Yields which of the other boards' names this one does not know, or takes for its own."""
    if not facts.names:
        return
    wrong = []
    for other in cluster.devices:
        if other.name == device.name or other.address == device.address or is_numeric(other.address):
            continue
        found = facts.names.get(other.address, ())
        if not found:
            wrong.append(f"'{other.address}' has no address there")
        elif all(is_loopback(_bare(address)) for address in found):
            wrong.append(f"'{other.address}' is the board itself there ({', '.join(found)})")
    if wrong:
        todo = "write numeric addresses into the cluster file, or install avahi-daemon and libnss-mdns for .local names"
        yield Finding(device.name, "names", "bad", "; ".join(wrong), todo)
    elif any(not is_numeric(other.address) for other in cluster.devices):
        yield Finding(device.name, "names", "ok", "knows the other boards' names")


def check_reach(cluster: Cluster, device: Device, facts: Facts, answering: Mapping[str, bool]) -> Iterator[Finding]:
    """Yields which other boards this one does not reach although their workers answer the requester.

    Args:
        cluster: of all.
        device: whose reach.
        facts: of its board.
        answering: device -> whether its worker answers the requester.
    """
    others = [d for d in cluster.devices if d.name != device.name and d.address != device.address and answering[d.name]]
    asked = [(d.name, port) for d in others for port in (d.data_port,) if (d.address, port) in facts.reached]
    where = {d.name: d.address for d in others}
    missed = [f"{name} (port {port})" for name, port in asked if not facts.reached[where[name], port]]
    if missed:
        todo = "let that port through between the boards: firewalls, guest or isolated Wi-Fi, another subnet"
        yield Finding(device.name, "reach", "bad", f"does not reach {', '.join(missed)}", todo)
    elif asked:
        yield Finding(device.name, "reach", "ok", f"reaches {', '.join(name for name, _ in asked)}")


def check_clock(device: Device, facts: Facts, before_s: float, after_s: float) -> Iterator[Finding]:
    """Yields how far a board's clock is from this machine's.

    Args:
        device: of the cluster file.
        facts: of its board.
        before_s: this machine's clock when the board was asked.
        after_s: when it had answered.
    """
    if facts.clock_s is None:
        return
    least, most = facts.clock_s - after_s, facts.clock_s - before_s
    apart = max(least, -most, 0.0)
    set_by = {True: ", set by the network", False: ", not set by the network", None: ""}[facts.synchronised]
    middle, spread = (least + most) / 2, (most - least) / 2
    detail = f"{middle:+.2f} s (give or take {spread:.2f} s) from this machine's{set_by}"
    todo = "sudo timedatectl set-ntp true, or a time server in the local network"
    if apart >= _FAR_APART_S:
        shown = datetime.datetime.fromtimestamp(facts.clock_s, datetime.timezone.utc).date()
        detail = f"it says {shown}{set_by}: downloads by https fail"
        yield Finding(device.name, "clock", "bad", detail, todo)
    elif apart >= _APART_S:
        yield Finding(device.name, "clock", "warning", f"{detail}; plans do not need it, logs do", todo)
    else:
        yield Finding(device.name, "clock", "ok", detail)


def written_bps(*links: Link) -> float | None:
    """Returns the rate that a cluster file promises over several links one after the other; None: unbounded."""
    return min((link.rate_bps for link in links if link.rate_bps is not None), default=None)
