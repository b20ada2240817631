"""Every form in which iperf3 writes its intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distredge.errors import TraceError
from distredge.profiles.traces.formats import read_trace
from distredge.profiles.traces.iperf3 import parse_iperf3


def total(start: float, end: float, mbps: float, **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "seconds": end - start, "bits_per_second": mbps * 1e6, "omitted": False, **more}


def interval(start: float, end: float, mbps: float, rtt_us: int | None = None, **more: Any) -> dict[str, Any]:
    stream = {"socket": 5} if rtt_us is None else {"socket": 5, "rtt": rtt_us}
    return {"streams": [stream], "sum": total(start, end, mbps, sender=True) | more}


def document(*intervals: dict[str, Any], **more: Any) -> str:
    return json.dumps({"start": {"version": "iperf 3.16"}, "intervals": intervals, "end": {}, **more}, indent="\t")


def stream_of(*intervals: dict[str, Any], **last: Any) -> str:
    events = [{"event": "start", "data": {}}, *({"event": "interval", "data": i} for i in intervals)]
    return "\n".join(json.dumps(event) for event in [*events, last or {"event": "end", "data": {}}]) + "\n"


def twice(first: dict[str, Any], second: dict[str, Any]) -> str:
    """An interval as iperf 3.7 to 3.10 write it with --bidir."""
    return f'{{"streams": [], "sum": {json.dumps(first)}, "sum": {json.dumps(second)}}}'


SENT = [total(0, 1, 20, sender=True), total(1, 2, 40, sender=True)]
RECEIVED = [total(0, 1, 90, sender=False), total(1, 2, 90, sender=False)]
PLAIN = [interval(0, 1, 20), interval(1, 2, 40)]
OMITTED = [interval(0, 1, 90, omitted=True), interval(1, 2, 90, omitted=True)]

FORMS = {
    "plain": document(*PLAIN),
    "-R": document(*({"streams": [], "sum": {**s, "sender": False}} for s in SENT)),
    "3.0, without sender and omitted": document(
        *({"streams": [], "sum": {k: s[k] for k in ("start", "end", "bits_per_second")}} for s in SENT)
    ),
    "-O 2": document(*OMITTED, *PLAIN),
    "-P 2": document(*({**i, "streams": [{"rtt": 100, **i["sum"]}, {"rtt": 300, **i["sum"]}]} for i in PLAIN)),
    "-u": document(
        *(
            {**i, "sum": {**i["sum"], "jitter_ms": 0.1, "lost_packets": 1, "packets": 9, "lost_percent": 11}}
            for i in PLAIN
        )
    ),
    "--bidir of 3.7": f'{{"intervals": [{twice(SENT[0], RECEIVED[0])}, {twice(SENT[1], RECEIVED[1])}], "end": {{}}}}',
    "--bidir of 3.7, received first": f'{{"intervals": [{", ".join(map(twice, RECEIVED, SENT))}]}}',
    "--bidir of 3.11": document(
        *({"streams": [], "sum": s, "sum_bidir_reverse": r} for s, r in zip(SENT, RECEIVED, strict=True))
    ),
    "--bidir of 3.11, at the server": document(
        *({"streams": [], "sum": r, "sum_bidir_reverse": s} for s, r in zip(SENT, RECEIVED, strict=True))
    ),
    "--json-stream": stream_of(*PLAIN),
    "--json-stream -O 2": stream_of(*OMITTED, *PLAIN),
    "--json-stream, interrupted": stream_of(*PLAIN, event="error", data="interrupt - the client has terminated"),
    "--json-stream, killed": "\n".join(stream_of(*PLAIN).splitlines()[:-1]),
    "--json-stream-full-output": stream_of(*PLAIN) + document(*PLAIN),
    "interrupted": document(*PLAIN, error="interrupt - the client has terminated"),
    "a last interval of no length": document(*PLAIN, interval(2, 2.0, 0)),
    "a last interval of no length and no rate": document(*PLAIN, interval(2, 2.0, 0, bits_per_second=None)),
    "--get-server-output": document(*PLAIN, server_output_json={"intervals": [interval(0, 1, 5)]}),
}


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_gives_the_rates_that_were_sent(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(FORMS[form].encode(encoding))
    trace = read_trace(path, "iperf3")
    assert trace.times_s.tolist() == [0.0, 1.0]
    assert trace.rates_bps.tolist() == [20e6, 40e6]
    assert trace.period_s == 2.0
    assert trace.name == "run"


def test_the_round_trip_is_the_mean_of_the_senders_streams() -> None:
    trace = parse_iperf3(document(interval(0.0, 1.0, 9, 1500), interval(1.0, 2.5, 6)).encode(), "run.json")
    assert np.allclose(trace.rtt_s, [0.0015, 0.0])
    assert trace.period_s == 2.5
    assert np.allclose(parse_iperf3(FORMS["-P 2"].encode(), "run.json").rtt_s, 0.0002)


def test_a_run_that_ended_early_says_so_in_its_source() -> None:
    for form in ("interrupted", "--json-stream, interrupted"):
        source = parse_iperf3(FORMS[form].encode(), "run.json").source
        assert source == "run.json, which ended early: interrupt - the client has terminated"
    assert parse_iperf3(FORMS["plain"].encode(), "run.json").source == "run.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"", "intervals: found none"),
        (b"\xff", "not text"),
        (b"[]", "accepted: an object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"error": "unable to connect"}', "iperf3 failed: unable to connect"),
        (b'{"event": "error", "data": "unable to connect"}', "iperf3 failed: unable to connect"),
        (b'{"intervals": []}', "intervals: found none"),
        (b'{"intervals": {"sum": 1}}', "intervals: found none"),
        (b'{"intervals": [null]}', r"intervals\[0\]\.sum"),
        (b'{"intervals": [{"sum": 4, "streams": 3}]}', r"intervals\[0\]\.sum"),
        (
            document({"streams": []}).encode(),
            r"intervals\[0\]\.sum: found .* accepted: numbers start, end and bits_per",
        ),
        (document(interval(0, 1, 1, bits_per_second="fast")).encode(), r"intervals\[0\]\.sum: found .*'fast'"),
        (document(interval(0, 1, 1, bits_per_second=True)).encode(), r"intervals\[0\]\.sum"),
        (document(interval(0, 1, 1), interval(1, 2, -1)).encode(), r"intervals\[1\]\.sum: rate_bps: found -1"),
        (document(interval(0, 1, float("nan"))).encode(), r"intervals\[0\]\.sum: rate_bps: found nan"),
        (document(interval(0, 1, 1, bits_per_second=10**400)).encode(), r"intervals\[0\]\.sum: found"),
        (
            document(interval(2, 1, 1)).encode(),
            r"intervals\[0\]\.sum: end: found 1\.0, accepted: a time after its start",
        ),
        (document(interval(1, 2, 1), interval(0, 1, 1)).encode(), r"intervals\[1\]\.sum: time_s: found 0\.0"),
        (document(interval(0, 1, 1), interval(1, 1e12, 1)).encode(), r"intervals\[1\]\.sum: end: found 1e\+?12|a year"),
        (document(interval(0, 1, 1), interval(1e12, 2e12, 1)).encode(), r"intervals\[1\]\.sum: time_s: .*a year"),
        (document(*OMITTED).encode(), "found none that is measured"),
        (document(interval(0, 0, 0), error="interrupt").encode(), "none that is measured.*iperf3 failed: interrupt"),
        ((document(*PLAIN) + document(*PLAIN)).encode(), "found 2 runs of iperf3, accepted: one"),
        ((stream_of(*PLAIN) + stream_of(*PLAIN)).encode(), "found 2 runs of iperf3, accepted: one"),
        (stream_of(*PLAIN)[:-40].encode(), "not JSON: .*line 3 column"),
    ],
)
def test_wrong_output_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=message) as refusal:
        parse_iperf3(content, "run.json")
    assert "run.json" in str(refusal.value)
