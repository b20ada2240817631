"""Graphs, boards and clusters so small that what a strategy costs can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.cluster import Cluster, Device, Link, LinkModel, Requester
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.schema import Board, Copy, Measured, Origin, Power, ProfileFile, Runtime, Segments
from distredge.strategy import Strategy

CHANNELS, WIDTH = 2, 4


class Lab:
    """Makes what the tests of this folder need.

    Every feature map has 2 channels and 4 columns of float32, so that a row has 32 bytes, 256 bits; convolutions are
    3x3 of stride 1 with padding, so that the number of rows never changes.
    """

    row_bits = 8.0 * 4 * CHANNELS * WIDTH

    def chain(self, convolutions: int = 2, height: int = 8, classes: int = 0) -> Graph:
        """Convolutions one after the other; with `classes` a head of Flatten and Gemm."""
        nodes, constants, last = [], [], "x"
        for i in range(convolutions):
            constants.append(_weights(f"w{i}", CHANNELS, CHANNELS, 3, 3))
            nodes.append(_conv(last, f"w{i}", f"y{i}"))
            last = f"y{i}"
        if classes:
            constants.append(_weights("w", CHANNELS * height * WIDTH, classes))
            nodes.append(helper.make_node("Flatten", [last], ["flat"], name="flat"))
            nodes.append(helper.make_node("Gemm", ["flat", "w"], ["scores"], name="scores"))
            last = "scores"
        return _graph(nodes, constants, height, last)

    def residual(self, height: int = 8) -> Graph:
        """a = conv(x), b = conv(a), y = a + b: two tensors are alive before the sum."""
        constants = [_weights("w0", CHANNELS, CHANNELS, 3, 3), _weights("w1", CHANNELS, CHANNELS, 3, 3)]
        add = helper.make_node("Add", ["a", "b"], ["y"], name="y")
        return _graph([_conv("x", "w0", "a"), _conv("a", "w1", "b"), add], constants, height, "y")

    def skipping(self, height: int = 8) -> Graph:
        """y = conv(x) + x: the input is read by two volumes where it is cut between them."""
        add = helper.make_node("Add", ["a", "x"], ["y"], name="y")
        return _graph([_conv("x", "w0", "a"), add], [_weights("w0", CHANNELS, CHANNELS, 3, 3)], height, "y")

    def excited(self, height: int = 8) -> Graph:
        """A squeeze-and-excite between two convolutions: partial sums of the mean cross the network."""
        constants = [_weights(f"w{i}", CHANNELS, CHANNELS, 3, 3) for i in range(2)]
        constants.append(_weights("v", CHANNELS, CHANNELS, 1, 1))
        nodes = [
            _conv("x", "w0", "a"),
            helper.make_node("GlobalAveragePool", ["a"], ["mean"], name="mean"),
            helper.make_node("Conv", ["mean", "v"], ["small"], name="small", kernel_shape=[1, 1]),
            helper.make_node("Sigmoid", ["small"], ["factor"], name="factor"),
            helper.make_node("Mul", ["a", "factor"], ["b"], name="b"),
            _conv("b", "w1", "y"),
        ]
        return _graph(nodes, constants, height, "y")

    def profile(
        self,
        graph: Graph,
        row_s: float = 0.0,
        start_s: float = 0.0,
        *,
        name: str = "board",
        seconds: Mapping[str, Sequence[float]] | None = None,
        copy: tuple[float, float] = (0.0, 0.0),
        encrypt_s_per_byte: float = 0.0,
        segments: tuple[float, float] = (1.0, 0.0),
        watts: tuple[float, float] | None = None,
    ) -> ComputeProfile:
        """A board on which r rows of any operator take start_s + r * row_s.

        Args:
            graph: whose operators it has.
            row_s: seconds per row.
            start_s: seconds per operator.
            name: of the profile.
            seconds: instead, by operator type ("Conv"), the seconds of 1, 2, ... rows.
            copy: fixed seconds and seconds per byte, each end.
            encrypt_s_per_byte: of encryption and decryption.
            segments: factor and overhead of a part.
            watts: idle and busy.
        """
        operators = {}
        for signature in graph.signatures:
            if signature is not None:
                known = (seconds or {}).get(signature.op_type)
                times = tuple(known) if known is not None else (start_s + row_s, start_s + 2 * row_s)
                operators[signature.key] = _measured(times)
        return ComputeProfile(
            ProfileFile(
                name=name,
                device=Board(name=name),
                runtime=Runtime(name="onnxruntime"),
                origin=Origin(kind="measured", date="2026-11-22"),
                segments=Segments(factor=segments[0], overhead_s=segments[1]),
                copy=Copy(fixed_s=copy[0], s_per_byte=copy[1]),
                encrypt_s_per_byte=encrypt_s_per_byte,
                power=None if watts is None else Power(idle_w=watts[0], busy_w=watts[1]),
                operators=operators,
            )
        )

    def cluster(
        self,
        profiles: Sequence[ComputeProfile],
        links: Sequence[Link | tuple[Link, Link]] | Link,
        requester: Requester | None = None,
        link_model: LinkModel = "independent",
        **options: Any,
    ) -> Cluster:
        """Devices a, b, c, ... with those profiles and links (one for both directions, or uplink and downlink)."""
        chosen = [links] * len(profiles) if isinstance(links, Link) else links
        pairs = [(link, link) if isinstance(link, Link) else link for link in chosen]
        devices = tuple(
            Device(chr(ord("a") + i), profile, *pair)
            for i, (profile, pair) in enumerate(zip(profiles, pairs, strict=True))
        )
        return Cluster("lab", requester or Requester(), devices, link_model, **options)

    def strategy(
        self, problem: Problem, volumes: Sequence[tuple[int, Sequence[int]]], head: str = "a", **options: Any
    ) -> Strategy:
        """A strategy over all devices of the problem's cluster."""
        return Strategy.make(problem.graph, problem.cluster.names, volumes, head=head, **options)


def _measured(times: tuple[float, ...]) -> Measured:
    count = len(times)
    rows = tuple(range(1, count + 1))
    return Measured(rows=rows, median_s=times, p95_s=times, spread=(0.0,) * count, repeats=(5,) * count)


def _weights(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def _conv(source: str, weights: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weights], [target], name=target, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _graph(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], height: int, output: str) -> Graph:
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, height, WIDTH))
    graph = helper.make_graph(nodes, "lab", [entry], [helper.make_empty_tensor_value_info(output)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Graph(onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True), "lab")


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The maker of small cases."""
    return Lab()
