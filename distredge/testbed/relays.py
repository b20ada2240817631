"""Emulated boards without root: workers on loopback addresses, and a relay process that shapes what they say.

Each place has a loopback address of its own (127.0.0.0/8; Linux), which its workers bind and connect from. Others find
a worker's data port at the relay; its control port, over which little goes but constants, is its own.
"""

from __future__ import annotations

import os
import subprocess
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from distredge.child_processes import python_command, python_environment
from distredge.errors import ExecutionError
from distredge.testbed.relay import Door, Listening, Orders, Rates


class Relays:
    """The places' addresses, and the relay.

    Args:
        count: places.
        requester: the requester's; who comes from an unknown address counts as that.

    Attributes:
        addresses: of each place.
    """

    def __init__(self, count: int, requester: int) -> None:
        pid = os.getpid()
        # Of two testbeds that meet here none is disturbed: ports differ, and each has its own relay.
        self.addresses = [f"127.{64 + (pid >> 8) % 128}.{pid % 256}.{index + 1}" for index in range(count)]
        self._requester = requester
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[[subprocess.Popen[bytes]], Relays] | None = None

    def open(self, doors: Sequence[tuple[int, str]]) -> tuple[str, ...]:
        """Starts the relay.

        Args:
            doors: place and real data address of each worker.

        Returns:
            The addresses at which others find them.

        Raises:
            ExecutionError: if it does not come up.
        """
        orders = Orders(
            tuple(self.addresses),
            self._requester,
            tuple(Door(place, self.addresses[place], target.removeprefix("tcp://")) for place, target in doors),
        )
        self._process = subprocess.Popen(
            python_command("distredge.testbed.relay"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=python_environment(),
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _stop, self._process)
        line = self._ask(orders)
        listening = msgspec.json.decode(line, type=Listening)
        return tuple(
            f"tcp://{self.addresses[place]}:{port}" for (place, _), port in zip(doors, listening.ports, strict=True)
        )

    def shape(self, index: int, uplink_bps: float | None, downlink_bps: float | None) -> None:
        """Sets the rates of one place's links.

        Args:
            index: which.
            uplink_bps: payload per second that it sends; None unbounded.
            downlink_bps: the same that it receives.
        """
        if self._process is not None:
            self._ask(Rates(index, uplink_bps, downlink_bps))

    def prefix(self, index: int) -> list[str]:
        """What a command starts with that is to run on a board: nothing."""
        return []

    @contextmanager
    def entered(self, index: int) -> Iterator[None]:
        """Does nothing: boards have no network of their own here."""
        yield

    def close(self) -> None:
        """Ends the relay."""
        if self._end is not None:
            self._end()

    def _ask(self, message: object) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise ExecutionError("the testbed's relay has ended; what it said is above")
        return line


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
