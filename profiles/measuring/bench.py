"""Timing parts of a model under ONNX Runtime: single operators at chosen rows, or whole segments.

A part is built by the same code that builds what a worker runs (`model.segments`): the middle rows of the output, with
the explicit padding that a real split-part would have. An operator's time is that of its own kernels, taken from ONNX
Runtime's profiler. What surrounds them at the edge of a segment (changing to the layout in which convolutions compute,
and back) belongs to the segment and is reported apart: inside a volume it does not occur.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.errors import EngineError
from distredge.model import AS_INPUT
from distredge.model.graph import Graph
from distredge.model.layout import PARTIAL, Layout, Part
from distredge.model.nodes import Tensor
from distredge.model.operators import RULES, Kind, Reduction, whole
from distredge.model.rows import Interval, Region, region_hull
from distredge.model.segments import build_segment
from distredge.model.sub_model import Port, Segment
from distredge.model.volumes import OperatorRegion
from distredge.profiles.measuring.attribution import Sample, named, read_profile
from distredge.profiles.measuring.engines import EngineSettings, Loaded, OwnMemory, chain_model
from distredge.profiles.measuring.least_squares import fit_nonnegative
from distredge.profiles.measuring.machine import largest_cache_bytes
from distredge.profiles.measuring.repeats import spread_of

_WARM_UP = 2
_OLD_BYTES = (8 << 20, 128 << 20)
"""Bytes used before every run: the least and the most that `bytes_between` takes for enough."""

_NOTHING_SIZES = (1 << 6, 1 << 16, 1 << 20)
"""Elements of what is negated to see what running anything costs."""

_LEAST_SHARE = 0.02
"""Of a run, what its kernels take at least: less than that cannot be told from what running costs."""


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
        self.layout = Layout(("here",), (), (), {**self.graph.tensors, **_partials(self.graph)}, False)
        self._rng = np.random.default_rng(0)
        self._old = _old_memory()[: bytes_between(self.graph) // 8]
        timed = self.settings.timing is not None
        self._added_s = self.settings.profiler_adds_s if timed else 0.0
        self._beside = (0.0, 0.0) if timed else self._run_costs()

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
            kernels: also tell the kernels' own times: as the profiler has them, or where there is none what is left
                of a run without what it costs to run anything.
        """
        timing = self.settings.timing
        constants = {
            name: np.ascontiguousarray(self.graph.constants[name.removesuffix(AS_INPUT)]) for name in segment.weights
        }
        try:
            if timing is None or not kernels:
                loaded = self.settings.engine.load(segment.model, constants)
                own, wall = self._times(*self._bound(loaded, segment), effort)
                return Sample(own, self._without_costs(own, segment), wall_s=wall)
            timed = timing.load_timed(named(segment.model, self.graph), constants)
            own, wall = self._times(*self._bound(timed, segment), effort)
            return read_profile(timed.end_timing(), self.graph, segment, self._added_s, own, wall)
        except EngineError as reason:
            raise EngineError(f"{self.graph.name}: {reason}") from reason

    def _times(
        self, run: Callable[[], None], inputs: Sequence[NDArray[Any]], effort: Effort
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Runs until the effort is spent; returns seconds of every run by the chosen clock and by the wall clock.

        Inputs and outputs lie in buffers that stay, as in a worker. Before every run the caches are brought to the
        state that they have in the middle of a frame: weights were last read a frame ago, inputs have just been made.
        """
        clock = self.settings.clock
        first = time.perf_counter()
        for _ in range(_WARM_UP):
            run()
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
            run()
            own.append(clock() - begin)
            wall.append(time.perf_counter() - begin_wall)
        return np.array(own), np.array(wall)

    def _bound(self, loaded: Loaded, segment: Segment) -> tuple[Callable[[], None], list[NDArray[Any]]]:
        """What runs a segment, and its inputs, (d0, d1, ...) of their ports' dtypes."""
        inputs, outputs = (
            {port.name: self._array(port) for port in ports} for ports in (segment.inputs, segment.outputs)
        )
        for port in segment.inputs:
            inputs[port.name][...] = self._noise(port)
        return loaded.bind(inputs, outputs, 0), list(inputs.values())

    def _array(self, port: Port) -> NDArray[Any]:
        """(d0, d1, ...) of the port's shape and dtype, in the engine's own memory where it has some."""
        if not isinstance(self.settings.engine, OwnMemory):
            return np.zeros(port.shape, port.dtype)
        return self.settings.engine.room(_port_bytes(port)).view(port.dtype).reshape(port.shape)

    def _noise(self, port: Port) -> NDArray[Any]:
        return self._rng.standard_normal(port.shape, dtype=np.float32).astype(port.dtype, copy=False)

    def _without_costs(self, seconds: NDArray[np.float64], segment: Segment) -> NDArray[np.float64]:
        """What is left of runs, (repeats,), without what it costs to run anything."""
        fixed_s, s_per_byte = self._beside
        edge_bytes = sum(_port_bytes(port) for port in (*segment.inputs, *segment.outputs))
        left: NDArray[np.float64] = np.maximum(seconds - fixed_s - s_per_byte * edge_bytes, _LEAST_SHARE * seconds)
        return left

    def _run_costs(self) -> tuple[float, float]:
        """Seconds that a run of anything takes, and seconds of each byte that enters or leaves it.

        Carrying inputs and outputs to a GPU and back would be counted once for each operator that is timed alone, and
        is paid once for a segment.
        """
        seconds, edge_bytes = [], []
        for size in _NOTHING_SIZES:
            ports = [Port(name, name, Region(Interval(0, 1)), (1, size), "float32") for name in ("x", "y")]
            nothing = Segment(0, chain_model(1, size), {}, (ports[0],), (ports[1],))
            loaded = self.settings.engine.load(nothing.model, {})
            own, _ = self._times(*self._bound(loaded, nothing), Effort(least=20))
            seconds.append(float(np.median(own)))
            edge_bytes.append(float(2 * _port_bytes(ports[0])))
        fixed_s, s_per_byte = fit_nonnegative([[1.0] * len(seconds), edge_bytes], seconds)
        return fixed_s, s_per_byte


def _port_bytes(port: Port) -> int:
    return math.prod(port.shape) * np.dtype(port.dtype).itemsize


def graph_bytes(graph: Graph) -> int:
    """Returns the bytes of a model's weights."""
    return sum(value.nbytes for value in graph.constants.values())


def bytes_between(graph: Graph) -> int:
    """Returns how many other bytes to use between two uses of a weight, so that it is as old as in a worker.

    There a frame lies between them: the model's other weights, and about as much again in everybody's activations.
    More than twice the largest cache is not needed on any board.
    """
    return max(8, min(2 * graph_bytes(graph), _old_memory().nbytes))


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
