"""The entry points of the three commands, and the `distredge` group.

A subcommand's module is imported only when the subcommand runs or shows its own help: the table below holds what the
group's help says, so that `distredge --help` imports nothing heavy.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import click

from distredge.cli._common import load_object, run
from distredge.cli._options import verbose_option, version_option
from distredge.errors import did_you_mean


class _Entry(NamedTuple):
    """Where a subcommand is (`"package.module:name"`) and its line in the group's help."""

    target: str
    summary: str


# In the order of the work.
_COMMANDS = {
    "profile": _Entry("distredge.cli.profile:profile", "Measure, check and compare compute profiles."),
    "probe": _Entry("distredge.cli.probe:probe", "Measure the links of a cluster."),
    "plan": _Entry("distredge.cli.plan:plan", "Find a strategy for a model on a cluster."),
    "compare": _Entry("distredge.cli.compare:compare", "Plan with several methods and print a table."),
    "simulate": _Entry("distredge.cli.simulate:simulate", "Predict what a strategy costs."),
    "show": _Entry("distredge.cli.show:show", "Describe a model: its operators, and where it may be cut."),
    "cluster": _Entry("distredge.cli.cluster:cluster", "Set boards up; start, stop, list and upgrade workers."),
    "keys": _Entry("distredge.cli.keys:keys", "Make the keys of a cluster."),
    "worker": _Entry("distredge.cli.worker:worker", "Run a worker on this board."),
    "trial": _Entry("distredge.cli.trial:trial", "Profile, probe, plan and deploy; one file to send back."),
    "testbed": _Entry("distredge.cli.testbed:testbed", "Emulate boards and links on this machine."),
    "doctor": _Entry("distredge.cli.doctor:doctor", "Say what is wrong on this machine, or on which board."),
    "schema": _Entry("distredge.cli.schema:schema", "Print the JSON schema of a file format."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are strings until they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the subcommands whose modules are installed, in the table's order, without importing them."""
        return [name for name, entry in _COMMANDS.items() if _is_installed(entry)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns a subcommand, or None when there is none of that name."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None or not _is_installed(entry):
            return None
        command = load_object(entry.target)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is a {type(command).__name__}, not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves as click does, and names the closest subcommand when there is none of that name."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            ctx.fail(f"no command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table's summaries, where click would import every subcommand for its own."""
        rows = [(name, _COMMANDS[name].summary) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _is_installed(entry: _Entry) -> bool:
    return find_spec(entry.target.partition(":")[0]) is not None


@click.group(cls=LazyGroup, epilog="Two more commands: train-agent trains an agent, deploy-strategy runs a strategy.")
@verbose_option
@version_option
def distredge() -> None:
    """Run one CNN inference together on several small unequal computers."""


def main() -> None:
    """Entry point of `distredge`."""
    run("distredge.cli.main:distredge", "distredge")


def train_agent_main() -> None:
    """Entry point of `train-agent`."""
    run("distredge.cli.train_agent:train_agent", "train-agent")


def deploy_strategy_main() -> None:
    """Entry point of `deploy-strategy`."""
    run("distredge.cli.deploy_strategy:deploy_strategy", "deploy-strategy")
