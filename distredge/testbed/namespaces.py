"""Emulated boards as network namespaces: a pair of interfaces each, a switch between them, links shaped by the kernel.

Names are ``distredge-testbed-N`` (the switch's namespace; making it claims the number N on this machine) and
``distredge-testbed-N-I`` (that of board I). All interfaces are inside, so that removing the namespaces removes
everything; only where the machine's own namespace is connected it has one, ``dtbN``, whose other end is in the switch.

A board's uplink is shaped where it sends, its downlink where the switch sends to it. A watchdog process removes the
namespaces when the owner closes them or dies (`after_owner`).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from distredge.errors import ConfigError, ExecutionError
from distredge.testbed.commands import call, in_namespace
from distredge.testbed.rates import bucket

PREFIX = "distredge-testbed-"
FOLDER = Path("/run/netns")
NUMBERS = 64
"""Testbeds that one machine may have at a time."""

WINDOW_BYTES = 16000
"""What a connection has under way at most.

With megabytes, whoever sends first fills the queue before a link, which is deeper than any switch's, and all others
wait behind it; so transfers share the link, and it stays full up to some hundreds of Mbit/s.
"""

_SETTINGS = (
    # Not the one that slows down to measure the round trip now and then; some kernels allow one of them only.
    "net.ipv4.tcp_congestion_control=reno",
    "net.ipv4.tcp_congestion_control=cubic",
    f"net.ipv4.tcp_rmem=4096 {WINDOW_BYTES} {WINDOW_BYTES}",
)

_CLONE_NEWNET = 0x40000000


class Namespaces:
    """A namespace for each of some boards.

    Args:
        count: boards, among them the requester where it has one of its own.
        outside: the board, or one after the last, that is no namespace of its own but the machine's; None for none.

    Attributes:
        number: of this testbed.
        names: namespace of each board; "" for the machine's own.
        addresses: of the same.

    Raises:
        ExecutionError: if the kernel refuses.
    """

    def __init__(self, count: int, outside: int | None = None) -> None:
        self.number = _claim()
        self._switch = f"{PREFIX}{self.number}"
        ends = range(count if outside != count else count + 1)
        self.names = ["" if i == outside else f"{self._switch}-{i}" for i in ends]
        self.addresses = [f"10.213.{self.number}.{i + 1}" for i in ends]
        self._segments: dict[tuple[int, str], int] = {}
        # Of the buckets that stand: while links are shaped they only grow.
        self._bursts: dict[tuple[int, str], int] = {}
        inside = [name for name in self.names if name]
        self._watchdog = _start_watchdog([*inside, self._switch])
        try:
            self._build(inside)
        except BaseException:
            self.close()
            raise

    def _build(self, inside: Sequence[str]) -> None:
        lines = [f"netns add {name}" for name in inside]
        for index, name in enumerate(self.names):
            far = f"name eth0 netns {name}" if name else f"name {self._outside}"
            lines.append(f"link add port{index} netns {self._switch} type veth peer {far}")
        call(["ip", "-batch", "-"], lines)
        ports = [f"link set port{index} master switch up" for index in range(len(self.names))]
        in_namespace("ip", self._switch, ["link add switch type bridge", "link set switch up", *ports])
        for name, address in zip(self.names, self.addresses, strict=True):
            lines = [f"addr add {address}/24 dev {self._device(name)}", f"link set {self._device(name)} up"]
            if name:
                in_namespace("ip", name, ["link set lo up", *lines])
                for setting in _SETTINGS:
                    with suppress(ExecutionError):
                        call(["ip", "netns", "exec", name, "sysctl", "-qw", setting])
            else:
                call(["ip", "-batch", "-"], lines)

    @property
    def _outside(self) -> str:
        return f"dtb{self.number}"

    def _device(self, name: str) -> str:
        return "eth0" if name else self._outside

    def shape(self, index: int, uplink_bps: float | None, downlink_bps: float | None) -> None:
        """Sets the rates of one board's links.

        Args:
            index: which.
            uplink_bps: TCP payload per second that it sends; None unbounded.
            downlink_bps: the same that it receives.
        """
        name = self.names[index]
        self._shape(index, name, self._device(name), uplink_bps)
        self._shape(index, self._switch, f"port{index}", downlink_bps)

    def _shape(self, index: int, namespace: str, device: str, rate_bps: float | None) -> None:
        where = ["-n", namespace] if namespace else []
        if rate_bps is None:
            segments, discipline, burst_bytes = 64, "pfifo limit 10000", 0
        else:
            shaped = bucket(rate_bps, self._bursts.get((index, device), 0))
            segments, discipline, burst_bytes = shaped.segments, shaped.text, shaped.burst_bytes
        self._bursts[index, device] = burst_bytes
        if self._segments.get((index, device)) != segments:
            call(["ip", *where, "link", "set", "dev", device, "gso_max_segs", str(segments)])
            self._segments[index, device] = segments
        call(["tc", *where, "qdisc", "replace", "dev", device, "root", *discipline.split()])

    def prefix(self, index: int) -> list[str]:
        """What a command starts with that is to run on a board."""
        return ["ip", "netns", "exec", self.names[index]] if self.names[index] else []

    @contextmanager
    def entered(self, index: int) -> Iterator[None]:
        """Puts this thread, and threads that it starts meanwhile, into a board's namespace."""
        if not self.names[index]:
            yield
            return
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            other = os.open(FOLDER / self.names[index], os.O_RDONLY)
            try:
                _enter(other)
            finally:
                os.close(other)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(own)

    def close(self) -> None:
        """Removes everything; processes inside must have ended, or are ended."""
        if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
            self._watchdog.stdin.close()
            self._watchdog.wait()


def _claim() -> int:
    """Makes the first switch's namespace whose number is free: `ip` makes one of a name only once."""
    why = ""
    for number in range(NUMBERS):
        if (FOLDER / f"{PREFIX}{number}").exists():
            continue
        try:
            call(["ip", "netns", "add", f"{PREFIX}{number}"])
            return number
        except ExecutionError as error:
            why = str(error)
            if not (FOLDER / f"{PREFIX}{number}").exists():
                raise
    raise ConfigError(f"{NUMBERS} testbeds are up on this machine; remove leftovers with: distredge testbed clean{why}")


def _start_watchdog(names: Sequence[str]) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("after_owner.py")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _enter(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        raise ExecutionError(f"setns: {os.strerror(ctypes.get_errno())}")
