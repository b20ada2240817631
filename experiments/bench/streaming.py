"""A stream of pictures: how near to what the busiest resource allows, what watching costs, how soon a second deploy is.

    python experiments/bench/streaming.py [--quick] [--only PART ...]

    stream
        500 JPEG pictures (150 with --quick) through four emulated boards at 20 Mbit/s, which DeepSlicing gives rows in
        ten volumes each, with `deploy-strategy --images --watch --in-flight 8`, encrypted: `images_per_s_over_bound` is
        what came over what the busiest resource is predicted to allow. `lost` counts pictures without a result or an
        error, `out_of_order` results that came after a later one's. The boards compute at this machine's own speed
        (dilation 1), `busy_share` says how much of its processors all of it took.
    watch
        `watch_overhead`: how much longer a frame takes with live view, questions to the workers, TensorBoard and a
        Prometheus endpoint than without any, on two workers of this machine, unpaced. Phases of one session in turn,
        each with its own watch; the median of the ratios of neighbours, the best in brackets. `watch_busy_share` is
        what this session took of the processors.
    deploy
        VGG-16 on four emulated boards whose links are wide, from nothing and once more after the workers have been
        ended and started again: `first_deploy_s`, `second_deploy_s` from opening the session until it can take frames,
        and bytes of constants sent. Workers of both keep them in the same folder.
    files
        YOLOv2 on the stream's boards, a picture of 640 x 480 as rows of pixels and in its JPEG file, encrypted, one at
        a time: the median of 12 (6 with --quick) and what was predicted, on the best board (`alone`) and on those that
        `search` takes (`split`). The boards keep a Raspberry Pi 4's pace and compute nothing; they decode at this
        machine's.

HALP's selection is measured by experiments/bench/selection.py. Other programs disturb. Prints a line for each figure
and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from distredge.testbed.measuring import busy_share

RATE_MBPS: Final = 20
"""Of the links of the stream's boards: narrow enough that they, not this machine's cores, are what bounds it."""

IN_FLIGHT: Final = 8
PICTURES, QUICK_PICTURES = 500, 150
PHASES, QUICK_PHASES = 24, 10
PHASE_S: Final = 2.5
BOARDS: Final = 4

PYTHON: Final = "from distredge.cli.main import {0}; {0}()"
MODEL: Final = "mobilenet-v2"
LARGE: Final = "vgg16"
DETECTOR: Final = "yolov2"
WIDE: Final = "pi4x4"
HERE: Final = "this-machine"

Figures = dict[str, Any]


def main() -> int:
    """Measures, prints and ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about two minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    figures: Figures = {"quick": options.quick, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory(prefix="distredge-streaming-") as folder:
        for part in options.only:
            found = PARTS[part](Path(folder), options.quick)
            for key, value in found.items():
                print(f"{key:<28} {value:.5g}" if isinstance(value, float) else f"{key:<28} {value}", flush=True)
            figures |= found
    print(json.dumps(figures))
    return 0


# The stream.


def stream(folder: Path, quick: bool) -> Figures:
    """Pictures through boards behind narrow links, by the command."""
    pictures = folder / "pictures"
    _draw_pictures(pictures, QUICK_PICTURES if quick else PICTURES)
    report, strategy = folder / "report.json", folder / "stream.json"
    boards = _narrow(folder)
    # Every board has rows in each of its volumes; the fastest strategy would leave some out.
    _run("main", "plan", "--model", MODEL, "--cluster", boards, "--method", "deepslicing", "--out", str(strategy))
    with _standing(boards) as cluster:
        before = psutil.cpu_times()
        _run(
            "deploy_strategy_main", str(strategy), "--cluster", cluster, "--images", str(pictures), "--watch",
            "--in-flight", str(IN_FLIGHT), "--no-check", "--report", str(report), "--deadline", "30",
        )  # fmt: skip
        busy = busy_share(before, psutil.cpu_times())
    found = json.loads(report.read_text(encoding="utf-8"))
    bound = found["bound_images_per_s"]
    return {
        "images_per_s": found["images_per_s"],
        "bound_images_per_s": bound,
        "images_per_s_over_bound": found["images_per_s"] / bound,
        "bottleneck": found["bottleneck"],
        "frames": found["frames"],
        "failed": found["failed_frames"],
        "lost": found["lost"],
        "out_of_order": found["out_of_order"],
        "p50_s": found["latency"]["p50_s"],
        "p99_s": found["latency"]["p99_s"],
        "busy_share": busy,
    }


def _draw_pictures(folder: Path, count: int) -> None:
    """JPEG files of smoothed noise, larger than the model's input: they must be decoded and made smaller."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=85)


def _narrow(folder: Path) -> str:
    """A cluster file of boards behind narrow links."""
    link = f"link = {{ rate_bps = {RATE_MBPS}e6, rtt_s = 0.002 }}"
    lines = ['format = "distredge.cluster/1"', 'name = "streaming"', 'link_model = "shared"', "encrypted = true"]
    lines += ["", "[requester]", f'profile = "default:{HERE}"', link]
    for number in range(BOARDS):
        lines += ["", "[[device]]", f'name = "board-{number}"', 'profile = "default:pi4"', "threads = 1", link]
    path = folder / "narrow.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


# Watching.


@dataclass(frozen=True)
class _Ended:
    number: int
    latency_s: float | None
    ended_s: float


def watch(folder: Path, quick: bool) -> Figures:
    """The same frames with everything that watches them and without, in turn."""
    import numpy as np

    from distredge.cluster import load_cluster
    from distredge.model.capture import load_model
    from distredge.planners import plan
    from distredge.problem import Problem
    from distredge.runtime.hosting.local_cluster import LocalCluster

    graph = load_model(MODEL)
    problem = Problem.lossless(graph, load_cluster(HERE, models=[graph]))
    strategy = plan(problem, "search", 2.0)
    (name,), (shape,) = graph.input_names, graph.input_shapes
    inputs = {name: np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
    if not strategy.input.pixels:
        inputs = {name: inputs[name].astype(graph.tensors[name].dtype)}
    latencies: dict[bool, list[float]] = {True: [], False: []}
    with LocalCluster(problem, strategy) as local:
        for _ in range(50):
            local.infer(inputs)
        before = psutil.cpu_times()
        # Twice the same in turn, the other way round each time: a drift takes no side.
        for number in range(QUICK_PHASES if quick else PHASES):
            for watched in ((True, False), (False, True))[number % 2]:
                with _watched(local, problem, strategy, folder / f"log-{number}") if watched else _nobody() as tell:
                    latencies[watched].append(_phase(local, inputs, tell))
        busy = busy_share(before, psutil.cpu_times())
    ratios = [one / other - 1.0 for one, other in zip(latencies[True], latencies[False], strict=True)]
    return {
        "watch_overhead": statistics.median(ratios),
        "watch_overhead_best": min(latencies[True]) / min(latencies[False]) - 1.0,
        "watched_latency_s": statistics.median(latencies[True]),
        "unwatched_latency_s": statistics.median(latencies[False]),
        "watch_phases": len(ratios),
        "watch_busy_share": busy,
    }


def _phase(local: Any, inputs: Mapping[str, Any], tell: Callable[[_Ended], None]) -> float:
    """Mean seconds of a frame, what is told of it included, over some seconds."""
    began_s, number = time.perf_counter(), 0
    while time.perf_counter() - began_s < PHASE_S:
        for result in local.stream([inputs] * 25):
            tell(_Ended(number, result.latency_s, time.perf_counter() - began_s))
            number += 1
    return (time.perf_counter() - began_s) / number


@contextlib.contextmanager
def _nobody() -> Iterator[Callable[[_Ended], None]]:
    yield lambda frame: None


@contextlib.contextmanager
def _watched(local: Any, problem: Any, strategy: Any, folder: Path) -> Iterator[Callable[[_Ended], None]]:
    """Live view, TensorBoard, and a Prometheus endpoint that is asked once a second would be."""
    from rich.console import Console

    from distredge.monitor.deployment_log import DeploymentLog, LogView
    from distredge.monitor.live_view import LiveView
    from distredge.monitor.prometheus import PrometheusExporter, read_endpoint
    from distredge.monitor.stream_watch import StreamWatch, View

    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    with DeploymentLog(folder, problem, strategy) as log:
        views: list[View] = [LiveView(terminal), LogView(log), PrometheusExporter(*read_endpoint("127.0.0.1:0"))]
        watching = StreamWatch(views)
        watching.begin(local.coordinator, strategy, 0.01)

        def tell(frame: _Ended) -> None:
            watching.frame(frame)
            if frame.latency_s is not None:
                log.frame(frame.number, frame.latency_s)

        try:
            yield tell
        finally:
            watching.end()


# Deploying.


def deploy_twice(folder: Path, quick: bool) -> Figures:
    """VGG-16 to the same boards, twice."""
    from distredge.cluster import load_cluster
    from distredge.model.capture import load_model
    from distredge.planners import plan
    from distredge.problem import Problem
    from distredge.runtime.hosting.session import open_session

    graph = load_model(LARGE)
    seconds, sent_bytes = [], []
    with _standing(WIDE) as cluster:
        problem = Problem.lossless(graph, load_cluster(cluster, models=[graph]))
        strategy = plan(Problem.lossless(graph, load_cluster(WIDE)), "search", 5.0)
        for _ in range(2):
            began_s = time.perf_counter()
            with open_session(problem, strategy, cluster) as session:
                seconds.append(time.perf_counter() - began_s)
                sent_bytes.append(session.coordinator.weights_sent_bytes)
    return {
        "first_deploy_s": seconds[0],
        "second_deploy_s": seconds[1],
        "first_deploy_sent_bytes": sent_bytes[0],
        "second_deploy_sent_bytes": sent_bytes[1],
        "deploy_boards": len(strategy.devices),
    }


# Pictures in their files.


def files(folder: Path, quick: bool) -> Figures:
    """The same picture as rows of pixels and in its file."""
    import dataclasses

    from PIL import Image

    from distredge.cluster import load_cluster
    from distredge.latency import simulate
    from distredge.media.jpeg import jpeg_file
    from distredge.model.capture import load_model
    from distredge.planners import plan
    from distredge.problem import Problem
    from distredge.profiles.measuring.pictures import natural_like
    from distredge.runtime.picture_files import FileInputs
    from distredge.strategy import InputSpec
    from distredge.testbed.testbed import Testbed

    stream = io.BytesIO()
    Image.fromarray(natural_like()).save(stream, "JPEG", quality=80)
    picture = jpeg_file(stream.getvalue(), "picture")
    graph = load_model(DETECTOR)
    assert picture is not None
    assert graph.preprocess is not None
    inputs = FileInputs(graph.input_names[0], picture, graph.preprocess)
    problem = Problem.lossless(graph, load_cluster(_narrow(folder), models=[graph]))
    found: Figures = {"file_bytes": len(picture.content)}
    for name, method in (("alone", "offload"), ("split", "search")):
        rows = plan(problem, method, 3.0)
        found[f"{name}_boards"] = len(rows.devices)
        in_files = rows.replace(input=InputSpec("jpeg", len(picture.content), picture.n_pixels))
        for form, strategy, given in (("rows", rows, dict(inputs)), ("files", in_files, inputs)):
            with Testbed(problem.cluster, "auto", "sleep", True, 1.0, True) as bed:
                measured = bed.measure(problem, strategy, given, 6 if quick else 12, 1)
                predicted = simulate(dataclasses.replace(problem, cluster=bed.cluster), strategy)
            found[f"{name}_{form}_s"] = measured.latency_s
            found[f"{name}_{form}_predicted_s"] = predicted.latency_s
    return found


# What they share.


@contextlib.contextmanager
def _standing(cluster: str) -> Iterator[str]:
    """Emulated boards that stand; yields their cluster file."""
    from distredge.testbed.standing import CLUSTER_FILE, set_up, state_folder, take_down

    name = f"streaming-{os.getpid()}"
    set_up(cluster, name, "auto")
    try:
        yield str(state_folder(name) / CLUSTER_FILE)
    finally:
        take_down(name)


def _run(command: str, *arguments: str) -> None:
    """Runs one of the project's commands; its progress goes to stderr, what it says else nowhere."""
    subprocess.run([sys.executable, "-c", PYTHON.format(command), *arguments], check=True, stdout=subprocess.DEVNULL)


PARTS: Final[dict[str, Callable[[Path, bool], Figures]]] = {
    "stream": stream, "watch": watch, "deploy": deploy_twice, "files": files,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
