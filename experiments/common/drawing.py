"""A random model while it is drawn: every step is run in ONNX Runtime, and one that it refuses is undone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distredge.experiments.common.against_file import Unrunnable, error_between, run_file
from distredge.experiments.common.exact import Arrays
from distredge.model.draft import reads

LARGEST = 1e4
SMALLEST = 1e-2
"""A map all of whose values are larger or smaller is not kept: rounding would be all that is compared."""

MOST_ELEMENTS = 60_000

ROUNDED = np.float32(1 + 2**-22)
MOST_AMPLIFIED = 4e-6
"""A map that changes more than this when the image changes by two roundings says nothing at 1e-5: sums that cancel,
and values that lie at a jump, such as whole numbers before a cast to integers."""


class Undo(Exception):
    """The step that was begun does not apply here."""


@functools.cache
def newest_of_the_engine() -> int:
    """The newest operator set that ONNX Runtime takes."""
    for opset in range(onnx.defs.onnx_opset_version(), 7, -1):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [end])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        try:
            run_file(model, {"x": np.ones(1, np.float32)})
        except Unrunnable:
            continue
        return opset
    raise AssertionError("ONNX Runtime takes no operator set")


class Drawing:
    """A model being drawn.

    Args:
        rng: of every choice.
        opset: of the model.
        shape: of the image, batch 1 first.

    Attributes:
        maps: float32 tensors made so far by name -> shape, the image first.
        kinds: families that were used.
    """

    def __init__(self, rng: np.random.Generator, opset: int, shape: tuple[int, ...]) -> None:
        self.rng = rng
        self.opset = opset
        self.inputs: Arrays = {"x": rng.standard_normal(shape).astype(np.float32)}
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.maps: dict[str, tuple[int, ...]] = {"x": shape}
        self.kinds: list[str] = []
        self._count = 0

    def choose(self, *options: Any) -> Any:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        """Whether something that happens that often happens."""
        return bool(self.rng.random() < share)

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def need(self, condition: bool) -> None:
        """Undoes the step where something does not hold."""
        if not condition:
            raise Undo

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A new constant; float64 values such as weights become float32."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype=dtype)
        return name

    def weight(self, *shape: int) -> str:
        """A He-normal constant."""
        fan = max(1, int(np.prod(shape[1:])))
        return self.constant(self.rng.standard_normal(shape) * np.sqrt(2 / fan))

    def node(self, op_type: str, reads: str | Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the name of its output, or their names."""
        names = [f"t{self._count + i}" for i in range(outputs)]
        self._count += outputs
        inputs = [reads] if isinstance(reads, str) else list(reads)
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n_{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def listed(self, op_type: str, x: str, key: str, values: Sequence[int], since: int, **attributes: Any) -> str:
        """Adds a node whose list of whole numbers is an attribute before an operator set, and an input from then on."""
        made: str
        if self.opset < since:
            attributes[key] = list(values)
            made = self.node(op_type, x, **attributes)
        else:
            made = self.node(op_type, [x, self.constant(values, np.int64)], **attributes)
        return made

    def step(self, family: Any) -> bool:
        """Lets a family add nodes after one of the last maps; returns whether what it made was kept."""
        before = len(self.nodes), dict(self.constants)
        names = list(self.maps)
        x = names[-1] if self.chance(0.85) else self.choose(*names)
        try:
            made = family(self, x)
            self.need(made is not None)
            value = self._run(made)
        except (Undo, Unrunnable):
            del self.nodes[before[0] :]
            self.constants = before[1]
            return False
        self.maps[made] = value.shape
        self.kinds.append(family.__name__)
        return True

    def _run(self, made: str) -> NDArray[Any]:
        model = self.model([made], min(self.opset, newest_of_the_engine()))
        value = run_file(model, self.inputs)[made]
        self.need(value.dtype == np.float32 and 0 < value.size <= MOST_ELEMENTS and bool(np.isfinite(value).all()))
        self.need(SMALLEST < float(np.abs(value).max()) < LARGEST and float(np.std(value)) > 0)
        nearby = run_file(model, {name: array * ROUNDED for name, array in self.inputs.items()})[made]
        self.need(error_between({made: value}, {made: nearby}) < MOST_AMPLIFIED)
        return value

    def outputs(self) -> list[str]:
        """The last map, sometimes an earlier one too."""
        made = list(self.maps)[1:]
        others = [made[self.number(0, len(made) - 1)]] if self.chance(0.3) else []
        return list(dict.fromkeys([made[-1], *others]))

    def model(self, outputs: Sequence[str], opset: int | None = None) -> onnx.ModelProto:
        """The model so far, with only what the outputs need.

        Args:
            outputs: names of maps.
            opset: operator set to declare; None: the drawing's own.
        """
        needed = set(outputs)
        nodes = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= reads(node)
        graph = helper.make_graph(
            nodes[::-1], "fuzz",
            [helper.make_tensor_value_info(n, _kind(a), a.shape) for n, a in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.maps.get(n)) for n in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in needed],
        )  # fmt: skip
        declared = opset or self.opset
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", declared)], ir_version=8)


def _kind(array: NDArray[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
