"""What the preset `distredge` adds to OSDS: it reaches the known optimum, and each part does what it says."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from distredge import metric_names
from distredge.agents import demonstrations
from distredge.agents.algorithms import make_agent
from distredge.agents.demonstrations import decided, distinct, fastest, known_strategies, ranked, under_scheme
from distredge.agents.exported import _env, load_agent, plan_with
from distredge.agents.exporting import save_onnx
from distredge.agents.hyperparameters import ALGORITHMS, default_hyperparameters
from distredge.agents.memory import BestStrategy, mean_latency_s
from distredge.agents.osds import found_strategy, held_out_env, make_env, prepare
from distredge.agents.playing import actions_of, play, play_volumes
from distredge.agents.settings import TrainingConfig
from distredge.agents.training import Trained, run_training
from distredge.cluster import Cluster, Device
from distredge.envs import PARTITION
from distredge.errors import ConfigError, FileError, Infeasible
from distredge.latency import evaluate, offload_latency_s
from distredge.latency.kernel.kernel import kernel_of
from distredge.planners import run
from distredge.planners.annealing import encoding
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.strategy import Strategy

SMALL: dict[str, Any] = {"actor_layers": [32, 32], "critic_layers": [32, 32], "learning_starts": 16}
NONE: dict[str, Any] = {**SMALL, "demonstrations": 0, "schemes": 1, "polish_s": 0.0, "offload_memory": False}


def _train(problem: Problem, config: TrainingConfig, **options: Any) -> tuple[Trained, Any]:
    prepared = prepare([problem], config)
    trained = run_training(prepared.env, config, demonstrations=prepared.demonstrations, **options)
    return trained, prepared


@pytest.fixture(scope="module")
def pair(problem: Problem) -> Problem:
    """Two devices, so that one cut point decides a volume: few enough strategies to try all."""
    cluster = problem.cluster
    return Problem(problem.graph, Cluster("pair", cluster.requester, cluster.devices[:2], cluster.link_model))


def _optimum_s(problem: Problem, scheme: tuple[int, ...]) -> float:
    """The lowest latency of a scheme of two volumes on two devices, by trying every strategy."""
    heights = [problem.graph.cuts[cut].height for cut in scheme]
    points = list(itertools.product(*(range(height + 1) for height in heights)))
    rows = np.array([[[0, x, height] for x, height in zip(chosen, heights, strict=True)] for chosen in points])
    cuts = np.tile(np.array(scheme), (len(points), 1))
    return float(kernel_of(problem).latency_s(cuts, rows, np.argmax(np.diff(rows[:, -1]), axis=1)).min())


def test_reaches_the_known_optimum(pair: Problem) -> None:
    scheme = (9, len(pair.graph.cuts) - 1)
    best_s = _optimum_s(pair, scheme)
    assert best_s < 0.95 * offload_latency_s(pair)
    alone = TrainingConfig(episodes=400, hyperparameters=NONE)
    env = make_env([pair], alone, scheme)
    by_itself = run_training(env, alone)
    assert best_s * (1 - 1e-9) <= by_itself.best.latency_s <= 1.06 * best_s
    known = [decided(env.problems[0], plan) for plan in known_strategies(env.problems[0], 16, 0, polish_s=0.05)]
    shown = distinct(under_scheme(env.problems[0], volumes, scheme) for volumes in known)
    config = TrainingConfig(episodes=400, hyperparameters={**SMALL, "gradient_steps": 16})
    trained = run_training(make_env([pair], config, scheme), config, demonstrations=[shown])
    assert trained.best.latency_s == pytest.approx(best_s, rel=1e-3)
    assert trained.policy_s[0] <= 1.05 * best_s


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_networks_move_and_every_algorithm_leaves_an_onnx_file(problem: Problem, algo: str, tmp_path: Path) -> None:
    own = {"actor_layers": [16], "critic_layers": [16]}
    own |= {"n_steps": 12, "batch_size": 6} if algo == "ppo" else {"learning_starts": 6, "batch_size": 8}
    config = TrainingConfig(algo=algo, episodes=12, hyperparameters=own)
    prepared = prepare([problem], config)
    values = config.hyperparameters
    before = make_agent(algo, DummyVecEnv([lambda: prepared.env.twin()]), values, config.seed).policy.state_dict()
    trained = run_training(prepared.env, config, demonstrations=prepared.demonstrations)
    after = trained.agent.policy.state_dict()
    moved = [name for name in before if "weight" in name and not torch.equal(before[name], after[name])]
    assert len(moved) == sum("weight" in name for name in before)
    save_onnx(trained.agent, prepared.env, tmp_path / "agent.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx")
    rng = np.random.default_rng(0)
    seen = rng.uniform(-1, 1, (5, *prepared.env.observation_space.shape)).astype(np.float32)  # type: ignore[misc]
    wanted = trained.agent.predict(seen, deterministic=True)[0]
    assert session.run(["action"], {"observation": seen})[0] == pytest.approx(wanted, abs=1e-5)


def test_demonstrations_are_learned_from(problem: Problem) -> None:
    config = TrainingConfig(episodes=600, hyperparameters={**SMALL, "gradient_steps": 8})
    trained, prepared = _train(problem, config)
    (shown,) = prepared.demonstrations
    best_s = ranked(prepared.env.problems[0], shown)[1][0]
    assert trained.best.latency_s <= best_s * (1 + 1e-9)
    assert trained.policy_s[0] < 1.25 * best_s
    strategy = found_strategy(problem, config, trained, known=prepared.known[0])
    assert strategy.predicted[metric_names.LATENCY_S] <= offload_latency_s(problem) * (1 + 1e-9)


def test_the_agents_whole_plans_are_known_with_their_heads(problem: Problem) -> None:
    (inside,) = make_env([problem], TrainingConfig()).problems
    plans = known_strategies(inside, 8, 0, polish_s=0.01)

    def whole(found: Sequence[Strategy]) -> int:
        return sum(plan.planner.method == "agent" and bool(plan.predicted) for plan in found)

    assert whole(plans) == 3
    assert whole(known_strategies(inside, 8, 0)) == 0
    best = fastest(inside, [*plans, *plans], 5)
    assert len({(decided(inside, plan), plan.head) for plan in best}) == len(best) == 5
    seconds = mean_latency_s(inside, best)
    assert list(seconds) == sorted(seconds)
    assert seconds[0] == mean_latency_s(inside, plans).min()
    # A plan whose head is not the device with most rows of the last volume keeps it.
    wide = next(plan for plan in plans if len(plan.devices) > 1)
    other = wide.replace(
        head=dataclasses.replace(wide.head, device=next(d for d in wide.devices if d != wide.head.device))
    )
    assert {plan.head for plan in fastest(inside, [wide, other], 2)} == {wide.head, other.head}


def test_one_device_where_that_is_best(problem: Problem) -> None:
    slow = dataclasses.replace(problem.cluster.devices[0].uplink, rate_bps=1e4)
    devices = tuple(dataclasses.replace(d, uplink=slow, downlink=slow) for d in problem.cluster.devices[1:])
    cluster = dataclasses.replace(problem.cluster, devices=(problem.cluster.devices[0], *devices))
    lonely = Problem(problem.graph, cluster)
    config = TrainingConfig(episodes=20, hyperparameters=SMALL)
    trained, prepared = _train(lonely, config)
    strategy = found_strategy(lonely, config, trained, known=prepared.known[0])
    assert strategy.predicted[metric_names.LATENCY_S] == pytest.approx(offload_latency_s(lonely), rel=1e-9)
    assert all((np.diff(volume.rows) > 0).sum() == 1 for volume in strategy.volumes)
    assert strategy.planner.method == "distredge"


@pytest.mark.parametrize("env_id", ["distredge/SplitRows-v0", PARTITION])
def test_the_actions_of_a_strategy_decide_it(problem: Problem, env_id: str) -> None:
    env = make_env([problem], TrainingConfig(env=env_id))
    rng = np.random.default_rng(1)
    for _ in range(20):
        env.reset(seed=int(rng.integers(1000)))
        done = False
        while not done:
            _, _, done, _, _ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        episode = env.last_episode
        assert episode is not None
        again = play_volumes(env.twin(), episode.volumes)
        assert again.episode.volumes == episode.volumes
        assert np.abs(actions_of(env, episode.volumes)).max() <= 1.0


def test_a_run_goes_on_from_its_state(problem: Problem, tmp_path: Path) -> None:
    config = TrainingConfig(episodes=30, hyperparameters=SMALL)
    state = tmp_path / "state.npz"
    first, prepared = _train(problem, config, state_file=state)
    results = []
    for _ in range(2):
        more = run_training(prepared.env.twin(), config, resume=state)
        assert (more.episodes, more.best.episode) >= (60, 0)
        assert more.updates > first.updates
        assert more.steps > first.steps
        assert more.best.latency_s <= first.best.latency_s
        assert more.seconds > first.seconds
        results.append([value.numpy() for value in more.agent.policy.state_dict().values()])
    assert all(np.array_equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("damage", ["empty", "pickle", "other"])
def test_what_is_no_state_is_refused(problem: Problem, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.npz"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        np.savez(path, tree=np.array([{}], object))
    else:
        np.savez(path, tree=np.frombuffer(json.dumps({"items": [["format", "x"]]}).encode(), np.uint8))
    config = TrainingConfig(episodes=2, hyperparameters=NONE)
    with pytest.raises(FileError, match=r"state\.npz"):
        run_training(make_env([problem], config), config, resume=path)


def test_a_state_of_another_environment_is_refused(problem: Problem, tmp_path: Path) -> None:
    config = TrainingConfig(episodes=2, hyperparameters=NONE)
    state = tmp_path / "state.npz"
    run_training(make_env([problem], config), config, state_file=state)
    other = dataclasses.replace(config, env=PARTITION)
    with pytest.raises(ConfigError, match=r"Partition-v0"):
        run_training(make_env([problem], other), other, resume=state)


def test_one_agent_over_several_clusters_and_one_held_out(problem: Problem) -> None:
    cluster = problem.cluster
    turned = dataclasses.replace(cluster, name="turned", devices=tuple(reversed(cluster.devices)))
    problems = [problem, Problem(problem.graph, turned)]
    config = TrainingConfig(
        cluster=("db-50", "turned"), eval_cluster=("pair",), episodes=40, eval_freq=20, hyperparameters=SMALL
    )
    prepared = prepare(problems, config)
    pair = Problem(problem.graph, dataclasses.replace(cluster, name="again"))
    others = held_out_env(prepared.env, [pair], config)
    reports = []

    class Listener:
        def episode(self, report: Any) -> None:
            reports.append(report)

    trained = run_training(
        prepared.env, config, demonstrations=prepared.demonstrations, held_out=others, observers=[Listener()]
    )
    assert {report.cluster for report in reports} == {"db-50", "turned"}
    assert [set(r.held_out_speedups) for r in reports if r.held_out_speedups] == [{"again"}] * 2
    for k, one in enumerate(problems):
        strategy = found_strategy(one, config, trained, k, prepared.known[k])
        assert evaluate(one, strategy) <= offload_latency_s(one) * (1 + 1e-9)


@pytest.mark.parametrize("env_id", ["distredge/SplitRows-v0", PARTITION])
def test_an_agent_of_unequal_clusters_plays_on_each_and_on_smaller_ones(
    problem: Problem, pair: Problem, env_id: str, tmp_path: Path
) -> None:
    cluster = problem.cluster
    trio = Problem(problem.graph, dataclasses.replace(cluster, name="trio", devices=cluster.devices[:3]))
    config = TrainingConfig(cluster=("db-50", "trio"), env=env_id, episodes=20, hyperparameters=NONE)
    prepared = prepare([problem, trio], config)
    others = held_out_env(prepared.env, [trio, pair], config)
    trained = run_training(prepared.env, config, held_out=others)
    assert others is not None
    assert others.signature == prepared.env.signature
    path = tmp_path / "agent.onnx"
    save_onnx(trained.agent, prepared.env, path)
    agent = load_agent(path)
    for k, one in enumerate([problem, trio]):
        # By itself it does in the environment of that cluster what it does in that of all.
        assert play(_env(one, agent), agent).episode.volumes == play(prepared.env, agent, k).episode.volumes
    for one in (problem, trio, pair):
        assert plan_with(one, Budget(evaluations=3), 3, path).planner.settings["episodes"] == 3
    more = dataclasses.replace(cluster, name="five", devices=(*cluster.devices, _renamed(cluster)))
    for refused in (
        lambda: plan_with(Problem(problem.graph, more), Budget(evaluations=3), 3, path),
        lambda: held_out_env(prepared.env, [Problem(problem.graph, more)], config),
    ):
        with pytest.raises(ConfigError, match="cluster 'five': found 5 devices, accepted: up to 4"):
            refused()


def _renamed(cluster: Cluster) -> Device:
    return dataclasses.replace(cluster.devices[0], name="another")


def test_what_was_trained_on_one_size_is_held_out_on_that_size(problem: Problem, pair: Problem) -> None:
    config = TrainingConfig(episodes=2, eval_cluster=("pair",), hyperparameters=NONE)
    env = make_env([problem], config)
    with pytest.raises(ConfigError, match="--eval-cluster: cluster 'pair': found 2 devices, accepted: 4, since"):
        held_out_env(env, [pair], config)


def test_plans_with_an_exported_agent(problem: Problem, tmp_path: Path) -> None:
    config = TrainingConfig(episodes=300, hyperparameters=SMALL)
    trained, prepared = _train(problem, config)
    path = tmp_path / "agent.onnx"
    save_onnx(trained.agent, prepared.env, path)
    assert load_agent(path).environment == prepared.env.signature
    strategy = plan_with(problem, Budget(evaluations=10), 3, path)
    assert strategy.predicted[metric_names.LATENCY_S] <= min(trained.policy_s[0], offload_latency_s(problem)) * 1.0001
    assert strategy == plan_with(problem, Budget(evaluations=10), 3, path)
    fewer = Problem(problem.graph, dataclasses.replace(problem.cluster, devices=problem.cluster.devices[:2]))
    with pytest.raises(ConfigError, match=r"agent\.onnx: cluster 'db-50': found 2 devices, accepted: 4, since"):
        plan_with(fewer, Budget(evaluations=10), 3, path)
    (tmp_path / "none.onnx").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"none\.onnx: not an agent"):
        load_agent(tmp_path / "none.onnx")


def test_the_preset_of_the_paper_adds_nothing(problem: Problem) -> None:
    own = default_hyperparameters("ddpg", preset="osds")
    assert not own["demonstrations"]
    assert not own["polish_s"]
    assert not own["imitation_weight"]
    assert (own["schemes"], own["offload_memory"], own["greedy_freq"], own["n_envs"]) == (1, False, 0, 1)
    prepared = prepare([problem], TrainingConfig(preset="osds", episodes=1))
    assert prepared.demonstrations == ((),)
    assert prepared.known == ((),)


def test_memory_keeps_different_strategies_best_first(problem: Problem) -> None:
    env = make_env([problem], TrainingConfig())
    best = BestStrategy(env)
    strategies = [decided(env.problems[0], plan) for plan in known_strategies(env.problems[0], 0, 0)]
    for number, volumes in enumerate([*strategies, *strategies], 1):
        best.offer(play_volumes(env, volumes).episode if volumes[0][0] == env.partition[0] else None, number)
    for volumes in strategies:
        best.offer(play_volumes(env, under_scheme(env.problems[0], volumes, env.partition)).episode, 99)
    latencies = [episode.latency_s for episode in best.episodes]
    assert latencies == sorted(latencies)
    assert best.latency_s == latencies[0]
    assert len({episode.volumes for episode in best.episodes}) == len(best.episodes)


def test_demonstrations_leave_half_of_the_budget(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    budget = Budget(10.0, clock=lambda: now_s[0])
    asked: list[str] = []

    def slow(problem: Problem, method: str, *more: Any) -> Strategy:
        asked.append(method)
        now_s[0] += 2.0
        return run(problem, method, *more)

    monkeypatch.setattr(demonstrations, "run", slow)
    monkeypatch.setattr(demonstrations, "proposed", lambda *given: pytest.fail("there is no time left"))
    prepared = prepare([problem], TrainingConfig(budget_s=10.0, hyperparameters=SMALL), budget)
    assert tuple(asked) == demonstrations.CHEAP[:3]
    assert len(prepared.demonstrations[0]) >= 1
    assert not budget.expired()


def test_an_interruption_during_the_demonstrations_is_one(problem: Problem) -> None:
    config = TrainingConfig(episodes=5, hyperparameters=SMALL)
    budget = Budget(evaluations=5)
    budget.interrupt()
    prepared = prepare([problem], config, budget)
    trained = run_training(prepared.env, config, demonstrations=prepared.demonstrations, budget=budget)
    assert (trained.episodes, trained.stopped) == (0, True)


def test_says_where_the_demonstrations_took_all_the_time(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    budget = Budget(1.0, clock=lambda: now_s[0])
    now_s[0] = 2.0
    config = TrainingConfig(preset="osds", budget_s=1.0)
    trained = run_training(make_env([problem], config), config, budget=budget)
    assert (trained.episodes, trained.stopped) == (0, False)
    with pytest.raises(Infeasible, match="no episode was played"):
        found_strategy(problem, config, trained)
    assert "the demonstrations used up the budget" in caplog.text


def test_a_scheme_of_more_volumes_than_the_search_knows(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_VOLUMES", 2)
    (inside,) = make_env([problem], TrainingConfig()).problems
    assert demonstrations.proposed(inside, 2, 0, (9, 17))
    assert demonstrations.proposed(inside, 2, 0, (4, 9, 17)) == []
