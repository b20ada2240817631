"""Which frame of a stream is traced, and what is said where it cannot be."""

from __future__ import annotations

import pytest

from distredge.errors import ExecutionError, InputError
from distredge.monitor.frame_trace import FrameTrace, read_choice
from distredge.timeline import Span, Timeline
from tests.monitor.streams import Frame


class _Asked:
    def __init__(self, ran_as) -> None:
        self._ran_as = ran_as

    def wait(self) -> Timeline:
        if self._ran_as == "forgotten":
            raise ExecutionError("what was recorded of this frame is forgotten already")
        return Timeline(
            0.1, (Span("a", "compute", str(self._ran_as), 0.0, 0.1),), details={"clock_error_s": {"a": 1e-4}}
        )


class _Recorder:
    def __init__(self) -> None:
        self.asked: list[object] = []

    def timeline_of(self, ran_as) -> _Asked:
        self.asked.append(ran_as)
        return _Asked(ran_as)


def _run(choice: str, latencies_s, forgets: int = -1):
    trace, recorder = FrameTrace(read_choice(choice)), _Recorder()
    trace.begin(recorder, None, None)
    for number, latency_s in enumerate(latencies_s):
        name = None if latency_s is None else "forgotten" if number == forgets else f"frame {number}"
        trace.frame(Frame(number, latency_s, 1.0, name))
    return trace, recorder, trace.end()["trace"]


def test_a_frame_by_its_number() -> None:
    trace, recorder, told = _run("2", [0.3, 0.1, 0.2, 0.4])
    assert recorder.asked == ["frame 2"]
    assert told == {"frame": 2, "latency_s": 0.2, "clock_error_s": {"a": 1e-4}}
    assert trace.timeline.spans[0].name == "frame 2"
    assert trace.text() == "frame 2, 200.00 ms; clocks agree to 0.10 ms"


def test_the_slowest_is_asked_for_as_soon_as_it_has_ended() -> None:
    trace, recorder, told = _run("slowest", [0.2, 0.1, None, 0.3, 0.25, 0.3])
    assert recorder.asked == ["frame 0", "frame 3"]
    assert told["frame"] == 3
    assert trace.timeline.spans[0].name == "frame 3"


@pytest.mark.parametrize(
    ("choice", "latencies_s", "error"),
    [
        ("7", [0.1, 0.2], "there was no frame 7: the stream had 2 frames, counted from 0: the last is 1"),
        ("1", [None], "there was no frame 1: the stream had one frame, counted from 0: the last is 0"),
        ("0", [], "there was no frame 0: the stream had 0 frames"),
        ("1", [0.1, None], "frame 1 did not end well"),
        ("slowest", [None, None], "no frame ended well"),
        ("0", [0.1], "what was recorded of this frame is forgotten already"),
    ],
)
def test_where_there_is_none_the_report_says_why(choice: str, latencies_s, error: str) -> None:
    trace, _, told = _run(choice, latencies_s, forgets=0)
    assert told["error"] == error
    assert trace.error.endswith(error)
    assert trace.timeline is None


@pytest.mark.parametrize("text", ["", "-1", "1.5", "fastest"])
def test_what_is_no_frame_is_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=f"'{text}' is not a frame to trace: accepted are a number from 0 and 'slowest'"
    ):
        read_choice(text)


def test_whatever_keeps_it_from_being_traced_is_the_reason() -> None:
    class _Breaks(_Recorder):
        def timeline_of(self, ran_as):
            raise KeyError("alpha")

    trace = FrameTrace(0)
    trace.begin(_Breaks(), None, None)
    trace.frame(Frame(0, 0.1, 1.0, "frame 0"))
    assert trace.end()["trace"] == {"error": "KeyError: 'alpha'"}
