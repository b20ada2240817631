"""How a stream stands, on the terminal: a few lines that are drawn anew, or one line now and then where that cannot be.

It is drawn on stderr; what goes to stdout stays as it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from distredge.monitor.snapshot import DeviceState, Snapshot

if TYPE_CHECKING:
    from distredge.monitor.stream_watch import EndedFrame
    from distredge.strategy import Strategy

DRAWN_PER_S: Final = 4.0
LINES_PER_S: Final = 0.2

HOT_C: Final = 80.0
"""From here on boards throttle: a Raspberry Pi at 80 degrees, most Jetsons a little later."""

_BAR: Final = 10
_LONGEST_NAME: Final = 24
_HEADINGS: Final = ("device", "state", "busy", "", "queue", "images/s", "in MB/s", "out MB/s", "temp")
_NUMBERS: Final = frozenset({"busy", "queue", "images/s", "in MB/s", "out MB/s", "temp"})


class LiveView:
    """Draws a stream on a terminal, in place (`stream_watch.View`).

    Args:
        console: where; stderr by default.
        title: what is run, on what; None: the model and the devices that the stream begins with.
    """

    per_s: float = DRAWN_PER_S

    def __init__(self, console: Console | None = None, title: str | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._title = title
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._lock = threading.RLock()
        self._streams = (sys.stdout, sys.stderr)
        self._drawing = False

    def begin(self, strategy: Strategy) -> None:
        """Shows the first lines; what else is written to a terminal from now on appears above them."""
        if self._title is None:
            count = len(strategy.devices)
            self._title = f"{strategy.model.name} on {count} device{'s' if count > 1 else ''}"
        self._streams = (sys.stdout, sys.stderr)
        self._live.start()
        self._drawing = True
        if sys.stdout is not None and sys.stdout.isatty():
            sys.stdout = _Above(self._console, sys.stdout, self._lock)
        sys.stderr = _Above(self._console, sys.stderr, self._lock)

    def frame(self, frame: EndedFrame) -> None:
        """Nothing: it is drawn when it is due."""

    def show(self, snapshot: Snapshot) -> None:
        """Draws it anew."""
        with self._lock:
            self._live.update(_Drawn(self._console, picture(snapshot, self._title or "")), refresh=True)

    def end(self) -> None:
        """Leaves the last picture where it is."""
        if self._drawing:
            self._drawing = False
            sys.stdout, sys.stderr = self._streams
            self._live.stop()


class _Above(FileProxy):
    """A stream whose lines are written above what is drawn.

    Rich's own has no encoding, and click then goes around it; and two threads that draw at a time leave remnants.
    """

    def __init__(self, console: Console, file: TextIO, lock: threading.RLock) -> None:
        super().__init__(console, file)
        self._file = file
        self._lock = lock

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind it."""
        return self._file.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream behind it."""
        return self._file.errors

    def write(self, text: str) -> int:
        with self._lock:
            return super().write(text)

    def flush(self) -> None:
        with self._lock:
            super().flush()


class LinesView:
    """Writes a line now and then: for logs, and terminals that cannot be drawn on (`stream_watch.View`).

    Args:
        console: where; stderr by default.
    """

    per_s: float = LINES_PER_S

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console

    def begin(self, strategy: Strategy) -> None:
        """Nothing: there is nothing to say yet."""

    def frame(self, frame: EndedFrame) -> None:
        """Nothing: a line is written when it is due."""

    def show(self, snapshot: Snapshot) -> None:
        """Writes a line."""
        devices = "; ".join(
            f"{state.device} {_state(state)}" + "".join(f" {text}" for text in _short(state))
            for state in snapshot.devices
        )
        said = ", ".join(filter(None, (_frames(snapshot), _latency(snapshot))))
        print(f"{said}; {devices}" if devices else said, file=self._console.file, flush=True)

    def end(self) -> None:
        """Nothing more to say."""


class _Drawn:
    """Lines that are laid out already: whatever else is printed meanwhile draws them again."""

    def __init__(self, console: Console, text: Text) -> None:
        self._lines = console.render_lines(text, pad=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


def picture(snapshot: Snapshot, title: str) -> Text:
    """Returns the lines that are drawn.

    Args:
        snapshot: how the stream stands.
        title: what is run, on what.
    """
    text = Text(no_wrap=True, overflow="crop")
    # A file's name, or a model's: what is no text in it would move the cursor.
    text.append("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in title), "bold")
    text.append(f"  {_frames(snapshot)}\n")
    text.append(f"{_latency(snapshot) or 'no frame has ended yet'}\n")
    rows = [[*_HEADINGS], *(_cells(state) for state in snapshot.devices)]
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    styles: list[Sequence[str]] = [["dim"] * len(_HEADINGS), *(_styles(state) for state in snapshot.devices)]
    for row, style in zip(rows, styles, strict=True):
        for cell, width, heading, one in zip(row, widths, _HEADINGS, style, strict=True):
            padded = cell.rjust(width) if heading in _NUMBERS else set_cell_size(cell, width)
            text.append(padded + "  ", one)
        text.append("\n")
    text.right_crop(1)
    return text


def _frames(snapshot: Snapshot) -> str:
    minutes, seconds = divmod(int(snapshot.elapsed_s), 60)
    failed = f", {snapshot.errors} failed" if snapshot.errors else ""
    return f"{minutes:02d}:{seconds:02d}, {snapshot.frames} frames{failed}, {snapshot.images_per_s:.1f} images/s"


def _latency(snapshot: Snapshot) -> str:
    """Measured and predicted; "" before the first frame."""
    if snapshot.percentiles_s is None:
        return ""
    p50, p95, p99 = (1e3 * value for value in snapshot.percentiles_s)
    text = f"latency p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms"
    if snapshot.predicted_s:
        # The prediction is of one frame: of several at a time each takes longer.
        apart = snapshot.percentiles_s[0] / snapshot.predicted_s - 1.0
        told = f"({100 * apart:+.0f} %)" if snapshot.in_flight == 1 else "for one alone"
        text += f", predicted {1e3 * snapshot.predicted_s:.1f} ms {told}"
    return text


def _state(state: DeviceState) -> str:
    return f"silent {state.silent_s:.0f} s" if state.is_silent else state.sample.state


def _cells(state: DeviceState) -> list[str]:
    sample = state.sample
    busy = state.busy_share
    filled = 0 if busy is None else round(_BAR * busy)
    return [
        set_cell_size(sample.device, _LONGEST_NAME) if cell_len(sample.device) > _LONGEST_NAME else sample.device,
        _state(state),
        "" if busy is None else f"{100 * busy:.0f} %",
        "█" * filled + "░" * (_BAR - filled),
        str(sample.queued),
        _number(state.frames_per_s),
        _number(_mega(state.received_bytes_per_s)),
        _number(_mega(state.sent_bytes_per_s)),
        "" if sample.temperature_c is None else f"{sample.temperature_c:.0f} °C",
    ]


def _styles(state: DeviceState) -> list[str]:
    hot = state.sample.temperature_c is not None and state.sample.temperature_c >= HOT_C
    colour = "red" if state.is_silent else {"running": "green", "preparing": "yellow"}.get(state.sample.state, "")
    return ["", colour, "", "cyan", "", "", "", "", "red" if hot else ""]


def _short(state: DeviceState) -> list[str]:
    """Busy and temperature, where they are known."""
    found = [] if state.busy_share is None else [f"busy {100 * state.busy_share:.0f} %"]
    if state.sample.temperature_c is not None:
        found.append(f"{state.sample.temperature_c:.0f} °C")
    return found


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
