"""One spelling for each operator, so that equal models have equal digests and share measured profiles.

Exporters differ in which defaults they write out, in `auto_pad` against `pads`, and in a few operators that say the
same. Nothing here changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from distredge.model.draft import Draft
from distredge.model.infer import get_schema

ShapeOf = Callable[[str], tuple[int, ...] | None]

WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})


def canonicalise(draft: Draft) -> None:
    """Rewrites a simplified draft's nodes in place in their one spelling."""
    for node in draft.nodes:
        _same_operator(draft, node)
        canonical_attributes(node, draft.shape_of, draft.opset)


def canonical_attributes(node: onnx.NodeProto, shape_of: ShapeOf, opset: int) -> None:
    """Rewrites a node's attributes in place: windows in full, everything else only where it is not the default.

    Args:
        node: of the default domain.
        shape_of: static shapes of its inputs.
        opset: operator set of the model.
    """
    schema = get_schema(node, opset)
    known = {a.name: a for a in node.attribute}
    kept = []
    for attribute in node.attribute:
        declared = schema.attributes.get(attribute.name)
        default = None if declared is None else declared.default_value
        if default is None or default.type == onnx.AttributeProto.UNDEFINED or not _equal(attribute, default):
            kept.append(attribute)
    if node.op_type in WINDOWS:
        window = _window(node, known, shape_of, set(schema.attributes))
        kept = [a for a in kept if a.name not in window] + [helper.make_attribute(k, v) for k, v in window.items()]
        if "pads" in window:
            kept = [a for a in kept if a.name != "auto_pad"]
    if node.op_type == "BatchNormalization":
        kept = [a for a in kept if a.name != "momentum"]
    kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in sorted(kept, key=lambda a: a.name)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _equal(attribute: onnx.AttributeProto, default: onnx.AttributeProto) -> bool:
    return bool(helper.get_attribute_value(attribute) == helper.get_attribute_value(default))


def _window(
    node: onnx.NodeProto, known: dict[str, onnx.AttributeProto], shape_of: ShapeOf, accepted: set[str]
) -> dict[str, int | list[int]]:
    """Returns the attributes of a sliding window in full; without `pads` where only ONNX Runtime can say them."""
    shape = shape_of(node.input[0])
    values = {name: helper.get_attribute_value(a) for name, a in known.items()}
    kernel = values.get("kernel_shape")
    if kernel is None:
        weight = shape_of(node.input[1]) if len(node.input) > 1 else None
        if weight is None:
            return {}
        kernel = list(weight[2:])
    axes = len(kernel)
    window: dict[str, int | list[int]] = {"kernel_shape": kernel, "strides": values.get("strides") or [1] * axes}
    if "dilations" in accepted:
        window["dilations"] = values.get("dilations") or [1] * axes
    if "group" in accepted:
        window["group"] = values.get("group", 1)
    rule = values.get("auto_pad", b"NOTSET")
    transposed = node.op_type == "ConvTranspose"
    if rule == b"NOTSET" and "output_shape" not in values:
        window["pads"] = values.get("pads") or [0] * (2 * axes)
    elif rule == b"VALID" and not transposed:
        window["pads"] = [0] * (2 * axes)
    elif rule in (b"SAME_UPPER", b"SAME_LOWER") and not transposed and shape is not None:
        dilations = values.get("dilations") or [1] * axes
        strides = values.get("strides") or [1] * axes
        window["pads"] = _same(shape[2:], kernel, strides, dilations, rule == b"SAME_UPPER")
    return window


def _same(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool
) -> list[int]:
    # Conv-11: ceil(size / stride) outputs; the odd row of padding at the end for SAME_UPPER.
    begins, ends = [], []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        total = max(0, (outputs - 1) * stride + dilation * (extent - 1) + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if upper else more)
        ends.append(more if upper else less)
    return begins + ends


def _same_operator(draft: Draft, node: onnx.NodeProto) -> None:
    """Rewrites an operator that another one says more plainly: Flatten, GlobalAveragePool, Reshape to known sizes."""
    before, after = draft.shape_of(node.input[0]) if node.input else None, draft.shape_of(node.output[0])
    if before is None or after is None:
        return
    if node.op_type == "Reshape" and len(before) > 2 and after == (before[0], int(np.prod(before[1:]))):
        node.op_type = "Flatten"
        del node.input[1:], node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", 1))
    elif node.op_type == "Reshape" and node.input[1] in draft.constants:
        # Sizes in place of -1 and 0: all are known by now.
        draft.constants[f"{node.output[0]}/shape"] = np.array(after, np.int64)
        node.input[1] = f"{node.output[0]}/shape"
        del node.attribute[:]
    elif node.op_type == "ReduceMean" and len(before) > 2 and after == (*before[:2], *(1,) * (len(before) - 2)):
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is not None and sorted(a % len(before) for a in axes) == list(range(2, len(before))):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
