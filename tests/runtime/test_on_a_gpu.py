"""Where a GPU is at hand: a split model computed on it gives the whole model's output, TF32 off."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.errors import ConfigError
from distredge.model.capture import load_model
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.in_process import InProcess
from tests.runtime.conftest import make_strategy

MODELS = ("squeezenet", "resnet50", "mobilenet-v2", "yolov2")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_split_rows_on_a_gpu(provider: str, model: str) -> None:
    try:
        engine = OnnxRuntimeEngine(provider=provider)
    except ConfigError as error:
        pytest.skip(f"no GPU for {provider}: {error}")
    graph = load_model(model)
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    rng = np.random.default_rng(3)
    inputs = {n: rng.standard_normal(graph.tensors[n].shape, np.float32) for n in graph.input_names}
    whole = InProcess(deploy(graph, make_strategy(graph, [(1,)], head="alpha"))).infer(inputs)
    found = InProcess(deploy(graph, strategy), engine).infer(inputs)
    for name, expected in whole.items():
        assert np.abs(found[name] - expected).max() <= 1e-5 * np.abs(expected).max()
