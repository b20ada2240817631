"""What the fidelity campaign measured: a file of JSON lines, only ever added to, so that a long run can go on.

A line holds all that is needed to run it again: the set-up, how the strategy was made, and the strategy itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from distredge.cluster import Cluster
from distredge.experiments.common.records import RESULTS, append_line, today
from distredge.strategy import Strategy

FOLDER = RESULTS / "fidelity"
RUNS = FOLDER / "runs.jsonl"
PROFILE = FOLDER / "this-machine.json"

Role = Literal["strategy", "auto", "this-machine"]


@dataclass(frozen=True)
class Run:
    """One strategy, predicted and measured; times in the emulated cluster's seconds.

    Attributes:
        key: set-up and strategy; a later line of the same key replaces it.
        role: "strategy"; "auto", which was interleaved with the best single device; or "this-machine", two workers
            of this machine without links between them.
        part, kind: of the set-up.
        model: name in the zoo.
        cluster: name of the set-up's cluster.
        method: what made the strategy.
        set_up, draft: as `fidelity_draw` has them.
        strategy: its file as one object.
        boards, computing, volumes: numbers of boards, of those that compute rows, and of volumes.
        in_flight: images under way at once.
        predicted_shared_s, predicted_independent_s: median latency under each link model.
        latencies_s: measured, of the valid frames.
        starts_s: when these frames started, on the links' traces; empty where links are constant.
        offload_s: latencies of the best single device, measured in turn with these.
        predicted_offload_s: what is predicted for that, shared.
        frames, invalid: how many were measured, and of those left out.
        dilation, processor_share, mode, engine: of the testbed.
        profiles: `profiles_of` the cluster.
        date, cores: when, and on how many processors.
    """

    key: str
    role: Role
    part: str
    kind: str
    model: str
    cluster: str
    method: str
    set_up: dict[str, Any]
    draft: dict[str, Any]
    strategy: dict[str, Any]
    boards: int
    computing: int
    volumes: int
    in_flight: int
    predicted_shared_s: float
    predicted_independent_s: float
    latencies_s: tuple[float, ...]
    frames: int
    invalid: int
    dilation: float
    mode: str = ""
    engine: str = ""
    profiles: str = ""
    processor_share: float | None = None
    starts_s: tuple[float, ...] = ()
    offload_s: tuple[float, ...] = ()
    predicted_offload_s: float | None = None
    date: str = ""
    cores: int = 0

    @property
    def median_s(self) -> float | None:
        """Measured; None where no frame was valid."""
        return statistics.median(self.latencies_s) if self.latencies_s else None

    @property
    def best_s(self) -> float | None:
        """The fastest frame; None where none was valid."""
        return min(self.latencies_s, default=None)

    def strategy_again(self) -> Strategy:
        """The strategy that ran."""
        return Strategy.from_json(json.dumps(self.strategy), self.key)


def read(path: Path = RUNS) -> list[Run]:
    """The newest record of each key, in the order in which keys came first; a line cut off by a kill is left out."""
    found: dict[str, Run] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError:
                continue
            fields.pop("median_s", None)
            fields.pop("best_s", None)
            listed = {key: tuple(fields.get(key, ())) for key in ("latencies_s", "starts_s", "offload_s")}
            run = Run(**{**fields, **listed})
            found[run.key] = run
    return list(found.values())


def append(run: Run, path: Path = RUNS) -> None:
    """Adds a record in one write, with the date and the number of processors."""
    fields = {**run.__dict__, "date": today(), "cores": len(os.sched_getaffinity(0))}
    for key in ("latencies_s", "starts_s", "offload_s"):
        fields[key] = [round(value, 7) for value in fields[key]]
    fields |= {"median_s": run.median_s, "best_s": run.best_s}
    kept = {key: value for key, value in fields.items() if value not in (None, [], "")}
    text = json.dumps({"latencies_s": [], **kept}, separators=(",", ":"), allow_nan=False)
    append_line(path, text.encode())


def profiles_of(cluster: Cluster) -> str:
    """Digest of the compute profiles: a prediction is of the same boards only where it is the same."""
    known = [device.profile for device in cluster.devices]
    known += [cluster.requester.profile] if cluster.requester.profile is not None else []
    digest = hashlib.sha256()
    for profile in dict.fromkeys(known):
        digest.update(msgspec.json.encode(profile.data))
    return digest.hexdigest()[:16]


def by_role(runs: Iterable[Run], role: Role, part: str = "test") -> list[Run]:
    """Those of a role and part of which something was measured."""
    return [run for run in runs if run.role == role and run.part == part and run.latencies_s]
