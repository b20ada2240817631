"""What `train-agent` says of a run: for people, and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import print_json
from distredge.cli._planning import about_links, say_assumption

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from distredge.agents.run_folder import RunFolder
    from distredge.agents.settings import TrainingConfig
    from distredge.agents.training import Trained
    from distredge.problem import Problem
    from distredge.strategy import Strategy


_FOUND = {
    "episode": "in episode {found_in_episode} of {episodes}",
    "demonstration": "among the demonstrations, before the first episode",
    "polish": "by the polish of the best ones, at the end",
    "single device": "as the best single device: nothing was faster",
}
"""How a strategy was found, by `found_by` of `run_folder.describe`."""


def tell(
    problems: Sequence[Problem],
    config: TrainingConfig,
    folder: RunFolder,
    strategies: Sequence[Strategy],
    trained: Trained,
    about: Sequence[dict[str, Any]],
    as_json: bool,
) -> None:
    """Says what a run found on each cluster.

    Args:
        problems: one model on each cluster.
        config: of the run.
        folder: of the run.
        strategies: the best one on each cluster.
        trained: what the run found.
        about: `run_folder.describe` of each cluster.
        as_json: for machines.
    """
    paths = [folder.strategy_of(problem) for problem in problems]
    say_assumption(problems[0].cluster)
    if as_json:
        entries = [
            {"strategy": str(path), **entry, **about_links(problem.cluster), "options": problem.options}
            for path, entry, problem in zip(paths, about, problems, strict=True)
        ]
        one = {"run": str(folder.path), **entries[0]}
        print_json(one if len(entries) == 1 else {"run": str(folder.path), "clusters": entries})
        return
    if trained.stopped:
        click.echo(f"interrupted after {trained.episodes} episodes: this is the best so far", err=True)
    for problem, strategy, entry in zip(problems, strategies, about, strict=True):
        if len(problems) > 1:
            click.echo(f"cluster         {problem.cluster.name}")
        _tell_one(problem, strategy, entry)
    click.echo(
        f"run             {trained.episodes} episodes in {trained.seconds:.1f} s, "
        f"{trained.episodes / max(trained.seconds, 1e-9):.1f} episodes/s; preset {config.preset}"
    )
    for path in paths:
        click.echo(f"strategy        {path}")
    click.echo(f"TensorBoard     tensorboard --logdir {folder.path}")
    for problem, path, name in zip(problems, paths, config.clusters, strict=True):
        _tell_next(problem, path, name)


def _tell_one(problem: Problem, strategy: Strategy, entry: dict[str, Any]) -> None:
    latency_s, alone_s = entry["latency_s"], entry["offload_latency_s"]
    when = ", mean over the traces" if entry["start_times"] > 1 else ""
    click.echo(
        f"best strategy   {latency_s * 1e3:.2f} ms, {1 / latency_s:.2f} IPS, {alone_s / latency_s:.2f} x the best "
        f"single device ({alone_s * 1e3:.2f} ms, {1 / alone_s:.2f} IPS); simulated, {problem.regime}{when}"
    )
    if entry["one_device_is_best"]:
        click.echo(f"                one device is best here: {strategy.head.device} computes the whole model")
    found = _FOUND[entry["found_by"]].format(**entry)
    click.echo(f"found           {found}; {len(strategy.volumes)} volumes")
    click.echo(f"policy          {_policy(entry['policy_latency_s'], 'by itself, without exploration')}")
    for name, seconds in entry["held_out_latency_s"].items():
        click.echo(f"                {_policy(seconds, f'on {name}, which it was not trained on')}")
    if (search_s := entry["search_latency_s"]) is not None:
        gain = search_s / latency_s - 1.0
        said = f"gained {gain:.2%} over it" if gain > 1e-9 else "equal" if gain > -1e-9 else f"{-gain:.2%} behind it"
        click.echo(f"search          {search_s * 1e3:.2f} ms in {entry['search_s']:g} s: {said}")
    if latency_s > alone_s * (1 + 1e-9):
        click.echo("warning: this strategy is slower than the best single device; train longer", err=True)


def _policy(latency_s: float | None, where: str) -> str:
    if latency_s is None:
        return f"none {where}: its strategy needs a link that is down"
    return f"{latency_s * 1e3:.2f} ms {where}"


def _tell_next(problem: Problem, path: Path, cluster: str) -> None:
    from distredge.errors import ClusterError
    from distredge.runtime.hosting.boards import check_addresses

    try:
        check_addresses(problem.cluster)
    except ClusterError:
        click.echo(f"next            distredge simulate {path} --cluster {cluster} --gantt g.png")
    else:
        click.echo(f"next            deploy-strategy {path} --cluster {cluster} --image FILE")
