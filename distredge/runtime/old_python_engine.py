"""An engine in a process of its own, under an older Python: what JetPack 4 and 5 have an ONNX Runtime for.

`engine_host` is that process, and says what crosses the sockets. Models, constants and rows lie in shared memory. The
process ends with this one, and its end fails the plans that it ran; what is loaded next gets a new process.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from distredge.errors import ConfigError, EngineError
from distredge.model import AS_INPUT, constant_file
from distredge.runtime.buffers import Array
from distredge.runtime.engine import Loaded, check_ranges
from distredge.runtime.engine_folders import EngineFolders
from distredge.runtime.engine_process import EngineProcess
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.runtime.provider_options import PROBE, PROVIDERS, TENSORRT, provider_options
from distredge.runtime.shared_memory import HandedOver, Region, Regions, entry

LOAD_S: Final = 1800.0
"""Within which a sub-model must be loaded: TensorRT builds its engines then."""


class OldPythonEngine:
    """ONNX Runtime under another Python, one session per sub-model.

    Args:
        python: its interpreter, 3.6 or later, with NumPy and ONNX Runtime; a path, or a name to be looked for.
        threads: threads inside an operator.
        provider: "cpu", "cuda" or "tensorrt".
        load_s: within which a sub-model must be loaded.
        folders: where TensorRT keeps what it has built; None: nowhere.

    Raises:
        ConfigError: if there is no such interpreter, no engine under it, or its ONNX Runtime has not the provider or
            cannot use it here.
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
            raise ConfigError(f"no provider '{provider}'; accepted: {', '.join(PROVIDERS)}")
        self._python = python
        self._threads = threads
        self._wanted = PROVIDERS[provider]
        self._folders = folders
        self._load_s = load_s
        self._numbers = itertools.count(1)
        self._closed = False
        self._lock = threading.Lock()
        self._process = self._start()
        self._regions = Regions(lambda number: self._process.forget("regions", number))
        if provider != "cpu":
            try:
                self.load(PROBE, {})
            except BaseException as error:
                self.close()
                if isinstance(error, EngineError):
                    raise ConfigError(str(error)) from error
                raise

    @property
    def name(self) -> str:
        """Name and version, and of what Python."""
        return f"onnxruntime {self._process.about['runtime']} (Python {self._process.about['python']})"

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers, the preferred one first."""
        return tuple(self._process.about["providers"])

    @property
    def about(self) -> Mapping[str, Any]:
        """What the process says of itself: `python`, `numpy`, `runtime` (versions), `available` (all providers)."""
        return self._process.about

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
        return self._process.pid

    def room(self, size_bytes: int) -> Array:
        """Returns memory of both processes: (size_bytes,) of uint8, zeros. Arrays in it are not copied to be run."""
        return self._regions.take(size_bytes)

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        """Loads a sub-model; the constants (d0, d1, ...) are as `Engine.load` says."""
        return self._load(model, weights, ranges or {}, timed=False)

    def load_timed(self, model: bytes, weights: Mapping[str, Array]) -> _OldPythonLoaded:
        """Loads a sub-model whose kernels are timed until `end_timing`; the constants (d0, d1, ...) as for `load`."""
        return self._load(model, weights, {}, timed=True)

    def _load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange], timed: bool
    ) -> _OldPythonLoaded:
        with self._lock:
            if self._process.reason and not self._closed:
                self._process.end()
                self._process = self._start()
            process = self._process
        folder = (
            None
            if self._folders is None or TENSORRT not in self.providers
            else self._folders.of(model, weights, ranges)
        )
        memory = HandedOver()
        # What is fed comes first: the rest is given back once the session has been made of it.
        fed = [entry(name, value, memory.add(value)) for name, value in weights.items() if name.endswith(AS_INPUT)]
        fed_bytes = memory.size_bytes
        content = memory.add(np.frombuffer(model, np.uint8))
        places = {name: memory.add(value) for name, value in weights.items() if not name.endswith(AS_INPUT)}
        number = next(self._numbers)
        message = {
            "do": "load",
            "model": number,
            "providers": [(name, provider_options(name, folder, old=True)) for name in self.providers],
            "content": [content, content + len(model)],
            "files": {constant_file(name): [start, start + weights[name].nbytes] for name, start in places.items()},
            "fed": fed,
            "profile": timed,
            "dynamic": bool(ranges),
            # TensorRT is told no profile there: it builds one engine for all shapes that it has met.
            "tried": _extremes(ranges) if TENSORRT in self.providers else [],
        }
        with memory.made() as descriptor:
            process.load(message, descriptor, self._load_s)
            os.ftruncate(descriptor, fed_bytes)
        loaded = _OldPythonLoaded(process, number, ranges, self._regions, self._numbers, self._load_s, memory, folder)
        weakref.finalize(loaded, process.forget, "models", number).atexit = False
        return loaded

    def close(self) -> None:
        """Ends the process, also while it loads; nothing can be loaded any more."""
        with self._lock:
            self._closed = True
            process = self._process
        process.end()

    def _start(self) -> EngineProcess:
        made = EngineProcess(self._python)
        try:
            made.start({"do": "start", "threads": self._threads, "providers": self._wanted})
        except BaseException:
            made.end()
            raise
        return made


def _extremes(ranges: Mapping[str, ShapeRange]) -> list[dict[str, tuple[int, ...]]]:
    """The least and the largest shapes of all inputs."""
    if not ranges:
        return []
    return [{n: sizes.least for n, sizes in ranges.items()}, {n: sizes.most for n, sizes in ranges.items()}]


class _OldPythonLoaded:
    """A sub-model in the other process; `fed` has the constants that it is fed, which so count as this process's.

    `folder` is where TensorRT keeps what it builds for it; None: nowhere.
    """

    def __init__(
        self,
        process: EngineProcess,
        number: int,
        ranges: Mapping[str, ShapeRange],
        regions: Regions,
        numbers: Iterator[int],
        load_s: float,
        fed: HandedOver,
        folder: Path | None,
    ) -> None:
        self._process = process
        self._number = number
        self._ranges = ranges
        self._regions = regions
        self._numbers = numbers
        self._load_s = load_s
        self._fed = fed
        self.folder = folder

    @property
    def lives(self) -> bool:
        """Whether its process is there, as far as is known."""
        return not self._process.reason

    def end_timing(self) -> list[dict[str, Any]]:
        """Ends the timing of its kernels, where it was loaded so; returns what ONNX Runtime noted of each, in order.

        Raises:
            EngineError: if that fails.
        """
        return self._process.profile(self._number, self._load_s)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Binds arrays; see `Loaded.bind`. Those that do not lie in the engine's `room` are copied for each run."""
        check_ranges(self._ranges, inputs)
        process, number, memory = self._process, next(self._numbers), HandedOver()
        used: dict[int, Region] = {}
        copied: dict[str, list[tuple[dict[str, Any], Array]]] = {"inputs": [], "outputs": []}
        ports: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for what, arrays in (("inputs", inputs), ("outputs", outputs)):
            for name, held in arrays.items():
                place = self._regions.place(held)
                if place is None:
                    described = entry(name, held, memory.reserve(held.nbytes))
                    copied[what].append((described, held))
                else:
                    used[place[0].number] = place[0]
                    described = {**entry(name, held, place[1]), "region": place[0].number}
                ports[what].append(described)
        message = {"do": "bind", "run": number, "model": self._number, **ports}
        with memory.made() as descriptor:
            process.load(message, descriptor, self._load_s, used.values())
        into, out_of = ([(memory.view(d), held) for d, held in copied[what]] for what in ("inputs", "outputs"))
        # They stay as long as it can be run.
        kept = (self, inputs, outputs)

        def run() -> None:
            for shared, held in into:
                np.copyto(shared, held)
            kept[0]._process.run(number)
            for shared, held in out_of:
                np.copyto(held, shared)

        weakref.finalize(run, process.forget, "runs", number).atexit = False
        return run
