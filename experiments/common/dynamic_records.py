"""Replays on disk, so that a long run goes on where it was stopped: one JSON file for each set of traces and method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distredge.errors import DistredgeError
from distredge.experiments.common.dynamic_replay import Replay
from distredge.strategy import Strategy
from distredge.writing import write


def save(path: Path, of: dict[str, Any], replay: Replay) -> None:
    """Writes a replay.

    Args:
        path: of the file; its folder is made.
        of: what it is of: a record of anything else is not taken for it.
        replay: what is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "of": of,
        "latency_s": replay.latency_s.tolist(),
        "replans": replay.replans,
        "planning_s": replay.planning_s,
        "choice_s": replay.choice_s,
        "alone_s": replay.alone_s.tolist(),
        "in_force": replay.in_force,
        "strategies": [json.loads(strategy.to_json()) for strategy in replay.strategies],
    }
    write(path, json.dumps(content, separators=(",", ":")) + "\n")


def load(path: Path, of: dict[str, Any]) -> Replay | None:
    """Returns the replay that stands there; None where there is none, it is of something else, or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["of"] != of:
            return None
        return Replay(
            np.array(content["latency_s"]),
            content["replans"],
            content["planning_s"],
            content["choice_s"],
            content["in_force"],
            [Strategy.from_json(json.dumps(one), str(path)) for one in content["strategies"]],
            np.array(content["alone_s"]),
        )
    except (OSError, ValueError, KeyError, TypeError, DistredgeError):
        return None
