"""`train-agent`: trains an agent to split a CNN over a cluster and writes the best strategy that it found."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from distredge.cli._common import EXIT_INTERRUPTED, check_folder
from distredge.cli._options import (
    Number,
    input_shape_option,
    json_option,
    seed_option,
    verbose_option,
    version_option,
)
from distredge.cli._planning import interruptible, load_problem
from distredge.cli._training import tell
from distredge.model.wires import PLANNABLE_INPUTS

if TYPE_CHECKING:
    from distredge.agents.observers import TensorboardLog
    from distredge.agents.run_folder import RunFolder
    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import EpisodeReport, Observer, Trained
    from distredge.planners.budget import Budget
    from distredge.problem import Problem
    from distredge.strategy import Strategy

CONFIG, ABOUT = "config.yaml", "run.json"
"""Files of a run folder, as `agents.run_folder` names them, which is not loaded for `--help`."""

_CONFIG_OPTIONS = (
    "model", "cluster", "input_shape", "as_published", "preset", "algo", "env", "episodes", "budget_s", "seed", "alpha",
    "device", "eval_freq", "eval_cluster", "save_freq", "compare_search_s", "profile_set", "link_model", "input_dtype",
    "boundary_first",
)  # fmt: skip


@click.command()
@click.option(
    "--preset",
    default="distredge",
    show_default=True,
    help="Hyper-parameters: distredge (ours), osds (the paper to the letter).",
)
@click.option(
    "--algo", default="ddpg", show_default=True, help="Algorithm: ddpg (the paper's), td3, sac, ppo, tqc, crossq."
)
@click.option("--model", help="Zoo name, package.module:callable, or an .onnx file.")
@input_shape_option
@click.option(
    "--cluster",
    multiple=True,
    help="Shipped case (such as db-50), or a .toml file; several for one agent over all of them.",
)
@click.option("--profile-set", help="Set of shipped compute profiles instead of the clusters' own.")
@click.option("--link-model", type=click.Choice(["independent", "shared"]), help="Instead of the clusters' own.")
@click.option(
    "--input-dtype", type=click.Choice(PLANNABLE_INPUTS), help="What the requester sends; default: the faster."
)
@click.option(
    "--boundary-first/--no-boundary-first",
    default=None,
    help="Whether what others wait for may be computed and sent first; default: yes.",
)
@click.option("--as-published", is_flag=True, help="The paper's regime: float32 input, no overlap, independent links.")
@click.option(
    "--env",
    default="distredge/SplitRows-v0",
    show_default=True,
    help="distredge/Partition-v0: the agent also chooses where the model is cut.",
)
@click.option("-n", "--episodes", type=int, help="Strategies to play; default: 4000, without --budget.")
@click.option(
    "--budget", "budget_s", type=Number(0, above=True), help="Seconds of training, instead of or beside --episodes."
)
@click.option("--alpha", type=float, default=0.75, show_default=True, help="LC-PSS: weight of transmission, 0 to 1.")
@seed_option
@click.option("--device", default="cpu", show_default=True, help="Where the networks are: cpu, cuda, auto.")
@click.option("--eval-freq", type=int, default=0, show_default=True, help="Also play without exploration every N.")
@click.option("--eval-cluster", multiple=True, help="Cluster not to train on but to play then; may be repeated.")
@click.option("--save-freq", type=int, default=0, show_default=True, help="Save the agent every N episodes; 0: never.")
@click.option(
    "--compare-search-s",
    type=Number(0),
    default=1.0,
    show_default=True,
    help="Seconds of a search afterwards to compare with; 0: none.",
)
@click.option("-f", "--log-folder", default="runs", show_default=True, help="Folder of all runs.")
@click.option("--config", "config_file", help="YAML file with any of these options, such as a run's config.yaml.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A hyper-parameter; may be repeated.")
@click.option("-i", "--trained-agent", help="Run folder (or its model.zip) whose networks to begin with.")
@click.option("--resume", metavar="RUN", help="Run folder to go on from, with its configuration, in a new one.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar; by default on a terminal.")
@json_option
@verbose_option
@version_option
def train_agent(
    log_folder: str,
    config_file: str | None,
    assignments: tuple[str, ...],
    trained_agent: str | None,
    resume: str | None,
    progress: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an agent to split a CNN over a cluster; write the best strategy.

    LC-PSS chooses where the model is cut, the agent which rows each device computes. Every episode is one strategy,
    priced by simulation. Strategies of cheap planners are played first, the best ones are polished at the end, and the
    best single device is among what is compared; --preset osds does without all of it, as the paper.

    The input travels as pixels where the model allows, and the best strategy is given packed rows and boundary rows
    first where that is faster: the output stays the same; --as-published leaves all of it out.

    Hyper-parameters are the shipped ones, then those of --config, then those of --set. Where --preset, --algo or --env
    are others than the file names, only those are taken from it that it has otherwise than its own preset.

    Ctrl-C ends the training early and writes the best strategy so far.
    """
    from distredge.agents.run_folder import agent_file, state_file

    if resume is not None and (config_file is not None or trained_agent is not None):
        raise click.UsageError("--resume goes on with the run's own configuration: leave --config and -i away")
    if resume is not None and (given := [f"--{name}" for name in ("preset", "algo") if _given(name)]):
        raise click.UsageError(f"--resume goes on with the run's own agent: leave {' and '.join(given)} away")
    begin = Beginning(
        None if trained_agent is None else str(agent_file(trained_agent)),
        None if resume is None else str(state_file(resume)),
    )
    config = _config(config_file if resume is None else f"{resume}/{CONFIG}", assignments, options)
    problems = [_load(config, name) for name in config.clusters]
    held_out = [_load(config, name) for name in config.eval_cluster]
    shown = sys.stderr.isatty() if progress is None else progress
    folder, strategies, trained, about = _train(problems, held_out, config, log_folder, begin, shown)
    tell(problems, config, folder, strategies, trained, about, as_json)
    if trained.stopped:
        sys.exit(EXIT_INTERRUPTED)


class Beginning(NamedTuple):
    """What a run begins with: a saved agent, or the state of another run; None for neither."""

    agent: str | None
    state: str | None


def _load(config: TrainingConfig, cluster: str) -> Problem:
    return load_problem(
        config.model, cluster, profile_set=config.profile_set, link_model=config.link_model,
        input_dtype=config.input_dtype, boundary_first=config.boundary_first, as_published=config.as_published,
        input_shape=config.input_shape,
    )  # fmt: skip


def _given(name: str) -> bool:
    """Whether an option is on the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _config(config_file: str | None, assignments: tuple[str, ...], options: dict[str, Any]) -> TrainingConfig:
    """Merges the defaults, the file and the command line."""
    from distredge.agents.hyperparameters import check_algorithm, check_preset, merge_hyperparameters
    from distredge.agents.settings import TrainingConfig, check_environment, own_values, parse_assignments, read_config

    values = read_config(config_file) if config_file is not None else {}
    given = {name: options[name] for name in _CONFIG_OPTIONS if _given(name)}
    if any(name in values and values[name] != given.get(name, values[name]) for name in ("preset", "algo", "env")):
        values["hyperparameters"] = own_values(values)
    if click.get_current_context().params["resume"] is not None and given.keys() & {"episodes", "budget_s"}:
        # What is added is what is said here: neither limit of the run before.
        values |= {"episodes": None, "budget_s": None}
    values |= given
    for name in ("model", "cluster"):
        if not values.get(name):
            raise click.UsageError(f"missing option '--{name}'")
    algo, env = values.get("algo", options["algo"]), values.get("env", options["env"])
    preset = values.get("preset", options["preset"])
    check_algorithm(algo)
    check_environment(env)
    check_preset(preset)
    file_values = values.get("hyperparameters", {})
    own = merge_hyperparameters(algo, file_values, parse_assignments(assignments), env_id=env, preset=preset)
    return TrainingConfig(**{**values, "hyperparameters": own})


def _train(
    problems: list[Problem],
    held_out: list[Problem],
    config: TrainingConfig,
    log_folder: str,
    begin: Beginning,
    shown: bool,
) -> tuple[RunFolder, list[Strategy], Trained, list[dict[str, Any]]]:
    """Trains in a new run folder and saves there what was found."""
    from distredge.agents.evaluation import policy_latencies_s
    from distredge.agents.observers import ProgressBar, ProgressCsv, TensorboardLog
    from distredge.agents.osds import found_strategy, held_out_env, prepare
    from distredge.agents.resuming import saved_scheme
    from distredge.agents.run_folder import RunFolder, describe, run_name
    from distredge.agents.training import run_training
    from distredge.planners.budget import Budget

    check_folder(log_folder)
    budget = Budget(config.budget_s, config.episodes)
    folder = RunFolder(log_folder, run_name(problems, config))
    with _kept_if_worth_it(folder), interruptible(budget), contextlib.ExitStack() as stack:
        _check(problems, held_out, config, begin)
        prepared = prepare(problems, config, budget, None if begin.state is None else saved_scheme(begin.state))
        others = held_out_env(prepared.env, held_out, config)
        folder.save_config(config)
        observers: list[Observer] = [
            stack.enter_context(ProgressCsv(folder.progress)),
            _OfCluster(log := stack.enter_context(TensorboardLog(folder.path, problems[0], config)), problems[0]),
        ]
        if shown:
            observers.append(stack.enter_context(ProgressBar(config.episodes, config.budget_s)))
        trained = run_training(
            prepared.env,
            config,
            observers=observers,
            checkpoint=folder.save_checkpoint,
            trained_agent=begin.agent,
            demonstrations=prepared.demonstrations,
            held_out=others,
            budget=budget,
            resume=begin.state,
            state_file=folder.state,
        )
        settings: dict[str, Any] = {"scheme": prepared.scheme} if prepared.scheme else {}
        settings |= {"continued": True} if begin != (None, None) else {}
        strategies = [
            found_strategy(p, config, trained, k, prepared.known[k], **settings) for k, p in enumerate(problems)
        ]
        played = (
            {}
            if others is None
            else dict(zip(config.eval_cluster, policy_latencies_s(trained.agent, others)[0], strict=True))
        )
        searched = [_compared(problem, config, budget) for problem in problems]
        if searched[0] is not None:
            log.search(searched[0])
        about = [
            describe(problem, strategies[k], trained, k, held_out=played,
                     search_s=0.0 if searched[k] is None else config.compare_search_s, search_latency_s=searched[k])
            for k, problem in enumerate(problems)
        ]  # fmt: skip
        folder.save_result(problems, strategies, trained, about, prepared.env, begin.agent or begin.state)
    return folder, strategies, trained, about


def _check(problems: list[Problem], held_out: list[Problem], config: TrainingConfig, begin: Beginning) -> None:
    """Refuses what does not fit before anything takes long."""
    from distredge.agents.algorithms import check_parameters, errors_explained
    from distredge.agents.osds import held_out_env, make_env
    from distredge.agents.run_folder import check_agent

    # What agents rely on does not depend on the scheme; LC-PSS takes a while to choose one.
    env = make_env(problems, config, [len(problems[0].graph.cuts) - 1])
    held_out_env(env, held_out, config)
    began_with = begin.agent or begin.state
    if began_with is not None:
        check_agent(began_with, env.signature)
    if begin.agent is not None:
        with errors_explained():
            check_parameters(begin.agent, env, config)


def _compared(problem: Problem, config: TrainingConfig, training: Budget) -> float | None:
    """Latency in seconds of what a search finds; None where none is asked for, or after Ctrl-C."""
    from distredge.agents.osds import compared
    from distredge.planners.budget import Budget

    if not config.compare_search_s or training.interrupted:
        return None
    budget = Budget(config.compare_search_s)
    with interruptible(budget):
        found = compared(problem, config, budget)
    if budget.interrupted:
        training.interrupt()  # neither are the other clusters compared
    return found


class _OfCluster:
    """Hands on what is told of the first cluster, of which pictures and lines are, and all evaluations."""

    def __init__(self, log: TensorboardLog, problem: Problem) -> None:
        self._log = log
        self._cluster = problem.cluster.name

    def episode(self, report: EpisodeReport) -> None:
        """Hands it on if it is of that cluster, or else what was played without exploration after it."""
        if report.cluster == self._cluster:
            self._log.episode(report)
        elif report.evaluation_latency_s is not None:
            self._log.evaluation(report)


@contextlib.contextmanager
def _kept_if_worth_it(folder: RunFolder) -> Iterator[None]:
    """Leaves no folder of a run that came to nothing; says how to go on where one that failed left something."""
    from distredge.errors import FileError

    try:
        yield
    except BaseException as error:
        if (how := folder.going_on()) is not None:
            click.echo(f"kept {folder.path}: {how}", err=True)
        elif not (folder.path / ABOUT).exists():
            shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            where = error.filename or folder.path
            raise FileError(f"{where}: the run cannot go on: {error.strerror or error}") from error
        raise
