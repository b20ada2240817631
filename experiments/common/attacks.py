"""The attacks of `attack.py`: each does its worst to a worker for some seconds, at a pace that leaves the cores free.

They run in one process of the lowest priority (`Attacker`), so that what is measured is how workers defend themselves,
and not how few cores there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import zmq

from distredge.errors import DistredgeError, ProtocolError
from distredge.experiments.common.hostile import (
    ask_for_echoes,
    dial,
    greeting,
    holder,
    send_command,
    send_noise,
    send_without_end,
)
from distredge.runtime.deployment import Deployment
from distredge.runtime.protocol.addresses import PeerAddress, WorkerAddress
from distredge.runtime.protocol.descriptors import raise_limit
from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    Attach,
    Echo,
    FrameFailed,
    Hello,
    Measure,
    ToWorker,
    Weight,
    decode_on_data,
    decode_to_worker,
    encode,
)
from distredge.runtime.protocol.row_messages import HEAD_BYTES, PREFIX, write_head
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys, make_keys
from distredge.runtime.protocol.transport import Tracker, ZmqNetwork
from distredge.runtime.protocol.zmq_endpoint import ZmqEndpoint
from distredge.runtime.requester.coordinator import Coordinator

IDLE_CONNECTIONS: Final = 1500
HALF_OPEN: Final = 100
ENDLESS_BYTES: Final = 160 * 1024 * 1024
READY_S: Final = 60.0
HUGE: Final = (2**29, 2**29)


@dataclass(frozen=True)
class Target:
    """What an attacker knows.

    Attributes:
        victim: a worker that serves the stream.
        bystander: one that serves nobody, for attacks with the requester's key: that key may take any worker.
        keys: of all names; an attack uses those that it is said to have.
        impostor: whose worker key was stolen.
        deployment: one for the bystander alone.
        plans: numbers of the plans that run, which each worker knows.
    """

    victim: WorkerAddress
    bystander: WorkerAddress
    keys: dict[str, Keys]
    impostor: str
    deployment: Deployment
    plans: tuple[int, ...] = ()


Attack = Callable[[Target, float], int]
"""Attacks until a time of `time.monotonic`'s clock; returns how many results came that were not the attacker's."""


def _paced(until_s: float, pause_s: float) -> Iterator[int]:
    """Counts turns, with a pause after each."""
    for turn in itertools.count():
        if time.monotonic() >= until_s:
            return
        yield turn
        time.sleep(pause_s)


# Without any key.


def idle_connections(target: Target, until_s: float) -> int:
    """Opens connections and says nothing."""
    held: list[socket.socket] = []
    try:
        for turn in _paced(until_s, 0.002):
            with contextlib.suppress(OSError):
                held.append(dial(target.victim.data if turn % 2 else target.victim.control))
            if len(held) > IDLE_CONNECTIONS:
                held.pop(0).close()
    finally:
        for connection in held:
            connection.close()
    return 0


def half_open_handshakes(target: Target, until_s: float) -> int:
    """Sends greetings byte by byte, and never the rest."""
    words = greeting() + b"\x04\xc8\x05HELLO"
    held: list[tuple[socket.socket, Iterator[int]]] = []
    try:
        for turn in _paced(until_s, 0.005):
            if len(held) < HALF_OPEN:
                with contextlib.suppress(OSError):
                    held.append((dial(target.victim.data), iter(words)))
            connection, left = held[turn % len(held)]
            try:
                connection.sendall(bytes(itertools.islice(left, 4)))
            except OSError:
                connection.close()
                held.remove((connection, left))
    finally:
        for connection, _ in held:
            connection.close()
    return 0


def large_commands(target: Target, until_s: float) -> int:
    """Announces commands of 62 MB, and of what fits, before any key is agreed on."""
    for turn in _paced(until_s, 0.02):
        with contextlib.suppress(OSError), dial(target.victim.data) as connection:
            send_command(connection, 62_000_000 if turn % 2 else 1_900_000, 4_000_000)
    return 0


def noise(target: Target, until_s: float) -> int:
    """Sends random bytes where a greeting is due."""
    for turn in _paced(until_s, 0.01):
        with (
            contextlib.suppress(OSError),
            dial(target.victim.data if turn % 2 else target.victim.control) as connection,
        ):
            send_noise(connection, 1000)
    return 0


def unknown_keys(target: Target, until_s: float) -> int:
    """Handshakes with keys that nobody allowed."""
    stranger = make_keys(["stranger"])["stranger"].for_requester()
    for _ in _paced(until_s, 0.02):
        with holder(target.victim.data, stranger, target.victim.public_key) as dealer:
            dealer.poll(20)
    return 0


# With a worker's key.


def impostor(target: Target, until_s: float) -> int:
    """Asks for another's results, speaks in the requester's name, and knocks at the control plane."""
    security = target.keys[target.impostor].for_requester()
    stolen = 0
    with (
        holder(target.victim.data, security, target.victim.public_key) as data,
        holder(target.victim.control, security, target.victim.public_key) as control,
    ):
        for turn in _paced(until_s, 0.005):
            plan = target.plans[turn % len(target.plans)] if target.plans else turn
            head = bytearray(HEAD_BYTES)
            write_head(memoryview(head), plan, turn, 0, REQUESTER, 1)
            messages: list[list[Bytes]] = [
                [encode(Attach(os.urandom(16), turn))],
                [head, os.urandom(5000)],
                [encode(FrameFailed(plan, turn, 0, "engine", "not the requester"))],
            ]
            with contextlib.suppress(zmq.ZMQError):
                data.send_multipart(messages[turn % 3], zmq.NOBLOCK)
                control.send(encode(Hello(os.urandom(16), "0", target.victim.name, "an impostor", True)), zmq.NOBLOCK)
            while data.poll(0):
                stolen += not _is_echo(data.recv_multipart()[0])
            while control.poll(0):
                control.recv_multipart()
                stolen += 1
    return stolen


def _is_echo(head: bytes) -> bool:
    try:
        return isinstance(decode_on_data(head), Echo)
    except ProtocolError:
        return False


def endless_message(target: Target, until_s: float) -> int:
    """Sends messages of very many parts."""
    security = target.keys[target.impostor].for_requester()
    for _ in _paced(until_s, 0.5):
        with holder(target.victim.data, security, target.victim.public_key) as dealer:
            dealer.send(encode(Echo(1, False)))
            if dealer.poll(1000):
                dealer.recv()
                send_without_end(dealer, ENDLESS_BYTES)
                # Answered over a new connection, once the old one has been cut off.
                dealer.send(encode(Echo(2, False)))
                dealer.poll(2000)
    return 0


def unread_echoes(target: Target, until_s: float) -> int:
    """Asks for large answers and reads none."""
    security = target.keys[target.impostor].for_requester()
    for _ in _paced(until_s, 0.2):
        with holder(target.victim.data, security, target.victim.public_key, 1) as dealer:
            ask_for_echoes(dealer, 150)
            time.sleep(0.3)
    return 0


# With the requester's key.


def wrong_requests(target: Target, until_s: float) -> int:
    """Sends a worker what cannot be read, and asks it to measure with a key that is none."""
    security = target.keys[REQUESTER_NAME].for_requester()
    worker = target.bystander
    measure = Measure(1, PeerAddress("alpha", target.victim.data, "no key"), False, (0,), 1, 1.0)
    with (
        holder(worker.control, security, worker.public_key) as control,
        holder(worker.data, security, worker.public_key) as data,
    ):
        for turn in _paced(until_s, 0.02):
            for dealer in (control, data):
                with contextlib.suppress(zmq.ZMQError):
                    dealer.send_multipart([PREFIX + os.urandom(40), os.urandom(100)], zmq.NOBLOCK)
                    dealer.send_multipart([os.urandom(40)] * (turn % 50 + 1), zmq.NOBLOCK)
                while dealer.poll(0):
                    dealer.recv_multipart()
            with contextlib.suppress(zmq.ZMQError):
                control.send(encode(measure), zmq.NOBLOCK)
    return 0


def huge_constants(target: Target, until_s: float) -> int:
    """Deploys on a worker as the requester does, but that its constants claim to have 2^60 bytes."""
    for _ in _paced(until_s, 0.1):
        with (
            contextlib.suppress(DistredgeError),
            contextlib.closing(_Exaggerating(target)) as network,
            Coordinator(network, [target.bystander], connect_s=2.0, patience_s=2.0) as coordinator,
        ):
            coordinator.deploy(target.deployment)
    return 0


class _Exaggerating(ZmqNetwork):
    """A network that says of every constant that it is huge."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.keys[REQUESTER_NAME].for_requester())

    def connect(self, *arguments: Any) -> ZmqEndpoint:
        endpoint = super().connect(*arguments)
        if arguments[1] == "control":
            send = endpoint.send

            def exaggerate(parts: Any, to: bytes = b"", tracked: bool = False) -> Tracker | None:
                return send([_exaggerated(parts[0]), *parts[1:]], to, tracked)

            endpoint.send = exaggerate  # type: ignore[method-assign]
        return endpoint


def _exaggerated(head: bytes) -> bytes:
    message: ToWorker = decode_to_worker(head)
    if isinstance(message, Weight):
        return encode(msgspec.structs.replace(message, dtype="float32", shape=HUGE, total_bytes=4 * math.prod(HUGE)))
    return head


ATTACKS: Final[dict[str, Attack]] = {
    "idle connections": idle_connections,
    "half-open handshakes": half_open_handshakes,
    "large commands": large_commands,
    "noise": noise,
    "unknown keys": unknown_keys,
    "impostor": impostor,
    "endless message": endless_message,
    "unread echoes": unread_echoes,
    "wrong requests": wrong_requests,
    "huge constants": huge_constants,
}


class Attacker:
    """A process that attacks when it is told to; a context manager."""

    def __init__(self, target: Target) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs, target), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Attacker:
        if not self._pipe.poll(READY_S):
            raise TimeoutError("the attacking process does not come up")
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()

    def begin(self, name: str, plans: tuple[int, ...], seconds: float) -> None:
        """Begins an attack that lasts for some seconds, while some plans run."""
        self._pipe.send((name, plans, seconds))

    def end(self) -> int:
        """Waits for its end; returns how many results were stolen."""
        found = self._pipe.recv()
        if isinstance(found, BaseException):
            raise found
        return int(found)


def _serve(pipe: Any, target: Target) -> None:
    os.nice(19)
    raise_limit()
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            name, plans, seconds = pipe.recv()
            try:
                pipe.send(ATTACKS[name](dataclasses.replace(target, plans=plans), time.monotonic() + seconds))
            except Exception as error:  # for the parent to raise
                pipe.send(error)
