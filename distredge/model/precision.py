"""Number formats of a captured model: float16 becomes float32 inside, formats that no device computes in are refused.

ONNX Runtime's CPU provider computes convolutions and nearly all else of a float16 model in float32 and drops the casts
between such operators: where it rounds to float16 depends on which operators stand together in one model, so that a
part would round where the whole does not. A captured model says it outright: float32 from the input, or the cast to
float16, on.

That is what the engine computes of the user's file, except where operators that it has in float16 too (those that move
elements, mostly) stand next to each other, and at outputs of float16: there it rounds, and what lies next to the middle
of two float16 numbers becomes the one or the other. Such a model is taken in, and is lossy (`Draft.lossy_because`).
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, TypeProto, helper

from distredge.errors import UnsupportedModel
from distredge.model.draft import Draft, rename_inputs
from distredge.model.infer import describe
from distredge.model.wires import WIRE_BYTES

IN_FLOAT16 = frozenset(
    """Cast Clip Compress Concat Dropout Expand Flatten Gather GatherElements GatherND Identity LayerNormalization Max
    Min Mod Reshape ReverseSequence RMSNormalization RotaryEmbedding Round Scatter ScatterElements ScatterND Shrink
    Sign Slice Split Squeeze TensorScatter Transpose Unsqueeze""".split()
)
"""Operators that ONNX Runtime's CPU provider has in float16; one that stands alone is computed in float32 as well."""


def compute_in_float32(draft: Draft) -> None:
    """Rewrites a folded draft so that nothing inside it is float16; inputs and outputs keep their dtypes.

    Raises:
        UnsupportedModel: if an activation is quantised, or of a dtype in which no rows can travel (bfloat16, float8,
            int4, text, complex numbers), naming what makes it.
    """
    _refuse_formats(draft)
    if not any(_is_float16(found) for found in draft.types.values()) and not any(
        array.dtype == np.float16 for array in draft.constants.values()
    ):
        return
    draft.lossy_because = _rounding(draft)
    draft.constants = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in draft.constants.items()
    }
    for node in draft.nodes:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    _cast_inputs(draft)
    _cast_outputs(draft)
    draft.retype()


def _rounding(draft: Draft) -> str:
    """Says where the engine rounds what it computes to float16; "" where it does nowhere."""
    makers = {name: node for node in draft.nodes for name in node.output if name}
    for name in draft.outputs:
        if name in makers and _is_float16(draft.types[name]):
            return f"output '{name}' is rounded to float16"
    for node in draft.nodes:
        sources = [n for n in node.input if n not in draft.constants and _is_float16(draft.type_of(n))]
        if node.op_type not in IN_FLOAT16 or not sources:
            continue
        if len(sources) > 1:
            return f"{describe(node)} is computed in float16 by the engine, in float32 here"
        before = makers.get(sources[0])
        if before is not None and before.op_type in IN_FLOAT16:
            return f"{describe(before)} and {describe(node)} are computed in float16 by the engine, in float32 here"
    return ""


def _refuse_formats(draft: Draft) -> None:
    for name, found in draft.inputs.items():
        if (kind := _format(found)) not in WIRE_BYTES:
            raise UnsupportedModel(f"{draft.name}: input '{name}': found {kind}, accepted: {', '.join(WIRE_BYTES)}")
    for node in draft.nodes:
        if node.op_type == "QuantizeLinear":  # such as one that a branch brought in; the engine fuses them with others
            raise UnsupportedModel(f"{draft.name}: {describe(node)}: a quantised graph; give the float32 model")
        for name in node.output:
            if name in draft.types and (kind := _format(draft.types[name])) not in WIRE_BYTES:
                raise UnsupportedModel(
                    f"{draft.name}: {describe(node)} makes {kind}, in which no device computes; accepted: "
                    f"{', '.join(WIRE_BYTES)}: give the float32 model"
                )


def _format(found: TypeProto) -> str:
    kind = found.tensor_type.elem_type
    if kind == TensorProto.STRING:
        return "text"
    return str(helper.tensor_dtype_to_np_dtype(kind))


def _is_float16(found: TypeProto | None) -> bool:
    return found is not None and found.tensor_type.elem_type == TensorProto.FLOAT16


def _cast_inputs(draft: Draft) -> None:
    names = {name: _fresh(draft, f"{name}/float32") for name, found in draft.inputs.items() if _is_float16(found)}
    rename_inputs(draft.nodes, names)
    casts = [helper.make_node("Cast", [n], [wide], name=wide, to=TensorProto.FLOAT) for n, wide in names.items()]
    draft.nodes = [*casts, *draft.nodes]


def _cast_outputs(draft: Draft) -> None:
    # Whoever reads an output inside the model reads it in float32, as the whole model's own run does.
    names = {
        name: _fresh(draft, f"{name}/float32")
        for name in draft.outputs
        if name not in draft.inputs and name not in draft.constants and _is_float16(draft.types.get(name))
    }
    rename_inputs(draft.nodes, names)
    for node in draft.nodes:
        node.output[:] = [names.get(n, n) for n in node.output]
    draft.nodes.extend(
        helper.make_node("Cast", [wide], [name], name=f"{name}/float16", to=TensorProto.FLOAT16)
        for name, wide in names.items()
    )


def _fresh(draft: Draft, name: str) -> str:
    while name in draft.constants or name in draft.types:
        name += "_"
    return name
