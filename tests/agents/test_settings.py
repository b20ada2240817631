"""Configurations: what is merged over what, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distredge.agents.algorithms import noise_variance
from distredge.agents.hyperparameters import default_hyperparameters
from distredge.agents.settings import (
    ALGORITHMS,
    TrainingConfig,
    merge_hyperparameters,
    parse_assignments,
    read_config,
)
from distredge.envs import PARTITION
from distredge.errors import ConfigError, FileError


def test_defaults_are_the_papers() -> None:
    config = TrainingConfig(preset="osds")
    assert (config.algo, config.episodes, config.alpha) == ("ddpg", 4000, 0.75)
    paper = {
        "actor_learning_rate": 1e-4,
        "critic_learning_rate": 1e-3,
        "actor_layers": [400, 200, 100],
        "critic_layers": [400, 200, 100, 100],
        "batch_size": 64,
        "gamma": 0.99,
        "epsilon_decay": 1 / 250,
        "train_freq": 1,
        "gradient_steps": 1,
    }
    assert {key: config.hyperparameters[key] for key in paper} == paper


@pytest.mark.parametrize(("n_devices", "variance"), [(2, 0.1), (4, 0.1), (15, 0.1), (16, 1.0), (40, 1.0)])
def test_noise_of_the_paper_by_number_of_devices(n_devices: int, variance: float) -> None:
    assert noise_variance(default_hyperparameters("ddpg"), n_devices) == variance
    assert noise_variance({"noise_variance": 0.5}, n_devices) == 0.5


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_shipped_value_is_accepted(algo: str) -> None:
    shipped = default_hyperparameters(algo)
    assert merge_hyperparameters(algo, shipped) == shipped


def test_later_values_win() -> None:
    merged = merge_hyperparameters("ddpg", {"gamma": 0.9, "tau": 0.1}, {"gamma": 0.5})
    assert (merged["gamma"], merged["tau"], merged["batch_size"]) == (0.5, 0.1, 64)


def test_null_where_it_is_found_out_while_learning() -> None:
    assert TrainingConfig(algo="sac", hyperparameters={"ent_coef": None}).hyperparameters["ent_coef"] is None
    own = {"epsilon_decay": None, "noise_variance": None}
    assert own.items() <= TrainingConfig(preset="osds", hyperparameters=own).hyperparameters.items()


def test_file_of_a_run_makes_the_same_configuration(tmp_path: Path) -> None:
    own = {"gamma": 0.5}
    config = TrainingConfig(
        "resnet50",
        ("na-nano", "nb-nano"),
        (1, 3, 96, 64),
        algo="sac",
        env=PARTITION,
        episodes=12,
        budget_s=1.5,
        seed=5,
        eval_cluster=("nc-nano",),
        hyperparameters=own,
        as_published=True,
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert TrainingConfig(**read_config(tmp_path / "config.yaml")) == config
    assert list(yaml.safe_load(config.to_yaml()))[:3] == ["model", "cluster", "input_shape"]


def test_assignments() -> None:
    found = parse_assignments(["gamma=0.5", "actor_layers=[8, 8]", "noise_variance=null", "tau=1e-3"])
    assert found == {"gamma": 0.5, "actor_layers": [8, 8], "noise_variance": None, "tau": "1e-3"}
    # YAML 1.1 takes 1e-3 for a text.
    assert merge_hyperparameters("ddpg", found)["tau"] == 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 3}, "no hyper-parameter 'batchsize'; did you mean 'batch_size'"),
        ({"batch_size": 3.5}, "batch_size: found 3.5, accepted: a whole number above 0"),
        ({"batch_size": True}, "batch_size: found True"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"gamma": 1.5}, "at most 1"),
        ({"gamma": "high"}, "gamma"),
        ({"gamma": None}, "gamma: found None"),
        ({"tau": float("nan")}, "tau: found nan"),
        ({"actor_layers": [8, 0]}, "a list of whole numbers above 0"),
        ({"actor_layers": 8}, "a list of whole numbers above 0"),
        ({"noise_variance": -1}, "noise_variance: found -1.0, accepted: a number of at least 0, or null"),
        ({"reward_scale": "log"}, "offload or paper"),
    ],
)
def test_wrong_hyperparameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        merge_hyperparameters("ddpg", values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algo": "dpg"}, "no algorithm 'dpg'; did you mean 'ddpg'"),
        ({"algo": ["ddpg"]}, r"no algorithm \['ddpg'\]"),
        ({"algo": "ppo", "hyperparameters": {"ent_coef": None}}, "ppo: ent_coef: found None"),
        ({"env": "distredge/Partitions-v0"}, "did you mean 'distredge/Partition-v0'"),
        ({"episodes": 0}, "episodes: found 0, accepted: a whole number from 1"),
        ({"episodes": 1.5}, "episodes: found 1.5"),
        ({"input_shape": "224"}, "input_shape: found '224', accepted: sizes such as"),
        ({"input_shape": [1, 3, 0, 4]}, "input_shape: found"),
        ({"seed": -1}, "seed: found -1"),
        ({"alpha": 1.01}, "alpha: found 1.01, accepted: a number from 0 to 1"),
        ({"alpha": "x"}, "alpha: found 'x'"),
        ({"eval_freq": -1}, "eval_freq"),
        ({"model": 3}, "model: found 3, accepted: a text"),
    ],
)
def test_wrong_configuration(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**values)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("episode: 3\n", ConfigError, "no key 'episode'; did you mean 'episodes'"),
        ("- 3\n", FileError, "found 'list', accepted: a YAML file of keys"),
        ("a: [\n", FileError, "line 2: not YAML"),
        ("hyperparameters: 3\n", ConfigError, "hyperparameters: found 3"),
        ("!!python/object/apply:os.getcwd []\n", FileError, "not YAML"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message) as found:
        read_config(path)
    assert str(path) in str(found.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none.yaml: cannot read the configuration: No such file"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("assignment", ["gamma", "=3", "gamma=[1"])
def test_wrong_assignments(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_assignments([assignment])
