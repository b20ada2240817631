"""What a training run is told: its configuration, merged from defaults, a file and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from distredge.agents.hyperparameters import (
    ALGORITHMS,
    PRESETS,
    Hyperparameters,
    check_algorithm,
    check_preset,
    merge_hyperparameters,
    parse_yaml,
)
from distredge.envs import PARTITION, SPLIT_ROWS
from distredge.errors import ConfigError, FileError, did_you_mean, located
from distredge.model.wires import PLANNABLE_INPUTS
from distredge.planners.published import lc_pss

__all__ = [
    "ALGORITHMS",
    "BY_DEMONSTRATION",
    "BY_EPISODE",
    "BY_ONE_DEVICE",
    "BY_POLISH",
    "ENVIRONMENTS",
    "EPISODES",
    "PRESETS",
    "Hyperparameters",
    "TrainingConfig",
    "check_algorithm",
    "check_environment",
    "check_preset",
    "merge_hyperparameters",
    "own_values",
    "parse_assignments",
    "read_config",
]

ENVIRONMENTS = (SPLIT_ROWS, PARTITION)
"""Environments that agents are trained in; the first is OSDS's."""

EPISODES = 4000
"""Length of a training run (DistrEdge, section V)."""

COMPARE_SEARCH_S = 1.0
"""Seconds of the search that a run is compared with."""

BY_EPISODE, BY_DEMONSTRATION, BY_POLISH, BY_ONE_DEVICE = "episode", "demonstration", "polish", "single device"
"""What a run may have found its strategy by."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run finds.

    Attributes:
        model: zoo name, path of an ONNX file, or `package.module:callable`.
        cluster: name of a shipped case, or path of a TOML file; several for one agent over all of them.
        input_shape: of the model's input; None for the model's own.
        preset: one of `PRESETS`: the hyper-parameters that are not given.
        algo: one of `ALGORITHMS`.
        env: one of `ENVIRONMENTS`.
        episodes: length of the run; None where `budget_s` alone ends it.
        budget_s: seconds that the run may take; None for no limit. With both the first to be reached ends it.
        seed: of every random choice.
        alpha: LC-PSS's weight of transmission, 0 to 1 (where the environment leaves the partition to LC-PSS).
        device: where the networks are, as torch names it.
        eval_freq: episodes between two episodes without exploration; 0 for none.
        eval_cluster: clusters that are not trained on, and on which the policy is played then and at the end.
        save_freq: episodes between two checkpoints; 0 for none.
        compare_search_s: seconds of a search after the run that its result is compared with; 0 for none.
        profile_set: shipped compute profiles in place of the clusters' own.
        link_model: "independent" or "shared" in place of the clusters' own.
        input_dtype: in which the requester sends the input; None for what suits offloading best.
        boundary_first: whether strategies may compute first what others wait for; None for the default of the regime.
        as_published: whether the strategy keeps to what the papers have (`Problem.as_published`).
        hyperparameters: of the algorithm, complete.

    Raises:
        ConfigError: naming the key that is wrong.
    """

    model: str = "vgg16"
    cluster: str | tuple[str, ...] = "db-50"
    input_shape: tuple[int, ...] | None = None
    preset: str = PRESETS[0]
    algo: str = "ddpg"
    env: str = SPLIT_ROWS
    episodes: int | None = None
    budget_s: float | None = None
    seed: int = 0
    alpha: float = lc_pss.ALPHA
    device: str = "cpu"
    eval_freq: int = 0
    eval_cluster: tuple[str, ...] = ()
    save_freq: int = 0
    compare_search_s: float = COMPARE_SEARCH_S
    profile_set: str | None = None
    link_model: Literal["independent", "shared"] | None = None
    input_dtype: str | None = None
    boundary_first: bool | None = None
    as_published: bool = False
    hyperparameters: Hyperparameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_algorithm(self.algo)
        check_environment(self.env)
        check_preset(self.preset)
        if self.episodes is None and self.budget_s is None:
            object.__setattr__(self, "episodes", EPISODES)
        for key, low, high, whole in _NUMBERS:
            _check_number(key, getattr(self, key), low, high, whole)
        for key in ("cluster", "eval_cluster"):
            object.__setattr__(self, key, _names(key, getattr(self, key)))
        for key, kinds, accepted in _TEXTS:
            if not isinstance(getattr(self, key), kinds):
                raise ConfigError(located("configuration", key, getattr(self, key), accepted))
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in (None, *choices):
                found = getattr(self, key)
                raise ConfigError(located("configuration", key, found, " or ".join(map(repr, choices))))
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", _sizes(self.input_shape))
        object.__setattr__(self, "hyperparameters", self._merged())

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters that are trained on, at least one."""
        return (self.cluster,) if isinstance(self.cluster, str) else self.cluster

    def _merged(self) -> dict[str, Any]:
        return merge_hyperparameters(self.algo, self.hyperparameters, env_id=self.env, preset=self.preset)

    def to_yaml(self) -> str:
        """The text of `config.yaml`: everything, defaults included."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["hyperparameters"] = dict(self.hyperparameters)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}
        return yaml.safe_dump(plain, sort_keys=False)


_NUMBERS: tuple[tuple[str, float, float, bool], ...] = (
    ("episodes", 1, 10**9, True),
    ("budget_s", 0, 10**9, False),
    ("seed", 0, 2**32 - 1, True),
    ("alpha", 0, 1, False),
    ("eval_freq", 0, 10**9, True),
    ("save_freq", 0, 10**9, True),
    ("compare_search_s", 0, 10**9, False),
)
"""Keys that are numbers, from what, to what, and whether whole."""

_TEXTS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("model", (str,), "a text"),
    ("device", (str,), "a text"),
    ("profile_set", (str, type(None)), "a text, or null"),
    ("as_published", (bool,), "true or false"),
    ("boundary_first", (bool, type(None)), "true, false or null"),
)

_CHOICES: dict[str, tuple[str, ...]] = {"link_model": ("independent", "shared"), "input_dtype": PLANNABLE_INPUTS}


def _check_number(key: str, found: object, low: float, high: float, whole: bool) -> None:
    if found is None and key in ("episodes", "budget_s"):
        return
    kinds = int if whole else (int, float)
    fits = isinstance(found, kinds) and not isinstance(found, bool) and low <= found <= high
    if key == "budget_s" and found == 0:
        fits = False
    if not fits:
        kind = "a whole number" if whole else "a number"
        accepted = "a number of seconds above 0" if key == "budget_s" else f"{kind} from {low:g} to {high:g}"
        raise ConfigError(located("configuration", key, found, accepted))


def _names(key: str, found: object) -> str | tuple[str, ...]:
    """Checks names of clusters; a single one that is trained on stays a text."""
    names = (found,) if isinstance(found, str) else found
    least = 0 if key == "eval_cluster" else 1
    if not isinstance(names, (list, tuple)) or len(names) < least or not all(isinstance(n, str) for n in names):
        raise ConfigError(located("configuration", key, found, "a text, or a list of texts"))
    return names[0] if key == "cluster" and len(names) == 1 else tuple(names)


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
    content = parse_yaml(text, path)
    known = [f.name for f in fields(TrainingConfig)]
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: no key '{key}'{did_you_mean(str(key), known)}")
    if not isinstance(content.get("hyperparameters", {}), dict):
        raise ConfigError(located(path, "hyperparameters", content["hyperparameters"], "keys and values"))
    return content


def own_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a configuration that are not those of its own preset, algorithm and environment.

    Args:
        content: as `read_config` returns it.

    Raises:
        ConfigError: as `TrainingConfig`.
    """
    said = {key: content[key] for key in ("preset", "algo", "env") if key in content}
    preset = TrainingConfig(**said).hyperparameters
    found = TrainingConfig(**said, hyperparameters=content.get("hyperparameters", {})).hyperparameters
    return {key: value for key, value in found.items() if value != preset[key]}


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


def check_environment(env: str) -> None:
    """Raises ConfigError unless agents are trained in an environment of that name."""
    if env not in ENVIRONMENTS:
        raise ConfigError(f"no environment {env!r}{did_you_mean(str(env), ENVIRONMENTS)}")
