"""What commands on streams are made of."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from distredge.cli._interrupts import Interrupts
from distredge.cli._stream import StreamedFrame
from distredge.cli._stream_meaning import Found
from distredge.cli._stream_report import FAILURES_TOLD, Tally, show
from distredge.cli._stream_sinks import annotated, say
from distredge.media.detection import Box
from distredge.media.pictures import Picture
from distredge.runtime.requester.picture_frames import PictureResult


def frame(number: int, latency_s: float | None = 0.1, error: str | None = None) -> StreamedFrame:
    return StreamedFrame(number, f"p{number}", latency_s, error, 1.0 + number)


def test_a_tally() -> None:
    tally = Tally()
    for number, latency_s in ((0, 0.1), (2, 0.3), (1, 0.2), (3, None), (4, 0.4)):
        tally.add(frame(number, latency_s, None if latency_s else "torn"))
    figures = tally.figures()
    assert (figures["frames"], figures["done"], figures["out_of_order"]) == (5, 4, 1)
    assert figures["failed"] == [{"name": "p3", "error": "torn"}]
    assert figures["images_per_s"] == pytest.approx(4 / 5.0)
    assert figures["latency"] == pytest.approx(
        {"p50_s": 0.25, "p95_s": 0.385, "p99_s": 0.397, "mean_s": 0.25, "max_s": 0.4}
    )
    assert Tally().figures()["images_per_s"] is Tally().figures()["latency"] is None


def test_a_name_that_is_no_text_is_one_in_the_report() -> None:
    tally = Tally()
    tally.add(StreamedFrame(0, "p\udcff.jpg", None, "p\udcff.jpg: torn", 1.0))
    assert tally.figures()["failed"] == [{"name": "p\ufffd.jpg", "error": "p\ufffd.jpg: torn"}]


def test_a_tally_names_only_so_many_failures() -> None:
    tally = Tally()
    for number in range(FAILURES_TOLD + 5):
        tally.add(frame(number, None, "torn"))
    figures = tally.figures()
    assert (len(figures["failed"]), figures["failed_frames"]) == (FAILURES_TOLD, FAILURES_TOLD + 5)


def test_what_is_said_of_a_stream(capsys) -> None:
    tally = Tally()
    tally.add(frame(0))
    rest = {
        "in_flight": 2, "predicted_images_per_s": 2.0, "bottleneck": "a compute", "bound_images_per_s": 4.0,
        "predicted_latency_s": 0.05, "lost": 1, "unfinished": 0, "not_begun": 5, "dropped": 3,
    }  # fmt: skip
    show({**tally.figures(), **rest})
    assert capsys.readouterr().out.splitlines() == [
        "1 done in 1.0 s: 1.00 images/s (predicted 2.00, 2 in flight)",
        "busiest: a compute, which allows at most 4.00 images/s (predicted)",
        "latency: p50 100.00 ms, p95 100.00 ms, p99 100.00 ms, mean 100.00 ms, max 100.00 ms; "
        "predicted 50.00 ms for one alone",
        "1 lost: neither a result nor an error came",
        "5 not begun",
        "3 dropped: nobody took them in time",
    ]


def test_a_line_moves_no_cursor_and_stays_one_line(capsys) -> None:
    nothing = PictureResult(0, Picture("", None), None, None, None)
    say(StreamedFrame(0, "a\x1b[2J\nb\x9b.jpg", 0.001, None, 1.0), nothing, Found())
    say(StreamedFrame(1, "c", None, "beta said\r\x1b]0;x\x07", 1.0), nothing, Found())
    assert capsys.readouterr().out.split("\n") == [
        "     0      1.00 ms  a\ufffd[2J\ufffdb\ufffd.jpg",
        "     1  failed: c: beta said\ufffd\ufffd]0;x\ufffd",
        "",
    ]


def test_a_long_name_is_drawn_under_a_shorter_one(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    name = "\u00fc" * 125
    result = PictureResult(7, Picture(name, pixels), {}, None, 0.1)
    found = Found(boxes=(Box("cat", 0.9, 1.0, 2.0, 30.0, 20.0),))
    annotated(tmp_path)(StreamedFrame(7, f"in/{name}.png", 0.1, None, 1.0), result, found)
    (drawn,) = tmp_path.iterdir()
    assert drawn.name == "000007-" + "\u00fc" * 100 + ".jpg"


def test_an_interrupt_waits_while_something_is_written_down() -> None:
    before = signal.getsignal(signal.SIGINT)
    written = []

    def write(interrupts: Interrupts) -> None:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
            written.append("all of it")
        written.append("no more")

    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            write(interrupts)
        with pytest.raises(KeyboardInterrupt):
            wait()
        with interrupts.held():
            written.append("and more")
    assert written == ["all of it", "and more"]
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_gets_no_signals() -> None:
    entered = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.held():
            entered.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [1]
