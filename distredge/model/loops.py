"""Graphs inside nodes become nodes of the graph around them: a branch that is taken, the rounds of a loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from distredge.errors import UnsupportedModel
from distredge.model.draft import Draft, rename_inputs, sorted_nodes, subgraphs
from distredge.model.infer import describe

END_BEFORE = "end the model before it with `outputs`"


def alias(aliases: dict[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    """Notes that tensors are others by now: (name, the other's name); what stood for one stands for the other."""
    for outer, inner in pairs:
        if outer:
            target = aliases.get(inner, inner)
            aliases.update({name: target for name, found in aliases.items() if found == outer} | {outer: target})


def inlined(draft: Draft, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Gives a draft the constants of a graph inside a node; returns its nodes in topological order."""
    if graph.sparse_initializer:
        raise UnsupportedModel(f"{draft.name}: sparse initializers are not supported; save the weights dense")
    draft.constants.update((t.name, numpy_helper.to_array(t)) for t in graph.initializer)
    return sorted_nodes(graph.node, draft.name)


@dataclass(frozen=True)
class Loop:
    """A Loop node before one of its rounds (Loop-13).

    Attributes:
        node: the node.
        body: its graph, whose names no other tensor has.
        rounds: how many at most; None: no limit.
        condition: name of the tensor that says whether there is one more; "": always.
        carried: tensors that the next round begins with.
        scanned: what each round before has made for each scan output.
    """

    node: onnx.NodeProto
    body: onnx.GraphProto
    rounds: int | None
    condition: str
    carried: tuple[str, ...]
    scanned: tuple[tuple[str, ...], ...]

    @classmethod
    def first(cls, draft: Draft, node: onnx.NodeProto) -> Loop:
        """Returns a Loop before its first round.

        Raises:
            UnsupportedModel: if how many rounds it has depends on the input.
        """
        limit, condition = node.input[0], node.input[1]
        if limit and limit not in draft.constants:
            raise depends_on_data(draft, node, f"the number of its rounds, '{limit}',")
        rounds = int(draft.constants[limit].reshape(-1)[0]) if limit else None
        return cls(node, subgraphs(node)[0], rounds, condition, tuple(node.input[2:]), ())

    def following(self, draft: Draft, aliases: dict[str, str]) -> list[onnx.NodeProto | Loop]:
        """Returns the nodes of the next round with the loop after it; after the last round, what joins the results.

        Raises:
            UnsupportedModel: if whether there is a next round depends on the input.
        """
        condition = aliases.get(self.condition, self.condition)
        carried = tuple(aliases.get(n, n) for n in self.carried)
        if condition and condition not in draft.constants:
            raise depends_on_data(draft, self.node, f"whether it goes on, '{condition}',")
        goes_on = not condition or bool(draft.constants[condition].reshape(-1)[0])
        if not goes_on or len(self.scanned) == self.rounds:
            return list(self._joined(draft, carried, aliases))
        body = draft.copy_of(self.body)
        number, again, *begin = (v.name for v in body.input)
        draft.constants[number] = np.array(len(self.scanned), np.int64)
        draft.constants[again] = np.array(True)
        names = dict(zip(begin, carried, strict=True))
        rename_inputs(body.node, names)
        nodes = inlined(draft, body)
        goes, *made = (names.get(v.name, v.name) for v in body.output)
        count = len(carried)
        later = replace(self, condition=goes, carried=tuple(made[:count]), scanned=(*self.scanned, tuple(made[count:])))
        return [*nodes, later]

    def _joined(self, draft: Draft, carried: tuple[str, ...], aliases: dict[str, str]) -> list[onnx.NodeProto]:
        nodes = []
        alias(aliases, zip(self.node.output, carried, strict=False))
        axis = draft.fresh(f"{self.node.output[0] or self.node.name}/axis")
        draft.constants[axis] = np.array([0], np.int64)
        for place, output in enumerate(self.node.output[len(carried) :]):
            parts = [draft.fresh(f"{output}/round") for _ in self.scanned]
            if not output:
                continue
            if not parts:
                raise UnsupportedModel(
                    f"{draft.name}: {describe(self.node)}: it has no round, so that '{output}' is empty; {END_BEFORE}"
                )
            for part, made in zip(parts, (scanned[place] for scanned in self.scanned), strict=True):
                nodes.append(helper.make_node("Unsqueeze", [aliases.get(made, made), axis], [part], name=part))
            nodes.append(helper.make_node("Concat", parts, [output], axis=0, name=self.node.name or output))
        return nodes


def depends_on_data(draft: Draft, node: onnx.NodeProto, what: str) -> UnsupportedModel:
    """Returns the error for control flow of which `what` is no constant."""
    return UnsupportedModel(
        f"{draft.name}: {describe(node)}: control flow that depends on data: {what} follows from the input; "
        f"{END_BEFORE}"
    )
