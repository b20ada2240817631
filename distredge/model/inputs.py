"""A captured model's inputs get static shapes; models that no strategy can run are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from onnx import TypeProto

from distredge.errors import ModelError, UnsupportedModel, did_you_mean
from distredge.model.draft import Draft, subgraphs
from distredge.model.infer import describe, tensor_type

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
QUANTISED = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearAdd",
     "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QGemm", "DynamicQuantizeMatMul"}
)  # fmt: skip


def refuse_unsplittable(proto: onnx.ModelProto, name: str) -> None:
    """Refuses what cannot be split at all, before any work is done on it.

    Raises:
        UnsupportedModel: for a recurrent network without a convolution, a quantised graph, or operators of a domain
            other than ONNX's own.
    """
    nodes = _all_nodes(proto.graph)
    kinds = Counter(node.op_type for node in nodes)
    if not CONVOLUTIONS & kinds.keys() and RECURRENT & kinds.keys():
        found = _listed(kinds, RECURRENT)
        raise UnsupportedModel(f"{name}: a recurrent network ({found}) without a convolution has no rows to split")
    if QUANTISED & kinds.keys():
        found = _listed(kinds, QUANTISED)
        raise UnsupportedModel(f"{name}: a quantised graph ({found}); give the float32 model that it was made from")
    _refuse_fake_quantised(proto, name)
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedModel(
                f"{name}: {describe(node)}: found the operator domain '{node.domain}', accepted: "
                "ONNX's own operators; save the model without a runtime's optimisations"
            )


def _refuse_fake_quantised(proto: onnx.ModelProto, name: str) -> None:
    # QuantizeLinear on an activation: ONNX Runtime runs such graphs in integers, differently on a part than on the
    # whole. On a constant it is folded away.
    made = {n for node in proto.graph.node if node.op_type != "Constant" for n in node.output}
    made |= {v.name for v in proto.graph.input} - {t.name for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in made:
            raise UnsupportedModel(
                f"{name}: {describe(node)}: a quantised graph; give the float32 model that it was made from"
            )


def _listed(kinds: Counter[str], wanted: frozenset[str]) -> str:
    return ", ".join(f"{kind} x{kinds[kind]}" for kind in sorted(wanted & kinds.keys()))


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for inner in subgraphs(node):
            nodes.extend(_all_nodes(inner))
    return nodes


def fix_inputs(draft: Draft, wanted: Sequence[int] | Mapping[str, Sequence[int]] | None) -> None:
    """Gives every input a static shape: batch 1, other dynamic sizes from `wanted`.

    Raises:
        ModelError: if a size is missing or does not fit, or the batch is not 1.
        UnsupportedModel: if no input has rows.
    """
    shapes = _wanted_by_name(draft, wanted)
    for name, found in draft.inputs.items():
        draft.inputs[name] = _fixed(draft.name, name, found, shapes.get(name))


def _wanted_by_name(
    draft: Draft, wanted: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> Mapping[str, Sequence[int]]:
    ranks = {n: len(_dims(t)) for n, t in draft.inputs.items()}
    images = [n for n, rank in ranks.items() if rank >= 3]
    if not images:
        found = ", ".join(f"'{n}' of rank {r}" for n, r in ranks.items()) or "no input"
        raise UnsupportedModel(f"{draft.name}: found {found}, accepted: an input (batch, channels, height, ...)")
    if wanted is None:
        return {}
    if isinstance(wanted, Mapping):
        for name in wanted:
            if name not in draft.inputs:
                raise ModelError(f"{draft.name}: input_shape: no input '{name}'{did_you_mean(name, draft.inputs)}")
        return wanted
    if len(images) > 1:
        raise ModelError(f"{draft.name}: input_shape: several inputs ({', '.join(images)}); give a shape for each")
    return {images[0]: wanted}


def _dims(found: TypeProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(found.tensor_type.shape.dim)


def _fixed(model: str, name: str, found: TypeProto, wanted: Sequence[int] | None) -> TypeProto:
    where = f"{model}: input '{name}'"
    if not found.HasField("tensor_type") or not found.tensor_type.HasField("shape"):
        raise ModelError(f"{where}: found no tensor shape, accepted: a tensor (batch, channels, height, ...)")
    dims = _dims(found)
    if wanted is not None:
        if len(wanted) != len(dims) or min(wanted) < 1:
            raise ModelError(f"{where}: input_shape: found {tuple(wanted)}, accepted: {len(dims)} sizes of at least 1")
        shape = [int(size) for size in wanted]
    else:
        shape = [d.dim_value if d.HasField("dim_value") else 0 for d in dims]
        if shape and shape[0] <= 0:
            shape[0] = 1
        missing = [d.dim_param or f"axis {i}" for i, d in enumerate(dims) if shape[i] <= 0]
        if missing:
            form = ",".join(str(s) if s > 0 else "?" for s in shape)
            raise ModelError(f"{where}: dynamic sizes ({', '.join(missing)}); give them: --input-shape {form}")
    if len(shape) >= 3 and shape[0] != 1:
        raise ModelError(
            f"{where}: found batch {shape[0]} in {tuple(shape)}, accepted: batch 1 as the first axis; export the model "
            "with batch 1 or a dynamic batch"
        )
    return tensor_type(found.tensor_type.elem_type, shape)
