"""Watching a stream of `deploy-strategy` on workers of this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.model import zoo
from tests.runtime.commands.conftest import deploy, write_cluster
from tests.runtime.conftest import DEVICES, make_strategy

SHAPE = (1, 3, 64, 64)
ARGS = ("m.json", "--model", "mobilenet-v1", "--input-shape", "1,3,64,64", "--cluster", "local.toml", "--no-check")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a strategy for a model that takes pictures, and six of these."""
    make_strategy(zoo.build("mobilenet-v1", input_shape=SHAPE), [(2, 1, 1), (1, 1, 2)]).save(tmp_path / "m.json")
    write_cluster(tmp_path / "local.toml", [0] * 6)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        picture = Image.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8))
        picture.save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def test_what_is_seen_of_a_stream(pictures: Path) -> None:
    """The report's sections, the log's tags, the lines on stderr, and the trace of the frame that was slowest."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    done = deploy(
        pictures, *ARGS, "--images", "pictures", "--in-flight", "2", "--watch", "--json", "--log", "log",
        "--timeline", "t.json", "--trace-frame", "slowest", "--out", "out.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    devices = found["watch"]["devices"]
    assert set(devices) <= set(DEVICES)
    assert all(device["clock_error_s"] >= abs(device["clock_offset_s"]) for device in devices.values())
    assert found["watch"]["faults"] == []
    frames = [json.loads(line) for line in (pictures / "out.jsonl").read_text().splitlines()]
    slowest = max(frames, key=lambda frame: frame["latency_s"])
    assert (found["trace"]["frame"], found["trace"]["latency_s"]) == (slowest["frame"], slowest["latency_s"])
    details = json.loads((pictures / "t.json").read_text())["otherData"]["details"]
    assert set(details["clock_error_s"]) == set(DEVICES)
    assert found["trace"]["clock_error_s"] == details["clock_error_s"]
    assert re.search(r"^\d\d:\d\d, 6 frames, [\d.]+ images/s, latency p50 ", done.stderr, re.MULTILINE)
    (own,) = (path for path in (pictures / "log").iterdir() if path.is_file())
    for tag in (b"devices/busy_share/", b"devices/queued_stages/", b"stream/latency_p99_ms", b"strategy/timeline"):
        assert tag in own.read_bytes()


def test_without_a_terminal_nothing_is_drawn(pictures: Path) -> None:
    args = ("--images", "pictures/*.png", "--report", "r.json", "--timeline", "t.json", "--trace-frame", "5")
    done = deploy(pictures, *ARGS, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^traced: frame 5, [\d.]+ ms; clocks agree to [\d.]+ ms\n", done.stdout, re.MULTILINE)
    assert json.loads((pictures / "r.json").read_text())["watch"]["devices"]


def test_a_frame_that_cannot_be_traced_is_a_failure(pictures: Path) -> None:
    """And with --no-watch nobody is asked how they are."""
    args = ("--images", "pictures", "--no-watch", "--report", "r.json", "--timeline", "t.json", "--trace-frame", "6")
    done = deploy(pictures, *ARGS, *args)
    why = "there was no frame 6: the stream had 6 frames, counted from 0: the last is 5"
    assert (done.returncode, done.stderr) == (1, f"error: no timeline is written: {why}\n")
    assert "6 done" in done.stdout
    assert not (pictures / "t.json").exists()
    report = json.loads((pictures / "r.json").read_text())
    assert "watch" not in report
    assert report["trace"] == {"error": why}


def test_a_view_that_fails_is_said_once_and_the_stream_goes_on(pictures: Path, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such column")

    monkeypatch.setattr("distredge.monitor.live_view.LinesView.show", fails)
    done = deploy(pictures, *ARGS, "--images", "pictures", "--watch", "--report", "r.json")
    assert done.returncode == 0
    assert done.stderr == "the stream goes on without LinesView: ValueError: no such column\n"
    report = json.loads((pictures / "r.json").read_text())
    assert (report["done"], report["watch"]["faults"]) == (6, ["LinesView: ValueError: no such column"])


@pytest.mark.slow
def test_on_a_terminal(pictures: Path) -> None:
    """What is drawn is on stderr; on a terminal results appear above it, and the cursor is there again at the end."""
    screen, end = pty.openpty()
    code = "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()"
    command = [sys.executable, "-c", code, *ARGS, "--images", "pictures"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, cwd=pictures, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    written = b""
    try:
        while piece := _read(screen):
            written += piece
        assert process.wait(30) == 0, written
    finally:
        process.kill()
        os.close(screen)
    text = written.decode()
    assert "mobilenet-v1 on 3 devices" in text
    assert re.search(r"alpha +(idle|running)", text)
    assert [int(n) for n in re.findall(r"(\d) +[\d.]+ ms  pictures/\d.png", text)] == [0, 1, 2, 3, 4, 5]
    assert (text.count("\x1b[?25l"), text.count("\x1b[?25h")) == (1, 1)
    assert text.index("\x1b[?25h") < text.index("6 done in")


def test_for_machines_on_a_terminal(pictures: Path) -> None:
    """What is drawn on the terminal is the view alone, and not the progress as well."""
    screen, end = pty.openpty()
    code = "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()"
    command = [sys.executable, "-c", code, *ARGS, "--images", "pictures", "--watch", "--json"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    drawn: list[bytes] = []
    reader = threading.Thread(target=lambda: drawn.extend(iter(lambda: _read(screen), b"")))
    with subprocess.Popen(command, cwd=pictures, stdout=subprocess.PIPE, stderr=end, env=environment) as process:
        os.close(end)
        reader.start()
        try:
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            reader.join()
            os.close(screen)
    assert process.returncode == 0
    assert json.loads(said)["done"] == 6
    text = b"".join(drawn).decode()
    assert "mobilenet-v1 on 3 devices" in text
    assert (text.count("\x1b[?25l"), text.count("\x1b[?25h")) == (1, 1)


def _read(screen: int) -> bytes:
    """What is written next; nothing once nobody can write any more."""
    try:
        return os.read(screen, 65536)
    except OSError:
        return b""


def test_prometheus_asks_while_the_stream_runs(pictures: Path) -> None:
    """A process of its own, whose stream goes on until its figures have been asked for."""
    pytest.importorskip("prometheus_client")
    code = "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()"
    command = [sys.executable, "-c", code, *ARGS, "--images", "-", "--prometheus", "0", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=pictures, **pipes) as process:
        try:
            said = process.stderr.readline()
            url = re.search(r"Prometheus may ask at (http://127\.0\.0\.1:\d+/metrics) \(Grafana dashboard: ", said)[1]
            process.stdin.write("pictures/0.png\npictures/1.png\n")
            process.stdin.flush()
            until_s = time.monotonic() + 30
            wanted = {"distredge_frames_total 2.0", 'distredge_device_frames_total{device="alpha"} 2.0'}
            while not wanted <= set((figures := _asked(url)).splitlines()):
                assert time.monotonic() < until_s, figures
                time.sleep(0.05)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == 2


def _asked(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--watch",), "--watch is for a stream: give --images or --video"),
        (("--prometheus", "9400"), "--prometheus is for a stream: give --images or --video"),
        (("--trace-frame", "1"), "--trace-frame is for a stream: give --images or --video"),
        (("--images", "pictures", "--trace-frame", "1"), "--trace-frame says which frame --timeline writes"),
        (("--images", "pictures", "--trace-frame", "best", "--timeline", "t"), "'best' is not a frame to trace: "),
        (("--images", "pictures", "--prometheus", "here"), "'here' is not where figures can be asked for: accepted is"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(pictures: Path, args: tuple[str, ...], said: str) -> None:
    done = deploy(pictures, *ARGS, *args)
    assert done.returncode == 2
    assert said in done.stderr
