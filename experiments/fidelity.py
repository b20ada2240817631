"""Does a plan keep its promise: latencies predicted and measured, on emulated boards and on workers of this machine.

    python experiments/fidelity.py --quick     a few strategies, and what is on record predicted anew (5 minutes)
    python experiments/fidelity.py --full      all that is not on record yet (some 35 minutes); it may be stopped
    python experiments/fidelity.py --records   only what is on record, predicted anew
    python experiments/fidelity.py --full --part calibration

Strategies are drawn by a committed seed: every planner and random ones, VGG-16, ResNet-50, MobileNet-V2 and
EfficientNet-Lite0, 2 to 16 boards, links of 20 to 300 Mbit/s, constant or along traces, boundary rows first or not, all
wires that can be run, one image under way or four. Those of the part `calibration` may be looked at while the cost
model is mended; all figures are of the part `test`.

    paced         boards of another speed: Raspberry Pi compute the real result and hold it until the profiled time has
                  passed, others only wait; everything is slowed down as far as this machine needs ("dilation")
    unpaced       workers of this machine's own speed behind shaped links, two pinned to a core each or four on two
                  cores, not slowed down, against this machine's measured profile
    this-machine  two pinned workers with nothing between them, as `deploy-strategy` starts them
    auto          on each of these clusters `auto`'s plan and the best single device, measured in turn

Run it on an idle machine. Records, the profile of this machine that belongs to them and the picture stand in
experiments/results/fidelity/. Prints a table and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from distredge.errors import DistredgeError
from distredge.experiments.common import packed_gain
from distredge.experiments.common.fidelity_draw import Part, SetUp, drafts, set_ups
from distredge.experiments.common.fidelity_figures import draw, summarise, table
from distredge.experiments.common.fidelity_measure import key_of, missing_keys, predicted_anew, run_set_up
from distredge.experiments.common.fidelity_records import FOLDER, PROFILE, RUNS, Run, append, read
from distredge.experiments.common.records import RESULTS
from distredge.latency.kernel.kernel import warm
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.profiles.compute import ComputeProfile, user_profile_path
from distredge.profiles.measuring.board import QUICK, Measuring, MeasuringPlan
from distredge.profiles.measuring.engines import EngineSettings
from distredge.profiles.schema import ProfileFile
from distredge.runtime.hosting.message_costs import measure_messages

MODELS = ("vgg16", "resnet50", "mobilenet-v2", "efficientnet-lite0")
QUICK_S = 200.0
QUICK_SET_UPS = ("test-paced-0", "test-unpaced-1", "test-this-machine-0", "test-paced-6")
PROFILE_S = 240.0
PICTURE = FOLDER / "fidelity.png"
PAPERS = RESULTS / "papers_on_testbed.json"

load = functools.cache(load_model)


class Bar:
    """A bar on stderr, written over, only where that is a terminal; elsewhere a line for each strategy that is done.

    Args:
        total: strategies to measure.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._shown = sys.stderr.isatty()
        self._began_s = time.monotonic()

    def note(self, text: str) -> None:
        """Says what comes next."""
        if self._shown:
            filled = round(20 * self._done / max(1, self._total))
            line = f"[{'#' * filled:<20}] {self._done}/{self._total} {time.monotonic() - self._began_s:.0f} s  {text}"
            print("\r" + line[:118].ljust(118), end="", file=sys.stderr, flush=True)

    def done(self, run: Run) -> None:
        """Counts one, and says what was measured."""
        self._done += 1
        if not self._shown:
            measured = "no valid frame" if run.median_s is None else f"{1e3 * run.median_s:.2f} ms"
            print(
                f"{self._done}/{self._total} {run.key}: {run.method} measured {measured}, "
                f"predicted {1e3 * run.predicted_shared_s:.2f} ms",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def failed(self, key: str, error: DistredgeError) -> None:
        """Counts one that could not be measured: it is not on record, so that a later run tries it again."""
        self._done += 1
        print(f"{'' if not self._shown else chr(10)}{key}: {error}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the line."""
        if self._shown:
            print(file=sys.stderr)


def main() -> int:
    options = _arguments()
    out: Path = options.out
    runs_path, profile_path = out / RUNS.name, out / PROFILE.name
    began_s = time.monotonic()
    part: Part = options.part
    stopped = False
    warm()
    fresh: list[Run] = []
    try:
        if not options.records:
            own = _own_profile(profile_path, quick=options.quick)
            chosen = _chosen(part, options)
            limit_s = QUICK_S if options.quick else float("inf")
            with _in_use(own):
                _measure(chosen, own, runs_path, fresh, began_s + limit_s, quick=options.quick, again=options.again)
        if options.full:
            packed_gain.fill(load, out / packed_gain.KEPT.name, lambda text: print(text, file=sys.stderr))
    except KeyboardInterrupt:
        print("\nstopped: what was measured is kept", file=sys.stderr)
        stopped = True
    on_record = read(runs_path)
    if fresh and options.quick:
        _say_fresh(fresh)
    again, stale = _predicted_again(on_record, profile_path)
    for line in table([run for run in again if run.part == part]) if again else ():
        print(line)
    if stale:
        print(f"{stale} records are of other profiles than today's: their predictions are those of then")
    print(f"{len(again)} on record; {len(fresh)} measured now, {time.monotonic() - began_s:.0f} s")
    figures = summarise(again)
    figures |= packed_gain.figures(load, out / packed_gain.KEPT.name)
    for case, gain in figures["packed_gain"].items():
        print(f"packed wires, {case}: {gain:.3f} x as fast (simulated)")
    figures |= {**packed_gain.pi4_figures(load), "halp_speedup_pi4": _halp_speedup()}
    if options.full and any(run.part == "test" for run in again):
        draw(again, out / PICTURE.name)
    if fresh and options.quick:
        figures["quick"] = {key: value for key, value in summarise(fresh).items() if value is not None}
    complete = not any(missing_keys(s, {run.key for run in again}) for s in set_ups("test"))
    told = {"stale": stale, "complete": complete, "cores": len(os.sched_getaffinity(0)), "seconds": _since(began_s)}
    print(json.dumps({**figures, **told}))
    return 130 if stopped else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="at most 5 minutes on 2 cores (the default)")
    how.add_argument("--full", action="store_true", help="measure what is not on record")
    how.add_argument("--records", action="store_true", help="measure nothing")
    parser.add_argument("--part", choices=("test", "calibration"), default="test", help="which set-ups")
    parser.add_argument("--only", default="", help="set-ups whose names begin so, such as test-unpaced or test-paced-3")
    parser.add_argument("--again", action="store_true", help="with --full, also what is on record; the newest counts")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the records")
    options = parser.parse_args()
    options.quick = not (options.full or options.records)
    if options.again and not options.full:
        parser.error("--again: found without --full, accepted: beside it")
    names = [set_up.name for set_up in set_ups(options.part)]
    if not any(name.startswith(options.only) for name in names):
        parser.error(f"--only: found '{options.only}', accepted: the beginning of one of {', '.join(names)}")
    return options


def _chosen(part: Part, options: argparse.Namespace) -> list[SetUp]:
    found = [set_up for set_up in set_ups(part) if set_up.name.startswith(options.only)]
    if options.quick and not options.only and part == "test":
        found = [set_up for name in QUICK_SET_UPS for set_up in found if set_up.name == name]
    done = set() if options.again or options.quick else {run.key for run in read(options.out / RUNS.name)}
    return [set_up for set_up in found if missing_keys(set_up, done)]


def _measure(
    chosen: Sequence[SetUp],
    own: ComputeProfile,
    path: Path,
    fresh: list[Run],
    until_s: float,
    *,
    quick: bool,
    again: bool,
) -> None:
    """Measures set-ups; in a quick run nothing is recorded, and `auto`'s turns are left out."""
    done = set() if quick or again else {run.key for run in read(path)}
    bar = Bar(sum(len(drafts(s) if quick else missing_keys(s, done)) for s in chosen))
    for set_up in chosen:
        skipped = done
        if quick:
            skipped = set(missing_keys(set_up, set())) - {key_of(set_up, draft) for draft in drafts(set_up)}
        try:
            for run in run_set_up(set_up, load(set_up.model), own, skipped, bar.note, bar.failed):
                fresh.append(run)
                bar.done(run)
                if not quick:
                    append(run, path)
                if time.monotonic() > until_s:
                    return
        except DistredgeError as error:
            bar.failed(set_up.name, error)
        finally:
            bar.end()


def _own_profile(path: Path, *, quick: bool) -> ComputeProfile:
    """This machine's profile: the one that belongs to the records; in quick runs one of its own, made now."""
    graphs = [load(name) for name in MODELS]
    start = None
    if not quick and path.is_file():
        profile = ComputeProfile.load(path)
        covered = all(profile.covers(s) for graph in graphs for s in graph.signatures if s is not None)
        if covered and profile.data.messages is not None:
            return profile
        start = profile.data
    print("measures this machine", file=sys.stderr, flush=True)
    if quick:
        return ComputeProfile(_measure_machine([load("mobilenet-v2")], QUICK, None, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = dataclasses.replace(MeasuringPlan(), budget_s=PROFILE_S)
    return ComputeProfile(_measure_machine(graphs, plan, path, start), str(path))


def _measure_machine(
    graphs: Sequence[Graph], plan: MeasuringPlan, path: Path | None, start: ProfileFile | None
) -> ProfileFile:
    names = [graph.name for graph in graphs]
    name = "this-machine"
    return Measuring(graphs, EngineSettings(), plan, path, name, names, start, messages=measure_messages).run()


@contextlib.contextmanager
def _in_use(own: ComputeProfile) -> Iterator[None]:
    """Lets the testbed find this machine's profile, by which it knows what messages cost here, where users' stand."""
    before = os.environ.get("XDG_DATA_HOME")
    with tempfile.TemporaryDirectory(prefix="distredge-fidelity-") as folder:
        os.environ["XDG_DATA_HOME"] = folder
        own.save(user_profile_path())
        try:
            yield
        finally:
            os.environ.pop("XDG_DATA_HOME")
            if before is not None:
                os.environ["XDG_DATA_HOME"] = before


def _predicted_again(runs: Sequence[Run], profile: Path) -> tuple[list[Run], int]:
    """Records with today's predictions, and how many could not be predicted anew."""
    own = ComputeProfile.load(profile) if profile.is_file() else None
    found, stale = [], 0
    for run in runs:
        anew = None if own is None else predicted_anew(run, load(run.model), own)
        if anew is None:
            stale += 1
            found.append(run)
        else:
            found.append(dataclasses.replace(run, predicted_shared_s=anew[0], predicted_independent_s=anew[1]))
    return found, stale


def _say_fresh(fresh: Sequence[Run]) -> None:
    print("measured now (not recorded)")
    for line in table(fresh):
        print(line)
    print()


def _halp_speedup() -> float | None:
    """Measured by experiments/papers_on_testbed.py; None before that was run."""
    if not PAPERS.is_file():
        return None
    value = json.loads(PAPERS.read_text(encoding="utf-8")).get("halp_speedup_pi4")
    return None if value is None else float(value)


def _since(began_s: float) -> float:
    return round(time.monotonic() - began_s, 1)


if __name__ == "__main__":
    sys.exit(main())
