"""One spelling for each operator, so that equal models have equal digests and share measured profiles.

Exporters differ in which defaults they write out, in `auto_pad` against `pads`, and in a few operators that say the
same. Nothing here changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from distredge.model.draft import Draft
from distredge.model.infer import POOLS, get_schema, windows_begun
from distredge.model.operators.windows import implied_pads

ShapeOf = Callable[[str], tuple[int, ...] | None]

WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})


def canonicalise(draft: Draft) -> None:
    """Rewrites a simplified draft's nodes in place in their one spelling."""
    draft.nodes = [new for node in draft.nodes for new in _trimmed(draft, node)]
    for node in draft.nodes:
        _same_operator(draft, node)
        _pad_transposed(draft, node)
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
        floor_pads = _without_ceil(node, known, window, shape_of(node.input[0]))
        if floor_pads is not None:
            kept = [a for a in kept if a.name not in ("pads", "ceil_mode")]
            kept.append(helper.make_attribute("pads", floor_pads))
    if node.op_type == "BatchNormalization":
        kept = [a for a in kept if a.name != "momentum"]
    kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in sorted(kept, key=lambda a: a.name)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _pad_transposed(draft: Draft, node: onnx.NodeProto) -> None:
    """Says the padding of a transposed convolution in numbers, where `auto_pad` or `output_shape` imply it.

    The engine's own rule for shapes leaves open what some of them make, and a sub-model must say what it gives.
    """
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    rule = values.get("auto_pad", b"NOTSET")
    if node.op_type != "ConvTranspose" or (rule == b"NOTSET" and "output_shape" not in values):
        return
    source, weight, made = (draft.shape_of(name) for name in (*node.input[:2], node.output[0]))
    if source is None or weight is None or made is None:
        return
    axes = len(source) - 2
    kernel = values.get("kernel_shape") or weight[2:]
    strides, dilations = values.get("strides") or [1] * axes, values.get("dilations") or [1] * axes
    extra = list(values.get("output_padding") or [0] * axes)
    full = [
        (source[2 + axis] - 1) * strides[axis] + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        for axis in range(axes)
    ]
    begins, ends, extra = implied_pads(full, made[2:], extra, rule.decode())
    implied = ("auto_pad", "output_shape", "pads", "output_padding")
    kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name not in implied]
    kept.append(helper.make_attribute("pads", begins + ends))
    if any(extra):
        kept.append(helper.make_attribute("output_padding", extra))
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
        # ONNX Runtime pads a pooling as if it had no dilation.
        dilations = None if node.op_type in POOLS else values.get("dilations")
        dilations, strides = dilations or [1] * axes, values.get("strides") or [1] * axes
        window["pads"] = _same(shape[2:], kernel, strides, dilations, rule == b"SAME_UPPER")
    return window


def _without_ceil(
    node: onnx.NodeProto,
    known: dict[str, onnx.AttributeProto],
    window: dict[str, int | list[int]],
    shape: tuple[int, ...] | None,
) -> list[int] | None:
    """Returns the padding with which a pooling makes the engine's output without `ceil_mode`.

    None where ONNX's rule and the engine agree on the output, or only `ceil_mode` says what the engine does.
    """
    found = _ceil_ends(node, known, window, shape)
    if found is None or not found.by_padding:
        return None
    begins = window["pads"]
    assert isinstance(begins, list)
    return begins[: len(begins) // 2] + found.ends


class _CeilEnds(NamedTuple):
    """What the windows of a pooling with `ceil_mode` reach, where ONNX's rule makes more of them than the engine.

    Attributes:
        ends: padding after the map, along each axis, up to the end of the last window that the engine makes.
        read: rows of the map, along each axis, that a window reads.
        by_padding: whether that padding says the same without `ceil_mode`.
    """

    ends: list[int]
    read: list[int]
    by_padding: bool


def _ceil_ends(
    node: onnx.NodeProto,
    known: dict[str, onnx.AttributeProto],
    window: dict[str, int | list[int]],
    shape: tuple[int, ...] | None,
) -> _CeilEnds | None:
    if node.op_type not in POOLS or "ceil_mode" not in known or not known["ceil_mode"].i or shape is None:
        return None
    pads, kernel, strides = (_listed(window[key]) for key in ("pads", "kernel_shape", "strides"))
    count = len(kernel)
    dilations = _listed(window.get("dilations", [1] * count))
    begins, before = pads[:count], pads[count:]
    by_rule, engine, reaches = [], [], []
    for axis, (size, stride) in enumerate(zip(shape[2:], strides, strict=True)):
        extent = dilations[axis] * (kernel[axis] - 1) + 1
        by_rule.append(-((extent - size - begins[axis] - before[axis]) // stride) + 1)
        engine.append(min(by_rule[-1], windows_begun(size, stride, begins[axis])))
        reaches.append((engine[-1] - 1) * stride + extent - begins[axis])
    if engine == by_rule:
        return None
    ends = [max(0, reach - size) for reach, size in zip(reaches, shape[2:], strict=True)]
    read = [min(reach, size) for reach, size in zip(reaches, shape[2:], strict=True)]
    # A ceil extension never counts in a mean, padding may; and the engine takes no padding as long as the kernel.
    counted = "count_include_pad" in known and known["count_include_pad"].i
    grown = any(new > old for new, old in zip(ends, before, strict=True))
    by_padding = not (counted and grown) and all(end < size for end, size in zip(ends, kernel, strict=True))
    return _CeilEnds(ends, read, by_padding)


def _listed(value: int | list[int]) -> list[int]:
    assert isinstance(value, list)
    return value


def _trimmed(draft: Draft, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Returns a pooling whose `ceil_mode` must stay, behind a slice of the rows that its windows read."""
    known = {a.name: a for a in node.attribute}
    if node.op_type not in POOLS or "ceil_mode" not in known:
        return [node]
    shape = draft.shape_of(node.input[0])
    window = _window(node, known, draft.shape_of, set(get_schema(node, draft.opset).attributes))
    found = _ceil_ends(node, known, window, shape) if "pads" in window else None
    if found is None or found.by_padding or shape is None:
        return [node]
    pads, count = _listed(window["pads"]), len(found.ends)
    begins, ends = pads[:count], [min(pair) for pair in zip(pads[count:], found.ends, strict=True)]
    kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [*begins, *ends])])
    if tuple(found.read) == shape[2:]:
        return [node]
    source = node.input[0]
    names = [draft.fresh(f"{node.output[0]}/{hint}") for hint in ("starts", "ends", "axes", "read")]
    axes = list(range(2, len(shape)))
    draft.constants.update(
        (name, np.array(value, np.int64))
        for name, value in zip(names, ([0] * len(axes), found.read, axes), strict=False)
    )
    made = helper.make_node("Slice", [source, *names[:3]], [names[3]], name=names[3])
    draft.types.update(draft.infer(made))
    node.input[0] = names[3]
    return [made, node]


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
        node.input[1] = draft.fresh(f"{node.output[0]}/shape")
        draft.constants[node.input[1]] = np.array(after, np.int64)
        del node.attribute[:]
    elif node.op_type == "ReduceMean" and len(before) > 2 and after == (*before[:2], *(1,) * (len(before) - 2)):
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is not None and sorted(a % len(before) for a in axes) == list(range(2, len(before))):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
