"""How well a measured profile predicts segments that it has not seen, what it costs to make, and how the fits do.

    python experiments/bench/profile_accuracy.py [--quick] [--models vgg16,resnet50] [--keep FOLDER]

Profiles VGG-16, ResNet-50 and MobileNet-V2 on one core of this machine, each into a file of its own, and checks each
against random segments; with `--quick` five times in a row each, of which the worst counts. Other programs spoil the
figures: the last line holds how busy the machine was. With `--keep` each result is kept, a later run takes it from
there, and the last line is of all that are done.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distredge.model.capture import load_model
from distredge.profiles.compute import ComputeProfile, load_shipped
from distredge.profiles.measuring.board import QUICK, Measuring, MeasuringPlan
from distredge.profiles.measuring.engines import EngineSettings
from distredge.profiles.measuring.verify import verify
from distredge.profiles.modelling.fit import summary
from distredge.profiles.modelling.published_tables import load_boards

MODELS = ("vgg16", "resnet50", "mobilenet-v2")
SEGMENTS = 30
QUICK_SEGMENTS = 12
QUICK_PROFILES = 5
LOADS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="quick profiles, several of each model")
    parser.add_argument("--profiles", type=int, default=QUICK_PROFILES, help="of each model, if quick")
    parser.add_argument("--seed", type=int, default=0, help="of the segments")
    parser.add_argument("--models", default=",".join(MODELS), help="which to measure in this run")
    parser.add_argument("--keep", type=Path, help="folder of profiles and results to go on with")
    options = parser.parse_args()
    wanted = options.models.split(",")
    unknown = [name for name in wanted if name not in MODELS]
    if unknown:
        parser.error(f"--models: found '{unknown[0]}', accepted: {', '.join(MODELS)}")
    print(f"{'model':14} {'made in':>9} {'points':>7} {'size':>8} {'loads in':>9} {'mean':>7} {'p95':>7} {'bias':>7}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, Any]] = {}
        labels = [(name, f"{name}-{i}") for name in MODELS for i in range(options.profiles if options.quick else 1)]
        for name, label in labels:
            result = folder / f"{label}.result.json"
            if name in wanted and not result.is_file():
                found = measure(name, folder / f"{label}.json", options.quick, options.seed)
                result.write_text(json.dumps(found), encoding="utf-8")
            if result.is_file():
                results[label] = json.loads(result.read_text(encoding="utf-8"))
                print(_line(label, results[label]), flush=True)
    pace, load = (max(result[key] for result in results.values()) for key in ("pace", "load"))
    print(
        f"other programs used up to {100 * load:.0f} % of the processors; a fixed kernel ran up to {pace:.2f} x as long"
    )
    of_model = {n: [r for label, r in results.items() if label.rpartition("-")[0] == n] for n in MODELS}
    of_model = {n: found for n, found in of_model.items() if found}
    errors = np.abs([error for result in results.values() for error in result["errors"]])
    fits = summary({entry.name: load_shipped(f"default:{entry.name}").data for entry in load_boards().board})
    print(
        json.dumps(
            {
                "verify_mean_error": float(np.mean(errors)),
                "verify_p95_error": float(np.quantile(errors, 0.95)),
                "quick_mean_error_worst": _worst(results, np.mean) if options.quick else None,
                "quick_p95_error_worst": _worst(results, _p95) if options.quick else None,
                "profile_vgg16_s": max(r["made_s"] for r in of_model["vgg16"]) if "vgg16" in of_model else None,
                "profile_bytes_max": max(result["size_bytes"] for result in results.values()),
                "profile_load_ms": max(result["load_ms"] for result in results.values()),
                "fitted_residual_max": fits["fitted_residual_max"],
                "left_out_residual_max": fits["left_out_residual_max"],
                "verify_mean_error_by_model": {n: _of_all(found, np.mean) for n, found in of_model.items()},
                "verify_p95_error_by_model": {n: _of_all(found, _p95) for n, found in of_model.items()},
                "expected_mean_errors": {label: r["expected_mean_error"] for label, r in results.items()},
                "mean_errors": {label: _of_all([r], np.mean) for label, r in results.items()},
                "segments": len(errors),
                "pace": pace,
                "load": load,
            }
        )
    )


def measure(name: str, path: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Profiles a model into a file and checks it; signed errors of the segments and what it cost."""
    graph = load_model(name)
    begin = time.perf_counter()
    measuring = Measuring([graph], EngineSettings(), QUICK if quick else MeasuringPlan(), path)
    data = measuring.run()
    made_s = time.perf_counter() - begin
    verification = verify(ComputeProfile.load(path), [graph], QUICK_SEGMENTS if quick else SEGMENTS, seed)
    return {
        "made_s": made_s,
        "points": sum(len(entry.rows) for entry in (data.operators or {}).values()),
        "size_bytes": path.stat().st_size,
        "load_ms": _load_ms(path),
        "expected_mean_error": measuring.expected.mean if measuring.expected is not None else None,
        "errors": [check.error for check in verification.checks],
        "pace": verification.pace,
        "load": verification.load,
    }


def _p95(errors: Sequence[float]) -> float:
    return float(np.quantile(errors, 0.95))


def _of_all(results: Iterable[dict[str, Any]], figure: Callable[[Sequence[float]], Any]) -> float:
    """A figure of the absolute errors of several results together."""
    return float(figure([abs(error) for result in results for error in result["errors"]]))


def _worst(results: dict[str, dict[str, Any]], figure: Callable[[Sequence[float]], Any]) -> float:
    return max(_of_all([result], figure) for result in results.values())


def _line(name: str, result: dict[str, Any]) -> str:
    errors = np.array(result["errors"])
    return (
        f"{name:14} {result['made_s']:7.1f} s {result['points']:7d} {result['size_bytes'] / 1e3:5.0f} kB "
        f"{result['load_ms']:6.1f} ms {100 * np.abs(errors).mean():5.1f} % "
        f"{100 * np.quantile(np.abs(errors), 0.95):5.1f} % {100 * errors.mean():+5.1f} %"
    )


def _load_ms(path: Path) -> float:
    times = []
    for _ in range(LOADS):
        begin = time.perf_counter()
        ComputeProfile.load(path)
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
