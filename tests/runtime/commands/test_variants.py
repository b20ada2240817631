"""`deploy-strategy --variants` on workers of this machine, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.cli._stream_report import Tally
from distredge.errors import ExecutionError
from distredge.model.capture import load_model
from distredge.runtime.hosting.local_cluster import LocalCluster
from distredge.strategy import Strategy
from tests.runtime.commands.conftest import LOCAL, Done, deploy
from tests.runtime.conftest import DEVICES

MODEL = "mobilenet-v1-0.25-224"
LARGE, SMALL = (1, 3, 96, 96), (1, 3, 64, 64)
ARGS = ("--variants", "menu.toml", *LOCAL)


def _entry(accuracy: float | None, shape: tuple[int, ...], strategy: str) -> str:
    said = "" if accuracy is None else f"accuracy = {accuracy}\n"
    return f'[[variant]]\nmodel = "{MODEL}"\n{said}input_shape = {list(shape)}\nstrategy = "plans/{strategy}"\n'


@pytest.fixture
def menu(folder: Path) -> Path:
    """Two resolutions of a small model, one on two workers and one on the third."""
    (folder / "plans").mkdir()
    for name, shape, devices in (("large.json", LARGE, DEVICES[:2]), ("small.json", SMALL, DEVICES[2:])):
        graph = load_model(MODEL, shape)
        last = graph.cuts[-1]
        ends = [round(k * last.height / len(devices)) for k in range(len(devices) + 1)]
        Strategy.make(graph, devices, [(last.index, ends)], head=devices[0]).save(folder / "plans" / name)
    text = 'format = "distredge.menu/1"\n' + _entry(0.45, LARGE, "large.json") + _entry(0.4, SMALL, "small.json")
    (folder / "menu.toml").write_text(text)
    return folder


@pytest.fixture
def pictures(menu: Path) -> Path:
    """Three pictures and a file that is none."""
    rng = np.random.default_rng(0)
    (menu / "in").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(menu / "in" / f"{number}.png")
    (menu / "in" / "1b.png").write_text("no picture")
    return menu


def test_the_most_accurate_runs_where_there_is_time(menu: Path) -> None:
    done = deploy(menu, *ARGS, "--latency-limit-ms", "60000", "--repeat", "4", "--json", "--timeline", "t.json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["frames"], found["selection_reliability"], found["mean_accuracy"]) == (4, 1.0, pytest.approx(0.45))
    assert [variant["frames"] for variant in found["variants"]] == [4, 0]
    assert [variant["name"] for variant in found["variants"]] == [f"{MODEL} 1x3x96x96", f"{MODEL} 1x3x64x64"]
    assert (found["switches"], found["none_predicted_in_time"], found["lossless"]) == (0, 0, True)
    assert found["correct"] is True
    assert found["largest_relative_difference"] <= 1e-5
    assert all(variant["predicted_latency_s"] > 0 for variant in found["variants"])
    assert json.loads((menu / "t.json").read_text())["traceEvents"]


def test_where_none_is_in_time_the_fastest_runs_and_counts_as_late(menu: Path) -> None:
    done = deploy(menu, *ARGS, "--latency-limit-ms", "0.001", "--repeat", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["selection_reliability"], found["mean_accuracy"], found["none_predicted_in_time"]) == (0.0, None, 3)
    assert sum(variant["frames"] for variant in found["variants"]) == 3


def test_a_stream_says_of_each_picture_which_variant_it_took(pictures: Path) -> None:
    done = deploy(
        pictures, *ARGS, "--latency-limit-ms", "60000", "--images", "in", "--out", "out.jsonl", "--report", "r.json",
        "--timeline", "t.json", "--trace-frame", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((pictures / "t.json").read_text())["traceEvents"]
    lines = [json.loads(line) for line in (pictures / "out.jsonl").read_text().splitlines()]
    assert [Path(line["name"]).name for line in lines] == ["0.png", "1.png", "1b.png", "2.png"]
    good = [line for line in lines if "error" not in line]
    assert len(good) == 3
    assert {line["variant"] for line in good} == {f"{MODEL} 1x3x96x96"}
    assert all(line["in_time"] and line["predicted_latency_s"] > 0 for line in good)
    report = json.loads((pictures / "r.json").read_text())
    assert (report["done"], report["failed_frames"], report["lost"], report["out_of_order"]) == (3, 1, 0, 0)
    assert report["selection_reliability"] == 1.0
    assert f"({MODEL} 1x3x96x96)" in done.stdout
    assert "within 60000 ms: 100.0 %, mean accuracy of those 45.0 %" in done.stdout


def test_an_interrupt_keeps_what_was_done(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distredge.cli._variant_report import VariantMeaning

    says = VariantMeaning.__call__

    def interrupted(self, result):
        os.kill(os.getpid(), signal.SIGINT)
        return says(self, result)

    monkeypatch.setattr(VariantMeaning, "__call__", interrupted)
    done = deploy(
        pictures, *ARGS, "--latency-limit-ms", "60000", "--images", "in", "--out", "out.jsonl", "--report", "r.json"
    )
    assert done.returncode == 130
    assert len((pictures / "out.jsonl").read_text().splitlines()) == 1
    report = json.loads((pictures / "r.json").read_text())
    assert (report["interrupted"], report["frames"]) == (True, 1)


def test_a_variant_that_lacks_a_worker_is_not_taken(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one can run, only the picture fails that is under way when it is lost."""
    for number in range(3, 30):
        shutil.copy(pictures / "in" / "0.png", pictures / "in" / f"{number}.png")
    made: list[LocalCluster] = []
    enter = LocalCluster.__enter__
    monkeypatch.setattr(LocalCluster, "__enter__", lambda self: made.append(self) or enter(self))
    add = Tally.add

    def counted(self: Tally, frame) -> None:
        add(self, frame)
        if frame.number == 3:
            os.kill(made[0].pids["beta"], signal.SIGKILL)

    monkeypatch.setattr(Tally, "add", counted)
    done = deploy(pictures, *ARGS, "--latency-limit-ms", "60000", "--images", "in", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((pictures / "r.json").read_text())
    assert (report["frames"], report["lost"], report["ended_early"]) == (31, 0, None)
    # One is no picture; besides it one may have been under way, and the next one have begun.
    assert report["failed_frames"] <= 3
    assert [variant["name"] for variant in report["variants"] if variant["frames"] > 15] == [f"{MODEL} 1x3x64x64"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_disk_that_is_full_leaves_the_report(pictures: Path) -> None:
    args = ("--latency-limit-ms", "60000", "--images", "in", "--out", "/dev/full", "--report", "r.json", "--no-check")
    done = deploy(pictures, *ARGS, *args)
    assert (done.returncode, done.stderr) == (2, "error: /dev/full: cannot be written: No space left on device\n")
    assert json.loads((pictures / "r.json").read_text())["frames"] == 1


def test_a_timeline_that_cannot_be_had_is_said(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.cli._variant_run.traced", _no_timeline)
    args = ("--latency-limit-ms", "60000", "--images", "in/1b.png", "--timeline", "t.json", "--json", "--no-check")
    done = deploy(pictures, *ARGS, *args)
    assert done.returncode == 1
    assert done.stderr.startswith("no timeline: no worker says\nerror: all 1 pictures failed; the first: ")
    assert not (pictures / "t.json").exists()


def _no_timeline(*_: object) -> None:
    raise ExecutionError("no worker says")


@pytest.mark.slow
def test_variants_without_a_strategy_are_planned(menu: Path) -> None:
    text = (menu / "menu.toml").read_text().replace('strategy = "plans/small.json"\n', "")
    (menu / "menu.toml").write_text(text)
    done = deploy(menu, *ARGS, "--latency-limit-ms", "60000", "--json")
    assert done.returncode == 0, done.stderr
    assert f"planning {MODEL} 1x3x64x64" in done.stderr
    assert json.loads(done.stdout)["done"] == 1


LIMIT = ("--latency-limit-ms", "100")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((*ARGS,), "give --latency-limit-ms"),
        ((*LOCAL, *LIMIT, "s.json"), "give --variants MENU"),
        ((*LOCAL,), "Missing argument 'STRATEGY' (or --variants MENU)"),
        (("s.json", *ARGS, *LIMIT), "STRATEGY does not go with --variants: the menu names the strategies"),
        ((*ARGS, *LIMIT, "--replan"), "--replan does not go with --variants: a lost worker is waited for"),
        ((*ARGS, *LIMIT, "--in-flight", "2"), "--in-flight does not go with --variants"),
        ((*ARGS, *LIMIT, "--model", MODEL), "--model does not go with --variants: the menu names the models"),
        ((*ARGS, *LIMIT, "--log", "log"), "--log does not go with --variants"),
        ((*ARGS, "--latency-limit-ms", "0"), "latency-limit-ms"),
        ((*ARGS, *LIMIT, "--images", "nowhere"), "nowhere"),
        ((*ARGS, *LIMIT, "--image", "nothing.png"), "nothing.png: no such file"),
        (("--variants", "nothing.toml", *LOCAL, *LIMIT), "nothing.toml: cannot be read"),
    ],
)
def test_one_line_for_what_does_not_go_together(menu: Path, args: tuple[str, ...], text: str) -> None:
    _refused(deploy(menu, *args), text)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (_entry(None, LARGE, "large.json"), f"menu.toml: variant[0] ('{MODEL}'): the key 'accuracy' is missing"),
        (_entry(0.4, LARGE, "large.json") + _entry(0.5, LARGE, "large.json"), "1x3x96x96' stands twice"),
        (_entry(0.4, SMALL, "large.json"), "the strategy is for another model"),
        (_entry(0.4, LARGE, "nothing.json"), "plans/nothing.json: "),
        ('[[variant]]\nmodel = "mobilenet-v9"\naccuracy = 0.4\n', "mobilenet-v9"),
        ('[[variant]]\nmodel = "small.onnx"\naccuracy = 0.4\n', "does not say how a picture becomes its input"),
    ],
)
def test_one_line_for_what_is_wrong_with_a_menu(menu: Path, entry: str, text: str) -> None:
    (menu / "menu.toml").write_text('format = "distredge.menu/1"\n' + entry)
    _refused(deploy(menu, *ARGS, *LIMIT), text)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--images", "nowhere"), "nowhere: no such file or folder"),
        (("--images", "in", "--annotate", "drawn"), "finds no boxes to be drawn"),
        (("--images", "in", "--prometheus", "0.0.0.256:1"), "cannot listen at 0.0.0.256:1 for Prometheus"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_planned(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr("distredge.cli._variant_frames._planned", _no_timeline)
    planned = (pictures / "menu.toml").read_text().replace('strategy = "plans/large.json"\n', "")
    (pictures / "menu.toml").write_text(planned)
    _refused(deploy(pictures, *ARGS, *LIMIT, *args), text)


def test_a_strategy_for_other_devices_is_said_before_the_others_are_planned(menu: Path, monkeypatch) -> None:
    monkeypatch.setattr("distredge.cli._variant_frames._planned", _no_timeline)
    planned = (menu / "menu.toml").read_text().replace('strategy = "plans/large.json"\n', "")
    (menu / "menu.toml").write_text(planned)
    (menu / "local.toml").write_text((menu / "local.toml").read_text().replace("gamma", "delta"))
    _refused(deploy(menu, *ARGS, *LIMIT), "gamma")


def test_what_watches_says_that_there_are_variants(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = []
    monkeypatch.setattr("distredge.cli._stream_observers.observers", lambda *args: titles.append(args[3]) or [])
    done = deploy(pictures, *ARGS, "--latency-limit-ms", "60000", "--images", "in")
    assert (done.returncode, titles) == (0, ["2 variants of menu.toml"])


def _refused(done: Done, text: str) -> None:
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert done.stdout == ""


def test_a_frame_that_cannot_end_is_named(menu: Path) -> None:
    done = deploy(menu, *ARGS, *LIMIT, "--deadline", "0.0001")
    assert done.returncode == 1
    assert "no result within" in done.stderr or "no room" in done.stderr


@pytest.mark.slow
def test_on_boards_whose_workers_run_already(boards, menu: Path) -> None:
    done = deploy(
        menu, "--variants", "menu.toml", "--cluster", "boards.toml", "--latency-limit-ms", "0.001", "--json",
        "--repeat", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["workers"], found["encrypted"], found["done"], found["correct"]) == ("boards", True, 2, True)
    assert min(found["prepared_s"], found["weights_sent_bytes"]) > 0
