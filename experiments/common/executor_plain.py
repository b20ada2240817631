"""The models that the executor's benchmark runs, and ONNX Runtime alone with one of them, in a process of its own."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import onnx

from distredge.experiments.common.exact import without_weights
from distredge.model.capture import from_onnx, load_model
from distredge.model.graph import Graph
from distredge.runtime.buffers import allocate
from distredge.runtime.engine import OnnxRuntimeEngine


@dataclass(frozen=True)
class Case:
    """A model that is measured.

    Attributes:
        model: name in the zoo.
        end: tensor at which it ends; "" for its own outputs.
        before_head: tensor at which what is split ends, where the head is a good part of the model; "" elsewhere.
    """

    model: str
    end: str = ""
    before_head: str = ""


CASES = {
    "vgg16_conv": Case("vgg16", "pool5"),
    "vgg16": Case("vgg16", before_head="pool5"),
    "resnet50": Case("resnet50"),
    "mobilenet_v2": Case("mobilenet-v2"),
}


@functools.cache
def model(name: str, end: str = "") -> Graph:
    """Returns a model of the zoo with seeded weights, or its beginning.

    Args:
        name: in the zoo.
        end: tensor that is the output instead of the model's own; "" for these.
    """
    graph = load_model(name)
    return beginning(graph, end) if end else graph


def beginning(graph: Graph, end: str) -> Graph:
    """Returns what a model computes up to a tensor, without the constants of the rest."""
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(graph.skeleton)
    wanted, nodes = {end}, []
    for node in reversed(skeleton.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    constants = [onnx.numpy_helper.from_array(graph.weight(name), name) for name in graph.constants if name in wanted]
    tensor = graph.tensors[end]
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    output = onnx.helper.make_tensor_value_info(end, element, tensor.shape)
    name = f"{graph.name}-{end}"
    made = onnx.helper.make_graph(nodes[::-1], name, list(skeleton.graph.input), [output], constants)
    opsets = list(skeleton.opset_import)
    return from_onnx(onnx.helper.make_model(made, opset_imports=opsets, ir_version=skeleton.ir_version))


def plain_model(pipe: Connection, name: str, end: str) -> None:
    """Runs a whole model with one thread; asked for a number of frames, answers their seconds.

    Args:
        pipe: to the parent.
        name: in the zoo.
        end: tensor at which it ends; "" for its own outputs.
    """
    graph = model(name, end)
    large = [tensor for tensor, array in graph.constants.items() if array.nbytes > 1024]
    engine = OnnxRuntimeEngine()
    loaded = engine.load(without_weights(graph, frozenset(large)), {tensor: graph.weight(tensor) for tensor in large})
    ports = [
        {tensor: allocate(graph.tensors[tensor].shape, graph.tensors[tensor].dtype) for tensor in names}
        for names in (graph.input_names, graph.output_names)
    ]
    rng = np.random.default_rng(0)
    for array in ports[0].values():
        array[...] = rng.standard_normal(array.shape)
    run = loaded.bind(ports[0], ports[1], 0)
    run()
    pipe.send("ready")
    while True:
        seconds = []
        for _ in range(pipe.recv()):
            began_s = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began_s)
        pipe.send(seconds)
