"""An engine in a process of its own, under an older Python: what JetPack 4 and 5 have an ONNX Runtime for.

`engine_host` is that process, and says what crosses the sockets. Models, constants and rows lie in shared memory. The
process ends with this one, and its end fails the plans that it ran; the next one that is loaded gets a new process.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import math
import mmap
import os
import signal
import socket
import struct
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from distredge.errors import ConfigError, EngineError
from distredge.model import AS_INPUT, constant_file
from distredge.runtime.buffers import ALIGNMENT_BYTES, Array
from distredge.runtime.engine import Loaded
from distredge.runtime.engine_folders import EngineFolders
from distredge.runtime.provider_options import NO_TF32, PROVIDERS, TENSORRT, provider_options

START_S: Final = 60.0
"""Within which the process must have its ONNX Runtime: from an SD card that takes long."""

LOAD_S: Final = 1800.0
"""Within which a sub-model must be loaded: TensorRT builds its engines then."""

_END_S: Final = 3.0
_LAST_LINES: Final = 3
_HEAD: Final = struct.Struct(">Q")
_HOST: Final = Path(__file__).with_name("engine_host.py")

Message: TypeAlias = Mapping[str, object]


class OldPythonEngine:
    """ONNX Runtime under another Python, one session per sub-model.

    Args:
        python: its interpreter, 3.6 or later, with NumPy and ONNX Runtime; a path, or a name to be looked for.
        threads: threads inside an operator.
        provider: "cpu", "cuda" or "tensorrt".
        load_s: within which a sub-model must be loaded.
        folders: where TensorRT keeps what it has built; None: nowhere.

    Raises:
        ConfigError: if there is no such interpreter, or no engine under it.
        EngineError: if its ONNX Runtime has not the provider.
    """

    def __init__(
        self,
        python: str,
        threads: int = 1,
        provider: str = "cpu",
        load_s: float = LOAD_S,
        folders: EngineFolders | None = None,
    ) -> None:
        if provider not in PROVIDERS:
            raise EngineError(f"no provider '{provider}'; accepted: {', '.join(PROVIDERS)}")
        self._python = python
        self._threads = threads
        self._wanted = PROVIDERS[provider]
        self._folders = folders
        self._load_s = load_s
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._host = self._start()

    @property
    def name(self) -> str:
        """Name and version, and of what Python."""
        return f"onnxruntime {self._host.about['runtime']} (Python {self._host.about['python']})"

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers, the preferred one first."""
        return tuple(self._host.about["providers"])

    @property
    def threads(self) -> int:
        """Threads inside an operator."""
        return self._threads

    @property
    def warms_up(self) -> bool:
        """As for `OnnxRuntimeEngine`."""
        return True

    @property
    def pid(self) -> int:
        """Process id of the engine's process."""
        return self._host.pid

    def load(self, model: bytes, weights: Mapping[str, Array]) -> Loaded:
        """Loads a sub-model; the constants (d0, d1, ...) are as `Engine.load` says."""
        with self._lock:
            if self._host.reason:
                self._host.end()
                self._host = self._start()
            host = self._host
        memory = _Memory()
        content = memory.add(np.frombuffer(model, np.uint8))
        places = {name: memory.add(value) for name, value in weights.items()}
        number = next(self._numbers)
        message = {
            "do": "load",
            "model": number,
            "providers": self._options(model, weights),
            "content": [content, content + len(model)],
            "files": {
                constant_file(name): [start, start + weights[name].nbytes]
                for name, start in places.items()
                if not name.endswith(AS_INPUT)
            },
            "fed": [_entry(name, weights[name], start) for name, start in places.items() if name.endswith(AS_INPUT)],
        }
        with memory.made() as descriptor:
            host.load(message, descriptor, self._load_s)
        loaded = _OldPythonLoaded(host, number, self._numbers, self._load_s)
        weakref.finalize(loaded, host.forget, "models", number).atexit = False
        return loaded

    def _options(self, model: bytes, weights: Mapping[str, Array]) -> list[tuple[str, dict[str, str]]]:
        engines = None if self._folders is None or TENSORRT not in self.providers else self._folders.of(model, weights)
        return [(name, provider_options(name, engines, old=True)) for name in self.providers]

    def close(self) -> None:
        """Ends the process."""
        self._host.end()

    def _start(self) -> _Host:
        made = _Host(self._python)
        try:
            made.start({"do": "start", "threads": self._threads, "providers": self._wanted})
        except BaseException:
            made.end()
            raise
        return made


class _OldPythonLoaded:
    """A sub-model in the other process."""

    def __init__(self, host: _Host, number: int, numbers: Iterator[int], load_s: float) -> None:
        self._host = host
        self._number = number
        self._numbers = numbers
        self._load_s = load_s

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Binds arrays; see `Loaded.bind`. They are copied to and from memory that both processes have."""
        host, number = self._host, next(self._numbers)
        memory = _Memory()
        ports = {
            what: [_entry(name, held, memory.reserve(held.nbytes)) for name, held in arrays.items()]
            for what, arrays in (("inputs", inputs), ("outputs", outputs))
        }
        with memory.made() as descriptor:
            host.load({"do": "bind", "run": number, "model": self._number, **ports}, descriptor, self._load_s)
        into, out_of = (
            [(memory.view(entry), held) for entry, held in zip(ports[what], arrays.values(), strict=True)]
            for what, arrays in (("inputs", inputs), ("outputs", outputs))
        )

        def run() -> None:
            for shared, held in into:
                np.copyto(shared, held)
            # Through the model, which so stays as long as it can be run.
            self._host.run(number)
            for shared, held in out_of:
                np.copyto(held, shared)

        weakref.finalize(run, host.forget, "runs", number).atexit = False
        return run


class _Memory:
    """Memory to be shared: places in it are handed out first, then it is made and filled."""

    def __init__(self) -> None:
        self._size_bytes = 0
        self._contents: list[tuple[int, Array]] = []
        self._map: mmap.mmap | None = None

    def reserve(self, size_bytes: int) -> int:
        """Returns where there will be room for so many bytes, on a cache line."""
        start = self._size_bytes
        self._size_bytes += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return start

    def add(self, array: Array) -> int:
        """Returns where an array (d0, d1, ...) will lie."""
        start = self.reserve(array.nbytes)
        self._contents.append((start, array))
        return start

    @contextlib.contextmanager
    def made(self) -> Iterator[int]:
        """Makes it; the descriptor is closed at the end, which leaves the memory to those that have mapped it."""
        try:
            descriptor = os.memfd_create("distredge-engine")
        except (AttributeError, OSError) as error:
            raise EngineError(f"no memory that can be shared with another process: {error}") from error
        try:
            os.ftruncate(descriptor, max(self._size_bytes, 1))
            self._map = mmap.mmap(descriptor, max(self._size_bytes, 1))
            for start, array in self._contents:
                flat = np.frombuffer(self._map, np.uint8, array.nbytes, start)
                np.copyto(flat, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
            self._contents.clear()
            yield descriptor
        finally:
            os.close(descriptor)

    def view(self, entry: Mapping[str, Any]) -> Array:
        """Returns an array (d0, d1, ...) that lies in it, as `_entry` describes it."""
        assert self._map is not None
        shape = entry["shape"]
        return np.frombuffer(self._map, entry["dtype"], math.prod(shape), entry["start"]).reshape(shape)


class _Host:
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
        self._ending = threading.Lock()
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
            ConfigError: if it has none.
            EngineError: if that has not the provider.
        """
        try:
            answer = self._ask(self._loading, message, None, START_S)
        except EngineError as error:
            raise ConfigError(f"engine's Python: {error}") from error
        reason = answer["error"]
        if reason.startswith("ValueError"):
            raise EngineError(f"ONNX Runtime under {self._python}: {reason.partition(': ')[2]}")
        if reason:
            raise ConfigError(
                f"engine's Python: no engine under {self._python}: {reason}; install numpy and onnxruntime for it"
            )
        self.about = answer

    def load(self, message: Message, descriptor: int, limit_s: float) -> None:
        """Lets it load or bind something; before that, forget what nobody has any more.

        Raises:
            EngineError: if it cannot, or is no more, or takes too long; it is ended then.
        """
        past: dict[str, list[int]] = {"models": [], "runs": []}
        with contextlib.suppress(IndexError):
            while True:
                what, number = self._past.popleft()
                past[what].append(number)
        if past["models"] or past["runs"]:
            self._ask(self._loading, {"do": "forget", **past}, None, limit_s)
        reason = self._ask(self._loading, message, descriptor, limit_s)["error"]
        if reason:
            raise EngineError(f"{self._told()} refuses the sub-model: {_brief(reason)}")

    def run(self, number: int) -> None:
        """Lets it run what was bound.

        Raises:
            EngineError: if that fails, or it is no more.
        """
        reason = self._ask(self._running, {"do": "run", "run": number}, None, None)["error"]
        if reason:
            raise EngineError(_brief(reason))

    def forget(self, what: str, number: int) -> None:
        """Notes that nobody has one of its "models" or "runs" any more; called by any thread."""
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
            words = self._last_words()
            how = how or f"ended with {_exit(code)}"
            self.reason = f"the engine's process under {self._python} {how}{f': {words}' if words else ''}"

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


def _entry(name: str, held: Array, start: int) -> dict[str, Any]:
    """Describes an array (d0, d1, ...) of shared memory, for `engine_host`."""
    return {"name": name, "dtype": held.dtype.name, "shape": list(held.shape), "start": start}


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
