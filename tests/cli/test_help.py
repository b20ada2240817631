"""Help is quick: it imports none of the packages that take long."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from distredge.cli.main import LazyGroup, distredge

HEAVY = {
    "gymnasium",
    "matplotlib",
    "numba",
    "numpy",
    "onnx",
    "onnxruntime",
    "PIL",
    "scipy",
    "stable_baselines3",
    "tensorboard",
    "torch",
    "zmq",
}

# Runs an entry point as its console script does, then writes the imported modules after the help.
_RUN = """
import sys
entry, sys.argv = sys.argv[1], sys.argv[1:]
import distredge.cli.main as commands
try:
    getattr(commands, entry)()
except SystemExit as stop:
    print()
    print(*sys.modules)
    raise
"""


def _subcommands() -> list[str]:
    assert isinstance(distredge, LazyGroup)
    return distredge.list_commands(click.Context(distredge))


@pytest.mark.parametrize(
    "arguments",
    [
        ("main", "--help"),
        ("main", "--version"),
        ("train_agent_main", "--help"),
        ("deploy_strategy_main", "--help"),
        *(("main", name, "--help") for name in _subcommands()),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", _RUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    assert ("Usage: " in text) == ("--help" in arguments)
    assert HEAVY & {name.partition(".")[0] for name in modules.split()} == set()


def test_group_help_lists_every_subcommand() -> None:
    names = _subcommands()
    text = distredge.get_help(click.Context(distredge))
    listed = text.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed[: len(names)]] == names


@pytest.mark.parametrize("name", _subcommands())
def test_subcommand_carries_its_name(name: str) -> None:
    command = distredge.get_command(click.Context(distredge), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str()
