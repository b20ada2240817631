"""What `distredge doctor --cluster` looks at: names, workers, the boards' own tools, links, memory for a plan."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from distredge.cli._doctor_judging import AT_ONCE, Seen, Wishes, judge_answers, judge_boards
from distredge.errors import ConfigError, ExecutionError, InputError, did_you_mean
from distredge.remote.checks.findings import Finding, State

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device
    from distredge.cluster_file import BoardEntries
    from distredge.remote.checks.collecting import Reading
    from distredge.remote.ssh import Destination
    from distredge.runtime.protocol.security import Keys

_ANSWER_S = 5.0
"""Within which a worker says how it is."""


def examine(wishes: Wishes) -> list[Finding]:
    """Returns what is wrong, and what is well, in the order of the cluster file's boards.

    Raises:
        InputError: if cluster file, strategy or an option cannot be used.
    """
    from distredge.cluster import load_cluster
    from distredge.cluster_file import read_boards

    made, boards = load_cluster(wishes.cluster_name), read_boards(wishes.cluster_name)
    destinations = _destinations(boards, wishes.ssh)
    needs = _needs(made, wishes)
    seen = Seen()
    with _step("names"):
        _find_names(made, seen)
    keys = _keys(made, wishes, seen)
    with _step("workers"):
        _ask_workers(made, wishes, keys, seen)
        judge_answers(made, wishes, seen)
    # A question of ssh's is not to be drawn over.
    with _step("boards", quiet=bool(destinations) and not wishes.batch):
        _read(made, boards, destinations, wishes, seen)
        judge_boards(made, boards, wishes, needs, seen)
    if wishes.rates:
        with _step("links"):
            _measure(made, wishes, keys, seen)
    places = {name: index for index, name in enumerate(made.names)}
    return sorted(seen.findings, key=lambda finding: places.get(finding.board, -1))


@contextlib.contextmanager
def _step(what: str, quiet: bool = False) -> Iterator[None]:
    """Shows on a terminal what is being looked at."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"looking at {what}"):
        yield


def _destinations(boards: BoardEntries, given: tuple[str, ...]) -> dict[str, Destination]:
    from distredge.remote.ssh import read_destination

    found = {entry.name: read_destination(entry.ssh) for entry in boards.devices if entry.ssh is not None}
    for text in given:
        name, equals, where = text.partition("=")
        if not (name and equals and where):
            raise ConfigError(f"--ssh: found '{text}', accepted: NAME=USER@HOST")
        if name not in boards.names:
            raise ConfigError(
                f"--ssh: cluster '{boards.name}' has no device '{name}'{did_you_mean(name, boards.names)}"
            )
        found[name] = read_destination(where)
    return found


def _needs(made: Cluster, wishes: Wishes) -> dict[str, int]:
    """Bytes that the strategy takes on each device; empty without one."""
    if wishes.strategy is None:
        return {}
    from distredge.cli._common import load_model_of
    from distredge.latency.costs.memory import peak_memory_bytes
    from distredge.model.laying_out import lay_out
    from distredge.strategy import Strategy

    strategy = Strategy.load(wishes.strategy)
    for name in strategy.devices:
        made.device(name)
    graph = load_model_of(strategy, wishes.strategy, wishes.model_name)
    return peak_memory_bytes(graph, lay_out(graph, strategy))


def _find_names(made: Cluster, seen: Seen) -> None:
    from distredge.remote.checks.workers import check_route, numeric_address

    with ThreadPoolExecutor(min(AT_ONCE, len(made.devices))) as threads:
        found = list(threads.map(numeric_address, made.devices))
    for device, (numeric, findings) in zip(made.devices, found, strict=True):
        seen.numeric[device.name] = numeric
        seen.findings += findings
        if numeric is not None and not findings:
            seen.findings += check_route(device, numeric)


def _keys(made: Cluster, wishes: Wishes, seen: Seen) -> Keys | None:
    """The requester's keys, and where the workers are; what is wrong with them is a finding of the requester's."""
    from distredge.runtime.hosting.background import background_addresses
    from distredge.runtime.hosting.boards import cluster_keys, is_local, keys_folder, worker_addresses

    if is_local(made, made.names):
        running = background_addresses(made.name, made.names)
        if running is None:
            detail = "no workers of it run in the background; deploy-strategy starts its own"
            seen.findings.append(Finding("requester", "workers", "ok", detail))
            return None
        seen.addresses.update({address.name: address for address in running[0]})
        return running[1]
    keys = None
    try:
        if not wishes.plaintext:
            keys = cluster_keys(made, keys_folder(wishes.cluster_name, wishes.keys_path))
        found = worker_addresses(made, made.names, keys.public if keys is not None else None, _no_look_up)
    except InputError as error:
        seen.findings.append(Finding("requester", "keys", "bad", str(error)))
        return None
    seen.addresses.update({address.name: address for address in found})
    return keys


def _no_look_up(host: str) -> tuple[str, ...]:
    """Names have been looked up already."""
    return (host,)


def _ask_workers(made: Cluster, wishes: Wishes, keys: Keys | None, seen: Seen) -> None:
    """Asks the workers whose control ports are open; nobody waits for one that cannot answer."""
    from distredge.errors import PeerTimeout
    from distredge.remote.checks.workers import OPEN, knock
    from distredge.runtime.links.one_link import ask_all
    from distredge.runtime.protocol.transport import ZmqNetwork

    def look(device: Device) -> str:
        numeric = seen.numeric[device.name]
        return OPEN if numeric is None or not device.control_port else knock(numeric, device.control_port)

    known = [device for device in made.devices if device.name in seen.addresses and seen.numeric[device.name]]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        ports = dict(zip([device.name for device in known], threads.map(look, known), strict=True))
    seen.answers.update({name: PeerTimeout(text) for name, text in ports.items() if text != OPEN})
    wanted = [seen.addresses[name] for name, text in ports.items() if text == OPEN]
    if not wanted:
        return
    network = ZmqNetwork(keys.for_requester() if keys is not None else None)
    try:
        seen.answers.update(ask_all(network, wanted, min(_ANSWER_S, wishes.timeout_s)))
    finally:
        network.close()


def _read(
    made: Cluster, boards: BoardEntries, destinations: Mapping[str, Destination], wishes: Wishes, seen: Seen
) -> None:
    from distredge.cli._remote import reached
    from distredge.network_addresses import is_loopback
    from distredge.remote.checks.collecting import read_boards, read_here
    from distredge.remote.checks.facts import script
    from distredge.remote.worker_scripts import Place
    from distredge.runtime.hosting.boards import own_addresses

    away = [d for d in made.devices if d.data_port and not is_loopback(d.address)]
    scripts = {}
    for device in made.devices:
        peers = [(other.address, other.data_port) for other in away if other.address != device.address]
        keys = f"{Place(boards.name, device.name, '').folder}/keys"
        scripts[device.name] = script(dict.fromkeys(peers), keys, boards.device(device.name).engine_python)
    failed: dict[str, str] = {}
    if destinations:
        with reached(destinations, wishes.ssh_option, wishes.batch) as logged_in:
            found, failed = read_boards(logged_in.done, scripts, wishes.timeout_s)
            failed.update(logged_in.failed)
        seen.readings.update(found)
    own = own_addresses()
    seen.here = [
        d
        for d in made.devices
        if d.name not in destinations and (is_loopback(d.address) or seen.numeric[d.name] in own)
    ]
    if seen.here:
        # Once for all of them, but for engines that are others'.
        asked: dict[str | None, Reading | ExecutionError] = {}
        for device in seen.here:
            python = boards.device(device.name).engine_python
            if python not in asked:
                try:
                    asked[python] = read_here(scripts[device.name], wishes.timeout_s)
                except ExecutionError as error:
                    asked[python] = error
            answer = asked[python]
            if isinstance(answer, ExecutionError):
                failed[device.name] = str(answer)
            else:
                seen.readings[device.name] = answer
    for device in made.devices:
        if device.name in failed:
            state: State = "warning" if seen.answers_to(device.name) else "bad"
            way = "ssh" if device.name in destinations else "tools"
            seen.findings.append(Finding(device.name, way, state, failed[device.name]))
        elif device.name not in seen.readings:
            detail = "the cluster file does not say where ssh finds it: the board's own tools are not asked"
            todo = f'write ssh = "user@host" under the device, or give --ssh {device.name}=user@host'
            seen.findings.append(Finding(device.name, "ssh", "warning", detail, todo))


def _measure(made: Cluster, wishes: Wishes, keys: Keys | None, seen: Seen) -> None:
    from distredge.remote.checks.workers import check_rates
    from distredge.runtime.protocol.transport import ZmqNetwork

    network = ZmqNetwork(keys.for_requester() if keys is not None else None)
    try:
        # One after the other: together they would share this machine's own link.
        for device in made.devices:
            if seen.answers_to(device.name):
                address = seen.addresses[device.name]
                seen.findings += check_rates(network, made, device, address, wishes.timeout_s)
    finally:
        network.close()
