"""Checking a measured profile: segments that it has never seen are timed and compared with its predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distredge.errors import ProfileError
from distredge.model.graph import Graph
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.measuring.bench import Bench, Effort, EngineSettings
from distredge.profiles.measuring.board import runtime_of
from distredge.profiles.measuring.machine import Watch, pinned
from distredge.profiles.measuring.segments import Check, SegmentTimes, random_cases

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
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Verification:
    """Times random segments of some models and compares them with a profile of this board.

    Args:
        profile: a measured one, of this runtime.
        graphs: models whose operators it holds.
        segments: how many of each model.
        seed: of their choice.
        sweeps: bursts of each at most.
        report: called with what is done, of how much, and what comes.

    Raises:
        ProfileError: if the profile is modelled, of another runtime, or lacks an operator.
    """
    settings = settings_of(profile)
    settings.check()
    for graph in graphs:
        for signature in graph.signatures:
            if signature is not None:
                profile.operator_s(signature, 1)
    with pinned(settings.threads):
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


def settings_of(profile: ComputeProfile) -> EngineSettings:
    """Returns the settings that a measured profile was made with.

    Raises:
        ProfileError: if it is modelled, or of another runtime than the one installed here.
    """
    if not profile.measured:
        raise ProfileError(f"{profile.where}: found a modelled profile, accepted: one measured on this board")
    settings = EngineSettings(profile.runtime.provider, profile.board.threads)
    here = runtime_of(settings)
    if (profile.runtime.name, profile.runtime.version) != (here.name, here.version):
        raise ProfileError(
            f"{profile.where}: runtime: found {profile.runtime.name} {profile.runtime.version}, accepted: {here.name} "
            f"{here.version}, which is what runs here; measure anew with: distredge profile run --restart"
        )
    return settings
