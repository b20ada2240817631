"""The doorkeeper at real sockets: who is ended, who comes in nevertheless, and what is heard of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from distredge.experiments.common.hostile import dial, greeting, holder, is_closed, send_command, send_without_end
from distredge.runtime.protocol import transport
from distredge.runtime.protocol.door import DIALLED_UNREAD_BYTES, UNREAD_BYTES, UNSENT_BYTES, WAITING_OF_ADDRESS
from distredge.runtime.protocol.doorkeeper import Doorkeeper
from distredge.runtime.protocol.security import Keys, make_keys
from distredge.runtime.protocol.transport import Endpoint, NotConnected, Received, ZmqNetwork

PATIENCE_S = 30.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def keys() -> dict[str, Keys]:
    return make_keys(["alpha", "beta"])


@pytest.fixture
def server(keys: dict[str, Keys]) -> Iterator[ZmqNetwork]:
    network = ZmqNetwork(keys["alpha"].for_worker())
    yield network
    network.close()


@pytest.fixture
def plain() -> Iterator[ZmqNetwork]:
    network = ZmqNetwork(None)
    yield network
    network.close()


@pytest.fixture
def raw() -> Iterator[list[socket.socket]]:
    """Plain connections, closed at the end."""
    made: list[socket.socket] = []
    yield made
    for connection in made:
        connection.close()


def _until(true: Callable[[], Any]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.01)


def _receive(network: ZmqNetwork, endpoint: Endpoint) -> Received:
    waiter = network.waiter([endpoint])
    until_s = time.monotonic() + PATIENCE_S
    while (received := endpoint.receive()) is None:
        assert time.monotonic() < until_s, "nothing came"
        waiter.wait(0.1)
    return received


def test_an_honest_peer_comes_in_while_strangers_stand_at_the_door(
    keys: dict[str, Keys], server: ZmqNetwork, raw: list[socket.socket]
) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    raw.extend(dial(bound.address) for _ in range(4 * WAITING_OF_ADDRESS))
    with holder(bound.address, keys["beta"].for_requester(), keys["alpha"].public["alpha"]) as dealer:
        dealer.send(b"hello")
        assert _receive(server, bound).user == "beta"
        _until(lambda: server.dropped.get("gave way", 0) >= 3 * WAITING_OF_ADDRESS)
        assert all(is_closed(connection, PATIENCE_S) for connection in raw[:WAITING_OF_ADDRESS]), "the oldest go"
        raw.extend(dial(bound.address) for _ in range(WAITING_OF_ADDRESS))
        dealer.send(b"still here")
        assert bytes(_receive(server, bound).head) == b"still here"


def test_a_handshake_that_does_not_go_on_is_ended(
    server: ZmqNetwork, raw: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "HANDSHAKE_S", 0.3)
    bound = server.bind("tcp://127.0.0.1:0", "data")
    raw.extend(dial(bound.address) for _ in range(3))
    raw[1].sendall(greeting()[:20])
    raw[2].sendall(greeting())
    assert all(is_closed(connection, PATIENCE_S) for connection in raw)


@pytest.mark.parametrize("announced_bytes", [62_000_000, MIB])
def test_who_says_much_before_its_key_is_ended(
    server: ZmqNetwork, raw: list[socket.socket], announced_bytes: int
) -> None:
    """A larger command than any is refused by libzmq, one within its limit by the doorkeeper."""
    bound = server.bind("tcp://127.0.0.1:0", "data")
    raw.append(dial(bound.address))
    send_command(raw[0], announced_bytes, 100_000)
    assert is_closed(raw[0], PATIENCE_S)
    if announced_bytes == MIB:
        _until(lambda: server.dropped.get("spoke before its key") == 1)


def test_a_message_without_an_end_is_cut_off_by_name(
    keys: dict[str, Keys], server: ZmqNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    with holder(bound.address, keys["beta"].for_requester(), keys["alpha"].public["alpha"]) as dealer:
        dealer.send(b"hello")
        assert _receive(server, bound).user == "beta"
        send_without_end(dealer, 16 * UNREAD_BYTES)
        _until(lambda: server.dropped.get("sends too much: 'beta'"))
    assert bound.receive() is None
    assert any("'beta' at 127.0.0.1" in record.message for record in caplog.records)


def test_what_is_taken_in_time_may_be_as_much_as_one_likes(
    keys: dict[str, Keys], server: ZmqNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    network = ZmqNetwork(keys["beta"].for_requester())
    try:
        client = network.connect(bound.address, "data", keys["alpha"].public["alpha"])
        waiter = network.waiter([client])
        content, sent, taken = bytes(MIB), 0, 0
        while taken < 3 * UNREAD_BYTES // MIB:
            try:
                if sent - taken < 8:
                    client.send([b"head", content])
                    sent += 1
            except NotConnected:
                waiter.wait(0.05, [client])
            while (received := bound.receive()) is not None:
                taken += 1
                assert received.user == "beta"
        assert server.dropped == {}
    finally:
        network.close()


def test_a_slow_reader_is_cut_off_by_name(keys: dict[str, Keys], server: ZmqNetwork) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    with holder(bound.address, keys["beta"].for_requester(), keys["alpha"].public["alpha"], 1) as dealer:
        dealer.send(b"hello")
        peer = _receive(server, bound).peer
        content = bytes(MIB)
        for _ in range(UNSENT_BYTES // MIB + 32):
            bound.send([b"head", content], peer, True)
        _until(lambda: server.dropped.get("reads too little: 'beta'"))
        _until(lambda: _is_gone(bound, peer))


def _is_gone(bound: Endpoint, peer: bytes) -> bool:
    try:
        bound.send([b"?"], peer)
    except NotConnected as error:
        return "not connected" in str(error)
    return False


def test_without_encryption_the_same_holds_for_addresses(plain: ZmqNetwork) -> None:
    bound = plain.bind("tcp://127.0.0.1:0", "data")
    with holder(bound.address, None, "") as dealer:
        dealer.send(b"hello")
        assert _receive(plain, bound).user == ""
        send_without_end(dealer, 16 * UNREAD_BYTES)
        _until(lambda: plain.dropped.get("sends too much: 127.0.0.1"))


def test_who_connects_is_guarded_too(keys: dict[str, Keys]) -> None:
    """A worker whose result never ends fills nobody's memory."""
    spub, secret = keys["alpha"].public["alpha"], keys["alpha"].secret_key
    network = ZmqNetwork(keys["requester"].for_requester())
    with zmq.Context() as context, context.socket(zmq.ROUTER) as worker:
        try:
            worker.linger = 0
            worker.curve_server = True
            worker.curve_secretkey = secret.encode()
            port = worker.bind_to_random_port("tcp://127.0.0.1")
            client = network.connect(f"tcp://127.0.0.1:{port}", "data", spub)
            waiter = network.waiter([client])

            def sent() -> bool:
                waiter.wait(0.05, [client])
                client.events()
                try:
                    client.send([b"hello"])
                except NotConnected:
                    return False
                return True

            _until(sent)
            peer = worker.recv_multipart()[0]
            worker.send_multipart([peer, b"hello"])
            _receive(network, client)
            worker.send_multipart([peer, *[bytes(MIB)] * (4 * DIALLED_UNREAD_BYTES // MIB)], copy=False)
            _until(lambda: network.dropped.get(f"sends too much: 'tcp://127.0.0.1:{port}'"))
        finally:
            network.close()


def test_a_dropped_endpoint_is_watched_no_more(keys: dict[str, Keys], server: ZmqNetwork) -> None:
    first = server.bind("tcp://127.0.0.1:0", "control")
    server.drop(first)
    second = server.bind("tcp://127.0.0.1:0", "data")
    with holder(second.address, keys["beta"].for_requester(), keys["alpha"].public["alpha"]) as dealer:
        dealer.send(b"hello")
        assert _receive(server, second).user == "beta"


def test_its_death_is_told(keys: dict[str, Keys], monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[BaseException] = []
    told = threading.Event()

    def broken(self: Doorkeeper) -> None:
        raise RuntimeError("broken on purpose")

    def tell(error: BaseException) -> None:
        died.append(error)
        told.set()

    monkeypatch.setattr(Doorkeeper, "_sweep", broken)
    network = ZmqNetwork(keys["alpha"].for_worker())
    try:
        network.on_death(tell)
        bound = network.bind("tcp://127.0.0.1:0", "data")
        dial(bound.address).close()
        assert told.wait(PATIENCE_S)
        assert str(died[0]) == "broken on purpose"
    finally:
        network.close()
