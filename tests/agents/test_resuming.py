"""Runs that go on from the state of another one: nothing is lost, nothing is counted twice, damage is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distredge.agents.osds import make_env, prepare
from distredge.agents.resuming import saved_scheme
from distredge.agents.settings import TrainingConfig
from distredge.agents.training import EpisodeReport, Trained, run_training
from distredge.errors import FileError
from distredge.latency import evaluate
from distredge.planners.budget import Budget
from distredge.problem import Problem


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.npz"


def _only_loaded(problem: Problem, config: TrainingConfig, state: Path, **options: Any) -> Trained:
    """What a run has that goes on from a state and is ended before its first episode."""
    budget = Budget(evaluations=1)
    budget.interrupt()
    scheme = saved_scheme(state)
    return run_training(make_env([problem], config, scheme), config, resume=state, budget=budget, **options)


@pytest.mark.parametrize("algo", ["sac", "tqc", "crossq"])
def test_the_entropy_coefficient_is_part_of_it(problem: Problem, small: dict[str, Any], algo: str, state: Path) -> None:
    config = TrainingConfig(preset="osds", algo=algo, episodes=10, hyperparameters={**small, "batch_size": 8})
    first = run_training(make_env([problem], config), config, state_file=state)
    more = _only_loaded(problem, config, state)
    one, two = (trained.agent.log_ent_coef for trained in (first, more))  # type: ignore[attr-defined]
    assert one.item() != 0.0
    assert torch.equal(one, two)


@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_clusters_that_are_drawn_go_on(problem: Problem, small: dict[str, Any], n_envs: int, state: Path) -> None:
    turned = dataclasses.replace(problem.cluster, name="turned", devices=problem.cluster.devices[::-1])
    problems = [problem, Problem(problem.graph, turned)]
    drawn: list[str] = []

    class Listener:
        def episode(self, report: EpisodeReport) -> None:
            drawn.append(report.cluster)

    def run(episodes: int, **options: Any) -> list[str]:
        drawn.clear()
        config = TrainingConfig(preset="osds", episodes=episodes, hyperparameters={**small, "n_envs": n_envs})
        run_training(make_env(problems, config), config, observers=[Listener()], **options)
        return list(drawn)

    whole, first, second = run(40), run(20, state_file=state), run(20, resume=state)
    assert first == whole[:20]
    assert second != first
    if n_envs == 1:
        # What was drawn for the episode that was under way is lost.
        assert second[:-1] == whole[21:]


def test_other_links_are_counted_and_the_scheme_is_kept(problem: Problem, small: dict[str, Any], state: Path) -> None:
    config = TrainingConfig(episodes=20, hyperparameters=small)
    prepared = prepare([problem], config)
    first = run_training(prepared.env, config, demonstrations=prepared.demonstrations, state_file=state)
    scheme = saved_scheme(state)
    assert scheme == prepared.env.partition  # type: ignore[attr-defined]
    device = problem.cluster.devices[0]
    fast = dataclasses.replace(device.uplink, rate_bps=1e9)
    devices = tuple(dataclasses.replace(d, uplink=fast, downlink=fast) for d in problem.cluster.devices)
    requester = dataclasses.replace(problem.cluster.requester, uplink=fast, downlink=fast)
    faster = Problem(problem.graph, dataclasses.replace(problem.cluster, devices=devices, requester=requester))
    again = prepare([faster], config, scheme=(4, len(problem.graph.cuts) - 1))
    assert again.env.partition == (4, len(problem.graph.cuts) - 1)  # type: ignore[attr-defined]
    assert {tuple(cut for cut, _ in volumes) for volumes in again.demonstrations[0]} == {again.env.partition}  # type: ignore[attr-defined]
    more = _only_loaded(faster, config, state)
    assert more.best.strategy is not None
    assert more.best.latency_s == pytest.approx(evaluate(faster, more.best.strategy), rel=1e-9)
    assert more.best.latency_s < first.best.latency_s
    same = _only_loaded(problem, config, state)
    assert [e.volumes for e in same.best.episodes] == [e.volumes for e in first.best.episodes]
    assert (same.best.latency_s, same.best.episode) == (first.best.latency_s, first.best.episode)
    assert same.policy_s == first.policy_s


def test_demonstrations_are_stored_once(problem: Problem, small: dict[str, Any], state: Path) -> None:
    config = TrainingConfig(episodes=4, hyperparameters={**small, "demonstrations": 4})
    prepared = prepare([problem], config)
    shown = prepared.demonstrations
    first = run_training(prepared.env, config, demonstrations=shown, state_file=state)
    more = _only_loaded(problem, config, state, demonstrations=shown)
    one, two = (trained.agent.replay_buffer.size() for trained in (first, more))  # type: ignore[attr-defined]
    assert one == two


def test_seconds_are_those_that_were_told(problem: Problem, config: TrainingConfig, state: Path) -> None:
    first = run_training(make_env([problem], config), config, state_file=state)
    counters = dict(dict(_tree(state)["items"])["counters"]["items"])
    assert (counters["seconds"], counters["episodes"]) == (first.seconds, first.episodes)


def _tree(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        found: dict[str, Any] = json.loads(arrays["tree"].tobytes().decode())
    return found


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree["items"] = [pair for pair in tree["items"] if pair[0] != key]

    return change


def _remembered(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for pair in dict(tree["items"])["memory"][0][0]["items"]:
            if pair[0] == key:
                pair[1] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        *map(_without, ("counters", "parameters", "memory", "random", "replay", "kept", "variables", "partition")),
        _remembered("volumes", [[9999, [0, 1, 2, 3, 4]]]),
        _remembered("volumes", [[17, [0, 1, 2, 7]]]),
        _remembered("volumes", [[17, [0, 5, 2, 3, 7]]]),
        _remembered("volumes", 7),
        _remembered("start_s", -1.0),
        _remembered("number", None),
    ],
)
def test_damage_is_named(
    problem: Problem, config: TrainingConfig, state: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    run_training(make_env([problem], config), config, state_file=state)
    with np.load(state) as arrays:
        content = dict(arrays)
    tree = _tree(state)
    damage(tree)
    content["tree"] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    np.savez(state, **content)
    with pytest.raises(FileError, match=r"state\.npz: not the whole state of a training run"):
        run_training(make_env([problem], config), config, resume=state)
