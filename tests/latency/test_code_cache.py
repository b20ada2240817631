"""What is compiled runs wherever Distredge is installed, whether or not anything there can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import distredge
from distredge.latency import code_cache
from distredge.latency.compiling import can_be_kept, entry, is_cached, signature_of

_MODULE = """
import logging
from distredge.latency.compiling import entry, folder_of, is_cached, signature_of

logging.basicConfig(format="%(message)s")

@entry
def double(x):
    return 2 * x

@entry
def triple(x):
    return 3 * x

print(double(2), triple(2), is_cached(double, signature_of(2)), folder_of(double))
"""

# Everything is read-only for the command, also for root: `unshare` gives it file systems of its own to say so of.
_READ_ONLY = """
awk '{print $5}' /proc/self/mountinfo | grep -v '^/proc\\|^/sys' | while read place; do
  mount -o remount,ro,bind "$place" 2>/dev/null
done
cd /
exec "$@"
"""


def _environment(**changes: str) -> dict[str, str]:
    gone = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    root = str(Path(distredge.__file__).parents[1])
    return {**kept, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/proc/none", **changes}


def _read_only(*command: str, user_namespace: bool = os.geteuid() != 0) -> Sequence[str]:
    return ["unshare", "-rm" if user_namespace else "-m", "sh", "-c", _READ_ONLY, "sh", *command]


def _ends_where_nothing_can_be_written(tmp_path: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    places = " ".join((str(tmp_path), "/tmp", "/var/tmp", "/dev/shm"))
    test = f"for d in {places}; do touch $d/.distredge-writable 2>/dev/null && exit 1; done; exit 0"
    return subprocess.run(_read_only("sh", "-c", test), capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def nothing_writable(tmp_path: Path) -> None:
    if not _ends_where_nothing_can_be_written(tmp_path):
        pytest.skip("file systems cannot be made read-only for one process here")


def test_without_any_folder_it_compiles_and_says_so_once(tmp_path: Path, nothing_writable: None) -> None:
    script = tmp_path / "compiled.py"
    script.write_text(_MODULE)
    done = subprocess.run(
        _read_only(sys.executable, str(script)), env=_environment(), capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stdout) == (0, "4 6 False None\n"), done.stderr
    assert done.stderr.count("compiled code cannot be kept") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["distredge.cli.main", "main", "plan", "--model", "squeezenet", "--cluster", "halp-pi4", "--budget", "0.1",
         "--out", "/dev/null"],
        ["distredge.cli.main", "main", "compare", "--model", "squeezenet", "--cluster", "halp-pi4", "--budget", "0.1",
         "--methods", "distredge,halp"],
        ["distredge.cli.main", "main", "doctor"],
    ],
    ids=lambda command: command[2],
)  # fmt: skip
def test_commands_run_where_nothing_can_be_written(command: list[str], nothing_writable: None) -> None:
    module, name, *arguments = command
    program = f"import sys; from {module} import {name}; sys.argv[0] = 'distredge'; {name}()"
    done = subprocess.run(
        _read_only(sys.executable, "-c", program, *arguments),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("compiled code cannot be kept") == 1


def _in_read_only_source(tmp_path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs the module from a folder that has no `__pycache__` and cannot get one: a file stands in its place."""
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    (folder / "__pycache__").touch()
    script = folder / "compiled.py"
    script.write_text(_MODULE)
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"]
    return subprocess.run(
        command, env=_environment(**changes), capture_output=True, text=True, timeout=200, check=True, cwd=tmp_path
    )


def test_a_private_folder_is_found_and_named_when_it_is_made(tmp_path: Path) -> None:
    base = tmp_path / "temporary"
    base.mkdir()
    first = _in_read_only_source(tmp_path, TMPDIR=str(base))
    folder = base / f"distredge-numba-{os.getuid()}"
    assert first.stdout.startswith(f"4 6 True {folder}")
    assert first.stderr.count(str(folder)) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    again = _in_read_only_source(tmp_path, TMPDIR=str(base))
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_a_named_folder_wins(tmp_path: Path) -> None:
    done = _in_read_only_source(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "given"))
    assert done.stdout.startswith(f"4 6 True {tmp_path / 'given'}")
    assert done.stderr == ""


def test_no_folder_of_the_name_of_a_home_is_made(tmp_path: Path) -> None:
    # A user whom the system does not know, without HOME: "~" is no place then.
    without_home = "import os, pwd, runpy\npwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n"
    folder = tmp_path / "source"
    folder.mkdir()
    folder.joinpath("__pycache__").touch()
    script = folder / "compiled.py"
    script.write_text(_MODULE)
    code = (
        f"{without_home}real = os.access\n"
        f"os.access = lambda p, mode, **k: str(p) != {str(folder)!r} and real(p, mode, **k)\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    environment = _environment(TMPDIR=str(tmp_path))
    del environment["HOME"]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert done.stdout.startswith("4 6 True"), done.stderr
    assert not (tmp_path / "~").exists()


def test_a_folder_that_others_may_write_is_not_taken(tmp_path: Path) -> None:
    base = tmp_path / "temporary"
    (base / f"distredge-numba-{os.getuid()}").mkdir(parents=True)
    (base / f"distredge-numba-{os.getuid()}").chmod(0o777)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = _in_read_only_source(tmp_path, TMPDIR=str(base), XDG_RUNTIME_DIR=str(elsewhere))
    assert str(elsewhere) in done.stdout


def _made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(code_cache._config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(code_cache, "_said", set())

    @entry
    def double(x: int) -> int:
        return 2 * x

    return double


@pytest.mark.parametrize("ending", ["*.nbi", "*.nbc"])
def test_files_that_were_cut_short_are_compiled_anew_and_kept(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = _made_anew(tmp_path, monkeypatch)
    assert double(2) == 4  # type: ignore[operator]
    kept = list(tmp_path.rglob(ending))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-7])
    again = _made_anew(tmp_path, monkeypatch)
    assert again(2) == 4  # type: ignore[operator]
    once_more = _made_anew(tmp_path, monkeypatch)
    assert once_more(2) == 4  # type: ignore[operator]
    assert sum(once_more.stats.cache_hits.values()) == 1  # type: ignore[attr-defined]


def test_a_disk_that_fills_up_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    double = _made_anew(tmp_path, monkeypatch)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(double._cache._cache_file, "_save_index", full)  # type: ignore[attr-defined]
    assert (double(2), double(2.0)) == (4, 4.0)  # type: ignore[operator]
    assert can_be_kept(double)
    assert not is_cached(double, signature_of(2))
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] != []
    assert len(caplog.records) == 1
