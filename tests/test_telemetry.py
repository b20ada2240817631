"""What runs models here tells nobody of it, though ONNX Runtime's official builds would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_RUN = """
from distredge.runtime.engine import OnnxRuntimeEngine
from onnx import TensorProto, helper
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", ports[:1], ports[1:])
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
OnnxRuntimeEngine().load(model.SerializeToString(), {})
"""


def test_onnx_runtime_tells_nobody(tmp_path: Path) -> None:
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | own
    subprocess.run([sys.executable, "-c", _RUN], env=env, check=True)
    assert list(tmp_path.rglob("*")) == [], "no identifier of this machine, and nothing that waits to be sent"


def test_the_user_may_want_it() -> None:
    code = "import distredge, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout == "0\n"
