"""`deploy-strategy` with a strategy that lets pictures travel in their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distredge.media.pictures import Picture
from distredge.model import zoo
from distredge.problem import Problem
from distredge.runtime.hosting import session
from distredge.strategy import InputSpec, Strategy
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


@pytest.mark.parametrize("asked", [(), ("--image", "pics/3.png")])
def test_what_is_in_no_file_is_predicted_as_rows(folder: Path, asked: tuple[str, ...]) -> None:
    Strategy.load(folder / "s.json").with_rows().save(folder / "rows.json")
    predicted = []
    for name in ("s.json", "rows.json"):
        done = deploy(folder, name, "--cluster", "local.toml", *asked, "--json")
        assert done.returncode == 0, done.stderr
        predicted.append(json.loads(done.stdout)["predicted_latency_s"])
    assert predicted[0] == predicted[1]
    done = deploy(folder, "s.json", "--cluster", "local.toml", "--image", "pics/0.jpg", "--json")
    assert json.loads(done.stdout)["predicted_latency_s"] != predicted[0]


def test_workers_of_a_video_need_not_decode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.asarray(photograph(90, 120))
    monkeypatch.setattr("distredge.media.video.open_video", lambda _: _Frames([Picture("0", frame)]))
    deployed = []
    as_it_is = session.open_session

    def noted(problem: Problem, strategy: Strategy, *args: Any, **options: Any) -> Any:
        deployed.append(strategy)
        return as_it_is(problem, strategy, *args, **options)

    monkeypatch.setattr(session, "open_session", noted)
    done = deploy(folder, "s.json", "--cluster", "local.toml", "--video", "a.mp4", *WRITTEN)
    assert done.returncode == 0, done.stderr
    assert [strategy.input for strategy in deployed] == [InputSpec("uint8")]


class _Frames(list[Picture]):
    count = None
    dropped = 0

    def close(self) -> None:
        """Holds nothing."""
