"""The zoo: published sizes, torchvision's names, seeds, files of weights, and running in ONNX Runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from distredge.errors import FileError, ModelError
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.zoo._builder import Builder
from distredge.model.zoo._weights import LoadedWeights, SeededWeights, read_weights

NAMES = [entry.name for entry in zoo.entries()]

# Number of state_dict entries and SHA-256 over its sorted lines "name AxBxC", taken from torchvision 0.28, less the
# auxiliary classifiers of Inception V3 and GoogLeNet.
TORCHVISION = {
    "vgg16": (32, "e36b43eb356035da"),
    "vgg19": (38, "fafd9d516f77ba55"),
    "resnet18": (122, "f0e35161599236f3"),
    "resnet50": (320, "fe1d335c3c7786ff"),
    "mobilenet-v2": (314, "2a196dc04125b8ce"),
    "mobilenet-v3-large": (312, "00e3a56a0bdeba96"),
    "mobilenet-v3-small": (244, "6353e9f51ee2108d"),
    "densenet121": (727, "1fe00a8008e9a530"),
    "squeezenet": (52, "cd23a9be2e193de5"),
    "squeezenet1.1": (52, "a462856ef96ade94"),
    "shufflenet-v2": (338, "bf479090b753ddd3"),
    "inception-v3": (566, "2727d99133ece23b"),
    "googlenet": (344, "e5c470d1ce5e675e"),
    "ssd-vgg16": (71, "844b372b94ce4df1"),
}


class Recorder(SeededWeights):
    """Gives zeros that take no memory, and remembers what it was asked for, as a state_dict would name it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: dict[str, tuple[int, ...]] = {}

    def weight(self, key: str, shape: tuple[int, ...], fan_in: int, gain: float) -> np.ndarray:
        self.asked[key] = shape
        return np.broadcast_to(np.float32(0), shape)

    def vector(self, key: str, size: int, mean: float = 0.0) -> np.ndarray:
        self.asked[key] = (size,)
        return np.full(size, mean, np.float32)

    def batch_norm(self, key: str, size: int) -> tuple[np.ndarray, ...]:
        self.asked |= {f"{key}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
        self.asked[f"{key}.num_batches_tracked"] = ()
        return tuple(np.full(size, value, np.float32) for value in (1, 0, 0, 1))


def _written(name: str, shape: tuple[int, ...] | None = None, width: float = 1.0) -> tuple[Graph, Builder, Recorder]:
    entry = next(e for e in zoo.entries() if e.name == name)
    recorder = Recorder()
    builder = Builder(name, recorder, width)
    graph = builder.finish(entry.write(builder, shape or entry.input_shape))
    return graph, builder, recorder


def _run(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    feeds = {
        name: draws.standard_normal(shape, dtype=np.float32)
        for name, shape in zip(graph.input_names, graph.input_shapes, strict=True)
    }
    session = ort.InferenceSession(graph.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(out) for out in session.run(None, feeds)]


@pytest.mark.parametrize("name", NAMES)
def test_macs_and_parameters_are_the_published_ones(name: str) -> None:
    entry = next(e for e in zoo.entries() if e.name == name)
    graph, builder, _ = _written(name)
    digits = len(str(entry.gigamacs).partition(".")[2])
    assert round(sum(graph.macs) / 1e9, digits) == pytest.approx(entry.gigamacs, abs=10**-digits / 2)
    assert builder.parameters == entry.parameters
    assert entry.source


@pytest.mark.parametrize(
    ("width", "resolution", "megamacs", "million_parameters"),
    [
        (1.0, 224, 569, 4.2), (0.75, 224, 325, 2.6), (0.5, 224, 149, 1.3), (0.25, 224, 41, 0.5),
        (1.0, 192, 418, 4.2), (1.0, 160, 290, 4.2), (1.0, 128, 186, 4.2),
    ],
)  # fmt: skip
def test_mobilenet_v1_variants_match_the_paper(
    width: float, resolution: int, megamacs: float, million_parameters: float
) -> None:
    """Howard et al. 2017, tables 6 and 7."""
    graph, builder, _ = _written("mobilenet-v1", (1, 3, resolution, resolution), width)
    assert sum(graph.macs) / 1e6 == pytest.approx(megamacs, abs=0.8)
    assert builder.parameters / 1e6 == pytest.approx(million_parameters, abs=0.05)
    by_name = zoo.build(f"mobilenet-v1-{width:g}-{resolution}")
    assert by_name.input_shapes == ((1, 3, resolution, resolution),)
    assert by_name.macs == graph.macs


def test_yolov2_matches_darknet_at_608() -> None:
    graph, _, _ = _written("yolov2", (1, 3, 608, 608))
    assert 2 * sum(graph.macs) / 1e9 == pytest.approx(62.94, abs=0.005)


def _conv_macs(rows: int, columns: int, kernel: int, inputs: int, outputs: int) -> int:
    return rows * columns * kernel * inputs * outputs


def test_models_without_published_figures_match_a_count_by_hand() -> None:
    """The layer tables of the papers, written down once more as plain sums."""
    block = [(38, 1024, 4), (19, 512, 6), (10, 512, 6), (5, 256, 6), (3, 256, 4), (1, 256, 4)]
    heads = sum(_conv_macs(n, n, 9, c, a * 85) for n, c, a in block)
    extra = sum(
        _conv_macs(n, n, 1, i, m) + _conv_macs(o, o, 9, m, out)
        for n, i, m, o, out in [(38, 1024, 256, 19, 512), (19, 512, 256, 10, 512), (10, 512, 128, 5, 256),
                                (5, 256, 128, 3, 256), (3, 256, 128, 1, 256)]
    )  # fmt: skip
    trunk = _conv_macs(150, 150, 49, 3, 64)
    for n, first, depth, inputs, channels in [(75, 75, 3, 64, 64), (38, 75, 4, 256, 128), (38, 38, 6, 512, 256)]:
        for place in range(depth):
            trunk += _conv_macs(first if place == 0 else n, first if place == 0 else n, 1, inputs, channels)
            trunk += _conv_macs(n, n, 9, channels, channels) + _conv_macs(n, n, 1, channels, 4 * channels)
            trunk += _conv_macs(n, n, 1, inputs, 4 * channels) if place == 0 else 0
            inputs = 4 * channels
    assert sum(_written("ssd-resnet50")[0].macs) == trunk + extra + heads

    later = 5 * [(7, 128)] + [(1, 128)]
    stage = sum(_conv_macs(46, 46, k * k, 185 if i == 0 else 128, c) for i, (k, c) in enumerate(later))
    pose = 5 * sum(stage + _conv_macs(46, 46, 1, 128, c) for c in (38, 19))
    pose += sum(_conv_macs(46, 46, 27, 128, 128) + _conv_macs(46, 46, 1, 128, 512 + 4 * c) for c in (38, 19))
    for n, inputs, channels, depth in [(368, 3, 64, 2), (184, 64, 128, 2), (92, 128, 256, 4), (46, 256, 512, 2)]:
        pose += _conv_macs(n, n, 9, inputs, channels) + (depth - 1) * _conv_macs(n, n, 9, channels, channels)
    pose += _conv_macs(46, 46, 9, 512, 256) + _conv_macs(46, 46, 9, 256, 128)
    assert sum(_written("openpose")[0].macs) == pose

    voxel = (5 * _conv_macs(400, 352, 27, 128, 64) + 3 * _conv_macs(400, 352, 27, 64, 64)
             + 2 * _conv_macs(400, 352, 27, 64, 64))  # fmt: skip
    voxel += 4 * _conv_macs(200, 176, 9, 128, 128) + 6 * _conv_macs(100, 88, 9, 128, 128)
    voxel += _conv_macs(50, 44, 9, 128, 256) + 5 * _conv_macs(50, 44, 9, 256, 256)
    voxel += _conv_macs(200, 176, 9, 128, 256) + _conv_macs(100, 88, 4, 128, 256) + _conv_macs(50, 44, 16, 256, 256)
    voxel += _conv_macs(200, 176, 1, 768, 2 + 14)
    assert sum(_written("voxelnet")[0].macs) == voxel

    unet = _conv_macs(512, 512, 9, 3, 64) + 3 * _conv_macs(512, 512, 9, 64, 64)
    unet += _conv_macs(512, 512, 9, 64, 64) + _conv_macs(512, 512, 1, 64, 2)
    for n, c in [(256, 128), (128, 256), (64, 512)]:
        unet += _conv_macs(n, n, 9, c // 2, c) + _conv_macs(n, n, 9, c, c)
        unet += _conv_macs(n, n, 9, 2 * c, c) + _conv_macs(n, n, 9, c, c) + _conv_macs(n, n, 4, c, c // 2)
    unet += _conv_macs(32, 32, 9, 512, 1024) + _conv_macs(32, 32, 9, 1024, 1024) + _conv_macs(32, 32, 4, 1024, 512)
    assert sum(_written("unet")[0].macs) == unet


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_names_and_shapes_of_parameters_are_torchvisions(name: str) -> None:
    _, _, recorder = _written(name)
    lines = sorted(f"{key} {'x'.join(map(str, shape))}" for key, shape in recorder.asked.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), digest) == TORCHVISION[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_small_variant_runs_and_every_output_varies(name: str) -> None:
    entry = next(e for e in zoo.entries() if e.name == name)
    graph = zoo.build(name, entry.small_shape, width=0.25)
    onnx.checker.check_model(graph.proto, full_check=True)
    assert graph.proto.ir_version == 8
    assert 13 <= graph.opset <= 17
    outputs = _run(graph)
    assert [out.shape for out in outputs] == list(graph.output_shapes)
    for out in outputs:
        assert np.isfinite(out).all()
        assert len(np.unique(out)) > 0.7 * out.size
        assert 1e-3 < np.abs(out).max() < 1e4


@pytest.mark.parametrize("name", NAMES)
def test_the_preprocessing_fits_the_input(name: str) -> None:
    entry = next(e for e in zoo.entries() if e.name == name)
    graph, _, _ = _written(name)
    spec = None if entry.preprocess is None else entry.preprocess(*entry.input_shape[-2:])
    if spec is None:
        assert name == "voxelnet"
        return
    assert spec.shape == graph.input_shapes[0]
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert np.abs(spec.normalise(spec.prepare(pixels))).max() <= 256


def test_a_seed_fixes_the_weights() -> None:
    first, again, other = (zoo.build("squeezenet1.1", (1, 3, 64, 64), seed=s, width=0.25) for s in (3, 3, 4))
    np.testing.assert_array_equal(_run(first)[0], _run(again)[0])
    assert first.weights_digest == again.weights_digest != other.weights_digest
    assert first.topology == other.topology


def test_large_seeded_weights_are_he_normal_and_take_no_memory() -> None:
    weight = SeededWeights(0).weight("fc.weight", (4096, 25088), 25088, 1.0)
    assert weight.base is not None
    sample = weight[::37, ::41]
    assert sample.std() == pytest.approx(np.sqrt(2 / 25088), rel=0.02)
    assert abs(sample.mean()) < 1e-4
    assert not np.array_equal(weight[0], weight[1])


def test_vgg16_has_the_paper_s_layer_names() -> None:
    graph, _, _ = _written("vgg16")
    assert [op.name for op in graph.operators][:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert graph.output_names == ("fc8",)


def _state_dict(name: str) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(7)
    state: dict[str, np.ndarray] = {}
    for key, shape in _written(name)[2].asked.items():
        if key.endswith("num_batches_tracked"):
            state[key] = np.array(5)
        elif key.endswith("running_var"):
            state[key] = draws.uniform(0.5, 2.0, shape).astype(np.float32)
        elif len(shape) > 1:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            state[key] = draws.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        else:
            state[key] = draws.uniform(0.5, 1.5, shape).astype(np.float32)
    return state


def _torch_resnet18(state: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """ResNet-18 straight from its definition, with batch normalisation as an operation of its own."""
    import torch
    from torch.nn import functional

    p = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}

    def conv_bn(x: torch.Tensor, conv: str, bn: str, stride: int, pad: int) -> torch.Tensor:
        x = functional.conv2d(x, p[f"{conv}.weight"], None, stride, pad)
        statistics = [p[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *statistics)

    x = functional.max_pool2d(conv_bn(torch.from_numpy(image), "conv1", "bn1", 2, 3).relu(), 3, 2, 1)
    for stage in range(1, 5):
        for place in range(2):
            key, stride = f"layer{stage}.{place}", 2 if stage > 1 and place == 0 else 1
            y = conv_bn(x, f"{key}.conv1", f"{key}.bn1", stride, 1).relu()
            y = conv_bn(y, f"{key}.conv2", f"{key}.bn2", 1, 1)
            if f"{key}.downsample.0.weight" in p:
                x = conv_bn(x, f"{key}.downsample.0", f"{key}.downsample.1", stride, 0)
            x = (x + y).relu()
    return np.asarray(functional.linear(x.mean((2, 3)), p["fc.weight"], p["fc.bias"]))


def test_weights_of_a_file_give_what_torch_computes(tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import save_file

    state = _state_dict("resnet18")
    save_file(state, tmp_path / "w.safetensors")
    torch.save({k: torch.from_numpy(np.asarray(v)) for k, v in state.items()}, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", **state)
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 80), dtype=np.float32)
    expected = _torch_resnet18(state, image)
    for name in ("w.safetensors", "w.pth", "w.npz"):
        graph = zoo.build("resnet18", (1, 3, 64, 80), weights=tmp_path / name)
        found = _run(graph)[0]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    state = _state_dict("squeezenet1.1")
    with pytest.raises(ModelError, match=r"features\.0\.weight"):
        zoo.build("squeezenet1.1", weights={k: v for k, v in state.items() if k != "features.0.weight"})
    with pytest.raises(ModelError, match="lacks: extra"):
        zoo.build("squeezenet1.1", weights={**state, "extra": np.zeros(1)})
    with pytest.raises(ModelError, match="shape"):
        zoo.build("squeezenet1.1", weights={**state, "features.0.bias": np.zeros(3, np.float32)})
    with pytest.raises(ModelError, match="NaN"):
        zoo.build("squeezenet1.1", weights={**state, "features.0.bias": np.full(64, np.nan, np.float32)})
    with pytest.raises(ModelError, match="weights"):
        zoo.build("squeezenet1.1", weights=state, width=0.5)


def test_old_densenet_names_are_understood() -> None:
    loaded = LoadedWeights({"features.denseblock1.denselayer1.norm.1.bias": np.ones(3, np.float32)}, "old")
    assert loaded.vector("features.denseblock1.denselayer1.norm1.bias", 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04\x95garbage", b"PK\x03\x04 broken"])
def test_broken_weight_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=name):
        read_weights(tmp_path / name)
    with pytest.raises(FileError, match="no such"):
        read_weights(tmp_path / f"absent-{name}")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import torch

    torch.save({"weight": Path("/")}, tmp_path / "evil.pth")
    with pytest.raises(FileError, match="weights_only"):
        read_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vgg-16", {}, "did you mean 'vgg16'"),
        ("resnet50-0.5", {}, "no model is called"),
        ("vgg16", {"input_shape": (1, 3, 224)}, "input_shape"),
        ("vgg16", {"input_shape": (8, 3, 224, 224)}, "input_shape"),
        ("vgg16", {"input_shape": (1, 3, 16, 16)}, "too small"),
        ("inception-v3", {"input_shape": (1, 3, 40, 40)}, "window"),
        ("vgg16", {"width": 0.0}, "width"),
        ("vgg16", {"seed": -1}, "seed"),
        ("unet", {"input_shape": (1, 3, 100, 64), "width": 0.25}, "concat"),
    ],
)
def test_bad_requests_are_named(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        zoo.build(name, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_published_size_runs(name: str) -> None:
    graph = zoo.build(name)
    assert graph.input_shapes == (next(e for e in zoo.entries() if e.name == name).input_shape,)
    for out in _run(graph):
        assert np.isfinite(out).all()
        assert 1e-3 < np.abs(out).max() < 1e4
        assert len(np.unique(out)) > 0.7 * min(out.size, 1000)


def test_the_documentation_lists_every_model() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for entry in zoo.entries():
        shape = "×".join(map(str, entry.input_shape[1:]))
        figures = f"| {entry.gigamacs:g} | {entry.parameters / 1e6:.2f} |"
        assert f"| `{entry.name}` | {shape} {figures} {entry.source} |" in text
