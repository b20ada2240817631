"""What a hostile peer can do to a worker's ports: without a key over plain sockets, and with one over libzmq's own.

Everything is bounded in count, bytes and time. `attack.py` does it to workers that serve a stream of frames meanwhile,
tests to single workers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

import zmq

from distredge.runtime.protocol.device_plan import PART_BYTES
from distredge.runtime.protocol.messages import MAX_ECHO_BYTES, Echo, encode
from distredge.runtime.protocol.security import Security

SEND_TIMEOUT_S: Final = 5.0
_LARGE_COMMAND: Final = 0x06


def greeting(mechanism: str = "CURVE") -> bytes:
    """The 64 bytes with which either side of ZMTP 3.0 begins."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0") + bytes(32)


def dial(address: str) -> socket.socket:
    """Opens a plain TCP connection to an address such as ``tcp://127.0.0.1:5700``."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), SEND_TIMEOUT_S)


def send_command(connection: socket.socket, announced_bytes: int, sent_bytes: int) -> int:
    """Greets, announces a command of some size before any key is agreed on, and sends so much of it.

    Returns:
        Bytes that could be sent of it before the other side hung up, or took no more.
    """
    sent = 0
    piece = bytes(64 * 1024)
    with contextlib.suppress(OSError):
        connection.sendall(greeting() + bytes([_LARGE_COMMAND]) + announced_bytes.to_bytes(8, "big"))
        while sent < sent_bytes:
            sent += connection.send(piece[: sent_bytes - sent])
    return sent


def send_noise(connection: socket.socket, size_bytes: int) -> None:
    """Sends random bytes where a greeting is due."""
    with contextlib.suppress(OSError):
        connection.sendall(os.urandom(size_bytes))


def is_closed(connection: socket.socket, timeout_s: float) -> bool:
    """Whether the other side hangs up within a time; reads what it says until then."""
    until_s = time.monotonic() + timeout_s
    while (left_s := until_s - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


@contextlib.contextmanager
def holder(address: str, security: Security | None, server_key: str, window: int = 1000) -> Iterator[zmq.Socket[bytes]]:
    """A connection of somebody who has a key, on a socket that does whatever it is told.

    Args:
        address: what to connect to.
        security: own keys; None without encryption.
        server_key: public key of whom it connects to.
        window: messages that it takes in before it reads no more.
    """
    with zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        try:
            dealer.linger = 0
            dealer.sndtimeo = int(1000 * SEND_TIMEOUT_S)
            dealer.rcvtimeo = int(1000 * SEND_TIMEOUT_S)
            dealer.rcvhwm = window
            if window < 1000:
                dealer.rcvbuf = 64 * 1024
            if security is not None:
                dealer.curve_serverkey = server_key.encode()
                dealer.curve_publickey = security.public_key.encode()
                dealer.curve_secretkey = security.secret_key.encode()
            dealer.connect(address)
            yield dealer
        finally:
            dealer.close(linger=0)


def send_without_end(dealer: zmq.Socket[bytes], size_bytes: int) -> None:
    """Sends one message of very many parts: libzmq counts it when it is whole, and not before."""
    part = bytes(PART_BYTES)
    with contextlib.suppress(zmq.ZMQError):
        dealer.send_multipart([part] * (size_bytes // len(part)), copy=False)


def ask_for_echoes(dealer: zmq.Socket[bytes], count: int) -> None:
    """Asks for the largest answers there are, and reads none."""
    with contextlib.suppress(zmq.ZMQError):
        for number in range(count):
            dealer.send(encode(Echo(number, False, MAX_ECHO_BYTES)))
