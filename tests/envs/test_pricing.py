"""The two ways of pricing an environment's steps agree, and the one that applies is chosen."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.envs.pricing import EpisodePricer, KernelPricer, SimulatorPricer, make_pricer
from distredge.model import zoo
from distredge.problem import Problem


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    graph = zoo.build("vgg16", width=0.125)
    return [Problem(graph, load_cluster(name)) for name in ("db-50", "da-300")]


def _price(pricer: EpisodePricer, problems: list[Problem], length: int) -> tuple[np.ndarray, np.ndarray]:
    cuts = problems[0].graph.cuts
    scheme = [4, 9, 17][:length]
    rng = np.random.default_rng(0)
    count = 6
    rows = np.zeros((count, length, 5), np.int64)
    for place, index in enumerate(scheme):
        rows[:, place, 1:4] = np.sort(rng.integers(0, cuts[index].height + 1, (count, 3)), axis=1)
        rows[:, place, 4] = cuts[index].height
    which, head = np.arange(count) % 2, np.arange(count) % 4
    return pricer(np.tile(scheme, (count, 1)), rows, head, which, np.zeros(count))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_kernel_and_simulator_agree(problems: list[Problem], length: int) -> None:
    kernel = make_pricer(problems, "uint8")
    assert isinstance(kernel, KernelPricer)
    found = _price(kernel, problems, length)
    expected = _price(SimulatorPricer(problems, "uint8"), problems, length)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9, nan_ok=True)
    assert np.isnan(found[1]).all() == (length < 3)


def test_simulator_where_the_kernel_does_not_know_the_cluster(problems: list[Problem]) -> None:
    known = problems[0].cluster
    medium = Cluster("medium", known.requester, known.devices, "independent", shared_medium=True)
    assert isinstance(make_pricer([Problem(problems[0].graph, medium)], "float32"), SimulatorPricer)


def test_simulator_without_numba(problems: list[Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    pricer = make_pricer(problems, "float32")
    assert isinstance(pricer, SimulatorPricer)
    assert np.isfinite(_price(pricer, problems, 3)[1]).all()
