"""What TensorRT and CUDA are told, by a runtime that says it has them: no engine is ever another sub-model's."""

from __future__ import annotations

import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from distredge.errors import ConfigError
from distredge.model.capture import load_model
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.engines import EngineSettings
from distredge.runtime.engine import OnnxRuntimeEngine, built_s
from distredge.runtime.engine_folders import EngineFolders
from distredge.runtime.old_python_engine import OldPythonEngine
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.runtime.provider_options import CPU, CUDA, PROBE, TENSORRT


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, dict[str, str]]]:
    """The options with which sessions were made, by a runtime that says that it has every provider."""
    made: list[dict[str, dict[str, str]]] = []

    def session(model: bytes, options: Any, providers: list[Any]) -> Any:
        loaded = onnxruntime.InferenceSession(model, options, providers=[CPU])
        if model != PROBE:
            made.append(dict(providers))
        loaded.get_providers = lambda: [name for name, _ in providers]
        return loaded

    double = types.ModuleType("onnxruntime")
    double.__dict__.update(vars(onnxruntime))
    double.get_available_providers = lambda: [TENSORRT, CUDA, CPU]
    double.InferenceSession = session
    monkeypatch.setitem(sys.modules, "onnxruntime", double)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return made


def _model(rows: int) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, rows)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "segment", ports[:1], ports[1:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def test_tensorrt_keeps_what_it_has_built_for_this_sub_model_alone(asked, tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine(provider="tensorrt", folders=EngineFolders(tmp_path / "engines", 10**9))
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    for rows in (4, 5, 4):
        engine.load(_model(rows), {})
    four, five, again = (options[TENSORRT]["trt_engine_cache_path"] for options in asked)
    assert four == again
    assert four != five
    assert all(Path(folder).parent == tmp_path / "engines" and Path(folder).is_dir() for folder in (four, five))
    assert Path(four).stat().st_mode & 0o777 == 0o700
    for options in asked:
        assert options[TENSORRT]["trt_engine_cache_enable"] == options[TENSORRT]["trt_timing_cache_enable"] == "True"
        assert options[TENSORRT]["trt_timing_cache_path"] == str(tmp_path / "engines")
        assert options[CUDA] == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
        assert options[CPU] == {}


def test_without_a_folder_nothing_is_kept(asked) -> None:
    loaded = OnnxRuntimeEngine(provider="tensorrt").load(_model(4), {})
    assert asked[0][TENSORRT] == {}
    assert built_s(loaded, 2.0) == 2.0
    assert built_s(loaded, 1.0) == 1.0


def test_what_was_built_is_remembered_with_its_seconds(asked, tmp_path: Path) -> None:
    """Loaded from the disk it takes less, but other rows would have to be built."""
    folders = EngineFolders(tmp_path / "engines", 10**9)
    for took_s, expected_s in ((90.0, 90.0), (0.5, 90.0), (100.0, 100.0), (0.5, 100.0)):
        assert (
            built_s(OnnxRuntimeEngine(provider="tensorrt", folders=folders).load(_model(4), {}), took_s) == expected_s
        )
    assert built_s(OnnxRuntimeEngine(provider="tensorrt", folders=folders).load(_model(5), {}), 0.5) == 0.5


@pytest.mark.parametrize("noted", [b"", b"nan", b"inf", b"-5", b"\xff\xff", b"many"])
def test_seconds_that_cannot_be_read_are_noted_anew(tmp_path: Path, noted: bytes) -> None:
    (tmp_path / "seconds").write_bytes(noted)
    assert EngineFolders.built_s(tmp_path, 3.0) == 3.0
    assert EngineFolders.built_s(tmp_path, 1.0) == 3.0


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert EngineFolders.built_s(tmp_path / "gone", 3.0) == 3.0


def test_other_weights_are_another_sub_model(tmp_path: Path) -> None:
    folders, value = EngineFolders(tmp_path, 10**9), np.ones((2, 3), np.float32)
    found = [
        folders.of(model, {"w": weights})
        for model, weights in [(b"m", value), (b"m", 2 * value), (b"n", value), (b"m", value.reshape(3, 2))]
    ]
    assert len(set(found)) == 4
    assert folders.of(b"m", {"w": value.copy()}) == found[0]


def test_engines_used_least_recently_go_first(tmp_path: Path) -> None:
    folders = EngineFolders(tmp_path, 250)
    made = [folders.of(bytes([number]), {}) for number in range(3)]
    for number, folder in enumerate(made):
        (folder / "x.engine").write_bytes(bytes(100))
        os.utime(folder, (time.time() - 100 + number,) * 2)
    (tmp_path / "timing.cache").write_bytes(bytes(1000))
    assert folders.of(b"\0", {}) == made[0], "used again"
    folders.of(b"another", {})
    assert [folder.exists() for folder in made] == [True, False, True]
    assert (tmp_path / "timing.cache").exists()


def test_no_place_for_engines_is_no_error(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    assert EngineFolders(tmp_path / "file" / "engines", 100).of(b"m", {}) is None
    assert "engines are built each time: Not a directory" in caplog.text


_RUNTIME = """
import json, os
from onnxruntime import *
from onnxruntime import InferenceSession as _Session, __version__

def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

class InferenceSession(_Session):
    def __init__(self, path, options, providers):
        with open(os.environ["ASKED"], "a") as file:
            file.write(json.dumps([providers, os.environ["NVIDIA_TF32_OVERRIDE"]]) + "\\n")
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return os.environ["USABLE"].split()
"""


_MEETING = """
import json, os
import onnxruntime as real
from onnxruntime import *
from onnxruntime import __version__

def get_available_providers():
    return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

class InferenceSession:
    def __init__(self, path, options, providers):
        self._inner = real.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def get_providers(self):
        return os.environ["USABLE"].split()

    def run(self, names, feeds):
        with open(os.environ["ASKED"], "a") as file:
            file.write(json.dumps({name: value.shape for name, value in feeds.items()}) + "\\n")
        return self._inner.run(names, feeds)
"""


def _old_runtime(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a module in ONNX Runtime's place for engines under another Python; returns the file that it writes."""
    host = tmp_path / "engine_host.py"
    real = Path(__file__).resolve().parents[2] / "distredge" / "runtime" / "engine_host.py"
    (tmp_path / "old_runtime.py").write_text(source)
    text = real.read_text(encoding="utf-8").replace("import onnxruntime\n", "import old_runtime as onnxruntime\n")
    host.write_text(text.replace("    del sys.path[0]\n", ""))
    monkeypatch.setattr("distredge.runtime.engine_process._HOST", host)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.jsonl"))
    monkeypatch.setenv("USABLE", f"{TENSORRT} {CUDA} {CPU}")
    return tmp_path / "asked.jsonl"


def test_an_old_runtime_meets_all_shapes_when_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no profiles: TensorRT then builds one engine for the shapes that it has met, here the first and last."""
    asked = _old_runtime(_MEETING, tmp_path, monkeypatch)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, f"rows of {name}")) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "segment", ports[:1], ports[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    engine = OldPythonEngine(sys.executable, provider="tensorrt", folders=EngineFolders(tmp_path / "engines", 10**9))
    try:
        loaded = engine.load(model, {}, {"x": ShapeRange((1, 3), (1, 5), (1, 9))})
        outputs = {"y": np.ones((1, 4), np.float32)}
        loaded.bind({"x": np.full((1, 4), -1, np.float32)}, outputs, 0)()
        engine.load(_model(4), {})
    finally:
        engine.close()
    assert outputs["y"].tolist() == [[0, 0, 0, 0]]
    assert [json.loads(line) for line in asked.read_text().splitlines()] == [{"x": [1, 3]}, {"x": [1, 9]}]


@pytest.fixture
def asked_of_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sessions under another Python are noted, by a runtime that says that it has every provider."""
    asked = _old_runtime(_RUNTIME, tmp_path, monkeypatch)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return asked


def test_an_old_runtime_is_told_what_it_knows(asked_of_old: Path, tmp_path: Path) -> None:
    engine = OldPythonEngine(sys.executable, provider="tensorrt", folders=EngineFolders(tmp_path / "engines", 10**9))
    try:
        assert engine.providers == (TENSORRT, CUDA, CPU)
        engine.load(_model(4), {})
    finally:
        engine.close()
    probe, line = asked_of_old.read_text().splitlines()
    providers, override = json.loads(line)
    options = dict(providers)
    assert override == "0"
    assert set(options[TENSORRT]) == {"trt_engine_cache_enable", "trt_engine_cache_path"}
    assert options[CUDA] == {"cudnn_conv_algo_search": "HEURISTIC"}
    assert json.loads(probe)[0][1:] == providers[1:]


def test_a_gpu_that_is_not_there_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch, asked) -> None:
    with_gpu = sys.modules["onnxruntime"].InferenceSession

    def without(model: bytes, options: Any, providers: list[Any]) -> Any:
        made = with_gpu(model, options, providers)
        made.get_providers = lambda: [CPU]
        return made

    monkeypatch.setattr(sys.modules["onnxruntime"], "InferenceSession", without)
    for provider, name in (("cuda", CUDA), ("tensorrt", TENSORRT)):
        with pytest.raises(ConfigError, match=f"cannot use {name} here and would compute with {CPU}"):
            OnnxRuntimeEngine(provider=provider)
    assert OnnxRuntimeEngine().providers == (CPU,)


def test_nor_under_an_old_python(asked_of_old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USABLE", CPU)
    with pytest.raises(ConfigError, match=f"cannot use {CUDA} here and would compute with {CPU}"):
        OldPythonEngine(sys.executable, provider="cuda")


def test_the_probe_is_a_model() -> None:
    found = onnx.load_from_string(PROBE)
    onnx.checker.check_model(found)
    assert [node.op_type for node in found.graph.node] == ["Relu"]


def test_a_profile_is_measured_with_a_workers_options(asked) -> None:
    graph = load_model("squeezenet1.1", (1, 3, 48, 48), width=0.25)
    bench = Bench(graph, EngineSettings(OnnxRuntimeEngine(provider="cuda")))
    sample = bench.run(bench.segment(bench.operator_part(0, 4)), Effort(1, 1))
    assert sample.kernels == 0, "whole runs are timed"
    assert len(asked) > 1
    assert all(options[CUDA] == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"} for options in asked)
    runtime = bench.settings.runtime()
    assert (runtime.provider, runtime.version) == (CUDA, onnxruntime.__version__)
