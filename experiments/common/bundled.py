"""The nine CNN graphs that the onnx package carries, with weights that show a wrong halo.

Every weight in those files is filled with the constant 0.02, so that any rows give the right answer. Here weights are
seeded He-normal, biases small, and batch normalisations have variances about 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

NAMES = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip

FILLERS = ("ConstantOfShape",)


def bundled(name: str, seed: int = 0) -> onnx.ModelProto:
    """Returns a graph of the onnx package with refilled weights.

    Args:
        name: one of NAMES.
        seed: of the weights.
    """
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    shapes = {
        t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64
    }
    filled = {n.output[0]: tuple(shapes[n.input[0]]) for n in model.graph.node if n.op_type in FILLERS}
    kept = [n for n in model.graph.node if n.op_type not in FILLERS]
    roles = _roles(kept)
    draws = np.random.default_rng(seed)
    used = {t for node in kept for t in node.input}
    initializers = [t for t in model.graph.initializer if t.name in used]
    for tensor, shape in filled.items():
        if tensor in used:
            initializers.append(numpy_helper.from_array(_weight(draws, roles[tensor], shape), tensor))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(initializers)
    inputs = [v for v in model.graph.input if v.name in used]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = 8
    return model


def _roles(nodes: list[onnx.NodeProto]) -> dict[str, tuple[str, int]]:
    # Operator and place of the first node that reads each tensor; what only passes through Unsqueeze counts as the
    # reader's behind it.
    roles: dict[str, tuple[str, int]] = {}
    for node in nodes:
        for place, tensor in enumerate(node.input):
            roles.setdefault(tensor, (node.op_type, place))
    return roles


def _weight(draws: np.random.Generator, role: tuple[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    kind, place = role
    noise = draws.standard_normal(shape, dtype=np.float32)
    if kind in ("Conv", "Gemm", "MatMul") and place == 1:
        fan_in = int(np.prod(shape[1:])) if kind != "MatMul" else shape[0]
        return noise * np.float32(np.sqrt(2 / fan_in))
    if kind == "BatchNormalization" and place in (1, 4):
        positive: NDArray[np.float32] = np.exp(noise * np.float32(0.1))
        return positive
    if kind in ("Mul", "Unsqueeze"):
        return 1 + noise * np.float32(0.1)
    return noise * np.float32(0.1)
