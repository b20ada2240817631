"""Traces: rates over time, transfers over them, files and their errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.cluster import load_cluster
from distredge.errors import TraceError
from distredge.profiles.network import FILE_LIMIT_BYTES, Trace, load_trace, parse_csv

traces = st.builds(
    lambda steps, rates: Trace(np.cumsum([0.0, *steps])[: len(rates)], rates, 0.001, float(sum(steps)) + 1.0),
    st.lists(st.floats(0.01, 3.0), min_size=6, max_size=6),
    st.lists(st.floats(0.0, 1e8) | st.just(0.0), min_size=1, max_size=7),
)


def carried(trace: Trace, start_s: float, end_s: float) -> float:
    """Bits between two times, by summing pieces of the repeated trace."""
    total, time = 0.0, start_s
    while time < end_s - 1e-12:
        period = math.floor(time / trace.period_s + 1e-12)
        edges = [period * trace.period_s + t for t in (*trace.times_s, trace.period_s)]
        following = min([e for e in edges if e > time + 1e-12] + [(period + 1) * trace.period_s])
        stop = min(following, end_s)
        total += trace.rate_at((time + stop) / 2) * (stop - time)
        time = stop
    return total


@given(traces, st.floats(0.0, 50.0), st.floats(1.0, 1e8))
def test_a_transfer_ends_when_its_bits_are_carried(trace: Trace, start_s: float, bits: float) -> None:
    end_s = trace.finish(start_s, bits)
    if trace.mean_bps == 0:
        assert end_s == math.inf
    elif end_s < start_s + 40 * trace.period_s:
        assert end_s >= start_s
        assert carried(trace, start_s, end_s) == pytest.approx(bits, rel=1e-6, abs=1e-3 * max(trace.rates_bps) * 1e-6)


def test_a_transfer_waits_for_a_link_that_is_down() -> None:
    trace = Trace([0.0, 1.0], [1e6, 0.0], 0.0, 3.0)
    assert trace.finish(0.5, 0.5e6) == pytest.approx(1.0)
    assert trace.finish(0.5, 1e6) == pytest.approx(3.5)
    assert trace.finish(1.5, 1e6) == pytest.approx(4.0)
    assert trace.finish(2.0, 3e6) == pytest.approx(10.0)
    assert trace.finish(2.0, 0.0) == 2.0


@given(traces, st.floats(1e3, 1e9))
def test_scaling_keeps_the_shape_and_sets_the_mean(trace: Trace, mean_bps: float) -> None:
    if trace.mean_bps > 0:
        scaled = trace.scaled(mean_bps)
        assert scaled.mean_bps == pytest.approx(mean_bps)
        assert np.allclose(scaled.rates_bps * trace.mean_bps, trace.rates_bps * mean_bps)


def test_a_trace_survives_its_file(tmp_path: Path) -> None:
    trace = Trace([0.0, 0.1, 2.0], [1e6 / 3, 0.0, 5e7], [0.001, 0.002, 0.003], 3.5, "wifi", "made for a test")
    trace.save(tmp_path / "t.csv")
    again = load_trace(tmp_path / "t.csv")
    assert again == trace
    assert (again.name, again.source) == ("wifi", "made for a test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv: line 1: found ''"),
        ("time_s,rate_bps\n0,1\n", r"t\.csv: line 1: .*accepted: 'time_s,rate_bps,rtt_s'"),
        ("time_s,rate_bps,rtt_s\n", r"t\.csv: it has no row"),
        ("time_s,rate_bps,rtt_s\n0,1e6,0\n1,x,0\n", r"t\.csv: line 3: found '1,x,0'"),
        ("time_s,rate_bps,rtt_s\n0,1e6,0\n1,-3,0\n", r"t\.csv: line 3: rate_bps: found -3"),
        ("time_s,rate_bps,rtt_s\n0,nan,0\n", r"t\.csv: line 2: rate_bps: found nan"),
        ("time_s,rate_bps,rtt_s\n1,1e6,0\n", r"t\.csv: line 2: time_s: found 1"),
        ("time_s,rate_bps,rtt_s\n0,1,0\n2,1,0\n1,1,0\n", r"t\.csv: line 4: time_s: found 1\.0, accepted: more than 2"),
        ('# {"format": "x"}\ntime_s,rate_bps,rtt_s\n0,1,0\n', r"t\.csv: format: found 'x'"),
        ('# {"format": "distredge.trace/1", "periods": 3}\n', r"t\.csv: periods: unknown key; did you mean 'period_s'"),
        (
            "time_s,rate_bps,rtt_s\n0,1,0\n1e9,1,0\n",
            r"t\.csv: line 3: time_s: found 1000000000\.0, accepted: at most .*a year",
        ),
        ("time_s,rate_bps,rtt_s\n0,1,0\ninf,1,0\n", r"t\.csv: line 3: time_s: found inf"),
        ("time_s,rate_bps,rtt_s\n0,1e300,0\n", r"t\.csv: line 2: rate_bps: found 1e\+300"),
        ("time_s,rate_bps,rtt_s\n0,1,-1\n", r"t\.csv: line 2: rtt_s: found -1"),
        ("time_s,rate_bps,rtt_s\n0,1,0\n1,1," + "0" * 999 + "x", r"t\.csv: line 3: found '1,1,0{53}\.\.\.'"),
        (
            '# {"format": "distredge.trace/1", "period_s": 1e9}\ntime_s,rate_bps,rtt_s\n0,1,0\n',
            r"t\.csv: period_s: .*year",
        ),
        ('# {"format": "distredge.trace/1", "period_s": 1}\ntime_s,rate_bps,rtt_s\n0,1,0\n1,1,0\n', r"period_s"),
    ],
)
def test_a_wrong_trace_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_csv(text.encode(), "t.csv")


PLAIN = '# {"format": "distredge.trace/1", "period_s": 3}\ntime_s,rate_bps,rtt_s\n0,8,0\n2,5,0\n'


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("2,5", "\n# the link goes down to 5\n  2, 5").encode(),
        PLAIN.encode().rstrip(),
    ],
)
def test_line_ends_marks_comments_and_blank_lines_change_nothing(content: bytes) -> None:
    assert parse_csv(content, "t.csv") == Trace([0.0, 2.0], [8.0, 5.0], 0.0, 3.0)


def test_a_comment_that_is_no_head_is_read_over() -> None:
    assert parse_csv(b"# by hand\ntime_s,rate_bps,rtt_s\n# then\n0,8,0\n", "t.csv") == Trace([0.0], [8.0], 0.0, 1.0)


def test_bytes_that_are_no_text_are_named() -> None:
    with pytest.raises(TraceError, match=r"t\.csv: line 3: not text"):
        parse_csv(b"time_s,rate_bps,rtt_s\n0,1,0\n# \xff\xfe\n2,1,0\n", "t.csv")


def test_no_more_of_a_file_is_read_than_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as stream:
        stream.truncate(FILE_LIMIT_BYTES + 1)
    with pytest.raises(TraceError, match=r"t\.csv: found more than 64 MiB"):
        load_trace(tmp_path / "t.csv")
    with pytest.raises(TraceError, match="dev/zero: found more than 64 MiB"):
        load_trace("/dev/zero")


CLUSTER = """
format = "distredge.cluster/1"
name = "c"
[requester]
link = { rate_bps = 100e6 }
[[device]]
name = "a"
profile = "default:nano"
link = { trace = "t.csv" }
"""


def test_a_trace_that_carries_nothing_is_a_link_that_is_down(tmp_path: Path) -> None:
    Trace([0.0, 1.0], [0.0, 0.0]).save(tmp_path / "t.csv")
    (tmp_path / "c.toml").write_text(CLUSTER)
    link = load_cluster(tmp_path / "c.toml").devices[0].uplink
    assert (link.rate_bps, link.trace) == (0.0, None)
    Trace([0.0, 1.0], [16.0, 0.0]).save(tmp_path / "t.csv")
    link = load_cluster(tmp_path / "c.toml").devices[0].uplink
    assert (link.rate_bps, link.trace) == (8.0, Trace([0.0, 1.0], [16.0, 0.0]))


@pytest.mark.parametrize("trace", [Trace([0.0], [1e-3]), Trace([0.0, 1e-9], [50e6, 10e6], 0.0, 2e-9)])
def test_a_trace_through_whose_rows_a_message_would_go_for_ever_is_refused(tmp_path: Path, trace: Trace) -> None:
    trace.save(tmp_path / "t.csv")
    (tmp_path / "c.toml").write_text(CLUSTER)
    with pytest.raises(
        TraceError, match=r"c\.toml: .*link: trace: bits that a row carries on the mean: found .*at least 8"
    ):
        load_cluster(tmp_path / "c.toml")


def test_what_a_trace_carries_counts_after_it_is_scaled(tmp_path: Path) -> None:
    Trace([0.0, 1.0], [0.5, 1.0]).save(tmp_path / "t.csv")  # a shape, in no unit
    (tmp_path / "c.toml").write_text(CLUSTER.replace('"t.csv"', '"t.csv", rate_bps = 30e6'))
    link = load_cluster(tmp_path / "c.toml").devices[0].uplink
    assert link.trace == Trace([0.0, 1.0], [20e6, 40e6])


def test_an_unknown_trace_is_named() -> None:
    with pytest.raises(TraceError, match="there is no shipped trace 'wi-fi'"):
        load_trace("wi-fi")
