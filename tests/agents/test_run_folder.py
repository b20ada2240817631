"""Run folders: names, and what is in them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distredge import metric_names
from distredge.agents.memory import BestStrategy
from distredge.agents.osds import found_strategy, make_env
from distredge.agents.playing import play_volumes
from distredge.agents.run_folder import RunFolder, agent_file, describe, run_name
from distredge.agents.settings import TrainingConfig, read_config
from distredge.agents.training import run_training
from distredge.cluster import Cluster, Requester
from distredge.envs import PARTITION
from distredge.envs.signature import Signature
from distredge.errors import FileError
from distredge.latency import offload_latency_s
from distredge.planners.common.building import predict
from distredge.problem import Problem
from distredge.strategy import PlannerRef, Strategy


def test_runs_never_share_a_folder(tmp_path: Path) -> None:
    paths = [RunFolder(tmp_path / "runs", "a_b_ddpg_1").path.name for _ in range(3)]
    assert paths == ["a_b_ddpg_1", "a_b_ddpg_1_2", "a_b_ddpg_1_3"]


def test_name(problem: Problem, config: TrainingConfig) -> None:
    assert run_name([problem], config) == "vgg16_db-50_osds_ddpg_3"
    assert run_name([problem], TrainingConfig(env=PARTITION)) == "vgg16_db-50_partition_ddpg_0"
    assert run_name([problem] * 4, TrainingConfig()) == "vgg16_db-50_db-50_db-50_and-1_ddpg_0"
    odd = Problem(problem.graph, Cluster("../my boards", Requester(), problem.cluster.devices))
    assert run_name([odd], TrainingConfig(algo="sac", seed=3)) == "vgg16_my-boards_sac_3"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"file.run: cannot make the run's folder"):
        RunFolder(tmp_path / "file", "run")
    with pytest.raises(FileError, match="a file of that name exists"):
        RunFolder(tmp_path, "file")


def test_everything_is_there(problem: Problem, config: TrainingConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, run_name([problem], config))
    folder.save_config(config)
    env = make_env([problem], config)
    trained = run_training(env, config, state_file=folder.state)
    strategy = found_strategy(problem, config, trained)
    folder.save_result([problem], [strategy], trained, [describe(problem, strategy, trained)], env, None)
    folder.save_checkpoint(trained.agent, 4)
    assert {p.name for p in folder.path.iterdir()} == {
        "strategy.json",
        "config.yaml",
        "run.json",
        "model.zip",
        "agent.onnx",
        "state.npz",
        "checkpoint_4.zip",
    }
    assert Strategy.load(folder.strategy) == strategy
    assert TrainingConfig(**read_config(folder.path / "config.yaml")) == config
    about = json.loads((folder.path / "run.json").read_text())
    assert about["format"] == "distredge.run/1"
    assert about[metric_names.LATENCY_S] == pytest.approx(trained.best.latency_s, rel=1e-9)
    assert about[metric_names.SPEEDUP] == pytest.approx(offload_latency_s(problem) / trained.best.latency_s)
    assert not about["one_device_is_best"]
    assert (about["found_by"], about["found_in_episode"]) == ("episode", trained.best.episode)
    assert Signature.from_json("run", about["environment"]) == env.signature
    assert (about["episodes"], about["interrupted"], about["trained_agent"]) == (8, False, None)
    assert about["versions"]["torch"]


@pytest.mark.parametrize(
    ("own", "found_by"),
    [({"offload_memory": True}, "single device"), ({"polish_s": 0.01}, "polish"), ({}, "episode")],
)
def test_the_episode_is_that_of_the_strategy_returned(
    problem: Problem, small: dict[str, Any], own: dict[str, Any], found_by: str
) -> None:
    if found_by == "single device":
        slow = dataclasses.replace(problem.cluster.devices[1].uplink, rate_bps=1e4)
        rest = (dataclasses.replace(device, uplink=slow) for device in problem.cluster.devices[1:])
        cluster = dataclasses.replace(problem.cluster, devices=(problem.cluster.devices[0], *rest))
        problem = dataclasses.replace(problem, cluster=cluster)
    config = TrainingConfig(preset="osds", episodes=2, seed=3, hyperparameters={**small, **own})
    trained = run_training(make_env([problem], config), config)
    about = describe(problem, found_strategy(problem, config, trained), trained)
    assert about["found_by"] == found_by
    assert about["found_in_episode"] == (trained.best.episode if found_by == "episode" else None)
    assert trained.best.episode > 0


def test_a_demonstration_is_found_in_no_episode(problem: Problem, small: dict[str, Any]) -> None:
    config = TrainingConfig(preset="osds", episodes=1, hyperparameters=small)
    env = make_env([problem], config)
    part = tuple((cut, (0, 1, 2, 3, problem.graph.cuts[cut].height)) for cut in env.partition[:-1])
    body = (*part, (env.partition[-1], (0, 0, 0, 0, problem.graph.cuts[-1].height)))
    trained = run_training(env, config)
    one = BestStrategy(env)
    one.offer(play_volumes(env.twin(), body, 0).episode, 0)
    trained = dataclasses.replace(trained, bests=(one,))
    about = describe(problem, found_strategy(problem, config, trained), trained)
    assert (about["found_by"], about["found_in_episode"]) == ("demonstration", None)


def test_devices_that_compute_in_turn_are_several(problem: Problem, config: TrainingConfig) -> None:
    trained = run_training(make_env([problem], config), config)
    names, cuts = problem.cluster.names, problem.graph.cuts

    def said(first: str, second: str, head: str) -> bool:
        volumes = []
        for cut, device in ((len(cuts) // 2, first), (len(cuts) - 1, second)):
            k, height = names.index(device), cuts[cut].height
            volumes.append((cut, tuple(0 if j <= k else height for j in range(len(names) + 1))))
        strategy = Strategy.make(problem.graph, names, volumes, head=head)
        strategy = strategy.replace(planner=PlannerRef(settings={"found_by": "polish"}))
        one: bool = describe(problem, predict(problem, strategy), trained)["one_device_is_best"]
        return one

    a, b = names[0], names[1]
    assert said(a, a, a)
    assert not said(a, b, b)
    assert not said(a, a, b)


def test_saved_agent_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"")
    assert agent_file(tmp_path) == agent_file(tmp_path / "model.zip") == tmp_path / "model.zip"
    with pytest.raises(FileError, match="no saved agent here"):
        agent_file(tmp_path / "elsewhere")
