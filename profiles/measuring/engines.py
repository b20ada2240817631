"""What computes while a board is measured: ONNX Runtime in this process, or an engine as a worker would have it."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from distredge.errors import EngineError, MissingDependency
from distredge.folders import temporary_folder
from distredge.model import AS_INPUT
from distredge.profiles.measuring.attribution import is_kernel
from distredge.profiles.schema import Runtime

CPU = "CPUExecutionProvider"

_CHAIN = 64
"""Operators of the model that shows what the profiler adds to each kernel's time."""
_CHAIN_RUNS = 200

_SCHEDULED = 2
"""Linux's CPUCLOCK_SCHED."""


class Loaded(Protocol):
    """A loaded sub-model."""

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], stage: int
    ) -> Callable[[], None]:
        """Returns a function that computes from the inputs, (d0, d1, ...) of any dtype, into the outputs, alike."""


class Engine(Protocol):
    """What is measured of a worker's engine (`runtime.engine.Engine`)."""

    @property
    def name(self) -> str:
        """Name and version."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What it computes with, the preferred one first."""

    @property
    def threads(self) -> int:
        """Threads that one sub-model uses."""

    def load(self, model: bytes, weights: Mapping[str, NDArray[Any]]) -> Loaded:
        """Loads a sub-model with its constants, (d0, d1, ...) of any dtype, by name."""


@runtime_checkable
class OwnMemory(Protocol):
    """An engine that computes in memory of its own without copying."""

    def room(self, size_bytes: int) -> NDArray[Any]:
        """Returns such memory: (size_bytes,) of uint8."""


@runtime_checkable
class OwnProcess(Protocol):
    """An engine that is a process of its own."""

    @property
    def pid(self) -> int:
        """Process id."""


class Timed(Loaded, Protocol):
    """A loaded sub-model whose kernels are timed."""

    def end_timing(self) -> Sequence[Mapping[str, Any]]:
        """Ends that; returns what ONNX Runtime's profiler noted, in order."""


@runtime_checkable
class TimesKernels(Protocol):
    """An engine whose profiler tells kernels' times."""

    def load_timed(self, model: bytes, weights: Mapping[str, NDArray[Any]]) -> Timed:
        """Loads a sub-model with its constants, (d0, d1, ...) of any dtype, and times its kernels from then on."""


class ThisProcess:
    """ONNX Runtime in this process, on the CPU.

    Args:
        threads: inside an operator.

    Raises:
        MissingDependency: if there is none.
    """

    providers = (CPU,)

    def __init__(self, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependency("onnxruntime", "to measure with this Python", "engine") from None
        self.threads = threads
        self._ort = onnxruntime

    @property
    def name(self) -> str:
        """Name and version."""
        return f"onnxruntime {self._ort.__version__}"

    def load(self, model: bytes, weights: Mapping[str, NDArray[Any]]) -> Loaded:
        """Loads a sub-model with its constants, (d0, d1, ...) of any dtype."""
        return _Session(self._ort, model, weights, self._options(), None)

    def load_timed(self, model: bytes, weights: Mapping[str, NDArray[Any]]) -> Timed:
        """Loads a sub-model with its constants, (d0, d1, ...) of any dtype, and times its kernels."""
        stack = ExitStack()
        folder = stack.enter_context(temporary_folder("to time kernels"))
        try:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "run")
            return _Session(self._ort, model, weights, options, stack)
        except BaseException:
            stack.close()
            raise

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


class _Session:
    """One session; `noted` holds the folder in which its kernels are noted."""

    def __init__(
        self, runtime: Any, model: bytes, weights: Mapping[str, NDArray[Any]], options: Any, noted: ExitStack | None
    ) -> None:
        self._ort = runtime
        self._noted = noted
        values = {name: runtime.OrtValue.ortvalue_from_numpy(value) for name, value in weights.items()}
        self._fed = {name: value for name, value in values.items() if name.endswith(AS_INPUT)}
        held = [name for name in values if name not in self._fed]
        options.add_external_initializers(held, [values[name] for name in held])
        self._keep = (values, weights)
        try:
            self._session = runtime.InferenceSession(model, options, providers=[CPU])
        except Exception as reason:  # ONNX Runtime raises classes of its own that share no public base
            raise EngineError(f"ONNX Runtime refused a part: {reason}") from reason

    def bind(
        self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]], stage: int
    ) -> Callable[[], None]:
        session, binding = self._session, self._session.io_binding()
        values = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in {**inputs, **outputs}.items()}
        for name, value in self._fed.items():
            binding.bind_ortvalue_input(name, value)
        for name in inputs:
            binding.bind_ortvalue_input(name, values[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, values[name])
        kept = (values, inputs, outputs)

        def run() -> None:
            assert kept
            session.run_with_iobinding(binding)

        return run

    def end_timing(self) -> Sequence[Mapping[str, Any]]:
        assert self._noted is not None
        with self._noted:
            events: list[Mapping[str, Any]] = json.loads(Path(self._session.end_profiling()).read_bytes())
        return events


@dataclass(frozen=True)
class EngineSettings:
    """How sub-models run here; the same as in a worker.

    Args:
        engine: what runs them.
    """

    engine: Engine = field(default_factory=ThisProcess)

    @property
    def threads(self) -> int:
        """Threads within an operator."""
        return self.engine.threads

    @property
    def provider(self) -> str:
        """Execution provider."""
        return self.engine.providers[0]

    @property
    def timing(self) -> TimesKernels | None:
        """The engine, where it tells kernels' own times; None: whole runs alone are timed."""
        return self.engine if isinstance(self.engine, TimesKernels) and self.provider == CPU else None

    @functools.cached_property
    def profiler_adds_s(self) -> float:
        """Seconds that the profiler adds to a kernel's time: some microseconds, as much as a small kernel takes.

        A chain of operators on a few numbers is timed as a whole without the profiler, and one by one with it.
        """
        assert self.timing is not None
        timed = self.timing.load_timed(chain_model(_CHAIN, 8), {})
        loaded = [self.engine.load(chain_model(length, 8), {}) for length in (_CHAIN, 1)]
        ends = [np.ones((1, 8), dtype=np.float32) for _ in "xy"]
        runs = [which.bind({"x": ends[0]}, {"y": ends[1]}, 0) for which in (timed, *loaded)]
        whole = np.empty((_CHAIN_RUNS, len(runs)))
        for times in whole:
            for place, run in enumerate(runs):
                begin = time.perf_counter()
                run()
                times[place] = time.perf_counter() - begin
        kernels = sorted(float(event["dur"]) * 1e-6 for event in timed.end_timing() if is_kernel(event))
        # Reaching the engine takes as long for one as for all.
        alone_s = float(np.median(whole[:, 1]) - np.median(whole[:, 2])) / (_CHAIN - 1)
        return max(0.0, float(np.mean(kernels[: len(kernels) * 9 // 10])) - alone_s)

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds by which runs are timed: what one thread on the CPU computed, or else the wall clock.

        The former stands still while another program has the core.
        """
        if self.threads != 1 or self.provider != CPU:
            return time.perf_counter
        if self.pid is None:
            return time.thread_time if isinstance(self.engine, ThisProcess) else time.perf_counter
        # As clock_getcpuclockid(3) makes it: the processor time of all threads of a process.
        theirs = (~self.pid << 3) | _SCHEDULED
        return lambda: time.thread_time() + time.clock_gettime(theirs)

    @property
    def pid(self) -> int | None:
        """Process that computes; None: this one."""
        return self.engine.pid if isinstance(self.engine, OwnProcess) else None

    def runtime(self) -> Runtime:
        """Returns which engine runs here, and under which Python where that is another one."""
        name, _, version = self.engine.name.partition(" ")
        return Runtime(name=name, version=version, provider=self.provider)


def chain_model(length: int, size: int) -> bytes:
    """Returns a model of so many operators from x to y, (1, size) of float32 each.

    They are of two kinds in turn, so that no optimisation merges neighbours.
    """
    import onnx

    names = ["x", *(f"t{i}" for i in range(1, length)), "y"]
    nodes = [onnx.helper.make_node(("Neg", "Abs")[i % 2], [names[i]], [names[i + 1]]) for i in range(length)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, size)) for name in ("x", "y")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:]),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 13)],
    )
    return bytes(model.SerializeToString())
