"""What a training run is told: its configuration and the hyper-parameters of its algorithm.

Values are merged from the shipped defaults (`hyperparams/ALGO.yml`: the block `default`, then the block of the
environment), a configuration file, and single keys. The defaults say which keys there are and of what type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from distredge.envs import PARTITION, SPLIT_ROWS
from distredge.errors import ConfigError, FileError, did_you_mean, located
from distredge.planners.published import lc_pss

ALGORITHMS: Mapping[str, str] = {
    "ddpg": "distredge.agents.ddpg:DDPG",
    "td3": "stable_baselines3:TD3",
    "sac": "stable_baselines3:SAC",
    "ppo": "stable_baselines3:PPO",
    "tqc": "sb3_contrib:TQC",
}
"""Algorithm -> its class; the first is OSDS's."""

ENVIRONMENTS = (SPLIT_ROWS, PARTITION)
"""Environments that agents are trained in; the first is OSDS's."""

EPISODES = 4000
"""Length of a training run (DistrEdge, section V)."""

_AT_MOST_ONE = frozenset({"gamma", "tau", "gae_lambda", "epsilon_decay"})
_MAY_BE_ZERO = frozenset(
    {"learning_starts", "target_policy_noise", "target_noise_clip", "ent_coef", "vf_coef", "noise_variance",
     "epsilon_decay", "gamma", "top_quantiles_to_drop_per_net", "tau", "gae_lambda"}
)  # fmt: skip
_CHOICES: Mapping[str, Sequence[str]] = {"reward_scale": ("offload", "paper")}

Hyperparameters = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run finds.

    Attributes:
        model: zoo name, path of an ONNX file, or `package.module:callable`.
        cluster: name of a shipped case, or path of a TOML file.
        input_shape: of the model's input; None for the model's own.
        algo: one of `ALGORITHMS`.
        env: one of `ENVIRONMENTS`.
        episodes: length of the run.
        seed: of every random choice.
        alpha: LC-PSS's weight of transmission, 0 to 1 (where the environment leaves the partition to LC-PSS).
        device: where the networks are, as torch names it.
        eval_freq: episodes between two episodes without exploration; 0 for none.
        save_freq: episodes between two checkpoints; 0 for none.
        hyperparameters: of the algorithm, complete.
        as_published: whether the strategy keeps to what the papers have (`Problem.as_published`).

    Raises:
        ConfigError: naming the key that is wrong.
    """

    model: str = "vgg16"
    cluster: str = "db-50"
    input_shape: tuple[int, ...] | None = None
    algo: str = "ddpg"
    env: str = SPLIT_ROWS
    episodes: int = EPISODES
    seed: int = 0
    alpha: float = lc_pss.ALPHA
    device: str = "cpu"
    eval_freq: int = 0
    save_freq: int = 0
    hyperparameters: Hyperparameters = field(default_factory=dict)
    as_published: bool = False

    def __post_init__(self) -> None:
        check_algorithm(self.algo)
        check_environment(self.env)
        for key, low, high in (
            ("episodes", 1, 10**9),
            ("seed", 0, 2**32 - 1),
            ("alpha", 0, 1),
            ("eval_freq", 0, 10**9),
            ("save_freq", 0, 10**9),
        ):
            value = getattr(self, key)
            whole = key == "alpha" or isinstance(value, int)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (whole and low <= value <= high):
                kind = "a number" if key == "alpha" else "a whole number"
                raise ConfigError(located("configuration", key, value, f"{kind} from {low} to {high}"))
        for key in ("model", "cluster", "device"):
            if not isinstance(getattr(self, key), str):
                raise ConfigError(located("configuration", key, getattr(self, key), "a text"))
        if not isinstance(self.as_published, bool):
            raise ConfigError(located("configuration", "as_published", self.as_published, "true or false"))
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", _sizes(self.input_shape))
        object.__setattr__(self, "hyperparameters", self._merged())

    def _merged(self) -> dict[str, Any]:
        return merge_hyperparameters(self.algo, self.hyperparameters, env_id=self.env)

    def to_yaml(self) -> str:
        """The text of `config.yaml`: everything, defaults included."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["hyperparameters"] = dict(self.hyperparameters)
        content["input_shape"] = None if self.input_shape is None else list(self.input_shape)
        return yaml.safe_dump(content, sort_keys=False)


def _sizes(found: object) -> tuple[int, ...]:
    """Checks an input shape."""
    sizes = tuple(found) if isinstance(found, (list, tuple)) else ()
    if not sizes or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ConfigError(located("configuration", "input_shape", found, "sizes such as [1, 3, 224, 224]"))
    return sizes


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a configuration file: any of the keys of `TrainingConfig`, such as a run's own `config.yaml`.

    Raises:
        FileError: if it cannot be read or is not YAML.
        ConfigError: if it holds a key that there is not.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: cannot read the configuration: {getattr(error, 'strerror', None) or error}"
        ) from error
    content = _parse(text, path)
    known = [f.name for f in fields(TrainingConfig)]
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: no key '{key}'{did_you_mean(str(key), known)}")
    if not isinstance(content.get("hyperparameters", {}), dict):
        raise ConfigError(located(path, "hyperparameters", content["hyperparameters"], "keys and values"))
    return content


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parses `key=value` texts, values as in YAML.

    Raises:
        ConfigError: if one has no `=` or its value is not YAML.
    """
    found = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(located("--set", "", assignment, "key=value"))
        try:
            found[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(located("--set", key, text, "a value as in YAML")) from error
    return found


def check_algorithm(algo: str) -> None:
    """Raises ConfigError unless there is an algorithm of that name."""
    if algo not in ALGORITHMS:
        raise ConfigError(f"no algorithm {algo!r}{did_you_mean(str(algo), ALGORITHMS)}")


def check_environment(env: str) -> None:
    """Raises ConfigError unless agents are trained in an environment of that name."""
    if env not in ENVIRONMENTS:
        raise ConfigError(f"no environment {env!r}{did_you_mean(str(env), ENVIRONMENTS)}")


@functools.cache
def _defaults(algo: str, env_id: str) -> dict[str, Any]:
    check_algorithm(algo)
    source = resources.files("distredge.agents") / "hyperparams" / f"{algo}.yml"
    blocks = _parse(source.read_text(encoding="utf-8"), source.name)
    return {**blocks["default"], **blocks.get(env_id, {})}


def default_hyperparameters(algo: str, env_id: str = SPLIT_ROWS) -> dict[str, Any]:
    """Returns the shipped hyper-parameters of an algorithm for an environment."""
    return dict(_defaults(algo, env_id))


def merge_hyperparameters(algo: str, *overrides: Hyperparameters, env_id: str = SPLIT_ROWS) -> dict[str, Any]:
    """Returns the shipped hyper-parameters with others put over them, the last ones on top.

    Raises:
        ConfigError: for a key that the algorithm does not have, or a value of the wrong type or out of range.
    """
    merged = default_hyperparameters(algo, env_id)
    for override in overrides:
        for key, value in override.items():
            if key not in merged:
                raise ConfigError(f"{algo} has no hyper-parameter '{key}'{did_you_mean(str(key), merged)}")
            merged[key] = _checked(algo, key, _defaults(algo, env_id)[key], value)
    return merged


def _checked(algo: str, key: str, default: Any, value: Any) -> Any:
    """Returns a value as the type of its default."""
    accepted = _accepted(key, default)
    if key in _CHOICES:
        fits = value in _CHOICES[key]
    elif isinstance(default, list):
        fits = isinstance(value, list) and all(type(n) is int and n > 0 for n in value)
    elif isinstance(default, int):
        fits = type(value) is int and _in_range(key, value)
    elif value is None:
        fits = default is None
    else:
        value = _as_number(value)
        fits = value is not None and _in_range(key, value)
    if not fits:
        raise ConfigError(located(algo, key, value, accepted))
    return value


def _accepted(key: str, default: Any) -> str:
    if key in _CHOICES:
        return " or ".join(_CHOICES[key])
    if isinstance(default, list):
        return "a list of whole numbers above 0"
    kind = "a whole number" if isinstance(default, int) else "a number"
    text = f"{kind} of at least 0" if key in _MAY_BE_ZERO else f"{kind} above 0"
    text += " and at most 1" if key in _AT_MOST_ONE else ""
    return text + (", or null" if default is None else "")


def _in_range(key: str, value: float) -> bool:
    if not math.isfinite(value) or value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
        return False
    return value <= 1 or key not in _AT_MOST_ONE


def _as_number(value: Any) -> float | None:
    """A float; YAML 1.1 reads `1e-4`, without a point, as a text."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _parse(text: str, source: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}:" if mark is not None else ""
        raise FileError(f"{source}:{place} not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise FileError(located(source, "", type(content).__name__, "a YAML file of keys and values"))
    return content
