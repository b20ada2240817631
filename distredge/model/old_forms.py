"""Raises the operators of operator sets 7 to 12 to 13, in which every operator has one form.

Node by node, where shapes and constants are known: what an old form means is what ONNX Runtime computes for it. ONNX's
own converter is not asked: it gives the Upsample of 7 and 9 and the Resize of 10 other coordinates than they have.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from distredge.errors import UnsupportedModel
from distredge.model.draft import Draft
from distredge.model.infer import LOWEST_OPSET, describe
from distredge.model.replacing import Replacement

OLDEST_OPSET = 7
"""Lowest operator set that is read: elementwise operators broadcast as in numpy from here on."""


def raised(draft: Draft, node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto] | None:
    """Returns the nodes of operator set 13 that compute what a node of an older one does; None: the node itself.

    Args:
        draft: has the types and constants of what the node reads.
        node: of the default domain.
        opset: in whose form it is, from OLDEST_OPSET on.

    Raises:
        UnsupportedModel: if operator set 13 cannot say it.
    """
    before, rule = RULES.get(node.op_type, (0, None))
    if rule is None or opset >= before:
        return None
    replacement = Replacement(draft, node)
    rule(replacement)
    return replacement.done()


def _resize(r: Replacement) -> None:
    # Upsample-7, -9 and Resize-10: output o lies at o / scale of the input (asymmetric). "nearest" takes the pixel
    # before where an axis grows and the one after where it shrinks (ONNX Runtime: NearestMode::SIMPLE).
    mode = r.attributes.get("mode", b"nearest").decode()
    mode = {"bilinear": "linear"}.get(mode, mode)
    scales = r.value(1) if r.has(1) else np.array(r.attributes.get("scales", ()), np.float32)
    if scales is None or scales.size != len(r.shape):
        raise UnsupportedModel(
            f"{r.draft.name}: {describe(r.node)}: its scales are no constant for the {len(r.shape)} axes of its input"
        )
    steps = [("floor", np.maximum(scales, 1)), ("ceil", np.minimum(scales, 1))]
    if mode != "nearest":
        steps = [("", scales)]
    steps = [(rounding, step) for rounding, step in steps if np.any(step != 1)] or [("floor", scales)]
    source = r.node.input[0]
    for place, (rounding, step) in enumerate(steps):
        source = r.add(
            "Resize", [source, "", r.constant("scales", step.astype(np.float32))],
            None if place == len(steps) - 1 else "grown",
            mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode=rounding or None,
        )  # fmt: skip


def _clip(r: Replacement) -> None:
    low, high = r.attributes.get("min"), r.attributes.get("max")
    limits = ["" if low is None else r.scalar("min", low), "" if high is None else r.scalar("max", high)]
    r.same(more=limits if high is not None else limits[:1] if low is not None else [], without=("min", "max"))


def _pad(r: Replacement) -> None:
    more = [r.integers("pads", r.attributes["pads"])]
    if r.attributes.get("value", 0.0):
        more.append(r.scalar("value", r.attributes["value"]))
    r.same(more=more, without=("pads", "value"))


def _slice(r: Replacement) -> None:
    axes = r.attributes.get("axes")
    more = [r.integers("starts", r.attributes["starts"]), r.integers("ends", r.attributes["ends"])]
    r.same(more=[*more, *([] if axes is None else [r.integers("axes", axes)])], without=("starts", "ends", "axes"))


def _split(r: Replacement) -> None:
    sizes = r.attributes.get("split")
    r.same(more=[] if sizes is None else [r.integers("split", sizes)], without=("split",))


def _axes(r: Replacement) -> None:
    # Squeeze, Unsqueeze, ReduceSum.
    axes = r.attributes.get("axes")
    r.same(more=[] if not axes else [r.integers("axes", axes)], without=("axes",))


def _top_k(r: Replacement) -> None:
    r.same(more=[r.integers("k", [r.attributes["k"]])], without=("k",))


def _dropout(r: Replacement) -> None:
    # In inference, which is what it is in these operator sets, it passes its input on.
    r.same(without=("ratio",))


def _batch_norm(r: Replacement) -> None:
    if r.attributes.get("spatial", 1):
        r.same(without=("spatial",))
        return
    found = [r.value(place) for place in range(1, 5)]
    if any(value is None for value in found):
        raise UnsupportedModel(f"{r.draft.name}: {describe(r.node)}: spatial=0 with statistics that are no constants")
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in found)
    scale = gamma / np.sqrt(variance + r.attributes.get("epsilon", 1e-5))
    dtype = np.asarray(found[0]).dtype
    scaled = r.add("Mul", [r.node.input[0], r.constant("scale", scale[None].astype(dtype))], "scaled")
    r.add("Add", [scaled, r.constant("shift", (beta - mean * scale)[None].astype(dtype))])


def _softmax(r: Replacement) -> None:
    # Softmax-1 and -11 take all axes from `axis` on as one; from 13 on it is one axis.
    shape, axis = r.shape, r.attributes.get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    wide = [place for place in range(axis, len(shape)) if shape[place] != 1]
    if len(wide) <= 1:
        r.add(r.node.op_type, r.node.input, axis=wide[0] if wide else axis)
        return
    flat = r.add("Flatten", r.node.input, "flat", axis=axis)
    r.add("Reshape", [r.add(r.node.op_type, [flat], "normal", axis=1), r.integers("shape", shape)])


def _scatter(r: Replacement) -> None:
    r.same("ScatterElements")


RULES: dict[str, tuple[int, Callable[[Replacement], None] | None]] = {
    "BatchNormalization": (9, _batch_norm),
    "Clip": (11, _clip),
    "Dropout": (12, _dropout),
    "Hardmax": (LOWEST_OPSET, _softmax),
    "LogSoftmax": (LOWEST_OPSET, _softmax),
    "Pad": (11, _pad),
    "ReduceSum": (LOWEST_OPSET, _axes),
    "Resize": (11, _resize),
    "Scatter": (LOWEST_OPSET, _scatter),
    "Slice": (10, _slice),
    "Softmax": (LOWEST_OPSET, _softmax),
    "Split": (LOWEST_OPSET, _split),
    "Squeeze": (LOWEST_OPSET, _axes),
    "TopK": (10, _top_k),
    "Unsqueeze": (LOWEST_OPSET, _axes),
    "Upsample": (LOWEST_OPSET, _resize),
}
"""Operators whose form changed up to 13: the operator set of the last such change, and how it is written since.

Every other operator of 7 to 12 means in 13 what it meant: its later versions add element types, optional inputs, or
attributes whose defaults change nothing.
"""
