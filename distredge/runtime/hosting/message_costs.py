"""What a message and a byte cost the processor at each end, measured between the data planes of two workers.

Each end is a process of its own (`worker.message_end`) with the worker's sockets, packing, placing and state machine,
and an engine that computes nothing. A frame is: the requester, which is this process, sends four bytes to the first;
that sends rows to the second; that sends four bytes back. So the first receives a small message and sends one of the
size in question, the second the other way round.

The loopback interface does in the sender's system calls what a network card's interrupt does at the receiver: the sum
of both ends is right, their shares are nearly so.
"""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

from distredge.child_processes import python_command, python_environment
from distredge.errors import ExecutionError, PeerTimeout
from distredge.profiles.measuring.least_squares import fit_nonnegative
from distredge.profiles.measuring.message_ends import median_s
from distredge.profiles.measuring.repeats import rounded
from distredge.profiles.schema import Copy, Handling, Messages
from distredge.runtime.hosting.worker_process import local_order
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import REQUESTER, Buffer, DevicePlan, SegmentPlan, SourceMessage, TensorBox
from distredge.runtime.protocol.messages import Attach, encode
from distredge.runtime.protocol.orders import MEASURING, Bound, EndReading, EndRequest
from distredge.runtime.protocol.packed_rows import pack, read_packed
from distredge.runtime.protocol.row_messages import HEAD_BYTES, write_head
from distredge.runtime.protocol.security import Keys, make_keys
from distredge.runtime.protocol.transport import Endpoint, ZmqNetwork

SIZES: Final = ((1, 4), (4, 16), (16, 32), (64, 64), (96, 128))
"""Rows and columns of the messages, of 64 channels of float32: 1 kB, 16 kB, 128 kB, 1 MB, 3 MB."""

_PACKED_BYTES: Final = (1 << 14, 1 << 17, 1 << 20)
_CHANNELS: Final = 64
_ROUNDS: Final = 4
_LEAST_FRAMES: Final = 3
_TIMEOUT_S: Final = 30.0
_NAMES: Final = ("sender", "receiver")
_SMALL: Final = TensorBox("small", (0, 0, 0, 0), (1, 1, 1, 1), "float32")


class FrameCosts(NamedTuple):
    """Of one frame at one end, seconds.

    Attributes:
        receiving_s: processor time of the data plane's thread, without computing and sending.
        sending_s: of that thread, packing and sending.
        io_s: of the transport's threads.
        on_the_way_s: how long its message was on the way here, from hand-over until it was taken up.
    """

    receiving_s: float
    sending_s: float
    io_s: float
    on_the_way_s: float


EndCosts: TypeAlias = tuple[FrameCosts, ...]
"""Of one end, one entry for each of `SIZES`."""


def measure_messages(seconds: float = 2.0) -> Messages:
    """Measures on this machine what messages cost, plaintext and encrypted, and packing them losslessly.

    `receive.io` holds, besides the processor time, how long the receiver's threads took to wake up: like it, that
    delays a message and does not keep the worker from computing.

    Args:
        seconds: time to spend on exchanging messages, about; starting four processes comes on top.

    Raises:
        ExecutionError: if an end does not start.
        PeerTimeout: if a message does not arrive.
    """
    plain = measure_ends(None, seconds / 2)
    secret = measure_ends(make_keys(_NAMES), seconds / 2)
    compress_s, expand_s = measure_packing()
    return msgspec.structs.replace(
        costs_of(plain, secret), compress_s_per_byte=rounded(compress_s), expand_s_per_byte=rounded(expand_s)
    )


def measure_packing(seconds: float = 0.2) -> tuple[float, float]:
    """Measures what packing float32 rows losslessly costs per byte of them, half of them zero, and the way back.

    Args:
        seconds: time to spend, roughly.

    Returns:
        Seconds per byte of packing and of unpacking.
    """
    rng = np.random.default_rng(0)
    per_size = seconds / (2 * len(_PACKED_BYTES))
    packs: list[float] = []
    unpacks: list[float] = []
    for size_bytes in _PACKED_BYTES:
        rows = np.maximum(rng.standard_normal(size_bytes // 4, dtype=np.float32), 0.0)
        part = np.empty(rows.nbytes, np.uint8)
        packs.append(median_s(functools.partial(pack, rows, part), per_size))
        packed = part[: pack(rows, part)].data
        unpacks.append(median_s(functools.partial(_unpack, packed, rows.size), per_size))
    sizes = [float(size_bytes) for size_bytes in _PACKED_BYTES]
    return fit_nonnegative([sizes], packs)[0], fit_nonnegative([sizes], unpacks)[0]


def _unpack(packed: memoryview, count: int) -> None:
    read_packed(packed, (count,), np.dtype(np.float32), "rows").unpacked()


def costs_of(plain: tuple[EndCosts, EndCosts], secret: tuple[EndCosts, EndCosts]) -> Messages:
    """Returns the costs of a message that explain what frames cost.

    Args:
        plain: of sender and receiver without encryption.
        secret: the same with it.
    """
    wakes = []
    ios = []
    for sender, receiver in (plain, secret):
        # Of both messages of the smallest frame, each half.
        small_s = (sender[0].io_s / 2, receiver[0].io_s / 2)
        ios.append(tuple([f.io_s - small for f in end] for end, small in zip((sender, receiver), small_s, strict=True)))
        wakes.append(max(0.0, receiver[0].on_the_way_s - sender[0].sending_s - sum(small_s)))
    return Messages(
        send=Handling(own=_line([f.sending_s for f in plain[0]]), io=_line(ios[0][0]), io_encrypted=_line(ios[1][0])),
        receive=Handling(
            own=_line([f.receiving_s for f in plain[1]]),
            io=_line(ios[0][1], wakes[0]),
            io_encrypted=_line(ios[1][1], wakes[1]),
        ),
    )


def _line(seconds: Sequence[float], more_s: float = 0.0) -> Copy:
    sizes = [4.0 * _CHANNELS * rows * columns for rows, columns in SIZES]
    # What lies below a microsecond is a difference of two figures, not a cost.
    fixed_s, s_per_byte = fit_nonnegative([[1.0] * len(sizes), sizes], [max(s, 1e-6) for s in seconds])
    return Copy(fixed_s=rounded(fixed_s + more_s), s_per_byte=rounded(s_per_byte))


def measure_ends(keys: dict[str, Keys] | None, seconds: float) -> tuple[EndCosts, EndCosts]:
    """Measures what frames cost two ends.

    Args:
        keys: of "sender", "receiver" and the requester; None for plaintext.
        seconds: time to spend on them, about.

    Returns:
        The sender's and the receiver's.
    """
    with ExitStack() as stack:
        network = ZmqNetwork(keys["requester"].for_requester() if keys is not None else None)
        stack.callback(network.close)
        ends = [stack.enter_context(_end(name, keys)) for name in _NAMES]
        for end in ends:
            end.data = network.connect(end.address, "data", end.public_key)
        exchange = _Exchange(network, ends[0], ends[1])
        for number, (rows, columns) in enumerate(SIZES):
            exchange.prepare(number, rows, columns)
            exchange.frames(number, 1)
        rounds = [
            [exchange.costs(number, seconds / (_ROUNDS * len(SIZES))) for number in range(len(SIZES))]
            for _ in range(_ROUNDS)
        ]
    return _settled(rounds, 0), _settled(rounds, 1)


def _settled(rounds: Sequence[Sequence[Sequence[FrameCosts]]], end: int) -> EndCosts:
    """Nothing makes a processor faster than it is, and much slows it down: the two best rounds of each figure count."""
    found = [np.sort([costs[size][end] for costs in rounds], axis=0)[:2].mean(axis=0) for size in range(len(SIZES))]
    return tuple(FrameCosts(*map(float, figures)) for figures in found)


class _End:
    """A process of `worker.message_end`; `data` is this process's connection to it."""

    data: Endpoint

    def __init__(self, process: subprocess.Popen[bytes], address: str, public_key: str) -> None:
        self._process = process
        self.address = address
        self.public_key = public_key

    def ask(self, request: EndRequest) -> EndReading:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise ExecutionError("measuring messages: one end has ended by itself")
        return msgspec.json.decode(line, type=EndReading)


@contextmanager
def _end(name: str, keys: dict[str, Keys] | None) -> Iterator[_End]:
    order = local_order(name, keys[name].for_worker() if keys is not None else None)
    process = subprocess.Popen(
        python_command("distredge.runtime.worker.message_end"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=python_environment(),
        # Ctrl-C at a terminal goes to the whole group: closing its standard input ends it.
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = b""
        with suppress(OSError):
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            raise ExecutionError("measuring messages: one end did not start")
        bound = msgspec.json.decode(line, type=Bound)
        if bound.error:
            raise ExecutionError(f"measuring messages: {bound.error}")
        yield _End(process, bound.data, order.public_key)
    finally:
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class _Exchange:
    """Frames from this process over the sender and the receiver back to it."""

    def __init__(self, network: ZmqNetwork, sender: _End, receiver: _End) -> None:
        self._sender, self._receiver = sender, receiver
        self._waiter = network.waiter([receiver.data])
        self._next: dict[int, int] = {}
        self._pace_s: dict[int, float] = {}
        for end in (sender, receiver):
            _connected(network, end)
        receiver.data.send([encode(Attach(MEASURING, 1))])
        while receiver.data.receive() is None:
            self._waiter.wait(1.0)

    def prepare(self, number: int, rows: int, columns: int) -> None:
        """Gives both ends the plan of that number: a message of so many rows and columns between them."""
        small = (_SMALL.start, _SMALL.shape, _SMALL.dtype)
        held = Buffer("y", "y", (0, 0, 0, 0), (1, _CHANNELS, rows + 2, columns), "float32")
        box = TensorBox("y", (0, 0, 1, 0), (1, _CHANNELS, rows, columns), "float32")
        trigger = SourceMessage(0, REQUESTER, 0, (_SMALL,), (-1,))
        between = SourceMessage(1, 0, 1, (box,), (0,))
        result = SourceMessage(2, 1, REQUESTER, (TensorBox("z", *small),), (1,))
        first = SegmentPlan(0, 0, {}, (Buffer("x", _SMALL.tensor, *small),), (held,))
        second = SegmentPlan(1, 1, {}, (held,), (Buffer("z", "z", *small),))
        peer = PeerAddress(_NAMES[1], self._receiver.address, self._receiver.public_key)
        for end, device, segment, incoming, outgoing, peers in (
            (self._receiver, 1, second, between, result, {}),
            (self._sender, 0, first, trigger, between, {"1": peer}),
        ):
            end.ask(
                EndRequest(
                    DevicePlan(
                        number, "messages", device, _NAMES, 1, (segment,), (incoming,), (outgoing,), (), peers
                    )
                )
            )  # fmt: skip

    def frames(self, number: int, count: int) -> None:
        """Runs some frames of a plan, one after the other."""
        message = bytearray(HEAD_BYTES + 4)
        began_s = time.monotonic()
        for _ in range(count):
            frame = self._next.get(number, 0)
            self._next[number] = frame + 1
            write_head(memoryview(message), number, frame, 0, REQUESTER, time.monotonic_ns())
            self._sender.data.send([message])
            until_s = time.monotonic() + _TIMEOUT_S
            while self._receiver.data.receive() is None:
                if time.monotonic() > until_s:
                    raise PeerTimeout("measuring messages: no answer from the receiving end")
                self._waiter.wait(1.0)
        self._pace_s[number] = (time.monotonic() - began_s) / count

    def costs(self, number: int, seconds: float) -> tuple[FrameCosts, ...]:
        """Runs frames of a plan for about so many seconds; returns what one cost the sender, and the receiver."""
        count = max(_LEAST_FRAMES, int(seconds / max(self._pace_s[number], 1e-6)))
        since = self._next[number]
        ends = (self._sender, self._receiver)
        before = [end.ask(EndRequest(reads=number, since=since)) for end in ends]
        self.frames(number, count)
        after = [end.ask(EndRequest(reads=number, since=since)) for end in ends]
        return tuple(
            FrameCosts(
                (a.receiving_s - b.receiving_s) / count,
                (a.sending_s - b.sending_s) / count,
                (a.io_s - b.io_s) / count,
                float(np.median(a.on_the_way_s)),
            )
            for b, a in zip(before, after, strict=True)
        )


def _connected(network: ZmqNetwork, end: _End) -> None:
    """Waits until the connection to an end stands: what is sent before is refused."""
    waiter = network.waiter([end.data])
    until_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < until_s:
        events = end.data.events()
        if any(event.kind == "connected" for event in events):
            return
        for event in events:
            if event.kind == "refused":
                raise ExecutionError(f"measuring messages: {end.address}: {event.reason}")
        waiter.wait(1.0)
    raise PeerTimeout(f"measuring messages: no connection to {end.address}")
