"""Checking a measured profile: segments that it has never seen are timed and compared with its predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distredge.errors import ProfileError
from distredge.model.graph import Graph
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.engines import Engine, EngineSettings, ThisProcess
from distredge.profiles.measuring.machine import Watch, pinned
from distredge.profiles.measuring.segments import Check, SegmentTimes, random_cases
from distredge.profiles.schema import Runtime

SWEEPS = 6
_PAUSE_S = 0.3


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        checks: every segment.
        pace: how much slower than at its best a fixed kernel ran, the 95th percentile while measuring.
        load: share of the processors that other programs used.
    """

    checks: tuple[Check, ...]
    pace: float
    load: float

    @property
    def mean_error(self) -> float:
        """Mean absolute relative error of the predictions."""
        return float(np.mean([abs(check.error) for check in self.checks]))

    @property
    def p95_error(self) -> float:
        """95th percentile of the absolute relative error."""
        return float(np.quantile([abs(check.error) for check in self.checks], 0.95))

    @property
    def bias(self) -> float:
        """Mean signed relative error: above 0 when predictions are too long."""
        return float(np.mean([check.error for check in self.checks]))


def verify(
    profile: ComputeProfile,
    graphs: Sequence[Graph],
    segments: int = 20,
    seed: int = 0,
    sweeps: int = SWEEPS,
    engine: Engine | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Verification:
    """Times random segments of some models and compares them with a profile of this board.

    Args:
        profile: a measured one, of this runtime.
        graphs: models whose operators it holds.
        segments: how many of each model.
        seed: of their choice.
        sweeps: bursts of each at most.
        engine: what computes; None: this process, on the CPU.
        report: called with what is done, of how much, and what comes.

    Raises:
        ProfileError: if the profile is modelled, of another runtime, or lacks an operator.
    """
    settings = settings_of(profile, engine)
    for graph in graphs:
        for signature in graph.signatures:
            if signature is not None:
                profile.operator_s(signature, 1)
    with pinned(settings.threads, settings.pid):
        watch = Watch()
        sets = [SegmentTimes(Bench(graph, settings), random_cases(graph, segments, seed), Effort()) for graph in graphs]
        total = sweeps * len(sets)
        for sweep in range(sweeps):
            if sweep and any(times.unsettled for times in sets):
                # Bursts of the same segment must lie apart to tell a disturbed machine from a wrong prediction.
                time.sleep(_PAUSE_S)
            for number, times in enumerate(sets):
                report(sweep * len(sets) + number, total, times.bench.graph.name)
                for index in times.unsettled:
                    times.time(index)
                    watch.look()
        checks = tuple(check for times in sets for check in times.checks(profile))
        return Verification(checks, watch.pace, watch.load)


def settings_of(profile: ComputeProfile, engine: Engine | None = None) -> EngineSettings:
    """Returns the settings that a measured profile was made with.

    Args:
        profile: a measured one.
        engine: what computes; None: this process, on the CPU.

    Raises:
        ProfileError: if it is modelled, or of another runtime than the one that computes here.
        MissingDependency: if nothing computes here.
    """
    if not profile.measured:
        raise ProfileError(f"{profile.where}: found a modelled profile, accepted: one measured on this board")
    settings = EngineSettings(ThisProcess(profile.board.threads) if engine is None else engine)
    found, here = profile.runtime, settings.runtime()
    if (found.name, found.version, found.provider) != (here.name, here.version, here.provider):
        raise ProfileError(
            f"{profile.where}: runtime: found {_told(found)}, accepted: {_told(here)}, which is what runs here; give "
            "--engine-python where another Python's engine was measured, or measure anew with: distredge profile run "
            "--restart"
        )
    return settings


def _told(runtime: Runtime) -> str:
    return f"{runtime.name} {runtime.version} ({runtime.provider})"
