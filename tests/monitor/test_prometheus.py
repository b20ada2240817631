"""What Prometheus gets, over HTTP, and what the dashboard asks it for."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from distredge import metric_names
from distredge.errors import InputError
from distredge.monitor.prometheus import DASHBOARD, PrometheusExporter, read_endpoint
from tests.monitor.streams import Frame, snapshot

pytest.importorskip("prometheus_client")


def _asked(exporter: PrometheusExporter) -> dict[str, float]:
    """Metric with its labels -> value."""
    with urllib.request.urlopen(exporter.url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@pytest.fixture
def exporter():
    made = PrometheusExporter("127.0.0.1", 0)
    yield made
    made.end()
    made.end()


def test_figures_of_the_stream_and_of_its_devices(exporter: PrometheusExporter) -> None:
    assert metric_names.FRAMES_TOTAL not in _asked(exporter)
    for number, latency_s in enumerate((0.04, 0.06, None)):
        exporter.frame(Frame(number, latency_s, 1.0))
    exporter.show(snapshot())
    found = _asked(exporter)
    assert found["distredge_frames_total"] == 340
    assert found["distredge_frame_errors_total"] == 2
    assert found["distredge_predicted_latency_seconds"] == 0.035
    assert found["distredge_frame_latency_seconds_count"] == 2
    assert found['distredge_frame_latency_seconds_bucket{le="0.05"}'] == 1
    assert found["distredge_frame_latency_seconds_sum"] == pytest.approx(0.1)
    assert found['distredge_compute_seconds_total{device="pi-a"}'] == 3.5
    assert found['distredge_device_temperature_celsius{device="pi-a"}'] == 61.5
    assert 'distredge_device_temperature_celsius{device="pi-b"}' not in found
    assert found['distredge_device_state{device="pi-a",state="running"}'] == 1
    assert found['distredge_device_state{device="pi-b",state="idle"}'] == 0, "it is silent"


def test_the_dashboard_asks_for_what_is_exported(exporter: PrometheusExporter) -> None:
    exporter.frame(Frame(0, 0.04, 1.0))
    exporter.show(snapshot())
    exported = {re.split(r"[{ ]", name)[0] for name in _asked(exporter)}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"distredge_\w+", target["expr"])
    }
    assert asked - exported == set()
    # And it leaves nothing of a device out.
    of_devices = {name for name in exported if name.startswith(("distredge_device_", "distredge_clock_"))}
    assert of_devices - asked == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_it_listens_on_the_loopback_address_alone_unless_told_otherwise() -> None:
    assert read_endpoint("9400") == ("127.0.0.1", 9400)
    assert read_endpoint("0.0.0.0:9400") == ("0.0.0.0", 9400)
    assert read_endpoint("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize("text", ["", "x", "host:", ":9400", "70000", "1.2.3.4:-1", "[::1:9400"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"'{text}' is not where figures can be asked for: accepted is")):
        read_endpoint(text)


def test_a_port_that_is_taken_is_said(exporter: PrometheusExporter) -> None:
    port = int(exporter.url.split(":")[2].split("/")[0])
    with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port} for Prometheus: Address already in use"):
        PrometheusExporter("127.0.0.1", port)


def test_nobody_listens_after_the_end() -> None:
    made = PrometheusExporter("127.0.0.1", 0)
    made.end()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(made.url, timeout=10)


def test_a_host_that_can_be_no_name_is_said() -> None:
    with pytest.raises(InputError, match=r"cannot listen at \.\.:0 for Prometheus: "):
        PrometheusExporter("..", 0)
