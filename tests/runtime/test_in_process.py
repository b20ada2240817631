"""Split output equals whole output: on the small CNN under many strategies, and on zoo models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.errors import ModelError, StrategyError
from distredge.model import zoo
from distredge.model.preprocess import Preprocess
from distredge.model.rows import even_cuts
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import InProcess, run_in_process
from distredge.strategy import Strategy
from tests.runtime.conftest import DEVICES, make_strategy, small_cnn

TOLERANCE = 1e-5


def boundary_first(strategy: Strategy, first: Sequence[bool]) -> Strategy:
    """The strategy with boundary rows first in some volumes."""
    volumes = zip(strategy.volumes, first, strict=True)
    return strategy.replace(volumes=tuple(replace(volume, boundary_first=chosen) for volume, chosen in volumes))


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@settings(max_examples=25)
@given(data=st.data())
def test_any_strategy_gives_the_whole_models_output(graph, image, whole_model, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 3))
    ends = data.draw(st.sets(st.integers(0, len(graph.cuts) - 2), max_size=3))
    volumes = []
    for index in [*sorted(ends), len(graph.cuts) - 1]:
        height = graph.cuts[index].height
        inner = sorted(data.draw(st.lists(st.integers(0, height), min_size=count - 1, max_size=count - 1)))
        volumes.append((index, [0, *inner, height]))
    head = data.draw(st.sampled_from(DEVICES[:count]))
    strategy = Strategy.make(graph, DEVICES[:count], volumes, head=head)
    first = data.draw(st.lists(st.booleans(), min_size=len(volumes), max_size=len(volumes)))
    strategy = boundary_first(strategy, first)
    found = run_in_process(graph, strategy, image)
    assert _relative(found["scores"], whole_model(image)["scores"]) <= TOLERANCE


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet-v2"])
def test_zoo_models(name: str, strips: bool) -> None:
    graph = zoo.build(name, (1, 3, 75, 64), width=0.125)
    rng = np.random.default_rng(0)
    inputs = {graph.input_names[0]: rng.standard_normal(graph.input_shapes[0], dtype=np.float32)}
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString())
    expected = dict(zip(graph.output_names, session.run(None, inputs), strict=True))
    last = len(graph.cuts) - 1
    # Early volumes have rows between those that others wait for.
    ends = (0, 2, 5, last) if strips else (last // 3, 2 * last // 3, last)
    devices = ["a", "b", "c"] if strips else ["a", "b", "c", "d"]
    volumes = [(i, even_cuts(graph.cuts[i].height, len(devices))) for i in ends]
    strategy = Strategy.make(graph, devices, volumes, head="c")
    if strips:
        strategy = boundary_first(strategy, [True] * len(ends))
        assert any(part.after >= 0 for stage in deploy(graph, strategy).layout.stages for part in stage.parts)
    runner = InProcess(deploy(graph, strategy))
    for _ in range(2):
        found = runner.infer(inputs)
        for output, array in expected.items():
            assert _relative(found[output], array) <= TOLERANCE


def test_tiles(graph, image, whole_model) -> None:
    """Two by two tiles of rows and columns."""
    whole = Strategy.make(graph, ["a"], [(1, [0, 33]), (len(graph.cuts) - 1, [0, graph.cuts[-1].height])], head="a")
    volumes = []
    for volume in whole.volumes:
        tensor = graph.tensors[volume.reference]
        volumes.append(
            replace(volume, rows=(0, tensor.height // 3, tensor.height), columns=(0, tensor.width // 2, tensor.width))
        )
    strategy = whole.replace(devices=("a", "b", "c", "d"), volumes=tuple(volumes))
    found = run_in_process(graph, strategy, image)["scores"]
    assert _relative(found, whole_model(image)["scores"]) <= TOLERANCE


def test_half_precision_wires_are_lossy_and_close(graph, image, whole_model) -> None:
    strategy = make_strategy(graph, [(1, 1, 1), (1, 2, 1)], wire="float16")
    assert not strategy.lossless
    error = _relative(run_in_process(graph, strategy, image)["scores"], whole_model(image)["scores"])
    assert 0 < error < 1e-2


def test_uint8_pixels_give_what_normalised_pixels_give() -> None:
    from distredge.model.capture import from_onnx

    spec = Preprocess((33, 21), None, (100.0, 110.0, 120.0), (0.02, 0.03, 0.04))
    graph = from_onnx(small_cnn(), preprocess=spec)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 33, 21), dtype=np.uint8)
    as_pixels = make_strategy(graph, [(1, 2, 1), (1, 1, 1)], input_dtype="uint8")
    as_floats = make_strategy(graph, [(1, 2, 1), (1, 1, 1)])
    found = run_in_process(graph, as_pixels, {"image": pixels})["scores"]
    expected = run_in_process(graph, as_floats, {"image": spec.normalise(pixels)})["scores"]
    assert _relative(found, expected) <= TOLERANCE
    with pytest.raises(ModelError, match="found dtype float32, accepted: uint8"):
        run_in_process(graph, as_pixels, {"image": spec.normalise(pixels)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'image' of shape .* is missing"),
        ({"picture": np.zeros((1, 3, 33, 21), np.float32)}, "no input 'picture'; accepted: image"),
        ({"image": np.zeros((1, 3, 33, 20), np.float32)}, "found shape"),
        ({"image": np.zeros((1, 3, 33, 21), complex)}, "found dtype complex128"),
    ],
)
def test_wrong_inputs_are_named(graph, strategy, inputs, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        run_in_process(graph, strategy, inputs)


def test_what_this_version_cannot_run_is_refused_by_name(graph, strategy) -> None:
    first, *rest = strategy.volumes
    with pytest.raises(StrategyError, match=r"volumes\[0\].wire: found 'int8'"):
        deploy(graph, strategy.replace(volumes=(replace(first, wire="int8"), *rest)))


def test_a_strategy_for_another_model_is_refused(strategy) -> None:
    with pytest.raises(StrategyError, match="the strategy is for another model"):
        deploy(zoo.build("vgg16", (1, 3, 64, 64), width=0.125), strategy)
