"""Who holds frames up without a word: workers that have gone silent, connections over which nothing arrives any more.

Pure: no sockets, clocks or arrays. A frame that takes longer than frames do is asked about, again and again. A worker
that answers nothing is silent. When all answer, their situations say who waits for whose rows: rows that have been sent
and do not come in mean that the connection between the two is silent. It is made anew once; if that does not help, it
counts as broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage
from distredge.runtime.protocol.messages import Situation

SLOW: Final = 3.0
"""Times the median of the latest frames: one that takes longer is asked about."""

LEAST_ASK_S: Final = 0.05
"""Frames are asked about no sooner and no more often."""

ASKED_AT: Final = 0.25
"""Share of the deadline after which a frame is asked about at the latest."""

ASKS: Final = 3
"""Questions without any answer that make a worker silent."""

LEAST_SILENT_S, MOST_SILENT_S = 0.25, 3.0
SILENT: Final = 0.125
"""Share of the deadline for which a worker, within those bounds, or a connection must be silent."""

STUCK_AT_FIRST: Final = 0.25
"""The same for connections while no frame has come through: a slow one may take as long."""


def silent_s(deadline_s: float) -> float:
    """Returns how long a worker must be silent to count as lost, for frames with that deadline."""
    return min(MOST_SILENT_S, max(LEAST_SILENT_S, SILENT * deadline_s))


SOMEBODY: Final = -2
"""A device that is not known."""


class Link(NamedTuple):
    """One direction between two devices, -1 the requester."""

    source: int
    destination: int


@dataclass
class _Watched:
    started_s: float
    deadline_s: float
    ask_at_s: float
    asked: bool = False
    answers: dict[int, Situation | None] = field(default_factory=dict)
    since_s: dict[tuple[Link, int], float] = field(default_factory=dict)

    @property
    def limit_s(self) -> float:
        return self.deadline_s - self.started_s


class Watch:
    """The frames in flight of one plan, and what is known of its devices and of the connections between them.

    Args:
        busy: devices that have something to do.
        messages: every message of a frame; what stays on a device does not matter.
    """

    def __init__(self, busy: Iterable[int], messages: Iterable[SourceMessage]) -> None:
        self._busy = tuple(busy)
        self._made_in = {
            (m.stage, Link(m.source, m.destination)): frozenset(m.made_in) - {-1}
            for m in messages
            if m.source != m.destination
        }
        self._frames: dict[int, _Watched] = {}
        self._unanswered = dict.fromkeys(self._busy, 0)
        self._quiet_since_s: dict[int, float] = {}
        self._durations_s: deque[float] = deque(maxlen=32)
        self._remade_s: dict[Link, float] = {}

    @property
    def next_s(self) -> float | None:
        """When a frame must be asked about; None when none is in flight."""
        return min((w.ask_at_s for w in self._frames.values()), default=None)

    def submitted(self, frame: int, now_s: float, deadline_s: float) -> None:
        """A frame starts; times in seconds of one clock."""
        at_most_s = ASKED_AT * max(0.0, deadline_s - now_s)
        usual_s = SLOW * median(self._durations_s) if self._durations_s else at_most_s
        self._frames[frame] = _Watched(now_s, deadline_s, now_s + min(at_most_s, max(LEAST_ASK_S, usual_s)))

    def ended(self, frame: int, now_s: float, well: bool) -> None:
        """A frame has ended, with its outputs or without."""
        watched = self._frames.pop(frame, None)
        if watched is not None and well:
            self._durations_s.append(now_s - watched.started_s)
            self._remade_s.clear()

    def heard(self, device: int) -> None:
        """A worker has said something."""
        self._unanswered[device] = 0
        self._quiet_since_s.pop(device, None)

    def tick(self, now_s: float) -> tuple[int, ...]:
        """Returns the frames to ask every worker about now."""
        asked = []
        for frame, watched in self._frames.items():
            if now_s < watched.ask_at_s:
                continue
            watched.asked = True
            watched.ask_at_s = now_s + max(LEAST_ASK_S, silent_s(watched.limit_s) / (ASKS + 1))
            asked.append(frame)
        if asked:
            for device in self._busy:
                self._unanswered[device] += 1
                self._quiet_since_s.setdefault(device, now_s)
        return tuple(asked)

    def silent(self, now_s: float) -> tuple[tuple[int, float], ...]:
        """Returns the workers that are silent, and for how many seconds each has been asked in vain."""
        overdue = [w for w in self._frames.values() if w.asked]
        if not overdue:
            return ()
        enough_s = max(silent_s(w.limit_s) for w in overdue)
        return tuple(
            (device, now_s - since_s)
            for device, since_s in self._quiet_since_s.items()
            if self._unanswered[device] >= ASKS and now_s - since_s >= enough_s
        )

    def answers(self, frame: int) -> Mapping[int, Situation | None]:
        """What the workers said of a frame: device -> situation; None where it has seen nothing of it."""
        return self._frames[frame].answers

    def slowest(self, frame: int, missing: Iterable[int], now_s: float) -> tuple[Link, bool] | None:
        """The connection over which rows of a frame have been on their way for the longest; None without one.

        Args:
            frame: which.
            missing: devices whose outputs have not come in.
            now_s: the time now.

        Returns:
            The connection, and whether it is silent.
        """
        late = set(missing)
        since_s = {
            link: since_s
            for (link, _), since_s in self._frames[frame].since_s.items()
            if link.destination != REQUESTER or link.source in late
        }
        link = min(since_s, key=since_s.__getitem__, default=None)
        if link is None:
            return None
        return link, now_s - since_s[link] >= self._stuck_s(self._frames[frame].limit_s)

    def answered(
        self, frame: int, device: int, situation: Situation | None, now_s: float, missing: Iterable[int]
    ) -> Link | None:
        """A worker said how far a frame has come; returns a connection that is silent.

        Args:
            frame: which.
            device: who.
            situation: what it said.
            now_s: the time now.
            missing: devices whose outputs have not come in.
        """
        self.heard(device)
        watched = self._frames.get(frame)
        if watched is None:
            return None
        watched.answers[device] = situation
        links = dict.fromkeys(self._waiting(watched, device, situation))
        if all(d in watched.answers for d in self._busy):
            last = max((stage for stage, link in self._made_in if link.destination == REQUESTER), default=-1)
            links |= dict.fromkeys(
                (Link(d, REQUESTER), last) for d in missing if self._sent(watched, last, Link(d, REQUESTER))
            )
        kept = {
            key: since_s
            for key, since_s in watched.since_s.items()
            if key in links or (key[0].destination not in (device, REQUESTER))
        }
        watched.since_s = {key: now_s for key in links} | kept
        enough_s = self._stuck_s(watched.limit_s)
        return next((link for link, stage in links if now_s - watched.since_s[link, stage] >= enough_s), None)

    def _stuck_s(self, limit_s: float) -> float:
        """For how long rows must be on their way: a link may be slow, or have become slow."""
        if not self._durations_s:
            return max(LEAST_SILENT_S, STUCK_AT_FIRST * limit_s)
        return max(LEAST_SILENT_S, SILENT * limit_s, SLOW * median(self._durations_s))

    def _waiting(self, watched: _Watched, device: int, situation: Situation | None) -> list[tuple[Link, int]]:
        """The connections over which a device waits for rows that have been sent."""
        if any((told := w.answers.get(device)) is not None and told.running for w in self._frames.values()):
            # It takes in what has come when it has computed.
            return []
        found = []
        for stage, link in self._made_in:
            if link.destination != device or not self._sent(watched, stage, link):
                continue
            if situation is None or (stage == situation.waits_in and link.source in situation.waits_for):
                found.append((link, stage))
        return found

    def _sent(self, watched: _Watched, stage: int, link: Link) -> bool:
        """Whether the source has done all that makes a message: it has been handed over then."""
        made_in = self._made_in.get((stage, link))
        if made_in is None:
            return False
        if link.source == REQUESTER:
            return True
        situation = watched.answers.get(link.source)
        return situation is not None and made_in <= set(situation.done)

    def remade(self, link: Link, now_s: float) -> None:
        """A connection is being made anew; in both directions where the requester is one end."""
        self._remade_s[link] = now_s

    def was_remade(self, link: Link) -> bool:
        """Whether a connection was made anew since a frame last came through."""
        return link in self._remade_s

    def broke(self, device: int, now_s: float, reported: bool) -> Link | None:
        """Rows of a device could not be sent, or rows to it; returns the connection that may be on its way back.

        Args:
            device: whose.
            now_s: the time now.
            reported: whether the device said so, without saying to whom; only then a first time is forgiven.
        """
        known = next((link for link in self._remade_s if device in link), None)
        if known is None and reported:
            known = Link(device, SOMEBODY)
            self._remade_s[known] = now_s
        return known

    def mending(self, link: Link, now_s: float, limit_s: float) -> bool:
        """Whether a connection may still be on its way to stand again, for frames with that deadline."""
        return now_s - self._remade_s[link] < silent_s(limit_s)
