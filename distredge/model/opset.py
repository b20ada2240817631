"""Brings a model to the operator sets 13 to 17, in which every operator has one form.

Older ones are raised node by node while they are folded (`old_forms`). Newer ones are lowered here: an operator whose
newer version only adds types or options that the node does not use is the same operator; a few are rewritten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from distredge.errors import ModelError
from distredge.model.draft import Draft, sorted_nodes
from distredge.model.infer import OPSET, describe
from distredge.model.old_forms import OLDEST_OPSET
from distredge.model.replacing import Replacement

logger = logging.getLogger(__name__)

MORE_TYPES_ONLY = frozenset(
    """Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli BitShift Cast CastLike Celu Compress ConstantOfShape Conv
    ConvTranspose Cos Cosh DeformConv DepthToSpace DequantizeLinear Det Dropout Einsum Elu Equal EyeLike Flatten GRU
    GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish Identity InstanceNormalization IsInf
    IsNaN LSTM LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish Mod Multinomial NegativeLogLikelihoodLoss OneHot
    Pad QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Reshape Resize
    ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape Sin Sinh Size Softplus Softsign SpaceToDepth
    Split Squeeze Tan ThresholdedRelu TopK Transpose Unique Unsqueeze""".split()
)
"""Operators whose versions after 17 add element types, optional inputs, or attributes and values: where a node of the
newer version uses none of these, it means in the older one what it means."""

IGNORED: dict[str, dict[str, Any]] = {
    "Cast": {"saturate": None, "round_mode": None},
    "CastLike": {"saturate": None, "round_mode": None},
    "AveragePool": {"dilations": 1},
    "LpPool": {"dilations": 1},
    "Range": {"stash_type": None},
}
"""Attributes that came after 17, with the value at which they change nothing (None: any); by default the default."""

NEW_VALUES: dict[str, tuple[int, str, frozenset[bytes]]] = {
    "Pad": (19, "mode", frozenset({b"wrap"})),
    "Resize": (19, "coordinate_transformation_mode", frozenset({b"half_pixel_symmetric"})),
    "ScatterElements": (18, "reduction", frozenset({b"max", b"min"})),
    "ScatterND": (18, "reduction", frozenset({b"max", b"min"})),
}
"""Attributes with values that an older version does not know: the operator set that brought them, the values."""


def check_opset(draft: Draft) -> None:
    """Refuses a draft of an operator set that cannot be read.

    Raises:
        ModelError: if its operator set is too old or too new.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= draft.opset <= newest:
        raise ModelError(
            f"{draft.name}: operator set: found {draft.opset}, accepted: {OLDEST_OPSET} to {newest} (the newest that "
            f"the installed onnx {onnx.__version__} knows)"
        )


def lower_opset(draft: Draft) -> None:
    """Rewrites a folded draft of an operator set above 17 in the forms of 17, or of the lowest that has its operators.

    A warning names an operator that has no form in 17.
    """
    if draft.opset <= OPSET:
        return
    newest = max((_since(node, draft.opset) for node in draft.nodes), default=OPSET)
    for target in range(OPSET, max(newest, OPSET) + 1):
        lowered: list[onnx.NodeProto] = []
        for node in draft.nodes:
            nodes = _lowered(draft, node, target)
            if nodes is None:
                if target == OPSET:
                    _warn(draft, node)
                break
            lowered.extend(nodes)
        else:
            draft.nodes, draft.opset = sorted_nodes(lowered, draft.name), target
            draft.retype()
            return


def _warn(draft: Draft, node: onnx.NodeProto) -> None:
    logger.warning(
        "%s: %s has no form in operator set %d: the model needs a newer one, which old boards' ONNX Runtime may refuse",
        draft.name, describe(node), OPSET,
    )  # fmt: skip


def _since(node: onnx.NodeProto, opset: int) -> int:
    return int(onnx.defs.get_schema(node.op_type, opset, node.domain).since_version)


def _lowered(draft: Draft, node: onnx.NodeProto, target: int) -> list[onnx.NodeProto] | None:
    """Returns a node as the operator set `target` writes it; None where that has no form of it."""
    if _since(node, draft.opset) <= target:
        return [node]
    if target == OPSET and node.op_type in REWRITES:
        return REWRITES[node.op_type](Replacement(draft, node))
    return _older_form(draft, node, target)


def _older_form(draft: Draft, node: onnx.NodeProto, target: int) -> list[onnx.NodeProto] | None:
    if node.op_type not in MORE_TYPES_ONLY:
        return None
    try:
        older = onnx.defs.get_schema(node.op_type, target, node.domain)
    except onnx.defs.SchemaError:
        return None
    newer = onnx.defs.get_schema(node.op_type, draft.opset, node.domain)
    inputs = [i for i, name in enumerate(node.input) if name]
    if len(node.output) > older.max_output or (inputs and inputs[-1] >= older.max_input):
        return None
    since, attribute, values = NEW_VALUES.get(node.op_type, (0, "", frozenset()))
    new = [a.name for a in node.attribute if a.name not in older.attributes]
    for found in node.attribute:
        value = helper.get_attribute_value(found)
        if found.name == attribute and older.since_version < since and value in values:
            return None
        if found.name in new and not _harmless(node.op_type, found.name, value, newer):
            return None
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name not in new)
    return [copy]


def _harmless(op_type: str, name: str, value: Any, schema: onnx.defs.OpSchema) -> bool:
    # Whether an attribute that an older version does not know has the value at which it changes nothing.
    known = IGNORED.get(op_type, {})
    if name in known:
        wanted = known[name]
        return wanted is None or all(v == wanted for v in (value if isinstance(value, list) else [value]))
    default = schema.attributes[name].default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return False
    return bool(value == helper.get_attribute_value(default))


def _reduce(r: Replacement) -> list[onnx.NodeProto] | None:
    # Axes are an input from 18 on (ReduceSum: from 13 on).
    keepdims = r.attributes.get("keepdims", 1)
    if not r.has(1):
        if r.attributes.get("noop_with_empty_axes", 0):
            return None
        r.add(r.node.op_type, [r.node.input[0]], keepdims=keepdims)
        return r.done()
    axes = r.value(1)
    if axes is None or (axes.size == 0 and r.attributes.get("noop_with_empty_axes", 0)):
        return None
    extra: dict[str, Any] = {"axes": axes.reshape(-1).tolist()} if axes.size else {}
    r.add(r.node.op_type, [r.node.input[0]], keepdims=keepdims, **extra)
    return r.done()


def _split(r: Replacement) -> list[onnx.NodeProto] | None:
    # `num_outputs` came with 18: chunks of ceil(size / number), the last one smaller.
    axis = r.attributes.get("axis", 0)
    sizes = [(r.draft.shape_of(n) or ())[axis] for n in r.node.output]
    split = r.constant("split", np.array(sizes, np.int64))
    node = helper.make_node("Split", [r.node.input[0], split], list(r.node.output), name=r.node.name, axis=axis)
    return [node]


def _pad(r: Replacement) -> list[onnx.NodeProto] | None:
    if r.attributes.get("mode", b"constant") == b"wrap":
        return None
    inputs = list(r.node.input[:3])
    if r.has(3):
        axes, pads = r.value(3), r.value(1)
        if axes is None or pads is None:
            return None
        rank = len(r.shape)
        full = np.zeros(2 * rank, np.int64)
        for place, axis in enumerate(axes.reshape(-1).tolist()):
            full[axis % rank], full[axis % rank + rank] = pads[place], pads[place + axes.size]
        inputs[1] = r.constant("pads", full)
    r.add("Pad", inputs, mode=r.attributes.get("mode", b"constant"))
    return r.done()


def _resize(r: Replacement) -> list[onnx.NodeProto] | None:
    known = ("coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "mode",
             "nearest_mode")  # fmt: skip
    kept = {k: v for k, v in r.attributes.items() if k in known}
    new = (r.attributes.get("antialias", 0), r.attributes.get("keep_aspect_ratio_policy", b"stretch"))
    if kept.get("coordinate_transformation_mode") == b"half_pixel_symmetric" or new != (0, b"stretch"):
        return None
    inputs = [n if r.has(i) else "" for i, n in enumerate(r.node.input)]
    axes, rank = r.attributes.get("axes"), len(r.shape)
    for place, whole in ((2, np.ones(rank, np.float32)), (3, np.array(r.shape, np.int64))):
        value = r.value(place)
        if value is None or value.size == 0 or axes is None:
            continue
        for axis, entry in zip(axes, value.tolist(), strict=True):
            whole[axis % rank] = entry
        inputs[place] = r.constant("scales" if place == 2 else "sizes", whole)
    roi = r.value(1)
    if roi is not None and roi.size and axes is not None:
        whole = np.repeat(np.array([0, 1], roi.dtype), rank)
        for place, axis in enumerate(axes):
            whole[axis % rank], whole[axis % rank + rank] = roi[place], roi[place + len(axes)]
        inputs[1] = r.constant("roi", whole)
    r.add("Resize", inputs, **kept)
    return r.done()


def _grid_sample(r: Replacement) -> list[onnx.NodeProto] | None:
    # GridSample-16 has rows and columns alone, and other names for what it does between pixels.
    mode = r.attributes.get("mode", b"linear").decode()
    if len(r.shape) != 4:
        return None
    extra = {key: r.attributes.get(key) for key in ("align_corners", "padding_mode")}
    r.add("GridSample", r.node.input, mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode), **extra)
    return r.done()


def _gelu(r: Replacement) -> list[onnx.NodeProto]:
    x = r.node.input[0]
    if r.attributes.get("approximate", b"none") == b"tanh":
        cube = r.add("Pow", [x, r.scalar("three", 3.0)], "cube")
        bent = r.add("Add", [x, r.add("Mul", [cube, r.scalar("bend", 0.044715)], "bent")], "sum")
        curve = r.add("Tanh", [r.add("Mul", [bent, r.scalar("factor", float(np.sqrt(2 / np.pi)))], "scaled")], "curve")
    else:
        curve = r.add("Erf", [r.add("Mul", [x, r.scalar("factor", float(np.sqrt(0.5)))], "scaled")], "curve")
    lifted = r.add("Add", [curve, r.scalar("one", 1.0)], "lifted")
    r.add("Mul", [r.add("Mul", [x, r.scalar("half", 0.5)], "halved"), lifted])
    return r.done()


def _mish(r: Replacement) -> list[onnx.NodeProto]:
    x = r.node.input[0]
    r.add("Mul", [x, r.add("Tanh", [r.add("Softplus", [x], "softplus")], "tanh")])
    return r.done()


def _swish(r: Replacement) -> list[onnx.NodeProto]:
    x, alpha = r.node.input[0], r.attributes.get("alpha", 1.0)
    inner = x if alpha == 1.0 else r.add("Mul", [x, r.scalar("alpha", alpha)], "scaled")
    r.add("Mul", [x, r.add("Sigmoid", [inner], "sigmoid")])
    return r.done()


def _group_norm(r: Replacement) -> list[onnx.NodeProto] | None:
    # GroupNormalization-21: scale and bias per channel (18 had them per group, and was withdrawn).
    scale, bias, shape = r.value(1), r.value(2), r.shape
    if scale is None or bias is None or scale.size != shape[1]:
        return None
    groups = r.attributes["num_groups"]
    folded = r.add("Reshape", [r.node.input[0], r.constant("grouped", np.array([1, groups, -1], np.int64))], "groups")
    ones = r.constant("ones", np.ones(groups, scale.dtype))
    zeros = r.constant("zeros", np.zeros(groups, scale.dtype))
    epsilon = r.attributes.get("epsilon", 1e-5)
    normal = r.add("InstanceNormalization", [folded, ones, zeros], "normal", epsilon=epsilon)
    back = r.add("Reshape", [normal, r.constant("shape", np.array(shape, np.int64))], "back")
    per_channel = (1, -1, *(1,) * (len(shape) - 2))
    scaled = r.add("Mul", [back, r.constant("scale", scale.reshape(per_channel))], "scaled")
    r.add("Add", [scaled, r.constant("bias", bias.reshape(per_channel))])
    return r.done()


REWRITES: dict[str, Callable[[Replacement], list[onnx.NodeProto] | None]] = {
    "Gelu": _gelu,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_norm,
    "Mish": _mish,
    "Pad": _pad,
    "Resize": _resize,
    "Split": _split,
    "Swish": _swish,
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
         "ReduceProd", "ReduceSumSquare"), _reduce,
    ),
}  # fmt: skip
"""Operators with another form in 17; each returns the nodes, or None when this one has no form there."""
