"""README's "With boards, by hand", line by line, on boards that are folders and loopback addresses of this machine.

A board has in its folder what was made there and what the lines brought it, nothing else; `ssh` and `scp` are scripts
that go from folder to folder.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distredge.profiles.measuring.bench import Effort
from distredge.profiles.measuring.board import MeasuringPlan
from tests.runtime.commands.conftest import Done, deploy, distredge

ROOT = Path(__file__).resolve().parents[3]
BOARDS = ("nano-0", "nano-1")

_SSH = """#!/bin/sh
cd "$BOARDS/$1" && shift && exec "$@"
"""
_SCP = """#!/bin/bash
place() { case "$1" in *:*) echo "$BOARDS/${1%%:*}/${1#*:}" ;; *) echo "$1" ;; esac; }
files=()
for word; do [ "$word" = -p ] || files+=("$(place "$word")"); done
exec cp -p "${files[@]}"
"""


class Walk:
    """The places of the walk, and what was done there.

    Args:
        root: for everything.
    """

    def __init__(self, root: Path) -> None:
        pid = os.getpid()
        # Two runs of this test on one machine do not meet.
        self.addresses = {name: f"127.{64 + (pid >> 8) % 128}.{pid % 256}.{i + 2}" for i, name in enumerate(BOARDS)}
        self.places = {name: root / "boards" / self.addresses[name] for name in BOARDS} | {"laptop": root / "laptop"}
        for place in self.places.values():
            place.mkdir(parents=True)
            # Models of the zoo are everywhere; this one stands for them.
            onnx.save(tiny_cnn(), str(place / "tiny.onnx"))
        tools = root / "tools"
        tools.mkdir()
        for name, script in (("ssh", _SSH), ("scp", _SCP)):
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        self.environment = os.environ | {
            "BOARDS": str(root / "boards"),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.said: list[str] = []

    def give(self, place: str, line: str) -> None:
        """Gives a line of the README at its place, on the small model."""
        for name, address in zip(BOARDS, ("192.168.1.11", "192.168.1.12"), strict=True):
            line = line.replace(address, self.addresses[name])
        line = line.replace(" --image photo.jpg", "")
        # A strategy names its model only where that is one of the zoo.
        line = line.replace("deploy-strategy", "deploy-strategy --model tiny.onnx").replace("resnet50", "tiny.onnx")
        line = line.replace("profile run", "profile run --quick").replace("probe", "probe --repeats 2")
        words = shlex.split(line)
        folder = self.places[place]
        if words[:2] == ["distredge", "worker"]:
            self.workers[place] = self.start(folder, *words[1:])
            assert self.workers[place].stdout is not None
            said = self.workers[place].stdout.readline()
            assert said.startswith(f"worker '{place}': control tcp://{self.addresses[place]}:5700, data "), said
            assert "waits for the requester to deploy or probe; Ctrl-C ends it" in said
            return
        if words[0] in ("distredge", "deploy-strategy"):
            run = distredge if words[0] == "distredge" else deploy
            done = run(folder, *words[1:])
        else:
            done = self.outside(folder, line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        self.said.append(done.stdout)
        if words[1:2] == ["keys"]:
            self._copy(done.stdout)
        if words[1:2] == ["probe"]:
            self._paste(done.stdout)

    def _copy(self, said: str) -> None:
        for command in (line.strip() for line in said.splitlines() if line.startswith("    ")):
            done = self.outside(self.places["laptop"], command)
            assert done.returncode == 0, f"{command}: {done.stderr}"

    def _paste(self, said: str) -> None:
        file = self.places["laptop"] / "cluster.toml"
        text = file.read_text()
        for name in BOARDS:
            ways = re.search(rf"for {name} in the cluster file, in place of its link:\n +(.+)\n +(.+)\n", said)
            assert ways is not None, said
            before, middle, after = text.partition(f'name = "{name}"')
            after, count = re.subn(r"^link = .*$", f"{ways[1]}\n{ways[2]}", after, count=1, flags=re.MULTILINE)
            assert count == 1
            text = before + middle + after
        file.write_text(text)
        # No rate that was guessed is left.
        assert "rate_bps = 1e+08" not in text

    def start(self, folder: Path, *words: str) -> subprocess.Popen[str]:
        """Starts `distredge` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "distredge", *words],
            cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def outside(self, folder: Path, line: str) -> Done:
        """Gives a shell's line."""
        done = subprocess.run(
            line, shell=True, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    effort = Effort(least=2, most=3, least_s=0.0, seconds=0.01, spread=1.0)
    brief = MeasuringPlan(60.0, points=2, start=2, effort=effort, segments=2, power_s=0.1)
    monkeypatch.setattr("distredge.profiles.measuring.board.QUICK", brief)
    made = Walk(tmp_path)
    try:
        yield made
    finally:
        for worker in made.workers.values():
            worker.terminate()
        for worker in made.workers.values():
            worker.communicate(timeout=20)


def tiny_cnn() -> onnx.ModelProto:
    """Two convolutions: a board has measured them soon."""
    rng = np.random.default_rng(5)
    weights = {"w1": rng.standard_normal((4, 3, 3, 3)), "w2": rng.standard_normal((4, 4, 3, 3))}
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1"], ["c1"], **conv),
            helper.make_node("Conv", ["c1", "w2"], ["c2"], **conv),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 24, 16))],
        [helper.make_tensor_value_info("c2", TensorProto.FLOAT, (1, 4, 24, 16))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def readme_lines() -> list[tuple[str, str]]:
    """Place and line of every command in "With boards, by hand"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## With boards, by hand\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [(m[1], m[2]) for block in blocks for m in re.finditer(r"^([\w-]+)\$ (.+)$", block, re.MULTILINE)]


def test_each_line_works_with_what_the_lines_before_it_left(walk: Walk) -> None:
    lines = readme_lines()
    assert len(lines) == 11
    for place, line in lines:
        walk.give(place, line)
    for name in BOARDS:
        there = {str(path.relative_to(walk.places[name])) for path in walk.places[name].rglob("*") if path.is_file()}
        brought = {"tiny.onnx", f"{name}.json", "cluster.toml", "keys/public.json", f"keys/{name}.secret"}
        assert {path for path in there if not path.startswith("state/")} == brought
        secret = walk.places[name] / "keys" / f"{name}.secret"
        assert (stat.S_IMODE(secret.stat().st_mode), secret.read_text().count("\n")) == (0o600, 1)
    # Whatever the planner thought of distributing so little, here it is distributed.
    walk.give("laptop", "distredge plan --model resnet50 --cluster cluster.toml --method modnn --out s.json")
    walk.give("laptop", "deploy-strategy s.json --cluster cluster.toml --json")
    told = json.loads(walk.said[-1])
    assert (told["workers"], told["encrypted"], told["correct"]) == ("boards", True, True)
