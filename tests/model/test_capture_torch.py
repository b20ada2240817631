"""Taking in torch modules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from distredge.errors import MissingDependency, ModelError
from distredge.model.capture import from_torch, load_model
from distredge.model.graph import Graph

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn, functional = torch.nn, torch.nn.functional


class Mixed(nn.Module):  # type: ignore[misc, name-defined]
    """Residual, transposed convolution, resize, padding, activations, squeeze-and-excite, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.up_norm = nn.BatchNorm2d(6)
        self.excite = nn.Conv2d(6, 6, 1)
        self.groups = nn.GroupNorm(2, 6)
        self.last = nn.Linear(6, 5)
        for part in (self.norm, self.up_norm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.silu(x + self.drop(self.second(x)))
        x = self.up_norm(self.up(x))
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = x * torch.sigmoid(self.excite(x.mean((2, 3), keepdim=True)))
        y = functional.gelu(functional.pad(x, (1, 2, 3, 0)))
        y = functional.hardswish(self.groups(y))
        first, second = y.chunk(2, 1)
        y = functional.max_pool2d(torch.cat([second, first], 1), 3, 2, ceil_mode=True)
        return functional.softmax(self.last(functional.adaptive_avg_pool2d(y, 1).flatten(1)), 1), y


def _run(graph: Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(graph.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(out) for out in session.run(None, dict(zip(graph.input_names, inputs, strict=True)))]


def _check(module: Any, graph: Graph, *inputs: Any) -> None:
    module.eval()
    with torch.no_grad():
        expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = _run(graph, *(i.numpy() for i in inputs))
    for right, got in zip(expected, found, strict=True):
        assert np.abs(got - right.numpy()).max() <= 1e-5 * float(right.abs().max())


def test_a_module_becomes_a_graph_that_computes_the_same() -> None:
    torch.manual_seed(0)
    module = Mixed()
    module.norm.eval()
    image = torch.randn(1, 3, 33, 47)
    graph = from_torch(module, image)
    assert graph.name == "mixed"
    assert graph.input_shapes == ((1, 3, 33, 47),)
    assert (module.training, module.norm.training, module.drop.training) == (True, False, True)
    kinds = [op.op_type for op in graph.operators]
    assert not {"BatchNormalization", "Dropout", "Identity", "Constant", "Shape"} & set(kinds)
    assert graph.proto.ir_version == 8
    assert graph.opset <= 17
    _check(module, graph, image)


def test_several_inputs() -> None:
    class Two(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any) -> Any:
            return functional.avg_pool2d(x, 2) + y

    inputs = (torch.randn(1, 2, 8, 8), torch.randn(1, 2, 4, 4))
    graph = from_torch(Two(), inputs, name="two")
    assert graph.input_shapes == ((1, 2, 8, 8), (1, 2, 4, 4))
    _check(Two(), graph, *inputs)


def test_bad_modules_are_named() -> None:
    with pytest.raises(ModelError, match="batch 8"):
        from_torch(nn.Conv2d(3, 4, 3), torch.randn(8, 3, 9, 9))
    with pytest.raises(ModelError, match=r"conv2d: torch\.onnx\.export cannot export"):
        from_torch(nn.Conv2d(3, 4, 3), torch.randn(1, 5, 9, 9))
    with pytest.raises(ModelError, match="recurrent network"):
        from_torch(nn.LSTM(6, 4), torch.randn(1, 1, 6))


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_models.py").write_text(
        "import torch\n"
        "def small():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())\n"
        "def with_example():\n"
        "    module = small()\n"
        "    module.example = torch.zeros(1, 3, 10, 12)\n"
        "    return module\n"
        "ready = small()\n"
        "number = 3\n"
        "def wrong():\n"
        "    return 3\n"
        "def broken():\n"
        "    raise RuntimeError('no luck')\n"
    )
    (tmp_path / "half_module.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_models", None)


@pytest.mark.usefixtures("own_models")
def test_a_callable_of_the_users_own_module() -> None:
    graph = load_model("own_models:small", input_shape=(1, 3, 9, 7), seed=5)
    assert graph.name == "small"
    assert graph.output_shapes == ((1, 4, 7, 5),)
    again, other = (load_model("own_models:small", input_shape=(1, 3, 9, 7), seed=s) for s in (5, 6))
    assert graph.weights_digest == again.weights_digest != other.weights_digest
    assert load_model("own_models:with_example").input_shapes == ((1, 3, 10, 12),)
    assert load_model("own_models:ready", input_shape=(1, 3, 9, 7)).input_shapes == ((1, 3, 9, 7),)
    assert "" not in sys.path or sys.path.count("") == 1


def test_weights_of_a_file_go_into_the_module(own_models: Path) -> None:
    state = {"0.weight": torch.full((4, 3, 3, 3), 0.5), "0.bias": torch.full((4,), 0.25)}
    torch.save(state, own_models / "w.pth")
    graph = load_model("own_models:small", input_shape=(1, 3, 9, 7), weights=own_models / "w.pth")
    out = _run(graph, np.ones((1, 3, 9, 7), np.float32))[0]
    np.testing.assert_allclose(out, 0.5 * 27 + 0.25)
    torch.save({"0.weight": state["0.weight"]}, own_models / "part.pth")
    with pytest.raises(ModelError, match=r"part\.pth: does not fit.*0\.bias"):
        load_model("own_models:small", input_shape=(1, 3, 9, 7), weights=own_models / "part.pth")


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("own_models:small", "--input-shape"),
        ("own_models:absent", "absent"),
        ("own_models:number", "found 'int'"),
        ("own_models:wrong", "torch.nn.Module"),
        ("own_models:broken", "RuntimeError: no luck"),
        ("no_such_module:thing", "cannot import 'no_such_module'"),
        ("half_module:thing", "nothing_of_that_name"),
        (":thing", "model ':thing'"),
        ("own_models:", "model 'own_models:'"),
    ],
)
def test_what_is_wrong_with_a_callable_is_named(what: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(what)


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module, example = nn.ReLU(), torch.zeros(1, 3, 4, 4)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependency, match=r"onnxscript .*distredge\[train\]"):
        from_torch(module, example)
