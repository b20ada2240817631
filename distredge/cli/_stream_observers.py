"""What watches a stream of `deploy-strategy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distredge.cli._stream import StreamedFrame, StreamObserver
    from distredge.cli._stream_options import StreamOptions
    from distredge.monitor.deployment_log import DeploymentLog
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline


def observers(options: StreamOptions, log: DeploymentLog | None) -> list[StreamObserver]:
    """Returns what watches a stream.

    Args:
        options: what was asked for.
        log: TensorBoard's, where it is wanted.
    """
    return [] if log is None else [LogObserver(log)]


class LogObserver:
    """Writes the frames into TensorBoard's log, as they end.

    Args:
        log: is closed by whoever opened it.
    """

    def __init__(self, log: DeploymentLog) -> None:
        self._log = log
        self._done = 0
        self._in_flight = 1
        self._timeline: Callable[[], Timeline] | None = None

    def begin(self, coordinator: Coordinator, strategy: Strategy, predicted_s: float | None) -> None:
        self._in_flight = coordinator.in_flight
        self._timeline = coordinator.timeline

    def frame(self, frame: StreamedFrame) -> None:
        if frame.latency_s is None:
            return
        self._done += 1
        self._log.frame(frame.number, frame.latency_s)
        if self._in_flight > 1:
            self._log.in_flight(frame.number, frame.latency_s, self._done / frame.ended_s)
        if self._timeline is not None:
            self._log.look_back(frame.number, self._timeline)

    def end(self) -> Mapping[str, Any]:
        return {}
