"""Key files, and who is let in: over real sockets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from zmq.utils import z85

from distredge.errors import AuthError, FileError, KeyFileError
from distredge.runtime.protocol.security import (
    Authenticator,
    Keys,
    Security,
    is_key,
    make_keys,
    read_keys,
    read_public_keys,
    write_keys,
)
from distredge.runtime.protocol.transport import ZmqNetwork

NAMES = ("alpha", "beta")


@pytest.fixture(scope="module")
def keys() -> dict[str, Keys]:
    return make_keys(NAMES)


def test_files_round_trip(tmp_path: Path, keys) -> None:
    files = write_keys(keys, tmp_path / "keys")
    assert sorted(f.name for f in files) == ["alpha.secret", "beta.secret", "public.json", "requester.secret"]
    for name in (*NAMES, "requester"):
        assert read_keys(tmp_path / "keys", name) == keys[name]
        assert (tmp_path / "keys" / f"{name}.secret").stat().st_mode & 0o777 == 0o600
    assert "secret" not in (tmp_path / "keys" / "public.json").read_text()


def test_secret_files_are_never_open_to_others(tmp_path: Path, keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode is given when a file is made, so that umask 0 opens nothing either."""
    old = os.umask(0)
    try:
        write_keys(keys, tmp_path / "keys")
    finally:
        os.umask(old)
    assert (tmp_path / "keys" / "alpha.secret").stat().st_mode & 0o777 == 0o600


def test_keys_are_not_overwritten(tmp_path: Path, keys) -> None:
    write_keys(keys, tmp_path)
    with pytest.raises(FileError, match="is there already"):
        write_keys(make_keys(NAMES), tmp_path)
    assert read_keys(tmp_path, "alpha") == keys["alpha"]


def test_secrets_do_not_show(keys) -> None:
    held = keys["alpha"]
    for shown in (repr(held), repr(held.for_worker()), repr(held.for_requester())):
        assert held.secret_key not in shown


def test_bad_files_are_named(tmp_path: Path, keys) -> None:
    with pytest.raises(FileError, match=r"public\.json: cannot read the public keys: .*: distredge keys CLUSTER\.toml"):
        read_keys(tmp_path, "alpha")
    write_keys(keys, tmp_path)
    with pytest.raises(KeyFileError, match="no key of 'delta' among"):
        read_keys(tmp_path, "delta")
    secret = tmp_path / "alpha.secret"
    secret.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 0640 lets others read the secret key; run: chmod 600"):
        read_keys(tmp_path, "alpha")
    secret.chmod(0o600)
    secret.write_text(make_keys([])["requester"].secret_key)
    with pytest.raises(KeyFileError, match="does not belong to the public key"):
        read_keys(tmp_path, "alpha")
    secret.write_text("short")
    with pytest.raises(FileError, match="not a secret key of 40 Z85 characters"):
        read_keys(tmp_path, "alpha")
    secret.unlink()
    with pytest.raises(FileError, match=r"alpha\.secret: cannot read the secret key: No such file"):
        read_keys(tmp_path, "alpha")


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"format": "distredge.keys/2", "keys": {}}', '{"format": "distredge.keys/1", "keys": {"a": "short"}}'],
)
def test_a_bad_public_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "public.json"
    path.write_text(content)
    with pytest.raises(FileError, match=r"public\.json"):
        read_public_keys(path)


def test_an_empty_key_is_an_error(tmp_path: Path, keys) -> None:
    with pytest.raises(AuthError, match="secret key is not one of 40 Z85 characters"):
        Security("alpha", keys["alpha"].public["alpha"], "")
    with pytest.raises(AuthError, match="the public key of 'x'"):
        Security("alpha", keys["alpha"].public["alpha"], keys["alpha"].secret_key, {"data": {"x": ""}})
    path = tmp_path / "public.json"
    path.write_text(json.dumps({"format": "distredge.keys/1", "keys": {"a": "\\" * 40}}))
    with pytest.raises(FileError, match=r"keys\.a: not a public key"):
        read_public_keys(path)


@pytest.mark.parametrize("text", ["", "a" * 39, "a" * 41, "é" * 40, '"' * 40])
def test_what_is_no_key(text: str) -> None:
    assert not is_key(text)


@pytest.fixture
def server(keys) -> Iterator[ZmqNetwork]:
    network = ZmqNetwork(keys["alpha"].for_worker())
    yield network
    network.close()


def _outcome(network: ZmqNetwork, address: str, plane: str, server_key: str) -> str:
    """What becomes of a connection: "connected", or why not."""
    endpoint = network.connect(address, plane, server_key)
    waiter = network.waiter([endpoint])
    for _ in range(50):
        waiter.wait(0.2)
        for event in endpoint.events():
            return event.kind if event.kind == "connected" else f"{event.kind}: {event.reason}"
    return "nothing"


@pytest.mark.parametrize(
    ("who", "plane", "expected"),
    [
        ("requester", "control", "connected"),
        ("requester", "data", "connected"),
        ("beta", "data", "connected"),
        ("beta", "control", "refused: it does not accept this side's key"),
        ("stranger", "control", "refused: it does not accept this side's key"),
        ("stranger", "data", "refused: it does not accept this side's key"),
    ],
)
def test_who_is_let_in(keys, server: ZmqNetwork, caplog, who: str, plane: str, expected: str) -> None:
    """A stranger has the server's right public key, and a key pair of its own that nobody allowed."""
    caplog.set_level(logging.ERROR)
    bound = server.bind("tcp://127.0.0.1:0", plane)
    security = make_keys([who])[who].for_requester() if who == "stranger" else keys[who].for_requester()
    network = ZmqNetwork(security)
    try:
        assert _outcome(network, bound.address, plane, keys["alpha"].public["alpha"]) == expected
    finally:
        network.close()
    assert (server.refused > 0) == expected.startswith("refused")


def test_a_client_without_encryption_is_refused(keys, server: ZmqNetwork) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    network = ZmqNetwork(None)
    try:
        assert _outcome(network, bound.address, "data", "") != "connected"
    finally:
        network.close()


def test_a_server_with_another_key_is_not_talked_to(keys, server: ZmqNetwork) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    network = ZmqNetwork(keys["requester"].for_requester())
    try:
        assert _outcome(network, bound.address, "data", keys["alpha"].public["beta"]) != "connected"
    finally:
        network.close()


def test_messages_carry_the_name_of_their_key(keys, server: ZmqNetwork) -> None:
    bound = server.bind("tcp://127.0.0.1:0", "data")
    network = ZmqNetwork(keys["beta"].for_requester())
    try:
        endpoint = network.connect(bound.address, "data", keys["alpha"].public["alpha"])
        waiter = network.waiter([endpoint])
        while not any(event.kind == "connected" for event in endpoint.events()):
            waiter.wait(5.0)
        endpoint.send([b"rows", b"more"])
        server.waiter([bound]).wait(5.0)
        received = bound.receive()
        assert received is not None
        assert received.user == "beta"
        assert [bytes(part) for part in received.parts] == [b"rows", b"more"]
    finally:
        network.close()


def test_a_key_of_the_peer_is_needed(keys) -> None:
    network = ZmqNetwork(keys["requester"].for_requester())
    try:
        with pytest.raises(AuthError, match="no public key is known for it"):
            network.connect("tcp://127.0.0.1:1", "control")
    finally:
        network.close()


def test_the_authenticator_names_whom_it_lets_in(keys, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = Authenticator(keys["alpha"].for_worker())

    def answer(plane: bytes, name: str, mechanism: bytes = b"CURVE") -> list[bytes]:
        key = z85.decode(keys["alpha"].public[name].encode())
        return authenticator.answer([b"1.0", b"7", plane, b"10.0.0.9", b"", mechanism, key])

    assert answer(b"data", "beta") == [b"1.0", b"7", b"200", b"OK", b"beta", b""]
    assert answer(b"control", "requester")[2:5] == [b"200", b"OK", b"requester"]
    assert authenticator.refused == 0
    for plane in (b"control", b"", b"\xff"):
        assert answer(plane, "beta")[2:5] == [b"400", b"unknown key", b""]
    assert authenticator.refused == 3
    assert answer(b"data", "beta", b"NULL")[2] == b"400"
    for request in ([], [b"1.0"], [b"1.0", b"7", b"data", b"", b"", b"CURVE"], [b"2.0"] * 7):
        assert authenticator.answer(request)[2] == b"400"
    assert len(caplog.records) == 1, "a flood of strangers must not fill the log"
    assert "control plane: refused a connection from 10.0.0.9: unknown key" in caplog.text


@pytest.mark.parametrize("address", ["tcp://*:0", "tcp://0.0.0.0:0", "tcp://[::]:0"])
def test_every_interface_only_with_encryption(address: str) -> None:
    network = ZmqNetwork(None)
    try:
        with pytest.raises(AuthError, match="every interface is bound only with encryption"):
            network.bind(address, "control")
    finally:
        network.close()
