"""How good the trained agent's plans are, on cases that it never saw, and how long it takes for them.

    python experiments/agent_quality.py --quick          a third of the held-out cases (at most 5 minutes on 2 cores)
    python experiments/agent_quality.py                  all of them
    python experiments/agent_quality.py --draw           draws the held-out cases anew
    python experiments/agent_quality.py --baseline       runs what is not on record; it may be stopped at any time
    python experiments/agent_quality.py --quick --sets four --method search --budget-ms 20

Cases, and `search` without the agent's starts on each of them, stand in experiments/results/agent_quality/; see
experiments/common/agent_held_out.py. A record counts under the cost model that it was made under: once that has changed
nothing is compared until --baseline has made it anew. Ratios are of images per second, simulated, to that search's
(1 s, 5 s above 8 devices). Warm: boards and model were planned before at other rates; cold: tables, graph and profiles
are new, in a process that has planned. Raw: the best of the agent's proposals, not polished. Equal time: that search
again, under the largest budget on record with which a whole call took no longer than the agent's.

Prints a table and ends with one JSON object. Keys that end with `_room` are over the cases where `search` beats the
best single device by 15 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distredge.errors import DistredgeError
from distredge.experiments.common import agent_held_out as held
from distredge.experiments.common.agent_cases import write_cases
from distredge.experiments.common.agent_figures import Outcome, summarise, table
from distredge.experiments.common.agent_measuring import measure
from distredge.latency.kernel.kernel import warm as load_kernel
from distredge.planners import resolve
from distredge.planners.search import warm as load_search

QUICK_OF = 3
"""`--quick` plans every third case."""

COLD_SETS = ("four",)

_T = TypeVar("_T")


def main() -> int:
    options = _arguments()
    names = list(held.SETS) if options.sets == "all" else options.sets.split(",")
    load_kernel()
    load_search()
    try:
        if options.draw:
            _draw(names)
            return 0
        if options.baseline:
            _record(names, options.seed)
            return 0
        outcomes = _measure(names, options)
    except DistredgeError as error:
        print(f"agent_quality: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(outcomes))
    print(json.dumps({"method": options.method, "quick": options.quick, **summarise(outcomes)}))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help=f"every {QUICK_OF}rd case of each set")
    how.add_argument("--draw", action="store_true", help="draw the held-out cases anew")
    how.add_argument("--baseline", action="store_true", help="run what has no record under the cost model of today")
    parser.add_argument("--sets", default="all", help=f"some of {', '.join(held.SETS)}, with commas; or all")
    parser.add_argument("--method", default="agent", help="planner to look at")
    parser.add_argument("--budget-ms", type=float, default=None, help="its budget; the planner's own by default")
    parser.add_argument("--seed", type=int, default=0, help="of every planner")
    options = parser.parse_args()
    unknown = [] if options.sets == "all" else [name for name in options.sets.split(",") if name not in held.SETS]
    if unknown:
        parser.error(f"--sets: found {unknown[0]}, accepted: {', '.join(held.SETS)}")
    if options.budget_ms is not None and not options.budget_ms > 0:
        parser.error(f"--budget-ms: found {options.budget_ms}, accepted: a number of milliseconds > 0")
    try:
        resolve(options.method)
    except DistredgeError as error:
        parser.error(f"--method: {error}")
    return options


def _draw(names: Sequence[str]) -> None:
    for name in names:
        wanted = held.SETS[name]
        cases = list(_shown(held.draw_set(name, wanted), wanted.cases, name))
        write_cases(cases, held.path_of(name))


def _record(names: Sequence[str], seed: int) -> None:
    cases = [case for name in names for case in held.held_out(name)]
    todo = held.missing(cases, held.EQUAL_TIME, held.EqualTimeRun)
    for case in _shown(todo, len(todo), "equal time"):
        held.append_record(held.EQUAL_TIME, held.record_equal_time(case))
    todo = held.missing(cases, held.BASELINE, held.BaselineRun)
    for case in _shown(todo, len(todo), "baseline"):
        held.append_record(held.BASELINE, held.record_baseline(case, seed))


def _measure(names: Sequence[str], options: argparse.Namespace) -> list[Outcome]:
    baseline = held.read_records(held.BASELINE, held.BaselineRun)
    equal_time = held.read_records(held.EQUAL_TIME, held.EqualTimeRun)
    step = QUICK_OF if options.quick else 1
    chosen = [(name, case) for name in names for case in held.held_out(name)[::step]]
    held.check_records([case for _, case in chosen])
    budget_s = None if options.budget_ms is None else options.budget_ms / 1e3
    outcomes = []
    for name, case in _shown(chosen, len(chosen), options.method):
        measured = measure(case, options.method, budget_s, options.seed, cold=name in COLD_SETS)
        outcomes.append(Outcome.of(name, case, measured, baseline[case.name], equal_time[case.name]))
    return outcomes


def _shown(items: Iterator[_T] | Sequence[_T], total: int, what: str) -> Iterator[_T]:
    """Passes items on, with a bar on stderr."""
    from rich.console import Console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


if __name__ == "__main__":
    raise SystemExit(main())
