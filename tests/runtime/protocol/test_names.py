"""A worker is found by any address of its name, over either family, encrypted."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from distredge.cluster import Device
from distredge.errors import TransportError
from distredge.profiles.compute import load_profile
from distredge.runtime.hosting import boards
from distredge.runtime.hosting.boards import bind_addresses, own_addresses
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
from distredge.runtime.protocol.transport import ConnectionEvent, Endpoint, Network, ZmqNetwork

PATIENCE_S = 30.0
"""For what happens at once on an idle machine."""


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="there is no ::1 here")


@pytest.fixture
def keys() -> dict[str, Keys]:
    return make_keys(["a", "b"])


def known_as(*addresses: str) -> Callable[[str], Sequence[str]]:
    """A resolver that knows one name."""

    def resolve(host: str) -> Sequence[str]:
        if host != "nano":
            raise socket.gaierror(-2, "Name or service not known")
        return addresses

    return resolve


@pytest.fixture
def networks() -> Iterator[list[ZmqNetwork]]:
    made: list[ZmqNetwork] = []
    yield made
    for network in made:
        network.close()


def _until_connected(network: Network, endpoint: Endpoint) -> list[ConnectionEvent]:
    waiter, until_s = network.waiter([endpoint]), time.monotonic() + PATIENCE_S
    found: list[ConnectionEvent] = []
    while not any(event.kind == "connected" for event in found):
        assert time.monotonic() < until_s, found
        waiter.wait(0.5)
        found += endpoint.events()
    return found


def _exchange(server: Endpoint, client: Endpoint, network: ZmqNetwork) -> None:
    client.send([b"rows"])
    waiter = network.waiter([server])
    until_s = time.monotonic() + PATIENCE_S
    while (received := server.receive()) is None:
        assert time.monotonic() < until_s
        waiter.wait(0.5)
    assert bytes(received.parts[0]) == b"rows"
    assert received.user == REQUESTER_NAME


def _port(address: str) -> str:
    return address.rpartition(":")[2]


@needs_ipv6
def test_encrypted_over_ipv6(keys: dict[str, Keys], networks: list[ZmqNetwork]) -> None:
    networks += [ZmqNetwork(keys["a"].for_worker()), ZmqNetwork(keys[REQUESTER_NAME].for_requester())]
    bound = networks[0].bind("tcp://[::1]:0", "control")
    assert bound.address.startswith("tcp://[::1]:")
    client = networks[1].connect(bound.address, "control", keys["a"].public["a"])
    _until_connected(networks[1], client)
    _exchange(bound, client, networks[0])


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("127.0.0.1", ("::1", "127.0.0.1")),
        ("127.0.0.1", ("127.0.1.1", "127.0.0.1")),
        ("127.0.0.3", ("127.0.0.1", "127.0.0.2", "127.0.0.3")),
        pytest.param("[::1]", ("127.0.0.1", "::1"), marks=needs_ipv6),
        pytest.param("[::1]", ("::1",), marks=needs_ipv6),
        ("127.0.0.1", ("127.0.0.1",)),
    ],
)
def test_every_address_is_tried(
    here: str, there: tuple[str, ...], keys: dict[str, Keys], networks: list[ZmqNetwork]
) -> None:
    networks += [
        ZmqNetwork(keys["a"].for_worker()),
        ZmqNetwork(keys[REQUESTER_NAME].for_requester(), resolve=known_as(*there)),
    ]
    bound = networks[0].bind(f"tcp://{here}:0", "control")
    client = networks[1].connect(f"tcp://nano:{_port(bound.address)}", "control", keys["a"].public["a"])
    _until_connected(networks[1], client)
    _exchange(bound, client, networks[0])


def test_what_was_tried_is_said(networks: list[ZmqNetwork]) -> None:
    networks.append(ZmqNetwork(None, resolve=known_as("127.0.1.1", "127.0.0.2")))
    with socket.socket() as held:
        held.bind(("127.0.0.2", 0))
        port = held.getsockname()[1]
        client = networks[0].connect(f"tcp://nano:{port}", "control")
        waiter, until_s = networks[0].waiter([client]), time.monotonic() + PATIENCE_S
        wanted = f"nobody answers at 127.0.0.2:{port}; tried tcp://127.0.1.1:{port}, tcp://127.0.0.2:{port}"
        reasons: list[str] = []
        while wanted not in reasons:
            assert time.monotonic() < until_s, reasons
            waiter.wait(0.5)
            reasons += [event.reason for event in client.events()]


def test_another_worker_at_the_first_address_is_passed_by(keys: dict[str, Keys], networks: list[ZmqNetwork]) -> None:
    networks += [
        ZmqNetwork(keys["b"].for_worker()),
        ZmqNetwork(keys["a"].for_worker()),
        ZmqNetwork(keys[REQUESTER_NAME].for_requester(), resolve=known_as("127.0.0.2", "127.0.0.3")),
    ]
    port = _port(networks[0].bind("tcp://127.0.0.2:0", "control").address)
    bound = networks[1].bind(f"tcp://127.0.0.3:{port}", "control")
    client = networks[2].connect(f"tcp://nano:{port}", "control", keys["a"].public["a"])
    found = _until_connected(networks[2], client)
    assert all(event.kind != "refused" for event in found)
    _exchange(bound, client, networks[1])


def test_a_name_without_an_address_is_no_error_yet(networks: list[ZmqNetwork]) -> None:
    networks.append(ZmqNetwork(None, resolve=known_as()))
    client = networks[0].connect("tcp://nobody.invalid:5700", "control")
    assert client.events() == []


@needs_ipv6
def test_a_worker_binds_all_of_its_addresses_at_one_port(networks: list[ZmqNetwork]) -> None:
    networks.append(ZmqNetwork(None))
    bound = networks[0].bind("tcp://[::1]:0,tcp://127.0.0.1:0,tcp://127.0.1.1:0", "control").address.split(",")
    assert [address.rpartition(":")[0] for address in bound] == ["tcp://[::1]", "tcp://127.0.0.1", "tcp://127.0.1.1"]
    assert len(set(map(_port, bound))) == 1


def test_addresses_of_other_machines_are_left_out(networks: list[ZmqNetwork]) -> None:
    networks.append(ZmqNetwork(None))
    # Addresses for documentation: no machine has them.
    bound = networks[0].bind("tcp://192.0.2.77:0,tcp://127.0.0.1:0", "control").address
    assert bound.startswith("tcp://127.0.0.1:")
    with pytest.raises(TransportError, match=r"cannot bind tcp://192\.0\.2\.77:\d+ \(.*\), tcp://192\.0\.2\.78"):
        networks[0].bind("tcp://192.0.2.77:5700,tcp://192.0.2.78:5700", "control")


def test_a_port_in_use_at_one_of_them_is_an_error(networks: list[ZmqNetwork]) -> None:
    networks.append(ZmqNetwork(None))
    with socket.socket() as held:
        held.bind(("127.0.0.2", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(TransportError, match=rf"cannot bind tcp://127\.0\.0\.2:{port}: Address already in use"):
            networks[0].bind(f"tcp://127.0.0.1:{port},tcp://127.0.0.2:{port}", "control")


def _device(address: str) -> Device:
    return Device("a", load_profile("default:nano"), address=address)


@pytest.mark.parametrize(
    ("address", "bind", "addresses", "control"),
    [
        ("192.168.1.11", None, (), "tcp://192.168.1.11:5700"),
        ("fe80::1%eth0", None, (), "tcp://[fe80::1%eth0]:5700"),
        ("nano", "*", (), "tcp://*:5700"),
        ("nano", "[::1]", (), "tcp://[::1]:5700"),
        ("nano", None, ("fd00::5", "192.168.1.11"), "tcp://[fd00::5]:5700,tcp://192.168.1.11:5700"),
        ("nano", None, ("127.0.1.1", "192.168.1.11"), "tcp://127.0.1.1:5700,tcp://192.168.1.11:5700"),
    ],
)
def test_what_a_worker_binds(address: str, bind: str | None, addresses: tuple[str, ...], control: str) -> None:
    found = bind_addresses(_device(address), bind, resolve=known_as(*addresses))
    assert found == (control, control.replace("5700", "5701"))


def test_a_name_that_is_the_machines_own_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boards, "own_addresses", lambda: ("192.168.1.11",))
    control, _ = bind_addresses(_device("nano"), None, resolve=known_as("127.0.1.1"))
    assert control == "tcp://127.0.1.1:5700,tcp://192.168.1.11:5700"
    assert "'nano' is 127.0.1.1 here" in caplog.text
    caplog.clear()
    control, _ = bind_addresses(_device("nano"), None, encrypted=False, resolve=known_as("127.0.1.1"))
    assert control == "tcp://127.0.1.1:5700"
    assert "give --bind ADDRESS" in caplog.text
    caplog.clear()
    assert bind_addresses(_device("localhost"), None, resolve=lambda _: ("::1", "127.0.0.1"))[0] == (
        "tcp://[::1]:5700,tcp://127.0.0.1:5700"
    )
    assert not caplog.records


def test_a_name_without_an_address_cannot_be_bound() -> None:
    with pytest.raises(TransportError, match="'other' has no address here: Name or service not known; give --bind"):
        bind_addresses(_device("other"), None, resolve=known_as())


def test_own_addresses_are_those_that_others_can_use() -> None:
    assert not any(address.startswith(("127.", "::1", "fe80")) for address in own_addresses())
