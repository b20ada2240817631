"""Nothing of the current folder is run: not by children, not by commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from distredge.child_processes import leave_current_folder, python_command, python_environment
from distredge.runtime.hosting.background import background_workers
from distredge.runtime.hosting.message_costs import _end
from distredge.testbed.relays import Relays

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("msgspec", "numpy", "zmq", "click", "psutil", "onnxruntime", "runpy", "distredge")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, full of modules that leave a mark when they are run."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    mark = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n"
    for name in MODULES[:-1]:
        (folder / f"{name}.py").write_text(mark)
    (folder / "distredge" / "runtime").mkdir(parents=True)
    for path in ("__init__.py", "runtime/__init__.py"):
        (folder / "distredge" / path).write_text(mark)
    (folder / "cluster.toml").write_text(
        'format = "distredge.cluster/1"\nname = "hostile"\n[requester]\nlink = { rate_bps = "unbounded" }\n'
        '[[device]]\nname = "a"\nprofile = "default:nano"\nlink = { rate_bps = 1e9 }\ncontrol_port = 0\n'
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@pytest.fixture
def console_script(tmp_path: Path) -> str:
    """What an installation makes of an entry point, in a folder of its own."""
    script = tmp_path / "bin" / "distredge"
    script.parent.mkdir()
    script.write_text("import sys\nfrom distredge.cli.main import main\nsys.exit(main())\n")
    return str(script)


def ran(hostile: Path) -> str:
    """What of the hostile folder has been run."""
    mark = hostile.with_name("ran")
    return mark.read_text() if mark.exists() else ""


def command(path: str, arguments: Sequence[str], more: Mapping[str, str] | None = None) -> str:
    """Runs a program of Python in the current folder with a PYTHONPATH; returns its output."""
    environment = {**os.environ, "PYTHONPATH": path, **(more or {})}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hostile_folder_is_hostile(hostile: Path) -> None:
    command("", ["-c", "import msgspec"])
    assert ran(hostile) == "msgspec"


@pytest.mark.parametrize("path", [str(ROOT), f"{ROOT}:", f"{ROOT}:."])
def test_a_workers_process_runs_nothing_of_the_current_folder(hostile: Path, monkeypatch, path: str) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(
        python_command("distredge.runtime.worker"),
        env=python_environment(), input="{}\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "not an order" in done.stderr
    assert ran(hostile) == ""


def test_every_kind_of_child_runs_nothing_of_the_current_folder(hostile: Path) -> None:
    with _end("a", None) as end:
        assert end
    relays = Relays(2, 1)
    try:
        assert relays.open([(0, "tcp://127.0.0.1:1")])
    finally:
        relays.close()
    assert ran(hostile) == ""


@pytest.mark.parametrize("path", [str(ROOT), f"{ROOT}:", f"{ROOT}::."])
def test_commands_and_their_workers_run_nothing_of_the_current_folder(
    hostile: Path, console_script: str, path: str
) -> None:
    told = json.loads(command(path, [console_script, "cluster", "start", "cluster.toml", "--json"]))
    try:
        assert list(told) == list(background_workers("hostile")) == ["a"]
    finally:
        command(path, [console_script, "cluster", "stop", "cluster.toml"])
    assert ran(hostile) == ""


def test_the_package_run_as_a_module_leaves_the_current_folder(hostile: Path) -> None:
    # What Python itself takes from there, before any of this project's code, is its own.
    shutil.rmtree(hostile / "distredge")
    (hostile / "runpy.py").unlink()
    made = json.loads(command(str(ROOT), ["-m", "distredge", "keys", "cluster.toml", "--json"]))
    assert made["files"]
    assert ran(hostile) == ""


def test_a_testbeds_owner_runs_nothing_of_the_current_folder(hostile: Path, console_script: str) -> None:
    told = ("up", "--cluster", "cluster.toml", "--name", "hostile", "--mode", "loopback")
    command(str(ROOT), [console_script, "testbed", *told])
    command(str(ROOT), [console_script, "testbed", "down", "hostile"])
    assert ran(hostile) == ""


def test_python_is_started_in_one_way() -> None:
    """A test's list of children is complete: `sys.executable` stands nowhere else."""
    found = {
        str(path.relative_to(ROOT))
        for top in ("distredge", "agents", "envs", "profiles")
        for path in (ROOT / top).rglob("*.py")
        if "sys.executable" in path.read_text()
    }
    # The watchdog is run by its path, isolated, and imports nothing of the package; `look` has it in a script for the
    # Python of another computer.
    assert found == {"distredge/child_processes.py", "distredge/remote/look.py", "distredge/testbed/namespaces.py"}


def test_what_is_left_out_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, other = str(tmp_path), str(tmp_path / "other")
    after = ["/usr/lib/python3", str(ROOT)]
    for path, before, left in (
        ("", [here, *after], [*after]),
        ("", ["", "relative", *after], [*after]),
        (f"{other}:", [other, here, *after], [other, *after]),
        ("other", [other, *after], [*after]),
        (here, [here, *after], [here, *after]),
        ("", [*after, here], [*after, here]),
    ):
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setattr(sys, "path", list(before))
        leave_current_folder()
        assert sys.path == left, path
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *after])
    leave_current_folder()
    assert sys.path == [str(ROOT), *after]


@pytest.mark.parametrize(
    ("path", "kept"), [("/a", "/a"), ("/a:", "/a"), (":/a::b:/c", "/a:/c"), ("", None), (".", None)]
)
def test_of_a_path_children_are_given_what_is_absolute(monkeypatch, path: str, kept: str | None) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    assert python_environment().get("PYTHONPATH") == kept


def test_a_users_own_model_does_not_bring_the_folders_packages(hostile: Path, monkeypatch) -> None:
    (hostile / "own_model.py").write_text(
        "import html.parser\nimport own_blocks\ndef make():\n    return own_blocks.blocks()\n"
    )
    (hostile / "own_blocks.py").write_text(
        "import torch\ndef blocks():\n    module = torch.nn.Conv2d(3, 2, 3)\n"
        "    module.example = torch.zeros(1, 3, 8, 8)\n    return module\n"
    )
    (hostile / "html").mkdir()
    (hostile / "html" / "__init__.py").write_text((hostile / "zmq.py").read_text())
    for name in ("html", "html.parser", "html.entities"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = list(sys.path)
    from distredge.model.capture import load_model

    assert load_model("own_model:make").input_shapes == ((1, 3, 8, 8),)
    assert ran(hostile) == ""
    assert sys.path == before
