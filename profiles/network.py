"""Network profiles: a link's rate over time.

The file is a CSV with the header `time_s,rate_bps,rtt_s`, after one comment line that holds a JSON object::

    # {"format": "distredge.trace/1", "name": "wifi-office", "period_s": 200.0, "source": "..."}
    time_s,rate_bps,rtt_s
    0,48100000,0.002

The rate is constant from its time to the next; after `period_s` the trace starts again. Further comment lines are read
over.
"""

from __future__ import annotations

import functools
import math
from array import array
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from distredge.checked_reading import decode_json, lines_of, read_bytes, shortened
from distredge.errors import TraceError, did_you_mean, located
from distredge.writing import as_text, write

FORMAT = "distredge.trace/1"
HEADER = "time_s,rate_bps,rtt_s"

LONGEST_S = 366 * 86400.0
"""A file's trace of more than a year is refused: its times are in another unit, or stand for dates."""

HIGHEST_BPS = 1e15
"""A file's rate above it, a thousand times the fastest Ethernet's, is refused: it is in another unit."""

LEAST_BITS = 8.0
"""A link's trace whose rows carry less is refused: a message would go through millions of rows."""

FILE_LIMIT_BYTES = 64 << 20
"""What a reader takes in: of `iperf3 --json`, some twenty hours of one interval a second."""


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    name: str = ""
    period_s: float | None = None
    source: str = ""


@dataclass(frozen=True, eq=False)
class Trace:
    """A rate that is constant between given times and repeats.

    Args:
        times_s: (n,) ascending, the first is 0.
        rates_bps: (n,) bits per second, >= 0, from that time on; 0 is a link that is down.
        rtt_s: (n,) round trip, >= 0, or one number for all.
        period_s: when it starts again, after the last time; None: as long after the last time as that is after the
            one before it (1 s when there is but one).
        name: for messages and reports.
        source: where it comes from, with its licence.

    Raises:
        TraceError: naming the row that is wrong.
    """

    times_s: NDArray[np.float64]
    rates_bps: NDArray[np.float64]
    rtt_s: NDArray[np.float64]
    period_s: float
    name: str = ""
    source: str = ""

    def __init__(
        self,
        times_s: ArrayLike,
        rates_bps: ArrayLike,
        rtt_s: ArrayLike = 0.0,
        period_s: float | None = None,
        name: str = "",
        source: str = "",
    ) -> None:
        where = name or "trace"
        times = _column(times_s, where, "time_s")
        rates = _column(rates_bps, where, "rate_bps")
        rtts = _column(rtt_s, where, "rtt_s")
        if rtts.ndim == 0:
            rtts = np.broadcast_to(rtts, times.shape)
        _check(times, rates, rtts, where)
        if period_s is None:
            period_s = float(2 * times[-1] - times[-2]) if len(times) > 1 else 1.0
        if not (math.isfinite(period_s) and period_s > times[-1]):
            raise TraceError(located(where, "period_s", period_s, f"a time after the last one, {times[-1]:g}"))
        for key, value in (("times_s", times), ("rates_bps", rates), ("rtt_s", rtts)):
            value = np.array(value, dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, key, value)
        object.__setattr__(self, "period_s", float(period_s))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "source", source)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Trace)
            and self.period_s == other.period_s
            and np.array_equal(self.times_s, other.times_s)
            and np.array_equal(self.rates_bps, other.rates_bps)
            and np.array_equal(self.rtt_s, other.rtt_s)
        )

    def __hash__(self) -> int:
        return hash((self.period_s, self.times_s.tobytes(), self.rates_bps.tobytes()))

    def __len__(self) -> int:
        return len(self.times_s)

    @functools.cached_property
    def bits(self) -> NDArray[np.float64]:
        """(n + 1,) bits carried from time 0 up to each time, and up to the end of the period."""
        edges = np.append(self.times_s, self.period_s)
        total = np.concatenate(([0.0], np.cumsum(self.rates_bps * np.diff(edges))))
        total.setflags(write=False)
        return total

    @property
    def mean_bps(self) -> float:
        """Mean rate over the period."""
        return float(self.bits[-1] / self.period_s)

    def rate_at(self, time_s: float) -> float:
        """Returns the rate at a time >= 0, in bits per second."""
        return float(self.rates_bps[self._index(time_s % self.period_s)])

    def _index(self, offset_s: float) -> int:
        return int(np.searchsorted(self.times_s, offset_s, side="right")) - 1

    def finish(self, start_s: float, bits: float) -> float:
        """Returns when a transfer of so many bits ends that starts at `start_s` and has the link to itself.

        The rate is integrated over the trace; the result is infinite when the link never carries anything.
        """
        if bits <= 0:
            return start_s
        per_period = float(self.bits[-1])
        if per_period == 0:
            return math.inf
        periods, offset = divmod(start_s, self.period_s)
        index = self._index(offset)
        # Bits counted from the start of the period in which the transfer starts.
        target = float(self.bits[index] + self.rates_bps[index] * (offset - self.times_s[index])) + bits
        whole, rest = divmod(target, per_period)
        if rest == 0:
            whole, rest = whole - 1, per_period
        index = int(np.searchsorted(self.bits, rest, side="left")) - 1
        end = float(self.times_s[index] + (rest - self.bits[index]) / self.rates_bps[index])
        return max(start_s, (periods + whole) * self.period_s + end)

    def scaled(self, mean_bps: float) -> Trace:
        """Returns the same shape with another mean rate.

        Raises:
            TraceError: if its own mean is 0 or the wanted one is not positive.
        """
        if not (math.isfinite(mean_bps) and mean_bps > 0):
            raise TraceError(located(self.name or "trace", "mean_bps", mean_bps, "a positive rate"))
        if self.mean_bps == 0:
            raise TraceError(
                f"{self.name or 'trace'}: it carries nothing, so it cannot be scaled to {mean_bps:g} bit/s"
            )
        factor = mean_bps / self.mean_bps
        return Trace(self.times_s, self.rates_bps * factor, self.rtt_s, self.period_s, self.name, self.source)

    def named(self, name: str, source: str = "") -> Trace:
        """Returns the same trace under another name and source."""
        return Trace(self.times_s, self.rates_bps, self.rtt_s, self.period_s, name, source or self.source)

    def save(self, path: str | Path) -> None:
        """Writes the trace as CSV (see the module's text)."""
        head = _Head(FORMAT, as_text(self.name), self.period_s, as_text(self.source))
        lines = [f"# {msgspec.json.encode(head).decode()}", HEADER]
        rows = zip(self.times_s.tolist(), self.rates_bps.tolist(), self.rtt_s.tolist(), strict=True)
        lines += [f"{time!r},{rate!r},{rtt!r}" for time, rate, rtt in rows]
        try:
            write(path, "\n".join(lines) + "\n")
        except OSError as reason:
            raise TraceError(f"{path}: cannot be written: {reason.strerror or reason}") from None

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads the project's own CSV; `profiles.traces.formats` reads others."""
        return parse_csv(read_bytes(path, TraceError, FILE_LIMIT_BYTES), str(path))


class TraceRows:
    """Rows of a file on their way to a trace: each is checked as it comes, and an error names its place.

    Args:
        where: the file's name, for messages.
        starts_at_zero: whether the first time must be 0; else times count from the first.
    """

    def __init__(self, where: str, starts_at_zero: bool = False) -> None:
        self._where = where
        self._starts_at_zero = starts_at_zero
        self._columns = (array("d"), array("d"), array("d"))
        self._first_s = 0.0

    def add(self, place: str, time_s: float, rate_bps: float, rtt_s: float = 0.0) -> None:
        """Takes in a row.

        Raises:
            TraceError: naming the place, if a number is not finite or negative, the time does not ascend or is more
                than LONGEST_S after the first, or the rate is above HIGHEST_BPS.
        """
        times = self._columns[0]
        if not math.isfinite(time_s):
            raise self._error(place, "time_s", time_s, "a finite number")
        if not times:
            self._first_s = 0.0 if self._starts_at_zero else time_s
            if time_s != self._first_s:
                raise self._error(place, "time_s", time_s, "0, where a trace starts")
        elif time_s - self._first_s <= times[-1]:
            raise self._error(place, "time_s", time_s, f"more than {times[-1] + self._first_s:g}")
        self.check_length(place, "time_s", time_s)
        if not 0 <= rate_bps <= HIGHEST_BPS:
            raise self._error(place, "rate_bps", rate_bps, f"a finite number >= 0, at most {HIGHEST_BPS:g} bit/s")
        if not 0 <= rtt_s <= LONGEST_S:
            raise self._error(place, "rtt_s", rtt_s, "a finite number of seconds >= 0")
        for column, value in zip(self._columns, (time_s - self._first_s, rate_bps, rtt_s), strict=True):
            column.append(value)

    def check_length(self, place: str, key: str, time_s: float) -> None:
        """Raises a TraceError for a time that is more than LONGEST_S after the first."""
        if time_s - self._first_s > LONGEST_S:
            accepted = f"at most {LONGEST_S:g} s (a year) after the first"
            raise self._error(place, key, time_s, accepted)

    def trace(self, end_s: float | None, name: str, source: str) -> Trace:
        """Returns the trace.

        Args:
            end_s: when its last row ends, on the file's clock; None: as long as the row before it.
            name: for messages and reports.
            source: where it comes from.
        """
        if not self._columns[0]:
            raise TraceError(f"{self._where}: it has no row")
        times, rates, rtts = (np.frombuffer(column) for column in self._columns)
        period_s = None if end_s is None else end_s - self._first_s
        if period_s is not None:
            self.check_length("", "period_s", period_s + self._first_s)
        return Trace(times, rates, rtts, period_s, self._where, source).named(name)

    def _error(self, place: str, key: str, found: float, accepted: str) -> TraceError:
        return TraceError(located(self._where, f"{place}: {key}" if place else key, found, accepted))


def usable(trace: Trace, where: str) -> Trace | None:
    """Returns a trace as a link takes it: None for one that carries nothing, whose link is simply down.

    Args:
        trace: scaled to the link's mean rate.
        where: the link, for messages.

    Raises:
        TraceError: if its rows carry less than LEAST_BITS each on the mean.
    """
    per_row = float(trace.bits[-1]) / len(trace)
    if per_row == 0:
        return None
    if per_row < LEAST_BITS:
        accepted = f"at least {LEAST_BITS:g}: rates are in bit/s and times in seconds"
        raise TraceError(located(where, "trace: bits that a row carries on the mean", per_row, accepted))
    return trace


def load_trace(path_or_name: str | Path) -> Trace:
    """Returns a trace by the path of a CSV of the project's own, or by the name of a shipped one.

    Raises:
        TraceError: if there is none, or it is wrong.
    """
    text = str(path_or_name)
    if text.endswith(".csv") or "/" in text:
        return Trace.load(path_or_name)
    entry = resources.files("distredge.profiles.data") / f"trace-{text}.csv"
    if not entry.is_file():
        raise TraceError(f"there is no shipped trace '{text}'{did_you_mean(text, shipped_traces())}; or give a path")
    return parse_csv(entry.read_bytes(), f"trace-{text}.csv")


def shipped_traces() -> tuple[str, ...]:
    """Returns the names of the shipped traces."""
    data = resources.files("distredge.profiles.data")
    names = [entry.name for entry in data.iterdir()]
    return tuple(
        sorted(n[len("trace-") : -len(".csv")] for n in names if n.startswith("trace-") and n.endswith(".csv"))
    )


def parse_csv(content: bytes, where: str) -> Trace:
    """Returns the trace that a text in the project's own CSV format holds.

    Raises:
        TraceError: naming file, line and column.
    """
    head = _Head(FORMAT, Path(where).stem)
    rows = TraceRows(where, starts_at_zero=True)
    is_data = False
    for number, line in lines_of(content, where, TraceError):
        if line.startswith("#"):
            if number == 1 and line[1:].lstrip().startswith("{"):
                head = decode_json(line[1:], _Head, where, TraceError)
                if head.format != FORMAT:
                    raise TraceError(located(where, "format", head.format, f"'{FORMAT}'"))
        elif not is_data:
            if line.replace(" ", "") != HEADER:
                raise TraceError(located(where, f"line {number}", shortened(line), f"'{HEADER}'"))
            is_data = True
        else:
            try:
                time, rate, rtt = (float(cell) for cell in line.split(","))
            except ValueError:
                accepted = "three numbers: time_s, rate_bps, rtt_s"
                raise TraceError(located(where, f"line {number}", shortened(line), accepted)) from None
            rows.add(f"line {number}", time, rate, rtt)
    if not is_data:
        raise TraceError(located(where, "line 1", "", f"'{HEADER}'"))
    return rows.trace(head.period_s, head.name or Path(where).stem, head.source)


def _column(values: ArrayLike, where: str, key: str) -> NDArray[np.float64]:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TraceError(located(where, key, values, "numbers")) from None
    if column.ndim > 1:
        raise TraceError(located(where, key, f"{column.ndim} dimensions", "one column"))
    return column


def _check(times: NDArray[np.float64], rates: NDArray[np.float64], rtts: NDArray[np.float64], where: str) -> None:
    if times.ndim != 1 or not len(times):
        raise TraceError(f"{where}: it has no row")
    for key, column in (("rate_bps", rates), ("rtt_s", rtts)):
        if column.shape != times.shape:
            raise TraceError(located(where, key, f"{column.size} values", f"one for each of {len(times)} times"))
    for key, column in (("time_s", times), ("rate_bps", rates), ("rtt_s", rtts)):
        bad = np.flatnonzero(~np.isfinite(column) | (column < 0))
        if len(bad):
            raise TraceError(located(where, f"row {bad[0]}: {key}", float(column[bad[0]]), "a finite number >= 0"))
    if times[0] != 0:
        raise TraceError(located(where, "row 0: time_s", float(times[0]), "0: a trace starts at 0"))
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        row = int(back[0]) + 1
        raise TraceError(located(where, f"row {row}: time_s", float(times[row]), f"more than {times[row - 1]:g}"))
