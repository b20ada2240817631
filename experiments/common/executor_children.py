"""What the executor is compared with, each in a process of its own that answers over a pipe.

`tcp_sender` and `tcp_receiver`: bytes over one TCP connection. `bare_end`: one end of a pair of pyzmq sockets, DEALER
to ROUTER, that sends and receives the frames that a worker does, and nothing else: no checks, no packing, no placing,
no Python beyond polling, `recv_multipart(copy=False)` and `send_multipart`. `executor_plain` has ONNX Runtime alone.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import zmq

from distredge.errors import ExecutionError, PeerTimeout
from distredge.runtime.protocol.row_messages import HEAD_BYTES

SMALL = (HEAD_BYTES + 4,)
"""Frames of the smallest message of rows."""

COPY_BYTES = 256 * 1024
"""Frames below this size are copied into libzmq, as in a worker: cheaper than being told when it is done with them."""

ANSWER_S = 60.0
_POLLIN = int(zmq.POLLIN)
_FILLED_BYTES = 16 << 20
"""What is read and written between receiving and sending, as `runtime.worker.message_end` does it."""


class Child:
    """A process that runs a function, pinned, and answers what it is asked."""

    def __init__(self, target: Callable[..., None], cores: Sequence[int], *arguments: Any) -> None:
        # A new interpreter: a fork would take over sockets and threads.
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_start, args=(other, tuple(cores), target, arguments), name=target.__name__, daemon=True
        )
        self._process.start()
        other.close()
        self.told: Any = self.answer()

    def ask(self, request: Any) -> Any:
        """Returns its answer."""
        self._pipe.send(request)
        return self.answer()

    def tell(self, request: Any) -> None:
        """Asks without waiting; `answer` has the answer."""
        self._pipe.send(request)

    def answer(self, within_s: float = ANSWER_S) -> Any:
        """Waits for the answer to what was told.

        Raises:
            PeerTimeout: if there is none in time.
            ExecutionError: if the process has ended by itself.
        """
        if not self._pipe.poll(within_s):
            raise PeerTimeout(f"{self._process.name} does not answer within {within_s:.0f} s")
        try:
            return self._pipe.recv()
        except EOFError:
            raise ExecutionError(f"{self._process.name} has ended by itself") from None

    def close(self) -> None:
        """Ends it."""
        self._pipe.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def child(target: Callable[..., None], cores: Sequence[int], *arguments: Any) -> Iterator[Child]:
    """A process that runs a function until the block ends."""
    started = Child(target, cores, *arguments)
    try:
        yield started
    finally:
        started.close()


def _start(pipe: Connection, cores: tuple[int, ...], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # A session of its own, as workers have: Linux shares a busy core out between sessions.
    os.setsid()
    os.sched_setaffinity(0, cores)
    try:
        target(pipe, *arguments)
    except (EOFError, OSError):
        # The parent closed the pipe.
        return


# Bytes over TCP.


def tcp_receiver(pipe: Connection, size: int) -> None:
    """Tells its port; asked, answers when (monotonic seconds) it had the next `size` bytes."""
    room = memoryview(bytearray(size))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        connection, _ = listener.accept()
        with connection:
            while True:
                pipe.recv()
                at = 0
                while at < size:
                    got = connection.recv_into(room[at:])
                    if not got:
                        return
                    at += got
                pipe.send(time.monotonic())


def tcp_sender(pipe: Connection, size: int, port: int) -> None:
    """Asked, sends `size` bytes and answers when (monotonic seconds) it began."""
    block = np.ones(size, np.uint8).data
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe.send("ready")
        while True:
            pipe.recv()
            began_s = time.monotonic()
            connection.sendall(block)
            pipe.send(began_s)


# pyzmq alone.


@dataclass(frozen=True)
class BareOrder:
    """What one end of a pair does.

    Attributes:
        keys: public and secret key of its own; None for plaintext.
        to: address to which it passes messages on; "" answers whoever wrote first.
        to_key: public key there.
    """

    keys: tuple[bytes, bytes] | None
    to: str = ""
    to_key: bytes = b""


@dataclass(frozen=True)
class Sends:
    """What an end sends for each message that it gets from now on: frames of these sizes, the first of which begins
    with a head, and whether caches are filled before it, as computing fills them."""

    sizes: tuple[int, ...]
    fills: bool


@dataclass
class BareReading:
    """Processor seconds of all threads of an end since it began, without filling caches, and how long (seconds) each
    message since the last reading was on the way, from before it was handed to pyzmq until it was there whole."""

    processor_s: float = 0.0
    on_the_way_s: list[float] = field(default_factory=list)


def bare_end(pipe: Connection, order: BareOrder) -> None:
    """Serves one end: tells its address, then takes `Sends` (answers "ready") or None (answers a `BareReading`)."""
    end = _BareEnd(order)
    pipe.send(end.address)
    thread = threading.Thread(target=end.run, daemon=True)
    thread.start()
    while True:
        request = pipe.recv()
        if isinstance(request, Sends):
            end.sends = (request, [np.ones(size, np.uint8).data for size in request.sizes])
            pipe.send("ready")
        else:
            way_s, end.on_the_way_s = end.on_the_way_s, []
            pipe.send(BareReading(time.process_time() - end.filled_s - time.thread_time(), way_s))


class _BareEnd:
    def __init__(self, order: BareOrder) -> None:
        context = zmq.Context()
        self._router = context.socket(zmq.ROUTER)
        self._router.copy_threshold = COPY_BYTES
        if order.keys is not None:
            self._router.curve_server = True
            self._router.curve_publickey, self._router.curve_secretkey = order.keys
        self._router.bind("tcp://127.0.0.1:*")
        last = self._router.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(last, bytes)
        self.address = last.rstrip(b"\0").decode()
        self._dealer = bare_dealer(context, order.to, order.keys, order.to_key) if order.to else None
        self._route = b""
        self._memory = np.ones(_FILLED_BYTES // 8, dtype=np.int64)
        self.filled_s = 0.0
        self.on_the_way_s: list[float] = []
        self.sends: tuple[Sends, list[memoryview]] = (Sends(SMALL, False), [memoryview(bytearray(SMALL[0]))])

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        while True:
            poller.poll(1000)
            # As a worker does: asking is cheaper than the exception of a socket that has nothing.
            while int(self._router.getsockopt(zmq.EVENTS)) & _POLLIN:
                self._handle(self._router.recv_multipart(copy=False))

    def _handle(self, frames: list[zmq.Frame]) -> None:
        self.on_the_way_s.append((time.monotonic_ns() - time_in(frames[1].buffer)) / 1e9)
        sends, parts = self.sends
        # Who writes first is the one that is answered; others pass messages on to be answered to it.
        self._route = self._route or frames[0].bytes
        if sends.fills:
            began_s = time.thread_time()
            np.add(self._memory, 1, out=self._memory)
            self.filled_s += time.thread_time() - began_s
        parts[0][:8] = time.monotonic_ns().to_bytes(8, "big")
        if self._dealer is not None:
            self._dealer.send_multipart(parts, copy=False)
        else:
            self._router.send_multipart([self._route, *parts], copy=False)


def bare_dealer(
    context: zmq.Context[Any], address: str, keys: tuple[bytes, bytes] | None, to_key: bytes
) -> zmq.Socket[bytes]:
    """Returns a socket that is connected to a bare end."""
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.copy_threshold = COPY_BYTES
    if keys is not None:
        dealer.curve_publickey, dealer.curve_secretkey = keys
        dealer.curve_serverkey = to_key
    dealer.connect(address)
    return dealer


def head_now(size: int) -> bytes:
    """A first frame of so many bytes that says when it was made."""
    return time.monotonic_ns().to_bytes(8, "big") + bytes(size - 8)


def time_in(head: Any) -> int:
    """When a head was made, nanoseconds."""
    return int.from_bytes(head[:8], "big")
