"""Training runs: the same seed finds the same, what observers hear, and how a run ends."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge import metric_names
from distredge.agents.algorithms import load_parameters, make_agent
from distredge.agents.memory import mean_latency_s, start_times
from distredge.agents.osds import found_strategy, make_env, plan
from distredge.agents.settings import ALGORITHMS, TrainingConfig, merge_hyperparameters
from distredge.agents.training import EpisodeReport, Trained, run_training
from distredge.cluster import Cluster, Device, Link, Requester
from distredge.envs import PARTITION
from distredge.errors import ConfigError, FileError, Infeasible, PlannerError
from distredge.latency import evaluate, offload_latency_s
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.profiles.network import Trace


class Listener:
    """Keeps every report; the memory is one object, so its latency is kept beside."""

    def __init__(self) -> None:
        self.reports: list[EpisodeReport] = []
        self.best_s: list[float] = []

    def episode(self, report: EpisodeReport) -> None:
        self.reports.append(report)
        self.best_s.append(report.best.latency_s)


def _train(problem: Problem, config: TrainingConfig, **options: Any) -> tuple[Trained, Listener]:
    listener = Listener()
    return run_training(make_env([problem], config), config, observers=[listener], **options), listener


def test_same_seed_same_strategy(problem: Problem, config: TrainingConfig) -> None:
    texts = []
    for seed in (3, 3, 4):
        chosen = dataclasses.replace(config, seed=seed)
        trained, _ = _train(problem, chosen)
        texts.append(found_strategy(problem, chosen, trained).to_json())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_reports(problem: Problem, config: TrainingConfig) -> None:
    trained, heard = _train(problem, config)
    assert [r.number for r in heard.reports] == list(range(1, 9))
    assert trained.episodes == 8
    assert not trained.stopped
    n_volumes = len(make_env([problem], config).partition)
    assert trained.steps == 8 * n_volumes
    # None before step 7, nor after the last step.
    assert trained.updates == 8 * n_volumes - 7
    latencies = [r.latency_s for r in heard.reports]
    assert trained.best.latency_s == min(latencies)
    assert trained.best.episode == 1 + latencies.index(min(latencies))
    assert heard.best_s == np.minimum.accumulate(latencies).tolist()
    for report, before in zip(heard.reports, [math.inf, *heard.best_s], strict=False):
        assert report.improved == (report.latency_s < before)
        assert report.reward == pytest.approx(offload_latency_s(problem) / report.latency_s)
        assert report.epsilon == pytest.approx(1 - ((report.number - 1) / 250) ** 2)
        assert report.evaluation_latency_s is None
    assert math.isfinite(heard.reports[-1].training["train/critic_loss"])
    assert "train/critic_loss" not in heard.reports[0].training


def test_the_strategy_says_where_it_comes_from(problem: Problem, config: TrainingConfig) -> None:
    trained, _ = _train(problem, config)
    strategy = found_strategy(problem, config, trained, note=1)
    strategy.check(problem.graph)
    # The kernel, the simulator and the order in which an environment asks them differ in the last digit.
    same = pytest.approx(evaluate(problem, strategy), rel=1e-9)
    assert strategy.predicted == {
        metric_names.LATENCY_S: same,
        metric_names.OFFLOAD_LATENCY_S: offload_latency_s(problem),
    }
    assert trained.best.latency_s == same
    assert (strategy.planner.method, strategy.planner.seed) == ("distredge", 3)
    settings = strategy.planner.settings
    assert settings["episodes"] == 8
    assert settings["note"] == 1
    assert settings["hyperparameters"] == dict(config.hyperparameters)
    assert type(strategy).from_json(strategy.to_json()) == strategy


def test_agent_is_the_one_that_found_the_best(problem: Problem, config: TrainingConfig) -> None:
    chosen = dataclasses.replace(config, episodes=30)
    trained, _ = _train(problem, chosen)
    assert 1 < trained.best.episode < 30
    until_then, _ = _train(problem, dataclasses.replace(chosen, episodes=trained.best.episode))
    for name, value in trained.agent.policy.state_dict().items():
        assert torch.equal(value, until_then.agent.policy.state_dict()[name]), name


def test_stops_after_the_episode_in_which_it_is_asked_to(problem: Problem, config: TrainingConfig) -> None:
    asked = iter([False, False, True])
    trained, heard = _train(problem, config, should_stop=lambda: next(asked))
    assert trained.episodes == len(heard.reports) == 3
    assert trained.stopped
    assert trained.best.strategy is not None
    assert found_strategy(problem, config, trained).planner.settings["episodes"] == 3


def test_evaluations_and_checkpoints(problem: Problem, config: TrainingConfig) -> None:
    saved = []
    chosen = dataclasses.replace(config, eval_freq=2, save_freq=3)
    trained, heard = _train(problem, chosen, checkpoint=lambda agent, number: saved.append(number))
    assert saved == [3, 6]
    evaluated = {r.number: r.evaluation_latency_s for r in heard.reports if r.evaluation_latency_s is not None}
    assert list(evaluated) == [2, 4, 6, 8]
    assert trained.best.latency_s == min([r.latency_s for r in heard.reports] + list(evaluated.values()))
    # Playing without exploration changes nothing of what is learned.
    plain, _ = _train(problem, config)
    latencies = [r.latency_s for r in _train(problem, config)[1].reports]
    assert [r.latency_s for r in heard.reports] == latencies
    assert plain.updates == trained.updates


def test_torch_threads_are_put_back(problem: Problem, config: TrainingConfig) -> None:
    seen = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _train(problem, config, should_stop=lambda: bool(seen.append(torch.get_num_threads())))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize("algo", [name for name in ALGORITHMS if name != "ddpg"])
def test_other_algorithms(problem: Problem, algo: str) -> None:
    own = {"actor_layers": [16], "critic_layers": [16]}
    own |= {"n_steps": 12, "batch_size": 6} if algo == "ppo" else {"learning_starts": 6}
    config = TrainingConfig(preset="osds", algo=algo, episodes=8, seed=1, hyperparameters=own)
    trained, heard = _train(problem, config)
    assert trained.episodes == len(heard.reports) == 8
    assert trained.updates > 0
    assert (heard.reports[0].epsilon is not None) == (algo == "td3")
    again, _ = _train(problem, config)
    assert again.best.strategy == trained.best.strategy


def test_the_agent_may_choose_the_partition(problem: Problem, config: TrainingConfig) -> None:
    chosen = dataclasses.replace(config, env=PARTITION)
    trained, heard = _train(problem, chosen)
    strategy = found_strategy(problem, chosen, trained)
    assert strategy.planner.method == "distredge-partition"
    assert "alpha" not in strategy.planner.settings
    assert trained.best.latency_s == min(r.latency_s for r in heard.reports)
    assert trained.best.latency_s == pytest.approx(evaluate(problem, strategy), rel=1e-9)
    assert trained.episodes == 8


@pytest.mark.parametrize("algo", ["ddpg", "ppo"])
def test_several_environments_at_once(problem: Problem, algo: str) -> None:
    own = {"actor_layers": [16], "critic_layers": [16], "n_envs": 4}
    own |= {"n_steps": 6, "batch_size": 6} if algo == "ppo" else {"learning_starts": 6}
    config = TrainingConfig(preset="osds", algo=algo, episodes=10, seed=1, hyperparameters=own)
    trained, heard = _train(problem, config)
    assert [r.number for r in heard.reports] == list(range(1, 11))
    assert trained.updates > 0
    # Different environments do not explore alike.
    assert len({r.latency_s for r in heard.reports}) == 10
    assert found_strategy(problem, config, trained).predicted[metric_names.LATENCY_S] == pytest.approx(
        min(r.latency_s for r in heard.reports), rel=1e-9
    )
    if algo == "ddpg":
        # Episodes of all environments count; noise falls as in a single one.
        assert heard.reports[-1].epsilon == pytest.approx(1 - (8 / 250) ** 2, abs=1e-4)
    assert _train(problem, config)[0].best.strategy == trained.best.strategy


def test_learns_to_beat_the_best_device(problem: Problem) -> None:
    config = TrainingConfig(
        preset="osds", episodes=120, seed=0, hyperparameters={"actor_layers": [64, 32], "critic_layers": [64, 32]}
    )
    trained, _ = _train(problem, config)
    assert trained.best.latency_s < offload_latency_s(problem)


def test_starts_from_a_saved_agent(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    trained, _ = _train(problem, config)
    trained.agent.save(tmp_path / "agent.zip")
    one = dataclasses.replace(config, episodes=1)
    fresh = _train(problem, one)[0].agent.policy.state_dict()
    continued = _train(problem, one, trained_agent=tmp_path / "agent.zip")[0].agent.policy.state_dict()
    saved = trained.agent.policy.state_dict()
    assert all(torch.equal(continued[name], saved[name]) for name in saved)
    assert not all(torch.equal(fresh[name], saved[name]) for name in saved)


def test_a_saved_agent_of_another_size_is_refused(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    trained, _ = _train(problem, config)
    trained.agent.save(tmp_path / "agent.zip")
    for algo, layers in (("ddpg", [8]), ("sac", [16])):
        values = merge_hyperparameters(algo, {"actor_layers": layers, "critic_layers": layers})
        agent = make_agent(algo, DummyVecEnv([lambda: make_env([problem], config)]), values, 0)
        with pytest.raises(ConfigError, match="accepted: one trained with the same --algo"):
            load_parameters(agent, tmp_path / "agent.zip")


class _Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_a_saved_agent_is_run(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    trained, _ = _train(problem, config)
    trained.agent.save(tmp_path / "agent.zip")
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["data"] = json.dumps({"seed": {":type:": "x", ":serialized:": b64encode(trap).decode()}}).encode()
    with zipfile.ZipFile(tmp_path / "trap.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    agent = make_agent("ddpg", DummyVecEnv([lambda: make_env([problem], config)]), config.hyperparameters, 0)
    load_parameters(agent, tmp_path / "trap.zip")
    assert not (tmp_path / "sprung").exists()
    # Had the archive been loaded whole, the trap would have sprung.
    load_from_zip_file(tmp_path / "trap.zip")
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"no archive", None])
def test_what_is_no_saved_agent(
    problem: Problem, config: TrainingConfig, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "agent.zip"
    if content is not None:
        path.write_bytes(content)
    else:
        archive = io.BytesIO()
        zipfile.ZipFile(archive, "w").close()
        path.write_bytes(archive.getvalue())
    agent = make_agent("ddpg", DummyVecEnv([lambda: make_env([problem], config)]), config.hyperparameters, 0)
    with pytest.raises((FileError, ConfigError), match=r"agent\.zip"):
        load_parameters(agent, path)


def test_unknown_device(problem: Problem, config: TrainingConfig) -> None:
    with pytest.raises(ConfigError, match="device: found 'gpu'"):
        _train(problem, dataclasses.replace(config, device="gpu"))


def test_plan_spends_its_budget_in_episodes(problem: Problem) -> None:
    strategies = []
    for _ in range(2):
        budget = Budget(evaluations=6)
        strategies.append(plan(problem, budget, 5))
        assert budget.done == 6
        assert budget.best_latency_s == pytest.approx(strategies[-1].predicted[metric_names.LATENCY_S], rel=1e-9)
    assert strategies[0].to_json() == strategies[1].to_json()
    assert strategies[0].planner.settings["episodes"] == 6


def test_plan_ends_with_its_time(problem: Problem) -> None:
    ticks = iter(range(10**6))
    budget = Budget(seconds=20.0, clock=lambda: float(next(ticks)))
    strategy = plan(problem, budget, 0)
    assert 1 <= strategy.planner.settings["episodes"] <= 20
    assert budget.expired()


def test_plan_can_be_interrupted(problem: Problem) -> None:
    budget = Budget(evaluations=1000, progress=lambda progress: budget.interrupt())
    assert plan(problem, budget, 0).planner.settings["episodes"] == 1


def _with_links(cluster: Cluster, link: Link) -> Cluster:
    devices = tuple(Device(d.name, d.profile, link, link) for d in cluster.devices)
    return Cluster("changed", Requester(), devices, cluster.link_model)


def test_plan_needs_two_devices(problem: Problem) -> None:
    alone = Cluster("alone", Requester(), problem.cluster.devices[:1])
    with pytest.raises(PlannerError, match="found 1 device in cluster 'alone', accepted: at least 2"):
        plan(Problem(problem.graph, alone), Budget(evaluations=1), 0)


def test_plan_where_nothing_can_be_reached(problem: Problem) -> None:
    dead = Problem(problem.graph, _with_links(problem.cluster, Link(rate_bps=0.0)))
    with pytest.raises(Infeasible):
        plan(dead, Budget(evaluations=2), 0)


def test_strategies_found_at_different_times_of_a_trace_compare(problem: Problem, config: TrainingConfig) -> None:
    link = Link(trace=Trace(np.array([0.0, 1.0]), np.array([50e6, 5e6])))
    traced = Problem(problem.graph, _with_links(problem.cluster, link))
    trained, heard = _train(traced, config)
    strategy = found_strategy(traced, config, trained)
    # What is predicted is the latency at time 0; strategies are compared by the mean over the trace.
    assert strategy.predicted[metric_names.LATENCY_S] == pytest.approx(evaluate(traced, strategy), rel=1e-9)
    times = start_times(traced.cluster)
    assert len(times) == 16
    mean_s = np.mean([evaluate(traced, strategy, start_s=float(t)) for t in times])
    assert trained.best.latency_s == pytest.approx(mean_s, rel=1e-9)
    assert mean_latency_s(traced, [strategy])[0] == pytest.approx(mean_s, rel=1e-9)
    assert len({r.latency_s for r in heard.reports}) == 8
