"""The process in which an engine runs under another Python, as its parent starts, asks and ends it (`engine_host`)."""

from __future__ import annotations

import array
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from distredge.errors import ConfigError, EngineError
from distredge.runtime.provider_options import NO_TF32
from distredge.runtime.shared_memory import Region

START_S: Final = 60.0
"""Within which the process must have its ONNX Runtime: from an SD card that takes long."""

_END_S: Final = 3.0
_LAST_LINES: Final = 3
_HEAD: Final = struct.Struct(">Q")
_SHARED_MEMORY: Final = Path("/dev/shm")
_HOST: Final = Path(__file__).with_name("engine_host.py")

Message: TypeAlias = Mapping[str, object]


class EngineProcess:
    """The process of one engine; loading and running have a socket each.

    Args:
        python: its interpreter.

    Attributes:
        about: what it said of itself.
        reason: why it is no more; empty while it lives.

    Raises:
        ConfigError: if there is no such interpreter.
    """

    def __init__(self, python: str) -> None:
        self.about: dict[str, Any] = {}
        self.reason = ""
        self._python = python
        self._past: deque[tuple[str, int]] = deque()
        self._mapped: set[int] = set()
        self._ending = threading.Lock()
        self._prefix = f"distredge-engine-{secrets.token_hex(8)}-"
        if not hasattr(os, "memfd_create"):
            raise ConfigError("engine's Python: only Linux has the shared memory that it needs")
        # Nobody has to read it while it runs, and there may be no folder for temporary files.
        self._log = os.fdopen(os.memfd_create("distredge-engine-log"), "w+b")
        pairs = [socket.socketpair(), socket.socketpair()]
        try:
            self._process = subprocess.Popen(
                [python, "-E", str(_HOST), *(str(theirs.fileno()) for _, theirs in pairs)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno() for _, theirs in pairs],
                env={NO_TF32[0]: NO_TF32[1], **os.environ},
                # Ctrl-C at a terminal goes to the whole group: the worker ends first, and it with the worker.
                start_new_session=True,
            )
        except OSError as error:
            for ours, _ in pairs:
                ours.close()
            self._log.close()
            raise ConfigError(f"engine's Python: found {python!r}, which cannot be run: {error.strerror}") from error
        finally:
            for _, theirs in pairs:
                theirs.close()
        self._loading, self._running = (_Channel(ours) for ours, _ in pairs)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def start(self, message: Message) -> None:
        """Lets it take up its ONNX Runtime.

        Raises:
            ConfigError: if it has none, or that has not the provider.
        """
        try:
            folders = {"places": [str(place) for place in _places()], "prefix": self._prefix}
            answer = self._ask(self._loading, {**message, **folders}, None, START_S)
        except EngineError as error:
            raise ConfigError(f"engine's Python: {error}") from error
        reason = answer["error"]
        if reason.startswith("ValueError"):
            raise ConfigError(f"ONNX Runtime under {self._python}: {reason.partition(': ')[2]}")
        if reason:
            raise ConfigError(
                f"engine's Python: no engine under {self._python}: {reason}; install numpy and onnxruntime for it"
            )
        self.about = answer

    def load(self, message: Message, descriptor: int, limit_s: float, regions: Iterable[Region] = ()) -> None:
        """Lets it load or bind something; before that, forget what nobody has any more.

        Args:
            message: what to do.
            descriptor: of memory that comes with it.
            limit_s: how long it may take.
            regions: others that it needs for it.

        Raises:
            EngineError: if it cannot, or is no more, or takes too long; it is ended then.
        """
        past: dict[str, list[int]] = {"models": [], "runs": [], "regions": []}
        with contextlib.suppress(IndexError):
            while True:
                what, number = self._past.popleft()
                past[what].append(number)
        if any(past.values()):
            self._mapped -= set(past["regions"])
            self._ask(self._loading, {"do": "forget", **past}, None, limit_s)
        for region in regions:
            if region.number not in self._mapped:
                self._ask(self._loading, {"do": "map", "region": region.number}, region.descriptor, limit_s)
                self._mapped.add(region.number)
        reason = self._ask(self._loading, message, descriptor, limit_s)["error"]
        if reason:
            raise EngineError(f"{self._told()} refuses the sub-model: {_brief(reason)}")

    def profile(self, number: int, limit_s: float) -> list[dict[str, Any]]:
        """Ends the timing of a model's kernels; returns what ONNX Runtime noted of each, in order.

        Raises:
            EngineError: if that fails, or it is no more.
        """
        answer = self._ask(self._loading, {"do": "profile", "model": number}, None, limit_s)
        if answer["error"]:
            raise EngineError(f"{self._told()} tells no kernels' times: {_brief(answer['error'])}")
        events: list[dict[str, Any]] = answer["events"]
        return events

    def run(self, number: int) -> None:
        """Lets it run what was bound.

        Raises:
            EngineError: if that fails, or it is no more.
        """
        reason = self._ask(self._running, {"do": "run", "run": number}, None, None)["error"]
        if reason:
            raise EngineError(_brief(reason))

    def forget(self, what: str, number: int) -> None:
        """Notes that nobody has one of its "models", "runs" or "regions" any more; called by any thread."""
        self._past.append((what, number))

    def end(self) -> None:
        """Ends it."""
        with self._ending:
            self.reason = self.reason or f"the engine's process under {self._python} was ended"
            for channel in (self._loading, self._running):
                channel.close()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._tidy_up()
            self._log.close()

    def _ask(
        self, channel: _Channel, message: Message, descriptor: int | None, limit_s: float | None
    ) -> dict[str, Any]:
        if self.reason:
            raise EngineError(self.reason)
        try:
            return channel.ask(message, descriptor, limit_s)
        except TimeoutError:
            self._process.kill()
            self._died(f"did not answer within {limit_s:g} s and was ended")
        except (EOFError, OSError):
            self._died("")
        raise EngineError(self.reason)

    def _died(self, how: str) -> None:
        with self._ending:
            if self.reason:
                return
            try:
                code = self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self._tidy_up()
            words = self._last_words()
            how = how or f"ended with {_exit(code)}"
            self.reason = f"the engine's process under {self._python} {how}{f': {words}' if words else ''}"

    def _tidy_up(self) -> None:
        """Removes what it has left where it was killed, or died, while it loaded: in memory that would stay there."""
        for place in _places():
            for folder in place.glob(f"{self._prefix}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [" ".join(line.split()) for line in self._log.read().decode(errors="replace").splitlines()]
        return " | ".join([line for line in lines if line][-_LAST_LINES:])[:600]

    def _told(self) -> str:
        return f"onnxruntime {self.about['runtime']} (Python {self.about['python']})"


class _Channel:
    """A socket to the process: one question at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()

    def ask(self, message: Message, descriptor: int | None, limit_s: float | None) -> dict[str, Any]:
        """Sends a message, with a descriptor where there is one, and returns the answer.

        Raises:
            TimeoutError: if there is none in time.
            EOFError, OSError: if there is nobody.
        """
        body = json.dumps(message).encode()
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        with self._lock:
            self._end.settimeout(limit_s)
            self._end.sendmsg([_HEAD.pack(len(body))], rights)
            self._end.sendall(body)
            (size_bytes,) = _HEAD.unpack(self._exactly(_HEAD.size))
            found: dict[str, Any] = json.loads(self._exactly(size_bytes))
            return found

    def close(self) -> None:
        """Closes it, also under somebody who waits."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _exactly(self, size_bytes: int) -> bytes:
        content = bytearray()
        while len(content) < size_bytes:
            piece = self._end.recv(size_bytes - len(content))
            if not piece:
                raise EOFError
            content += piece
        return bytes(content)


def _places() -> list[Path]:
    """Folders that files may be written in, the best first."""
    places = [_SHARED_MEMORY] if _SHARED_MEMORY.is_dir() else []
    with contextlib.suppress(FileNotFoundError):
        places.append(Path(tempfile.gettempdir()))
    return places


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def _brief(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= 400 else f"{text[:400]}..."
