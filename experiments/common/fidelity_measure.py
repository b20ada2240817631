"""Predicting and measuring the strategies of a set-up on one testbed that stands meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence

from distredge.cluster import LinkModel
from distredge.errors import DistredgeError
from distredge.experiments.common.fidelity_beds import Bed, Frames, OpenBed, open_bed
from distredge.experiments.common.fidelity_draw import Draft, SetUp, drafts
from distredge.experiments.common.fidelity_records import Role, Run, profiles_of
from distredge.experiments.common.fidelity_strategies import EVALUATIONS, computing, inputs_for, make_strategy
from distredge.experiments.common.records import compact
from distredge.latency import evaluate, simulate
from distredge.model.graph import Graph
from distredge.model.wires import EXACT_WIRES, is_packed
from distredge.planners import plan
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.strategy import Strategy

MEASURED_S = 4.0
"""Seconds that the frames of one strategy take, about."""

FEWEST, MOST = 10, 40
WARM_UP = 2
AUTO_ROUNDS, AUTO_FRAMES = 4, 5

Note = Callable[[str], None]
Failed = Callable[[str, DistredgeError], None]


def predict(
    problem: Problem,
    strategy: Strategy,
    link_model: LinkModel,
    in_flight: int = 1,
    starts_s: Sequence[float] = (),
    frames: int = MOST,
) -> float:
    """Median latency under a link model.

    Args:
        problem: model and cluster.
        strategy: what is run.
        link_model: replaces the cluster's.
        in_flight: images under way at once.
        starts_s: when images start, on the links' traces; empty where links are constant.
        frames: images that are run when several are under way.
    """
    seen = dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, link_model=link_model))
    if in_flight == 1:
        return statistics.median(evaluate(seen, strategy, start_s=start_s) for start_s in starts_s or (0.0,))
    begin_s = starts_s[0] if starts_s else 0.0
    timeline = simulate(seen, strategy, frames=in_flight + frames, in_flight=in_flight, start_s=begin_s)
    return statistics.median(timeline.frame_latency_s[in_flight:])


def key_of(set_up: SetUp, draft: Draft) -> str:
    """Names a strategy in the records."""
    return f"{set_up.name}-{draft.number}"


def auto_problems(problem: Problem, set_up: SetUp) -> dict[str, Problem]:
    """What `auto` may use: everything that leaves the output as it is and can be told there, or plain float32."""
    wires = tuple(wire for wire in EXACT_WIRES if set_up.real or not is_packed(wire))
    return {"auto-lossless": Problem.lossless(problem.graph, problem.cluster, wires=wires), "auto-float32": problem}


def missing_keys(set_up: SetUp, done: set[str]) -> list[str]:
    """Strategies of a set-up that are not on record, those of `auto` included."""
    wanted = [key_of(set_up, draft) for draft in drafts(set_up)]
    if set_up.part == "test":
        wanted += [f"{set_up.name}-auto-lossless", f"{set_up.name}-auto-float32"]
    return [key for key in wanted if key not in done]


def run_set_up(
    set_up: SetUp,
    graph: Graph,
    own: ComputeProfile,
    done: set[str],
    note: Note = lambda text: None,
    failed: Failed = lambda key, error: None,
    bed_of: OpenBed = open_bed,
) -> Iterator[Run]:
    """Measures what is not on record, one after the other on one testbed; nothing is set up when nothing is missing.

    Args:
        set_up: what to set up.
        graph: its model.
        own: profile of this machine.
        done: keys that are on record.
        note: told what comes next.
        failed: told what could not be measured, and why.
        bed_of: makes the testbed.
    """
    missing = set(missing_keys(set_up, done))
    if not missing:
        return
    problem = Problem(graph, set_up.cluster(own))
    strategies: list[tuple[Draft, Strategy]] = []
    for draft in drafts(set_up):
        if key_of(set_up, draft) in missing:
            note(f"{key_of(set_up, draft)}: {draft.method} plans")
            strategies.append((draft, make_strategy(problem, draft)))
    pairs = []
    for name, offered in auto_problems(problem, set_up).items():
        if f"{set_up.name}-{name}" in missing:
            note(f"{set_up.name}-{name}: plans")
            chosen, alone = (
                plan(offered, method, evaluations=EVALUATIONS, seed=set_up.number) for method in ("auto", "offload")
            )
            pairs.append((f"{set_up.name}-{name}", chosen, alone))
    note(f"{set_up.name}: sets up {len(set_up.boards)} boards")
    with bed_of(problem, set_up) as bed:
        for draft, strategy in strategies:
            key = key_of(set_up, draft)
            note(f"{key}: {strategy.planner.method} on {set_up.model}")
            try:
                yield _measured(bed, problem, set_up, draft, strategy)
            except DistredgeError as error:
                failed(key, error)
        for number, (key, chosen, alone) in enumerate(pairs):
            note(f"{key}: in turn with one board")
            draft = Draft(-1 - number, "auto", set_up.number, False, "float32", chosen.input.dtype, 1)
            try:
                yield _interleaved(bed, problem, set_up, draft, chosen, alone, key)
            except DistredgeError as error:
                failed(key, error)


def _measured(bed: Bed, problem: Problem, set_up: SetUp, draft: Draft, strategy: Strategy) -> Run:
    inputs = inputs_for(problem.graph, strategy)
    expected_s = predict(problem, strategy, "shared", draft.in_flight)
    # The dilation is known only once the first frames have run.
    first = bed.measure(problem, strategy, inputs, FEWEST, draft.in_flight, WARM_UP)
    taken_s = max(1e-6, expected_s * first.dilation * FEWEST)
    more = min(MOST, round(FEWEST * MEASURED_S / taken_s)) - FEWEST
    parts = [first]
    if more > 0:
        parts.append(bed.measure(problem, strategy, inputs, more, draft.in_flight, WARM_UP))
    role: Role = "this-machine" if set_up.kind == "this-machine" else "strategy"
    return run_of(parts, bed, problem, set_up, draft, strategy, role, key_of(set_up, draft))


def _interleaved(
    bed: Bed, problem: Problem, set_up: SetUp, draft: Draft, chosen: Strategy, alone: Strategy, key: str
) -> Run:
    """`auto`'s plan and the best single device in turn, the order changing, so that both see the same machine."""
    parts: dict[str, list[Frames]] = {"chosen": [], "alone": []}
    for turn in range(AUTO_ROUNDS):
        order = (("chosen", chosen), ("alone", alone))
        for name, strategy in order if turn % 2 == 0 else order[::-1]:
            inputs = inputs_for(problem.graph, strategy)
            parts[name].append(bed.measure(problem, strategy, inputs, AUTO_FRAMES, 1, WARM_UP))
    run = run_of(parts["chosen"], bed, problem, set_up, draft, chosen, "auto", key)
    offload_s = tuple(itertools.chain.from_iterable(part.latencies_s for part in parts["alone"]))
    starts_s = tuple(itertools.chain.from_iterable(part.starts_s for part in parts["alone"]))
    predicted_s = predict(problem, alone, "shared", 1, starts_s if set_up.traced else ())
    return dataclasses.replace(run, offload_s=offload_s, predicted_offload_s=predicted_s)


def run_of(
    parts: Sequence[Frames],
    bed: Bed,
    problem: Problem,
    set_up: SetUp,
    draft: Draft,
    strategy: Strategy,
    role: Role,
    key: str,
) -> Run:
    """The record of one strategy's frames, which may have been measured in several parts."""
    starts_s = tuple(itertools.chain.from_iterable(part.starts_s for part in parts)) if set_up.traced else ()
    return Run(
        key=key,
        role=role,
        part=set_up.part,
        kind=set_up.kind,
        model=set_up.model,
        cluster=problem.cluster.name,
        method=strategy.planner.method,
        set_up=set_up.to_fields(),
        draft=dataclasses.asdict(draft),
        strategy=compact(strategy),
        boards=len(set_up.boards),
        computing=computing(strategy),
        volumes=len(strategy.volumes),
        in_flight=draft.in_flight,
        predicted_shared_s=predict(problem, strategy, "shared", draft.in_flight, starts_s),
        predicted_independent_s=predict(problem, strategy, "independent", draft.in_flight, starts_s),
        latencies_s=tuple(itertools.chain.from_iterable(part.latencies_s for part in parts)),
        frames=sum(part.frames for part in parts),
        invalid=sum(part.invalid for part in parts),
        # "auto" finds it anew for each part.
        dilation=max(part.dilation for part in parts),
        mode=bed.mode,
        engine=set_up.engine,
        profiles=profiles_of(problem.cluster),
        processor_share=round(statistics.fmean(part.processor_share for part in parts), 4),
        starts_s=starts_s,
    )


def predicted_anew(run: Run, graph: Graph, own: ComputeProfile) -> tuple[float, float] | None:
    """Both predictions of a record under today's cost model; None where the boards' profiles are others now.

    Args:
        run: a record.
        graph: its model.
        own: profile of this machine that the record was measured with.
    """
    problem = Problem(graph, SetUp.from_fields(run.set_up).cluster(own))
    if profiles_of(problem.cluster) != run.profiles:
        return None
    try:
        strategy = run.strategy_again()
        return (
            predict(problem, strategy, "shared", run.in_flight, run.starts_s),
            predict(problem, strategy, "independent", run.in_flight, run.starts_s),
        )
    except DistredgeError:
        return None
