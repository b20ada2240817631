"""Timing parts of a model under ONNX Runtime: single operators at chosen rows, or whole segments.

A part is built by the same code that builds what a worker runs (`model.segments`): the middle rows of the output, with
the explicit padding that a real split-part would have. An operator's time is that of its own kernels, taken from ONNX
Runtime's profiler. What surrounds them at the edge of a segment (changing to the layout in which convolutions compute,
and back) belongs to the segment and is reported apart: inside a volume it does not occur.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import EngineError, ProfileError
from distredge.folders import temporary_folder
from distredge.model import AS_INPUT
from distredge.model.graph import Graph
from distredge.model.layout import PARTIAL, Layout, Part
from distredge.model.nodes import Tensor
from distredge.model.operators import RULES, Kind, Reduction, whole
from distredge.model.rows import Interval, Region, region_hull
from distredge.model.segments import build_segment
from distredge.model.sub_model import Segment
from distredge.model.volumes import OperatorRegion
from distredge.profiles.measuring.attribution import Sample, is_kernel, named, read_profile
from distredge.profiles.measuring.machine import largest_cache_bytes
from distredge.profiles.measuring.repeats import spread_of

CPU = "CPUExecutionProvider"
_WARM_UP = 2
_OLD_BYTES = (8 << 20, 128 << 20)
"""Bytes used before every run: the least and the most that `bytes_between` takes for enough."""

_CHAIN = 64
"""Operators of the model that shows what the profiler adds to each kernel's time."""


@dataclass(frozen=True)
class EngineSettings:
    """How ONNX Runtime runs here; the same as in a worker.

    Args:
        provider: execution provider.
        threads: threads within an operator.
    """

    provider: str = CPU
    threads: int = 1

    def check(self) -> None:
        """Raises ProfileError when this ONNX Runtime lacks the provider."""
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if self.provider not in available:
            raise ProfileError(
                f"provider: found '{self.provider}', accepted on this machine: {', '.join(available)}; for a GPU of "
                "the Jetson line install NVIDIA's build of ONNX Runtime, elsewhere onnxruntime-gpu"
            )

    def options(self) -> Any:
        """Returns new session options."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


@dataclass(frozen=True)
class Effort:
    """When to stop repeating one measurement.

    Args:
        least: repeats at least.
        most: repeats at most.
        least_s: time at least, so that what takes microseconds is repeated often.
        seconds: time after which no repeat beyond `least` starts.
        most_s: time after which two repeats are enough.
        spread: half the interquartile range over the median at which it is enough.
    """

    least: int = 5
    most: int = 200
    least_s: float = 0.004
    seconds: float = 0.12
    most_s: float = 1.0
    spread: float = 0.01


@dataclass(eq=False)
class Bench:
    """Times parts of one graph.

    Args:
        graph: the model.
        settings: how to run.
    """

    graph: Graph
    settings: EngineSettings = field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        self.settings.check()
        self.layout = Layout(("here",), (), (), {**self.graph.tensors, **_partials(self.graph)}, False)
        self._values: dict[str, Any] = {}
        self._rng = np.random.default_rng(0)
        self._old = _old_memory()[: bytes_between(self.graph) // 8]
        self._added_s = profiler_adds_s(self.settings) if self.settings.provider == CPU else 0.0

    def operator_part(self, operator: int, rows: int) -> Part:
        """Returns the part that computes the middle `rows` output rows of one operator.

        Activations that are fused into it come with it; a reduction over rows gives its partial result.

        Args:
            operator: index of the operator.
            rows: its output rows.
        """
        graph = self.graph
        if graph.body.verdicts[operator].kind is Kind.REDUCE:
            source = graph.operators[operator].inputs[0]
            name = graph.operators[operator].outputs[0] + PARTIAL
            region = _middle_rows(graph, source, rows)
            return Part(
                0, (), (OperatorRegion(operator, region),), (), {source: region}, {name: Region(Interval(0, 1))}
            )
        everything = [operator, *(a for a, c in graph.fused_into.items() if c == operator)]
        made = {name for index in everything for name in graph.operators[index].outputs}
        outputs = {n: _middle_rows(graph, n, rows) for n in graph.operators[everything[-1]].outputs if n}
        wanted, inputs, computed = dict(outputs), dict[str, Region](), []
        for index in reversed(everything):
            out = region_hull(wanted[name] for name in graph.operators[index].outputs if name in wanted)
            computed.append(OperatorRegion(index, out))
            for name, need in self._needs(index, out).items():
                (wanted if name in made else inputs)[name] = need
        return Part(0, tuple(reversed(computed)), (), (), inputs, outputs)

    def _needs(self, index: int, out: Region) -> dict[str, Region]:
        graph = self.graph
        op = graph.operators[index]
        in_head = graph.body.verdicts[index].kind is Kind.HEAD
        found: dict[str, Region] = {}
        for position in op.activations:
            name = op.inputs[position]
            need = whole(graph.tensors[name]) if in_head else RULES[op.op_type].needs(graph, op, position, out)
            found[name] = region_hull([need, found[name]]) if name in found else need
        return found

    def segment(self, part: Part, layout: Layout | None = None) -> Segment:
        """Builds a part's sub-model."""
        return build_segment(self.graph, layout or self.layout, 0, part)

    def run(self, segment: Segment, effort: Effort, kernels: bool = True) -> Sample:
        """Times a segment.

        One thread on the CPU is timed by its own processor time, which stands still while another program has the
        core; anything else by the wall clock.

        Args:
            segment: what to run.
            effort: when to stop.
            kernels: also take the kernels' own times from the profiler (CPU provider).
        """
        if not kernels or self.settings.provider != CPU:
            own, wall = self._times(self._session(segment, None), segment, effort)
            return Sample(own, own, wall_s=wall)
        with temporary_folder("to time kernels") as folder:
            session = self._session(replace(segment, model=named(segment.model, self.graph)), folder / "run")
            own, wall = self._times(session, segment, effort)
            events = json.loads(Path(session.end_profiling()).read_bytes())
        return read_profile(events, self.graph, segment, self._added_s, own, wall)

    def _session(self, segment: Segment, profile: Path | None) -> Any:
        import onnxruntime

        options = self.settings.options()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        names = [name for name in segment.weights if not name.endswith(AS_INPUT)]
        options.add_external_initializers(names, [self._value(name) for name in names])
        providers = [self.settings.provider] if self.settings.provider == CPU else [self.settings.provider, CPU]
        try:
            return onnxruntime.InferenceSession(segment.model, options, providers=providers)
        except Exception as reason:  # ONNX Runtime raises classes of its own that share no public base
            raise EngineError(f"{self.graph.name}: ONNX Runtime refused a part: {reason}") from reason

    def _value(self, name: str) -> Any:
        import onnxruntime

        if name not in self._values:
            array = np.ascontiguousarray(self.graph.constants[name])
            self._values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        return self._values[name]

    def _times(self, session: Any, segment: Segment, effort: Effort) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Runs until the effort is spent; returns seconds of every run by the chosen clock and by the wall clock.

        Inputs and outputs lie in buffers that stay, as in a worker. Before every run the caches are brought to the
        state that they have in the middle of a frame: weights were last read a frame ago, inputs have just been made.
        """
        binding, buffers, inputs = self._binding(session, segment)
        clock = time.thread_time if self.settings.provider == CPU and self.settings.threads == 1 else time.perf_counter
        first = time.perf_counter()
        for _ in range(_WARM_UP):
            session.run_with_iobinding(binding)
            if time.perf_counter() - first > effort.most_s / 4:
                break
        own: list[float] = []
        wall: list[float] = []
        first = time.perf_counter()
        while len(own) < effort.most:
            passed = time.perf_counter() - first
            if passed > effort.most_s and len(own) >= min(2, effort.least):
                break
            enough = len(own) >= effort.least and passed >= effort.least_s
            if enough and (passed >= effort.seconds or spread_of(np.array(own[-100:])) <= effort.spread):
                break
            # Written, too: what is only read once streams past the last of the caches.
            np.add(self._old, 1, out=self._old)
            for array in inputs:
                array.max()
            begin_wall, begin = time.perf_counter(), clock()
            session.run_with_iobinding(binding)
            own.append(clock() - begin)
            wall.append(time.perf_counter() - begin_wall)
        del buffers
        return np.array(own), np.array(wall)

    def _binding(self, session: Any, segment: Segment) -> tuple[Any, list[Any], list[NDArray[Any]]]:
        import onnxruntime

        binding = session.io_binding()
        buffers, inputs = [], []
        for name in segment.weights:
            if name.endswith(AS_INPUT):
                binding.bind_ortvalue_input(name, self._value(name.removesuffix(AS_INPUT)))
        for port in segment.inputs:
            array = self._rng.standard_normal(port.shape, dtype=np.float32).astype(port.dtype, copy=False)
            inputs.append(array)
            buffers.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
            binding.bind_ortvalue_input(port.name, buffers[-1])
        for port in segment.outputs:
            buffers.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(port.shape, dtype=port.dtype)))
            binding.bind_ortvalue_output(port.name, buffers[-1])
        return binding, buffers, inputs


def graph_bytes(graph: Graph) -> int:
    """Returns the bytes of a model's weights."""
    return sum(value.nbytes for value in graph.constants.values())


def bytes_between(graph: Graph) -> int:
    """Returns how many other bytes to use between two uses of a weight, so that it is as old as in a worker.

    There a frame lies between them: the model's other weights, and about as much again in everybody's activations.
    More than twice the largest cache is not needed on any board.
    """
    return max(8, min(2 * graph_bytes(graph), _old_memory().nbytes))


@functools.cache
def profiler_adds_s(settings: EngineSettings) -> float:
    """Returns what ONNX Runtime's profiler adds to a kernel's time: some microseconds, as much as a small kernel takes.

    A chain of operators on a few numbers is timed as a whole without the profiler, and one by one with it.
    """
    import onnx
    import onnxruntime

    names = [f"t{i}" for i in range(_CHAIN + 1)]
    # Two operators in turn, so that no optimisation merges neighbours.
    nodes = [onnx.helper.make_node(("Neg", "Abs")[i % 2], [names[i]], [names[i + 1]]) for i in range(_CHAIN)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in (names[0], names[-1])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:]),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 13)],
    )
    feed = {names[0]: np.ones((1, 8), dtype=np.float32)}
    with temporary_folder("to time kernels") as folder:
        plain, profiled = settings.options(), settings.options()
        profiled.enable_profiling = True
        profiled.profile_file_prefix = str(folder / "chain")
        sessions = [
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
            for options in (plain, profiled)
        ]
        whole = []
        for _ in range(200):
            begin = time.perf_counter()
            sessions[0].run(None, feed)
            whole.append(time.perf_counter() - begin)
            sessions[1].run(None, feed)
        events = json.loads(Path(sessions[1].end_profiling()).read_bytes())
    kernels = [float(e["dur"]) * 1e-6 for e in events if is_kernel(e)]
    return max(0.0, float(np.mean(sorted(kernels)[: len(kernels) * 9 // 10])) - float(np.median(whole)) / _CHAIN)


def _partials(graph: Graph) -> dict[str, Tensor]:
    """The partial results of one device, by name, of every reduction over rows."""
    found = {}
    for op in graph.operators:
        rule = RULES.get(op.op_type)
        if graph.body.verdicts[op.index].kind is Kind.REDUCE and isinstance(rule, Reduction):
            name = op.outputs[0] + PARTIAL
            dtype = graph.tensors[op.outputs[0]].dtype
            found[name] = Tensor(name, rule.partial_shape(graph, op, 1), dtype, 0, None)
    return found


@functools.cache
def _old_memory() -> NDArray[np.int64]:
    least, most = _OLD_BYTES
    # Not zeros, which would be pages that share one place in memory until they are written.
    return np.ones(min(max(least, 2 * largest_cache_bytes()), most) // 8, dtype=np.int64)


def _middle_rows(graph: Graph, name: str, rows: int) -> Region:
    tensor = graph.tensors[name]
    if tensor.height <= rows:
        return whole(tensor)
    start = (tensor.height - rows) // 2
    return Region(Interval(start, start + rows))
