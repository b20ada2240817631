"""What the findings of `distredge doctor --cluster` are made of: what was seen so far, and how it is judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import ExecutionError
from distredge.remote.checks.findings import Finding

if TYPE_CHECKING:
    from distredge.cluster import Cluster, Device
    from distredge.cluster_file import BoardEntries
    from distredge.remote.checks.collecting import Reading
    from distredge.runtime.links.one_link import Answer
    from distredge.runtime.protocol.addresses import WorkerAddress

AT_ONCE = 16
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
class Seen:
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


def judge_answers(made: Cluster, wishes: Wishes, seen: Seen) -> None:
    """Adds what workers said of themselves, or why they said nothing."""
    from distredge.remote.checks.workers import check_answer

    def judge(device: Device) -> list[Finding]:
        answer, numeric = seen.answers[device.name], seen.numeric[device.name]
        return list(check_answer(device, answer, _version(), wishes.cluster_name, numeric))

    asked = [device for device in made.devices if device.name in seen.answers]
    # Ports that do not answer are knocked at, which takes seconds each.
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for findings in threads.map(judge, asked):
            seen.findings += findings


def judge_boards(made: Cluster, boards: BoardEntries, wishes: Wishes, needs: Mapping[str, int], seen: Seen) -> None:
    """Adds what the boards' own tools say.

    Args:
        made: the cluster.
        boards: what its file says of the workers.
        wishes: of the user.
        needs: bytes that a plan takes on its devices; empty without one.
        seen: takes the findings.
    """
    from distredge.remote.checks.profiles import check_profile
    from distredge.remote.checks.settings import check_engine, check_settings
    from distredge.remote.checks.surroundings import check_interfaces, check_ports

    for device in made.devices:
        reading, answer = seen.readings.get(device.name), seen.answers.get(device.name)
        engine = "" if answer is None or isinstance(answer, ExecutionError) else answer.pong.about.engine
        seen.findings += check_profile(device, None if reading is None else reading.facts, engine)
        if reading is not None:
            seen.findings += check_engine(device, reading.facts, boards.device(device.name))
        if device.name in seen.readings and device not in seen.here:
            seen.findings += _judge_facts(made, device, wishes, needs.get(device.name), seen)
        elif device.name in needs and device.name not in seen.readings:
            seen.findings += _worker_memory(device, needs[device.name], seen)
    here = [device for device in seen.here if device.name in seen.readings]
    if not here:
        return
    facts = seen.readings[here[0].name].facts
    for device in here:
        seen.findings += check_interfaces(device, facts, seen.numeric[device.name])
        seen.findings += check_ports(device, facts, seen.answers_to(device.name))
    # What they have in common is told once. That Distredge runs here is known.
    facts = replace(facts, distredge=(_version(),))
    need_bytes = sum(needs.get(device.name, 0) for device in here) if needs else None
    machine = replace(here[0], name=_HERE, threads=max(device.threads for device in here))
    seen.findings += check_settings(machine, facts, need_bytes)


def _judge_facts(
    made: Cluster, device: Device, wishes: Wishes, need_bytes: int | None, seen: Seen
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


def _worker_memory(device: Device, need_bytes: int, seen: Seen) -> Iterator[Finding]:
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
