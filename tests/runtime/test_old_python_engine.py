"""The engine in a process of its own computes what the ordinary one does, and its end is a named failure."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from distredge.errors import ConfigError, EngineError
from distredge.model import AS_INPUT, constant_file
from distredge.model.capture import load_model
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.measuring.bench import Effort
from distredge.profiles.measuring.board import Measuring, MeasuringPlan
from distredge.profiles.measuring.engines import EngineSettings
from distredge.runtime import engine_host, engine_process
from distredge.runtime.buffers import ALIGNMENT_BYTES, allocate
from distredge.runtime.deployment import deploy
from distredge.runtime.hosting.worker_process import START_S, WorkerProcess, local_order
from distredge.runtime.in_process import InProcess
from distredge.runtime.old_python_engine import OldPythonEngine
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.worker.loaded_plan import load_plan
from tests.runtime.conftest import make_strategy

HOST = Path(engine_host.__file__)

WHEELS = {
    "3.6": ("onnxruntime==1.10.0", "numpy==1.19.5", "flatbuffers==2.0.7", "protobuf==3.19.6"),
    "3.8": ("onnxruntime==1.11.1", "numpy==1.24.4", "flatbuffers==2.0.7", "protobuf==3.19.6"),
}
"""What JetPack 4 and 5 have, as PyPI has it for this machine."""


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[OldPythonEngine]:
    made = OldPythonEngine(sys.executable)
    yield made
    made.close()


@pytest.fixture
def engine() -> Iterator[OldPythonEngine]:
    """One that a test may break."""
    made = OldPythonEngine(sys.executable)
    yield made
    made.close()


def _model(op_type: str = "Relu", opset: int = 13, shape: tuple[int, ...] = (1, 4), **attributes: object) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op_type, ["x"], ["y"], **attributes)], "one", ports[:1], ports[1:])
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    return made.SerializeToString()


def _arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return {"x": np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32)}, {"y": np.zeros((1, 4), np.float32)}


def _apart(graph, strategy, engine, inputs, dynamic_rows: bool = False) -> float:
    """Largest difference from the ordinary engine, which has fixed shapes, of the largest magnitude."""
    deployment = deploy(graph, strategy)
    expected = InProcess(deployment).infer(inputs)
    found = InProcess(deployment, engine, dynamic_rows).infer(inputs)
    return max(float(np.abs(found[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in expected)


def test_the_host_is_python_36() -> None:
    tree = ast.parse(HOST.read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
    assert "__future__" not in imported, "annotations are from 3.7 on"


def test_it_computes_what_the_ordinary_engine_does(shared_engine, graph, strategy, image) -> None:
    assert _apart(graph, strategy, shared_engine, image) <= 1e-5


def test_constants_that_are_fed(shared_engine) -> None:
    graph = load_model("vgg16", input_shape=(1, 3, 32, 32), width=0.25)
    strategy = make_strategy(graph, [(1, 1)], head="alpha")
    assert any(n.endswith(AS_INPUT) for s in deploy(graph, strategy).programs[0].segments for n in s.weights)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    assert _apart(graph, strategy, shared_engine, {graph.input_names[0]: image}) <= 1e-5


def test_runs_read_and_write_the_arrays_in_place(shared_engine) -> None:
    inputs, outputs = _arrays()
    run = shared_engine.load(_model(), {}).bind(inputs, outputs, 0)
    for _ in range(2):
        run()
        np.testing.assert_array_equal(outputs["y"], np.maximum(inputs["x"], 0))
        inputs["x"] *= -2


def test_arrays_in_the_engines_memory_are_not_copied(engine) -> None:
    inputs, outputs = ({name: allocate((1, 4), "float32", engine.room)} for name in "xy")
    run = engine.load(_model(), {}).bind(inputs, outputs, 0)
    inputs["x"][:] = [[-1, 2, -3, 4]]
    run()
    np.testing.assert_array_equal(outputs["y"], [[0, 2, 0, 4]])
    assert inputs["x"].ctypes.data % ALIGNMENT_BYTES == 0
    large = allocate((2, 1 << 20), "float32", engine.room)
    assert engine._regions.place(large)[0] != engine._regions.place(inputs["x"])[0]
    assert engine._regions.place(large[1]) == (engine._regions.place(large)[0], 4 << 20)
    assert engine._regions.place(np.zeros(4, np.float32)) is None
    assert engine._regions.place(large.T) is None, "not C-ordered"


def test_a_plans_arrays_are_the_engines(engine, graph, strategy) -> None:
    deployment = deploy(graph, strategy)
    plan, store = deployment.device_plan(0, slots=2), deployment.weights(0)
    loaded = load_plan(plan, deployment.models(0), store, engine, {})
    arrays = [a for slot in loaded.slots for m in (slot.inputs, slot.outputs) for s in m.values() for a in s.values()]
    assert arrays
    assert all(engine._regions.place(array) is not None for array in arrays)
    loaded.runs[1][plan.segments[0].stage]()


def test_what_the_runtime_refuses_is_named(shared_engine) -> None:
    with pytest.raises(EngineError, match=r"^onnxruntime [\d.]+ \(Python 3[\d.]+\) refuses the sub-model: .*Nonsense"):
        shared_engine.load(_model("Nonsense"), {})
    inputs, outputs = _arrays()
    outputs["y"] = np.zeros((1, 3), np.float32)
    with pytest.raises(
        EngineError, match=r"the sub-model's outputs are \{'y': \(1, 4\)\}, the plan's \{'y': \(1, 3\)\}"
    ):
        shared_engine.load(_model(), {}).bind(inputs, outputs, 0)
    assert shared_engine.load(_model(), {}) is not None, "it goes on"


def test_nothing_is_left_of_a_model_that_nobody_has(engine) -> None:
    def fds() -> int:
        return len(os.listdir(f"/proc/{engine.pid}/fd"))

    def maps() -> int:
        return Path(f"/proc/{engine.pid}/maps").read_text().count("distredge-engine ")

    def use() -> None:
        inputs, _ = _arrays()
        outputs = {"y": allocate((1, 4), "float32", engine.room)}
        engine.load(_model(), {}).bind(inputs, outputs, 0)()

    use()
    gc.collect()
    engine.load(_model(), {})
    first = (fds(), maps(), len(os.listdir("/proc/self/fd")))
    for _ in range(20):
        use()
    gc.collect()
    engine.load(_model(), {})
    gc.collect()
    assert (fds(), maps(), len(os.listdir("/proc/self/fd"))) == first


def test_the_end_of_the_process_fails_its_plan_and_not_the_next(engine) -> None:
    inputs, outputs = _arrays()
    run = engine.load(_model(), {}).bind(inputs, outputs, 0)
    os.kill(engine.pid, signal.SIGSEGV)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"the engine's process under .* ended with signal 11 \(SIGSEGV\)"):
            run()
    again = engine.load(_model(), {}).bind(inputs, outputs, 0)
    again()
    np.testing.assert_array_equal(outputs["y"], [[0, 2, 0, 4]])
    with pytest.raises(EngineError, match="SIGSEGV"):
        run()


def _constants_model(size: int) -> bytes:
    """y = x + held + fed, the first constant of which lies in a file."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (size,)) for n in ("x", f"fed{AS_INPUT}", "y")]
    nodes = [helper.make_node("Add", ["x", "held"], ["sum"]), helper.make_node("Add", ["sum", f"fed{AS_INPUT}"], ["y"])]
    held = TensorProto(name="held", data_type=TensorProto.FLOAT, dims=(size,), data_location=TensorProto.EXTERNAL)
    for key, text in (("location", constant_file("held")), ("offset", "0"), ("length", str(4 * size))):
        held.external_data.add(key=key, value=text)
    graph = helper.make_graph(nodes, "constants", ports[:2], ports[2:], [held])
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    return made.SerializeToString()


def _handed_over_kb(pid: int) -> int:
    """What a process has of the memory that is handed to it."""
    found, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            counts = line.endswith("memfd:distredge-engine (deleted)")
        elif counts and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_constants_that_the_runtime_has_copied_are_not_held_twice(engine) -> None:
    size = 1 << 20
    rng = np.random.default_rng(0)
    x, held, fed = (rng.standard_normal(size, dtype=np.float32) for _ in range(3))
    loaded = engine.load(_constants_model(size), {"held": held, f"fed{AS_INPUT}": fed})
    assert 4096 <= _handed_over_kb(os.getpid()) < 6144, "what is fed alone: the worker's account counts it here"
    assert _handed_over_kb(engine.pid) < 6144
    y = np.zeros(size, np.float32)
    loaded.bind({"x": x}, {"y": y}, 0)()
    np.testing.assert_allclose(y, x + held + fed, atol=1e-6)
    assert _handed_over_kb(engine.pid) >= 4096


_SLOW = "import time; time.sleep(60); session = "


def test_ending_it_while_it_loads_leaves_nothing(host: Path) -> None:
    host.write_text(HOST.read_text(encoding="utf-8").replace("            session = ", f"            {_SLOW}"))
    engine = OldPythonEngine(sys.executable)
    try:
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(engine.load, _model(), {})
            _until(lambda: _folders(engine._process._prefix))
            engine.close()
            with pytest.raises(EngineError, match="was ended"):
                loading.result(30)
        assert not _folders(engine._process._prefix)
        with pytest.raises(EngineError, match="was ended"):
            engine.load(_model(), {})
        assert not _runs(engine.pid)
    finally:
        engine.close()


_LOADER = f"""
import sys, threading
from pathlib import Path
from distredge.runtime import engine_process
from distredge.runtime.old_python_engine import OldPythonEngine
engine_process._HOST = Path(sys.argv[1])
engine = OldPythonEngine(sys.executable)
print(engine._process._prefix, engine.pid, flush=True)
engine.load({_model()!r}, {{}})
"""


def test_it_tidies_up_when_the_worker_is_killed_while_it_loads(tmp_path: Path) -> None:
    host = tmp_path / "engine_host.py"
    host.write_text(HOST.read_text(encoding="utf-8").replace("            session = ", f"            {_SLOW}"))
    parent = subprocess.Popen([sys.executable, "-c", _LOADER, host], stdout=subprocess.PIPE, text=True)
    try:
        prefix, child = parent.stdout.readline().split()
        _until(lambda: _folders(prefix))
    finally:
        parent.kill()
        parent.communicate()
    _until(lambda: not _runs(int(child)))
    assert not _folders(prefix)


def _folders(prefix: str) -> list[Path]:
    return [found for place in engine_process._places() for found in place.glob(f"{prefix}*")]


def _until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.02)


@pytest.fixture
def host(tmp_path: Path, monkeypatch) -> Path:
    """A host of the test's own."""
    path = tmp_path / "engine_host.py"
    monkeypatch.setattr(engine_process, "_HOST", path)
    return path


def test_a_process_that_ends_says_its_last_words(host: Path) -> None:
    host.write_text("import sys\nsys.exit('libcudnn.so.8: cannot open\\nshared object file')")
    with pytest.raises(ConfigError, match=r"ended with exit code 1: libcudnn.so.8: cannot open \| shared object file"):
        OldPythonEngine(sys.executable)


def test_an_interpreter_without_an_engine(host: Path) -> None:
    text = HOST.read_text(encoding="utf-8").replace("import onnxruntime", "import no_such_runtime as onnxruntime")
    host.write_text(text)
    with pytest.raises(
        ConfigError, match=r"no engine under .*: ModuleNotFoundError: .*; install numpy and onnxruntime"
    ):
        OldPythonEngine(sys.executable)


def test_loading_that_takes_too_long_is_ended(host: Path) -> None:
    text = HOST.read_text(encoding="utf-8").replace(
        "        options = self._runtime.SessionOptions()\n", "        import time; time.sleep(60)\n"
    )
    host.write_text(text)
    engine = OldPythonEngine(sys.executable, load_s=0.5)
    pid = engine.pid
    try:
        with pytest.raises(EngineError, match=r"did not answer within 0.5 s and was ended"):
            engine.load(_model(), {})
        assert not Path(f"/proc/{pid}").exists()
    finally:
        engine.close()


def test_a_system_without_memory_that_can_be_shared(monkeypatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(ConfigError, match="engine's Python: only Linux"):
        OldPythonEngine(sys.executable)


def test_a_provider_that_it_has_not() -> None:
    with pytest.raises(ConfigError, match=r"it has no TensorrtExecutionProvider; it has: .*CPUExecutionProvider"):
        OldPythonEngine(sys.executable, provider="tensorrt")


_PARENT = """
import os, sys, time
from distredge.runtime.old_python_engine import OldPythonEngine
engine = OldPythonEngine(sys.executable)
print(engine.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_the_worker() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    _until(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    """Whether there is such a process that is more than a name: whoever adopted it may not have noticed its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_in_a_worker(graph, image, whole_model) -> None:
    deployment = deploy(graph, make_strategy(graph, [(1,)], head="alpha"))
    order = msgspec.structs.replace(local_order("alpha", None), engine_python=sys.executable)
    process, network = WorkerProcess(order), ZmqNetwork(None)
    try:
        bound = process.wait_bound(time.monotonic() + START_S)
        with Coordinator(network, [WorkerAddress("alpha", bound.control, bound.data)]) as coordinator:
            coordinator.deploy(deployment)
            outputs = coordinator.infer(image)
            (child,) = _children(process.pid)
            os.kill(child, signal.SIGKILL)
            with pytest.raises(EngineError, match=r"ended with signal 9 \(SIGKILL\)"):
                coordinator.infer(image)
            with contextlib.suppress(EngineError):  # it may have begun before the plan's end was known
                coordinator.infer(image)
            # The plan is prepared again, beside the one that has failed and has everything in common with it.
            anew = coordinator.infer(image)
        with Coordinator(network, [WorkerAddress("alpha", bound.control, bound.data)]) as coordinator:
            coordinator.deploy(deployment)
            again = coordinator.infer(image)
    finally:
        network.close()
        process.stop()
    for name, expected in whole_model(image).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(outputs[name], anew[name])
        np.testing.assert_array_equal(outputs[name], again[name])


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Old ones.


def _interpreter(version: str) -> str:
    """An interpreter of that version; skips where there is none."""
    own = [os.environ.get("DISTREDGE_OLD_PYTHON"), shutil.which(f"python{version}")]
    pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    for place in [*filter(None, own), *map(str, pyenv)]:
        asked = [place, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        with contextlib.suppress(OSError):
            if subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip() == version:
                return place
    pytest.skip(f"no python{version} in PATH or ~/.pyenv; DISTREDGE_OLD_PYTHON may name one")


@pytest.fixture(scope="module", params=sorted(WHEELS))
def old_engine(request, tmp_path_factory) -> Iterator[OldPythonEngine]:
    """An engine under an old Python, with an old ONNX Runtime in an environment of its own."""
    version = request.param
    interpreter, folder = _interpreter(version), tmp_path_factory.mktemp("old")
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    # By this Python's pip, since theirs is too old for today's wheels.
    packages = folder / "venv" / "lib" / f"python{version}" / "site-packages"
    platforms = [
        f"--platform={name}_{os.uname().machine}"
        for name in ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17")
    ]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    only = ["--only-binary=:all:", f"--python-version={version}", *platforms, "--target", str(packages)]
    done = subprocess.run([*pip, *only, *WHEELS[version]], capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.skip(f"no ONNX Runtime for Python {version} here: {done.stderr.strip().splitlines()[-1]}")
    made = OldPythonEngine(str(folder / "venv" / "bin" / "python"))
    assert f"(Python {version}." in made.name
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "mobilenet-v2", "efficientnet-lite0", "yolov2"])
def test_an_old_python_computes_the_same(old_engine, name: str) -> None:
    graph = load_model(name)
    rng = np.random.default_rng(0)
    inputs = {n: rng.standard_normal(graph.tensors[n].shape, dtype=np.float32) for n in graph.input_names}
    for dynamic_rows in (False, True):
        strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)] * (1 + dynamic_rows))
        assert _apart(graph, strategy, old_engine, inputs, dynamic_rows) <= 1e-5


@pytest.mark.slow
def test_an_old_runtime_names_what_it_cannot_read(old_engine) -> None:
    with pytest.raises(EngineError, match=r"^onnxruntime 1\.1.* refuses the sub-model: .*(?i:opset|LayerNorm)"):
        old_engine.load(_model("Mish", 18), {})


@pytest.mark.slow
def test_an_old_engine_is_measured(old_engine) -> None:
    graph = load_model("squeezenet1.1", (1, 3, 64, 64), width=0.5)
    plan = MeasuringPlan(budget_s=3600.0, points=4, start=3, effort=Effort(least=3, most=20), segments=4, power_s=0.1)
    measuring = Measuring([graph], EngineSettings(old_engine), plan)
    profile = ComputeProfile(measuring.run())
    assert f"{profile.runtime.name} {profile.runtime.version}" == old_engine.name
    assert measuring.missing == ()
    assert measuring.expected is not None
    assert all(profile.covers(signature) for signature in graph.signatures if signature is not None)
    assert all(item.kernels > 0 for item in measuring.table.besides)
