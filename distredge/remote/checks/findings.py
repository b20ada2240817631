"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        board: name of the device in the cluster file.
        what: was looked at, in a word or two.
        state: "ok"; "warning": slower, or not to be told; "bad": it will not work, or not as planned.
        detail: what was seen.
        todo: what to do about it; "" where nothing is to be done.
    """

    board: str
    what: str
    state: State
    detail: str
    todo: str = ""
