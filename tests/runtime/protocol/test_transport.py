"""Endpoints never block, say when nobody is there, and those without sockets behave as the sockets do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from distredge.errors import TransportError
from distredge.runtime.protocol.in_process_transport import Exchange, InProcessNetwork
from distredge.runtime.protocol.transport import Endpoint, Network, NotConnected, Received, ZmqNetwork

PATIENCE_S = 30.0
"""For what happens at once on an idle machine."""


class Nets:
    """Two networks that can reach each other, an address to bind, and a known one at which nobody listens yet."""

    def __init__(self, first: Network, second: Network, address: str, free: str = "") -> None:
        self.first, self.second, self.address, self.free = first, second, address, free


@pytest.fixture(params=["zmq", "in process"])
def nets(request: pytest.FixtureRequest) -> Iterator[Nets]:
    # Bound without listening: the system gives the port to nobody else, and whoever reuses addresses may bind it too.
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        if request.param == "zmq":
            free = f"tcp://127.0.0.1:{held.getsockname()[1]}"
            made = Nets(ZmqNetwork(None), ZmqNetwork(None), "tcp://127.0.0.1:0", free)
        else:
            exchange = Exchange()
            made = Nets(InProcessNetwork(exchange), InProcessNetwork(exchange), "memory://a:0", "memory://a:7")
        yield made
        made.first.close()
        made.second.close()


def _receive(network: Network, endpoint: Endpoint) -> Received:
    received: list[Received | None] = []

    def came() -> bool:
        received.append(endpoint.receive())
        return received[-1] is not None

    _until(network, endpoint, came)
    return received[-1]


def _connect(nets: Nets, bound: Endpoint) -> Endpoint:
    endpoint = nets.second.connect(bound.address, "data")
    _until(nets.second, endpoint, lambda: any(e.kind == "connected" for e in endpoint.events()))
    return endpoint


def _until(network: Network, endpoint: Endpoint, true: Callable[[], bool]) -> None:
    waiter = network.waiter([endpoint])
    # Not a number of tries: an event that nobody takes away ends every wait at once.
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not happen"
        waiter.wait(0.05)


def test_there_and_back(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    assert not bound.address.endswith(":0")
    client = _connect(nets, bound)
    client.send([b"a", b"", b"b" * 100_000])
    received = _receive(nets.first, bound)
    assert received.peer
    assert [bytes(part) for part in received.parts] == [b"a", b"", b"b" * 100_000]
    bound.send([b"answer"], received.peer)
    assert [bytes(part) for part in _receive(nets.second, client).parts] == [b"answer"]
    assert client.receive() is None
    assert bound.receive() is None


def test_nobody_there_is_an_error_and_not_a_queue(nets: Nets) -> None:
    client = nets.second.connect(nets.free, "data")
    with pytest.raises(NotConnected):
        client.send([b"lost"])


def test_an_unknown_peer_is_an_error(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    with pytest.raises(NotConnected):
        bound.send([b"to nobody"], b"nobody")


def test_connecting_may_come_first(nets: Nets) -> None:
    # Not an address that was bound before: libzmq closes in its own thread, and what is on its way out still accepts.
    client = nets.second.connect(nets.free, "data")
    with pytest.raises(NotConnected):
        client.send([b"too early"])
    bound = nets.first.bind(nets.free, "data")
    _until(nets.second, client, lambda: any(e.kind == "connected" for e in client.events()))
    client.send([b"there"])
    assert [bytes(part) for part in _receive(nets.first, bound).parts] == [b"there"]


def test_who_is_connected_can_send_at_once(nets: Nets) -> None:
    """A greeting that is sent when the connection stands must not get lost."""
    bound = nets.first.bind(nets.address, "data")
    for number in range(200):
        client = nets.second.connect(bound.address, "data")
        waiter = nets.second.waiter([client])
        until_s = time.monotonic() + PATIENCE_S
        connected = False
        while not connected:
            assert time.monotonic() < until_s, "it did not connect"
            with contextlib.suppress(NotConnected):
                client.send([b"too early"])
            waiter.wait(1.0)
            connected = any(event.kind == "connected" for event in client.events())
        client.send([str(number).encode()])
        while bytes(_receive(nets.first, bound).head) != str(number).encode():
            pass
        nets.second.drop(client)


def test_a_closed_peer_is_noticed(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    client = _connect(nets, bound)
    nets.first.drop(bound)
    _until(nets.second, client, lambda: any(e.kind == "lost" for e in client.events()))
    # libzmq tells of the loss before it takes the queue away: what is sent in between is lost.
    _until(nets.second, client, lambda: _is_refused(client))


def _is_refused(endpoint: Endpoint) -> bool:
    try:
        endpoint.send([b"lost"])
    except NotConnected:
        return True
    return False


def test_an_address_in_use_is_an_error(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    with pytest.raises(TransportError, match="cannot bind"):
        nets.second.bind(bound.address, "data")


def test_waiting_ends_in_time(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    assert nets.first.waiter([bound]).wait(0.01) == []
    assert nets.first.waiter([bound]).wait(0.0) == []


def test_a_bell_wakes_another_thread(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    bell = nets.first.bell()
    waiter = nets.first.waiter([bound], [bell])
    woken_s: list[float] = []

    def listen() -> None:
        waiter.wait(PATIENCE_S)
        woken_s.append(time.monotonic())

    thread = threading.Thread(target=listen)
    started_s = time.monotonic()
    thread.start()
    bell.ring()
    thread.join()
    assert woken_s[0] - started_s < PATIENCE_S / 2


def test_a_bell_that_was_rung_before_ends_the_next_wait_and_no_other(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    bell = nets.first.bell()
    waiter = nets.first.waiter([bound], [bell])
    bell.ring()
    bell.ring()
    started_s = time.monotonic()
    assert waiter.wait(PATIENCE_S) == []
    assert time.monotonic() - started_s < PATIENCE_S / 2
    started_s = time.monotonic()
    assert waiter.wait(0.05) == []
    assert time.monotonic() - started_s >= 0.049


def test_large_parts_are_shared_until_they_are_sent(nets: Nets) -> None:
    bound = nets.first.bind(nets.address, "data")
    client = _connect(nets, bound)
    content = bytearray(b"x" * 2_000_000)
    tracker = client.send([b"head", memoryview(content)], b"", True)
    received = _receive(nets.first, bound)
    assert bytes(received.parts[1]) == content
    if tracker is not None:
        _until(nets.second, client, lambda: tracker.done)


def test_a_part_beyond_the_limit_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    from distredge.runtime.protocol import transport

    server, client_network = ZmqNetwork(None), ZmqNetwork(None)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(transport, "MAX_FRAME_BYTES", 1000)
            bound = server.bind("tcp://127.0.0.1:0", "data")
        client = _connect(Nets(server, client_network, ""), bound)
        client.send([b"x" * 1001])
        _until(client_network, client, lambda: any(e.kind == "lost" for e in client.events()))
        assert bound.receive() is None
    finally:
        client_network.close()
        server.close()


def test_a_part_beyond_the_limit_is_not_sent() -> None:
    network = ZmqNetwork(None)
    try:
        endpoint = network.connect("tcp://127.0.0.1:1", "data")
        with pytest.raises(TransportError, match=r"a part of 2097153 bytes; at most 2097152 are sent"):
            endpoint.send([b"head", bytes(2 * 1024 * 1024 + 1)])
    finally:
        network.close()


def test_a_full_queue_is_an_error_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from distredge.runtime.protocol import transport

    monkeypatch.setitem(transport.SEND_HIGH_WATER, "data", 2)
    server, client_network = ZmqNetwork(None), ZmqNetwork(None)
    try:
        bound = server.bind("tcp://127.0.0.1:0", "data")
        client = _connect(Nets(server, client_network, ""), bound)
        assert any(_is_full(client) for _ in range(1000))
    finally:
        client_network.close()
        server.close()


def _is_full(endpoint: Endpoint) -> bool:
    try:
        endpoint.send([bytes(200_000)])
    except NotConnected as error:
        return "queue is full" in str(error)
    return False


def test_an_address_that_is_none_is_an_error() -> None:
    network = ZmqNetwork(None)
    try:
        with pytest.raises(TransportError, match="cannot connect to nonsense"):
            network.connect("nonsense", "data")
        with pytest.raises(TransportError, match="cannot bind tcp://no-such-host"):
            network.bind("tcp://no-such-host.invalid:1", "data")
    finally:
        network.close()
