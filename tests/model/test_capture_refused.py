"""What cannot be taken in is refused with an error that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from distredge.errors import FileError, ModelError, UnsupportedModel
from distredge.model.capture import from_onnx, load_model


def _model(body: str, result: str = "y", inputs: str = "float[1,3,8,8] x", opset: int = 17) -> onnx.ModelProto:
    """A model in ONNX's text form; constants are written as `<type[shape] name = {values}>` after the result."""
    result, _, constants = result.partition(" ")
    text = f"""
    <ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
    small ({inputs}) => (float[] {result}) {constants} {{ {body} }}
    """
    model = onnx.parser.parse_model(text)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


ONES = "<float[3] a = {1, 1, 1}, float[3] b = {1, 1, 1}, float[3] c = {1, 1, 1}, float[3] d = {1, 1, 1}>"
SCALE = "<float[1] s = {0.1}, int8[1] z = {0}>"
PAIR = "<float[3] a = {1, 1, 1}, float[3] b = {2, 2, 2}>"

REFUSED = {
    "recurrent": (
        _model("q, y = LSTM <hidden_size = 4> (x, w, r)", inputs="float[5,1,6] x, float[1,16,6] w, float[1,16,4] r"),
        UnsupportedModel, r"recurrent network \(LSTM x1\)",
    ),
    "dynamically quantised": (
        _model("q, y, z = DynamicQuantizeLinear(x)"),
        UnsupportedModel, r"quantised graph \(DynamicQuantizeLinear x1\); give the float32",
    ),
    "fake quantised": (
        _model("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", f"y {SCALE}", opset=13),
        UnsupportedModel, r"'q' \(QuantizeLinear\): a quantised graph",
    ),
    "foreign operator": (
        _model("y = com.microsoft.FusedGemm(x)"),
        UnsupportedModel, r"'y' \(FusedGemm\): found the operator domain 'com.microsoft'",
    ),
    "no rows": (_model("y = Relu(x)", inputs="float[1,10] x"), UnsupportedModel, "'x' of rank 2"),
    "no input": (_model("y = Relu(a)", f"y {ONES}", inputs=""), UnsupportedModel, "no input"),
    "random": (_model("r = RandomNormal <shape = [1, 3, 8, 8]> () y = Gather(x, r)"), ModelError, "Gather"),
    "unknown operator": (_model("y = Convolute(x)"), ModelError, r"'y' \(Convolute\): no such operator"),
    "missing tensor": (_model("y = Add(x, nowhere)"), ModelError, r"'y' \(Add\) reads 'nowhere'"),
    "made twice": (_model("y = Relu(x) y = Tanh(x)"), ModelError, r"'y' \(Tanh\): another node makes 'y' too"),
    "circle": (_model("a = Add(x, y) y = Relu(a)"), ModelError, "depends on its own output"),
    "training": (
        _model("y, m, v = BatchNormalization <training_mode = 1> (x, a, b, c, d)", f"y {ONES}"),
        UnsupportedModel, r"'y' \(BatchNormalization\) is in training mode",
    ),
    "training dropout": (
        _model("y = Dropout(x, r, t)", "y <float r = {0.5}, bool t = {1}>"),
        UnsupportedModel, r"'y' \(Dropout\) is in training mode",
    ),
    "constant output": (_model("y = Add(a, b)", f"y {PAIR}"), ModelError, "output 'y' is a constant"),
    "wrong channels": (
        _model("y = Conv(x, w)", "y <float[1,2,1,1] w = {1, 1}>"),
        ModelError, r"'y' \(Conv\): its input has 3 channels, its weight is for 2 .*'x' \(1, 3, 8, 8\)",
    ),
    "wrong shapes": (_model("y = Add(x, a)", "y <float[2] a = {1, 1}>"), ModelError, r"'y' \(Add\).*ncompatible"),
    "shape of data": (_model("y = NonZero(x)"), UnsupportedModel, r"'y' \(NonZero\): the shape of its output 'y'"),
    "loop": (
        _model(
            "n = ReduceSum <keepdims = 0> (x) c = Greater(n, n) "
            "y = If (c) <then_branch = a () => (float[1,3,8,8] p) { p = Relu(x) }, "
            "else_branch = b () => (float[1,3,8,8] q) { q = Tanh(x) }>"
        ),
        UnsupportedModel, r"'y' \(If\): control flow that depends on data",
    ),
    "batch of eight": (
        _model("y = Relu(x)", inputs="float[8,3,8,8] x"), ModelError, "found batch 8 .*accepted: batch 1",
    ),
    "dynamic sizes": (
        _model("y = Relu(x)", inputs="float[N,3,H,W] x"), ModelError, r"\(H, W\); give them: --input-shape 1,3,\?,\?",
    ),
    "too old": (_model("y = Relu(x)", opset=6), ModelError, "found 6, accepted: 7 to"),
    "from the future": (_model("y = Relu(x)", opset=999), ModelError, "found 999, accepted: 7 to"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_it_is_named(kind: str) -> None:
    model, error, words = REFUSED[kind]
    with pytest.raises(error, match=words):
        from_onnx(model)


SMALL = _model(
    "c = Conv <pads = [1, 1, 1, 1]> (x, w) b = BatchNormalization(c, a, b0, c0, d) "
    "p = MaxPool <kernel_shape = [2, 2]> (b) f = Flatten(p) y = Softmax(f)",
    "y <float[3,3,1,1] w = {1,2,3,4,5,6,7,8,9}, float[3] a = {1,2,3}, float[3] b0 = {1,2,3}, "
    "float[3] c0 = {1,2,3}, float[3] d = {1,2,3}>",
)  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x08\x08\x12\x00", bytes(range(256)), b"<html>404 not found</html>"]
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(FileError, match=r"broken\.onnx"):
        load_model(tmp_path / "broken.onnx")


def test_a_truncated_file(tmp_path: Path) -> None:
    content = SMALL.SerializeToString()
    graph = len(SMALL.graph.SerializeToString())
    whole = content.index(SMALL.graph.SerializeToString()) + graph
    for size in range(1, whole + 4):  # what follows are the operator sets, the last of which no node needs
        (tmp_path / "cut.onnx").write_bytes(content[:size])
        with pytest.raises((FileError, ModelError), match="cut"):
            load_model(tmp_path / "cut.onnx")


def test_no_damage_gets_past_the_errors(tmp_path: Path) -> None:
    content = SMALL.SerializeToString()
    draws = np.random.default_rng(0)
    messages = []
    for _ in range(300):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[draws.integers(0, len(content), 2)] = draws.integers(0, 256, 2)
        (tmp_path / "damaged.onnx").write_bytes(damaged.tobytes())
        try:
            load_model(tmp_path / "damaged.onnx")
        except (FileError, ModelError) as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all("damaged" in message for message in messages)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("absent.onnx", "no such file"),
        ("folder/absent.onnx", "no such file"),
        ("vgg-16", "did you mean 'vgg16'"),
        ("nonsense", "a name of the zoo"),
    ],
)
def test_a_missing_model(what: str, words: str) -> None:
    with pytest.raises((FileError, ModelError), match=words):
        load_model(what)


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'weights' does not apply"):
        load_model(tmp_path / "m.onnx", weights="w.npz")
    with pytest.raises(ModelError, match="'width' does not apply"):
        load_model(tmp_path / "m.onnx", width=0.5)
    with pytest.raises(ModelError, match="'outputs' does not apply"):
        load_model("vgg16", outputs=["relu1_1"])


def test_outputs_that_are_not_there(tmp_path: Path) -> None:
    onnx.save(SMALL, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx", outputs=["p"]).output_shapes == ((1, 3, 9, 9),)
    with pytest.raises(ModelError, match="outputs: no tensor is called 'nothing'"):
        load_model(tmp_path / "m.onnx", outputs=["nothing"])
