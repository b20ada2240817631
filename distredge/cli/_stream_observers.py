"""What watches a stream of `deploy-strategy`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from distredge.errors import ExecutionError

if TYPE_CHECKING:
    from distredge.cli._stream import StreamedFrame, StreamObserver
    from distredge.cli._stream_options import StreamOptions
    from distredge.monitor.deployment_log import DeploymentLog
    from distredge.monitor.stream_watch import View
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline


@contextlib.contextmanager
def watching(
    options: StreamOptions, log: DeploymentLog | None, as_json: bool, title: str | None = None
) -> Iterator[list[StreamObserver]]:
    """Gives what watches a stream, made before its workers are started; where these do not come up it ends.

    Arguments and what is raised are those of `observers`.
    """
    found = observers(options, log, as_json, title)
    try:
        yield found
    except BaseException:
        for observer in found:
            observer.end()
        raise


def observers(
    options: StreamOptions, log: DeploymentLog | None, as_json: bool, title: str | None = None
) -> list[StreamObserver]:
    """Returns what watches a stream.

    Args:
        options: what was asked for.
        log: TensorBoard's, where it is wanted.
        as_json: whether machines read what is said.
        title: what is run, on what, for people; None: the model and the devices that the stream begins with.

    Raises:
        InputError: if Prometheus cannot be listened for.
        MissingDependency: if what answers it is not installed.
    """
    found: list[StreamObserver] = [] if log is None else [LogObserver(log)]
    views = _views(options, log, as_json, title)
    if views or options.watch is not False:
        from distredge.monitor.stream_watch import StreamWatch

        found.append(StreamWatch(views, say=functools.partial(click.echo, err=True)))
    if options.trace_frame is not None:
        from distredge.monitor.frame_trace import FrameTrace, read_choice

        found.append(FrameTrace(read_choice(options.trace_frame)))
    return found


def traced(
    watching: Sequence[StreamObserver],
    coordinator: Coordinator,
    as_json: bool,
    latest: Callable[[], Timeline] | None = None,
) -> Timeline:
    """Returns the timeline of the frame that was to be traced, after saying which it is; else of the latest one.

    Args:
        watching: what watched the stream.
        coordinator: ran it.
        as_json: whether machines read what is said.
        latest: gives the timeline of the latest frame, where several deployments stand.

    Raises:
        ExecutionError: saying why there is none.
    """
    from distredge.monitor.frame_trace import FrameTrace

    trace = next((one for one in watching if isinstance(one, FrameTrace)), None)
    if trace is None:
        return coordinator.timeline() if latest is None else latest()
    if trace.timeline is None:
        raise ExecutionError(f"no timeline is written: {trace.error}")
    if not as_json:
        click.echo(f"traced: {trace.text()}")
    return trace.timeline


def _views(options: StreamOptions, log: DeploymentLog | None, as_json: bool, title: str | None) -> list[View]:
    """Where it is shown how the stream stands."""
    views: list[View] = []
    if log is not None:
        from distredge.monitor.deployment_log import LogView

        views.append(LogView(log))
    if options.prometheus is not None:
        from distredge.monitor.prometheus import DASHBOARD, PrometheusExporter, read_endpoint

        exporter = PrometheusExporter(*read_endpoint(options.prometheus))
        click.echo(f"Prometheus may ask at {exporter.url} (Grafana dashboard: {DASHBOARD})", err=True)
        views.append(exporter)
    on_terminal = (
        sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    )
    if options.watch or (options.watch is None and on_terminal and not as_json):
        from distredge.monitor.live_view import LinesView, LiveView

        views.append(LiveView(title=title) if on_terminal else LinesView())
    return views


class LogObserver:
    """Writes the frames into TensorBoard's log, as they end.

    Args:
        log: is closed by whoever opened it.
    """

    def __init__(self, log: DeploymentLog) -> None:
        self._log = log
        self._done = 0
        self._in_flight = 1

    def begin(self, coordinator: Coordinator, strategy: Strategy, predicted_s: float | None) -> None:
        self._in_flight = coordinator.in_flight

    def frame(self, frame: StreamedFrame) -> None:
        if frame.latency_s is None:
            return
        self._done += 1
        if self._in_flight > 1:
            self._log.in_flight(frame.number, frame.latency_s, self._done / frame.ended_s)
        else:
            self._log.frame(frame.number, frame.latency_s)

    def end(self) -> Mapping[str, Any]:
        return {}
