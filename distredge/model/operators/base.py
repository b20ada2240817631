"""What a row rule is, and what it writes nodes with."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distredge.model.nodes import NodeList, Operator, Tensor
from distredge.model.rows import Interval, Region

AXES = ("rows", "cols")
WHOLE_ROW = Interval(0, 1)


class Kind(enum.Enum):
    """What a split may do with an operator."""

    LOCAL = "row-local"
    REDUCE = "reduces rows"
    HEAD = "head"


class Verdict(NamedTuple):
    """Kind of an operator in its graph, with the reason that a reader sees."""

    kind: Kind
    reason: str


LOCAL = Verdict(Kind.LOCAL, "")


def head(reason: str) -> Verdict:
    """The verdict that sends an operator to the head."""
    return Verdict(Kind.HEAD, reason)


class Axes(NamedTuple):
    """Which axes of a tensor are rows and columns; None: it has none."""

    rows: int | None
    cols: int | None


class Emitter(Protocol):
    """What a rule writes nodes with (`model.segments` has the implementation)."""

    @property
    def graph(self) -> NodeList:
        """The nodes of the whole model."""

    def take(self, tensor: str, region: Region) -> str:
        """Name of `tensor` restricted to `region`, sliced when more is held."""

    def constant(self, hint: str, value: NDArray[Any]) -> str:
        """Brings a small new constant in.

        Args:
            hint: what its name starts with.
            value: shape (d0, d1, ...), any dtype that ONNX has.

        Returns:
            Its name.
        """

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Appends a node with one output."""

    def copy(self, op: Operator, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> None:
        """Appends `op` with other inputs and, where given, another output or attributes (None removes one)."""

    def fresh(self, hint: str) -> str:
        """A name that is not in use."""


class Rule:
    """Behaviour of one operator type; as it stands, that of an operator that leaves rows and columns where they are.

    Tensors of `graph` have their axes by the time a rule is asked about them: inputs before outputs.
    """

    def axes(self, graph: NodeList, op: Operator, output: str) -> Axes:
        """Row and column axis of an output, from those of the inputs."""
        return aligned_axes(graph, op, output)

    def verdict(self, graph: NodeList, op: Operator) -> Verdict:
        """Whether `op` may be split by rows here."""
        return LOCAL

    def needs(self, graph: NodeList, op: Operator, position: int, out: Region) -> Region:
        """Region of the activation `op.inputs[position]` that output region `out` reads, clipped to the tensor."""
        return out

    def emit(self, emitter: Emitter, op: Operator, out: Region) -> Region:
        """Appends the nodes that make output region `out`.

        Returns:
            The region that they make: `out` or, where more is easier, one that contains it.
        """
        graph = emitter.graph
        inputs = [
            emitter.take(name, self.needs(graph, op, i, out)) if i in op.activations else name
            for i, name in enumerate(op.inputs)
        ]
        emitter.copy(op, inputs)
        return out


def whole(tensor: Tensor) -> Region:
    """Every row and column of a tensor."""
    return Region(Interval(0, tensor.height))


def region_size(tensor: Tensor, region: Region) -> int:
    """Elements of a region of a tensor."""
    if region.empty:
        return 0
    elements = tensor.elements
    if tensor.row_axis is not None:
        elements = elements // tensor.shape[tensor.row_axis] * region.rows.size
    if tensor.col_axis is not None and region.cols is not None:
        elements = elements // tensor.shape[tensor.col_axis] * region.cols.size
    return elements


def region_shape(tensor: Tensor, region: Region) -> tuple[int, ...]:
    """Shape of the buffer that holds a region of a tensor."""
    shape = list(tensor.shape)
    if tensor.row_axis is not None:
        shape[tensor.row_axis] = region.rows.size
    if tensor.col_axis is not None and region.cols is not None:
        shape[tensor.col_axis] = region.cols.size
    return tuple(shape)


def axis_size(tensor: Tensor, axis: str) -> int:
    """Rows or columns of a tensor, by `axis` "rows" or "cols"."""
    return tensor.height if axis == "rows" else tensor.width


def dimension_of(tensor: Tensor, axis: str) -> int | None:
    """Which dimension of a tensor its rows or columns are."""
    return tensor.row_axis if axis == "rows" else tensor.col_axis


def split_axes(out: Region) -> tuple[str, ...]:
    """The axes along which a region is a part of its tensor."""
    return ("rows",) if out.cols is None else AXES


def interval_of(region: Region, axis: str) -> Interval:
    """Rows or columns of a region."""
    if axis == "rows":
        return region.rows
    assert region.cols is not None
    return region.cols


def with_interval(region: Region, axis: str, interval: Interval | None) -> Region:
    """A region with other rows or columns (None: all columns)."""
    if axis == "rows":
        assert interval is not None
        return Region(interval, region.cols)
    return Region(region.rows, interval)


def along_axes(out: Region, change: Callable[[str, Interval], Interval | None]) -> Region:
    """A region with other rows (and columns, where it is a part of them): what `change` makes of "rows" and "cols"."""
    for axis in split_axes(out):
        out = with_interval(out, axis, change(axis, interval_of(out, axis)))
    return out


def axes_by_rank(rank: int) -> Axes:
    """Axes of (batch, channels, [depth,] rows, columns), and of (batch, channels, rows) of a 1-D model."""
    if rank < 3:
        return Axes(None, None)
    return Axes(2, None) if rank == 3 else Axes(rank - 2, rank - 1)


def aligned_axes(graph: NodeList, op: Operator, output: str) -> Axes:
    """Axes of an output that is aligned with its inputs at the last dimension, as broadcasting does.

    The tallest input says where the rows are, the widest where the columns are.
    """
    rank = len(graph.tensors[output].shape)
    found: dict[str, int | None] = {}
    for axis in AXES:
        best: tuple[int, int] = (0, 0)
        found[axis] = None
        for name in op.activation_names:
            tensor = graph.tensors[name]
            dimension = dimension_of(tensor, axis)
            if dimension is None:
                continue
            size = (axis_size(tensor, axis), len(tensor.shape))
            place = dimension + rank - len(tensor.shape)
            if size > best and place >= 0:
                best, found[axis] = size, place
    if found["rows"] == found["cols"]:
        return Axes(found["rows"], None)
    return Axes(found["rows"], found["cols"])


def moved_axes(source: Tensor, target: dict[int, int]) -> Axes:
    """Axes of an output whose dimension `target[d]` is dimension d of the source (missing: it is gone)."""
    rows = None if source.row_axis is None else target.get(source.row_axis)
    cols = None if source.col_axis is None else target.get(source.col_axis)
    return Axes(rows, cols)


def constant_input(graph: NodeList, op: Operator, position: int) -> NDArray[Any] | None:
    """Value of an input, shape (d0, d1, ...) and dtype as in the model; None if it is absent or no constant."""
    if position >= len(op.inputs):
        return None
    return graph.constants.get(op.inputs[position])


def slice_constant(emitter: Emitter, name: str, made: Tensor, out: Region) -> str:
    """A constant that has rows of its own is cut like the activation that it meets."""
    value = emitter.graph.constants[name]
    cut = value
    for axis in split_axes(out):
        dimension = dimension_of(made, axis)
        if dimension is None:
            continue
        own = dimension - (len(made.shape) - value.ndim)
        wanted = interval_of(out, axis)
        if own >= 0 and value.shape[own] > 1 and wanted.size < value.shape[own]:
            cut = np.take(cut, range(wanted.start, wanted.stop), axis=own)
    return name if cut is value else emitter.constant(name, cut)
