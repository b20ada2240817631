"""What a message costs at its two ends: packing and placing rows, encrypting and decrypting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from distredge.profiles.measuring.least_squares import fit_nonnegative
from distredge.profiles.schema import Copy

_SIZES_BYTES = (1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 22)
_CHANNELS, _WIDTH = 64, 56
_TIMEOUT_MS = 5000


def measure_copy(seconds: float = 1.0) -> Copy:
    """Measures what packing rows of a feature map costs, and placing them.

    Each is one copy in as many pieces as there are channels; the mean of the two is charged at each end.

    Args:
        seconds: time to spend, roughly.
    """
    per_size = seconds / (2 * len(_SIZES_BYTES))
    sizes: list[float] = []
    times: list[float] = []
    for size_bytes in _SIZES_BYTES:
        rows = max(1, size_bytes // (4 * _CHANNELS * _WIDTH))
        whole = np.ones((1, _CHANNELS, 2 * rows + 2, _WIDTH), dtype=np.float32)
        part = np.empty((1, _CHANNELS, rows, _WIDTH), dtype=np.float32)
        window = whole[:, :, 1 : rows + 1]
        pack = median_s(lambda part=part, window=window: np.copyto(part, window), per_size)  # type: ignore[misc]
        place = median_s(lambda part=part, window=window: np.copyto(window, part), per_size)  # type: ignore[misc]
        sizes.append(part.nbytes)
        times.append((pack + place) / 2)
    fixed_s, s_per_byte = fit_nonnegative([[1.0] * len(sizes), sizes], times)
    return Copy(fixed_s=fixed_s, s_per_byte=s_per_byte)


def median_s(action: Callable[[], object], seconds: float) -> float:
    """Returns the median of what an action takes, repeated for so many seconds, five times at least."""
    action()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 2000):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def measure_encryption(megabytes: int = 32) -> float | None:
    """Measures what CURVE costs per byte at each end; None where this libzmq has no CURVE.

    The same bytes go over the loopback interface with and without it, all threads on the core that this process is
    pinned to, so that the difference is encryption plus decryption.
    """
    try:
        import zmq
    except ImportError:
        return None
    if not zmq.has("curve"):
        return None
    size = 1 << 20
    plain = min(_transfer_s(size, megabytes, curve=False) for _ in range(2))
    secret = min(_transfer_s(size, megabytes, curve=True) for _ in range(2))
    return max(0.0, secret - plain) / (2 * size * megabytes)


def _transfer_s(size: int, count: int, curve: bool) -> float:
    import zmq

    context = zmq.Context()
    receiver, sender = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        for socket in (receiver, sender):
            socket.linger = 0
            socket.rcvtimeo = socket.sndtimeo = _TIMEOUT_MS
        if curve:
            public, secret = zmq.curve_keypair()
            own_public, own_secret = zmq.curve_keypair()
            receiver.curve_server = True
            receiver.curve_publickey, receiver.curve_secretkey = public, secret
            sender.curve_serverkey = public
            sender.curve_publickey, sender.curve_secretkey = own_public, own_secret
        port = receiver.bind_to_random_port("tcp://127.0.0.1")
        sender.connect(f"tcp://127.0.0.1:{port}")
        payload = os.urandom(size)
        sender.send(payload)
        receiver.recv()
        begin = time.perf_counter()
        for _ in range(count):
            sender.send(payload, copy=False)
            receiver.recv(copy=False)
        return time.perf_counter() - begin
    finally:
        sender.close()
        receiver.close()
        context.term()
