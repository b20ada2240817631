"""Readers of other tools' traces."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import TraceError
from distredge.profiles.traces.formats import parse_mahimahi, parse_pensieve, read_trace

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
        ("1\n1700000000000\n", r"t: line 2: found '1700000000000', accepted: at most 3\.16224e\+10 ms \(a year\)"),
        ("1\n1" + "0" * 5000, r"t: line 2: found '10{56}\.\.\.'"),
        ("1\n\u00b2\n", r"t: line 2: found '\u00b2'"),
        ("1\nnan\n", r"t: line 2: found 'nan'"),
    ],
)
def test_a_wrong_mahimahi_trace_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_mahimahi(text.encode(), "t")


def test_a_long_gap_in_a_mahimahi_trace_is_one_row() -> None:
    trace = parse_mahimahi(b"1\n150\n31000000000\n", "t")
    assert len(trace) == 4
    assert trace.period_s == 31e6
    assert trace.mean_bps * trace.period_s == pytest.approx(3 * PACKET_BITS)
    assert trace.rate_at(0.15) == pytest.approx(PACKET_BITS / 0.1)
    assert trace.rate_at(1e6) == 0


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40))
def test_joined_bins_carry_what_single_bins_carry(times_ms: list[int]) -> None:
    times_ms = sorted([*times_ms, 1])
    trace = parse_mahimahi("\n".join(map(str, times_ms)).encode(), "t")
    period_s = times_ms[-1] / 1e3
    for k in range(math.ceil(period_s / 0.1)):
        # A packet at the end of a bin belongs to it, one at time 0 to the first.
        inside = [t for t in times_ms if 100 * k < t <= 100 * (k + 1) or (k == 0 and t == 0)]
        width_s = min(period_s, 0.1 * (k + 1)) - 0.1 * k
        assert trace.rate_at(0.1 * k + width_s / 2) == pytest.approx(len(inside) * PACKET_BITS / width_s)


@pytest.mark.parametrize("file_format", ["mahimahi", "pensieve"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_marks_and_comments_change_nothing(
    tmp_path: Path, file_format: str, line_end: str, encoding: str
) -> None:
    lines = {"mahimahi": ["10", "# after ten", "", "700"], "pensieve": ["# s Mbit/s", "0 8", "", "1.5, 4"]}[file_format]
    (tmp_path / "marked").write_bytes(line_end.join(lines).encode(encoding))
    (tmp_path / "plain").write_text("\n".join(line for line in lines if line[:1].isdigit()))
    assert read_trace(tmp_path / "marked", file_format) == read_trace(tmp_path / "plain", file_format)


@pytest.mark.parametrize("file_format", ["csv", "mahimahi", "pensieve", "iperf3"])
def test_no_reader_takes_in_more_than_the_limit(file_format: str) -> None:
    with pytest.raises(TraceError, match="dev/zero: found more than 64 MiB"):
        read_trace("/dev/zero", file_format)


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
        ("0 1\n0 2\n", "t: line 2: time_s: found 0.0, accepted: more than 0"),
        ("0 -1", "t: line 1: rate_bps"),
        ("\n0 1\n1 nan\n", "t: line 3: rate_bps: found nan"),
        ("0 1\nnan 1\n", "t: line 2: time_s: found nan"),
        ("0 1\n5 1\n4 1\n", "t: line 3: time_s: found 4.0, accepted: more than 5"),
        ("0 inf\n", "t: line 1: rate_bps: found inf"),
        ("0 1e300\n", "t: line 1: rate_bps"),
        ("1700000000000000000 5\n1700000001000000000 5\n", "t: line 2: time_s: found 1.7.*a year"),
        ("# only this\n", "it has no row"),
    ],
)
def test_a_wrong_pensieve_trace_is_refused(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_pensieve(text.encode(), "t")


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
