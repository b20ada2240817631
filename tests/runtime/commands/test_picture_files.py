"""`deploy-strategy` with a strategy that lets pictures travel in their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from distredge.model import zoo
from distredge.strategy import InputSpec
from tests.runtime.commands.conftest import deploy, write_cluster
from tests.runtime.conftest import make_strategy
from tests.runtime.photographs import as_jpeg, photograph

WRITTEN = ("--out", "out.jsonl", "--report", "report.json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector on two devices; two JPEG files, one that breaks off, one PNG."""
    detector = zoo.build("yolov2", (1, 3, 160, 160), width=0.125)
    monkeypatch.setattr("distredge.cli.deploy_strategy.load_model_of", lambda *_: detector)
    strategy = make_strategy(detector, [(2, 1)]).replace(input=InputSpec("jpeg", 5000, 30_000))
    strategy.save(tmp_path / "s.json")
    write_cluster(tmp_path / "local.toml", [0] * 6)
    pictures = tmp_path / "pics"
    pictures.mkdir()
    (pictures / "0.jpg").write_bytes(as_jpeg())
    (pictures / "1.jpg").write_bytes(as_jpeg(seed=1)[:2500])
    (pictures / "2.jpg").write_bytes(as_jpeg(150, 220, 2))
    photograph(100, 90).save(pictures / "3.png")
    return tmp_path


def test_a_mixed_stream_that_is_drawn_on(folder: Path) -> None:
    asked = ("--images", "pics", "--in-flight", "2", "--annotate", "drawn", "--min-score", "0", *WRITTEN)
    done = deploy(folder, "s.json", "--cluster", "local.toml", *asked)
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "report.json").read_text())
    assert [figures[key] for key in ("done", "failed_frames", "lost", "out_of_order")] == [3, 1, 0, 0]
    assert figures["failed"][0]["name"] == "pics/1.jpg"
    assert "the picture: a damaged image" in figures["failed"][0]["error"]
    assert figures["correct"] is True
    assert figures["predicted_latency_s"] > 0
    boxes = [json.loads(line).get("boxes", []) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert max(box["right"] for box in boxes[2]) <= 220
    assert max(box["bottom"] for box in boxes[2]) <= 150
    with Image.open(folder / "drawn" / "000002-2.jpg") as drawn:
        assert drawn.size == (220, 150)


@pytest.mark.parametrize("name", ["0.jpg", "3.png"])
def test_one_picture(folder: Path, name: str) -> None:
    asked = ("--image", f"pics/{name}", "--repeat", "2", "--timeline", "t.json", "--json")
    done = deploy(folder, "s.json", "--cluster", "local.toml", *asked)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["correct"] is True
    size_bytes = (folder / "pics" / name).stat().st_size
    events = json.loads((folder / "t.json").read_text())["traceEvents"]
    sent = {event["args"]["bytes"] for event in events if event.get("args", {}).get("bytes")}
    assert (size_bytes in sent) == (name == "0.jpg")


def test_one_damaged_picture_is_the_users_error(folder: Path) -> None:
    done = deploy(folder, "s.json", "--cluster", "local.toml", "--image", "pics/1.jpg")
    assert done.returncode == 2
    assert "pics/1.jpg: a damaged image" in done.stderr
