"""Brings a model to the operator sets 13 to 17, in which every operator has one form.

Older models are raised by ONNX's own converter. Newer ones are lowered node by node: an operator whose newer version
only adds types or options that the node does not use is the same operator; a few are rewritten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from distredge.errors import ModelError
from distredge.model.draft import Draft, sorted_nodes
from distredge.model.infer import LOWEST_OPSET, OPSET, describe

logger = logging.getLogger(__name__)

OLDEST_OPSET = 7
"""Lowest operator set that is read: elementwise operators broadcast as in numpy from here on."""

MORE_TYPES_ONLY = frozenset(
    """Acos Acosh Asin Asinh Atan Atanh Cast CastLike Celu ConstantOfShape Conv ConvTranspose Cos Cosh Det Dropout
    Einsum Elu Equal EyeLike Flatten GRU GlobalAveragePool GlobalLpPool GlobalMaxPool HardSigmoid HardSwish Identity
    InstanceNormalization IsInf IsNaN LSTM LpNormalization LpPool MaxPool Mod RNN Range Reshape ReverseSequence Round
    Selu Shape Sin Sinh Size Softplus Softsign Squeeze Tan ThresholdedRelu TopK Transpose Unsqueeze""".split()
)
"""Operators whose versions after 17 add element types, or attributes in IGNORED: floats mean what they meant."""

IGNORED: dict[str, dict[str, Any]] = {
    "Cast": {"saturate": None, "round_mode": None},
    "CastLike": {"saturate": None, "round_mode": None},
    "AveragePool": {"dilations": 1},
    "LpPool": {"dilations": 1},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch", "axes": None},
    "Shape": {},
}
"""Attributes that came after 17, with the value at which they change nothing (None: any, or handled)."""


def raise_opset(draft: Draft) -> None:
    """Converts a draft of an operator set below 13 to 13.

    Raises:
        ModelError: if its operator set is too old or too new, or the converter cannot convert an operator.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= draft.opset <= newest:
        raise ModelError(
            f"{draft.name}: operator set: found {draft.opset}, accepted: {OLDEST_OPSET} to {newest} (the newest that "
            f"the installed onnx {onnx.__version__} knows)"
        )
    if draft.opset >= LOWEST_OPSET:
        return
    try:
        converted = onnx.version_converter.convert_version(draft.to_proto(), LOWEST_OPSET)
    except (RuntimeError, onnx.checker.ValidationError, onnx.version_converter.ConvertError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ModelError(f"{draft.name}: cannot be converted from operator set {draft.opset}: {first}") from error
    names = set(draft.constants)
    raised = Draft.from_proto(converted, draft.name)
    draft.constants.update((n, a) for n, a in raised.constants.items() if n not in names)
    draft.nodes, draft.opset = raised.nodes, LOWEST_OPSET


def lower_opset(draft: Draft) -> None:
    """Rewrites a folded draft of an operator set above 17 in the forms of 17.

    A draft with an operator that has no such form keeps its operator set; a warning names the operator.
    """
    if draft.opset <= OPSET:
        return
    lowered: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[Any]] = {}
    for node in draft.nodes:
        nodes = _lower(draft, node, constants)
        if nodes is None:
            logger.warning(
                "%s: %s has no form in operator set %d: the model stays at %d, which old boards' ONNX Runtime may "
                "refuse", draft.name, describe(node), OPSET, draft.opset,
            )  # fmt: skip
            return
        lowered.extend(nodes)
    draft.nodes = sorted_nodes(lowered, draft.name)
    draft.constants.update(constants)
    draft.opset = OPSET
    draft.retype()


def _lower(draft: Draft, node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto] | None:
    since = onnx.defs.get_schema(node.op_type, draft.opset, node.domain).since_version
    if since <= OPSET:
        return [node]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for name, harmless in IGNORED.get(node.op_type, {}).items():
        value = attributes.get(name, harmless)
        if harmless is not None and any(v != harmless for v in (value if isinstance(value, list) else [value])):
            return None
    kept = [a for a in node.attribute if a.name not in IGNORED.get(node.op_type, {})]
    if node.op_type in REWRITES:
        return REWRITES[node.op_type](_Rewrite(draft, node, attributes, constants))
    if node.op_type in MORE_TYPES_ONLY or node.op_type == "AveragePool":
        same = onnx.NodeProto()
        same.CopyFrom(node)
        del same.attribute[:]
        same.attribute.extend(kept)
        return [same]
    return None


class _Rewrite:
    """One node being rewritten."""

    def __init__(
        self, draft: Draft, node: onnx.NodeProto, attributes: dict[str, Any], constants: dict[str, NDArray[Any]]
    ) -> None:
        self.draft = draft
        self.node = node
        self.attributes = attributes
        self._constants = constants
        self._nodes: list[onnx.NodeProto] = []

    def constant(self, suffix: str, value: NDArray[Any]) -> str:
        name = f"{self.node.output[0]}/{suffix}"
        self._constants[name] = value
        return name

    def scalar(self, suffix: str, value: float) -> str:
        elem_type = self.draft.types[self.node.output[0]].tensor_type.elem_type
        return self.constant(suffix, np.array(value, helper.tensor_dtype_to_np_dtype(elem_type)))

    def add(self, op_type: str, inputs: Sequence[str], suffix: str | None = None, **attributes: Any) -> str:
        """Adds a node; without a suffix it makes the original node's output."""
        output = self.node.output[0] if suffix is None else f"{self.node.output[0]}/{suffix}"
        name = self.node.name if suffix is None else f"{self.node.name or self.node.output[0]}/{suffix}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def value(self, place: int) -> NDArray[Any] | None:
        """Returns the constant at an input; None when it is absent or no constant."""
        return self.draft.constants.get(self.node.input[place]) if len(self.node.input) > place else None

    def has(self, place: int) -> bool:
        return len(self.node.input) > place and self.node.input[place] != ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first input."""
        return self.draft.shape_of(self.node.input[0]) or ()

    def done(self) -> list[onnx.NodeProto]:
        return self._nodes


def _reduce(r: _Rewrite) -> list[onnx.NodeProto] | None:
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


def _split(r: _Rewrite) -> list[onnx.NodeProto] | None:
    # `num_outputs` came with 18: chunks of ceil(size / number), the last one smaller.
    axis = r.attributes.get("axis", 0)
    sizes = [(r.draft.shape_of(n) or ())[axis] for n in r.node.output]
    split = r.constant("split", np.array(sizes, np.int64))
    node = helper.make_node("Split", [r.node.input[0], split], list(r.node.output), name=r.node.name, axis=axis)
    return [node]


def _pad(r: _Rewrite) -> list[onnx.NodeProto] | None:
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


def _resize(r: _Rewrite) -> list[onnx.NodeProto] | None:
    known = ("coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "mode",
             "nearest_mode")  # fmt: skip
    kept = {k: v for k, v in r.attributes.items() if k in known}
    if kept.get("coordinate_transformation_mode") == b"half_pixel_symmetric":
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
    r.add("Resize", inputs, **kept)
    return r.done()


def _gelu(r: _Rewrite) -> list[onnx.NodeProto]:
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


def _mish(r: _Rewrite) -> list[onnx.NodeProto]:
    x = r.node.input[0]
    r.add("Mul", [x, r.add("Tanh", [r.add("Softplus", [x], "softplus")], "tanh")])
    return r.done()


def _swish(r: _Rewrite) -> list[onnx.NodeProto]:
    x, alpha = r.node.input[0], r.attributes.get("alpha", 1.0)
    inner = x if alpha == 1.0 else r.add("Mul", [x, r.scalar("alpha", alpha)], "scaled")
    r.add("Mul", [x, r.add("Sigmoid", [inner], "sigmoid")])
    return r.done()


def _group_norm(r: _Rewrite) -> list[onnx.NodeProto] | None:
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


REWRITES: dict[str, Callable[[_Rewrite], list[onnx.NodeProto] | None]] = {
    "Gelu": _gelu,
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
