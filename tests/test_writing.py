"""Results go whole into files, and into whatever else a path leads to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import distredge
from distredge.errors import FileError
from distredge.writing import descriptor_of, is_file, picture_format, write

BIG = "x" * 300_000
"""More than a pipe holds."""


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path, "one")
    path.chmod(0o640)
    before = path.stat().st_ino
    write(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch()
    link.symlink_to(target)
    write(link, "found")
    assert link.is_symlink()
    assert target.read_text() == "found"


def test_a_failed_write_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write(tmp_path / "missing" / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_named_pipe_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(path.read_text()))
    reader.start()
    write(path, BIG)
    reader.join(60)
    assert found == [BIG]
    assert path.is_fifo()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.json")
    write(path, "x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.json"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/dev/stdout", 1),
        ("/dev/stderr", 2),
        ("/dev/fd/63", 63),
        ("/proc/self/fd/7", 7),
        ("/proc/{own}/fd/7", 7),
        ("/proc/1/fd/7", None),
        ("/dev/null", None),
        ("/tmp/dev/stdout", None),
    ],
)
def test_what_stands_for_an_open_descriptor(path: str, expected: int | None) -> None:
    assert descriptor_of(path.format(own=os.getpid())) == expected


def test_links_to_it_count(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/dev/stdout")
    assert descriptor_of(tmp_path / "out") == 1
    assert not is_file(tmp_path / "out")
    assert not is_file("/dev/null")
    assert is_file(tmp_path / "new")


def test_a_link_in_a_circle_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert descriptor_of(tmp_path / "a") is None


def _python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(distredge.__file__).parents[1])}
    command = [sys.executable, "-c", "import sys\nfrom distredge.writing import write\n" + code]
    return subprocess.run(command, text=True, timeout=100, check=True, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def test_standard_output_that_is_a_file_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as file:
        _python("print('said'); write('/dev/stdout', 'content\\n'); print('after')", stdout=file)
    assert path.read_text() == "before\nsaid\ncontent\nafter\n"


def test_standard_output_that_is_a_socket() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        _python("write('/dev/stdout', 'content')", stdout=theirs.fileno())
        assert ours.recv(100) == b"content"


def test_pictures_without_an_ending() -> None:
    assert picture_format("/dev/stdout") == "png"
    assert picture_format("a.SVG") == "svg"
    with pytest.raises(FileError, match=r"found 'no ending', accepted: \.png or \.svg or \.pdf"):
        picture_format("a")


COMMON = ("plan", "--model", "squeezenet", "--cluster", "db-50", "--method", "modnn")


def _command(line: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(distredge.__file__).parents[1])}
    line = line.replace("distredge ", f"{sys.executable} -m distredge ", 1)
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + line], capture_output=True, text=True, timeout=200, env=environment
    )


def test_a_strategy_on_standard_output_stands_alone() -> None:
    import json

    done = _command(f"distredge {' '.join(COMMON)} --out /dev/stdout | cat")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "distredge.strategy/1"
    assert "written: /dev/stdout" in done.stderr


def test_a_strategy_for_another_process() -> None:
    done = _command(f"distredge {' '.join(COMMON)} --json --out >(cat >&2)")
    assert done.returncode == 0
    assert '"strategy": "/dev/fd/' in done.stdout


@pytest.mark.parametrize(("path", "message"), [("/dev/fd/77", "is not open"), ("/dev/stdin", "it is open for reading")])
def test_what_cannot_be_written_is_refused_before_any_work(path: str, message: str) -> None:
    done = _command(f"distredge {' '.join(COMMON)} --out {path} < /dev/null")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path}: ")
    assert message in done.stderr
