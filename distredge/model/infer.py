"""Types of one node's outputs, and the operator set that a model needs.

ONNX's own inference functions are used node by node: a graph is typed in one pass, in which a folded constant is at
hand for the nodes after it (a computed Reshape target, for instance), and no weight is ever serialised for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import TypeProto

from distredge.errors import ModelError

IR_VERSION = 8
"""What every model that Distredge writes declares, so that ONNX Runtime 1.12 and later of old boards load it."""

OPSET = 17
"""Highest operator set that is declared where the operators allow it: the newest one of ONNX 1.12."""

LOWEST_OPSET = 13
"""Lowest operator set that is declared. Operators have one form from here to OPSET: what changed is types."""

DATA_LIMIT = 4096
"""Elements above which a constant is not offered to shape inference: weights never decide a shape."""


def describe(node: onnx.NodeProto) -> str:
    """Returns how messages call a node: by its name, or its first output when it has none."""
    name = node.name or next((n for n in node.output if n), "")
    return f"node '{name}' ({node.op_type})"


def tensor_type(elem_type: int, shape: Iterable[int]) -> TypeProto:
    """Returns the type of a dense tensor with a static shape."""
    return onnx.helper.make_tensor_type_proto(elem_type, list(shape))


def static_shape(type_proto: TypeProto) -> tuple[int, ...] | None:
    """Returns the shape when every dimension is known, else None."""
    if not type_proto.HasField("tensor_type") or not type_proto.tensor_type.HasField("shape"):
        return None
    dims = type_proto.tensor_type.shape.dim
    if any(not d.HasField("dim_value") for d in dims):
        return None
    return tuple(d.dim_value for d in dims)


def get_schema(node: onnx.NodeProto, opset: int) -> onnx.defs.OpSchema:
    """Returns ONNX's definition of a node's operator.

    Raises:
        ModelError: if there is none in that operator set.
    """
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as error:
        domain = node.domain or "ai.onnx"
        raise ModelError(f"{describe(node)}: no such operator in domain {domain}, operator set {opset}") from error


def infer_node(
    node: onnx.NodeProto,
    types: Mapping[str, TypeProto],
    data: Mapping[str, onnx.TensorProto],
    opset: int = OPSET,
) -> dict[str, TypeProto]:
    """Types the outputs of one node.

    Args:
        node: a node of the default domain.
        types: types of its inputs, by name.
        data: those of its inputs that are small constants.
        opset: operator set of the model.

    Returns:
        Type by output name; an output that the operator's rules cannot type is absent.

    Raises:
        ModelError: if the operator does not exist in that operator set, or its inputs contradict its rules.
    """
    where, schema = describe(node), get_schema(node, opset)
    known = {name: types[name] for name in node.input if name and name in types}
    imports = [onnx.helper.make_opsetid(node.domain, opset)]
    small = {n: t for n, t in data.items() if n in known}
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, node, known, small, opset_imports=imports)
        if node.op_type in TYPED_AS_INPUT:
            found = {node.output[0]: known[node.input[0]]}
        elif any(static_shape(found.get(n, TypeProto())) is None for n in node.output if n):
            found = _through_function_body(node, known, small, imports) or found
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ModelError(f"{where}: {_first_line(error)}") from error
    _require_channels(node, types, where)
    _require_window(node, types, where)
    return _as_the_engine(node, types, found)


def _require_channels(node: onnx.NodeProto, types: Mapping[str, TypeProto], where: str) -> None:
    # ONNX's rule for Conv does not compare the input's channels with the weight's.
    if node.op_type not in ("Conv", "ConvTranspose"):
        return
    shape, weight = static_shape(types[node.input[0]]), static_shape(types[node.input[1]])
    if shape is None or weight is None:
        return
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    wanted = weight[1] * group if node.op_type == "Conv" else weight[0]
    if shape[1] != wanted:
        raise ModelError(f"{where}: its input has {shape[1]} channels, its weight is for {wanted}")


def _require_window(node: onnx.NodeProto, types: Mapping[str, TypeProto], where: str) -> None:
    # ONNX's rule rounds (size - kernel) / stride towards zero, which makes one output of a window that does not fit.
    if node.op_type not in WINDOWS:
        return
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return
    shape = static_shape(types[node.input[0]])
    kernel = attributes.get("kernel_shape")
    if kernel is None and node.op_type == "Conv":
        weight = static_shape(types[node.input[1]])
        kernel = None if weight is None else weight[2:]
    if shape is None or kernel is None:
        return
    axes = len(kernel)
    pads = attributes.get("pads", [0] * (2 * axes))
    dilations = attributes.get("dilations", [1] * axes)
    strides = attributes.get("strides") or [1] * axes
    for axis in range(axes):
        slack = strides[axis] - 1 if attributes.get("ceil_mode", 0) else 0
        size = shape[2 + axis] + pads[axis] + pads[axis + axes]
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        if extent > size + slack:
            raise ModelError(
                f"{where}: its window of {extent} does not fit in {size} rows or columns, padding included"
            )


def _through_function_body(
    node: onnx.NodeProto,
    types: Mapping[str, TypeProto],
    data: Mapping[str, onnx.TensorProto],
    imports: list[onnx.OperatorSetIdProto],
) -> dict[str, TypeProto]:
    # An operator that ONNX defines by a function may have no rule of its own; whole-model inference expands it.
    inputs = [onnx.helper.make_value_info(n, t) for n, t in types.items() if n not in data]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs, list(data.values()))
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    typed = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    return {v.name: v.type for v in typed.graph.output if v.type.HasField("tensor_type")}


def _as_the_engine(
    node: onnx.NodeProto, types: Mapping[str, TypeProto], found: dict[str, TypeProto]
) -> dict[str, TypeProto]:
    """Corrects shapes where ONNX's rule and ONNX Runtime, which computes them, disagree."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    source = static_shape(types[node.input[0]]) if node.input else None
    made = static_shape(found.get(node.output[0], TypeProto()))
    if source is None or made is None:
        return found
    rule = attributes.get("auto_pad", b"NOTSET")
    strides = attributes.get("strides") or [1] * (len(source) - 2)
    sizes = list(made[2:])
    if node.op_type in POOLS and rule in SAME:
        sizes = _same_pool(source[2:], attributes)
    elif node.op_type in POOLS and attributes.get("ceil_mode", 0):
        pads = attributes.get("pads") if rule == b"NOTSET" else None
        begins = (pads or [0] * len(sizes))[: len(sizes)]
        most = [windows_begun(*axis) for axis in zip(source[2:], strides, begins, strict=True)]
        sizes = [min(pair) for pair in zip(sizes, most, strict=True)]
    elif node.op_type == "ConvTranspose" and rule in SAME and "output_shape" not in attributes:
        # Output padding widens nothing; padding that would have to be negative is none.
        kernel = attributes.get("kernel_shape") or (static_shape(types[node.input[1]]) or ())[2:]
        dilations = attributes.get("dilations") or [1] * len(kernel)
        extra = attributes.get("output_padding") or [0] * len(kernel)
        for axis, (size, stride) in enumerate(zip(source[2:], strides, strict=True)):
            whole = (size - 1) * stride + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            sizes[axis] = min(size * stride, whole)
    if (*made[:2], *sizes) == made:
        return found
    return {name: tensor_type(t.tensor_type.elem_type, (*made[:2], *sizes)) for name, t in found.items()}


def _same_pool(source: Sequence[int], attributes: Mapping[str, Any]) -> list[int]:
    # ONNX Runtime pads a pooling as if it had no dilation, and then makes what fits.
    kernel = attributes["kernel_shape"]
    strides, dilations = (attributes.get(key) or [1] * len(kernel) for key in ("strides", "dilations"))
    sizes = []
    for size, extent, stride, dilation in zip(source, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        begin = total // 2 if attributes["auto_pad"] == b"SAME_UPPER" else total - total // 2
        room = size + total - dilation * (extent - 1) - 1
        ceil = attributes.get("ceil_mode", 0)
        sizes.append(min(-(-room // stride) + 1, windows_begun(size, stride, begin)) if ceil else room // stride + 1)
    return sizes


def windows_begun(size: int, stride: int, begin: int) -> int:
    """Returns how many windows begin in a map of `size` rows or in the `begin` rows of padding before it.

    With `ceil_mode` ONNX Runtime drops a last window that begins in the padding after it (MaxPool-12's formula, which
    is ONNX's rule, keeps it).
    """
    return (size - 1 + begin) // stride + 1


TYPED_AS_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})
"""Operators for which ONNX has no rule, whose output has the type of their first input."""

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})

SAME = (b"SAME_UPPER", b"SAME_LOWER")

WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})

MORE_TYPES = {
    "Add": 14, "BatchNormalization": 15, "Div": 14, "GreaterOrEqual": 16, "Identity": 16, "LeakyRelu": 16,
    "LessOrEqual": 16, "Mul": 14, "PRelu": 16, "Relu": 14, "Reshape": 14, "Shape": 15, "Sub": 14, "Where": 16,
}  # fmt: skip
"""Versions (up to 17) that added only element types, or attributes whose defaults change nothing."""


def needed_opset(nodes: Iterable[onnx.NodeProto], opset: int) -> int:
    """Returns the lowest operator set, at least LOWEST_OPSET, in which every node means what it means in `opset`."""
    lowest = LOWEST_OPSET
    for node in nodes:
        version = onnx.defs.get_schema(node.op_type, opset, node.domain).since_version
        if version == MORE_TYPES.get(node.op_type):
            older = onnx.defs.get_schema(node.op_type, LOWEST_OPSET, node.domain)
            if all(a.name in older.attributes for a in node.attribute):
                version = older.since_version
        lowest = max(lowest, version)
    return lowest


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
