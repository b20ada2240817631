"""`deploy-strategy`: runs a strategy on workers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from distredge import metric_names
from distredge.cli._common import check_writable, load_model_of, print_json
from distredge.cli._deployment import DeploymentReport, MeasuredRun, check_folder, difference, preparing, whole_model
from distredge.cli._interrupts import Interrupts
from distredge.cli._options import Number, input_shape_option, json_option, verbose_option, version_option
from distredge.cli._planning import say_assumption
from distredge.cli._replanning import Replanner
from distredge.cli._stream_observers import watching
from distredge.cli._stream_options import StreamOptions, stream_options
from distredge.cli._variant_options import VariantOptions, variant_options
from distredge.errors import ExecutionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from distredge.cli._stream import StreamObserver
    from distredge.media.picture_source import PictureSource
    from distredge.model.graph import Graph
    from distredge.monitor.deployment_log import DeploymentLog
    from distredge.problem import Problem
    from distredge.runtime.hosting.session import Session
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("strategy_path", metavar="[STRATEGY]", required=False, type=click.Path(path_type=Path))
@click.option("--cluster", "cluster_name", required=True, help="A cluster file, or a shipped one such as this-machine.")
@click.option("--model", "model_name", help="Zoo name, .onnx file or package.module:callable; default: the strategy's.")
@input_shape_option
@click.option("--weights", type=_FILE, help="Weights for a zoo model.")
@click.option("--image", type=_FILE, help="Picture to infer on; without it, seeded noise.")
@stream_options
@variant_options
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Frames to run, after one more.")
@click.option(
    "--in-flight", type=click.IntRange(1, 256), default=1, show_default=True, help="Frames under way at once."
)
@click.option("--deadline", "deadline_s", type=Number(0, above=True), default=10.0, show_default=True,
              help="Seconds within which a frame ends.")  # fmt: skip
@click.option("--connect", "connect_s", type=Number(0, above=True),
              help="Seconds within which workers must be reached; default: 60, as they may be starting.")  # fmt: skip
@click.option("--take-over", is_flag=True, help="Take workers that another deploy-strategy holds.")
@click.option("--replan", "replan_method", is_flag=False, flag_value="auto", metavar="[METHOD]",
              help="When a worker is lost, plan anew (auto) for those left; they redo its frames.")  # fmt: skip
@click.option("--check/--no-check", default=True, show_default=True, help="Compare with the model as given.")
@click.option("--keys", "keys_path", type=_FOLDER, help="Folder of keys; default: 'keys' beside the cluster file.")
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication.")
@click.option("--timeline", "timeline_path", type=_FILE, help="Write a Chrome trace (opens in ui.perfetto.dev).")
@click.option("--log", "log_path", type=_FOLDER, help="Write TensorBoard events there, while frames run.")
@json_option
@verbose_option
@version_option
def deploy_strategy(
    strategy_path: Path | None,
    cluster_name: str,
    model_name: str | None,
    input_shape: tuple[int, ...] | None,
    weights: Path | None,
    image: Path | None,
    stream: StreamOptions,
    variants: VariantOptions,
    repeat: int,
    in_flight: int,
    deadline_s: float,
    connect_s: float | None,
    take_over: bool,
    replan_method: str | None,
    check: bool,
    keys_path: Path | None,
    plaintext: bool,
    timeline_path: Path | None,
    log_path: Path | None,
    as_json: bool,
) -> None:
    """Run STRATEGY on the workers of a cluster.

    On a cluster of this machine it starts the workers and ends them; on boards `distredge worker` runs already.

    With --images or --video it runs a stream: results come in order, as they are there. A picture that cannot be read
    or fails is named, and the stream goes on, unless no other can come through any more; the exit code is 0 if at least
    one came through, 1 if none did or can, and 130 after Ctrl-C, with what was done in --out and --report.

    With --variants each frame takes the most accurate model of a menu that is predicted to end within
    --latency-limit-ms at the rates of the moment, which the frames themselves show; all of them stand ready.
    """
    from distredge.cluster import load_cluster
    from distredge.problem import Problem
    from distredge.runtime.deployment import file_limits
    from distredge.runtime.hosting.session import open_session
    from distredge.strategy import Strategy

    stream.check(image, repeat, timeline_path)
    variants.check(
        {
            "STRATEGY": strategy_path, "--model": model_name, "--input-shape": input_shape, "--weights": weights,
            "--replan": replan_method, "--in-flight": in_flight, "--log": log_path,
        }
    )  # fmt: skip
    check_writable(timeline_path)
    check_folder(log_path)
    if variants.menu is not None and variants.latency_limit_s is not None:
        from distredge.cli._variant_run import VariantRun

        hosting = {
            "keys_path": keys_path, "plaintext": plaintext, "deadline_s": deadline_s, "connect_s": connect_s,
            "take_over": take_over,
        }  # fmt: skip
        with Interrupts():
            VariantRun(
                variants.menu, variants.latency_limit_s, stream, image, repeat, cluster_name, hosting, check,
                timeline_path, as_json, _say_aside,
            ).run()  # fmt: skip
        return
    assert strategy_path is not None
    strategy = Strategy.load(strategy_path)
    graph = load_model_of(strategy, strategy_path, model_name, input_shape, weights)
    problem = Problem(graph, load_cluster(cluster_name, models=[graph]))
    with Interrupts(), contextlib.ExitStack() as stack:
        source = None
        if stream.wanted:
            source = stack.enter_context(contextlib.closing(stream.open(graph, file_limits(graph, strategy))))
        inputs = _inputs(graph, strategy, image) if source is None else {}
        if stream.video is not None or (source is None and isinstance(inputs, dict)):
            # What comes is in no file: prediction and workers are told of rows.
            strategy = strategy.with_rows()
        log = None if log_path is None else stack.enter_context(_log(log_path, problem, strategy))
        observers = [] if source is None else stack.enter_context(watching(stream, log, as_json))
        replanner = None if replan_method is None else Replanner(problem, strategy, replan_method)
        opened = open_session(
            problem, strategy, cluster_name, keys_path=keys_path, plaintext=plaintext, deadline_s=deadline_s,
            connect_s=connect_s, in_flight=in_flight, replan=replanner, take_over=take_over, say=_say_aside,
        )  # fmt: skip
        order = _Order(problem, strategy, opened, replanner, log, log_path, timeline_path, check, as_json)
        if source is not None:
            _run_stream(order, stream, source, observers, strategy_path)
        else:
            _run_one(order, inputs, image, repeat)


@dataclass(frozen=True)
class _Order:
    """What is run, and how.

    Attributes:
        problem: model and cluster.
        strategy: what is deployed.
        opened: deploys it when entered.
        replanner: plans anew where workers are lost; None where that is not wanted.
        log: TensorBoard's; None where it is not wanted.
        log_path: its folder.
        timeline_path: where a frame's timeline goes.
        check: whether an output is compared with the whole model's.
        as_json: whether machines read what is said.
    """

    problem: Problem
    strategy: Strategy
    opened: contextlib.AbstractContextManager[Session]
    replanner: Replanner | None
    log: DeploymentLog | None
    log_path: Path | None
    timeline_path: Path | None
    check: bool
    as_json: bool

    def as_run(self, session: Session) -> tuple[Problem, float | None]:
        """The problem as it runs in a session, and the latency in seconds that is predicted; None if not known."""
        cluster = dataclasses.replace(self.problem.cluster, encrypted=session.encrypted)
        as_run = dataclasses.replace(self.problem, cluster=cluster)
        predicted_s = _predicted_s(as_run, self.strategy)
        if self.log is not None:
            self.log.expect(lambda: _latest_prediction_s(predicted_s, self.replanner), _offload_s(as_run))
        return as_run, predicted_s

    def replanned(self) -> tuple[Mapping[str, Any], ...]:
        """What was planned anew."""
        return () if self.replanner is None else tuple(self.replanner.figures())

    def save(self, timeline: Timeline) -> None:
        """Writes what is written besides what is said: the timeline, and the log to its end."""
        if self.timeline_path is not None:
            timeline.save(self.timeline_path)
            if not self.as_json:
                click.echo(f"timeline: {self.timeline_path} (opens in ui.perfetto.dev)")
        if self.log is not None:
            self.log.pictures(timeline)
            self.log.close()
            self.log.check()
            if not self.as_json:
                click.echo(f"log: tensorboard --logdir {self.log_path}")


def _run_one(order: _Order, inputs: Mapping[str, NDArray[Any]], image: Path | None, repeat: int) -> None:
    problem, strategy = order.problem, order.strategy
    with contextlib.ExitStack() as stack:
        try:
            session = stack.enter_context(order.opened)
        except KeyboardInterrupt:
            _say_partial([], repeat, order.as_json)
            raise
        _, predicted_s = order.as_run(session)
        outputs, run = _measure(order, session.coordinator, inputs, repeat)
        timeline = session.coordinator.timeline()
    apart = difference(whole_model(problem.graph, strategy, inputs), outputs) if order.check else None
    report = DeploymentReport(
        problem, strategy, outputs, run, predicted_s, apart, timeline, session.encrypted, session.where, image,
        order.replanned(),
    )  # fmt: skip
    say_assumption(problem.cluster)
    # Before any file is written: what cannot be written then loses nothing else.
    if order.as_json:
        print_json(report.figures())
    else:
        report.show()
    order.save(timeline)
    if report.fault is not None:
        raise ExecutionError(report.fault)


def _run_stream(
    order: _Order,
    options: StreamOptions,
    source: PictureSource,
    observers: Sequence[StreamObserver],
    strategy_path: Path,
) -> None:
    from distredge.cli._stream_run import StreamRun

    with order.opened as session:
        as_run, predicted_s = order.as_run(session)
        StreamRun(
            options, source, as_run, order.strategy, strategy_path, session, observers, predicted_s, order.check,
            order.as_json, order.replanner, None if order.timeline_path is None and order.log is None else order.save,
        ).run()  # fmt: skip
    say_assumption(order.problem.cluster)


def _inputs(graph: Graph, strategy: Strategy, image: Path | None) -> Mapping[str, NDArray[Any]]:
    """The picture as the strategy sends it, or seeded noise."""
    import numpy as np

    as_pixels = strategy.input.pixels
    if image is None:
        rng = np.random.default_rng(0)
        found: dict[str, NDArray[Any]] = {}
        for name, shape in zip(graph.input_names, graph.input_shapes, strict=True):
            dtype = np.dtype(strategy.input.element_dtype if as_pixels else graph.tensors[name].dtype)
            noise = rng.integers(0, 256, shape) if dtype.kind in "ui" else rng.standard_normal(shape)
            found[name] = noise.astype(dtype)
        return found
    from distredge.media.pictures import read_picture
    from distredge.runtime.deployment import file_limits
    from distredge.runtime.picture_files import FileInputs
    from distredge.runtime.requester.picture_frames import check_takes_pictures, inputs_of

    preprocess = check_takes_pictures(graph)
    picture = read_picture(image, file_limits(graph, strategy))
    if picture.file is None:
        return inputs_of(graph, strategy, picture.taken())
    given = FileInputs(graph.input_names[0], picture.file, preprocess)
    # Decoded before any worker is started: one that is damaged is the user's error.
    given[given.name]
    return given


def _predicted_s(problem: Problem, strategy: Strategy) -> float | None:
    """What the simulator expects, or what the planner wrote down."""
    from distredge.errors import InputError
    from distredge.latency import evaluate

    try:
        return evaluate(problem, strategy)
    except InputError:
        return strategy.predicted.get(metric_names.LATENCY_S)


def _log(folder: Path, problem: Problem, strategy: Strategy) -> DeploymentLog:
    """TensorBoard's log, in which nothing is written before the first frame."""
    from distredge.monitor.deployment_log import DeploymentLog

    return DeploymentLog(folder, problem, strategy)


def _offload_s(problem: Problem) -> float | None:
    """What the best single device is predicted to take; None where that cannot be said."""
    from distredge.errors import InputError
    from distredge.latency import offload_latency_s

    try:
        return offload_latency_s(problem)
    except InputError:
        return None


def _latest_prediction_s(first_s: float | None, replanner: Replanner | None) -> float | None:
    """What the strategy that runs now is predicted to take."""
    if replanner is None or not replanner.made:
        return first_s
    return replanner.made[-1].strategy.predicted[metric_names.LATENCY_S]


def _measure(
    order: _Order, coordinator: Coordinator, inputs: Mapping[str, NDArray[Any]], repeat: int
) -> tuple[dict[str, NDArray[Any]], MeasuredRun]:
    """Runs one frame, then those that count; what ends it early still says what was measured."""
    log, timeline_path = order.log, order.timeline_path
    latencies_s: list[float] = []
    first: Timeline | None = None
    frames = 1 + repeat + (_frames_at_once(coordinator, repeat) if coordinator.in_flight > 1 else 0)
    if order.replanner is not None:
        order.replanner.follow(coordinator, lambda: frames - len(latencies_s))
    try:
        outputs = coordinator.infer(inputs)
        if timeline_path is not None:
            # A worker that is lost later takes its records with it.
            first = coordinator.timeline()
        for number in range(repeat):
            coordinator.infer(inputs)
            latencies_s.append(coordinator.last_latency_s or 0.0)
            if log is not None:
                log.frame(number, latencies_s[-1])
                log.look_back(number, coordinator.timeline)
        per_s = _throughput_per_s(coordinator, inputs, repeat, log)
        measured = MeasuredRun(tuple(latencies_s), per_s, preparing(coordinator))
        return outputs, measured
    except (KeyboardInterrupt, ExecutionError):
        _say_partial(latencies_s, repeat, order.as_json)
        if timeline_path is not None and first is not None:
            _latest(coordinator, first).save(timeline_path)
        raise


def _throughput_per_s(
    coordinator: Coordinator, inputs: Mapping[str, NDArray[Any]], repeat: int, log: DeploymentLog | None
) -> float | None:
    in_flight = coordinator.in_flight
    if in_flight == 1:
        return None
    started_s = time.monotonic()
    count = _frames_at_once(coordinator, repeat)
    frames = itertools.repeat(inputs, count)
    for frame in coordinator.stream(frames):
        frame.result()
        if log is not None:
            log.in_flight(frame.number, frame.latency_s, (frame.number + 1) / (time.monotonic() - started_s))
    return count / (time.monotonic() - started_s)


def _frames_at_once(coordinator: Coordinator, repeat: int) -> int:
    """How many frames are run to see what several in flight give."""
    return max(repeat, 2 * coordinator.in_flight)


def _say_aside(text: str) -> None:
    click.echo(text, err=True)


def _say_partial(latencies_s: list[float], repeat: int, as_json: bool) -> None:
    middle_s = median(latencies_s) if latencies_s else None
    if as_json:
        print_json({"frames": len(latencies_s), "frames_wanted": repeat, metric_names.LATENCY_S: middle_s})
        return
    said = "" if middle_s is None else f", median latency {1e3 * middle_s:.2f} ms"
    click.echo(f"ended early: {len(latencies_s)} of {repeat} frames done{said}")


def _latest(coordinator: Coordinator, first: Timeline) -> Timeline:
    """The timeline of the latest frame, or the first frame's where a worker no longer answers."""
    try:
        return coordinator.timeline()
    except ExecutionError:
        return first
