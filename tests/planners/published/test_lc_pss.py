"""LC-PSS: its tables against laid-out strategies, its search against every scheme, and what the paper reports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from distredge.errors import ConfigError
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out_decisions
from distredge.model.layout import HEAD, Layout
from distredge.model.volumes import Decision
from distredge.planners.published import lc_pss


def _layout(graph: Graph, splits: list[NDArray[np.int64]], scheme: tuple[int, ...], sample: int) -> Layout:
    decisions = [Decision(graph.cuts[index], tuple(splits[index][sample].tolist())) for index in scheme]
    n_devices = splits[0].shape[1] - 1
    return lay_out_decisions(graph, [f"d{i}" for i in range(n_devices)], decisions, 0)


def _costs(graph: Graph, layout: Layout) -> tuple[int, int]:
    """Bytes that the body's volumes fetch from others (partial sums aside), and multiply-adds of the body."""
    body = {stage.index for stage in layout.stages if stage.volume != HEAD}
    sent = sum(
        t.size_bytes for t in layout.transfers if t.stage in body and not t.local and not t.tensor.endswith("#partial")
    )
    head = sum(graph.macs[index] for index in graph.body.head)
    return sent, layout.macs(graph) - head


# Volumes end where one tensor is alive, so that no tensor skips a volume.
@pytest.mark.parametrize(
    ("name", "shape"),
    [("vgg16", (1, 3, 75, 67)), ("resnet18", (1, 3, 97, 64)), ("mobilenet-v2", (1, 3, 65, 64))],
)
def test_tables_equal_layouts(name: str, shape: tuple[int, ...]) -> None:
    graph = zoo.build(name, shape, width=0.125)
    n_random = 3
    splits = lc_pss.random_splits(graph, 3, n_random, seed=5)
    tables = lc_pss.score_tables(graph, 3, n_random, seed=5)
    narrow = [cut.index for cut in graph.cuts if len(cut.tensors) == 1]
    rng = np.random.default_rng(0)
    for size in (0, 1, 4):
        scheme = (*sorted(rng.choice(narrow[:-1], size, replace=False).tolist()), len(graph.cuts) - 1)
        costs = np.mean([_costs(graph, _layout(graph, splits, scheme, s)) for s in range(n_random)], axis=0)
        places = [0, *(index + 1 for index in scheme)]
        pairs = list(itertools.pairwise(places))
        assert sum(tables.transmitted[pair] for pair in pairs) == pytest.approx(costs[0], rel=1e-12)
        assert sum(tables.operations[pair] for pair in pairs) == pytest.approx(costs[1], rel=1e-12)


def test_operations_of_a_residual_network_with_two_tensors_alive() -> None:
    graph = zoo.build("resnet18", (1, 3, 97, 64), width=0.125)
    wide = next(cut.index for cut in graph.cuts if len(cut.tensors) == 2)
    splits = lc_pss.random_splits(graph, 4, 2, seed=0)
    tables = lc_pss.score_tables(graph, 4, 2, seed=0)
    last = len(graph.cuts) - 1
    layouts = [_layout(graph, splits, (wide, last), sample) for sample in range(2)]
    operations = tables.operations[0, wide + 1] + tables.operations[wide + 1, last + 1]
    assert operations == pytest.approx(np.mean([_costs(graph, layout)[1] for layout in layouts]), rel=1e-12)


@pytest.fixture(scope="module")
def vgg16() -> Graph:
    """The part of VGG-16 that is cut, at its published size, with weights that are all zero and quickly made."""
    nodes, weights, name, channels = [], [], "x", 3
    for stage, (depth, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        for layer in range(depth):
            key = f"{stage}_{layer}"
            weights.append(numpy_helper.from_array(np.zeros((width, channels, 3, 3), np.float32), f"w{key}"))
            nodes.append(helper.make_node("Conv", [name, f"w{key}"], [f"c{key}"], pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"c{key}"], [f"r{key}"]))
            name, channels = f"r{key}", width
        nodes.append(helper.make_node("MaxPool", [name], [f"p{stage}"], kernel_shape=[2, 2], strides=[2, 2]))
        name = f"p{stage}"
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512, 7, 7])
    graph = helper.make_graph(nodes, "vgg16", [image], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    return Graph(shape_inference.infer_shapes(model), "vgg16")


# The reading of the paper's counts (16 and 2) stands in the module's text.
@pytest.mark.parametrize("seed", range(5))
def test_vgg16_as_the_paper_reports(vgg16: Graph, seed: int) -> None:
    assert len(vgg16.cuts) == 18
    assert len(lc_pss.partition(vgg16, 4, alpha=0.0, seed=seed)) + 3 == 16
    assert len(lc_pss.partition(vgg16, 4, alpha=1.0, seed=seed)) + 1 == 2


def test_default_lies_between_the_extremes(vgg16: Graph) -> None:
    default = lc_pss.partition(vgg16, 4)
    assert default == lc_pss.partition(vgg16, 4, alpha=0.75, n_random=100, seed=0)
    assert 1 < len(default) < len(lc_pss.partition(vgg16, 4, alpha=0.0))
    assert default[-1] == len(vgg16.cuts) - 1
    assert list(default) == sorted(set(default))


def test_search_splits_greedily_and_from_the_scheme_before() -> None:
    # One volume costs 10; a cut at 1 gives 3 + 5, at 2 gives 6 + 1; both together 3 + 4 + 1 = 8 > 7.
    score = np.zeros((4, 4))
    score[0, 3], score[0, 1], score[1, 3], score[0, 2], score[2, 3], score[1, 2] = 10, 3, 5, 6, 1, 4
    assert lc_pss.search(score) == (1, 2)
    score[1, 2] = 2  # now 3 + 2 < 6: the next pass cuts the first volume again
    assert lc_pss.search(score) == (0, 1, 2)


def test_search_takes_nothing_on_a_tie_and_the_earliest_among_equals() -> None:
    score = np.zeros((4, 4))
    score[0, 3], score[0, 1], score[1, 3], score[0, 2], score[2, 3], score[1, 2] = 10, 4, 6, 5, 5, 1
    assert lc_pss.search(score) == (2,)
    score[0, 3] = 11
    assert lc_pss.search(score)[:1] == (0,)


def test_one_device_is_left_whole(vgg16: Graph) -> None:
    # Nothing is recomputed and nothing crosses the network after the input.
    assert lc_pss.partition(vgg16, 1) == (len(vgg16.cuts) - 1,)


@pytest.mark.parametrize("arguments", [{"alpha": 1.5}, {"alpha": -0.1}, {"n_random": 0}, {"n_devices": 0}])
def test_refuses_what_is_out_of_range(vgg16: Graph, arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        lc_pss.partition(vgg16, **{"n_devices": 4, **arguments})  # type: ignore[arg-type]
