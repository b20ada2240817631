"""A small CNN, strategies for it, and workers in threads without sockets or over real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from distredge.errors import ProtocolError
from distredge.model.capture import from_onnx
from distredge.model.graph import Graph
from distredge.runtime.engine import Engine, OnnxRuntimeEngine
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.in_process_transport import Exchange, InProcessNetwork
from distredge.runtime.protocol.transport import Network
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.worker import Worker
from distredge.strategy import Strategy

Array = NDArray[Any]
DEVICES = ("alpha", "beta", "gamma")


def small_cnn(height: int = 33, width: int = 21) -> ModelProto:
    """Convolutions with a residual, a squeeze-and-excite, a stride, pooling, and a fully connected head."""
    rng = np.random.default_rng(7)
    constants: dict[str, Array] = {}

    def weight(name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        constants[name] = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        return name

    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", weight("w1", 8, 3, 3, 3)], ["c1"], strides=[1, 1], **conv),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", weight("w2", 8, 8, 3, 3)], ["c2"], strides=[1, 1], **conv),
        helper.make_node("Add", ["c2", "r1"], ["a2"]),
        helper.make_node("GlobalAveragePool", ["a2"], ["g"]),
        helper.make_node("Conv", ["g", weight("w3", 8, 8, 1, 1)], ["s"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["s"], ["gate"]),
        helper.make_node("Mul", ["a2", "gate"], ["m"]),
        helper.make_node("Conv", ["m", weight("w4", 16, 8, 3, 3)], ["c4"], strides=[2, 2], **conv),
        helper.make_node("Relu", ["c4"], ["r4"]),
        helper.make_node("MaxPool", ["r4"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["q"]),
        helper.make_node("Flatten", ["q"], ["f"]),
        helper.make_node("Gemm", ["f", weight("w5", 40, 16), weight("b5", 40)], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, height, width))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 40))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture(scope="session")
def graph() -> Graph:
    return from_onnx(small_cnn())


@pytest.fixture(scope="session")
def image() -> dict[str, Array]:
    return {"image": np.random.default_rng(3).standard_normal((1, 3, 33, 21), dtype=np.float32)}


@pytest.fixture(scope="session")
def whole_model(graph: Graph) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """Runs the model in one piece."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString(), options)
    return lambda inputs: dict(zip(graph.output_names, session.run(None, inputs), strict=True))


def make_strategy(graph: Graph, shares: Sequence[Sequence[float]], head: str = "beta", **options: Any) -> Strategy:
    """One volume per entry of `shares`: shares of the rows that the devices get, ends spread evenly over the cuts."""
    devices = DEVICES[: len(shares[0])]
    count = len(graph.cuts)
    volumes = []
    for number, share in enumerate(shares):
        index = (number + 1) * count // len(shares) - 1
        height = graph.cuts[index].height
        ends = np.round(np.cumsum([0.0, *share]) / sum(share) * height).astype(int)
        volumes.append((index, [int(x) for x in ends]))
    return Strategy.make(graph, devices, volumes, head=head, **options)


@pytest.fixture
def strategy(graph: Graph) -> Strategy:
    return make_strategy(graph, [(2, 1, 1), (1, 1, 2)])


class Cell:
    """Workers in threads of this process, and how to reach them."""

    def __init__(self) -> None:
        self.exchange = Exchange()
        self.workers: dict[str, Worker] = {}
        self.threads: dict[str, threading.Thread] = {}
        self.networks: list[Network] = []
        self.coordinators: list[Coordinator] = []

    def start(self, name: str, engine: Engine | None = None, memory_bytes: int | None = None) -> Worker:
        """Starts a worker at addresses made of its name."""
        settings = WorkerSettings(name, f"memory://{name}:1", f"memory://{name}:2", memory_bytes)
        worker = Worker(settings, InProcessNetwork(self.exchange, name), engine or OnnxRuntimeEngine())
        thread = threading.Thread(target=worker.run, name=f"worker-{name}")
        thread.start()
        self.workers[name], self.threads[name] = worker, thread
        return worker

    def stop(self, name: str) -> None:
        """Ends a worker as a crash would: its connections break."""
        self.workers.pop(name).stop()
        self.threads.pop(name).join(10)

    def addresses(self, names: Sequence[str] = DEVICES) -> list[WorkerAddress]:
        """Where workers of these names are, or would be."""
        return [WorkerAddress(name, f"memory://{name}:1", f"memory://{name}:2") for name in names]

    def coordinator(self, names: Sequence[str] = DEVICES, **options: Any) -> Coordinator:
        """A coordinator of these workers."""
        network = InProcessNetwork(self.exchange, "requester")
        self.networks.append(network)
        made = Coordinator(network, self.addresses(names), **options)
        self.coordinators.append(made)
        return made

    def close(self) -> None:
        """Ends everything."""
        for coordinator in self.coordinators:
            coordinator.close()
        for name in tuple(self.workers):
            self.stop(name)
        for network in self.networks:
            network.close()


def taking_over(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
    """Lets whoever says hello take the worker from its holder (for `Exchange.tamper`)."""
    try:
        message = m.decode_to_worker(parts[0])
    except ProtocolError:
        return [parts]
    if isinstance(message, m.Hello):
        return [[m.encode(msgspec.structs.replace(message, take_over=True))]]
    return [parts]


@pytest.fixture
def cell() -> Iterator[Cell]:
    made = Cell()
    yield made
    made.close()
