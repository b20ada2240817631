"""The fidelity campaign's figures, table and picture, from what is on record."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distredge.experiments.common.fidelity_records import Run, by_role
from distredge.experiments.common.statistics import (
    errors_of,
    mean_and_p95,
    mean_rank_correlation,
    pairs_in_order,
    ratio_of_medians,
)
from distredge.writing import write_picture

SLOWER = 1.02
"""`auto` is slower than the best single device where the ratio of medians is surely above this."""


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures by their agreed names, over the test strategies; null where nothing of the kind was measured.

    Errors are those of the median latency under shared links. `rank_correlation` is Spearman's among all strategies of
    one model, a mean over models; `rank_correlation_within` among those of one model on one cluster with as many images
    in flight, and pairs of these are the ones of `pairs_right`.
    """
    tried = by_role(runs, "strategy")
    paced, unpaced = ([run for run in tried if run.kind == kind] for kind in ("paced", "unpaced"))
    mean, p95 = mean_and_p95(_errors(paced))
    mean_unpaced, p95_unpaced = mean_and_p95(_errors(unpaced))
    independent, independent_p95 = mean_and_p95(
        errors_of([run.predicted_independent_s for run in tried], [_median(run) for run in tried])
    )
    predicted, measured = [run.predicted_shared_s for run in tried], [_median(run) for run in tried]
    within = [(run.model, run.cluster, run.in_flight) for run in tried]
    right, counted = pairs_in_order(within, predicted, measured)
    # Frames of strategies of which none was valid count here too.
    every = [run for run in runs if run.part == "test" and run.role != "this-machine"]
    frames = sum(run.frames for run in every)
    here, _ = mean_and_p95(_errors(by_role(runs, "this-machine")))
    return {
        "strategies": len(tried),
        "strategies_paced": len(paced),
        "strategies_unpaced": len(unpaced),
        "strategies_unpaced_distributed": sum(run.computing > 1 and run.volumes > 1 for run in unpaced),
        "error_mean": mean,
        "error_p95": p95,
        "error_mean_unpaced": mean_unpaced,
        "error_p95_unpaced": p95_unpaced,
        "error_mean_independent": independent,
        "error_p95_independent": independent_p95,
        "bias": statistics.fmean(_errors(tried)) if tried else None,
        "rank_correlation": mean_rank_correlation([run.model for run in tried], predicted, measured),
        "rank_correlation_within": mean_rank_correlation(within, predicted, measured),
        "pairs_right": right / counted if counted else None,
        "pairs": counted,
        "invalid_share": sum(run.invalid for run in every) / frames if frames else None,
        "this_machine_error_mobilenet_v2": here,
        **_auto(by_role(runs, "auto")),
    }


def _auto(runs: Sequence[Run]) -> dict[str, Any]:
    ratios = [_against_offload(run) for run in runs if run.offload_s]
    spread = [run for run in runs if run.offload_s and run.computing > 1]
    gains = [1.0 / ratio for ratio, _ in ratios]
    return {
        "auto_plans": len(ratios),
        "auto_plans_distributed": len(spread),
        "auto_slower_measured": sum(low > SLOWER for _, low in ratios) if ratios else None,
        "auto_gain_mean_measured": statistics.fmean(gains) if gains else None,
        "auto_gain_mean_distributed": (
            statistics.fmean(1.0 / _against_offload(run)[0] for run in spread) if spread else None
        ),
    }


def _against_offload(run: Run) -> tuple[float, float]:
    """Latency over that of the best single device, measured in turn, and its lower bound."""
    return ratio_of_medians(run.latencies_s, run.offload_s)


def _errors(runs: Sequence[Run]) -> list[float]:
    return errors_of([run.predicted_shared_s for run in runs], [_median(run) for run in runs])


def _median(run: Run) -> float:
    assert run.median_s is not None
    return run.median_s


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A line for each run, the largest errors last in each kind."""
    yield (
        f"{'strategy':<30}{'model':<20}{'method':<13}{'boards':>7}{'volumes':>8}{'wire':>15}{'first':>6}{'flight':>7}"
        f"{'measured':>10}{'best':>9}{'shared':>9}{'error':>8}{'independent':>12}{'error':>8}{'dilation':>9}"
    )
    order = sorted(
        (run for run in runs if run.latencies_s),
        key=lambda run: (run.part, run.role, run.kind, abs(_errors([run])[0])),
    )
    for run in order:
        measured_s = _median(run)
        shared, independent = (
            100 * (value / measured_s - 1.0) for value in (run.predicted_shared_s, run.predicted_independent_s)
        )
        volumes = run.strategy["volumes"]
        first = "yes" if any(volume.get("boundary_first") for volume in volumes) else ""
        yield (
            f"{run.key:<30}{run.model:<20}{run.method:<13}{f'{run.computing}/{run.boards}':>7}{run.volumes:>8}"
            f"{volumes[0]['wire']:>15}{first:>6}{run.in_flight:>7}{1e3 * measured_s:>10.2f}"
            f"{1e3 * (run.best_s or 0.0):>9.2f}{1e3 * run.predicted_shared_s:>9.2f}{shared:>+7.1f}%"
            f"{1e3 * run.predicted_independent_s:>12.2f}{independent:>+7.1f}%{run.dilation:>9.2f}"
        )
    for run in (run for run in order if run.role == "auto" and run.offload_s):
        ratio, low = _against_offload(run)
        said = "SLOWER" if low > SLOWER else ""
        predicted = (run.predicted_offload_s or 0.0) / run.predicted_shared_s
        yield (
            f"{run.key:<40} {run.computing}/{run.boards} boards: {1.0 / ratio:.2f} x the best single one "
            f"(predicted {predicted:.2f}; at most {1.0 / low:.2f}) {said}"
        )


def draw(runs: Sequence[Run], path: Path) -> None:
    """Writes a scatter plot, predicted against measured, both link models, paced and unpaced apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    shown = [run for run in runs if run.part == "test" and run.latencies_s and run.role != "auto"]
    models = {"shared": "predicted_shared_s", "independent": "predicted_independent_s"}
    kinds = {"paced": ("o", "tab:blue"), "unpaced": ("^", "tab:orange"), "this-machine": ("s", "tab:green")}
    for axes, (links, key) in zip(figure.subplots(1, 2, sharex=True, sharey=True), models.items(), strict=True):
        for kind, (marker, colour) in kinds.items():
            mine = [run for run in shown if run.kind == kind]
            axes.scatter(
                [1e3 * _median(run) for run in mine], [1e3 * getattr(run, key) for run in mine],
                marker=marker, color=colour, alpha=0.7, s=22, label=f"{kind} ({len(mine)})",
            )  # fmt: skip
        ends = [1e3 * value for run in shown for value in (_median(run), getattr(run, key))] or [1.0, 1000.0]
        line = [0.8 * min(ends), 1.25 * max(ends)]
        axes.plot(line, line, color="0.4", linewidth=0.8)
        axes.fill_between(line, [0.85 * x for x in line], [1.15 * x for x in line], color="0.9", zorder=0)
        axes.set(
            xscale="log", yscale="log", xlabel="measured latency, ms", ylabel="predicted latency, ms",
            title=f"{links} links",
        )  # fmt: skip
        axes.legend(loc="upper left", title="grey: within 15 %")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(figure, path, dpi=120)
