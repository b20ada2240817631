"""A graph while capture works on it: nodes, constants as arrays, types; weights are never copied through protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TypeProto, helper, numpy_helper

from distredge.errors import ModelError, UnsupportedModel
from distredge.model.graph import Graph
from distredge.model.infer import (
    DATA_LIMIT,
    IR_VERSION,
    OPSET,
    describe,
    infer_node,
    needed_opset,
    static_shape,
    tensor_type,
)
from distredge.model.preprocess import Preprocess

MARKS = frozenset("@#")
"""Characters that stand between a tensor's name and what sub-models add to it (`y@3`, `y#partial`)."""

CHECKED_ELEMENTS = 1024
"""Constants above this many elements are shown to ONNX's checker and converter as inputs: only their type matters."""


@dataclass
class Draft:
    """A graph being captured.

    Attributes:
        name: for messages.
        nodes: in topological order.
        constants: arrays by name.
        inputs: type by name, in order.
        outputs: names, in order.
        types: of every input and of every output of a node, once `retype` has run.
        opset: operator set in whose forms the nodes are.
        lossy_because: why parts need not give the whole's output to 1e-5 (`model.precision`); "" where they do.
        names: every tensor's name at any depth, branches that are not taken included: what a new one must differ from.
    """

    name: str
    nodes: list[onnx.NodeProto]
    constants: dict[str, NDArray[Any]]
    inputs: dict[str, TypeProto]
    outputs: list[str]
    opset: int
    types: dict[str, TypeProto] = field(default_factory=dict)
    lossy_because: str = ""
    names: set[str] = field(default_factory=set)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, name: str) -> Draft:
        """Takes a model apart; inputs that are initializers too are constants.

        What graphs inside nodes call their own gets names of its own: no two tensors share one, at whatever depth.
        """
        graph = proto.graph
        if graph.sparse_initializer:
            raise UnsupportedModel(f"{name}: sparse initializers are not supported; save the weights dense")
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        inputs = {v.name: v.type for v in graph.input if v.name not in constants}
        outputs = [v.name for v in graph.output]
        nodes = [node if node.op_type == "Constant" else _copied(node) for node in graph.node]
        names = {*constants, *inputs, *outputs, *(n for node in nodes for n in [*node.input, *node.output])}
        names |= {n for node in nodes for inner in subgraphs(node) for n in _names_inside(inner)}
        draft = cls(
            name, sorted_nodes(nodes, name), constants, inputs, outputs, default_opset(proto, name), names=names
        )
        draft.keep_apart()
        return draft

    def fresh(self, name: str) -> str:
        """Returns a name that no tensor has, beginning with this one, and takes it."""
        found, number = name, 1
        while found in self.names:
            found, number = f"{name}_{number}", number + 1
        self.names.add(found)
        return found

    def keep_apart(self) -> None:
        """Renames what graphs inside nodes call their own wherever another tensor has that name."""
        taken = {*self.constants, *self.inputs, *(n for node in self.nodes for n in node.output)}
        for node in self.nodes:
            for graph in subgraphs(node):
                self._keep_apart(graph, taken, {})

    def _keep_apart(self, graph: onnx.GraphProto, taken: set[str], outer: Mapping[str, str]) -> None:
        renamed = {name: name for name in bound_names(graph)}
        for name in renamed:
            if name in taken:
                renamed[name] = self.fresh(name)
            taken.add(renamed[name])
        scope = {**outer, **renamed}
        for value in [*graph.input, *graph.initializer, *graph.output]:
            value.name = scope.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [scope.get(n, n) for n in node.input]
            node.output[:] = [scope.get(n, n) for n in node.output]
            for inner in subgraphs(node):
                self._keep_apart(inner, taken, scope)

    def copy_of(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Returns a graph inside a node once more, with new names for all that it calls its own."""
        copy = onnx.GraphProto()
        copy.CopyFrom(graph)
        self._keep_apart(copy, set(self.names), {})
        return copy

    def to_proto(self, opset: int | None = None) -> onnx.ModelProto:
        """Puts the model together, with constants above CHECKED_ELEMENTS as inputs.

        Args:
            opset: operator set to declare; None: the draft's own.
        """
        graph = onnx.GraphProto(name=self.name)
        graph.node.extend(self.nodes)
        graph.input.extend(helper.make_value_info(n, t) for n, t in self.inputs.items())
        ends = set(self.outputs)
        for output in self.outputs:
            known = self.types.get(output)
            graph.output.append(helper.make_value_info(output, known) if known else onnx.ValueInfoProto(name=output))
        made = [n for node in self.nodes for n in node.output if n and n not in ends and n in self.types]
        graph.value_info.extend(helper.make_value_info(n, self.types[n]) for n in made)
        for name, array in self.constants.items():
            if array.size <= CHECKED_ELEMENTS:
                graph.initializer.append(numpy_helper.from_array(array, name))
            else:
                graph.input.append(helper.make_value_info(name, array_type(array)))
        imports = [helper.make_opsetid("", opset or self.opset)]
        return helper.make_model(graph, producer_name="distredge", ir_version=IR_VERSION, opset_imports=imports)

    def finish(self, preprocess: Preprocess | None = None) -> Graph:
        """Names every node, drops unused constants, has ONNX's checker look at the model, and wraps it.

        The IR version is 8 and the operator set the lowest in which the nodes mean the same.

        Raises:
            ModelError: if a tensor has no static shape, or ONNX's checker refuses the model.
        """
        for output in self.outputs:
            if output in self.constants:
                raise ModelError(f"{self.name}: output '{output}' is a constant: it does not depend on the input")
        self._name_nodes()
        self._free_marks()
        used = {name for node in self.nodes for name in node.input} | set(self.outputs)
        self.constants = {n: a for n, a in self.constants.items() if n in used}
        opset = needed_opset(self.nodes, self.opset) if self.opset <= OPSET else self.opset
        proto = self.to_proto(opset)
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"{self.name}: ONNX's checker refuses the captured model: {error}") from error
        del proto.graph.initializer[:]
        del proto.graph.input[len(self.inputs) :]
        graph = Graph(proto, self.name, preprocess, self.constants)
        graph.lossy_because = self.lossy_because
        return graph

    def _free_marks(self) -> None:
        """Renames tensors with a mark by which sub-models make names of others; inputs and outputs keep theirs.

        Raises:
            ModelError: if an input or output is called another tensor's name and such a mark.
        """
        made = [n for node in self.nodes for n in node.output if n]
        outward = {*self.inputs, *self.outputs}
        renamed = {n: n for n in [*self.constants, *made] if n not in outward and MARKS & set(n)}
        for name in renamed:
            renamed[name] = self.fresh("".join("_" if letter in MARKS else letter for letter in name))
        for node in self.nodes:
            node.input[:] = [renamed.get(n, n) for n in node.input]
            node.output[:] = [renamed.get(n, n) for n in node.output]
        self.constants = {renamed.get(n, n): array for n, array in self.constants.items()}
        self.types = {renamed.get(n, n): found for n, found in self.types.items()}
        others = {*outward, *(renamed.get(n, n) for n in made)}
        for name in outward:
            stem = next((name[:i] for i, letter in enumerate(name) if letter in MARKS and name[:i] in others), None)
            if stem is not None:
                raise ModelError(
                    f"{self.name}: '{name}': found '{stem}' too, from which a sub-model makes names with "
                    f"{' or '.join(sorted(MARKS))}; accepted: any other name for one of the two"
                )

    def _name_nodes(self) -> None:
        taken: set[str] = set()
        for index, node in enumerate(self.nodes):
            name = node.name or f"{node.op_type}_{index}"
            while name in taken:
                name = f"{name}_{index}"
            taken.add(name)
            node.name = name

    def type_of(self, name: str) -> TypeProto | None:
        """Returns the type of a tensor or constant, None when it is not known."""
        if name in self.constants:
            return array_type(self.constants[name])
        return self.types.get(name) or self.inputs.get(name)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Returns the static shape of a tensor or constant, None when it is not known."""
        found = self.type_of(name)
        return None if found is None else static_shape(found)

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Returns the nodes that read each tensor; names read inside subgraphs count."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                readers.setdefault(name, []).append(node)
        return readers

    def infer(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        """Types the outputs of one node from the types so far."""
        types = {n: t for n in node.input if n and (t := self.type_of(n)) is not None}
        data = {
            n: numpy_helper.from_array(self.constants[n], n)
            for n in node.input
            if n in self.constants and self.constants[n].size <= DATA_LIMIT
        }
        for name in node.input:
            if name and name not in types:
                raise ModelError(f"{self.name}: {describe(node)} reads '{name}', which nothing before it makes")
        try:
            return infer_node(node, types, data, self.opset)
        except ModelError as error:
            shapes = ", ".join(f"'{n}' {static_shape(t)}" for n, t in self.inputs.items())
            raise type(error)(f"{self.name}: {error} (with input {shapes})") from error

    def retype(self) -> None:
        """Types every tensor anew.

        Raises:
            UnsupportedModel: if a node's output has no static shape.
        """
        self.types = dict(self.inputs)
        for node in self.nodes:
            found = self.infer(node)
            for name in node.output:
                if name:
                    self.types[name] = require_static(found.get(name), node, name, self.name)


def require_static(found: TypeProto | None, node: onnx.NodeProto, tensor: str, model: str) -> TypeProto:
    """Returns the type if its shape is static.

    Raises:
        UnsupportedModel: if not, naming the node.
    """
    if found is None or static_shape(found) is None:
        raise UnsupportedModel(
            f"{model}: {describe(node)}: the shape of its output '{tensor}' is not fixed by the input's shape; end "
            "the model before it with `outputs`"
        )
    return found


def array_type(array: NDArray[Any]) -> TypeProto:
    """Returns the ONNX type of an array of any shape (d0, d1, ...) and of a dtype that ONNX has."""
    return tensor_type(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def default_opset(proto: onnx.ModelProto, name: str) -> int:
    """Returns the version of the default operator set.

    Raises:
        ModelError: if the model declares none.
    """
    for imported in proto.opset_import:
        if imported.domain in ("", "ai.onnx"):
            return int(imported.version)
    raise ModelError(f"{name}: declares no version of the default operator set (opset_import)")


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Returns the graphs in a node's attributes."""
    found = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    for attribute in node.attribute:
        found.extend(attribute.graphs)
    return found


def bound_names(graph: onnx.GraphProto) -> list[str]:
    """Returns what a graph inside a node calls its own: its inputs, initializers and what its nodes make."""
    made = (n for node in graph.node for n in node.output if n)
    return list(dict.fromkeys([*(v.name for v in graph.input), *(t.name for t in graph.initializer), *made]))


def _names_inside(graph: onnx.GraphProto) -> set[str]:
    names = {*bound_names(graph), *(v.name for v in graph.output), *(n for node in graph.node for n in node.input)}
    return names.union(*(_names_inside(inner) for node in graph.node for inner in subgraphs(node)))


def reads(node: onnx.NodeProto) -> set[str]:
    """Returns the tensors that a node reads, those that its subgraphs take from outside included."""
    names = {n for n in node.input if n}
    for graph in subgraphs(node):
        inside = {n for inner in graph.node for n in reads(inner)}
        names |= (inside | {v.name for v in graph.output}) - set(bound_names(graph))
    return names


def sorted_nodes(nodes: Iterable[onnx.NodeProto], model: str) -> list[onnx.NodeProto]:
    """Returns nodes in topological order, keeping the given order where it is one.

    Raises:
        ModelError: if nodes depend on each other in a circle.
    """
    pending = list(nodes)
    makers = {n: i for i, node in enumerate(pending) for n in node.output if n}
    waits = [{makers[n] for n in reads(node) if n in makers} for node in pending]
    done: set[int] = set()
    order: list[int] = []
    stack = [iter(range(len(pending)))]
    path: list[int] = []
    on_path: set[int] = set()
    while stack:
        following = next(stack[-1], None)
        if following is None:
            stack.pop()
            if path:
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
                order.append(finished)
            continue
        if following in done:
            continue
        if following in on_path:
            raise ModelError(f"{model}: {describe(pending[following])} depends on its own output")
        path.append(following)
        on_path.add(following)
        stack.append(iter(sorted(waits[following])))
    return [pending[i] for i in order]


def rename_inputs(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Renames what nodes read, in their subgraphs too, whose own names differ from every other (`keep_apart`)."""
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in names:
                node.input[place] = names[name]
        for graph in subgraphs(node):
            rename_inputs(graph.node, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)


def elements(shape: Iterable[int]) -> int:
    """Returns the number of elements of a shape."""
    return int(np.prod(tuple(shape), dtype=np.int64))
