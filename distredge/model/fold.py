"""Folds what an input does not change: constant sub-expressions, shapes, branches, and operators that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from distredge.errors import ModelError, UnsupportedModel
from distredge.model.draft import Draft, elements, rename_inputs, require_static, subgraphs
from distredge.model.infer import LOWEST_OPSET, describe, static_shape
from distredge.model.loops import END_BEFORE, Loop, alias, depends_on_data, inlined
from distredge.model.old_forms import raised

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is no function of their inputs."""

FOLD_LIMIT = 1 << 28
"""Elements above which a constant sub-expression is refused: a gigabyte of float32 from a few bytes of graph."""

MAX_SPLICED = 10_000
"""Nodes that `If` and `Loop` nodes may bring in."""


def fold(draft: Draft) -> None:
    """Folds a draft in place, in one pass over its nodes, types every tensor, and raises old operators to 13.

    Constant nodes and sub-expressions of constants become constants, as do Shape and Size of a static shape; an If
    with a constant condition is replaced by its branch, a Loop whose rounds are known by its rounds.

    Raises:
        UnsupportedModel: if a tensor's shape depends on data, or control flow remains.
        ModelError: if a node contradicts its operator's rules.
    """
    written, draft.opset = draft.opset, max(draft.opset, LOWEST_OPSET)
    draft.types = dict(draft.inputs)
    pending: list[tuple[onnx.NodeProto | Loop, int]] = [(node, written) for node in reversed(draft.nodes)]
    kept: list[onnx.NodeProto] = []
    aliases: dict[str, str] = {}
    spliced = 0
    while pending:
        node, opset = pending.pop()
        found = _control_flow(draft, node, aliases)
        if found is not None:
            spliced += len(found)
            if spliced > MAX_SPLICED:
                raise UnsupportedModel(
                    f"{draft.name}: {describe(_node(node))}: it brings more than {MAX_SPLICED} nodes"
                )
            # What a Loop joins at its end is written in the form of `draft.opset`.
            at = draft.opset if isinstance(node, Loop) and not any(isinstance(n, Loop) for n in found) else written
            pending.extend((inner, at) for inner in reversed(found))
            continue
        assert isinstance(node, onnx.NodeProto)
        newer = raised(draft, node, opset)
        if newer is not None:
            pending.extend((inner, draft.opset) for inner in reversed(newer))
            continue
        if _fold_node(draft, node):
            continue
        types = draft.infer(node)
        for name in node.output:
            if name in draft.types or name in draft.constants:
                raise ModelError(f"{draft.name}: {describe(node)}: another node makes '{name}' too")
            if name:
                draft.types[name] = require_static(types.get(name), node, name, draft.name)
        kept.append(node)
    draft.nodes = kept
    for output in dict.fromkeys(n for n in draft.outputs if n in aliases):
        # An output keeps its name, whatever the branch calls it.
        node = helper.make_node("Identity", [aliases[output]], [output], name=output)
        if aliases[output] in draft.constants:
            draft.constants[output] = draft.constants[aliases[output]]
        else:
            draft.types.update(draft.infer(node))
            draft.nodes.append(node)
    drop_dead(draft)


def drop_dead(draft: Draft) -> None:
    """Drops nodes that no output depends on, and constants that no node reads."""
    needed = set(draft.outputs)
    kept = []
    for node in reversed(draft.nodes):
        if any(n in needed for n in node.output):
            kept.append(node)
            needed.update(n for n in node.input if n)
    draft.nodes = kept[::-1]
    draft.constants = {n: a for n, a in draft.constants.items() if n in needed}


def _control_flow(
    draft: Draft, node: onnx.NodeProto | Loop, aliases: dict[str, str]
) -> list[onnx.NodeProto | Loop] | None:  # fmt: skip
    """Returns what takes a node's place; None for one without graphs inside.

    Raises:
        UnsupportedModel: if which branch or how many rounds is not known.
    """
    if isinstance(node, Loop):
        return node.following(draft, aliases)
    rename_inputs([node], aliases)
    if not subgraphs(node):
        return None
    if node.op_type == "If" and node.input[0] in draft.constants:
        return list(_branch(draft, node, aliases))
    if node.op_type == "Loop":
        return Loop.first(draft, node).following(draft, aliases)
    if node.op_type == "If":
        raise depends_on_data(draft, node, f"its condition '{node.input[0]}'")
    raise UnsupportedModel(f"{draft.name}: {describe(node)}: found a graph inside, accepted: If and Loop; {END_BEFORE}")


def _node(node: onnx.NodeProto | Loop) -> onnx.NodeProto:
    return node.node if isinstance(node, Loop) else node


def _branch(draft: Draft, node: onnx.NodeProto, aliases: dict[str, str]) -> list[onnx.NodeProto]:
    taken = bool(draft.constants[node.input[0]].reshape(-1)[0])
    wanted = "then_branch" if taken else "else_branch"
    graph = next(a.g for a in node.attribute if a.name == wanted)
    nodes = inlined(draft, graph)
    alias(aliases, zip(node.output, (value.name for value in graph.output), strict=True))
    return nodes


def _fold_node(draft: Draft, node: onnx.NodeProto) -> bool:
    # Whether the node's outputs became constants.
    if node.op_type in ("Shape", "Size") and node.input[0] not in draft.constants:
        shape = draft.shape_of(node.input[0])
        if shape is None:
            return False
        value = np.array(shape, np.int64)
        if node.op_type == "Size":
            value = np.array(elements(shape), np.int64)
        else:
            start, end = _attribute(node, "start", 0), _attribute(node, "end", len(shape))
            value = value[start:end]
        draft.constants[node.output[0]] = value
        return True
    if node.op_type in RANDOM or any(n and n not in draft.constants for n in node.input):
        return False
    for name, array in zip(node.output, _evaluate(draft, node), strict=False):
        if name in draft.types or name in draft.constants:
            raise ModelError(f"{draft.name}: {describe(node)}: another node makes '{name}' too")
        if name:
            draft.constants[name] = array
    return True


def _evaluate(draft: Draft, node: onnx.NodeProto) -> Sequence[NDArray[Any]]:
    if node.op_type == "Constant":
        return [_constant(draft, node)]
    where = f"{draft.name}: {describe(node)}"
    for name, found in draft.infer(node).items():
        shape = static_shape(found)
        if shape is not None and elements(shape) > FOLD_LIMIT:
            raise ModelError(f"{where}: would make the constant '{name}' of shape {shape}: too large")
    if node.op_type == "ConstantOfShape":
        fill = next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), np.zeros(1, np.float32))
        return [np.full(tuple(draft.constants[node.input[0]]), fill.reshape(-1)[0], fill.dtype)]
    from onnx.reference import ReferenceEvaluator

    feeds = {n: draft.constants[n] for n in node.input if n}
    try:
        results = ReferenceEvaluator(node, opsets={"": draft.opset}).run(None, feeds)
    except Exception as error:  # the evaluator raises whatever numpy or its operators raise
        raise ModelError(f"{where}: cannot be evaluated on its constants: {error}") from error
    return [np.asarray(r) for r in results]


def _constant(draft: Draft, node: onnx.NodeProto) -> NDArray[Any]:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtypes:
        raise UnsupportedModel(f"{draft.name}: {describe(node)}: found a {attribute.name} attribute")
    return np.array(value, dtypes[attribute.name])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
