"""Readers of other tools' traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distredge.errors import TraceError
from distredge.profiles.traces.formats import parse_iperf3, parse_mahimahi, parse_pensieve, read_trace

PACKET_BITS = 12000


def test_mahimahi_packets_become_rates_and_none_is_lost() -> None:
    times_ms = [1, 1, 40, 100, 101, 250, 320]
    trace = parse_mahimahi("\n".join(map(str, times_ms)).encode(), "t.down")
    assert trace.period_s == pytest.approx(0.32)
    assert trace.mean_bps * trace.period_s == pytest.approx(len(times_ms) * PACKET_BITS)
    assert trace.rate_at(0.05) == pytest.approx(4 * PACKET_BITS / 0.1)
    assert trace.rate_at(0.31) == pytest.approx(PACKET_BITS / 0.02)


def test_the_smallest_mahimahi_trace_is_12_mbps() -> None:
    assert parse_mahimahi(b"1\n", "12mbps").mean_bps == pytest.approx(12e6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t: found no packet"),
        ("0\n0\n", r"t: found no packet"),
        ("5\n4\n", r"t: line 2: found 4, accepted: not before 5"),
        ("1\n1.5\n", r"t: line 2: found '1\.5'"),
        ("-1\n", r"t: line 1: found '-1'"),
    ],
)
def test_a_wrong_mahimahi_trace_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_mahimahi(text.encode(), "t")


def test_pensieve_columns_are_seconds_and_mbps() -> None:
    trace = parse_pensieve(b"10.0\t2.5\n11.0\t0.0\n13.0\t4.0\n", "wifi.txt")
    assert trace.times_s.tolist() == [0.0, 1.0, 3.0]
    assert trace.rates_bps.tolist() == [2.5e6, 0.0, 4e6]
    assert trace.period_s == 5.0
    assert trace.name == "wifi"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no row"),
        ("1 2 3\n", "line 1"),
        ("a b\n", "line 1"),
        ("0 1\n0 2\n", "row 1: time_s"),
        ("0 -1", "rate"),
    ],
)
def test_a_wrong_pensieve_trace_is_refused(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_pensieve(text.encode(), "t")


def iperf3(intervals: list[dict[str, object]]) -> bytes:
    return json.dumps({"start": {}, "intervals": intervals, "end": {}}).encode()


def interval(start: float, end: float, rate: float, rtt_us: int | None = None) -> dict[str, object]:
    stream = {"socket": 5} if rtt_us is None else {"socket": 5, "rtt": rtt_us}
    return {"streams": [stream], "sum": {"start": start, "end": end, "bits_per_second": rate}}


def test_iperf3_intervals_become_steps() -> None:
    trace = parse_iperf3(iperf3([interval(0.0, 1.0, 9e6, 1500), interval(1.0, 2.5, 6e6)]), "run.json")
    assert trace.rates_bps.tolist() == [9e6, 6e6]
    assert np.allclose(trace.rtt_s, [0.0015, 0.0])
    assert trace.period_s == 2.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "accepted: an object"),
        (b'{"error": "unable to connect"}', "iperf3 failed: unable to connect"),
        (b'{"intervals": []}', "intervals: found none"),
        (iperf3([{"streams": []}]), r"intervals\[0\]\.sum"),
        (iperf3([{"sum": {"start": 0, "end": 1, "bits_per_second": "fast"}}]), r"intervals\[0\]\.sum"),
    ],
)
def test_wrong_iperf3_output_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_iperf3(content, "run.json")


def test_the_start_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("0 90\n1 10\n2 20\n")
    trace = read_trace(path, "pensieve", skip_s=1.0)
    assert trace.rates_bps.tolist() == [10e6, 20e6]
    assert trace.period_s == 2.0
    with pytest.raises(TraceError, match="skip_s: found 9"):
        read_trace(path, "pensieve", skip_s=9)


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="found 'pensive'; did you mean 'pensieve'"):
        read_trace(tmp_path / "t", "pensive")
