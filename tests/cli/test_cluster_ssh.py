"""`distredge cluster` by ssh: boards are set up, their workers run, are asked, upgraded and ended."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from distredge.cli._cluster_lines import BoardLines, cluster_text, link_line
from distredge.remote.key_set import complete_keys
from distredge.remote.look import HOME
from distredge.remote.wheel import own_wheel
from distredge.runtime.protocol.security import read_keys
from tests.remote.conftest import ROOT, boards, installable, installed, program  # noqa: F401
from tests.runtime.commands.conftest import Done, distredge, ports  # noqa: F401

Make = Callable[..., Path]

_QUICK = ("--no-profile", "--no-probe", "--yes")


@pytest.fixture
def two(tmp_path: Path, installed: Make, ports: list[int]) -> Iterator[tuple[Path, dict[str, Path]]]:  # noqa: F811
    """A folder with a cluster file of two boards of this machine, with keys; their workers are ended at the end."""
    homes = {name: installed(name) for name in ("one", "two")}
    lines = [
        BoardLines(name, f"127.0.0.1:{ports[2 * k]}", "default:pi3", 1, (link_line("link", 1e9, 0.001),), f"pi@{name}")
        for k, name in enumerate(homes)
    ]
    text = re.sub(r"^data_port = .*\n", "", cluster_text("c", lines), flags=re.MULTILINE)
    for k, name in enumerate(homes):
        text = text.replace(f'ssh = "pi@{name}"', f'data_port = {ports[2 * k + 1]}\nssh = "pi@{name}"')
    (tmp_path / "c.toml").write_text(text)
    complete_keys(tmp_path / "keys", tuple(homes))
    yield tmp_path, homes
    if (tmp_path / "boards" / "ssh.log").exists():
        distredge(tmp_path, "cluster", "stop", "c.toml")


def _worker_folder(home: Path, name: str) -> Path:
    return home / HOME / "workers" / "c" / name


def _runs(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid(home: Path, name: str) -> int:
    return int((_worker_folder(home, name) / "worker.pid").read_text().split()[0])


def test_boards_that_work_are_written_and_those_that_do_not_are_named(
    tmp_path: Path, boards: Make, installed: Make  # noqa: F811
) -> None:  # fmt: skip
    installed("nano-0")
    boards("nano-1", "ssh: connect to host nano-1 port 22: Connection refused\n")
    program(boards("old"), "uname", "#!/bin/sh\n[ $1 = -m ] && echo armv7l || echo Linux\n")
    told = ("pi@nano-0", "pi@nano-1", "pi@old", *_QUICK, "--profile", "nano-0=default:pi4")
    done = distredge(tmp_path, "cluster", "init", "c.toml", *told, "--json")
    assert done.returncode == 1
    assert "pi@nano-1: it refuses the connection" in done.stderr
    assert "pi@old: its processor is armv7l" in done.stderr
    said = json.loads(done.stdout)
    assert said["devices"] == ["nano-0"]
    assert set(said["failed"]) == {"pi@nano-1", "pi@old"}
    text = (tmp_path / "c.toml").read_text()
    assert 'ssh = "pi@nano-0"' in text
    assert 'profile = "default:pi4"' in text
    assert "threads = 4" in text
    assert "nano-1" not in text
    assert read_keys(tmp_path / "keys", "nano-0").name == "nano-0"


def test_the_same_command_goes_on_and_takes_others_in(
    tmp_path: Path, boards: Make, installed: Make  # noqa: F811
) -> None:  # fmt: skip
    installed("nano-0")
    assert distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-0", *_QUICK).returncode == 0
    before = read_keys(tmp_path / "keys", "requester")
    installed("nano-1")
    done = distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-0", "pi@nano-1", *_QUICK)
    assert done.returncode == 0, done.stderr
    assert "installs" not in done.stderr
    after = read_keys(tmp_path / "keys", "requester")
    assert dict(after.public) == {**before.public, "nano-1": read_keys(tmp_path / "keys", "nano-1").public["nano-1"]}
    text = (tmp_path / "c.toml").read_text()
    assert [line for line in text.splitlines() if line.startswith("name")] == [
        'name = "c"', 'name = "nano-0"', 'name = "nano-1"'
    ]  # fmt: skip
    (tmp_path / "c.toml").write_text("# mine\n" + text)
    edited = distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-1", *_QUICK)
    assert edited.returncode == 2
    assert "was edited since it was written" in edited.stderr


@pytest.mark.slow  # takes the usual data port, since the command chooses it
def test_links_that_were_not_measured_are_measured_by_the_same_command(
    tmp_path: Path, installed: Make, ports: list[int]  # noqa: F811
) -> None:  # fmt: skip
    installed("nano-0")
    told = ("cluster", "init", "c.toml", "pi@nano-0", "--address", f"nano-0=127.9.8.7:{ports[0]}", "--no-profile")
    assert distredge(tmp_path, *told, "--no-probe").returncode == 0
    assert "link = { rate_bps = 1e+08" in (tmp_path / "c.toml").read_text()
    assert distredge(tmp_path, "cluster", "start", "c.toml").returncode == 0
    try:
        done = distredge(tmp_path, *told)
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "c.toml").read_text()
        assert "uplink = { rate_bps = " in text
        assert "1e+08" not in text
    finally:
        ended = distredge(tmp_path, "cluster", "stop", "c.toml", "--json")
    assert json.loads(ended.stdout)["stopped"] == ["nano-0"]


def test_nothing_is_written_where_no_board_works(tmp_path: Path, boards: Make) -> None:  # noqa: F811
    boards("nano-0", "pi@nano-0: Permission denied (publickey,password).\n")
    done = distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-0", *_QUICK, "--batch")
    assert done.returncode == 1
    assert "ssh-copy-id pi@nano-0" in done.stderr
    assert not (tmp_path / "c.toml").exists()
    assert not (tmp_path / "keys").exists()


def test_a_board_whose_engine_runs_under_an_older_python(
    tmp_path: Path, installable: Make, installed: Make, ports: list[int]  # noqa: F811
) -> None:  # fmt: skip
    home = installable("old")
    installed("new")
    where = [f"--address={name}=127.9.8.{k}:{ports[k]}" for k, name in enumerate(("old", "new"), 1)]
    told = ("cluster", "init", "c.toml", "pi@old", "pi@new", *where)
    other = ("--engine-python", f"old={sys.executable}")
    plan = distredge(tmp_path, *told, *other, "--dry-run")
    assert f"--threads 1 --engine-python {sys.executable} --name old" in plan.stdout
    assert plan.stdout.count("runtime.worker.worker, onnxruntime") == plan.stdout.count("[engine]") == 1
    done = distredge(tmp_path, *told, *other, *_QUICK)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "c.toml").read_text()
    assert text.count(f'engine_python = "{sys.executable}"') == 1
    asked = (home / HOME / "venv" / "pip-asked").read_text()
    assert asked.rstrip().endswith(".whl"), "no ONNX Runtime for the worker's own Python"
    other_engine = distredge(tmp_path, *told, "--engine-python", "old=/usr/bin/python3.6", *_QUICK)
    assert other_engine.returncode == 2
    assert f"old: c.toml has it with engine_python {sys.executable} and provider cpu" in other_engine.stderr
    # Known boards keep it, and nothing is installed anew for want of an ONNX Runtime.
    for given in ((), other):
        again = distredge(tmp_path, *told, *given, *_QUICK)
        assert (again.returncode, "installs" in again.stderr) == (0, False), again.stderr
    had = json.loads(distredge(tmp_path, "cluster", "upgrade", "c.toml", "--json").stdout)
    assert [said["installed"] for said in had.values()] == [False, False]
    try:
        done = distredge(tmp_path, "cluster", "start", "c.toml", "--json")
        assert done.returncode == 0, done.stderr
        seen = json.loads(distredge(tmp_path, "cluster", "status", "c.toml", "--json").stdout)
        assert seen["old"]["engine"] == f"{seen['new']['engine']} (Python {platform.python_version()})"
        doctor = distredge(tmp_path, "doctor", "--cluster", "c.toml", "--no-rates", "--json")
        found = {(f["board"], f["what"]): f for f in json.loads(doctor.stdout)["findings"]}
        assert found["old", "engine"]["state"] == "ok"
        assert ("new", "engine") not in found
    finally:
        distredge(tmp_path, "cluster", "stop", "c.toml")


def test_two_workers_of_a_board_of_which_one_computes_itself(tmp_path: Path, installable: Make) -> None:  # noqa: F811
    """Both run from one environment, which then has an ONNX Runtime whoever was set up last."""
    home = installable("jetson")
    told = ("a=pi@jetson", "b=pi@jetson", "--engine-python", f"b={sys.executable}", *_QUICK)
    done = distredge(tmp_path, "cluster", "init", "c.toml", *told)
    assert done.returncode == 0, done.stderr
    asked = home / HOME / "venv" / "pip-asked"
    assert "[engine]" in asked.read_text()
    (home / HOME / "venv").unlink()
    shutil.rmtree(home / HOME / "venvs")
    done = distredge(tmp_path, "cluster", "upgrade", "c.toml")
    assert done.returncode == 0, done.stderr
    assert "[engine]" in asked.read_text()


# Measures nothing; notes when it begins and ends, and waits for whom it is told to meet.
_MEASURES = """#!/bin/sh
log={log}
echo "begin $HOME" >> "$log"
for meets in {meets}; do
    left=300
    until grep -q "begin .*/$meets$" "$log"; do
        left=$((left - 1)); [ $left -gt 0 ] || {{ echo "error: $meets was not measured meanwhile" >&2; exit 1; }}
        sleep 0.1
    done
done
sleep 0.5  # so that another one that is measured meanwhile shows
while [ "$1" != --out ]; do shift; done
echo '{{}}' > "$2"
echo "end $HOME" >> "$log"
"""


def test_workers_of_one_computer_are_measured_one_after_the_other_and_computers_beside_each_other(
    tmp_path: Path, installed: Make  # noqa: F811
) -> None:  # fmt: skip
    log = tmp_path / "measured.log"
    for name, meets in (("one", "far"), ("two", ""), ("far", "one")):
        home = installed(name)
        (home / HOME / "venv" / "bin" / "distredge").write_text(_MEASURES.format(log=log, meets=meets))
        if name == "far":
            other = '#!/bin/sh\ncase $1 in *boot_id) echo another;; *) exec /bin/cat "$@";; esac\n'
            program(home, "cat", other)
    told = ("cluster", "init", "c.toml", "pi@one", "pi@two", "pi@far", "--no-probe", "--yes")
    done = distredge(tmp_path, *told)
    assert done.returncode == 0, done.stderr
    lines = [line.split("/")[0].strip() for line in log.read_text().splitlines() if not line.endswith("/far")]
    assert lines == ["begin", "end"] * 2


def test_nobody_is_asked_where_there_is_no_terminal(tmp_path: Path, installable: Make) -> None:  # noqa: F811
    home = installable("nano-0")
    done = distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-0")
    assert done.returncode == 2
    assert "accepted: --yes" in done.stderr
    assert not (home / HOME).exists()


def test_a_dry_run_says_what_it_would_run_and_does_nothing(tmp_path: Path, installable: Make) -> None:  # noqa: F811
    home = installable("nano-0")
    done = distredge(tmp_path, "cluster", "init", "c.toml", "pi@nano-0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "-m pip install" in done.stdout
    assert "distredge profile run --quick --model mobilenet-v2" in done.stdout
    assert not (home.parent / "ssh.log").exists()
    assert not (tmp_path / "c.toml").exists()


@pytest.mark.parametrize("command", ["start", "stop", "upgrade"])
def test_every_dry_run_has_an_object_for_machines(two: tuple[Path, dict[str, Path]], command: str) -> None:
    folder, homes = two
    done = distredge(folder, "cluster", command, "c.toml", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["dry_run"]
    assert {step["where"] for step in steps} == {"pi@one", "pi@two"}
    assert all(subprocess.run(["sh", "-n"], input=step["script"], text=True).returncode == 0 for step in steps)
    assert not (homes["one"].parent / "ssh.log").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("c.toml",), "give boards"),
        (("c.toml", "pi@a", "--device", "a=b"), "and not both"),
        (("c.txt", "pi@a"), "a name that ends in .toml"),
        (("c.toml", "--device", "a=b", "--engine-python", "a=/py"), "--engine-python is for boards by ssh"),
        (("c.toml", "--device", "a=b", "--threads", "2"), "--threads is for boards by ssh"),
        (("c.toml", "pi@a", "pi@a"), "stands twice"),
        (("c.toml", "a b=pi@a"), "a name of letters"),
        (("c.toml", "pi@a", "--model", "mine.onnx"), "a model of the zoo"),
        (("c.toml", "pi@a", "--profile", "a=default:none"), "none"),
        (("c.toml", "pi@a", "--ssh-option", "-oX"), "KEY=VALUE"),
        (("c.toml", "pi@nano-0", "--address", "nano-1=192.0.2.7"), "no board 'nano-1' is given"),
        (("c.toml", "pi@a", "--profile", "default:pi4"), "accepted: NAME=VALUE"),
        (("c.toml", "pi@a", "--provider", "a=gpu"), "--provider: found 'gpu', accepted: cpu, cuda, tensorrt"),
        (("c.toml", "pi@a", "--engine-python", "b=python3.6"), "no board 'b' is given"),
        (("c.toml", "pi@a", "--engine-python", "a=-c"), "--engine-python: found '-c', accepted: a path on the board"),
        (("c.toml", "x=pi@a", "x=pi@b"), "the name is pi@a's already"),
        (("c.toml", "-x@a:b:c"), ""),
    ],
)
def test_what_cannot_be_used_is_refused_first(tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    done = distredge(tmp_path, "cluster", "init", *args)
    assert done.returncode == 2
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_workers_start_once_answer_and_end(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    done = distredge(folder, "cluster", "start", "c.toml", "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert {name: said["started"] for name, said in first.items()} == {"one": True, "two": True}
    assert first["one"]["pid"] == _pid(homes["one"], "one")
    again = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    assert {name: (s["pid"], s["started"]) for name, s in again.items()} == {
        name: (said["pid"], False) for name, said in first.items()
    }
    status = distredge(folder, "cluster", "status", "c.toml", "--json")
    assert status.returncode == 0, status.stderr
    seen = json.loads(status.stdout)["one"]
    assert seen["version"] == own_wheel().version
    assert seen["ssh"] == {
        "runner": "process", "pid": first["one"]["pid"], "unit": None, "installed_version": "0.0.9"
    }  # fmt: skip
    logs = json.loads(distredge(folder, "cluster", "logs", "c.toml", "--name", "two", "--json").stdout)
    assert "worker 'two': control tcp://127.0.0.1" in logs["logs"]["two"][0]
    stopped = json.loads(distredge(folder, "cluster", "stop", "c.toml", "--json").stdout)
    assert stopped == {"stopped": ["one", "two"], "failed": {}}
    assert not _runs(first["one"]["pid"])
    assert distredge(folder, "cluster", "status", "c.toml").returncode == 1


def test_a_board_gets_what_its_worker_reads_and_nothing_else(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    assert distredge(folder, "cluster", "start", "c.toml").returncode == 0
    there = _worker_folder(homes["one"], "one")
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    own = {"worker.pid", "worker.stamp", "worker.options", "worker.log"}
    assert files - own == {"c.toml", "keys/public.json", "keys/one.secret"}
    assert stat.S_IMODE((there / "keys" / "one.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    assert "ssh" not in (there / "c.toml").read_text()


def test_following_logs_ends_with_ctrl_c_however_often(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    for name, home in homes.items():
        there = _worker_folder(home, name)
        there.mkdir(parents=True)
        (there / "worker.log").write_text(f"{name} says this\n")
    code = "from distredge.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "cluster", "logs", "c.toml", "--follow"], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert {process.stdout.readline() for _ in homes} == {"one: one says this\n", "two: two says this\n"}
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    until_s = time.monotonic() + 20
    while _tails(homes["one"].parent):
        assert time.monotonic() < until_s


def _tails(folder: Path) -> list[int]:
    """Processes that still follow a log below a folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "tail" and process.cwd().startswith(str(folder)):
                found.append(process.pid)
    return found


def test_a_process_that_only_has_the_workers_number_is_left_alone(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    there = _worker_folder(homes["one"], "one")
    there.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        (there / "worker.pid").write_text(f"{other.pid} 12345 {boot}\n")
        done = distredge(folder, "cluster", "stop", "c.toml", "--json")
        assert json.loads(done.stdout)["stopped"] == []
        assert other.poll() is None
        other.kill()
    assert not (there / "worker.pid").exists()


def test_a_worker_that_does_not_come_up_says_why(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    text = (folder / "c.toml").read_text()
    (folder / "c.toml").write_text(text.replace('profile = "default:pi3"', 'profile = "default:none"', 1))
    done = distredge(folder, "cluster", "start", "c.toml")
    assert done.returncode == 1
    assert "worker 'one' does not come up: " in done.stderr
    assert "default:none" in done.stderr
    assert "two: process " in done.stdout
    assert not (_worker_folder(homes["one"], "one") / "worker.pid").exists()


def test_other_files_another_start(two: tuple[Path, dict[str, Path]]) -> None:
    folder, _ = two
    first = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    text = (folder / "c.toml").read_text()
    (folder / "c.toml").write_text(text.replace('profile = "default:pi3"', 'profile = "default:pi4"'))
    again = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    assert again["one"].get("started"), again
    assert again["one"]["pid"] != first["one"]["pid"]
    assert not _runs(first["one"]["pid"])


def test_upgrade_installs_and_starts_again(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    (homes["one"] / HOME / "venv" / "distredge-installed").write_text("version=0.0.8\nwheel=old\n")
    first = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    done = distredge(folder, "cluster", "upgrade", "c.toml", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    version = own_wheel().version
    assert said["one"] == {"before": "0.0.8", "now": version, "installed": True, "restarted": True}
    assert said["two"]["installed"] is False
    assert _pid(homes["two"], "two") == first["two"]["pid"]
    assert _pid(homes["one"], "one") != first["one"]["pid"]
    again = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    assert not again["one"]["started"]


def test_a_unit_is_used_where_it_outlasts_the_login(two: tuple[Path, dict[str, Path]]) -> None:
    folder, homes = two
    home = homes["one"]
    log = home / "systemctl.log"
    program(home, "loginctl", "#!/bin/sh\necho yes\n")
    program(
        home, "journalctl", f"#!/bin/sh\n[ -e {home}/active ] && echo 'worker: waits for' || echo 'error: no file'\n"
    )
    # Runs nothing: it notes what it is told, and believes that a unit that was restarted is active.
    program(
        home,
        "systemctl",
        f"""#!/bin/sh
echo "$@" >> {log}
case "$2" in
    restart) [ -e {home}/broken ] || touch {home}/active;;
    disable) rm -f {home}/active;;
    is-active) [ -e {home}/active ] && echo active || {{ echo failed; exit 3; }};;
    show) echo 4711;;
esac
""",
    )
    unit = home / ".config" / "systemd" / "user" / "distredge-c-one.service"
    done = distredge(folder, "cluster", "start", "c.toml", "--json")
    assert json.loads(done.stdout)["one"] == {
        "runner": "systemd", "pid": 4711, "started": True, "advice": ""
    }  # fmt: skip
    text = unit.read_text()
    assert f"ExecStart=%h/{HOME}/venv/bin/distredge worker --cluster %h/{HOME}/workers/c/one/c.toml --name one" in text
    again = json.loads(distredge(folder, "cluster", "start", "c.toml", "--json").stdout)
    assert again["one"]["started"] is False
    assert json.loads(distredge(folder, "cluster", "stop", "c.toml", "--json").stdout)["stopped"] == ["one", "two"]
    assert not unit.exists()
    (home / "broken").touch()
    broken = distredge(folder, "cluster", "start", "c.toml")
    assert "worker 'one' does not come up: no file" in broken.stderr
    assert not unit.exists()
    assert "--user enable distredge-c-one.service" in log.read_text()


def test_systemd_says_that_the_unit_can_be_read(two: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    from shutil import which

    from distredge.remote.worker_scripts import Place

    if which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    path = tmp_path / "distredge-c-one.service"
    # It looks for the program: what stands in the user's home is not there.
    path.write_text(Place("c", "one", "c.toml").unit_text().replace(f"%h/{HOME}/venv/bin/distredge", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)], env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "distredge" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("start", "c.toml", "--runner", "systemd"), 1, "runs no units for its user"),
        (("logs", "c.toml"), 1, "no worker of this cluster was started here"),
        (("logs", "c.toml", "--follow", "--json"), 2, "leave --follow away"),
        (("logs", "c.toml", "--name", "three"), 2, "has no device 'three'"),
    ],
)
def test_what_cannot_be_done_is_named(
    two: tuple[Path, dict[str, Path]], args: tuple[str, ...], code: int, told: str
) -> None:
    folder, homes = two
    for home in homes.values():
        program(home, "systemctl", "#!/bin/sh\nexit 1\n")
    done: Done = distredge(folder, "cluster", *args)
    assert done.returncode == code
    assert told in done.stderr


def test_boards_without_ssh_are_named(tmp_path: Path) -> None:
    assert distredge(tmp_path, "cluster", "init", "c.toml", "--device", "a=192.0.2.7").returncode == 0
    done = distredge(tmp_path, "cluster", "upgrade", "c.toml")
    assert done.returncode == 2
    assert 'write ssh = "user@host" under the device' in done.stderr
