"""What every method must do, and what each one's own rule says."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pkgutil
import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cluster import Cluster, load_cluster
from distredge.errors import Infeasible, PlannerError
from distredge.experiments.common.exact import TOLERANCE, Comparison
from distredge.latency import simulate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import METHODS, plan, published, resolve
from distredge.planners.budget import Budget
from distredge.planners.common.volume_costs import VolumeCosts
from distredge.planners.published.aofl import Block, fuse
from distredge.planners.published.dpfp import blocks, rank, speedup_estimate
from distredge.problem import Problem
from distredge.strategy import Strategy

OTHERS = [method for method in METHODS if method not in ("search", "auto", "distredge", "agent")]


@pytest.fixture(scope="module")
def models() -> dict[str, Graph]:
    return {
        "vgg": zoo.build("vgg16", (1, 3, 64, 48), width=0.25),
        "mobilenet": zoo.build("mobilenet-v2", (1, 3, 65, 65), width=0.25),
    }


@pytest.mark.parametrize("case", ["db-50", "dc-300", "this-machine"])
@pytest.mark.parametrize("model", ["vgg", "mobilenet"])
@pytest.mark.parametrize("method", OTHERS)
def test_gives_a_strategy_that_runs(models: dict[str, Graph], method: str, model: str, case: str) -> None:
    problem = Problem(models[model], load_cluster(case))
    strategy = plan(problem, method, evaluations=30)
    assert strategy.planner.method == method
    assert simulate(problem, strategy).latency_s == pytest.approx(strategy.predicted["latency_s"], rel=1e-9)
    assert strategy.to_json() == plan(problem, method, evaluations=30).to_json()


@pytest.fixture(scope="module")
def line() -> Graph:
    """A CNN over one axis, as of sound: its maps have rows and no columns."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 200])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 100])
    f = helper.make_tensor_value_info("f", TensorProto.FLOAT, [1, 4, 100])
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (4, 2, 9)), ("w2", (4, 4, 5)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], pads=[4, 4], strides=[2], kernel_shape=[9]),
        helper.make_node("Conv", ["f", "w2"], ["y"], pads=[2, 2], kernel_shape=[5]),
    ]
    proto = helper.make_graph(nodes, "line", [x], [y], weights, value_info=[f])
    return Graph(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "line")


@pytest.mark.parametrize("case", ["halp-pi4", "db-50"])
@pytest.mark.parametrize("method", [*OTHERS, "auto"])
def test_plans_a_line(line: Graph, method: str, case: str) -> None:
    problem = Problem(line, load_cluster(case))
    strategy = plan(problem, method, evaluations=30)
    assert simulate(problem, strategy).latency_s == pytest.approx(strategy.predicted["latency_s"], rel=1e-9)
    assert all(volume.columns is None for volume in strategy.volumes)
    assert Comparison(line).error(strategy) <= TOLERANCE


def test_tiles_of_a_line_are_its_rows(line: Graph) -> None:
    """A strategy may speak of columns: of the tiles side by side one has all that there is."""
    rows = Strategy.make(line, ["a", "b", "c", "d"], [(1, [0, 10, 20, 60, 100])], head="a")
    columns = ((0, 0, 1), (0, 1, 1))
    for across in columns:
        tiles = rows.replace(volumes=(dataclasses.replace(rows.volumes[0], rows=(0, 60, 100), columns=across),))
        assert Comparison(line).error(tiles) <= TOLERANCE


@pytest.mark.parametrize("method", OTHERS)
def test_works_on_one_device_or_says_which_do(vgg: Graph, method: str) -> None:
    cluster = load_cluster("db-50")
    alone = dataclasses.replace(cluster, devices=cluster.devices[:1])
    if method == "halp":
        with pytest.raises(PlannerError, match="auto"):
            plan(Problem(vgg, alone), method)
        return
    strategy = plan(Problem(vgg, alone), method, evaluations=30)
    assert strategy.predicted["latency_s"] == pytest.approx(strategy.predicted["offload_latency_s"], rel=0.5)


@pytest.mark.parametrize("method", ["coedge", "aofl", "dpfp", "edgeld"])
def test_a_device_whose_link_is_down_gets_no_rows(vgg: Graph, method: str) -> None:
    cluster = load_cluster("db-50")
    dead = dataclasses.replace(cluster.devices[1].uplink, rate_bps=0.0)
    devices = list(cluster.devices)
    devices[1] = dataclasses.replace(devices[1], uplink=dead, downlink=dead)
    strategy = plan(Problem(vgg, dataclasses.replace(cluster, devices=tuple(devices))), method)
    for volume in strategy.volumes:
        rows = dict(zip(strategy.devices, np.diff(volume.rows), strict=True))
        assert rows["xavier-1"] == 0


def test_no_reachable_device_is_said(vgg: Graph) -> None:
    cluster = load_cluster("db-50")
    devices = [
        dataclasses.replace(
            d,
            uplink=dataclasses.replace(d.uplink, rate_bps=0.0),
            downlink=dataclasses.replace(d.downlink, rate_bps=0.0),
        )
        for d in cluster.devices
    ]
    dead = Problem(vgg, dataclasses.replace(cluster, devices=tuple(devices)))
    for method in ("coedge", "aofl", "dpfp", "pico"):
        with pytest.raises(Infeasible, match="down"):
            resolve(method)(dead, Budget(1.0), 0)


def test_modnn_deals_rows_by_capability_layer_by_layer(problem: Problem) -> None:
    strategy = plan(problem, "modnn")
    assert len(strategy.volumes) == len(problem.graph.cuts)
    speed = VolumeCosts(problem).speed
    first = np.diff(strategy.volumes[0].rows)
    np.testing.assert_allclose(first / first.sum(), speed / speed.sum(), atol=1 / first.sum())


def test_mednn_is_balanced_at_least_as_well_as_modnn(problem: Problem) -> None:
    # Three devices have no grid but strips of rows or of columns.
    cluster = problem.cluster
    slow_links = dataclasses.replace(problem, cluster=dataclasses.replace(cluster, devices=cluster.devices[1:]))
    costs = VolumeCosts(slow_links)
    seconds = {}
    for method in ("modnn", "mednn"):
        strategy = plan(slow_links, method)
        assert strategy.volumes[0].columns is None
        seconds[method] = [next(costs.walk(i + 1, [v.rows])).compute_s.max() for i, v in enumerate(strategy.volumes)]
    assert all(m <= n for m, n in zip(seconds["mednn"], seconds["modnn"], strict=True))


def test_coedge_keeps_one_ratio_and_every_share_above_the_halo(problem: Problem) -> None:
    strategy = plan(problem, "coedge")
    shares = np.array(strategy.planner.settings["shares"])
    for volume in strategy.volumes:
        rows = np.diff(volume.rows)
        np.testing.assert_allclose(rows, shares * rows.sum(), atol=1.0)


def test_deeperthings_points_are_the_best_of_their_number(models: dict[str, Graph]) -> None:
    from distredge.planners.published import deeperthings

    problem = Problem(models["vgg"], load_cluster("db-50"))
    costs = VolumeCosts(problem)
    exchanged = deeperthings._exchanged(costs)
    inner = costs.whole_blocks[1:-1]
    for count in (1, 2, 3):
        scheme = deeperthings._solve(costs, exchanged, count)
        every = [(*chosen, costs.last) for chosen in itertools.combinations(inner, count - 1)]

        def cost(ends: tuple[int, ...]) -> float:
            return sum(exchanged[arc] for arc in zip((0, *ends), ends, strict=False))

        assert len(scheme) == count
        assert cost(scheme) == pytest.approx(min(map(cost, every)))


def test_fuse_finds_the_cheapest_path() -> None:
    rng = np.random.default_rng(3)
    locations = (0, 1, 2, 3, 4, 5)
    blocks_ = {(i, j): Block(float(rng.random()), (j,)) for i in locations for j in locations if i < j}
    found = sum(block.seconds for _, block in fuse(locations, blocks_))
    every = []
    for size in range(5):
        for inner in itertools.combinations(locations[1:-1], size):
            path = (0, *inner, 5)
            every.append(sum(blocks_[arc].seconds for arc in itertools.pairwise(path)))
    assert found == pytest.approx(min(every))


def test_aofl_uses_a_prefix_of_the_fastest(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("dc-300"))
    strategy = plan(problem, "aofl")
    order = np.argsort(-VolumeCosts(problem).speed)
    for volume in strategy.volumes:
        working = np.diff(volume.rows)[order] > 0
        assert not np.any(np.diff(working.astype(int)) > 0)


def _edge_servers(devices: int, rate_bps: float) -> Cluster:
    """Equal boards on fast wires, as in DPFP's setting."""
    cluster = load_cluster("da-300")
    link = dataclasses.replace(cluster.devices[0].uplink, rate_bps=rate_bps, fixed_s=0.0, rtt_s=0.0)
    board = dataclasses.replace(cluster.devices[0], uplink=link, downlink=link)
    return dataclasses.replace(
        cluster, devices=tuple(dataclasses.replace(board, name=f"es-{i}") for i in range(devices))
    )


def test_dpfp_uses_more_servers_on_faster_wires() -> None:
    graph = zoo.build("vgg16", (1, 3, 128, 128))
    counts = [
        len(plan(Problem(graph, _edge_servers(6, rate)), "dpfp").planner.settings["servers"]) for rate in (1e7, 4e10)
    ]
    assert counts[0] == 1
    assert counts[1] > 2


def test_dpfp_blocks_hold_the_recurrence(problem: Problem) -> None:
    costs = VolumeCosts(problem)
    locations = tuple(range(costs.last + 1))
    for found in blocks(costs, rank(costs)):
        best = sum(block.seconds for _, block in fuse(locations, found))
        one_each = sum(found[arc].seconds for arc in itertools.pairwise(locations))
        assert best <= min(found[0, costs.last].seconds, one_each) * (1 + 1e-8)


def test_dpfp_price_of_one_block_on_two_servers(problem: Problem) -> None:
    costs = VolumeCosts(problem)
    ranking = rank(costs)
    block = blocks(costs, ranking)[1][0, costs.last]
    piece = costs.slices(costs.last, [block.points])[0]
    s_per_byte_ = 8 / 50e6
    moved = costs.needed_bytes(piece)[0].sum() + costs.owned_bytes(costs.last, [block.points])[0, ranking[1]]
    assert block.seconds == pytest.approx(moved * s_per_byte_ + piece.compute_s.max())


def test_dpfp_estimate_is_one_on_the_host_alone(problem: Problem) -> None:
    assert speedup_estimate(problem, plan(problem, "offload")) == pytest.approx(1.0)


def test_pico_stages_have_devices_of_their_own(vgg: Graph) -> None:
    problem = Problem(vgg, _edge_servers(4, 1e9), objective="throughput")
    strategy = plan(problem, "pico")
    stages = strategy.planner.settings["stages"]
    used = [name for stage in stages for name in stage]
    assert len(used) == len(set(used))
    for volume, stage in zip(strategy.volumes, stages, strict=True):
        rows = dict(zip(strategy.devices, np.diff(volume.rows), strict=True))
        assert {name for name, count in rows.items() if count} <= set(stage)


def test_pico_refuses_a_latency_limit_that_its_pipeline_breaks(vgg: Graph) -> None:
    problem = Problem(vgg, load_cluster("db-50"), objective="throughput", latency_limit_s=1e-3)
    with pytest.raises(Infeasible, match="search"):
        plan(problem, "pico")


def test_halp_keeps_secondaries_apart(problem: Problem) -> None:
    strategy = plan(problem, "halp", evaluations=40)
    hosts = strategy.planner.settings["hosts"]
    assert [strategy.devices.index(name) % 2 for name in hosts] == [1] * len(hosts)
    assert strategy.head.device in hosts
    for volume in strategy.volumes:
        rows = np.diff(volume.rows)
        assert all(rows[k] >= 1 for k in range(1, len(rows), 2)) or volume.rows[-1] < 3


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(published.__path__)])
def test_every_file_states_its_paper(module: str) -> None:
    text = importlib.import_module(f"{published.__name__}.{module}").__doc__ or ""
    first = text.splitlines()[0]
    assert first.startswith((f"`{module}`: ", "LC-PSS: "))
    assert re.search(r"\(.+, .*\b20[12]\d\b.*\)\.$", first)
