"""What `distredge doctor --cluster` looks at: names, workers, the boards' own tools, links, memory for a plan."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import ConfigError, ExecutionError, InputError, did_you_mean
from distredge.remote.checks.findings import Finding, State

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device
    from distredge.cluster_file import BoardEntries
    from distredge.remote.checks.collecting import Reading
    from distredge.remote.ssh import Destination
    from distredge.runtime.links.one_link import Answer
    from distredge.runtime.protocol.addresses import WorkerAddress
    from distredge.runtime.protocol.security import Keys

_ANSWER_S = 5.0
"""Within which a worker says how it is."""
_AT_ONCE = 16
_HERE = "this-machine"


@dataclass(frozen=True)
class Wishes:
    """The options of the command, by their names."""

    cluster_name: str
    ssh: tuple[str, ...]
    strategy: Path | None
    model_name: str | None
    rates: bool
    keys_path: Path | None
    plaintext: bool
    timeout_s: float
    ssh_option: tuple[str, ...]
    batch: bool


@dataclass
class _Seen:
    """What has been found out so far, by device."""

    findings: list[Finding] = field(default_factory=list)
    numeric: dict[str, str | None] = field(default_factory=dict)
    addresses: dict[str, WorkerAddress] = field(default_factory=dict)
    answers: dict[str, Answer | ExecutionError] = field(default_factory=dict)
    readings: dict[str, Reading] = field(default_factory=dict)
    here: list[Device] = field(default_factory=list)

    def answers_to(self, name: str) -> bool:
        """Whether a worker said how it is."""
        return name in self.answers and not isinstance(self.answers[name], ExecutionError)


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
    seen = _Seen()
    with _step("names"):
        _find_names(made, seen)
    keys = _keys(made, wishes, seen)
    with _step("workers"):
        _ask_workers(made, wishes, keys, seen)
        _judge_answers(made, wishes, seen)
    with _step("boards"):
        _read(made, boards, destinations, wishes, seen)
        _judge_boards(made, wishes, needs, seen)
    if wishes.rates:
        with _step("links"):
            _measure(made, wishes, keys, seen)
    places = {name: index for index, name in enumerate(made.names)}
    return sorted(seen.findings, key=lambda finding: places.get(finding.board, -1))


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    """Shows on a terminal what is being looked at."""
    if not sys.stderr.isatty():
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


def _find_names(made: Cluster, seen: _Seen) -> None:
    from distredge.remote.checks.workers import check_route, numeric_address

    with ThreadPoolExecutor(min(_AT_ONCE, len(made.devices))) as threads:
        found = list(threads.map(numeric_address, made.devices))
    for device, (numeric, findings) in zip(made.devices, found, strict=True):
        seen.numeric[device.name] = numeric
        seen.findings += findings
        if numeric is not None and not findings:
            seen.findings += check_route(device, numeric)


def _keys(made: Cluster, wishes: Wishes, seen: _Seen) -> Keys | None:
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


def _ask_workers(made: Cluster, wishes: Wishes, keys: Keys | None, seen: _Seen) -> None:
    """Asks the workers whose control ports are open; nobody waits for one that cannot answer."""
    from distredge.errors import PeerTimeout
    from distredge.remote.checks.workers import OPEN, knock
    from distredge.runtime.links.one_link import ask_all
    from distredge.runtime.protocol.transport import ZmqNetwork

    def look(device: Device) -> str:
        numeric = seen.numeric[device.name]
        return OPEN if numeric is None or not device.control_port else knock(numeric, device.control_port)

    known = [device for device in made.devices if device.name in seen.addresses and seen.numeric[device.name]]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
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
    made: Cluster, boards: BoardEntries, destinations: Mapping[str, Destination], wishes: Wishes, seen: _Seen
) -> None:
    from distredge.cli._remote import reached
    from distredge.network_addresses import is_loopback
    from distredge.remote.checks.collecting import read_boards, read_here
    from distredge.remote.checks.facts import script
    from distredge.remote.workers import Place

    away = [d for d in made.devices if d.data_port and not is_loopback(d.address)]
    scripts = {}
    for device in made.devices:
        peers = [(other.address, other.data_port) for other in away if other.address != device.address]
        keys = f"{Place(boards.name, device.name, '').folder}/keys"
        scripts[device.name] = script(dict.fromkeys(peers), keys)
    failed: dict[str, str] = {}
    if destinations:
        with reached(destinations, wishes.ssh_option, wishes.batch) as logged_in:
            found, failed = read_boards(logged_in.done, scripts, wishes.timeout_s)
            failed.update(logged_in.failed)
        seen.readings.update(found)
    seen.here = [d for d in made.devices if d.name not in destinations and is_loopback(d.address)]
    if seen.here:
        try:
            reading = read_here(scripts[seen.here[0].name], wishes.timeout_s)
            seen.readings.update(dict.fromkeys((device.name for device in seen.here), reading))
        except ExecutionError as error:
            failed.update(dict.fromkeys((device.name for device in seen.here), str(error)))
    for device in made.devices:
        if device.name in failed:
            state: State = "warning" if seen.answers_to(device.name) else "bad"
            way = "ssh" if device.name in destinations else "tools"
            seen.findings.append(Finding(device.name, way, state, failed[device.name]))
        elif device.name not in seen.readings:
            detail = "the cluster file does not say where ssh finds it: the board's own tools are not asked"
            todo = f'write ssh = "user@host" under the device, or give --ssh {device.name}=user@host'
            seen.findings.append(Finding(device.name, "ssh", "warning", detail, todo))


def _measure(made: Cluster, wishes: Wishes, keys: Keys | None, seen: _Seen) -> None:
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


def _judge_answers(made: Cluster, wishes: Wishes, seen: _Seen) -> None:
    from distredge.remote.checks.workers import check_answer

    def judge(device: Device) -> list[Finding]:
        answer, numeric = seen.answers[device.name], seen.numeric[device.name]
        return list(check_answer(device, answer, _version(), wishes.cluster_name, numeric))

    asked = [device for device in made.devices if device.name in seen.answers]
    # Ports that do not answer are knocked at, which takes seconds each.
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for findings in threads.map(judge, asked):
            seen.findings += findings


def _judge_boards(made: Cluster, wishes: Wishes, needs: Mapping[str, int], seen: _Seen) -> None:
    from distredge.remote.checks.settings import check_settings
    from distredge.remote.checks.surroundings import check_ports

    for device in made.devices:
        if device.name in seen.readings and device not in seen.here:
            seen.findings += _judge_facts(made, device, wishes, needs.get(device.name), seen)
        elif device.name in needs and device.name not in seen.readings:
            seen.findings += _worker_memory(device, needs[device.name], seen)
    here = [device for device in seen.here if device.name in seen.readings]
    if not here:
        return
    reading = seen.readings[here[0].name]
    for device in here:
        seen.findings += check_ports(device, reading.facts, seen.answers_to(device.name))
    # What they have in common is told once. That Distredge runs here is known.
    facts = replace(reading.facts, distredge=(_version(),))
    need_bytes = sum(needs.get(device.name, 0) for device in here) if needs else None
    machine = replace(here[0], name=_HERE, threads=max(device.threads for device in here))
    seen.findings += check_settings(machine, facts, need_bytes)


def _judge_facts(
    made: Cluster, device: Device, wishes: Wishes, need_bytes: int | None, seen: _Seen
) -> Iterator[Finding]:
    from distredge.remote.checks import settings, surroundings

    reading, name = seen.readings[device.name], wishes.cluster_name
    facts = reading.facts
    answering = {other: seen.answers_to(other) for other in made.names}
    yield from surroundings.check_interfaces(device, facts, seen.numeric[device.name])
    yield from surroundings.check_ports(device, facts, answering[device.name])
    yield from surroundings.check_names(made, device, facts)
    yield from surroundings.check_reach(made, device, facts, answering)
    yield from surroundings.check_clock(device, facts, reading.before_s, reading.after_s)
    yield from settings.check_installed(device, facts, _version(), name)
    yield from settings.check_keys(device, facts, _digest(wishes), name)
    if answering[device.name] and not facts.distredge:
        # A worker that answers has a Python that it runs under, wherever that is.
        facts = replace(facts, distredge=(_version(),))
    yield from settings.check_settings(device, facts, need_bytes)


def _worker_memory(device: Device, need_bytes: int, seen: _Seen) -> Iterator[Finding]:
    """Memory for the plan as a worker tells it, where the board itself could not be asked."""
    answer = seen.answers.get(device.name)
    if answer is None or isinstance(answer, ExecutionError) or not answer.pong.about.memory_bytes:
        return
    may = answer.pong.about.memory_bytes
    detail = f"the plan takes {need_bytes / 1e6:.0f} MB, its worker may take {may / 1e6:.0f} MB"
    todo = "plan with --respect-memory" if need_bytes > may else ""
    yield Finding(device.name, "memory", "bad" if todo else "ok", detail, todo)


def _version() -> str:
    from importlib.metadata import version

    return version("distredge")


def _digest(wishes: Wishes) -> str:
    from distredge.runtime.hosting.boards import keys_folder
    from distredge.runtime.protocol.security import PUBLIC_FILE

    try:
        content = (keys_folder(wishes.cluster_name, wishes.keys_path) / PUBLIC_FILE).read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()
