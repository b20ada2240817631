"""What splitting costs beside its halo: halves against the whole model, loading, memory, capture.

    python experiments/bench/segments.py [--quick]

One thread throughout. The halves are two devices with half the rows each, one volume, every split-part run by itself;
the ratio is the time of all parts, less the halo's share of their multiply-adds, against the whole model's: seconds per
multiply-add in the parts over seconds per multiply-add in the whole. CPU time is compared, since other programs may
run beside. Memory is the peak of a fresh process (a worker that holds and runs the parts of one device, the one with
the head included, against one that opens the whole .onnx file).

Prints tables and ends with one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distredge.experiments.common.exact import without_weights
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.laying_out import lay_out
from distredge.model.rows import even_cuts
from distredge.model.segments import build, weight_store
from distredge.runtime.buffers import allocate
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.strategy import Strategy

MODELS = {"vgg16": "vgg16", "resnet50": "resnet50", "mobilenet_v2": "mobilenet-v2"}
Shapes = list[tuple[str, tuple[int, ...], str]]


def halves(graph: Graph, cuts: list[int] | None = None) -> Strategy:
    """Two devices with half the rows of each volume, the head on the first."""
    chosen = [len(graph.cuts) - 1] if cuts is None else cuts
    volumes = [(i, even_cuts(graph.cuts[i].height, 2)) for i in chosen]
    return Strategy.make(graph, ["a", "b"], volumes, head="a")


def bound(model: bytes, weights: Mapping[str, NDArray[Any]], inputs: Shapes, outputs: Shapes) -> Callable[[], None]:
    """Loads a model and binds it to arrays of its own."""
    rng = np.random.default_rng(0)
    arrays = [{name: allocate(shape, dtype) for name, shape, dtype in ports} for ports in (inputs, outputs)]
    for array in arrays[0].values():
        array[...] = rng.standard_normal(array.shape)
    return OnnxRuntimeEngine().load(model, weights).bind(arrays[0], arrays[1], 0)


def whole(graph: Graph) -> Callable[[], None]:
    """Runs the whole model."""
    large = [name for name, array in graph.constants.items() if array.nbytes > 1024]
    ports: list[Shapes] = [
        [(name, graph.tensors[name].shape, graph.tensors[name].dtype) for name in names]
        for names in (graph.input_names, graph.output_names)
    ]
    model = without_weights(graph, frozenset(large))
    return bound(model, {name: graph.weight(name) for name in large}, ports[0], ports[1])


def parts(graph: Graph, strategy: Strategy) -> list[Callable[[], None]]:
    """Runs of every part of every device."""
    layout = lay_out(graph, strategy)
    runs = []
    for device in strategy.devices:
        program = build(graph, strategy, device, layout)
        store = weight_store(graph, program)
        for segment in program.segments:
            weights = {name: store[digest] for name, digest in segment.weights.items()}
            ports: list[Shapes] = [[(p.name, p.shape, p.dtype) for p in x] for x in (segment.inputs, segment.outputs)]
            runs.append(bound(segment.model, weights, ports[0], ports[1]))
    return runs


def cpu_s(run: Callable[[], None]) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s


def halves_ratio(graph: Graph, repeats: int) -> dict[str, float]:
    """Seconds per multiply-add in the halves over those in the whole model; both measured in turns."""
    strategy = halves(graph)
    halo = lay_out(graph, strategy).recompute_ratio(graph)
    complete, pieces = whole(graph), parts(graph, strategy)
    times = [(cpu_s(complete), sum(cpu_s(piece) for piece in pieces)) for _ in range(repeats + 2)][2:]
    whole_s, parts_s = (min(column) for column in zip(*times, strict=True))
    return {"whole_s": whole_s, "parts_s": parts_s, "halo": halo, "ratio": parts_s / (1 + halo) / whole_s}


def load_s(graph: Graph, repeats: int) -> dict[str, float]:
    """Median wall and CPU seconds from a new strategy to loaded segments, for the device that takes longer."""
    last = len(graph.cuts) - 1
    plans = [[3, 7, 10, last], [2, 5, 8, 13, last], [4, 11, last]]
    for device in "ab":
        build(graph, halves(graph), device)  # hashes the weights, as the first plan of a model does
    engine = OnnxRuntimeEngine()
    found: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for number in range(repeats):
        for device, times in found.items():
            gc.collect()
            started_s, cpu_started_s = time.perf_counter(), time.process_time()
            strategy = halves(graph, plans[number % len(plans)])
            program = build(graph, strategy, device)
            store = weight_store(graph, program)
            held = [engine.load(s.model, {n: store[h] for n, h in s.weights.items()}) for s in program.segments]
            times.append((time.perf_counter() - started_s, time.process_time() - cpu_started_s))
            del held
    medians = [[statistics.median(column) for column in zip(*times, strict=True)] for times in found.values()]
    return {"wall_s": max(m[0] for m in medians), "cpu_s": max(m[1] for m in medians)}


_PEAK = """
import sys
def peak_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3
"""

_WHOLE = (
    _PEAK
    + """
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
port = session.get_inputs()[0]
for _ in range(3):
    session.run(None, {port.name: np.zeros(port.shape, np.float32)})
print(peak_mb())
"""
)

_WORKER = (
    _PEAK
    + """
import json, pathlib
import numpy as np
from distredge.runtime.buffers import allocate
from distredge.runtime.engine import OnnxRuntimeEngine
folder = pathlib.Path(sys.argv[1])
store = {}
def weight(digest):
    if digest not in store:
        store[digest] = np.load(folder / f"{digest}.npy")
    return store[digest]
engine, runs = OnnxRuntimeEngine(), []
for entry in json.loads((folder / "plan.json").read_text()):
    model = (folder / entry["model"]).read_bytes()
    loaded = engine.load(model, {name: weight(digest) for name, digest in entry["weights"].items()})
    ports = [{name: allocate(shape, dtype) for name, shape, dtype in entry[side]} for side in ("inputs", "outputs")]
    runs.append(loaded.bind(*ports, 0))
for _ in range(3):
    for run in runs:
        run()
print(peak_mb())
"""
)


def _printed(script: str, argument: str) -> float:
    """Runs a script in a fresh process and returns the number that it prints."""
    command = [sys.executable, "-c", script, argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return float(done.stdout)


def memory(graph: Graph) -> dict[str, float]:
    """Peak megabytes of a whole-model process and of a worker for each half."""
    strategy = halves(graph)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "whole.onnx"
        graph.save(path)
        found["whole_mb"] = _printed(_WHOLE, str(path))
        path.unlink()
        for device in strategy.devices:
            folder = Path(name) / device
            folder.mkdir()
            _write_plan(graph, strategy, device, folder)
            found[f"half_{device}_mb"] = _printed(_WORKER, str(folder))
    found["ratio"] = max(found["half_a_mb"], found["half_b_mb"]) / found["whole_mb"]
    return found


def _write_plan(graph: Graph, strategy: Strategy, device: str, folder: Path) -> None:
    program = build(graph, strategy, device)
    for digest, array in weight_store(graph, program).items():
        np.save(folder / f"{digest}.npy", array)
    entries = []
    for segment in program.segments:
        (folder / f"{segment.stage}.onnx").write_bytes(segment.model)
        sides = {"inputs": segment.inputs, "outputs": segment.outputs}
        ports = {side: [(p.name, p.shape, p.dtype) for p in found] for side, found in sides.items()}
        entries.append({"model": f"{segment.stage}.onnx", "weights": dict(segment.weights), **ports})
    (folder / "plan.json").write_text(json.dumps(entries))


_CAPTURE_TORCH = """
import time, sys
import torch
from torch import nn

class Bottleneck(nn.Module):
    def __init__(self, c, m, s):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, m, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU(),
            nn.Conv2d(m, m, 3, s, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU(),
            nn.Conv2d(m, 4 * m, 1, bias=False), nn.BatchNorm2d(4 * m))
        self.skip = nn.Identity()
        if s > 1 or c != 4 * m:
            self.skip = nn.Sequential(nn.Conv2d(c, 4 * m, 1, s, bias=False), nn.BatchNorm2d(4 * m))
    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))

blocks, c = [], 64
for m, n, s in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
    for i in range(n):
        blocks.append(Bottleneck(c, m, s if i == 0 else 1))
        c = 4 * m
model = nn.Sequential(
    nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
from distredge.model.capture import from_torch
started_s = time.perf_counter()
from_torch(model, torch.zeros(1, 3, 224, 224), name="resnet50")
print(time.perf_counter() - started_s)
"""

_CAPTURE_ONNX = """
import sys, time
from distredge.model.capture import from_onnx
started_s = time.perf_counter()
from_onnx(sys.argv[1])
print(time.perf_counter() - started_s)
"""


def capture() -> dict[str, float]:
    """Seconds to take ResNet-50 in from torch and from a file, each in a fresh process, imports left out."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "resnet50.onnx"
        load_model("resnet50").save(path)
        return {"torch_s": _printed(_CAPTURE_TORCH, ""), "onnx_s": _printed(_CAPTURE_ONNX, str(path))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 7 if parser.parse_args().quick else 25
    figures: dict[str, float] = {}
    print(f"{'halves':<14} {'whole ms':>9} {'parts ms':>9} {'halo':>7} {'ratio':>7}")
    for key, name in MODELS.items():
        graph = load_model(name)
        found = halves_ratio(graph, repeats)
        figures[f"halves_ratio_{key}"] = found["ratio"]
        times = f"{1e3 * found['whole_s']:>9.1f} {1e3 * found['parts_s']:>9.1f}"
        print(f"{name:<14} {times} {found['halo']:>7.3f} {found['ratio']:>7.3f}", flush=True)
    graph = load_model("vgg16")
    loading = load_s(graph, 3 if repeats < 10 else 9)
    figures["new_strategy_load_s_vgg16"] = loading["wall_s"]
    print(f"new strategy, vgg16, slower device: {loading['wall_s']:.3f} s (CPU {loading['cpu_s']:.3f} s)", flush=True)
    peaks = memory(graph)
    figures["half_worker_memory_ratio_vgg16"] = peaks["ratio"]
    print(
        f"peak memory, vgg16: whole {peaks['whole_mb']:.0f} MB, half with the head {peaks['half_a_mb']:.0f} MB, "
        f"other half {peaks['half_b_mb']:.0f} MB: {peaks['ratio']:.3f}", flush=True,
    )  # fmt: skip
    taken = capture()
    figures |= {"capture_resnet50_torch_s": taken["torch_s"], "capture_resnet50_onnx_s": taken["onnx_s"]}
    print(f"capture of resnet50: from torch {taken['torch_s']:.2f} s, from a file {taken['onnx_s']:.2f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
