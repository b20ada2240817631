"""Models and clusters that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cluster import Cluster, load_cluster
from distredge.model.graph import Graph


@pytest.fixture(scope="session")
def trio() -> Cluster:
    """The published case db-50 without its last device."""
    db50 = load_cluster("db-50")
    return Cluster("trio", db50.requester, db50.devices[:3], db50.link_model)


@pytest.fixture(scope="session")
def pair() -> Cluster:
    """The first and the last device of db-50."""
    db50 = load_cluster("db-50")
    return Cluster("pair", db50.requester, (db50.devices[0], db50.devices[-1]), db50.link_model)


@pytest.fixture(scope="session")
def tiny() -> Graph:
    """Three convolutions of 6, 6 and 3 rows and a head: few enough strategies on two devices to try all."""
    wide = 64
    constants = [
        numpy_helper.from_array(np.ones((16, 3 if i == 0 else 16, 3, 3), np.float32), f"w{i}") for i in range(3)
    ]
    constants.append(numpy_helper.from_array(np.ones((16 * 3 * wide // 2, 4), np.float32), "v"))
    nodes = [
        helper.make_node(
            "Conv", ["x" if i == 0 else f"y{i - 1}", f"w{i}"], [f"y{i}"], f"y{i}", kernel_shape=[3, 3],
            pads=[1, 1, 1, 1], strides=[2 if i == 2 else 1] * 2,
        )
        for i in range(3)
    ]  # fmt: skip
    nodes.append(helper.make_node("Flatten", ["y2"], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "v"], ["z"], "z"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, wide])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    made = helper.make_model(
        helper.make_graph(nodes, "tiny", [x], [z], constants), opset_imports=[helper.make_opsetid("", 17)]
    )
    return Graph(onnx.shape_inference.infer_shapes(made), "tiny")
