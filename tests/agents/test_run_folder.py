"""Run folders: names, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distredge import metric_names
from distredge.agents.osds import found_strategy, make_env
from distredge.agents.run_folder import RunFolder, agent_file, describe, run_name
from distredge.agents.settings import TrainingConfig, read_config
from distredge.agents.training import run_training
from distredge.cluster import Cluster, Requester
from distredge.envs import PARTITION
from distredge.envs.signature import Signature
from distredge.errors import FileError
from distredge.latency import offload_latency_s
from distredge.problem import Problem
from distredge.strategy import Strategy


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
    assert Signature.from_json("run", about["environment"]) == env.signature
    assert (about["episodes"], about["interrupted"], about["trained_agent"]) == (8, False, None)
    assert about["versions"]["torch"]


def test_saved_agent_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"")
    assert agent_file(tmp_path) == agent_file(tmp_path / "model.zip") == tmp_path / "model.zip"
    with pytest.raises(FileError, match="no saved agent here"):
        agent_file(tmp_path / "elsewhere")
