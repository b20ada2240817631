"""`train-agent`: trains an agent to split a CNN over a cluster and writes the best strategy that it found."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import EXIT_INTERRUPTED, check_folder, print_json
from distredge.cli._options import input_shape_option, json_option, seed_option, verbose_option, version_option
from distredge.cli._planning import about_links, interruptible, load_problem, say_assumption

if TYPE_CHECKING:
    from distredge.agents.run_folder import RunFolder
    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import Observer, Trained
    from distredge.problem import Problem
    from distredge.strategy import Strategy

_CONFIG_OPTIONS = (
    "model", "cluster", "input_shape", "as_published", "algo", "env", "episodes", "seed", "alpha", "device",
    "eval_freq", "save_freq",
)  # fmt: skip


@click.command()
@click.option("--algo", default="ddpg", show_default=True, help="Algorithm: ddpg (the paper's), td3, sac, ppo, tqc.")
@click.option("--model", help="Zoo name, package.module:callable, or an .onnx file.")
@input_shape_option
@click.option("--cluster", help="Shipped case (such as db-50), or a .toml file.")
@click.option("--as-published", is_flag=True, help="The paper's regime: float32 input, no overlap, independent links.")
@click.option(
    "--env",
    default="distredge/SplitRows-v0",
    show_default=True,
    help="distredge/Partition-v0: the agent also chooses where the model is cut.",
)
@click.option("-n", "--episodes", type=int, default=4000, show_default=True, help="Strategies to play.")
@click.option("--alpha", type=float, default=0.75, show_default=True, help="LC-PSS: weight of transmission, 0 to 1.")
@seed_option
@click.option("--device", default="cpu", show_default=True, help="Where the networks are: cpu, cuda, auto.")
@click.option("--eval-freq", type=int, default=0, show_default=True, help="Also play without exploration every N.")
@click.option("--save-freq", type=int, default=0, show_default=True, help="Save the agent every N episodes; 0: never.")
@click.option("-f", "--log-folder", default="runs", show_default=True, help="Folder of all runs.")
@click.option("--config", "config_file", help="YAML file with any of these options, such as a run's config.yaml.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A hyper-parameter; may be repeated.")
@click.option("-i", "--trained-agent", help="Run folder (or its model.zip) whose networks to begin with.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar; by default on a terminal.")
@json_option
@verbose_option
@version_option
def train_agent(
    log_folder: str,
    config_file: str | None,
    assignments: tuple[str, ...],
    trained_agent: str | None,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an agent to split a CNN over a cluster; write the best strategy.

    LC-PSS chooses where the model is cut, the agent which rows each device computes. Every episode is one strategy,
    priced by simulation. The input travels as pixels where the model allows, and the best strategy is given packed rows
    and boundary rows first where that is faster: the output stays the same; --as-published leaves all of it out.

    Hyper-parameters are the shipped ones, then those of --config, then those of --set.

    Ctrl-C ends the training early and writes the best strategy so far.
    """
    config = _config(config_file, assignments, options)
    from distredge.agents.run_folder import agent_file

    start_from = None if trained_agent is None else str(agent_file(trained_agent))
    problem = load_problem(
        config.model, config.cluster, as_published=config.as_published, input_shape=config.input_shape
    )
    shown = sys.stderr.isatty() if progress is None else progress
    folder, strategy, trained = _train(problem, config, log_folder, start_from, shown)
    _tell(problem, config.cluster, folder, strategy, trained, as_json)
    if trained.stopped:
        sys.exit(EXIT_INTERRUPTED)


def _config(config_file: str | None, assignments: tuple[str, ...], options: dict[str, Any]) -> TrainingConfig:
    """Merges the defaults, the file and the command line."""
    from distredge.agents.settings import (
        TrainingConfig,
        check_algorithm,
        check_environment,
        merge_hyperparameters,
        parse_assignments,
        read_config,
    )

    context = click.get_current_context()
    values = read_config(config_file) if config_file is not None else {}
    for name in _CONFIG_OPTIONS:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            values[name] = options[name]
    for name in ("model", "cluster"):
        if not values.get(name):
            raise click.UsageError(f"missing option '--{name}'")
    algo, env = values.get("algo", options["algo"]), values.get("env", options["env"])
    check_algorithm(algo)
    check_environment(env)
    file_values = values.get("hyperparameters", {})
    own = merge_hyperparameters(algo, file_values, parse_assignments(assignments), env_id=env)
    return TrainingConfig(**{**values, "hyperparameters": own})


def _train(
    problem: Problem, config: TrainingConfig, log_folder: str, start_from: str | None, shown: bool
) -> tuple[RunFolder, Strategy, Trained]:
    """Trains in a new run folder and saves there what was found."""
    from distredge.agents.observers import ProgressBar, ProgressCsv, TensorboardLog
    from distredge.agents.osds import found_strategy, make_env
    from distredge.agents.run_folder import RunFolder, run_name
    from distredge.agents.training import run_training
    from distredge.planners.budget import Budget

    check_folder(log_folder)
    env = make_env(problem, config)
    budget = Budget(evaluations=config.episodes)
    folder = RunFolder(log_folder, run_name(problem, config))
    with _removed_on_failure(folder), interruptible(budget), contextlib.ExitStack() as stack:
        folder.save_config(config)
        observers: list[Observer] = [
            stack.enter_context(ProgressCsv(folder.progress)),
            stack.enter_context(TensorboardLog(folder.path, problem, config)),
        ]
        if shown:
            observers.append(stack.enter_context(ProgressBar(config.episodes)))
        trained = run_training(
            env,
            config,
            observers=observers,
            should_stop=budget.expired,
            checkpoint=folder.save_checkpoint,
            trained_agent=start_from,
        )
        settings = {} if start_from is None else {"continued": True}
        strategy = found_strategy(problem, config, trained, **settings)
        folder.save_result(problem, strategy, trained, start_from)
    return folder, strategy, trained


@contextlib.contextmanager
def _removed_on_failure(folder: RunFolder) -> Iterator[None]:
    """Leaves no folder of a run that came to nothing."""
    try:
        yield
    except BaseException:
        if not folder.strategy.exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _tell(
    problem: Problem, cluster_name: str, folder: RunFolder, strategy: Strategy, trained: Trained, as_json: bool
) -> None:
    from distredge.agents.run_folder import describe
    from distredge.errors import ClusterError
    from distredge.latency import offload_latency_s
    from distredge.runtime.hosting.boards import check_addresses

    say_assumption(problem.cluster)
    if as_json:
        about = {"run": str(folder.path), "strategy": str(folder.strategy), **describe(problem, strategy, trained)}
        print_json({**about, **about_links(problem.cluster), "options": problem.options})
        return
    if trained.stopped:
        click.echo(f"interrupted after {trained.episodes} episodes: this is the best so far", err=True)
    latency_s, alone_s = strategy.predicted["latency_s"], offload_latency_s(problem)
    click.echo(
        f"best strategy   {latency_s * 1e3:.2f} ms, {1 / latency_s:.2f} IPS, {alone_s / latency_s:.2f} x the best "
        f"single device ({alone_s * 1e3:.2f} ms, {1 / alone_s:.2f} IPS); simulated, {problem.regime}"
    )
    click.echo(
        f"found           in episode {trained.best.episode} of {trained.episodes}, {len(strategy.volumes)} volumes; "
        f"{trained.seconds:.1f} s, {trained.episodes / trained.seconds:.1f} episodes/s"
    )
    if latency_s > alone_s * (1 + 1e-9):
        click.echo("warning: this strategy is slower than the best single device; train longer", err=True)
    click.echo(f"strategy        {folder.strategy}")
    click.echo(f"TensorBoard     tensorboard --logdir {folder.path}")
    try:
        check_addresses(problem.cluster)
    except ClusterError:
        click.echo(f"next            distredge simulate {folder.strategy} --cluster {cluster_name} --gantt g.png")
    else:
        click.echo(f"next            deploy-strategy {folder.strategy} --cluster {cluster_name} --image FILE")
