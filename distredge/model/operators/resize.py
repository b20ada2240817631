"""Resize-19 by rows: nearest, linear and cubic, with the scale, coordinates and edges of the whole tensor kept.

Two ways. Where a slice that starts at input row r has output rows that start at a whole number (r*scale), the same
Resize on the slice makes the same rows, and what it makes too much is cut off. Elsewhere the rows are gathered: by
the indices that the engine itself finds for the whole tensor (nearest), or two or four at a time and weighted (linear,
cubic). Resizing with antialiasing goes the first way alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    AXES,
    Emitter,
    Rule,
    Verdict,
    constant_input,
    dimension_of,
    head,
    interval_of,
    region_shape,
    split_axes,
    with_interval,
)
from distredge.model.rows import Interval, Region

COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
DOUBT = np.float32(1e-3)
"""How far an engine's coordinates may be off, in input rows: the rounding of float32, with room to spare."""

LARGEST_STEP = 2
"""Input rows per phase of the scale up to which a slice is resized as it is; above, aligned slices are too tall."""

LARGEST_SMOOTH_STEP = 8
"""The same with antialiasing, whose output rows read that many input rows anyway."""

REACH = {"linear": 1, "cubic": 2}
"""Input rows to either side that an output row reads when a tensor grows."""


class Sampling(NamedTuple):
    """Which input rows every output row reads.

    Attributes:
        low, high: first and last row of the input (H_out,). Nearest takes one of them, two where engines may round to
            different sides; the others mix what lies between.
        taps: what linear and cubic resizing mix: input rows (H_out,), and their shares, float32 (H_out,).
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    taps: tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...] = ()


class Resize(Rule):
    """Nearest, linear and cubic resizing of rows and columns."""

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        mode, coordinates = _text(op, "mode", "nearest"), _coordinates(op)
        source = graph.tensors[op.inputs[0]]
        if op.activations != (0,):
            return head("Resize to a size that is not constant")
        if mode not in ("nearest", *REACH) or coordinates not in COORDINATES:
            return head(f"Resize in mode '{mode}' with '{coordinates}' coordinates")
        if _text(op, "nearest_mode", ROUNDINGS[0]) not in ROUNDINGS:
            return head(f"Resize with nearest_mode '{_text(op, 'nearest_mode', '')}'")
        if _text(op, "keep_aspect_ratio_policy", "stretch") != "stretch":
            return head("Resize that keeps the aspect ratio")
        if source.row_axis is None or (mode != "nearest" and np.dtype(source.dtype).kind != "f"):
            return head("Resize of a tensor without rows, or of integers")
        scales, made = _scales(graph, op), graph.tensors[op.outputs[0]]
        for dimension, scale in enumerate(() if scales is None else scales.tolist()):
            if scale != 1 and source.shape[dimension] == made.shape[dimension]:
                # Engines differ here: some copy, some resample.
                return head(f"Resize by {scale:g} that leaves axis {dimension} as long as it is")
        if _is_smooth(op):
            for crossed in AXES:
                if dimension_of(source, crossed) is not None and aligned_step(graph, op, crossed) is None:
                    return head(f"Resize with antialiasing of {crossed} that no slice has in phase")
        return super().verdict(graph, op)

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        need = out
        for axis in split_axes(out):
            need = with_interval(need, axis, _reads(graph, op, axis, interval_of(out, axis)))
        return need

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        graph = emitter.graph
        source, made = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
        need = self.needs(graph, op, 0, out)
        sizes, computed, gathered = list(made.shape), out, []
        for axis in split_axes(out):
            dimension = dimension_of(source, axis)
            if dimension is None:
                continue
            reads = interval_of(need, axis)
            if aligned_step(graph, op, axis) is None:
                gathered.append((axis, dimension))
                sizes[dimension] = reads.size
            else:
                before, after = source.shape[dimension], made.shape[dimension]
                rows = Interval(reads.start * after // before, reads.stop * after // before)
                sizes[dimension] = rows.size
                computed = with_interval(computed, axis, rows)
        value = emitter.take(op.inputs[0], need)
        scales = _scales(graph, op)
        picked = [dimension for _, dimension in gathered]
        scaled = scales is not None and bool((np.delete(scales, picked) != 1).any())
        if gathered and list(region_shape(source, need)) == sizes and not scaled:
            resized = value
        else:
            resized = emitter.fresh(f"{made.name}@resized") if gathered else made.name
            _emit_resize(emitter, op, value, resized, sizes, picked)
        for i, (axis, _) in enumerate(gathered):
            name = made.name if i == len(gathered) - 1 else emitter.fresh(f"{made.name}@gathered")
            emit = _emit_pick if _is_nearest(op) else _emit_mix
            emit(emitter, op, axis, resized, name, interval_of(need, axis), interval_of(out, axis))
            resized = name
        return computed


def _emit_resize(
    emitter: Emitter, op: Operator, value: str, output: str, sizes: list[int], gathered: list[int]
) -> None:
    """Appends a Resize of the slice: the whole tensor's scale, but 1 along axes that are gathered afterwards."""
    graph = emitter.graph
    scales = _scales(graph, op)
    if scales is None:
        inputs = [value, "", "", emitter.constant("sizes", np.array(sizes, dtype=np.int64))]
    else:
        local = [1.0 if axis in gathered else scale for axis, scale in enumerate(scales.tolist())]
        inputs = [value, "", emitter.constant("scales", np.array(local, dtype=np.float32))]
    # The two differ only for an output of size 1, which a slice must not decide.
    half = _coordinates(op) == "pytorch_half_pixel" and not _has_point(graph, op)
    node: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel"} if half else {}
    if "axes" in op.attributes:
        node["axes"] = None
    emitter.copy(op, inputs, output=output, **node)


def _emit_mix(
    emitter: Emitter, op: Operator, axis: str, value: str, output: str, held: Interval, out: Interval
) -> None:
    """Appends the nodes that mix input rows `held` into output rows `out`."""
    source = emitter.graph.tensors[op.inputs[0]]
    dimension = dimension_of(source, axis)
    assert dimension is not None
    sampling = sampling_of(emitter.graph, op, axis)
    rows = slice(out.start, out.stop)
    shape = [-1] + [1] * (len(source.shape) - dimension - 1)
    total = ""
    for number, (indices, weight) in enumerate(sampling.taps):
        picked, term = emitter.fresh(output), emitter.fresh(output)
        emitter.node("Gather", [value, emitter.constant("rows", indices[rows] - held.start)], picked, axis=dimension)
        share = emitter.constant("weight", weight[rows].reshape(shape).astype(source.dtype))
        emitter.node("Mul", [picked, share], term)
        if number:
            mixed = output if number == len(sampling.taps) - 1 else emitter.fresh(output)
            emitter.node("Add", [total, term], mixed)
            term = mixed
        total = term


def _emit_pick(
    emitter: Emitter, op: Operator, axis: str, value: str, output: str, held: Interval, out: Interval
) -> None:
    """Appends the nodes that pick output rows `out` among input rows `held`.

    Which row is nearest at a tie depends on the engine's rounding. So the engine is asked, when it loads the model: it
    resizes the row numbers of the whole tensor, and what it makes of them are the indices.
    """
    graph = emitter.graph
    source = graph.tensors[op.inputs[0]]
    dimension = dimension_of(source, axis)
    assert dimension is not None
    before, after = _lengths(graph, op, axis)
    line = [1] * len(source.shape)
    numbers = np.arange(before, dtype=np.float32).reshape([before if d == dimension else 1 for d in range(len(line))])
    scales = _scales(graph, op)
    if scales is None:
        sizes = np.array([after if d == dimension else 1 for d in range(len(line))], dtype=np.int64)
        inputs = [emitter.constant("numbers", numbers), "", "", emitter.constant("sizes", sizes)]
    else:
        factors = np.array([scales[d] if d == dimension else 1 for d in range(len(line))], dtype=np.float32)
        inputs = [emitter.constant("numbers", numbers), "", emitter.constant("scales", factors)]
    names = [emitter.fresh(output) for _ in range(5)]
    emitter.copy(op, inputs, output=names[0], **({"axes": None} if "axes" in op.attributes else {}))
    emitter.node("Reshape", [names[0], emitter.constant("shape", np.array([-1], dtype=np.int64))], names[1])
    bounds = [emitter.constant("bound", np.array([bound], dtype=np.int64)) for bound in out]
    emitter.node("Slice", [names[1], *bounds], names[2])
    emitter.node("Sub", [names[2], emitter.constant("first", np.array(held.start, dtype=np.float32))], names[3])
    emitter.node("Cast", [names[3]], names[4], to=onnx.TensorProto.INT64)
    emitter.node("Gather", [value, names[4]], output, axis=dimension)


def _reads(graph: NodeList, op: Operator, axis: str, out: Interval) -> Interval:
    if out.empty:
        return out
    sampling = sampling_of(graph, op, axis)
    low = int(sampling.low[out.start : out.stop].min())
    high = int(sampling.high[out.start : out.stop].max()) + 1
    step = aligned_step(graph, op, axis)
    if step is None:
        return Interval(low, high)
    # The slice must hold what is read, and stand where it makes the wanted rows.
    before, after = _lengths(graph, op, axis)
    low, high = min(low, out.start * before // after), max(high, -(-out.stop * before // after))
    return Interval(low // step * step, -(-high // step) * step)


def _lengths(graph: NodeList, op: Operator, axis: str) -> tuple[int, int]:
    """Rows (or columns) of the whole tensor before and after."""
    dimension = dimension_of(graph.tensors[op.inputs[0]], axis)
    assert dimension is not None
    return graph.tensors[op.inputs[0]].shape[dimension], graph.tensors[op.outputs[0]].shape[dimension]


def aligned_step(graph: NodeList, op: Operator, axis: str) -> int | None:
    """Number of input rows after which the scale is in phase again, if a slice of such steps can be resized as it is.

    None: the rows have to be gathered, since the scale is not the ratio of the heights, its phase is too long, or
    the coordinates depend on the height of the whole tensor.
    """
    dimension = dimension_of(graph.tensors[op.inputs[0]], axis)
    if dimension is None or _coordinates(op) == "align_corners":
        return None
    if _coordinates(op) == "pytorch_half_pixel" and _has_point(graph, op):
        return None
    before, after = _lengths(graph, op, axis)
    scales = _scales(graph, op)
    step = before // math.gcd(before, after)
    longest = LARGEST_SMOOTH_STEP if _is_smooth(op) else LARGEST_STEP
    if step > longest or (scales is not None and float(scales[dimension]) * before != after):
        return None
    return step


def sampling_of(graph: NodeList, op: Operator, axis: str) -> Sampling:
    """What the output rows (or columns) of the whole tensor read, computed once per operator."""
    return graph.once(_sampling, op.index, axis)


def _sampling(graph: NodeList, index: int, axis: str) -> Sampling:
    op = graph.operators[index]
    dimension = dimension_of(graph.tensors[op.inputs[0]], axis)
    if dimension is None:
        return Sampling(np.zeros(1, np.int64), np.zeros(1, np.int64))
    before, after = _lengths(graph, op, axis)
    scales = _scales(graph, op)
    scale = np.float32(after) / np.float32(before) if scales is None else np.float32(scales[dimension])
    x = _source_coordinates(_coordinates(op), before, after, np.float32(scale))
    if _is_nearest(op):
        rounding = _text(op, "nearest_mode", ROUNDINGS[0])
        low, high = (np.clip(_rounded(x + side, rounding), 0, before - 1).astype(np.int64) for side in (-DOUBT, DOUBT))
        return Sampling(low, high)
    last = before - 1
    if _is_smooth(op):
        reach = np.float32(REACH[_text(op, "mode", "")] * max(1.0, before / after))
        low, high = (np.clip(side, 0, last).astype(np.int64) for side in (np.floor(x - reach), np.ceil(x + reach) + 1))
        return Sampling(low, high)
    if _text(op, "mode", "") == "cubic":
        taps = _cubic_taps(op, x, last)
        return Sampling(taps[0][0], taps[-1][0], taps)
    x = np.clip(x, np.float32(0), np.float32(last))
    low = np.floor(x).astype(np.int64)
    high, weight = np.minimum(low + 1, last), x - low.astype(np.float32)
    return Sampling(low, high, ((low, 1 - weight), (high, weight)))


def _cubic_taps(
    op: Operator, x: NDArray[np.float32], last: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]:
    """Rows and shares of cubic convolution (Keys 1981, as Resize-11 has it): four rows, those at the edge repeated.

    Args:
        op: the Resize.
        x: coordinates in the input, float32 (H_out,).
        last: the input's last row.

    Returns:
        Four pairs of rows, int64 (H_out,), and shares, float32 (H_out,).
    """
    a = float(op.attributes.get("cubic_coeff_a", -0.75))
    first = np.floor(x).astype(np.int64) - 1
    found, total = [], np.zeros(len(x))
    for tap in range(4):
        away = np.abs(x.astype(np.float64) - (first + tap))
        near = ((a + 2) * away - (a + 3)) * away * away + 1
        share = np.where(away <= 1, near, ((a * away - 5 * a) * away + 8 * a) * away - 4 * a)
        if op.attributes.get("exclude_outside", 0):
            share = np.where((first + tap >= 0) & (first + tap <= last), share, 0.0)
        total += share
        found.append((np.clip(first + tap, 0, last), share))
    return tuple((rows, (share / total).astype(np.float32)) for rows, share in found)


def _source_coordinates(coordinates: str, before: int, after: int, scale: np.float32) -> NDArray[np.float32]:
    i = np.arange(after, dtype=np.float32)
    half = np.float32(0.5)
    if scale == 1:
        return i
    if coordinates == "asymmetric":
        return np.asarray(i / scale, np.float32)
    if coordinates == "align_corners":
        return np.asarray(i * np.float32(before - 1) / np.float32(max(1, after - 1)), np.float32)
    if coordinates == "pytorch_half_pixel" and after == 1:
        return np.zeros(1, np.float32)
    return np.asarray((i + half) / scale - half, np.float32)


def _rounded(x: NDArray[np.float32], rounding: str) -> NDArray[np.float32]:
    below = np.floor(x)
    if rounding == "floor":
        return below
    if rounding == "ceil":
        return np.ceil(x)
    return np.asarray(below + (x - below > 0.5), np.float32)


def _scales(graph: NodeList, op: Operator) -> NDArray[np.float32] | None:
    scales = constant_input(graph, op, 2)
    if scales is None or not scales.size:
        return None
    found = np.ones(len(graph.tensors[op.inputs[0]].shape), np.float32)
    # Those of some axes alone since operator set 18.
    found[list(op.attributes.get("axes") or range(len(found)))] = scales.astype(np.float32)
    return found


def _has_point(graph: NodeList, op: Operator) -> bool:
    """Whether an axis shrinks to one point."""
    before, after = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    return any(a == 1 < b for b, a in zip(before[2:], after[2:], strict=True))


def _is_nearest(op: Operator) -> bool:
    return _text(op, "mode", "nearest") == "nearest"


def _is_smooth(op: Operator) -> bool:
    """Whether it is a resizing with antialiasing; nearest has none."""
    return bool(op.attributes.get("antialias", 0)) and not _is_nearest(op)


def _coordinates(op: Operator) -> str:
    return _text(op, "coordinate_transformation_mode", "half_pixel")


def _text(op: Operator, name: str, default: str) -> str:
    value = op.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)
