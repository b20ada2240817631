"""Removes operators that change nothing and folds per-channel scales and shifts into the convolution before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from distredge.errors import UnsupportedModel
from distredge.model.draft import Draft, rename_inputs
from distredge.model.fold import drop_dead
from distredge.model.infer import describe

SAME_SHAPE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Expand", "Slice", "Flatten"})
"""Operators that do nothing when their output has their input's shape."""


def simplify(draft: Draft) -> None:
    """Simplifies a folded draft in place; what is computed stays the same.

    Identity, Dropout and operators without effect go; batch normalisation, and multiplication and addition of
    per-channel constants, are folded into the Conv or ConvTranspose before them when nothing else reads its output.

    Raises:
        UnsupportedModel: if a batch normalisation or dropout is in training mode.
    """
    _refuse_training(draft)
    _remove_no_ops(draft)
    _fold_affine(draft)
    drop_dead(draft)


def _refuse_training(draft: Draft) -> None:
    for node in draft.nodes:
        if node.op_type == "Dropout":
            value = draft.constants.get(node.input[2]) if len(node.input) > 2 else None
            training = value is not None and bool(value.reshape(-1)[0])
        elif node.op_type == "BatchNormalization":
            training = any(node.output[1:]) or any(a.name == "training_mode" and a.i for a in node.attribute)
        else:
            continue
        if training:
            raise UnsupportedModel(f"{draft.name}: {describe(node)} is in training mode; export for inference")


def _remove_no_ops(draft: Draft) -> None:
    aliases: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in draft.nodes:
        rename_inputs([node], aliases)
        if not _does_nothing(draft, node):
            kept.append(node)
            continue
        source, result = node.input[0], node.output[0]
        if result not in draft.outputs:
            aliases[result] = source
        elif source in draft.inputs or source in draft.outputs or source in draft.constants:
            kept.append(helper.make_node("Identity", [source], [result], name=node.name))
        else:
            # The output's name stays: what made the source makes it now.
            for earlier in kept:
                earlier.output[:] = [result if n == source else n for n in earlier.output]
            rename_inputs(kept, {source: result})
            aliases = {k: result if v == source else v for k, v in aliases.items()} | {source: result}
    draft.nodes = kept


def _does_nothing(draft: Draft, node: onnx.NodeProto) -> bool:
    kind = node.op_type
    if kind == "Identity":
        return True
    if kind == "Dropout":
        return len(node.output) == 1 or not node.output[1] or not _is_read(draft, node.output[1])
    if not node.input or not node.output or node.input[0] in draft.constants:
        return False
    before, after = draft.type_of(node.input[0]), draft.type_of(node.output[0])
    same = before is not None and after is not None and before == after
    if kind in SAME_SHAPE:
        return same and (kind != "Slice" or _forward(draft, node))
    if kind == "Cast":
        return same
    if kind == "Pad":
        return same and not np.any(draft.constants.get(node.input[1], np.ones(1)))
    if kind == "Transpose":
        perm = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "perm"), None)
        return perm is not None and list(perm) == list(range(len(perm)))
    if kind in ("MaxPool", "AveragePool"):
        sizes = [v for a in node.attribute if a.name in ("kernel_shape", "strides") for v in a.ints]
        return same and len(node.output) == 1 and all(size == 1 for size in sizes)
    if kind in ("Concat", "Sum", "Max", "Min", "Mean"):
        return len(node.input) == 1 and same
    return False


def _forward(draft: Draft, node: onnx.NodeProto) -> bool:
    # A slice of full size with a negative step turns the axis round.
    steps = draft.constants.get(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    return steps is not None and bool(np.all(np.asarray(steps) > 0))


def _is_read(draft: Draft, name: str) -> bool:
    return name in draft.outputs or any(name in node.input for node in draft.nodes)


def _fold_affine(draft: Draft) -> None:
    makers = {n: node for node in draft.nodes for n in node.output if n}
    readers = draft.consumers()
    removed: set[int] = set()
    for node in draft.nodes:
        place = _activation_place(draft, node)
        if place is None:
            continue
        source = node.input[place]
        conv = makers.get(source)
        if conv is None or conv.op_type not in ("Conv", "ConvTranspose") or conv.input[1] not in draft.constants:
            continue
        if len(conv.input) > 2 and conv.input[2] and conv.input[2] not in draft.constants:
            continue
        if len(readers[source]) != 1 or source in draft.outputs:
            continue
        affine = _affine(draft, node, place, draft.shape_of(source))
        if affine is None:
            continue
        _scale_conv(draft, conv, *affine)
        conv.output[0] = node.output[0]
        makers[node.output[0]] = conv
        removed.add(id(node))
    draft.nodes = [n for n in draft.nodes if id(n) not in removed]


def _activation_place(draft: Draft, node: onnx.NodeProto) -> int | None:
    # Which input is the activation, for an operator that may be a per-channel scale and shift.
    if node.op_type == "BatchNormalization":
        return 0
    if node.op_type not in ("Mul", "Add", "Sub", "Div"):
        return None
    constant = [n in draft.constants for n in node.input]
    if constant == [False, True]:
        return 0
    if constant == [True, False] and node.op_type != "Div":
        return 1
    return None


def _affine(
    draft: Draft, node: onnx.NodeProto, place: int, shape: tuple[int, ...] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns scale and shift per channel, or None when the node is no such thing."""
    if shape is None or len(shape) < 3:
        return None
    channels = shape[1]
    if node.op_type == "BatchNormalization":
        return _batch_norm(draft, node)
    value = _per_channel(draft.constants[node.input[1 - place]], channels, len(shape))
    if value is None or draft.shape_of(node.output[0]) != shape:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return value, zero
    if node.op_type == "Add":
        return one, value
    if node.op_type == "Sub":
        return (one, -value) if place == 0 else (-one, value)
    return (1 / value, zero) if np.all(value != 0) else None


def _batch_norm(draft: Draft, node: onnx.NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if any(n not in draft.constants for n in node.input[1:5]):
        return None
    gamma, beta, mean, variance = (draft.constants[n].astype(np.float64) for n in node.input[1:5])
    scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def _per_channel(array: NDArray[Any], channels: int, rank: int) -> NDArray[np.float64] | None:
    # A constant that broadcasts along every axis but the channels.
    if array.dtype.kind != "f" or array.ndim > rank:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if full.size != full.shape[1] or full.shape[1] not in (1, channels):
        return None
    return np.broadcast_to(full.reshape(-1), (channels,)).astype(np.float64)


def _scale_conv(
    draft: Draft, conv: onnx.NodeProto, scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> None:  # fmt: skip
    weight = draft.constants[conv.input[1]]
    if conv.op_type == "Conv":
        by_output = scale.reshape(-1, *(1,) * (weight.ndim - 1))
        scaled = weight * by_output
    else:
        # ConvTranspose-11: (inputs, outputs / group, ...); output channel = group * (outputs / group) + place.
        group = next((helper.get_attribute_value(a) for a in conv.attribute if a.name == "group"), 1)
        grouped = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:]).astype(np.float64)
        by_output = scale.reshape(group, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        scaled = (grouped * by_output).reshape(weight.shape)
    has_bias = len(conv.input) > 2 and conv.input[2]
    bias = draft.constants[conv.input[2]].astype(np.float64) if has_bias else np.zeros(len(scale))
    names = [draft.fresh(f"{conv.input[1]}.{what}") for what in ("folded", "folded_bias")]
    draft.constants[names[0]] = scaled.astype(weight.dtype)
    draft.constants[names[1]] = (bias * scale + shift).astype(weight.dtype)
    conv.input[:] = [conv.input[0], *names]
