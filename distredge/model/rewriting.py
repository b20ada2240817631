"""What the rewrites of `model.rewrite` read of a model, and what they add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from distredge.model.operators.reductions import takes_axes_as_input

Array: TypeAlias = NDArray[Any]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Decoded attributes of a node."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


class Rewriting:
    """A model that is being rewritten.

    Args:
        proto: the model, with static shapes.
        given: array by initializer name; shapes (d0, d1, ...) and dtypes as the model declares them.

    Attributes:
        shapes, types: static shape and ONNX element type of every activation.
        makers: tensor -> node that makes it.
        readers: tensor -> nodes that read it.
        constants: new ones, arrays (d0, d1, ...).
        values: declarations of new tensors.
        rerouted: Reshape node's output -> what it reads instead.
    """

    def __init__(self, proto: onnx.ModelProto, given: Mapping[str, Array]) -> None:
        self.given = given
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}
        for value in [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]:
            if value.name not in given:
                kind = value.type.tensor_type
                self.shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
                self.types[value.name] = kind.elem_type
        self.makers = {name: node for node in proto.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.outputs = frozenset(value.name for value in proto.graph.output)
        self.opset = int(next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")))
        self.constants: dict[str, Array] = {}
        self.values: list[onnx.ValueInfoProto] = []
        self.rerouted: dict[str, list[str]] = {}

    def constant(self, name: str, value: Array) -> str:
        """Adds a constant.

        Args:
            name: hint of its name.
            value: shape (d0, d1, ...), any dtype that ONNX has.

        Returns:
            Its name.
        """
        name = self._free(name)
        self.constants[name] = value
        return name

    def tensor(self, name: str, shape: Sequence[int], kind: int) -> str:
        """Declares a new activation and returns its name."""
        name = self._free(name)
        self.shapes[name], self.types[name] = tuple(shape), kind
        self.values.append(helper.make_tensor_value_info(name, kind, tuple(shape)))
        return name

    def _free(self, name: str) -> str:
        found, count = name, 0
        while found in self.shapes or found in self.given or found in self.constants:
            count += 1
            found = f"{name}{count}"
        return found

    def reduction(self, how: str, source: str, axes: Iterable[int], output: str, name: str) -> onnx.NodeProto:
        """A reduction that keeps its axes."""
        wanted = list(axes)
        if takes_axes_as_input(how, self.opset):
            where = self.constant(f"{output}@axes", np.array(wanted, dtype=np.int64))
            return helper.make_node(how, [source, where], [output], name=name, keepdims=1)
        return helper.make_node(how, [source], [output], name=name, axes=wanted, keepdims=1)

    def reduced_axes(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """Axes that a reduction removes, counted from the front; None when that is not known or none are named."""
        axes = attributes_of(node).get("axes")
        if len(node.input) > 1 and node.input[1]:
            value = self.given.get(node.input[1])
            axes = None if value is None else value.reshape(-1).tolist()
        rank = len(self.shapes.get(node.input[0], ()))
        return tuple(sorted(int(axis) % rank for axis in axes)) if axes and rank else None

    def reroute(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node with other inputs, where a rewrite asked for that."""
        other = self.rerouted.get(node.output[0])
        if other is None:
            return node
        return helper.make_node("Reshape", other, list(node.output), name=node.name)
