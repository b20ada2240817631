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
from distredge.model.infer import describe, static_shape

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is no function of their inputs."""

FOLD_LIMIT = 1 << 28
"""Elements above which a constant sub-expression is refused: a gigabyte of float32 from a few bytes of graph."""

MAX_SPLICED = 10_000
"""Nodes that constant `If` nodes may bring in."""


def fold(draft: Draft) -> None:
    """Folds a draft in place, in one pass over its nodes, and types every tensor.

    Constant nodes and sub-expressions of constants become constants, as do Shape and Size of a static shape; an If
    with a constant condition is replaced by its branch.

    Raises:
        UnsupportedModel: if a tensor's shape depends on data, or control flow remains.
        ModelError: if a node contradicts its operator's rules.
    """
    draft.types = dict(draft.inputs)
    pending = list(reversed(draft.nodes))
    kept: list[onnx.NodeProto] = []
    aliases: dict[str, str] = {}
    spliced = 0
    while pending:
        node = pending.pop()
        rename_inputs([node], aliases)
        if node.op_type == "If" and node.input[0] in draft.constants:
            branch = _branch(draft, node, aliases)
            spliced += len(branch)
            if spliced > MAX_SPLICED:
                raise UnsupportedModel(f"{draft.name}: {describe(node)}: its branches bring too many nodes")
            pending.extend(reversed(branch))
            continue
        if subgraphs(node):
            raise UnsupportedModel(
                f"{draft.name}: {describe(node)}: control flow that depends on data cannot be split; end the model "
                "before it with `outputs`"
            )
        if _fold_node(draft, node):
            continue
        found = draft.infer(node)
        for name in node.output:
            if name in draft.types or name in draft.constants:
                raise ModelError(f"{draft.name}: {describe(node)}: another node makes '{name}' too")
            if name:
                draft.types[name] = require_static(found.get(name), node, name, draft.name)
        kept.append(node)
    draft.outputs = [aliases.get(n, n) for n in draft.outputs]
    draft.nodes = kept
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


def _branch(draft: Draft, node: onnx.NodeProto, aliases: dict[str, str]) -> list[onnx.NodeProto]:
    taken = bool(draft.constants[node.input[0]].reshape(-1)[0])
    wanted = "then_branch" if taken else "else_branch"
    graph = next(a.g for a in node.attribute if a.name == wanted)
    for initializer in graph.initializer:
        if initializer.name in draft.constants or initializer.name in draft.types:
            raise ModelError(f"{draft.name}: {describe(node)}: the name '{initializer.name}' is used twice")
        draft.constants[initializer.name] = numpy_helper.to_array(initializer)
    for outer, inner in zip(node.output, graph.output, strict=True):
        aliases[outer] = aliases.get(inner.name, inner.name)
    return list(graph.node)


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
