"""Capture tries the captured graph against the model as given, remembers it, and refuses what differs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.errors import ModelError
from distredge.model import capture, original
from distredge.model.capture import from_onnx, load_model
from distredge.model.draft import Draft
from distredge.model.graph import Graph


def _proto(opset: int = 13, last: str = "Relu", image: tuple[int | str, ...] = (1, 3, 12, 10)) -> onnx.ModelProto:
    draws = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("LeakyRelu", ["a"], ["b"], name="second", alpha=0.1),
        helper.make_node("Conv", ["b", "v"], ["c"], name="third", pads=[1] * 4),
        helper.make_node(last, ["c"], ["y"], name="fourth"),
    ]
    weights = {"w": draws.standard_normal((8, 3, 3, 3)), "v": draws.standard_normal((4, 8, 3, 3))}
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distredge" / "captures"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what the engine is given, in order."""
    found: list[str] = []
    real = original._run

    def noted(model: onnx.ModelProto, *args, **kwargs):
        found.append(model.graph.name)
        return real(model, *args, **kwargs)

    monkeypatch.setattr(original, "_run", noted)
    return found


def _spoilt(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Draft], None]) -> None:
    """Capture makes a mistake in its last step."""
    right = capture.canonicalise

    def wrong(draft: Draft) -> None:
        right(draft)
        spoil(draft)

    monkeypatch.setattr(capture, "canonicalise", wrong)


def _alpha(draft: Draft) -> None:
    node = next(node for node in draft.nodes if node.op_type == "LeakyRelu")
    node.attribute[0].f = 0.3


def test_what_differs_is_refused_by_the_name_of_the_first_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_onnx(_proto()).check.apart <= 1e-6
    _spoilt(monkeypatch, _alpha)
    with pytest.raises(ModelError, match=r"node 'second' \(LeakyRelu\): the captured graph is not the model"):
        from_onnx(_proto())


def test_a_small_difference_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nudge(draft: Draft) -> None:
        draft.constants = {n: a * np.float32(1 + 1e-6) for n, a in draft.constants.items()}

    _spoilt(monkeypatch, nudge)
    assert 0 < from_onnx(_proto()).check.apart <= 1e-5


def test_a_shape_that_the_engine_does_not_make_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Draft.finish

    def wrong(draft: Draft, *args) -> Graph:
        draft.types["b"].tensor_type.shape.dim[2].dim_value += 1
        return right(draft, *args)

    monkeypatch.setattr(Draft, "finish", wrong)
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_: None)
    words = r"'second' \(LeakyRelu\).*'b' the shape \(1, 8, 13, 10\), ONNX Runtime makes \(1, 8, 12, 10\)"
    with pytest.raises(ModelError, match=words):
        from_onnx(_proto())


def test_a_file_is_tried_once(cache: Path, tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_proto(image=("n", 3, "h", "w")), path)
    first = load_model(path, (1, 3, 12, 10))
    assert len(runs) == 2
    assert len(list(cache.iterdir())) == 1
    again = load_model(path, (1, 3, 12, 10))
    assert len(runs) == 2
    assert again.check == first.check
    load_model(path, (1, 3, 9, 9))
    assert len(runs) == 4
    for entry in cache.iterdir():
        entry.write_text("no json")
    load_model(path, (1, 3, 12, 10))
    assert len(runs) == 6
    # What capture makes is part of what was tried: a new mistake is noticed.
    _spoilt(monkeypatch, _alpha)
    with pytest.raises(ModelError, match="'second'"):
        load_model(path, (1, 3, 12, 10))


def test_weights_beside_the_file_count(cache: Path, tmp_path: Path, runs: list[str]) -> None:
    path = tmp_path / "m.onnx"
    model = _proto()
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    load_model(path)
    data = bytearray((tmp_path / "weights").read_bytes())
    data[3] ^= 1
    (tmp_path / "weights").write_bytes(data)
    load_model(path)
    assert len(runs) == 4


def test_nothing_writable_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[str]) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    onnx.save(_proto(), tmp_path / "m.onnx")
    for count in (2, 4):
        assert load_model(tmp_path / "m.onnx").check.apart <= 1e-6
        assert len(runs) == count


def test_without_onnxruntime_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert str(from_onnx(_proto()).check) == "not checked against the model as given: onnxruntime is not installed"


def test_a_model_of_the_zoo_is_not_tried(runs: list[str]) -> None:
    assert load_model("mobilenet-v1-0.25-128").check is None
    assert runs == []


def test_what_follows_the_outputs_may_be_anything() -> None:
    model = _proto(last="NonZero")
    graph = from_onnx(model, outputs=["c"])
    assert graph.check is not None
    assert graph.check.apart is not None


def test_an_input_that_is_no_place_is_said() -> None:
    """Where the model as given fails on the seeded input, nothing can be compared."""
    model = _proto()
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, (2,)))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-7], np.int64), "shift"))
    model.graph.node.append(helper.make_node("Add", ["i", "shift"], ["j"], name="fifth"))
    model.graph.node.append(helper.make_node("Gather", ["y", "j"], ["z"], name="sixth", axis=1))
    model.graph.output[0].name = "z"
    check = from_onnx(model).check
    assert check is not None
    assert check.apart is None
    assert "does not run the model as it was given" in str(check)


def test_differences() -> None:
    wanted = {"a": np.array([1.0, -4.0, np.nan, np.inf]), "b": np.array([3, 1, 2])}
    assert original.difference(wanted, wanted) == 0
    assert original.difference(wanted, wanted | {"a": np.array([1.0, -3.0, np.nan, np.inf])}) == 0.25
    for wrong in ([1.0, -4.0, 0.0, np.inf], [1.0, -4.0, np.nan, -np.inf], [1.0, np.nan, np.nan, np.inf]):
        assert original.difference(wanted, wanted | {"a": np.array(wrong)}) == np.inf
    assert original.difference(wanted, wanted | {"b": np.array([3, 1, 1])}) > original.TOLERANCE
    many = np.zeros(4096, np.int64)
    few = many.copy()
    few[7] = 5
    assert original.difference({"b": many}, {"b": few}) <= original.TOLERANCE
    assert original.difference(wanted, {"a": wanted["a"]}) == np.inf
    assert original.difference(wanted, wanted | {"b": np.array([3, 1])}) == np.inf
