"""The search for the lowest latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from distredge.cluster import load_cluster
from distredge.latency import offload_latency_s, simulate
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.tables import all_volumes
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.wires import EXACT_WIRES
from distredge.model.zero_shares import assume_zero_shares
from distredge.planners.annealing import lowest_latency as search_module
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.annealing.strategy_arrays import Batch
from distredge.planners.budget import Budget, PlanningProgress
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile

ProblemIn = Callable[[Graph, str, str], Problem]


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
@pytest.mark.parametrize("model", ["vgg", "resnet"])
def test_predicts_what_the_simulator_says(
    problem_in: ProblemIn, vgg: Graph, resnet: Graph, model: str, regime: str
) -> None:
    problem = problem_in({"vgg": vgg, "resnet": resnet}[model], "na-nano", regime)
    search = Search(problem, Budget(evaluations=20_000), 0)
    strategy = search.run()
    assert simulate(problem, strategy).latency_s == pytest.approx(search.latency_s, rel=1e-9)
    assert search.latency_s <= offload_latency_s(problem) * (1 + 1e-9)


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
def test_result_depends_on_seed_and_evaluations_alone(problem_in: ProblemIn, vgg: Graph, regime: str) -> None:
    found = [
        Search(problem_in(vgg, "db-50", regime), Budget(evaluations=15_000), seed, threads).run().to_json()
        for seed, threads in ((3, 1), (3, 2), (3, 1), (4, 1))
    ]
    assert found[0] == found[1] == found[2]
    assert found[3] != found[0]


def test_what_others_have_tabulated_before_makes_no_difference(
    problem_in: ProblemIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Volumes with maps of different heights are left to be tabulated on demand.
    monkeypatch.setattr(all_volumes, "MOST_SHORT", 0)
    monkeypatch.setattr(search_module, "STEPS", 10)
    graph = zoo.build("unet", (1, 3, 64, 64), width=0.25)
    problem = problem_in(graph, "db-50", "paper")
    searches = [Search(problem, Budget(evaluations=20_000), seed) for seed in (3, 4, 3)]
    found = [search.run().to_json() for search in searches]
    used = [search.pricer.index() >= 0 for search in searches]
    assert not used[1][used[0]].all()
    assert (used[0] == used[2]).all()
    assert found[0] == found[2]


def test_volumes_that_others_asked_for_make_no_difference(problem_in: ProblemIn) -> None:
    """Tabulated one by one before the search tabulates all, for another cluster of the same boards."""
    found = []
    for asked in (False, True):
        graph = zoo.build("mobilenet-v3-small", (1, 3, 64, 64), width=0.5)
        problem = problem_in(graph, "db-50", "paper")
        if asked:
            kernel = kernel_of(problem_in(graph, "db-50", "shared"))
            for last in range(4, len(graph.cuts), 2):
                kernel.tables.require(last - 5, last)
        found.append(Search(problem, Budget(evaluations=5_000), 3, 1).run().to_json())
    assert found[0] == found[1]


def test_some_chains_begin_from_strategies_of_others(problem_in: ProblemIn, vgg: Graph) -> None:
    problem = problem_in(vgg, "na-nano", "paper")
    good = Search(problem, Budget(evaluations=20_000), 1)
    strategy = good.run()
    asked = []

    def more(pricer: BatchPricer) -> Batch:
        asked.append(pricer)
        return pricer.codec.encode([strategy])

    search = Search(problem, Budget(evaluations=1_000), 0, 1, more_starts=more)
    search.run()
    assert asked == [search.pricer]
    assert search.latency_s <= good.latency_s * (1 + 1e-12)
    begun = Search(problem, Budget(evaluations=1_000), 0, 1, more_starts=more)
    begun._begin()
    same = [np.isclose(chains.seconds, good.latency_s, rtol=1e-12) for chains in begun._chains]
    # In the coolest chains, and in no more than their share.
    assert [chains[:8].all() for chains in same] == [True, True]
    assert not any(chains[8:].any() for chains in same)


def test_a_short_search_polishes_its_best_starts(problem_in: ProblemIn, vgg: Graph) -> None:
    problem = problem_in(vgg, "db-50", "shared")
    # The clock stands, and the evaluations end it.
    search = Search(problem, Budget(0.005, 2_000, clock=lambda: 0.0), 0, 1)
    strategy = search.run()
    assert search.budget.done <= 2_000
    assert not search._chains
    assert simulate(problem, strategy).latency_s == pytest.approx(search.latency_s, rel=1e-9)
    assert search.latency_s <= offload_latency_s(problem) * (1 + 1e-9)


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
def test_combines_runs(problem_in: ProblemIn, vgg: Graph, regime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN", 800), ("BRANCHES", 3), ("STEPS", 3)):
        monkeypatch.setattr(search_module, name, value)
    found = []
    for threads in (1, 2):
        search = Search(problem_in(vgg, "db-50", regime), Budget(evaluations=20_000), 3, threads)
        begun, ended = _note_runs(search, monkeypatch)
        strategy = search.run()
        hottest = [hot for hot, _, _ in begun]
        # In three groups of three groups of two or three runs; random orders of the devices cost one run.
        assert hottest.count(search_module.HOT) == (19 if regime == "ours" else 20)
        assert hottest.count(search_module.MERGING_HOT) == 9 + 3 + 1
        assert hottest[0] == search_module.HOT
        assert hottest[-1] == search_module.MERGING_HOT
        for hot, chains_s, results in begun:
            if hot == search_module.MERGING_HOT:
                # Begins with the best of each part, and with nothing that no part has found.
                assert {seconds.min() for seconds in results} <= set(chains_s)
                assert set(chains_s) <= {value for seconds in results for value in seconds}
        assert search.latency_s == pytest.approx(min(seconds.min() for seconds in ended), rel=1e-9)
        found.append(strategy.to_json())
    assert found[0] == found[1]


def _note_runs(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[tuple[float, list[float], list[np.ndarray]]], list[np.ndarray]]:
    """Notes of each run its first temperature, the latencies of its chains, what it combines, and what it ends with."""
    begun: list[tuple[float, list[float], list[np.ndarray]]] = []
    ended: list[np.ndarray] = []
    anneal, best_of, ranked = search._anneal, search._best_of, search_module._ranked
    combined: list[np.ndarray] = []

    def noting_anneal(pool: ThreadPoolExecutor, hot: float, begin: float, end: float, until: float = 1.0) -> None:
        chains_s = np.concatenate([chains.seconds for chains in search._chains]).tolist()
        begun.append((hot, chains_s, list(combined)))
        anneal(pool, hot, begin, end, until)

    def noting_best_of(*arguments: Any) -> Any:
        made = best_of(*arguments)
        ended.append(made[1])
        return made

    def noting_ranked(found: Any, count: int) -> Any:
        combined[:] = [seconds for _, seconds in found]
        return ranked(found, count)

    monkeypatch.setattr(search, "_anneal", noting_anneal)
    monkeypatch.setattr(search, "_best_of", noting_best_of)
    monkeypatch.setattr(search_module, "_ranked", noting_ranked)
    return begun, ended


def test_combining_loses_nothing_under_approximate_rates(
    problem_in: ProblemIn, vgg: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RUN", 500), ("BRANCHES", 2), ("STEPS", 2)):
        monkeypatch.setattr(search_module, name, value)
    search = Search(problem_in(vgg, "na-nano", "shared"), Budget(evaluations=20_000), 1, 1)
    best_of, found = search._best_of, []

    def noting(*arguments: Any) -> Any:
        found.append(best_of(*arguments))
        return found[-1]

    monkeypatch.setattr(search, "_best_of", noting)
    search.run()
    exact = [search.pricer.price(batch, again=True).min() for batch, _ in found]
    assert len(exact) > 10
    assert search.latency_s <= min(exact) * (1 + 1e-9)


@pytest.mark.parametrize("evaluations", [1, 5, 100, 700])
def test_keeps_to_its_evaluations_and_is_never_worse_than_offload(
    problem_in: ProblemIn, vgg: Graph, evaluations: int
) -> None:
    problem = problem_in(vgg, "dc-300", "paper")
    budget = Budget(evaluations=evaluations)
    search = Search(problem, budget, 0)
    search.run()
    assert search.latency_s <= offload_latency_s(problem) * (1 + 1e-9)
    assert budget.done <= max(evaluations, len(problem.cluster.devices))


def test_returns_the_best_so_far_when_interrupted(problem_in: ProblemIn, vgg: Graph) -> None:
    budget = Budget(3600.0)
    seen: list[PlanningProgress] = []

    def interrupt(progress: PlanningProgress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            budget.interrupt()

    budget._progress = interrupt
    search = Search(problem_in(vgg, "db-50", "paper"), budget, 0)
    search.run()
    assert search.latency_s <= seen[0].best_latency_s


def test_keyboard_interrupt_does_not_lose_what_was_found(
    problem_in: ProblemIn, vgg: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(problem_in(vgg, "db-50", "paper"), Budget(3600.0), 0)

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_advance", pressed)
    search.run()
    assert search.latency_s < float("inf")


def test_devices_keep_their_places_unless_the_problem_frees_them(problem_in: ProblemIn, vgg: Graph) -> None:
    strategy = Search(problem_in(vgg, "na-nano", "paper"), Budget(evaluations=10_000), 0).run()
    assert strategy.devices == load_cluster("na-nano").names
    free = Search(problem_in(vgg, "na-nano", "ours"), Budget(evaluations=10_000), 0).run()
    sizes = [sum(v.rows[i + 1] - v.rows[i] for v in free.volumes) for i in range(len(free.devices))]
    assert all(size > 0 or name == free.head.device for name, size in zip(free.devices, sizes, strict=True))


def test_offers_no_more_than_the_problem_allows(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    lossless = Search(Problem(vgg, cluster, boundary_first=True), Budget(evaluations=10_000), 0).run()
    assert lossless.lossless
    wires = ("float32", "float16")
    lossy = Problem(vgg, cluster, allow_lossy=True, wires=wires)
    found = Search(lossy, Budget(evaluations=10_000), 0).run()
    assert not any(v.boundary_first for v in found.volumes)
    assert found.predicted == {}


def _with_packing(problem: Problem, s_per_byte: float) -> Problem:
    """The problem on boards that take so long to pack and to unpack."""
    devices = []
    for device in problem.cluster.devices:
        messages = msgspec.structs.replace(
            device.profile.messages, compress_s_per_byte=s_per_byte, expand_s_per_byte=s_per_byte
        )
        profile = ComputeProfile(msgspec.structs.replace(device.profile.data, messages=messages))
        devices.append(dataclasses.replace(device, profile=profile))
    cluster = dataclasses.replace(problem.cluster, devices=tuple(devices))
    return dataclasses.replace(problem, cluster=cluster, wires=EXACT_WIRES)


def test_packs_where_that_is_faster(problem_in: ProblemIn, vgg: Graph) -> None:
    problem = problem_in(vgg, "db-50", "shared")
    plain = Search(problem, Budget(evaluations=20_000), 0)
    plain.run()
    assume_zero_shares(vgg, dict.fromkeys(vgg.tensors, 0.5))
    packing = _with_packing(problem, 1e-9)
    quick = Search(packing, Budget(evaluations=20_000), 0)
    strategy = quick.run()
    wires = {volume.wire for volume in strategy.volumes}
    assert "float32-packed" in wires
    assert strategy.lossless
    assert quick.latency_s < plain.latency_s
    assert simulate(packing, strategy).latency_s == pytest.approx(quick.latency_s, rel=1e-9)
    slow = Search(_with_packing(problem, 1e-3), Budget(evaluations=20_000), 0)
    assert {volume.wire for volume in slow.run().volumes} == {"float32"}


def test_uses_narrow_wires_and_boundary_first_only_where_they_gain(problem_in: ProblemIn, vgg: Graph) -> None:
    problem = problem_in(vgg, "na-nano", "ours")
    search = Search(problem, Budget(evaluations=10_000), 0)
    strategy = search.run()
    for number, volume in enumerate(strategy.volumes):
        for change in ({"wire": "float32"}, {"boundary_first": False}):
            other = dataclasses.replace(volume, **change)
            volumes = (*strategy.volumes[:number], other, *strategy.volumes[number + 1 :])
            if other != volume:
                assert simulate(problem, strategy.replace(volumes=volumes)).latency_s > search.latency_s
    cluster = load_cluster("db-50", [vgg])
    alone = dataclasses.replace(cluster, devices=cluster.devices[:1])
    wires = ("float32", "float16")
    one = Search(Problem(vgg, alone, allow_lossy=True, wires=wires), Budget(evaluations=500), 0).run()
    assert one.lossless
