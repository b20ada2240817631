"""The demo's emulated cluster: distributing pays on it, and what is shown is what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from distredge.cluster import Cluster
from distredge.experiments.common import demo_on_testbed
from distredge.experiments.common.demo_on_testbed import show, tried
from distredge.experiments.common.fidelity_beds import Bed, LocalFrames
from distredge.latency import evaluate
from distredge.problem import Problem
from distredge.profiles.compute import load_shipped
from distredge.runtime.in_process import run_in_process
from distredge.strategy import Strategy


class _Slower:
    """A testbed that takes a tenth longer than predicted and computes in this process."""

    mode = "simulated"

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> LocalFrames:
        outputs = run_in_process(problem.graph, strategy, inputs)
        return LocalFrames((1.1 * evaluate(problem, strategy),) * frames, 0.5, outputs, dilation=2.0)


@contextmanager
def _opened(cluster: Cluster) -> Iterator[Bed]:
    assert {device.uplink.rate_bps for device in cluster.devices} == {50e6}
    yield _Slower()


def test_distributing_pays_and_the_output_is_the_whole_models() -> None:
    alone, shared = tried("efficientnet-lite0", load_shipped("default:this-machine"), _opened)
    assert (alone.boards, shared.boards > 1) == (1, True)
    assert alone.measured_s > 1.3 * shared.measured_s
    assert max(alone.difference, shared.difference) <= 1e-5
    assert alone.measured_s == pytest.approx(1.1 * alone.predicted_s)


def test_what_is_shown_is_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(tried("efficientnet-lite0", load_shipped("default:this-machine"), _opened))
    worse = [dataclasses.replace(one, difference=0.5) for one in found]
    monkeypatch.setattr(demo_on_testbed, "tried", lambda *args: iter(worse))
    assert show("efficientnet-lite0") == 0.5
    said = capsys.readouterr().out
    assert f"measured {1e3 * found[0].measured_s:7.2f} ms" in said
    assert "2.00 times slower" in said
