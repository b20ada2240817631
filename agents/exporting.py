"""Writes the actor of an agent as an ONNX file, which runs without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distredge.agents.exported import FORMAT, INPUT, OUTPUT
from distredge.envs.split_rows import SplitRowsEnv
from distredge.errors import FileError
from distredge.strategy import ModelRef

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from distredge.envs.volumes import VolumesEnv

_OPSET = 17


def save_onnx(agent: BaseAlgorithm, env: VolumesEnv, path: str | Path) -> None:
    """Writes what an agent does without exploration: (N, n_features) float32 observations to (N, n_values) actions.

    The file's metadata say for which environment, model, partition scheme and input it was trained.

    Args:
        agent: of any algorithm that `train-agent` knows.
        env: that it was trained in.
        path: of the file.

    Raises:
        FileError: if it cannot be written.
    """
    nodes: list[Any] = []
    constants: list[Any] = []
    at = INPUT
    for layer in _layers(agent):
        at = _add(layer, at, nodes, constants)
    nodes[-1].output[0] = OUTPUT
    n_features, n_values = env.observation_space.shape[0], env.action_space.shape[0]  # type: ignore[index]
    graph = helper.make_graph(
        nodes,
        "agent",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", n_features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", n_values])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="distredge")
    model.ir_version = 8  # what ONNX Runtime 1.17 reads
    reference = ModelRef.of(env.graph)
    about = {
        "format": FORMAT,
        "environment": env.signature.to_json(),
        "model": {"name": reference.name, "topology": reference.topology},
        "partition": list(env.partition) if isinstance(env, SplitRowsEnv) else None,
        "observe": {"cluster": env.observe_cluster, "rows": env.observe_rows, "model": env.observe_model},
        "input_dtype": env.input_dtype,
    }
    helper.set_model_props(model, {"distredge": json.dumps(about)})
    onnx.checker.check_model(model)
    try:
        Path(path).write_bytes(model.SerializeToString())
    except OSError as error:
        raise FileError(f"{path}: cannot write the agent: {error.strerror or error}") from error


def _layers(agent: Any) -> list[Any]:
    """The actor's layers, one after the other, and the name of what follows the last one."""
    policy = agent.policy
    if hasattr(policy, "action_net"):  # PPO: its mean action, cut off at the bounds
        return [*policy.mlp_extractor.policy_net, policy.action_net, "Clip"]
    actor = policy.actor
    if hasattr(actor, "latent_pi"):  # SAC, TQC, CrossQ: the mean of the squashed Gaussian
        return [*actor.latent_pi, actor.mu, "Tanh"]
    return list(actor.mu)


def _add(layer: Any, at: str, nodes: list[Any], constants: list[Any]) -> str:
    """Adds a layer that reads the value `at`; returns what it makes."""
    kind = layer if isinstance(layer, str) else type(layer).__name__
    made = f"v{len(nodes)}"

    def constant(name: str, value: Any) -> str:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, np.float32)
        constants.append(numpy_helper.from_array(array, f"{made}_{name}"))
        return f"{made}_{name}"

    if kind == "Linear":
        inputs = [at, constant("weight", layer.weight), constant("bias", layer.bias)]
        nodes.append(helper.make_node("Gemm", inputs, [made], transB=1))
    elif kind in ("ReLU", "Tanh"):
        nodes.append(helper.make_node({"ReLU": "Relu", "Tanh": "Tanh"}[kind], [at], [made]))
    elif kind == "Clip":
        nodes.append(helper.make_node("Clip", [at, constant("low", -1.0), constant("high", 1.0)], [made]))
    elif kind == "BatchRenorm1d":
        # Outside training it is a scale and a shift.
        scale = layer.scale / (layer.ra_var + layer.eps).sqrt()
        nodes.append(helper.make_node("Mul", [at, constant("scale", scale)], [f"{made}_scaled"]))
        shift = layer.bias - layer.ra_mean * scale
        nodes.append(helper.make_node("Add", [f"{made}_scaled", constant("shift", shift)], [made]))
    elif kind == "Flatten":
        return at
    else:
        raise TypeError(f"no ONNX form of the layer {kind}")
    return made
