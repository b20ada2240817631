"""Inference engines: what runs the sub-models of a plan.

An `Engine` loads sub-models and binds them to arrays that live as long as the plan; running one then reads and writes
these arrays in place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from distredge.errors import ConfigError, EngineError, MissingDependency
from distredge.model import AS_INPUT
from distredge.runtime.buffers import Array
from distredge.runtime.engine_folders import EngineFolders
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.runtime.provider_options import (
    CUDA,
    NO_TF32,
    PROBE,
    PROVIDERS,
    TENSORRT,
    fallen_back,
    provider_options,
)

if TYPE_CHECKING:
    import onnxruntime as ort


class Loaded(Protocol):
    """A loaded sub-model."""

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Returns a function that reads `inputs`, computes, and writes `outputs`; the arrays must stay where they are.

        Args:
            inputs: every input of the sub-model by name: (d0, d1, ...), C-ordered, exactly its shape and dtype; with
                dynamic rows, a shape in its range.
            outputs: every output likewise.
            stage: the stage that it is run for.

        Raises:
            EngineError: if the arrays are not what the sub-model has; the function raises it when computing fails.
        """


@runtime_checkable
class Mortal(Protocol):
    """A loaded sub-model that may come to its end with a process."""

    @property
    def lives(self) -> bool:
        """Whether it can be bound and run, as far as is known."""


@runtime_checkable
class KeptOnDisk(Protocol):
    """A loaded sub-model whose engines stay on the disk, so that it is loaded faster the next time."""

    @property
    def folder(self) -> Path | None:
        """Where they are (`EngineFolders`); None where they do not stay."""


class Engine(Protocol):
    """Loads sub-models; used by one thread at a time for loading and by one for running."""

    @property
    def name(self) -> str:
        """Name and version."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What it computes with, the preferred one first."""

    @property
    def threads(self) -> int:
        """Threads that one sub-model uses."""

    @property
    def warms_up(self) -> bool:
        """Whether a sub-model's first run is slower or takes memory, so that it is worth one run beforehand."""

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        """Loads a sub-model, which several plans may share.

        Args:
            model: serialised ONNX model without its large constants.
            weights: those constants by name: (d0, d1, ...), C-ordered, shape and dtype as in the graph; their memory
                is shared where the engine can.
            ranges: input -> its shapes, of a sub-model with dynamic rows; it may be bound to arrays of all of them.

        Raises:
            EngineError: if the engine refuses the model.
        """


@runtime_checkable
class GivesMemory(Protocol):
    """An engine that reads and writes arrays without copying them where they lie in memory of its own."""

    def room(self, size_bytes: int) -> Array:
        """Returns such memory: (size_bytes,) of uint8, zeros."""


@runtime_checkable
class Closable(Protocol):
    """An engine that has a process of its own."""

    def close(self) -> None:
        """Ends it, also while it loads a sub-model; called by any thread."""


def lives(loaded: Loaded) -> bool:
    """Whether a loaded sub-model can be bound and run, as far as is known."""
    return not isinstance(loaded, Mortal) or loaded.lives


def built_s(loaded: Loaded, took_s: float) -> float:
    """Returns the seconds in which a sub-model is loaded where nothing that was built for it lies on the disk.

    Args:
        loaded: the sub-model.
        took_s: seconds that loading it took, its first run included.
    """
    folder = loaded.folder if isinstance(loaded, KeptOnDisk) else None
    return took_s if folder is None else EngineFolders.built_s(folder, took_s)


class OnnxRuntimeEngine:
    """ONNX Runtime, one session per sub-model, lossless: float32 throughout, TF32 off.

    Args:
        threads: threads inside an operator.
        provider: "cpu", "cuda" or "tensorrt".
        spinning: whether idle threads burn their core while waiting; only worth it on a core of one's own.
        folders: where TensorRT keeps what it has built; None: nowhere.

    Raises:
        MissingDependency: if onnxruntime is not installed.
        ConfigError: if this build has not the provider, or cannot use it here.
    """

    def __init__(
        self, threads: int = 1, provider: str = "cpu", spinning: bool = False, folders: EngineFolders | None = None
    ) -> None:
        if provider == "tensorrt":
            # Before its libraries are loaded.
            os.environ.setdefault(*NO_TF32)
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependency("onnxruntime", "to run models", "engine") from None
        if provider not in PROVIDERS:
            raise ConfigError(f"no provider '{provider}'; accepted: {', '.join(PROVIDERS)}")
        available = onnxruntime.get_available_providers()
        if PROVIDERS[provider][0] not in available:
            raise ConfigError(
                f"this build of ONNX Runtime {onnxruntime.__version__} has no {PROVIDERS[provider][0]}; "
                f"it has: {', '.join(available)}; for a GPU of the Jetson line install NVIDIA's build of ONNX Runtime, "
                "elsewhere onnxruntime-gpu"
            )
        self._ort = onnxruntime
        self._threads = threads
        self._spinning = spinning
        self._folders = folders
        self._providers = tuple(p for p in PROVIDERS[provider] if p in available)
        if provider != "cpu":
            try:
                self._session(PROBE, self._options(), self._folder(PROBE, {}))
            except EngineError as error:
                raise ConfigError(str(error)) from error

    @property
    def name(self) -> str:
        """Name and version."""
        return f"onnxruntime {self._ort.__version__}"

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers, the preferred one first."""
        return self._providers

    @property
    def threads(self) -> int:
        """Threads inside an operator."""
        return self._threads

    @property
    def warms_up(self) -> bool:
        """Arenas are allocated, and TensorRT's engines built, in the first run."""
        return True

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        """Makes a session; the constants (d0, d1, ...) are as `Engine.load` says."""
        options = self._options()
        device = "cuda" if CUDA in self._providers else "cpu"
        fed = {n: self._ort.OrtValue.ortvalue_from_numpy(a, device) for n, a in weights.items() if n.endswith(AS_INPUT)}
        names = [name for name in weights if name not in fed]
        values = [self._ort.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
        if values:
            options.add_external_initializers(names, values)
        engines = self._folder(model, weights, ranges)
        session = self._session(model, options, engines, ranges)
        return _OnnxRuntimeLoaded(self._ort, session, fed, ranges or {}, (values, tuple(weights.values())), engines)

    def _folder(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Path | None:
        if self._folders is None or TENSORRT not in self._providers:
            return None
        return self._folders.of(model, weights, ranges)

    def _session(
        self,
        model: bytes,
        options: ort.SessionOptions,
        engines: Path | None,
        ranges: Mapping[str, ShapeRange] | None = None,
    ) -> ort.InferenceSession:
        providers = [(p, provider_options(p, engines, ranges=ranges)) for p in self._providers]
        try:
            session = self._ort.InferenceSession(model, options, providers=providers)
        except Exception as error:
            hint = "; with 'dynamic_rows = false' in the cluster file the worker gets others" if ranges else ""
            raise EngineError(f"{self.name} refuses the sub-model: {_brief(error)}{hint}") from error
        if instead := fallen_back(self._providers, session.get_providers()):
            raise EngineError(instead)
        return session

    def _options(self) -> ort.SessionOptions:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options


class _OnnxRuntimeLoaded:
    """One session; `fed` are constants that are inputs of its model, `keep` holds the memory that it reads.

    `folder` is where TensorRT keeps what it builds for it; None: nowhere.
    """

    def __init__(
        self,
        runtime: Any,
        session: ort.InferenceSession,
        fed: Mapping[str, ort.OrtValue],
        ranges: Mapping[str, ShapeRange],
        keep: object,
        folder: Path | None = None,
    ) -> None:
        self._ort = runtime
        self._session = session
        self._fed = fed
        self._ranges = ranges
        self._keep = keep
        self.folder = folder

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Binds arrays; see `Loaded.bind`."""
        check_ranges(self._ranges, inputs)
        declared = [i for i in self._session.get_inputs() if i.name not in self._fed]
        _check_ports(declared, inputs, "input", self._ranges)
        _check_ports(self._session.get_outputs(), outputs, "output", outputs if self._ranges else ())
        binding = self._session.io_binding()
        for name, value in self._fed.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_numpy(array))
        session = self._session

        def run() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                raise EngineError(_brief(error)) from error

        return run


def _check_ports(declared: Sequence[Any], arrays: Mapping[str, Array], what: str, dynamic: Collection[str]) -> None:
    """The engine would write beyond an array that is too small: shapes must be exactly the model's.

    An axis of those that are `dynamic` that has a name there, and no size, may be as long as its range says
    (`check_ranges`); the engine itself refuses an output that is not as long as what it computes.
    """
    shapes = {node.name: tuple(node.shape) for node in declared}
    found = {name: array.shape for name, array in arrays.items()}
    if shapes.keys() != found.keys() or not all(
        _fits(shape, found[name], name in dynamic) for name, shape in shapes.items()
    ):
        raise EngineError(f"the sub-model's {what}s are {shapes}, the plan's {found}")


def _fits(declared: tuple[int | str | None, ...], shape: tuple[int, ...], dynamic: bool) -> bool:
    return len(declared) == len(shape) and all(
        size == wanted or (dynamic and not isinstance(wanted, int))
        for size, wanted in zip(shape, declared, strict=True)
    )


def check_ranges(ranges: Mapping[str, ShapeRange], inputs: Mapping[str, Array]) -> None:
    """Every input has a shape in its range, and all lie at the same place of theirs: one number says how many rows.

    Args:
        ranges: input of a sub-model with dynamic rows -> its shapes.
        inputs: (d0, d1, ...) of any dtype, by name.

    Raises:
        EngineError: if not.
    """
    places: dict[str, Fraction] = {}
    for name, array in inputs.items():
        if name not in ranges:
            continue
        least, most = ranges[name].least, ranges[name].most
        if len(least) != array.ndim or not all(
            low <= size <= high for low, size, high in zip(least, array.shape, most, strict=True)
        ):
            raise EngineError(
                f"the sub-model takes shapes from {least} to {most} of '{name}', the plan's is {array.shape}"
            )
        places.update(
            (name, Fraction(size - low, high - low))
            for low, size, high in zip(least, array.shape, most, strict=True)
            if low < high
        )
    if len(set(places.values())) > 1:
        shapes = {name: inputs[name].shape for name in places}
        raise EngineError(f"the plan's inputs do not belong together: {shapes}, of ranges {dict(ranges)}")


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}..."


class SleepEngine:
    """Computes nothing and takes the time that it is told: for boards that are emulated, and for tests.

    Args:
        seconds: stage -> seconds; a stage that is not there takes none.
    """

    name = "sleep"
    providers = ("none",)
    threads = 1
    warms_up = False

    def __init__(self, seconds: Mapping[int, float] | None = None) -> None:
        self._seconds = dict(seconds or {})

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> Loaded:
        """Accepts any sub-model, and constants (d0, d1, ...) of any shape and dtype."""
        return _SleepLoaded(self._seconds)


class _SleepLoaded:
    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds = seconds

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        seconds = self._seconds.get(stage, 0.0)

        def run() -> None:
            if seconds > 0:
                time.sleep(seconds)

        return run
