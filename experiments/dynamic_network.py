"""A network that changes: who follows it, and how far from what could have been (DistrEdge, figure 12).

    python experiments/dynamic_network.py --quick    15 minutes around the first shift, one set of traces
    python experiments/dynamic_network.py --full     60 minutes of both; goes on where it was stopped
    python experiments/dynamic_network.py --quick --methods aofl,search --sets wifi --regime lossless
    python experiments/dynamic_network.py --quick --methods aofl,search,agent --swap-s 30

VGG-16 on four Jetson Nanos whose links carry 70, 50 and 85 Mbit/s on the mean of each 20 minutes: `shifts` are
synthetic as the paper describes its own, `wifi` measured 802.11 scaled to these means (`common/dynamic_links.py`). An
image starts every 0.25 s; its latency is that of the plan in force, priced by the kernel under the traces from then on.

A planner knows the rates that were seen before (of the last 0.25 s, or their exponentially weighted mean); the plan
that it makes is in force when its planning time is over: processor seconds as measured here. Plans again when a link's
estimate has moved by a threshold: `coedge`, `aofl`, `offload` 10 % of a mean over 5 s; `aofl_10min` with the time that
DistrEdge's authors charge AOFL; `distredge` is OSDS as published, trained before the first image and fine-tuned at
shifts of the mean over 120 s by a quarter; `search` is a search of 1 s at 15 % of a mean over 5 s, every 20 s at most;
`search_20ms` and `agent` plan anew at 10 % of the rates seen last, about once a second. These three have a memory of
their plans, from which each image gets the fastest at the rates seen last (and waits for that choice); before the first
image they plan for every set of links that may fail. `_alone` is the same with the plan made last. `search_once` never
plans again. The clairvoyant has for each image the fastest of all plans of all methods that are run, and of searches at
the true rates, without any time.

`--swap-s` charges what the workers need besides, to get weights and to build engines: a new plan comes into force that
much later; what a memory knows is loaded. CPU engines load in tenths of a second, TensorRT builds them for minutes. The
published figures are without it (0).

Also said: what deciding anew after every volume of an image gives (`planners/agent/online.py`), and how far below the
clairvoyant's plans a descent under the traces themselves still comes (`slack`).

Prints a table, draws latency over time (--plot), and ends with one JSON object; `dynamic_over_clairvoyant` is the mean
latency of our better adaptive method over the clairvoyant's, on the set of traces where that is the larger. --full with
all methods, as published, writes experiments/results/dynamic_network.json, where sets that it did not run stay as they
are. What stands in the work folder is taken as long as cost model, shipped agent and settings are those of today.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distredge.cluster import Cluster, load_cluster
from distredge.errors import ConfigError, DistredgeError, FileError, did_you_mean, located
from distredge.experiments.common import dynamic_clairvoyant as clairvoyant
from distredge.experiments.common import dynamic_records as records
from distredge.experiments.common.dynamic_links import CLUSTER, SETS, traces_of
from distredge.experiments.common.dynamic_methods import ADAPTIVE, methods
from distredge.experiments.common.dynamic_picture import draw
from distredge.experiments.common.dynamic_replay import WARM_UP_S, Hour, Method, Replay, replay
from distredge.experiments.common.records import RESULTS, today
from distredge.experiments.common.regimes import fingerprint
from distredge.latency.kernel.kernel import warm
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.writing import write

MODEL = "vgg16"
EVERY_S = 0.25
QUICK_S, FULL_S = (720.0, 1620.0), (WARM_UP_S, 3600.0)
"""From when to when: the quick run has the first shift in its middle."""

KEPT = RESULTS / "dynamic_network.json"
REGIMES = {"published": Problem.as_published, "lossless": Problem.lossless}
SEARCHES, SEARCHED_S = 60, 0.5
SAMPLE = 200
BIN_S = 10.0


def make_problem(regime: str) -> Any:
    """Returns what makes a problem under a regime, links as the cluster has them."""

    def make(graph: Graph, cluster: Cluster) -> Problem:
        return REGIMES[regime](graph, cluster)

    return make


def follow(hour: Hour, wanted: Sequence[Method], work: Path, of: dict[str, Any]) -> dict[str, Replay]:
    """Replays every method that is not on disk yet."""
    found = {}
    for method in wanted:
        path = work / f"{of['set']}-{of['regime']}-{method.name}.json"
        settings = {
            **of, "method": method.name, "time_constant_s": method.time_constant_s,
            "threshold": str(method.threshold), "rest_s": method.rest_s, "charged_s": method.charged_s,
            "depends_on": dict(method.depends_on), "failures": method.has_memory,
            # What was replayed before there was such a charge had none.
            **({"swap_s": method.swap_s} if method.swap_s else {}),
        }  # fmt: skip
        made = records.load(path, settings)
        if made is None:
            print(f"{of['set']}: {method.name} ...", file=sys.stderr, flush=True)
            made = replay(hour, method)
            records.save(path, settings, made)
        for strategy in made.strategies:
            hour.true_s(strategy)
        found[method.name] = made
    return found


def summary(hour: Hour, found: dict[str, Replay]) -> dict[str, Any]:
    """Figures of one set of traces."""
    clairvoyant.add_searches(hour, SEARCHES, SEARCHED_S)
    best_s, keys = clairvoyant.lowest_s(hour)
    rows = {name: _figures(made, best_s) for name, made in found.items()}
    alone = {f"{name}_alone": made.alone_s for name, made in found.items() if len(made.alone_s)}
    rows |= {name: _figures(Replay(seconds), best_s) for name, seconds in alone.items()}
    rows["clairvoyant"] = _figures(Replay(best_s), best_s)
    adaptive = [name for name in ADAPTIVE if name in found]
    figures: dict[str, Any] = {
        "methods": rows,
        "pool": len(hour.known),
        "slack": clairvoyant.slack(hour, best_s, keys, SAMPLE),
        "over_time_ms": {
            name: _binned(hour, seconds) for name, seconds in
            {**{n: m.latency_s for n, m in found.items()}, "clairvoyant": best_s}.items()
        },
    }  # fmt: skip
    if adaptive:
        figures["best_adaptive"] = min(adaptive, key=lambda name: rows[name]["mean_ms"])
        figures["dynamic_over_clairvoyant"] = rows[figures["best_adaptive"]]["over_clairvoyant"]
    figures["online"] = {
        name: clairvoyant.online_gain(hour, found[name], SAMPLE) for name in ("search_once", *adaptive) if name in found
    }
    return figures


def _figures(made: Replay, best_s: Any) -> dict[str, Any]:
    return {
        "mean_ms": 1e3 * float(made.latency_s.mean()),
        "median_ms": 1e3 * float(np.median(made.latency_s)),
        "p95_ms": 1e3 * float(np.percentile(made.latency_s, 95)),
        "over_clairvoyant": float(made.latency_s.mean() / best_s.mean()),
        "replans": made.replans,
        "planning_s": float(np.sum(made.planning_s)),
        "choice_ms": 1e3 * made.choice_s,
        "plans": len(made.strategies),
    }


def _binned(hour: Hour, seconds: Any) -> list[float]:
    """Milliseconds, means over BIN_S."""
    bins = ((hour.times_s - hour.times_s[0]) // BIN_S).astype(int)
    return [round(1e3 * float(seconds[bins == b].mean()), 2) for b in range(bins.max() + 1)]


def show(name: str, figures: dict[str, Any]) -> None:
    """The table of one set of traces."""
    print(
        f"\n{name}\n{'method':<20}{'mean ms':>9}{'median':>9}{'p95':>9}{'x clairvoyant':>15}{'re-plans':>10}"
        f"{'planning s':>12}{'choice ms':>11}{'plans':>7}"
    )
    for method, row in sorted(figures["methods"].items(), key=lambda item: item[1]["mean_ms"]):
        print(
            f"{method:<20}{row['mean_ms']:>9.2f}{row['median_ms']:>9.2f}{row['p95_ms']:>9.2f}"
            f"{row['over_clairvoyant']:>15.4f}{row['replans']:>10}{row['planning_s']:>12.2f}{row['choice_ms']:>11.2f}"
            f"{row['plans']:>7}"
        )
    print(f"clairvoyant over {figures['pool']} plans; a descent under the traces lowers it by {figures['slack']:.2%}")
    for method, row in figures["online"].items():
        print(
            f"decided anew after every volume, {method}: {row['plain_ms']:.2f} -> {row['online_ms']:.2f} ms, "
            f"{row['decision_ms']:.1f} ms of processor time a decision, not charged"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except DistredgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on with what stands in {options.work}", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    every, notes = methods(options.quick)
    names = [method.name for method in every]
    if not 0 <= options.swap_s < math.inf:
        raise ConfigError(located("dynamic_network", "--swap-s", options.swap_s, "seconds, at least 0"))
    wanted = _chosen("methods", options.methods, names)
    sets = _chosen("sets", options.sets or ("shifts" if options.quick else None), SETS)
    published = options.regime == "published" and options.swap_s == 0
    records_it = not options.quick and published and set(wanted) == set(names)
    if records_it:
        kept_sets()  # says so now, not after hours, if it cannot be added to
    from_s, until_s = QUICK_S if options.quick else FULL_S
    began_s = time.monotonic()
    warm()
    graph = load_model(MODEL)
    cluster = load_cluster(CLUSTER, [graph])
    found: dict[str, Any] = {}
    for name in sets:
        hour = Hour(graph, cluster, traces_of(name), make_problem(options.regime), until_s, EVERY_S, from_s)
        of = {
            "set": name, "regime": options.regime, "from_s": from_s, "until_s": until_s, "every_s": EVERY_S,
            "fingerprint": fingerprint(hour.problem),
        }  # fmt: skip
        work = options.work / ("quick" if options.quick else "full")
        # Made anew for every set: OSDS goes on from what it learned before.
        followers = [m for m in methods(options.quick)[0] if m.name in wanted]
        replays = follow(hour, [dataclasses.replace(m, swap_s=options.swap_s) for m in followers], work, of)
        found[name] = summary(hour, replays)
        show(name, found[name])
    for note in notes:
        print(f"note: {note}")
    plot = options.plot or options.work / "dynamic_network.png"
    draw(found, from_s, BIN_S, plot)
    print(f"drawn: {plot}")
    result = line(found, options.regime, from_s, until_s)
    if records_it:
        keep(found, notes, from_s, until_s)
    elif not options.quick:
        print("nothing is recorded: that takes all methods, the regime `published` and no --swap-s")
    print(json.dumps({**result, "swap_s": options.swap_s, "seconds": round(time.monotonic() - began_s, 1)}))
    return 0


def kept_sets() -> dict[str, Any]:
    """What is on record, by set of traces.

    Raises:
        FileError: if it cannot be read.
    """
    if not KEPT.exists():
        return {}
    try:
        return dict(json.loads(KEPT.read_text(encoding="utf-8"))["sets"])
    except (ValueError, KeyError, TypeError) as reason:
        raise FileError(f"{KEPT}: no record can be read from it ({reason}): put it right or remove it") from None


def keep(found: dict[str, Any], notes: list[str], from_s: float, until_s: float) -> None:
    """Writes the record; sets of traces that were not run now stay as they stand there."""
    before = kept_sets()
    sets = {name: found.get(name, before.get(name)) for name in SETS if name in found or name in before}
    kept = {**line(sets, "published", from_s, until_s), "date": today(), "notes": notes, "sets": sets}
    write(KEPT, json.dumps(kept, separators=(",", ":"), allow_nan=False) + "\n")


def line(found: dict[str, Any], regime: str, from_s: float, until_s: float) -> dict[str, Any]:
    """The JSON object: the target's key, and for each set and method its mean latency over the clairvoyant's."""
    ratios = [figures["dynamic_over_clairvoyant"] for figures in found.values() if "best_adaptive" in figures]
    result: dict[str, Any] = {"dynamic_over_clairvoyant": max(ratios, default=None), "regime": regime}
    result["minutes"] = (until_s - from_s) / 60
    for name, figures in found.items():
        result[f"{name}_best_adaptive"] = figures.get("best_adaptive")
        for method, row in figures["methods"].items():
            result[f"{name}_{method}_over_clairvoyant"] = round(row["over_clairvoyant"], 4)
        result[f"{name}_clairvoyant_ms"] = round(figures["methods"]["clairvoyant"]["mean_ms"], 3)
        result[f"{name}_slack"] = round(figures["slack"], 5)
        for method, row in figures["online"].items():
            result[f"{name}_online_over_{method}"] = round(row["online_ms"] / row["plain_ms"], 4)
    return result


def _chosen(key: str, text: str | None, accepted: Sequence[str]) -> list[str]:
    if text is None:
        return list(accepted)
    names = text.split(",")
    for name in names:
        if name not in accepted:
            raise ConfigError(f"--{key}: '{name}'{did_you_mean(name, accepted)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--quick", action="store_true", help="15 minutes of `shifts`")
    length.add_argument("--full", dest="quick", action="store_false", help="60 minutes of both sets")
    parser.add_argument("--methods", help="some of them, by commas")
    parser.add_argument("--sets", help="of traces, by commas: " + ", ".join(SETS))
    parser.add_argument("--regime", choices=tuple(REGIMES), default="published", help="what plans may use")
    parser.add_argument("--swap-s", type=float, default=0.0, help="seconds until a new plan is loaded (0)")
    parser.add_argument("--work", type=Path, default=Path("runs/dynamic_network"), help="folder of what is done")
    parser.add_argument("--plot", type=Path, help="picture to draw; in the work folder where not given")
    return parser


if __name__ == "__main__":
    sys.exit(main())
