"""How well a measured profile predicts segments that it has not seen, what it costs to make, and how the fits do.

    python experiments/bench/profile_accuracy.py [--quick]

Profiles VGG-16, ResNet-50 and MobileNet-V2 on one core of this machine, each into a file of its own, and checks each
against random segments. Other programs spoil the figures: the last line holds how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from distredge.model.capture import load_model
from distredge.profiles.compute import ComputeProfile, load_shipped
from distredge.profiles.fit import summary
from distredge.profiles.fit_tables import load_boards
from distredge.profiles.kernels import EngineSettings
from distredge.profiles.measuring import QUICK, Measuring, Plan
from distredge.profiles.verify import Verdict, verify

MODELS = ("vgg16", "resnet50", "mobilenet-v2")
SEGMENTS = 30
QUICK_SEGMENTS = 12
LOADS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer row counts, repeats and segments")
    parser.add_argument("--seed", type=int, default=0, help="of the segments")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    verdicts: dict[str, Verdict] = {}
    made_s: dict[str, float] = {}
    sizes: dict[str, int] = {}
    load_ms: dict[str, float] = {}
    print(f"{'model':14} {'made in':>9} {'points':>7} {'size':>8} {'loads in':>9} {'mean':>7} {'p95':>7} {'bias':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            path = Path(folder) / f"{name}.json"
            graph = load_model(name)
            begin = time.perf_counter()
            data = Measuring([graph], EngineSettings(), plan, path).run()
            made_s[name] = time.perf_counter() - begin
            sizes[name] = path.stat().st_size
            load_ms[name] = _load_ms(path)
            segments = QUICK_SEGMENTS if options.quick else SEGMENTS
            verdict = verify(ComputeProfile.load(path), [graph], segments, options.seed)
            verdicts[name] = verdict
            points = sum(len(entry.rows) for entry in (data.operators or {}).values())
            print(
                f"{name:14} {made_s[name]:7.1f} s {points:7d} {sizes[name] / 1e3:5.0f} kB {load_ms[name]:6.1f} ms "
                f"{100 * verdict.mean_error:5.1f} % {100 * verdict.p95_error:5.1f} % {100 * verdict.bias:+5.1f} %"
            )
    errors = [abs(check.error) for verdict in verdicts.values() for check in verdict.checks]
    fits = summary({entry.name: load_shipped(f"default:{entry.name}").data for entry in load_boards().board})
    pace, load = (max(getattr(v, key) for v in verdicts.values()) for key in ("pace", "load"))
    print(
        f"other programs used up to {100 * load:.0f} % of the processors; a fixed kernel ran up to {pace:.2f} x as long"
    )
    print(
        json.dumps(
            {
                "verify_mean_error": float(np.mean(errors)),
                "verify_p95_error": float(np.quantile(errors, 0.95)),
                "profile_vgg16_s": made_s["vgg16"],
                "profile_bytes_max": max(sizes.values()),
                "profile_load_ms": max(load_ms.values()),
                "fitted_residual_max": fits["fitted_residual_max"],
                "left_out_residual_max": fits["left_out_residual_max"],
                "verify_mean_error_by_model": {name: v.mean_error for name, v in verdicts.items()},
                "segments": len(errors),
                "pace": pace,
                "load": load,
            }
        )
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
