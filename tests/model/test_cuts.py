"""What is body, what is head and why, and where the body may be cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from distredge.model.operators import Kind


def test_a_chain_is_cut_after_every_operator_but_not_inside_a_fused_one(net: Any) -> None:
    n = net((1, 3, 12, 12))
    x = n.node("Relu", n.conv("x", 4, pads=[1] * 4))
    pooled = n.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = n.node("Relu", n.conv(pooled, 4, pads=[1] * 4))
    graph = n.graph(n.node("Gemm", [n.node("Flatten", y), n.weight(144, 5)]))
    assert [cut.tensors for cut in graph.cuts] == [(x,), (pooled,), (y,)]
    assert [cut.height for cut in graph.cuts] == [12, 6, 6]
    assert [cut.position for cut in graph.cuts] == [2, 3, 5]
    assert [graph.operators[i].op_type for i in graph.body.head] == ["Flatten", "Gemm"]
    assert graph.body.head_inputs == (y,)
    assert graph.body.verdicts[5].reason == "Flatten flattens the rows"
    assert graph.body.verdicts[6].reason.startswith("reads '")


def test_an_activation_read_twice_is_not_fused(net: Any) -> None:
    n = net((1, 3, 12, 12))
    x = n.conv("x", 4, pads=[1] * 4)
    gated = n.node("Mul", [x, n.node("Sigmoid", x)])
    graph = n.graph(n.node("Relu", gated))
    assert graph.fused_into == {}
    assert graph.cuts[0].tensors == (x,)


def test_every_live_tensor_is_in_a_cut_and_the_tallest_is_its_reference(net: Any) -> None:
    n = net((1, 3, 16, 12))
    tall = n.conv("x", 4, pads=[1] * 4)
    low = n.node("MaxPool", tall, kernel_shape=[2, 2], strides=[2, 2])
    mid = n.conv(low, 4, pads=[1] * 4)
    up = n.node("Resize", [mid, "", n.constant([1, 1, 2, 2], np.float32)])
    joined = n.node("Concat", [up, tall], axis=1)
    graph = n.graph(joined)
    assert [cut.tensors for cut in graph.cuts] == [(tall,), (tall, low), (tall, mid), (tall, up), (joined,)]
    assert [cut.reference for cut in graph.cuts] == [tall, tall, tall, up, joined]


def test_outputs_of_every_scale_end_the_body(net: Any) -> None:
    n = net((1, 3, 16, 12))
    first = n.conv("x", 4, pads=[1] * 4)
    second = n.conv(n.node("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 4, pads=[1] * 4)
    graph = n.graph(n.node("Relu", first), second)
    assert not graph.body.head
    assert set(graph.cuts[-1].tensors) == set(graph.output_names)
    assert graph.cuts[-1].height == 16


def test_no_cut_where_a_vector_is_alive(net: Any) -> None:
    n = net((1, 3, 16, 12))
    x = n.conv("x", 4, pads=[1] * 4)
    excited = n.squeeze_excite(x, fully_connected=True)
    graph = n.graph(n.conv(excited, 4))
    assert [cut.tensors for cut in graph.cuts] == [(x,), (excited,), graph.output_names]
    assert {graph.operators[i].op_type for i in graph.body.everywhere} == {
        "Flatten", "Gemm", "Relu", "Sigmoid", "Reshape",
    }  # fmt: skip
    assert [v.kind for v in graph.body.verdicts[:2]] == [Kind.LOCAL, Kind.REDUCE]


def test_vectors_that_end_a_model_are_its_head(net: Any) -> None:
    n = net((1, 3, 16, 12))
    x = n.conv("x", 4, pads=[1] * 4)
    mean = n.node("GlobalAveragePool", x)
    graph = n.graph(n.node("Gemm", [n.node("Flatten", mean), n.weight(4, 5)]))
    assert graph.body.operators == (0, 1)
    assert graph.body.verdicts[2].reason == "only vectors follow: no rows left to split"
    assert [cut.tensors for cut in graph.cuts] == [(x,)]
    assert graph.cuts[-1].position == 2


def test_an_unknown_operator_sends_what_follows_to_the_head(net: Any) -> None:
    n = net((1, 3, 16, 12))
    x = n.conv("x", 4, pads=[1] * 4)
    odd = n.node("Trilu", x)
    graph = n.graph(n.conv(odd, 4))
    assert graph.body.verdicts[1] == (Kind.HEAD, "Trilu has no row rule")
    assert graph.body.verdicts[2] == (Kind.HEAD, f"reads '{odd}' of the head")
    assert [cut.tensors for cut in graph.cuts] == [(x,)]


def test_a_graph_that_nothing_can_split_has_no_cut(net: Any) -> None:
    n = net((1, 3, 16, 12))
    assert n.graph(n.node("Gemm", [n.node("Flatten", "x"), n.weight(576, 5)])).cuts == ()
