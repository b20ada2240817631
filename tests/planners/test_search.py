from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numba import njit

from distredge.cluster import load_cluster
from distredge.errors import Infeasible
from distredge.latency import simulate
from distredge.latency.kernel.kernel import kernel_of
from distredge.latency.tables import all_volumes
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import plan
from distredge.planners.annealing import compiled_steps, moves
from distredge.planners.annealing import lowest_latency as search_module
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.lowest_latency import Search
from distredge.planners.annealing.starts import starts
from distredge.planners.annealing.strategy_arrays import take
from distredge.planners.budget import Budget, PlanningProgress
from distredge.problem import Problem
from distredge.strategy import PlannerRef


def _problem(graph: Graph, case: str, regime: str) -> Problem:
    cluster = load_cluster(case, [graph])
    if regime == "paper":
        return Problem(graph, cluster, free_order=False)
    if regime == "shared":
        return Problem(graph, dataclasses.replace(cluster, link_model="shared"), free_order=False)
    wires = ("float32", "float16")
    return Problem(graph, cluster, allow_lossy=True, input_dtypes=("uint8",), wires=wires, boundary_first=True)


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
@pytest.mark.parametrize("model", ["vgg", "resnet"])
def test_predicts_what_the_simulator_says(vgg: Graph, resnet: Graph, model: str, regime: str) -> None:
    problem = _problem({"vgg": vgg, "resnet": resnet}[model], "na-nano", regime)
    search = Search(problem, Budget(evaluations=20_000), 0)
    strategy = search.run()
    assert simulate(problem, strategy).latency_s == pytest.approx(search.latency_s, rel=1e-9)
    assert search.latency_s <= problem.offload_latency_s * (1 + 1e-9)


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
def test_result_depends_on_seed_and_evaluations_alone(vgg: Graph, regime: str) -> None:
    found = [
        Search(_problem(vgg, "db-50", regime), Budget(evaluations=15_000), seed, threads).run().to_json()
        for seed, threads in ((3, 1), (3, 2), (3, 1), (4, 1))
    ]
    assert found[0] == found[1] == found[2]
    assert found[3] != found[0]


def test_what_others_have_tabulated_before_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    # Volumes with maps of different heights are left to be tabulated on demand.
    monkeypatch.setattr(all_volumes, "MOST_SHORT", 0)
    monkeypatch.setattr(search_module, "STEPS", 10)
    graph = zoo.build("unet", (1, 3, 64, 64), width=0.25)
    problem = _problem(graph, "db-50", "paper")
    searches = [Search(problem, Budget(evaluations=20_000), seed) for seed in (3, 4, 3)]
    found = [search.run().to_json() for search in searches]
    used = [search.pricer.index() >= 0 for search in searches]
    assert not used[1][used[0]].all()
    assert (used[0] == used[2]).all()
    assert found[0] == found[2]


@pytest.mark.parametrize("regime", ["paper", "ours", "shared"])
def test_combines_runs(vgg: Graph, regime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "RUN", 800)
    monkeypatch.setattr(search_module, "BRANCHES", 3)
    monkeypatch.setattr(search_module, "STEPS", 3)
    found = []
    for threads in (1, 2):
        search = Search(_problem(vgg, "db-50", regime), Budget(evaluations=20_000), 3, threads)
        hottest: list[float] = []
        monkeypatch.setattr(search, "_anneal", _noting(search, hottest))
        strategy = search.run()
        # 20 runs in groups of at most 3 groups of 3, then what combines them.
        assert hottest.count(search_module.HOT) >= 10
        assert hottest.count(search_module.MERGING_HOT) >= 4
        assert hottest[0] == search_module.HOT
        assert hottest[-1] == search_module.MERGING_HOT
        assert search.latency_s <= min(seconds.min() for _, seconds in search._ended) * (1 + 1e-9)
        found.append(strategy.to_json())
    assert found[0] == found[1]


def test_combining_loses_nothing_under_approximate_rates(vgg: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RUN", 500), ("BRANCHES", 2), ("STEPS", 2), ("EXACT_UP_TO", 0)):
        monkeypatch.setattr(search_module, name, value)
    search = Search(_problem(vgg, "na-nano", "shared"), Budget(evaluations=20_000), 1, 1)
    best_of, found = search._best_of, []

    def noting(*arguments: Any) -> Any:
        found.append(best_of(*arguments))
        return found[-1]

    monkeypatch.setattr(search, "_best_of", noting)
    search.run()
    exact = [search.pricer.price(batch, again=True).min() for batch, _ in found]
    assert len(exact) > 10
    assert search.latency_s <= min(exact) * (1 + 1e-9)


def _noting(search: Search, hottest: list[float]) -> Callable[..., None]:
    anneal = search._anneal

    def noting(pool: ThreadPoolExecutor, hot: float, begin: float, end: float) -> None:
        hottest.append(hot)
        anneal(pool, hot, begin, end)

    return noting


@njit
def _change_structure(states: Any, plans: Any, choices: Any) -> None:
    for k in range(len(states)):
        moves.change_structure(states, plans, k, choices)


@njit
def _cross(states: Any, source: Any, which: Any, plans: Any) -> None:
    for k in range(len(states)):
        moves.cross(states, source, which[k], plans, k)


@pytest.mark.parametrize("regime", ["paper", "ours"])
@pytest.mark.parametrize("model", ["vgg", "resnet"])
def test_changes_of_structure_leave_valid_strategies(vgg: Graph, resnet: Graph, model: str, regime: str) -> None:
    problem = _problem({"vgg": vgg, "resnet": resnet}[model], "na-nano", regime)
    codec = Codec(problem)
    batch = take(starts(codec)[0], np.arange(64))
    before = take(batch, np.arange(64))
    states = np.arange(1, 65, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    crossed = 0
    for _ in range(20):
        _change_structure(states, batch, codec.choices)
        uncrossed = take(batch, np.arange(64))
        _cross(states, before, (states % np.uint64(64)).astype(np.int64), batch)
        crossed += int((uncrossed.rows != batch.rows).any(axis=(1, 2)).sum())
        for k in range(64):
            strategy = codec.strategy(batch, k, PlannerRef("search"))
            strategy.check(problem.graph)
            count = len(strategy.volumes)
            assert (batch.cuts[k, count:] == -1).all()
    assert crossed > 300


def test_cuts_that_are_no_candidates_stay_between_their_neighbours(resnet: Graph) -> None:
    codec = Codec(_problem(resnet, "na-nano", "paper"))
    candidates, heights = codec.candidates, codec.choices.heights
    before, after = next((a, b) for a, b in itertools.pairwise(candidates) if b - a > 1)
    batch = codec.empty(1)
    for w, cut in enumerate((before, before + 1, after, candidates[-1])):
        batch.cuts[0, w], batch.rows[0, w, 1:] = cut, heights[cut]
    batch = take(batch, np.zeros(4000, np.int64))
    states = np.random.default_rng(0).integers(1, 2**63, 4000, dtype=np.uint64)
    for _ in range(5):
        compiled_steps.change(states, batch, codec.choices)
        rising = np.diff(batch.cuts, axis=1) > 0
        assert (rising | (batch.cuts[:, 1:] < 0)).all()
        assert (batch.cuts.max(axis=1) == candidates[-1]).all()


def test_crossing_takes_a_run_of_volumes_from_the_other(vgg: Graph) -> None:
    codec = Codec(_problem(vgg, "na-nano", "ours"))
    mine, other = codec.empty(1), codec.empty(1)
    mine.cuts[0, :3] = codec.candidates[1], codec.candidates[4], codec.candidates[-1]
    other.cuts[0, :4] = codec.candidates[0], codec.candidates[2], codec.candidates[3], codec.candidates[-1]
    for batch, share in ((mine, 1), (other, 3)):
        for w in range(4):
            height = codec.choices.heights[batch.cuts[0, w]]
            batch.rows[0, w] = np.array([0, share, share, 4, 4]) * height // 4
    other.order[0] = 3, 0, 2, 1
    states = np.array([12345], np.uint64)
    seen = set()
    for _ in range(200):
        plan = take(mine, [0])
        _cross(states, other, np.zeros(1, np.int64), plan)
        count = int((plan.cuts[0] >= 0).sum())
        origins = ""
        for w in range(count):
            sizes = np.diff(plan.rows[0, w])
            # Device 3 has rows in the other one alone.
            origins += "o" if sizes[3] > 0 else "m"
        assert "o" in origins
        assert all(plan.cuts[0, w] in (other if o == "o" else mine).cuts[0] for w, o in enumerate(origins))
        seen.add(origins)
    assert any(o.startswith("o") and o.endswith("m") for o in seen)
    assert any(o.startswith("m") and o.endswith("o") for o in seen)
    assert any("mo" in o and "om" in o for o in seen)


@pytest.mark.parametrize("evaluations", [1, 5, 100, 700])
def test_keeps_to_its_evaluations_and_is_never_worse_than_offload(vgg: Graph, evaluations: int) -> None:
    problem = _problem(vgg, "dc-300", "paper")
    budget = Budget(evaluations=evaluations)
    search = Search(problem, budget, 0)
    search.run()
    assert search.latency_s <= problem.offload_latency_s * (1 + 1e-9)
    assert budget.done <= max(evaluations, len(problem.cluster.devices))


def test_returns_the_best_so_far_when_interrupted(vgg: Graph) -> None:
    budget = Budget(3600.0)
    seen: list[PlanningProgress] = []

    def interrupt(progress: PlanningProgress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            budget.interrupt()

    budget._progress = interrupt
    search = Search(_problem(vgg, "db-50", "paper"), budget, 0)
    search.run()
    assert search.latency_s <= seen[0].best_latency_s


def test_keyboard_interrupt_does_not_lose_what_was_found(vgg: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(_problem(vgg, "db-50", "paper"), Budget(3600.0), 0)

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_advance", pressed)
    search.run()
    assert search.latency_s < float("inf")


def test_time_for_loading_does_not_count() -> None:
    now = 0.0
    budget = Budget(1.0, clock=lambda: now)
    part = budget.share(0.5)
    with part.paused():
        now += 30.0
    assert budget.elapsed_s == part.elapsed_s == 0.0
    now += 0.25
    assert part.spent() == 0.5
    assert budget.spent() == 0.25


@pytest.mark.parametrize("regime", ["paper", "ours"])
def test_codec_keeps_strategies_as_they_are(resnet: Graph, regime: str) -> None:
    problem = _problem(resnet, "na-nano", regime)
    codec = Codec(problem)
    batch, _ = starts(codec)
    rng = np.random.default_rng(0)
    batch.wires[:] = rng.choice(codec.choices.wires, batch.wires.shape)
    batch.boundary[:] = rng.integers(0, 2, batch.boundary.shape) * codec.choices.boundary
    planner = PlannerRef("search")
    strategies = [codec.strategy(batch, k, planner) for k in range(len(batch.cuts))]
    assert all(codec.fits(strategy) for strategy in strategies)
    again = codec.encode(strategies)
    for k, strategy in enumerate(strategies):
        strategy.check(problem.graph)
        assert codec.strategy(again, k, planner) == strategy
    pricer = BatchPricer(codec, Budget(evaluations=1))
    assert pricer.price(again) == pytest.approx(pricer.price(batch), rel=1e-12)


def test_devices_keep_their_places_unless_the_problem_frees_them(vgg: Graph) -> None:
    strategy = Search(_problem(vgg, "na-nano", "paper"), Budget(evaluations=10_000), 0).run()
    assert strategy.devices == load_cluster("na-nano").names
    free = Search(_problem(vgg, "na-nano", "ours"), Budget(evaluations=10_000), 0).run()
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


def test_uses_narrow_wires_and_boundary_first_only_where_they_gain(vgg: Graph) -> None:
    problem = _problem(vgg, "na-nano", "ours")
    search = Search(problem, Budget(evaluations=10_000), 0)
    strategy = search.run()
    for number, volume in enumerate(strategy.volumes):
        for change in ({"wire": "float32"}, {"boundary_first": False}):
            other = dataclasses.replace(volume, **change)  # type: ignore[arg-type]
            volumes = (*strategy.volumes[:number], other, *strategy.volumes[number + 1 :])
            if other != volume:
                assert simulate(problem, strategy.replace(volumes=volumes)).latency_s > search.latency_s
    cluster = load_cluster("db-50", [vgg])
    alone = dataclasses.replace(cluster, devices=cluster.devices[:1])
    wires = ("float32", "float16")
    one = Search(Problem(vgg, alone, allow_lossy=True, wires=wires), Budget(evaluations=500), 0).run()
    assert one.lossless


def test_leaves_out_a_device_that_cannot_be_reached(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    down = dataclasses.replace(cluster.devices[1].uplink, rate_bps=0.0)
    device = dataclasses.replace(cluster.devices[1], uplink=down, downlink=down)
    problem = Problem(vgg, dataclasses.replace(cluster, devices=(cluster.devices[0], device, *cluster.devices[2:])))
    strategy = plan(problem, "search", evaluations=5_000)
    assert device.name not in strategy.devices
    nobody = tuple(dataclasses.replace(d, uplink=down, downlink=down) for d in cluster.devices)
    with pytest.raises(Infeasible):
        plan(Problem(vgg, dataclasses.replace(cluster, devices=nobody)), "search", evaluations=100)


def test_one_device_is_enough(vgg: Graph) -> None:
    cluster = load_cluster("db-50", [vgg])
    problem = Problem(vgg, dataclasses.replace(cluster, devices=cluster.devices[:1]))
    strategy = plan(problem, "search", evaluations=2_000)
    assert strategy.predicted["latency_s"] == pytest.approx(problem.offload_latency_s, rel=1e-9)


def test_prices_what_the_kernel_does_not_by_the_simulator(vgg: Graph) -> None:
    cluster = dataclasses.replace(load_cluster("db-50", [vgg]), shared_medium=True)
    assert cluster.link_model == "independent"
    problem = Problem(vgg, cluster)
    strategy = plan(problem, "search", evaluations=60)
    assert strategy.predicted["latency_s"] <= problem.offload_latency_s * (1 + 1e-9)
    assert strategy.predicted["latency_s"] == pytest.approx(simulate(problem, strategy).latency_s, rel=1e-12)


def test_latency_limit_that_cannot_be_met_says_what_came_closest(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("db-50", [vgg]), latency_limit_s=1e-6)
    with pytest.raises(Infeasible, match=r"0\.001 ms .closest: \d"):
        plan(problem, "search", evaluations=2_000)


def test_interchangeable_devices_are_told_apart_by_what_matters(vgg: Graph) -> None:
    cluster = load_cluster("na-nano", [vgg])
    kinds = Codec(Problem(vgg, cluster)).choices.kinds.tolist()
    same = [
        (a.profile, a.uplink, a.downlink) == (b.profile, b.uplink, b.downlink)
        for a, b in itertools.combinations(cluster.devices, 2)
    ]
    assert [a == b for a, b in itertools.combinations(kinds, 2)] == same


def test_kernel_of_a_problem_is_shared(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("db-50", [vgg]))
    assert Search(problem, Budget(evaluations=1), 0).pricer.kernel is kernel_of(problem)
