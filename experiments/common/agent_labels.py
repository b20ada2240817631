"""What the shipped agent learns from: cases, each with the best strategy that is known for it.

A label is a line of JSON: the case, and a strategy as the search holds it. Labels come from short searches first, and
from the agent's own polished proposals later, where those are better (expert iteration: Anthony et al., "Thinking Fast
and Slow with Deep Learning and Tree Search", NeurIPS 2017).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from distredge.errors import DistredgeError
from distredge.experiments.common.agent_cases import TRAINING_MODELS, AgentCase, draw_case
from distredge.experiments.common.agent_models import PREFIX
from distredge.experiments.common.records import append_line
from distredge.planners.agent import planning
from distredge.planners.agent.policy import load_policy
from distredge.planners.agent.proposals import alone, best_proposals, propose
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.annealing.polishing import polish
from distredge.planners.annealing.strategy_arrays import Batch, joined
from distredge.planners.budget import Budget

SIZES = ((2, 4), (3, 6), (4, 8), (6, 12), (10, 16))
"""Fewest and most devices of a case: each range is drawn with its share."""

SIZE_SHARES = (0.2, 0.26, 0.17, 0.13, 0.24)

DRAWN_MODELS = 0.85
"""Share of cases with a model of `agent_models` instead of one of the zoo's."""

FIRST_S, LITTLE, KEPT_IF_LITTLE = 0.06, 1.03, 0.2
"""Seconds of a first search; what is gained over the best single device by then that counts as little; and the share of
such cases that are kept, with what was found: there is little to learn from them."""


PROPOSALS = 520
"""Strategies that a policy proposes for a label."""


class Label(Struct, frozen=True, kw_only=True):
    """A case and the best strategy that is known for it.

    Attributes:
        seed: that the case was drawn with.
        case: the problem.
        cuts: index into `graph.cuts` of each volume's end.
        rows: (n_volumes, n_devices + 1) cut points.
        order: device at each slab position.
        head: slab position of the head device.
        wires, boundary: of each volume, as in a `Batch`.
        latency_s: its latency.
        offload_s: of the best single device.
        origin: "search", or the round of expert iteration that found it.
    """

    seed: int
    case: AgentCase
    cuts: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    head: int
    wires: tuple[int, ...]
    boundary: tuple[int, ...]
    latency_s: float
    offload_s: float
    origin: str = "search"


def drawn(seed: int) -> AgentCase:
    """The training case of a seed."""
    rng = np.random.default_rng((seed, 15))
    sizes = SIZES[int(rng.choice(len(SIZES), p=SIZE_SHARES))]
    models = (f"{PREFIX}{seed}",) if rng.random() < DRAWN_MODELS else TRAINING_MODELS
    return draw_case(rng, models, sizes, False, f"training-{seed}")


def searched(seed: int, seconds: float) -> Label | None:
    """Labels the case of a seed by a search on one thread; None if there is little to learn from it.

    Args:
        seed: of the case and of the search.
        seconds: of the processor; longer with more devices.
    """
    case = drawn(seed)
    try:
        problem = case.problem()
        search = _search(problem, FIRST_S, seed)
    except DistredgeError:
        return None
    offload_s = offload_s_of(search.pricer)
    rng = np.random.default_rng((seed, 16))
    if search.latency_s * LITTLE > offload_s:
        if rng.random() > KEPT_IF_LITTLE:
            return None
    else:
        longer = _search(problem, seconds * (1.0 + max(0, len(case.boards) - 4) / 6.0), seed)
        search = min(search, longer, key=lambda s: s.latency_s)
    return label_of(seed, case, search.found, search.latency_s, offload_s, "search")


def proposed(
    seed: int, case: AgentCase, policy: Path | bytes, seconds: float, origin: str, known: Label | None
) -> Label | None:
    """Labels a case by what a policy proposes and some polish, and by what was known before, if that is better.

    Args:
        seed: of the case.
        case: the problem.
        policy: its file, or what is in it.
        seconds: of polish, on the processor; longer with more devices.
        origin: what to call the round.
        known: the label so far, whose strategy is polished with the others.
    """
    try:
        codec = Codec(case.problem())
        pricer = BatchPricer(codec, Budget(evaluations=1))
        pricer.fill()
        found = propose(pricer, PROPOSALS, seed, policy=load_policy(policy, 1))
    except DistredgeError:
        return None
    offload_s = offload_s_of(pricer)
    if known is not None:
        found = joined([found, batch_of(known, codec)])
    longer_s = seconds * (1.0 + max(0, len(case.boards) - 4) / 6.0)
    best, latency_s = polish(pricer, found, Budget(longer_s, clock=time.process_time), seed)
    if known is not None and known.latency_s <= latency_s[0]:
        return known
    if len(latency_s) == 0:
        return None
    little = known is None and latency_s[0] * LITTLE > offload_s
    if little and seed % round(1 / KEPT_IF_LITTLE):
        return None
    return label_of(seed, case, best, float(latency_s[0]), offload_s, origin)


POLISHED_S = 0.005
"""Seconds of polish in `ratios`."""


def ratios(label: Label, policy: Path | bytes) -> tuple[float, float]:
    """Images per second of a policy over those of a label: its best proposal as it is, and after 5 ms of polish.

    Proposals are as many as the planner makes and polishes (`planners.agent.planning`).
    """
    codec = Codec(label.case.problem())
    pricer = BatchPricer(codec, Budget(evaluations=1))
    pricer.fill()
    made = best_proposals(pricer, planning.PROPOSALS, planning.POLISHED, label.seed, load_policy(policy, 1))
    _, latency_s = polish(pricer, made[0], Budget(POLISHED_S, clock=time.process_time), label.seed)
    return label.latency_s / float(made[1][0]), label.latency_s / float(latency_s[0])


class _Found(Search):
    """A search whose best strategy is kept as arrays."""

    found: Batch


def _search(problem: Any, seconds: float, seed: int) -> _Found:
    search = _Found(problem, Budget(seconds, clock=time.process_time), seed, threads=1)
    strategy = search.run()
    search.found = search.codec.encode([strategy])
    return search


def offload_s_of(pricer: BatchPricer) -> float:
    """Latency of the best single device in seconds, by the kernel."""
    return float(pricer.price(alone(pricer.codec), again=True).min())


def label_of(seed: int, case: AgentCase, batch: Batch, latency_s: float, offload_s: float, origin: str) -> Label:
    """The first strategy of a batch as the label of a case."""
    count = int((batch.cuts[0] >= 0).sum())
    return Label(
        seed=seed, case=case, cuts=tuple(batch.cuts[0, :count].tolist()),
        rows=tuple(tuple(row) for row in batch.rows[0, :count].tolist()), order=tuple(batch.order[0].tolist()),
        head=int(batch.head[0]), wires=tuple(batch.wires[0, :count].tolist()),
        boundary=tuple(batch.boundary[0, :count].tolist()), latency_s=latency_s, offload_s=offload_s, origin=origin,
    )  # fmt: skip


def batch_of(label: Label, codec: Codec) -> Batch:
    """The strategy of a label, as a batch of one."""
    batch, count = codec.empty(1), len(label.cuts)
    batch.cuts[0, :count], batch.rows[0, :count] = label.cuts, label.rows
    batch.order[0], batch.head[0] = label.order, label.head
    batch.wires[0, :count], batch.boundary[0, :count] = label.wires, label.boundary
    return batch


def read_labels(path: Path) -> list[Label]:
    """All labels of a file, the last of each seed; none if it is missing. A line cut short by a stop is left out."""
    found: dict[int, Label] = {}
    for label in _lines(path):
        found[label.seed] = label
    return list(found.values())


def _lines(path: Path) -> Iterator[Label]:
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Label)
    for line in path.read_bytes().splitlines():
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:
            continue


def write_label(path: Path, label: Label) -> None:
    """Adds a label to a file."""
    append_line(path, msgspec.json.encode(label))
