"""What a person sees of a stream on the terminal."""

from __future__ import annotations

import io
import sys

import click
import pytest
from rich.console import Console

from distredge.monitor.live_view import LinesView, LiveView, picture
from distredge.monitor.snapshot import Snapshot
from tests.monitor.streams import snapshot


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class _Strategy:
    devices = ("pi-a", "pi-b")

    class model:
        name = "vgg16"


def test_the_picture() -> None:
    assert picture(snapshot(), "vgg16 on 2 devices").plain.splitlines() == [
        "vgg16 on 2 devices  01:12, 340 frames, 2 failed, 27.1 images/s",
        "latency p50 36.1 p95 40.2 p99 55.1 ms, predicted 35.0 ms (+3 %)",
        "device  state       busy              queue  images/s  in MB/s  out MB/s   temp  ",
        "pi-a    running     50 %  █████░░░░░      1      27.1      3.0       1.0  62 °C  ",
        "pi-b    silent 8 s  50 %  █████░░░░░      1      27.1      3.0       1.0         ",
    ]


def test_a_name_does_not_move_the_cursor() -> None:
    first, *rest = picture(snapshot(), "2 variants of \x1b[31m\n\udc80.toml").plain.splitlines()
    assert first.startswith("2 variants of \ufffd[31m\ufffd\ufffd.toml  01:12")
    assert len(rest) == 4


def test_before_the_first_frame_and_the_first_answer() -> None:
    empty = Snapshot(0.0, 0, 0, 0.0, None, None, 4, ())
    lines = picture(empty, "vgg16 on 2 devices").plain.splitlines()
    assert lines[:2] == ["vgg16 on 2 devices  00:00, 0 frames, 0.0 images/s", "no frame has ended yet"]


def test_several_at_a_time_are_not_compared_with_one_alone() -> None:
    assert "predicted 35.0 ms for one alone" in picture(snapshot(in_flight=4), "").plain


def test_what_is_hot_or_silent_is_red() -> None:
    from tests.monitor.streams import device

    text = picture(snapshot(devices=(device("a", temperature_c=84.0),)), "")
    assert any(span.style == "red" and text.plain[span.start : span.end].strip() == "84 °C" for span in text.spans)
    text = picture(snapshot(), "")
    assert any(span.style == "red" and "silent" in text.plain[span.start : span.end] for span in text.spans)


def test_other_output_appears_above_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """click's too, which goes around streams that have no encoding."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    view = LiveView(Console(file=terminal, force_terminal=True, width=100, legacy_windows=False, color_system=None))
    view.begin(_Strategy())
    view.show(snapshot())
    click.echo("a result")
    click.echo("a warning", err=True)
    view.show(snapshot(frames=341))
    view.end()
    view.end()
    assert sys.stdout is sys.stderr is terminal
    # Up to the first line again and erased, five times, before each of what follows.
    up = "\x1b[1A\x1b[2K"
    said = terminal.getvalue()
    for text in ("a result\n", "a warning\n", "vgg16 on 2 devices  01:12, 341 frames"):
        assert f"\r\x1b[2K{4 * up}{text}" in said
    assert said.rstrip("\n\x1b[?25h").endswith(
        "pi-b    silent 8 s  50 %  █████░░░░░      1      27.1      3.0       1.0         "
    )


def test_what_is_not_a_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    out, terminal = io.StringIO(), _Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", terminal)
    view = LiveView(Console(file=terminal, force_terminal=True, width=100, color_system=None))
    view.begin(_Strategy())
    view.show(snapshot())
    click.echo("a result")
    view.end()
    assert out.getvalue() == "a result\n"


def test_lines_for_logs() -> None:
    out = io.StringIO()
    view = LinesView(Console(file=out, width=40))
    view.begin(_Strategy())
    view.show(snapshot())
    view.show(Snapshot(0.0, 0, 0, 0.0, None, None, 1, ()))
    view.end()
    assert out.getvalue().splitlines() == [
        "01:12, 340 frames, 2 failed, 27.1 images/s, latency p50 36.1 p95 40.2 p99 55.1 ms, predicted 35.0 ms (+3 %); "
        "pi-a running busy 50 % 62 °C; pi-b silent 8 s busy 50 %",
        "00:00, 0 frames, 0.0 images/s",
    ]
