"""Every planner on the 32 cases that DistrEdge publishes, in several regimes, and on cases drawn at random.

    python experiments/planner_quality.py --quick     price what is on record, run `search` and `auto` while time allows
    python experiments/planner_quality.py --full      run what is not on record yet; it may be stopped at any time
    python experiments/planner_quality.py --quick --regime paper --cases db-50,resnet50:na-nano
    python experiments/planner_quality.py --records --regime all

Regimes: see experiments/common/regimes.py; `shared-lossless` unless `--regime` says otherwise. All latencies are
simulated. `--full` adds every run to experiments/results/planner_quality/REGIME.jsonl with its seed, budget, date and
number of processors; strategies that took long are kept there and priced again each time. `search` and `auto` are given
1 s up to 4 devices and 5 s with more, on the clock; with `--busy`, for when other programs run as well, the processor
seconds that all cores have in that time. In the random cases, and all others, budgets are in processor seconds of all
threads together: 60, in the random cases 3 for the methods that only follow rules.

Prints a table of images per second (below them in each case those that DistrEdge reports, figures 6 to 9), one of
ratios, and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distredge.errors import DistredgeError
from distredge.experiments.common import published
from distredge.experiments.common.draw import draw, drawn_problem
from distredge.experiments.common.quality import LONG, Outcome, published_ratio, summarise
from distredge.experiments.common.records import MethodRun, append, best_latency_s, compact, path_of, price, read
from distredge.experiments.common.regimes import DEFAULT, REGIMES, fingerprint, published_problem, seconds_for
from distredge.latency import simulate
from distredge.latency.kernel.kernel import warm
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.planners import METHODS, run
from distredge.planners.budget import Budget, PlanningProgress
from distredge.planners.lower_bound import lower_bound_s
from distredge.problem import Problem
from distredge.processors import usable_cores

QUICK_S = 150.0
LONG_S = 120.0
LONG_LEAST = 4.0
"""A search on record counts as long with at least so many times the seconds that `search` is given."""

OTHER_S = 60.0
RANDOM_CASES = 200
RANDOM_RULE_S = 3.0
"""Only `halp` takes longer; it is far from the best of them."""

ANYTIME = ("search", "auto")
RULES = tuple(name for name in METHODS if name not in (*ANYTIME, "distredge", "agent"))
STEPS = ("rules", LONG, "search", "auto", "distredge")


@dataclass(frozen=True)
class RegimeCase:
    """A problem of a regime, made when it is needed."""

    regime: str
    name: str
    model: str
    cluster: str
    make: Callable[[], Problem]


@dataclass(frozen=True)
class Job:
    """A method under a budget; `label` is its column."""

    label: str
    method: str
    budget_s: float
    clock: str


def main() -> int:
    options = _arguments()
    regimes = list(REGIMES) if options.regime == "all" else options.regime.split(",")
    cases = list(_cases(regimes, options.cases, options.random))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    warm()
    stopped = False
    if options.full:
        stopped = _fill(cases, options)
    deadline_s = time.monotonic() + (0.0 if options.full or options.records else QUICK_S)
    outcomes = []
    try:
        for case in cases:
            outcomes.append(_look(case, deadline_s, options.seed, options.busy))
    except KeyboardInterrupt:
        stopped = True
    outcomes = [o for o in outcomes if o.latency_s]
    for regime in regimes:
        _print_regime([o for o in outcomes if o.regime == regime])
    _say_sources(outcomes)
    figures = summarise(outcomes)
    print(json.dumps({**figures, "regimes": dict(Counter(o.regime for o in outcomes)), "complete": not stopped}))
    return 130 if stopped else 0


_stopped: list[int] = []


def _stop(number: int, frame: object) -> None:
    _stopped.append(number)
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="at most 5 minutes on 2 cores (the default)")
    how.add_argument("--full", action="store_true", help="run what is not on record; hours")
    how.add_argument("--records", action="store_true", help="only price what is on record")
    regimes = f"{DEFAULT} (the default), {', '.join(REGIMES)} with commas between them, or all"
    parser.add_argument("--regime", default=DEFAULT, help=regimes)
    parser.add_argument("--cases", default="all", help="cluster, model:cluster or vgg16, with commas; none; or all")
    parser.add_argument("--random", type=int, default=RANDOM_CASES, help="how many cases drawn at random to look at")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"what --full runs, in this order: {', '.join(STEPS)}")
    parser.add_argument("--again", action="store_true", help="with --full, also what is on record; the newest counts")
    parser.add_argument("--long", type=float, default=LONG_S, help=f"processor seconds of {LONG}")
    parser.add_argument("--busy", action="store_true", help="search and auto in processor seconds of all cores")
    parser.add_argument("--seed", type=int, default=0, help="of every planner")
    options = parser.parse_args()
    for key, found, accepted in (("regime", options.regime, REGIMES), ("steps", options.steps, STEPS)):
        unknown = [] if found == "all" else [name for name in found.split(",") if name not in accepted]
        if unknown:
            parser.error(f"--{key}: found {unknown[0]}, accepted: {', '.join(accepted)}")
    return options


def _cases(regimes: Sequence[str], wanted: str, random_cases: int) -> Iterator[RegimeCase]:
    known = published.cases()
    names = wanted.split(",")
    chosen = [
        (model, cluster)
        for model, cluster in known
        if wanted == "all" or {model, cluster, f"{model}:{cluster}"} & set(names)
        if model == "vgg16" or cluster not in names
    ]
    if not chosen and wanted != "none":
        raise SystemExit(f"--cases: found {wanted}, accepted: all, none, or some of "
                         + ", ".join(f"{model}:{cluster}" for model, cluster in known))  # fmt: skip
    for regime in regimes:
        for model, cluster in chosen:
            if regime != "lossless" or model == "vgg16":
                make = functools.partial(_published, model, cluster, regime)
                yield RegimeCase(regime, f"{model} on {cluster}", model, cluster, make)
    # In the order of their models, so that each is loaded once.
    numbers = range(random_cases if wanted in ("all", "none") else 0)
    for number in sorted(numbers, key=lambda n: draw(n).model):
        yield RegimeCase("random", str(number), "", "", functools.partial(drawn_problem, number))


@functools.lru_cache(maxsize=2)
def _graph(name: str) -> Graph:
    return load_model(name)


def _published(model: str, cluster: str, regime: str) -> Problem:
    return published_problem(_graph(model), cluster, regime)


@functools.lru_cache(maxsize=8)
def _records(regime: str) -> list[MethodRun]:
    return read(path_of(regime))


def _jobs(case: RegimeCase, problem: Problem, step: str, long_s: float = 0.0, busy: bool = False) -> list[Job]:
    short_s = seconds_for(problem)
    if step == "rules":
        budget_s = RANDOM_RULE_S if case.regime == "random" else OTHER_S
        return [Job(name, name, budget_s, "cpu") for name in RULES]
    if step == LONG:
        return [Job(LONG, "search", long_s, "cpu")]
    if step == "distredge":
        return [Job(step, step, OTHER_S, "cpu")]
    if busy and case.regime != "random":
        return [Job(step, step, short_s * usable_cores(), "cpu")]
    return [Job(step, step, short_s, "cpu" if case.regime == "random" else "wall")]


def _fill(cases: Sequence[RegimeCase], options: argparse.Namespace) -> bool:
    """Runs what is not on record; returns whether it was interrupted."""
    steps = options.steps.split(",")
    drawn = sorted((case for case in cases if case.regime == "random"), key=lambda case: int(case.name))
    turns = [(case, step) for step in steps for case in cases if case.regime != "random"]
    turns += [(case, step) for case in drawn for step in steps]
    try:
        for case, step in turns:
            problem = case.make()
            mark = fingerprint(problem)
            on_record = [r for r in read(path_of(case.regime)) if r.case == case.name and r.is_of(mark)]
            for job in _jobs(case, problem, step, options.long, options.busy):
                if options.again or not any(_is_of(record, job) for record in on_record):
                    append(path_of(case.regime), _run(problem, case, job, mark, options.seed))
    except KeyboardInterrupt:
        return True
    finally:
        _records.cache_clear()
    return False


def _is_of(record: MethodRun, job: Job) -> bool:
    """Whether a record is of this job; a longer search stands for a shorter one."""
    enough = record.budget_s >= job.budget_s if job.label == LONG else record.budget_s == job.budget_s
    return enough and (record.method, record.clock) == (job.method, job.clock)


def _counts_for(record: MethodRun, job: Job) -> bool:
    """Whether a record tells what a job finds: it is of it, or of what all cores do in its time, on a busy machine."""
    if job.clock == "wall" and record.clock == "cpu":
        return record.method == job.method and record.budget_s == job.budget_s * max(1, record.cores)
    return _is_of(record, job)


def _run(problem: Problem, case: RegimeCase, job: Job, mark: float, seed: int) -> MethodRun:
    """Plans once."""
    reached: list[tuple[float, float]] = []

    def note(progress: PlanningProgress) -> None:
        if math.isfinite(progress.best_latency_s) and (not reached or progress.best_latency_s < reached[-1][1]):
            reached.append((round(progress.elapsed_s, 4), progress.best_latency_s))

    clock = time.process_time if job.clock == "cpu" else time.monotonic
    cpu_s = time.process_time()
    budget = Budget(job.budget_s, None, note, clock)
    strategy, refused = None, ""
    try:
        strategy = run(problem, job.method, budget, seed)
    except DistredgeError as error:
        refused = " ".join(str(error).split())
    taken_s = budget.elapsed_s
    if _stopped:  # the planner may have returned its best so far, as it should
        raise KeyboardInterrupt
    record = MethodRun(
        case=case.name,
        method=job.method,
        budget_s=job.budget_s,
        clock=job.clock,
        seed=seed,
        latency_s=None if strategy is None else simulate(problem, strategy).latency_s,
        taken_s=round(taken_s, 4),
        cpu_s=round(time.process_time() - cpu_s, 3),
        evaluations=budget.done,
        fingerprint=mark,
        reached=tuple(reached) if job.method == "search" else (),
        strategy=compact(strategy) if strategy is not None and job.method not in RULES else None,
        refused=refused,
        cut_short=budget.cut_short,
        cores=usable_cores(),
    )
    if record.latency_s is not None:
        print(f"{case.regime}, {case.name}: {job.label} {1 / record.latency_s:.2f} IPS in {taken_s:.1f} s", flush=True)
    return record


def _look(case: RegimeCase, deadline_s: float, seed: int, busy: bool) -> Outcome:
    """What is on record for a case, and, while there is time, `search` and `auto` anew."""
    records = [r for r in _records(case.regime) if r.case == case.name]
    fresh: set[str] = set()
    if not records and (case.regime == "random" or time.monotonic() > deadline_s):
        return Outcome(case.regime, case.model, case.cluster, 0, 0.0, {})
    problem = case.make()
    mark = fingerprint(problem)
    if case.regime != "random" and time.monotonic() < deadline_s:
        for step in ("rules", "search", "auto"):
            for job in _jobs(case, problem, step, busy=busy):
                if step != "rules" or not any(_is_of(r, job) and r.is_of(mark) for r in records):
                    records.append(_run(problem, case, job, mark, seed))
                    fresh.add(job.label)
    return _outcome(case, problem, records, mark, frozenset(fresh))


def _outcome(
    case: RegimeCase, problem: Problem, records: Sequence[MethodRun], mark: float, fresh: frozenset[str]
) -> Outcome:
    found: dict[str, float] = {}
    reached: tuple[tuple[float, float], ...] = ()
    stale = set()
    for step in STEPS:
        for job in _jobs(case, problem, step, LONG_LEAST * seconds_for(problem)):
            fitting = [r for r in records if _counts_for(r, job)]
            # Of several runs the newest under today's cost model counts; the long search keeps its best.
            usable = [r for r in fitting if r.is_of(mark) or r.strategy is not None]
            if job.label != LONG:
                usable = sorted(usable, key=lambda r: r.is_of(mark))[-1:]
            priced = [(s, r) for r in usable if (s := price(problem, r)) is not None]
            if not priced:
                if any(r.refused for r in usable):
                    found[job.label] = math.inf
                continue
            latency_s, record = min(priced, key=lambda pair: pair[0])
            found[job.label] = latency_s
            if not record.is_of(mark):
                stale.add(job.label)
            elif job.label == "search":
                cores = max(1, record.cores) if job.clock != record.clock else 1
                reached = tuple((seconds / cores, latency_s) for seconds, latency_s in record.reached)
    return Outcome(
        case.regime,
        case.model or problem.graph.name,
        case.cluster or problem.cluster.name,
        len(problem.cluster.devices),
        lower_bound_s(problem),
        found,
        reached,
        fresh,
        frozenset(stale),
        best_latency_s(problem, records),
    )


def _print_regime(outcomes: Sequence[Outcome]) -> None:
    if not outcomes:
        return
    columns = [name for name in (*METHODS, LONG) if any(name in o.latency_s for o in outcomes)]
    widths = {name: max(6, len(name)) for name in columns}
    first = max(len(f"{o.model} on {o.cluster}") for o in outcomes)
    print(f"\nregime {outcomes[0].regime}: images per second, simulated; below: as DistrEdge reports")
    print(f"{'':<{first}}  " + "  ".join(f"{name:>{widths[name]}}" for name in columns) + "   bound")
    for o in outcomes:
        mine = [_text(1 / o.latency_s[n] if n in o.latency_s else None, widths[n], ".1f") for n in columns]
        theirs = [_text(published.ips(o.model, o.cluster, n), widths[n], "g") for n in columns]
        print(f"{o.model + ' on ' + o.cluster:<{first}}  " + "  ".join(mine) + f"  {1 / o.bound_s:>6.1f}")
        print(" " * (first + 2) + "  ".join(theirs))
    print("\nratios of images per second (published)")
    headings = (
        "auto/best other",
        "auto/aofl",
        "distredge/best other",
        "distredge/aofl",
        "search/published",
        "best/bound",
    )
    print(f"{'':<{first}}  " + "  ".join(f"{text:>20}" for text in headings))
    for o in outcomes:
        print(f"{o.model + ' on ' + o.cluster:<{first}}  " + "  ".join(f"{text:>20}" for text in _ratios(o)))


def _ratios(o: Outcome) -> Iterator[str]:
    rivals = [name for name in published.METHODS if name != "distredge"]
    yield _ratio(o.best_other_s("auto") / o.latency_s["auto"] if "auto" in o.latency_s else None)
    yield _ratio(o.ratio("auto", "aofl"))
    mine = o.latency_s.get("distredge")
    yield _ratio(
        None if mine is None else min((o.latency_s[n] for n in rivals if n in o.latency_s), default=math.nan) / mine,
        published_ratio(o.model, o.cluster, "distredge", *rivals),
    )
    yield _ratio(o.ratio("distredge", "aofl"), published_ratio(o.model, o.cluster, "distredge", "aofl"))
    yield _ratio(o.times_published)
    yield _ratio(o.bound_s / o.best_s)


def _ratio(value: float | None, theirs: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if theirs is None else f" ({theirs:.2f})")


def _text(value: float | None, width: int, form: str) -> str:
    return f"{'' if value is None else format(value, form):>{width}}"


def _say_sources(outcomes: Sequence[Outcome]) -> None:
    fresh = [o for o in outcomes if o.fresh]
    print(
        f"\n{len(outcomes)} cases; `search` and `auto` run now in {len(fresh)} of them, the others are from the records"
    )
    stale = [f"{o.regime}, {o.model} on {o.cluster}: {', '.join(sorted(o.stale))}" for o in outcomes if o.stale]
    if stale:
        print(f"planned under an earlier cost model and priced again: {'; '.join(stale)}")


if __name__ == "__main__":
    sys.exit(main())
