"""What may be asked, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
import math
import pickle
import weakref
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cluster import Cluster, load_cluster
from distredge.errors import ClusterError, ConfigError, UnsupportedModel
from distredge.latency import offload, offload_latency_s, simulate
from distredge.latency.costs.part_costs import part_costs
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.wires import EXACT_WIRES, PLANNABLE_WIRES
from distredge.planners import of_method
from distredge.problem import Problem, takes_pixels


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.125)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster("db-50")


def test_defaults_are_lossless(graph: Graph, cluster: Cluster) -> None:
    problem = Problem(graph, cluster)
    assert (problem.allow_lossy, problem.wires, problem.input_dtypes) == (False, ("float32",), ("float32",))
    assert problem.objective == "latency"
    assert repr(problem) == f"Problem({graph.name} on db-50)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "latencies"}, r"objective 'latencies'; did you mean 'latency'"),
        ({"input_dtypes": ("uint8", "uint")}, r"input_dtypes: 'uint'; did you mean 'uint8'"),
        ({"input_dtypes": ()}, r"input_dtypes: found \(\), accepted: at least one of float32, uint8"),
        (
            {"wires": (), "allow_lossy": True},
            r"wires: found \(\), accepted: at least one of float32, .*packed",
        ),
        ({"wires": ("float61",), "allow_lossy": True}, r"wires: 'float61'; did you mean 'float16'"),
        ({"wires": ("float32", "float16")}, r"wires: found \('float32', 'float16'\), accepted: .*allow_lossy=True"),
        (
            {"wires": ("float32", "int8"), "allow_lossy": True},
            r"wires: found 'int8', accepted: 'float32' or .*: 'int8' can be simulated from a strategy file, but "
            "neither planned nor run yet",
        ),
        (
            {"wires": ("float32", "float32-packed")},
            r"wires: found 'float32-packed', accepted: 'float32': what packing costs .* under shared links alone",
        ),
        ({"latency_limit_s": 0.0}, r"latency_limit_s: found 0\.0, accepted: a positive number of seconds"),
        ({"latency_limit_s": -1.0}, "latency_limit_s"),
        ({"latency_limit_s": math.inf}, "latency_limit_s"),
        ({"latency_limit_s": math.nan}, "latency_limit_s"),
    ],
)
def test_options_are_checked(graph: Graph, cluster: Cluster, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"problem: {message}"):
        Problem(graph, cluster, **options)


def test_packed_wires_belong_to_shared_links(graph: Graph, cluster: Cluster) -> None:
    shared = dataclasses.replace(cluster, link_model="shared")
    assert Problem(graph, shared, wires=EXACT_WIRES).wires == ("float32", "float32-packed")


def test_a_model_of_which_nothing_can_be_split_is_refused(cluster: Cluster) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"])]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 4, 4]), ("y", [1, 2]))
    )
    weights = numpy_helper.from_array(np.ones((48, 2), np.float32), "w")
    made = helper.make_graph(nodes, "dense", [x], [y], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    dense = Graph(onnx.shape_inference.infer_shapes(model), "dense")
    with pytest.raises(UnsupportedModel, match="dense: none of its operators can be split by rows"):
        Problem(dense, cluster)


def test_lossy_wires_need_permission(graph: Graph, cluster: Cluster) -> None:
    assert Problem(graph, cluster, allow_lossy=True, wires=("float32", "float16")).wires[1] == "float16"


def test_boards_of_one_profile_share_their_costs(graph: Graph, cluster: Cluster) -> None:
    problem = Problem(graph, cluster)
    by_profile: dict[int, set[int]] = {}
    for device in cluster.devices:
        by_profile.setdefault(id(device.profile), set()).add(id(part_costs(problem, device.name)))
    assert all(len(found) == 1 for found in by_profile.values())
    assert 1 < len(by_profile) < len(cluster.devices)
    with pytest.raises(ClusterError, match="has no device 'nobody'"):
        part_costs(problem, "nobody")


def test_offload_is_the_best_single_device(graph: Graph, cluster: Cluster) -> None:
    problem = Problem(graph, cluster)
    strategy, latency_s = offload(problem)
    assert offload_latency_s(problem) == latency_s == simulate(problem, strategy).latency_s
    assert len(strategy.devices) == 1
    assert strategy.predicted == {"latency_s": latency_s}
    small = Problem(graph, cluster, input_dtypes=("float32", "uint8"))
    assert offload(small)[0].input.dtype == "uint8"
    assert offload_latency_s(small) < latency_s


def test_a_problem_survives_a_trip_to_another_process(graph: Graph, cluster: Cluster) -> None:
    problem = Problem(graph, cluster, free_order=False, latency_limit_s=2.0)
    latency_s = offload_latency_s(problem)
    copy = pickle.loads(pickle.dumps(problem))  # noqa: S301
    assert (copy.free_order, copy.latency_limit_s, offload_latency_s(copy)) == (False, 2.0, latency_s)


def test_what_is_known_of_a_problem_goes_with_its_graph(cluster: Cluster) -> None:
    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.25)
    problem = Problem(graph, cluster)
    costs = weakref.ref(part_costs(problem, cluster.names[0]))
    assert offload_latency_s(problem) > 0
    assert costs() is part_costs(problem, cluster.names[0])
    assert vars(problem).keys() == {field.name for field in dataclasses.fields(problem)}
    problem = Problem(graph, dataclasses.replace(cluster, link_model="independent"))
    gc.collect()
    assert costs() is part_costs(problem, cluster.names[0])
    del problem, graph
    gc.collect()
    assert costs() is None


def test_lossless_offers_all_that_leaves_the_output_unchanged(graph: Graph, cluster: Cluster) -> None:
    shared = dataclasses.replace(cluster, link_model="shared")
    problem = Problem.lossless(graph, shared)
    assert (problem.input_dtypes, problem.boundary_first, problem.free_order) == (("uint8", "float32"), True, True)
    assert (problem.wires, problem.allow_lossy, problem.regime) == (EXACT_WIRES, False, "lossless")
    assert problem.options_in_words.startswith("uint8 input, float32")
    # What shrinks rows pays where links share; float32 alone is left under the papers' assumption.
    assert Problem.lossless(graph, cluster).wires == ("float32",)
    assert Problem.lossless(graph, shared, boundary_first=False, objective="throughput").boundary_first is False
    lossy = Problem.lossless(graph, shared, allow_lossy=True)
    assert (set(lossy.wires), lossy.regime) == (set(PLANNABLE_WIRES), "lossy")


def test_pixels_are_offered_only_where_the_model_says_how_to_take_them(graph: Graph, cluster: Cluster) -> None:
    assert takes_pixels(graph)
    assert not takes_pixels(Graph(graph.proto, "bare"))
    assert Problem.lossless(Graph(graph.proto, graph.name), cluster).input_dtypes == ("float32",)


def test_as_published_is_float32_on_all_devices_in_their_order(graph: Graph, cluster: Cluster) -> None:
    shared = dataclasses.replace(cluster, link_model="shared")
    problem = Problem.as_published(graph, shared)
    assert (problem.input_dtypes, problem.wires) == (("float32",), ("float32",))
    assert (problem.boundary_first, problem.free_order, problem.regime) == (False, False, "as published")
    assert problem.cluster.link_model == "independent"
    assert Problem.as_published(graph, cluster, "shared").cluster.link_model == "shared"
    assert of_method(problem, "modnn") is problem
    assert of_method(problem, "halp").boundary_first
    assert of_method(Problem.lossless(graph, cluster, boundary_first=False), "halp").boundary_first is False
