"""What the shipped agent sees of a problem: one token for each device at each cut that may end a volume.

Seconds stand in units of a problem's own: the least time in which one device alone could do everything, by a rough sum.
So neither the boards' speed nor the size of the model matters, but how computing compares with sending. What spans
orders of magnitude is taken as a logarithm.

What depends on a model and a board alone is computed once (`ModelFacts`, `BoardFacts`); rates are looked up each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distredge.latency.beside import beside
from distredge.latency.kernel.arguments import INSIDE
from distredge.model.wires import FLOAT32_BYTES, WIRE_BYTES, wire_of_number

if TYPE_CHECKING:
    from distredge.latency.kernel.kernel import Kernel
    from distredge.model.graph import Graph
    from distredge.planners.annealing.batch_pricing import BatchPricer
    from distredge.planners.annealing.encoding import Codec
    from distredge.profiles.part_costs import PartCosts

Floats = NDArray[np.float64]

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the rows at which a segment's seconds are seen: small parts are dear on large boards."""

DEVICE_FEATURES, CUT_FEATURES, TOKEN_FEATURES = 26, 10, 9
"""Of a device, of a cut, and of a device at a cut."""

FEATURES = DEVICE_FEATURES + CUT_FEATURES + TOKEN_FEATURES
PLACE = DEVICE_FEATURES - 3
"""Column of the place, from -1 to 1, in which a device stands."""

LAYOUT = 1
"""Number of the layout of these features: a policy says which one it was trained on."""


@dataclass(frozen=True)
class ModelFacts:
    """What is seen of a model and its candidate cuts, whatever the boards.

    Attributes:
        heights: (n_cuts,) rows at each candidate.
        alive_bytes: (n_cuts,) float32 bytes of what is alive there.
        input_elements: of all inputs.
        result_bytes: of all outputs.
        segments: operators of the body between each candidate and the one before it, (operator, rows of its output).
        halo: (n_cuts,) share of a map's rows that each segment's windows reach beyond a part, about.
    """

    heights: NDArray[np.int64]
    alive_bytes: Floats
    input_elements: int
    result_bytes: int
    segments: tuple[tuple[tuple[int, int], ...], ...]
    halo: Floats


@dataclass(frozen=True)
class BoardFacts:
    """What is seen of a board for a model's segments.

    Attributes:
        seconds: (n_cuts, len(SHARES)) of each segment with such shares of its rows.
        overhead_s: of any part.
    """

    seconds: Floats
    overhead_s: float


MOST_BOARDS = 64
"""Boards whose facts are kept for one model."""


def features(pricer: BatchPricer, order: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Returns what the agent sees of a problem whose devices stand in some order.

    Args:
        pricer: of the problem; its kernel has the links.
        order: (n_devices,) index into the cluster's devices of each slab position.

    Returns:
        (n_devices, n_cuts, FEATURES) float32, and the unit of time in seconds.
    """
    codec, kernel = pricer.codec, pricer.kernel
    model = model_facts(codec)
    boards = [board_facts(kernel, codec, int(column)) for column in kernel.links.profile_of[0]]
    seconds = np.array([board.seconds for board in boards])
    head_s = kernel.arguments().head_seconds[kernel.links.profile_of[0]]
    overhead_s = np.array([board.overhead_s for board in boards])
    links = _Links(kernel, len(boards))
    input_bytes = model.input_elements * WIRE_BYTES[wire_of_number(codec.problem.input_dtypes)[codec.input_wire]]
    body_s = seconds[:, :, 0].sum(axis=1) + overhead_s
    alone_s = (
        links.from_requester[:, 0] + links.from_requester[:, 1] * input_bytes + body_s + head_s
        + links.to_requester[:, 0] + links.to_requester[:, 1] * model.result_bytes
    )  # fmt: skip
    unit_s = float(alone_s.min())
    if not math.isfinite(unit_s):
        unit_s = float((body_s + head_s).min())
    device = _device_features(codec, links, body_s, head_s, overhead_s, alone_s, input_bytes, model, unit_s)
    cut = _cut_features(model, input_bytes)
    token = _token_features(model, seconds, links, unit_s)
    count, cuts = token.shape[:2]
    found = np.empty((count, cuts, FEATURES), np.float32)
    place = np.arange(count)
    found[:, :, :DEVICE_FEATURES] = _placed(device[order], place, codec)[:, None]
    found[:, :, DEVICE_FEATURES : DEVICE_FEATURES + CUT_FEATURES] = cut[None]
    found[:, :, DEVICE_FEATURES + CUT_FEATURES :] = token[order]
    return found, unit_s


class _Links:
    """What messages cost each of D devices, from the kernel's arrays.

    Attributes:
        from_requester, to_requester: (D, 2) fixed seconds, and seconds per byte, of one message.
        send, receive: (D, 2) the same with the other devices, on average.
        sides: (D, 2) seconds per byte of the uplink and the downlink.
        handling: (D, 6) seconds that a message takes of the processor, as `arguments.LinkArrays` says.
        inside: (D,) share of the others that are on the same computer.
        crowded: (D,) threads of its host's devices over its cores.
        board: (D,) whether it is the requester's.
        requester: (2,) seconds per byte of the requester's uplink and downlink.
    """

    def __init__(self, kernel: Kernel, count: int) -> None:
        arrays = kernel.links
        n = arrays.profile_of.shape[1]
        devices = np.arange(count)
        with np.errstate(divide="ignore"):
            access = 8.0 / arrays.access.reshape(-1, n + 1, 2)[0]
        pair = arrays.pair.reshape(-1, n + 1, n + 1, 5)[0]
        self.handling = arrays.handling.reshape(-1, n + 1, 6)[0][devices]
        over = np.where(pair[:, :, 2] == INSIDE, 0.0, pair[:, :, 2])
        # Where a rate varies its mean stands for it.
        over = np.where(over < 0, np.maximum(access[:, None, 0], access[None, :, 1]), over)
        cost = np.stack([pair[:, :, 0] + pair[:, :, 3], pair[:, :, 1] + over + pair[:, :, 4]], axis=2)
        cost[..., 0] += arrays.handling.reshape(-1, n + 1, 6)[0][:, None, 0]
        cost[..., 0] += arrays.handling.reshape(-1, n + 1, 6)[0][None, :, 3]
        self.from_requester, self.to_requester = cost[n, devices], cost[devices, n]
        others = ~np.eye(count, dtype=bool)
        some = max(1, count - 1)
        among = np.where(others[..., None], cost[np.ix_(devices, devices)], 0.0)
        self.send, self.receive = among.sum(axis=1) / some, among.sum(axis=0) / some
        self.sides, self.requester = access[devices], access[n]
        same = arrays.computer[0][devices][:, None] == arrays.computer[0][devices][None]
        self.inside = (same & others).sum(axis=1) / some
        self.crowded = (same * arrays.threads[0][devices][None]).sum(axis=1) / arrays.cores[0][devices]
        self.board = (devices == arrays.board[0]).astype(np.float64)


def model_facts(codec: Codec) -> ModelFacts:
    """Returns what is seen of a problem's model, computed once."""
    shelf = beside(codec.problem.graph)
    return shelf.get("agent's model", tuple(codec.candidates), lambda: _model_facts(codec))


def _model_facts(codec: Codec) -> ModelFacts:
    graph = codec.problem.graph
    segments, halo, before = [], [], 0
    for index in codec.candidates:
        cut = graph.cuts[index]
        operators = [graph.body.operators[place] for place in range(before, cut.position)]
        segments.append(tuple((i, graph.tensors[graph.operators[i].outputs[0]].height) for i in operators))
        halo.append(_halo(graph, operators))
        before = cut.position
    return ModelFacts(
        heights=np.array([graph.cuts[i].height for i in codec.candidates], np.int64),
        alive_bytes=np.array(
            [sum(graph.tensors[t].elements for t in graph.cuts[i].tensors) * FLOAT32_BYTES for i in codec.candidates],
            np.float64,
        ),
        input_elements=sum(graph.tensors[name].elements for name in graph.input_names),
        result_bytes=sum(graph.tensors[name].size_bytes for name in graph.output_names),
        segments=tuple(segments),
        halo=np.array(halo, np.float64),
    )


def _halo(graph: Graph, operators: list[int]) -> float:
    """Share of a map's rows that the windows of a segment's operators reach beyond it, about."""
    reach = 0.0
    for i in operators:
        signature, read = graph.signatures[i], graph.operators[i].activation_names
        if signature is not None and signature.kernel and read:
            reach += (signature.kernel[0] - 1) / max(graph.tensors[read[0]].height, 1)
    return min(1.0, reach)


def board_facts(kernel: Kernel, codec: Codec, column: int) -> BoardFacts:
    """Returns what is seen of one of a kernel's boards, computed once for a model and a profile."""
    costs = kernel.tables.costs[column]
    key = costs.profile, tuple(codec.candidates)
    return beside(codec.problem.graph).get("agent's boards", key, lambda: _board_facts(costs, codec), MOST_BOARDS)


def _board_facts(costs: PartCosts, codec: Codec) -> BoardFacts:
    terms = costs.terms
    seconds = np.zeros((len(codec.candidates), len(SHARES)))
    for c, segment in enumerate(model_facts(codec).segments):
        for operator, rows in segment:
            table = costs.table(operator)
            if table is not None:
                seconds[c] += [table[min(math.ceil(share * rows), len(table) - 1)] for share in SHARES]
    return BoardFacts(seconds * float(terms.factor), float(terms.overhead_s))


def _log(values: Floats | float) -> Floats:
    """A logarithm of what may be 0 or infinite, some -3 to 3."""
    return np.asarray(np.log10(np.clip(values, 1e-6, 1e3)) / 1.5 + 2.0 / 1.5)


def _device_features(
    codec: Codec, links: _Links, body_s: Floats, head_s: Floats, overhead_s: Floats, alone_s: Floats, input_bytes: int,
    model: ModelFacts, unit_s: float,
) -> Floats:  # fmt: skip
    """(n_devices, DEVICE_FEATURES) with room at the end for where it stands."""
    count = len(body_s)
    mean_bytes = float(model.alive_bytes.mean())
    found = np.zeros((count, DEVICE_FEATURES))
    columns = [
        _log(body_s / unit_s), _log(head_s / unit_s), _log(overhead_s / unit_s), _log(alone_s / unit_s),
        _log(links.from_requester[:, 0] / unit_s), _log(links.from_requester[:, 1] * input_bytes / unit_s),
        _log(links.to_requester[:, 0] / unit_s), _log(links.to_requester[:, 1] * model.result_bytes / unit_s),
        _log(links.send[:, 0] / unit_s), _log(links.send[:, 1] * mean_bytes / unit_s),
        _log(links.receive[:, 0] / unit_s), _log(links.receive[:, 1] * mean_bytes / unit_s),
        _log(links.handling[:, 0] / unit_s), _log(links.handling[:, 1] * mean_bytes / unit_s),
        _log(links.handling[:, 5] * mean_bytes / unit_s),
        links.board, links.inside, np.minimum(links.crowded, 4.0) / 2.0,
        np.full(count, float(_log(links.requester[0] * input_bytes / unit_s))),
    ]  # fmt: skip
    for k, column in enumerate(columns):
        found[:, k] = column
    problem = codec.problem
    flags = [
        float(problem.cluster.link_model == "shared"), float(codec.choices.boundary), float(codec.choices.packing),
        math.log2(count) / 4.0,
    ]  # fmt: skip
    found[:, len(columns) : len(columns) + len(flags)] = flags
    return found


def _placed(device: Floats, place: NDArray[np.int64], codec: Codec) -> Floats:
    """The same with where each device stands: its place, and how far it is from an edge."""
    count = len(place)
    if count > 1:
        device[:, PLACE] = 2.0 * place / (count - 1) - 1.0
        device[:, -2] = (place == 0) | (place == count - 1)
    device[:, -1] = float(codec.choices.free_order)
    return device


def _cut_features(model: ModelFacts, input_bytes: int) -> Floats:
    """(n_cuts, CUT_FEATURES)."""
    count = len(model.heights)
    alive = model.alive_bytes
    before = np.concatenate([[input_bytes], alive[:-1]])
    shrinks = np.concatenate([[1.0], model.heights[:-1] / model.heights[1:]])
    found = np.zeros((count, CUT_FEATURES))
    columns = [
        np.log2(model.heights) / 4.0 - 1.0, _log(alive / max(input_bytes, 1)), _log(alive / alive.max()),
        np.log2(alive / np.maximum(before, 1)) / 4.0, np.log2(np.maximum(shrinks, 1e-3)) / 2.0,
        np.arange(count) / count, np.arange(count)[::-1] / count, np.arange(count) == count - 1,
        model.halo, np.full(count, math.log2(count) / 6.0),
    ]  # fmt: skip
    for k, column in enumerate(columns):
        found[:, k] = column
    return found


def _token_features(model: ModelFacts, seconds: Floats, links: _Links, unit_s: float) -> Floats:
    """(n_devices, n_cuts, TOKEN_FEATURES)."""
    whole = seconds[:, :, 0]
    done = np.cumsum(whole, axis=1)
    with np.errstate(invalid="ignore"):
        columns = [
            *(_log(seconds[:, :, k] / unit_s) for k in range(len(SHARES))),
            done / np.maximum(done[:, -1:], 1e-12),
            _log(links.sides[:, :1] * model.alive_bytes[None] / unit_s),
            _log(links.sides[:, 1:] * model.alive_bytes[None] / unit_s),
            np.log2(np.maximum(whole, 1e-9) / np.maximum(whole.min(axis=0), 1e-9)[None]) / 4.0,
            whole / np.maximum(whole.sum(axis=1, keepdims=True), 1e-12) * 4.0,
        ]
    return np.stack(columns, axis=2)
