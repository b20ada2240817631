"""A stream's figures for Prometheus, over HTTP as it asks for them.

The dashboard that Grafana draws of them is `data/grafana-dashboard.json` beside this file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from distredge import metric_names
from distredge.errors import InputError, MissingDependency
from distredge.monitor.snapshot import DeviceState, Snapshot

if TYPE_CHECKING:
    from distredge.monitor.stream_watch import EndedFrame
    from distredge.strategy import Strategy

DASHBOARD: Final = Path(__file__).parent / "data" / "grafana-dashboard.json"

LOOPBACK: Final = "127.0.0.1"

_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_STATES: Final = ("idle", "preparing", "running")


def read_endpoint(text: str) -> tuple[str, int]:
    """Returns host and port of `[HOST:]PORT`; without a host it is the loopback address.

    Args:
        text: such as 9400, 0.0.0.0:9400 or [::1]:9400; port 0 lets the system choose.

    Raises:
        InputError: if it is neither.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") == host.endswith("]") else ""
    if not port.isdecimal() or int(port) > 65535 or (colon and not host):
        raise InputError(f"'{text}' is not where figures can be asked for: accepted is [HOST:]PORT, such as 9400")
    return host or LOOPBACK, int(port)


class PrometheusExporter:
    """Answers Prometheus (`stream_watch.View`); it listens from the beginning.

    Args:
        host: where it listens.
        port: 0 lets the system choose.

    Attributes:
        url: of the figures.

    Raises:
        MissingDependency: if `prometheus_client` is not installed.
        InputError: if it cannot listen there.
    """

    per_s: float = 1.0

    def __init__(self, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, Histogram, start_http_server
        except ModuleNotFoundError as error:
            raise MissingDependency("prometheus_client", "to export figures", "watch") from error
        self._latest: Snapshot | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(lambda: self._latest))
        self._latency = Histogram(
            metric_names.FRAME_LATENCY_SECONDS,
            "Seconds from a frame's start to its last output.",
            registry=self._registry,
            buckets=_BUCKETS_S,
        )
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except (OSError, UnicodeError) as error:
            # The latter is of a host that cannot be a name.
            why = getattr(error, "strerror", None) or error
            raise InputError(f"cannot listen at {host}:{port} for Prometheus: {why}") from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"
        self._closed = threading.Event()

    def begin(self, strategy: Strategy) -> None:
        """Nothing: it listens already."""

    def frame(self, frame: EndedFrame) -> None:
        """Counts its latency."""
        if frame.latency_s is not None:
            self._latency.observe(frame.latency_s)

    def show(self, snapshot: Snapshot) -> None:
        """Keeps it for whoever asks."""
        self._latest = snapshot

    def end(self) -> None:
        """Listens no longer."""
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Collector:
    """Makes metrics of the latest snapshot, when they are asked for."""

    def __init__(self, latest: Callable[[], Snapshot | None]) -> None:
        self._latest = latest

    def describe(self) -> list[Any]:
        """None beforehand: what there is depends on the devices."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yields the families of metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        snapshot = self._latest()
        if snapshot is None:
            return
        yield CounterMetricFamily(metric_names.FRAMES_TOTAL, "Frames that ended well.", value=snapshot.frames)
        yield CounterMetricFamily(metric_names.FRAME_ERRORS_TOTAL, "Frames that failed.", value=snapshot.errors)
        yield GaugeMetricFamily(
            metric_names.IMAGES_PER_SECOND, "Images per second of the latest seconds.", value=snapshot.images_per_s
        )
        if snapshot.predicted_s is not None:
            yield GaugeMetricFamily(
                metric_names.PREDICTED_LATENCY_SECONDS, "Predicted latency.", value=snapshot.predicted_s
            )
        for name, text, read in _OF_DEVICES:
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            made = family(name, text, labels=["device"])
            for state in snapshot.devices:
                value = read(state)
                if value is not None:
                    made.add_metric([state.device], value)
            yield made
        states = GaugeMetricFamily(metric_names.DEVICE_STATE, "1 for what a device does.", labels=["device", "state"])
        for state in snapshot.devices:
            for name in _STATES:
                states.add_metric([state.device, name], float(state.sample.state == name and not state.is_silent))
        yield states


_OF_DEVICES: Final[tuple[tuple[str, str, Callable[[DeviceState], float | None]], ...]] = (
    (metric_names.DEVICE_FRAMES_TOTAL, "Frames that a device was done with.", lambda s: s.sample.frames),
    (metric_names.COMPUTE_SECONDS_TOTAL, "Seconds of computing.", lambda s: s.sample.busy_s),
    (metric_names.BYTES_RECEIVED_TOTAL, "Bytes of rows received.", lambda s: s.sample.received_bytes),
    (metric_names.BYTES_SENT_TOTAL, "Bytes of rows sent.", lambda s: s.sample.sent_bytes),
    (metric_names.BAD_MESSAGES_TOTAL, "Messages that were dropped.", lambda s: s.sample.dropped),
    (metric_names.DEVICE_QUEUED_STAGES, "Stages that wait for the engine.", lambda s: s.sample.queued),
    (metric_names.DEVICE_OPEN_FRAMES, "Frames begun and not done.", lambda s: s.sample.open_frames),
    (metric_names.DEVICE_TEMPERATURE_CELSIUS, "Temperature of the processor.", lambda s: s.sample.temperature_c),
    (metric_names.DEVICE_SILENT_SECONDS, "Since a device was heard.", lambda s: s.silent_s),
    (metric_names.CLOCK_OFFSET_SECONDS, "Its clock minus the requester's.", lambda s: s.sample.clock_offset_s),
    (metric_names.CLOCK_ERROR_SECONDS, "How wrong the offset may be.", lambda s: s.sample.clock_error_s),
)
