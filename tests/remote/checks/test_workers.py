"""What is judged of workers' answers, of names, routes and measured rates."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distredge.cluster import Cluster, Device, Link, Requester
from distredge.errors import AuthError, ExecutionError, PeerTimeout, ProtocolError
from distredge.profiles.compute import load_shipped
from distredge.remote.checks import workers
from distredge.remote.checks.workers import (
    OPEN,
    check_answer,
    check_rates,
    check_route,
    knock,
    numeric_address,
)
from distredge.runtime.links.one_link import Answer
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.in_process_transport import Exchange, InProcessNetwork
from distredge.runtime.protocol.messages import About, Pong, WorkerLoad

DEVICE = Device("pi-0", load_shipped("default:pi4"), Link(100e6), Link(100e6), "pi-0.local", threads=4)


def answer(version: str = "1.0", threads: int = 4) -> Answer:
    about = About("pi-0", version, "onnxruntime 1.30", ("CPUExecutionProvider",), threads, 0, "", ())
    return Answer(Pong(1, 2, 3, about, {}, WorkerLoad("idle", 0, 0, 0, 0, 0, 0, None)), 0.004)


def judged(said: Answer | ExecutionError, device: Device = DEVICE, numeric: str | None = None) -> list[tuple[str, str]]:
    return [(f.what, f.state) for f in check_answer(device, said, "1.0", "c.toml", numeric)]


def test_what_workers_say() -> None:
    assert judged(answer()) == [("worker", "ok")]
    assert judged(answer("0.9")) == [("version", "bad"), ("worker", "ok")]
    assert judged(answer(threads=2)) == [("worker", "warning")]
    assert judged(AuthError("refused")) == [("keys", "bad")]
    assert judged(ProtocolError("version 3")) == [("version", "bad")]
    assert judged(PeerTimeout("no answer")) == [("worker", "bad")]
    (other, _) = check_answer(DEVICE, answer("0.9"), "1.0", "c.toml", None)
    assert other.detail == "distredge 0.9 there, 1.0 here"
    assert "distredge cluster upgrade c.toml" in other.todo


def test_why_a_worker_is_silent() -> None:
    with socket.socket() as listening, socket.socket() as bound:
        for one in (listening, bound):
            one.bind(("127.0.0.1", 0))
        listening.listen()
        ports = [one.getsockname()[1] for one in (listening, bound)]
        assert [knock("127.0.0.1", port) for port in ports] == [OPEN, "nothing listens there"]

        def told(control: int, data: int) -> str:
            device = Device("b", DEVICE.profile, address="127.0.0.1", control_port=control, data_port=data)
            (found,) = check_answer(device, PeerTimeout("no answer"), "1.0", "there/c.toml", "127.0.0.1")
            assert found.state == "bad"
            return f"{found.detail} -> {found.todo}"

        assert told(*ports).startswith("something at 127.0.0.1 does not answer")
        assert told(*reversed(ports)).startswith("no worker runs at 127.0.0.1")
        assert "distredge cluster start there/c.toml" in told(*reversed(ports))
        assert "--cluster c.toml --name b" in told(*reversed(ports))


def test_a_board_behind_a_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", refuse)
    (found,) = check_answer(DEVICE, PeerTimeout("no answer"), "1.0", "c.toml", "192.168.1.11")
    assert found.detail == "192.168.1.11 is not reached (port 5700: no answer; port 5701: no answer)"
    assert "firewall" in found.todo


@pytest.mark.parametrize(
    ("found", "numeric", "says"),
    [
        (["192.168.1.11"], "192.168.1.11", ""),
        (["127.0.1.1", "192.168.1.11"], "192.168.1.11", ""),
        (["127.0.1.1"], "127.0.1.1", "'pi-0.local' is this machine itself here (127.0.1.1)"),
        (OSError(errno.ENOENT, "Name or service not known"), None, "'pi-0.local' has no address here: Name or"),
    ],
)
def test_names(found: list[str] | OSError, numeric: str | None, says: str) -> None:
    def find(host: str) -> Sequence[str]:
        assert host == "pi-0.local"
        if isinstance(found, OSError):
            raise found
        return found

    seen, findings = numeric_address(DEVICE, find)
    assert seen == numeric
    assert [finding.state for finding in findings] == (["bad"] if says else [])
    assert all(finding.detail.startswith(says) for finding in findings)


def test_a_way_through_dockers_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    def interfaces(name: str) -> dict[str, list[Any]]:
        return {name: [SimpleNamespace(address="127.0.0.1")]}

    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces("docker0"))
    (found,) = check_route(DEVICE, "127.0.0.1")
    assert (found.state, "through docker0" in found.detail) == ("bad", True)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces("eth0"))
    assert list(check_route(DEVICE, "127.0.0.1")) == []


@pytest.mark.parametrize(
    ("rate_bps", "state", "largest"),
    [(96e6, "ok", 1_048_576), (60e6, "warning", 1_048_576), (30e6, "bad", 1_048_576), (300e6, "warning", 1_048_576),
     (1e6, "bad", 65_536)],
)  # fmt: skip
def test_rates(monkeypatch: pytest.MonkeyPatch, rate_bps: float, state: str, largest: int) -> None:
    sent: list[int] = []

    def measure(network: Any, peer: Any, sizes: Sequence[int], repeats: int, *_: Any, back: bool) -> Any:
        sent.extend(sizes)
        return tuple((0.001 + 8 * size / rate_bps,) * repeats for size in sizes)

    monkeypatch.setattr(workers, "measure_link", measure)
    cluster = Cluster("c", Requester(), (DEVICE,))
    network = InProcessNetwork(Exchange(), "requester")
    address = WorkerAddress("pi-0", "memory://pi-0:1", "memory://pi-0:2", "")
    (found,) = check_rates(network, cluster, DEVICE, address, 1.0)
    assert found.state == state, found
    assert f"to it {rate_bps / 1e6:.0f} Mbit/s, 100 Mbit/s in the cluster file" in found.detail
    assert max(sent) == largest
