"""One node of a draft being written anew: the nodes that take its place, with constants and names of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from distredge.model.draft import Draft


class Replacement:
    """Collects the nodes that replace one.

    Args:
        draft: gets the constants, under names that no other tensor has.
        node: what is replaced.
    """

    def __init__(self, draft: Draft, node: onnx.NodeProto) -> None:
        self.draft = draft
        self.node = node
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._nodes: list[onnx.NodeProto] = []

    def constant(self, suffix: str, value: NDArray[Any]) -> str:
        """Adds a constant of any shape (d0, d1, ...) and of a dtype that ONNX has; returns its name."""
        name = self.draft.fresh(f"{self.node.output[0]}/{suffix}")
        self.draft.constants[name] = value
        return name

    def scalar(self, suffix: str, value: float) -> str:
        """Adds a number of the first input's dtype; returns its name."""
        found = self.draft.type_of(self.node.input[0])
        elem_type = onnx.TensorProto.FLOAT if found is None else found.tensor_type.elem_type
        return self.constant(suffix, np.array(value, helper.tensor_dtype_to_np_dtype(elem_type)))

    def integers(self, suffix: str, values: Sequence[int]) -> str:
        """Adds a list of int64; returns its name."""
        return self.constant(suffix, np.array(list(values), np.int64))

    def add(self, op_type: str, inputs: Sequence[str], suffix: str | None = None, **attributes: Any) -> str:
        """Adds a node and returns its output; without a suffix it makes the original node's outputs."""
        outputs = list(self.node.output)
        name = self.node.name
        if suffix is not None:
            outputs = [self.draft.fresh(f"{outputs[0]}/{suffix}")]
            name = f"{self.node.name or self.node.output[0]}/{suffix}"
        kept = {key: value for key, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(op_type, list(inputs), outputs, name=name, **kept))
        return str(outputs[0])

    def same(self, op_type: str | None = None, more: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        """Adds the node itself, with more inputs and without some attributes, or as another operator."""
        copy = onnx.NodeProto()
        copy.CopyFrom(self.node)
        copy.op_type = op_type or copy.op_type
        copy.input.extend(more)
        del copy.attribute[:]
        copy.attribute.extend(a for a in self.node.attribute if a.name not in without)
        self._nodes.append(copy)

    def value(self, place: int) -> NDArray[Any] | None:
        """Returns the constant (d0, d1, ...) of any dtype at an input; None when it is absent or no constant."""
        return self.draft.constants.get(self.node.input[place]) if len(self.node.input) > place else None

    def has(self, place: int) -> bool:
        """Whether an input is there."""
        return len(self.node.input) > place and self.node.input[place] != ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first input; () where it is not known."""
        return self.draft.shape_of(self.node.input[0]) or ()

    def done(self) -> list[onnx.NodeProto]:
        """Returns the nodes."""
        return self._nodes
