"""Worker processes of this machine as their parent starts, watches and ends them (the child: `worker.__main__`).

Secrets go through the child's standard input, never through arguments or the environment. The parent holds that pipe
open; when it closes, because the parent closed it or is no more, the worker ends. Ports are chosen by the child's
system and told to the parent, so that two runs cannot meet at one port.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from distredge.child_processes import python_command, python_environment
from distredge.errors import ExecutionError, PeerTimeout, ProtocolError
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.orders import STOP_S, Bound, Order
from distredge.runtime.protocol.security import Keys, Security

START_S: Final = 60.0
"""Within which workers must be up: a loaded machine can take long to start Python several times."""

OWN_COMMAND: Final = python_command("distredge.runtime.worker")


class WorkerProcess:
    """A worker process seen from its parent.

    Args:
        order: what it is told.
        log: file for what it has to say; None for a temporary one.
        command: what runs it, for another interpreter or module than this one's own.

    Attributes:
        name: of the worker.
        bound: where it listens, after `wait_bound`.
    """

    def __init__(self, order: Order, log: Path | None = None, command: Sequence[str] = OWN_COMMAND) -> None:
        self.name = order.name
        self.bound = Bound()
        self._stopping = False
        # To a file, not a pipe: nobody has to read it while the worker runs.
        self._log = _open_log(log)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=python_environment(),
            # Ctrl-C at a terminal goes to the whole group: the parent ends its workers itself.
            start_new_session=True,
        )
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait_bound(self, until_s: float) -> Bound:
        """Waits until the worker says where it listens.

        Args:
            until_s: when to give up, on `time.monotonic`'s clock.

        Raises:
            ExecutionError: if it ended or refused instead.
            PeerTimeout: if it said nothing in time.
        """
        assert self._process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise PeerTimeout(f"worker '{self.name}' does not come up in time{self._last_words()}")
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece:
                    raise ExecutionError(f"worker '{self.name}' ended at once{self._last_words()}")
                line += piece
        try:
            self.bound = msgspec.json.decode(line, type=Bound)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"worker '{self.name}' said: {line[:200]!r}") from error
        if self.bound.error:
            raise ExecutionError(f"worker '{self.name}': {self.bound.error}")
        return self.bound

    def why_ended(self) -> str | None:
        """How it has ended by itself, for people; None while it runs."""
        code = self._process.poll()
        if code is None or self._stopping:
            return None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process has ended ({how}){self._last_words()}"

    def let_go(self) -> None:
        """Closes what leads to it; it goes on."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()
        # The child is not waited for: without this, Popen warns about it when it is collected.
        self._process.returncode = 0

    def begin_stop(self) -> None:
        """Tells it to end."""
        if self._stopping:
            return
        self._stopping = True
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if self.alive:
            self._process.terminate()

    def stop(self) -> None:
        """Ends it and waits until it has ended."""
        self.begin_stop()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
            if lines:
                return f": {lines[-1].strip()}"
        return ""


class WorkerProcesses:
    """Several of them; they end when this object is closed, collected, or its process dies."""

    def __init__(self, orders: Iterable[Order]) -> None:
        self._processes: list[WorkerProcess] = []
        self._finalizer = weakref.finalize(self, stop_all, self._processes)
        try:
            for order in orders:
                self._processes.append(WorkerProcess(order))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker."""
        return {process.name: process.pid for process in self._processes}

    def wait(self, timeout_s: float, keys: Keys | None) -> tuple[WorkerAddress, ...]:
        """Waits until all listen; returns where.

        Raises:
            PeerTimeout, ExecutionError: naming one that does not.
        """
        until_s = time.monotonic() + timeout_s
        addresses = []
        for process in self._processes:
            bound = process.wait_bound(until_s)
            key = keys.public[process.name] if keys is not None else ""
            addresses.append(WorkerAddress(process.name, bound.control, bound.data, key))
        return tuple(addresses)

    def why_ended(self, name: str) -> str | None:
        """How a worker's process has ended by itself, for people; None while it runs. Nobody starts it again."""
        return next((process.why_ended() for process in self._processes if process.name == name), None)

    def close(self) -> None:
        """Ends them."""
        self._finalizer()


def local_order(
    name: str,
    security: Security | None,
    *,
    threads: int = 1,
    provider: str = "cpu",
    memory_bytes: int | None = None,
    outlive_parent: bool = False,
    dynamic_rows: bool | None = None,
) -> Order:
    """The order for a worker that this machine alone can reach, at ports that the system chooses."""
    return Order(
        name,
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:0",
        threads,
        provider,
        "onnxruntime",
        memory_bytes,
        security.public_key if security is not None else "",
        security.secret_key if security is not None else "",
        {plane: dict(names) for plane, names in security.allowed.items()} if security is not None else {},
        {},
        0 if outlive_parent else os.getpid(),
        dynamic_rows=dynamic_rows,
    )


def stop_all(processes: Sequence[WorkerProcess]) -> None:
    """Ends several workers at the same time."""
    for process in processes:
        process.begin_stop()
    for process in processes:
        process.stop()


def _open_log(path: Path | None) -> IO[bytes]:
    if path is not None:
        return path.open("w+b")
    try:
        return tempfile.TemporaryFile(prefix="distredge-worker-")
    except FileNotFoundError:  # there is no folder for temporary files that can be written
        return os.fdopen(os.memfd_create("distredge-worker"), "w+b")
