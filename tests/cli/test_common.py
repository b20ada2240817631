"""What the user sees when a command fails."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import click
import pytest

from distredge import errors
from distredge.cli import _common, _options, main

FAILURES = {
    "cluster": (errors.ClusterError("c.toml: devices[0].name: found 3, accepted: text"), 2),
    "timeout": (errors.PeerTimeout("tx2-0 did not answer within 5 s"), 1),
    "missing": (errors.MissingDependency("torch", "to train", "train"), 2),
    "not-installed": (ModuleNotFoundError("No module named 'numba.core'", name="numba.core"), 2),
    "bug": (ZeroDivisionError("division by zero"), 1),
    "lines": (errors.FileError("first\n  second"), 2),
    "interrupt": (KeyboardInterrupt(), 130),
}


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command that fails in the way its argument says, as a `"module:name"` target."""

    @click.command()
    @click.argument("how")
    @_options.verbose_option
    @_options.seed_option
    @_options.json_option
    @click.pass_context
    def fail(ctx: click.Context, how: str, seed: int, as_json: bool) -> None:
        if how in FAILURES:
            raise FAILURES[how][0]
        if how == "exit-3":
            ctx.exit(3)
        _common.print_json({"seed": seed, "as_json": as_json})

    module = types.ModuleType("made_up_command")
    module.fail = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "made_up_command:fail"


def _run(target: str, *argv: str) -> int:
    with pytest.raises(SystemExit) as stop:
        _common.run(target, "prog", list(argv))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_a_closed_stdout_is_no_failure(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert _run(target, "nothing") == 0


@pytest.mark.parametrize("how", FAILURES)
def test_one_line_and_its_exit_code(how: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(target, how) == FAILURES[how][1]
    out, err = capsys.readouterr()
    assert out == ""
    # click ends the line with ^C in it first.
    assert err.lstrip("\n").startswith("error: ")
    assert err.strip("\n").count("\n") == 0


def test_known_error_says_only_its_message(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    _run(target, "cluster")
    assert capsys.readouterr().err == "error: c.toml: devices[0].name: found 3, accepted: text\n"


def test_package_that_is_not_installed_names_its_extra(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    _run(target, "not-installed")
    assert "pip install 'distredge[plan]'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [(), ("-v",)])
def test_no_traceback_without_vv(flags: tuple[str, ...], target: str, capsys: pytest.CaptureFixture[str]) -> None:
    _run(target, "bug", *flags)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "-vv" in err


@pytest.mark.parametrize("flags", [("-vv",), ("-v", "-v"), ("--verbose", "-v")])
def test_traceback_with_vv(flags: tuple[str, ...], target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(target, "bug", *flags) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("error: ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--sed", "1", "x"), "error: No such option '--sed'"),
        (("--seed", "-1", "x"), "error: Invalid value for '--seed'"),
        ((), "error: Missing argument 'HOW'"),
    ],
)
def test_usage_error(argv: tuple[str, ...], message: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(target, *argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.endswith("; see: prog --help\n")
    assert err.count("\n") == 1


def test_success_and_common_options(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(target, "fine", "--json", "--seed", "7") == 0
    assert json.loads(capsys.readouterr().out) == {"seed": 7, "as_json": True}


def test_exit_code_of_the_context(target: str) -> None:
    assert _run(target, "exit-3") == 3


def test_command_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("distredge.cli.main:distredge", "nonsense") == 2
    assert capsys.readouterr().err.startswith("error: no command 'nonsense'")


def test_no_arguments_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("distredge.cli.main:distredge") == 2
    assert "Usage: prog" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "count"),
    [
        ([], 0),
        (["-v"], 1),
        (["plan", "-vv", "x"], 2),
        (["-v", "plan", "--verbose"], 2),
        (["-x", "--verbosity", "-"], 0),
        (["--", "-vv"], 0),
    ],
)
def test_count_verbosity(argv: list[str], count: int) -> None:
    assert _common.count_verbosity(argv) == count


def test_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _common.print_json({"latency_s": float("nan")})


def test_table_targets_are_well_formed() -> None:
    for name, entry in main._COMMANDS.items():
        assert entry.target == f"distredge.cli.{name}:{name}"
        assert entry.summary.endswith(".")


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _common.check_writable(None)
    _common.check_writable(tmp_path / "new")
    with pytest.raises(errors.FileError, match="is a folder"):
        _common.check_writable(tmp_path)
    with pytest.raises(errors.FileError, match="there is no folder"):
        _common.check_writable(tmp_path / "none" / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(errors.FileError, match="permission denied"):
        _common.check_writable(tmp_path / "new")
