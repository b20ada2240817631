"""Hyper-parameters: the shipped ones of an algorithm, and others put over them, checked.

What is shipped stands in `hyperparams/ALGO.yml`, and what every algorithm has in `hyperparams/additions.yml`: in each
the block `default`, which is the preset `distredge`, then the block of another preset, then the block of the
environment. The shipped values say which keys there are and of what type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from distredge.envs import SPLIT_ROWS
from distredge.errors import ConfigError, FileError, did_you_mean, located

ALGORITHMS: Mapping[str, str] = {
    "ddpg": "distredge.agents.imitation:DDPG",
    "td3": "distredge.agents.imitation:TD3",
    "sac": "stable_baselines3:SAC",
    "ppo": "stable_baselines3:PPO",
    "tqc": "sb3_contrib:TQC",
    "crossq": "sb3_contrib:CrossQ",
}
"""Algorithm -> its class; the first is OSDS's."""

PRESETS = ("distredge", "osds")
"""Sets of hyper-parameters: ours, and OSDS to the letter."""

ADDITIONS = "additions"
"""File of the hyper-parameters that every algorithm has."""

_AT_MOST_ONE = frozenset(
    {"gamma", "tau", "gae_lambda", "epsilon_decay", "noise_spread", "noise_density", "imitation_last"}
)
_MAY_BE_ZERO = frozenset(
    {"learning_starts", "target_policy_noise", "target_noise_clip", "ent_coef", "vf_coef", "noise_variance",
     "epsilon_decay", "gamma", "top_quantiles_to_drop_per_net", "tau", "gae_lambda", "demonstrations", "greedy_freq",
     "polish_s", "demonstration_polish_s", "imitation_weight", "imitation_last"}
)  # fmt: skip
_CHOICES: Mapping[str, Sequence[str]] = {"reward_scale": ("offload", "paper")}

Hyperparameters = Mapping[str, Any]


def check_algorithm(algo: object) -> None:
    """Raises ConfigError unless there is an algorithm of that name."""
    if not isinstance(algo, str) or algo not in ALGORITHMS:
        raise ConfigError(f"no algorithm {algo!r}{did_you_mean(str(algo), ALGORITHMS)}")


def check_preset(preset: str) -> None:
    """Raises ConfigError unless there is a preset of that name."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}{did_you_mean(str(preset), PRESETS)}")


def default_hyperparameters(algo: str, env_id: str = SPLIT_ROWS, preset: str = PRESETS[0]) -> dict[str, Any]:
    """Returns the shipped hyper-parameters of an algorithm for an environment, as a preset has them."""
    return dict(_defaults(algo, env_id, preset))


def merge_hyperparameters(
    algo: str, *overrides: Hyperparameters, env_id: str = SPLIT_ROWS, preset: str = PRESETS[0]
) -> dict[str, Any]:
    """Returns the shipped hyper-parameters with others put over them, the last ones on top.

    Raises:
        ConfigError: for a key that the algorithm does not have, or a value of the wrong type or out of range.
    """
    defaults = _defaults(algo, env_id, preset)
    merged = dict(defaults)
    for override in overrides:
        for key, value in override.items():
            if key not in merged:
                raise ConfigError(f"{algo} has no hyper-parameter '{key}'{did_you_mean(str(key), merged)}")
            merged[key] = _checked(algo, key, defaults[key], value)
    return merged


def parse_yaml(text: str, source: str | Path) -> dict[str, Any]:
    """Parses a YAML file of keys and values.

    Raises:
        FileError: naming the source and the line, if it is none.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}:" if mark is not None else ""
        raise FileError(f"{source}:{place} not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise FileError(located(source, "", type(content).__name__, "a YAML file of keys and values"))
    return content


@functools.cache
def _defaults(algo: str, env_id: str, preset: str) -> dict[str, Any]:
    check_algorithm(algo)
    check_preset(preset)
    found: dict[str, Any] = {}
    for name in (ADDITIONS, algo):
        source = resources.files("distredge.agents") / "hyperparams" / f"{name}.yml"
        blocks = parse_yaml(source.read_text(encoding="utf-8"), source.name)
        found |= {**blocks["default"], **blocks.get(preset, {}), **blocks.get(env_id, {})}
    return found


def _checked(algo: str, key: str, default: Any, value: Any) -> Any:
    """Returns a value as the type of its default."""
    accepted = _accepted(key, default)
    if key in _CHOICES:
        fits = value in _CHOICES[key]
    elif isinstance(default, list):
        fits = isinstance(value, list) and all(type(n) is int and n > 0 for n in value)
    elif isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int):
        fits = type(value) is int and _in_range(key, value)
    elif value is None:
        fits = default is None or key in _MAY_BE_NULL
    else:
        value = _as_number(value)
        fits = value is not None and _in_range(key, value)
    if not fits:
        raise ConfigError(located(algo, key, value, accepted))
    return value


_MAY_BE_NULL = frozenset({"epsilon_decay", "noise_variance"})
"""Keys whose null means that they are found out, whatever a preset has."""


def _accepted(key: str, default: Any) -> str:
    if key in _CHOICES:
        return " or ".join(_CHOICES[key])
    if isinstance(default, list):
        return "a list of whole numbers above 0"
    if isinstance(default, bool):
        return "true or false"
    kind = "a whole number" if isinstance(default, int) else "a number"
    text = f"{kind} of at least 0" if key in _MAY_BE_ZERO else f"{kind} above 0"
    text += " and at most 1" if key in _AT_MOST_ONE else ""
    return text + (", or null" if default is None or key in _MAY_BE_NULL else "")


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
