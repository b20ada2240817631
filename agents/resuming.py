"""The state of a training run in one file, from which another one goes on.

An `.npz` archive of plain arrays, read without pickle. One of them, `tree`, is the text of a JSON object in which
`{"array": NAME}` stands for another one. It holds the networks, the optimisers' states, the replay buffer, the best
strategies, the noise, the random generators and the counters. What it does not hold is an episode that was under way,
and what strategies cost: they are played again, since the boards and links may be others by now.
"""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distredge.agents.playing import play_volumes
from distredge.envs.signature import Signature
from distredge.errors import ConfigError, DistredgeError, FileError, located

if TYPE_CHECKING:
    from distredge.problem import Problem

FORMAT = "distredge.training-state/1"

_BUFFER = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of stable-baselines3's replay buffer, (size, n_envs, ...)."""


def save_state(run: Any, path: str | Path, seconds: float) -> None:
    """Writes the state of a run; what is under way there may go on.

    Args:
        run: a `training.TrainingRun`, which imports this module.
        path: of the file.
        seconds: of training, those of the runs that it goes on from included.

    Raises:
        FileError: if the file cannot be written.
    """
    agent: Any = run.agent
    noise = _noise(agent)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = {
        "format": FORMAT,
        "environment": run.env.signature.to_json(),
        "algo": run.config.algo,
        "partition": _partition(run),
        "counters": {
            "episodes": run.episodes, "seconds": seconds, "updates": agent._n_updates, "steps": agent.num_timesteps,
        },
        "parameters": agent.get_parameters(),
        "variables": {name: getattr(agent, name) for name in _variables(agent)},
        "kept": {"figure": run.kept.figure, "weights": run.kept.weights},
        "memory": [best.state() for best in run.bests],
        "noise": None if noise is None else noise.state(),
        "replay": _replay(agent),
        "random": {
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - stable-baselines3 samples with it
            "torch": torch.get_rng_state(),
            "actions": agent.action_space.np_random.bit_generator.state,
            "env": run.random_state(),
        },
    }  # fmt: skip
    arrays["tree"] = np.frombuffer(json.dumps(_packed(tree, arrays)).encode(), np.uint8)
    try:
        # Beside it first, so that a run that is killed leaves the one before.
        beside = Path(f"{path}.part")
        with beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        beside.replace(path)
    except OSError as error:
        raise FileError(f"{path}: cannot write the state of the run: {error.strerror or error}") from error


def load_state(run: Any, path: str | Path) -> None:
    """Lets a run that has not begun go on from a state.

    Raises:
        FileError: if the file is no such state, or a damaged one.
        ConfigError: if it is that of another environment, algorithm, size of network or number of clusters.
    """
    tree = _read(path)
    try:
        _take(run, path, tree)
    except DistredgeError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise FileError(f"{path}: not the whole state of a training run ({error!r})") from error


def saved_scheme(path: str | Path) -> tuple[int, ...] | None:
    """The partition scheme of the run that a state is of; None where the agent chooses it.

    Raises:
        FileError: if the file is no such state.
    """
    found = _read(path, ("format", "partition")).get("partition")
    try:
        return None if found is None else tuple(map(int, found))
    except (TypeError, ValueError) as error:
        raise FileError(located(path, "partition", found, "indices of cuts, or null")) from error


def _take(run: Any, path: str | Path, tree: dict[str, Any]) -> None:
    run.env.signature.check(str(path), Signature.from_json(str(path), tree["environment"]))
    if tree["algo"] != run.config.algo:
        raise ConfigError(located(path, "algo", tree["algo"], f"'{run.config.algo}', that of this run"))
    if tree["partition"] != _partition(run):
        raise ConfigError(
            located(path, "partition", tree["partition"], f"{_partition(run)}, the scheme of this run")
            + ": begin with its networks instead (-i)"
        )
    agent: Any = run.agent
    parameters, variables = tree["parameters"], tree["variables"]
    try:
        agent.set_parameters(parameters, device=agent.device)
        for name in _variables(agent):
            getattr(agent, name).data.copy_(variables[name])
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{path}: its networks are of another size than those of this run ({reason})") from error
    counters = {name: int(tree["counters"][name]) for name in ("episodes", "updates", "steps")}
    run.episodes = run.episodes_before = counters["episodes"]
    run.seconds_before = float(tree["counters"]["seconds"])
    agent._n_updates, agent.num_timesteps = counters["updates"], counters["steps"]
    agent._episode_num = counters["episodes"]
    run.kept.figure, run.kept.weights = tree["kept"]["figure"], tree["kept"]["weights"]
    if len(tree["memory"]) != len(run.bests):
        raise ConfigError(located(path, "clusters", len(tree["memory"]), f"{len(run.bests)}, as many as this run has"))
    for k, remembered in enumerate(tree["memory"]):
        for item in remembered:
            volumes, start_s = _decided(run.env.problems[k], item["volumes"]), float(item["start_s"])
            if tree["partition"] not in (None, [cut for cut, _ in volumes]) or not 0 <= start_s < math.inf:
                raise ValueError(f"memory: {item}")
            run.bests[k].offer(play_volumes(run.twin, volumes, k, start_s).episode, int(item["number"]))
    run.begin_again()
    if (noise := _noise(agent)) is not None and tree["noise"] is not None:
        noise.restore(tree["noise"])
    _fill(agent, tree["replay"])
    state = tree["random"]
    np.random.set_state(state["numpy"])  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"].to(torch.uint8))
    agent.action_space.np_random.bit_generator.state = state["actions"]
    run.set_random_state(state["env"])
    # Or the first reset would begin with the seed again.
    run.vec._reset_seeds()


def _decided(problem: Problem, volumes: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Volumes of a strategy that is remembered.

    Raises:
        ValueError: if they are none of the problem's.
    """
    cuts, wide = problem.graph.cuts, len(problem.cluster.devices) + 1
    found = [(int(cut), tuple(map(int, rows))) for cut, rows in volumes]
    ends = [-1, *(cut for cut, _ in found)]
    whole = ends[-1] == len(cuts) - 1 and all(a < b for a, b in itertools.pairwise(ends))
    if not whole or any(
        len(rows) != wide or list(rows) != sorted(rows) or (rows[0], rows[-1]) != (0, cuts[cut].height)
        for cut, rows in found
    ):
        raise ValueError(f"memory: {volumes}")
    return found


def _variables(agent: Any) -> list[str]:
    """Names of the tensors that an algorithm has outside its networks, such as SAC's entropy coefficient."""
    found: list[str] = agent._get_torch_save_params()[1]
    return found


def _partition(run: Any) -> list[int] | None:
    """The partition scheme; None where the agent chooses it."""
    scheme = getattr(run.env, "partition", None)
    return None if scheme is None else [int(cut) for cut in scheme]


def _noise(agent: Any) -> Any:
    noise = getattr(agent, "action_noise", None)
    return getattr(noise, "noise", noise)


def _replay(agent: Any) -> dict[str, Any] | None:
    """The used part of a replay buffer."""
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is None:
        return None
    used = buffer.buffer_size if buffer.full else buffer.pos
    found = {name: getattr(buffer, name)[:used] for name in _BUFFER}
    return {"pos": buffer.pos, "full": bool(buffer.full), **found}


def _fill(agent: Any, replay: dict[str, Any] | None) -> None:
    """Fills a buffer, which may be smaller or of another number of environments, with the latest steps."""
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is None or replay is None:
        return
    steps, n_envs = {}, buffer.n_envs
    for name in _BUFFER:
        kept = np.roll(replay[name], -replay["pos"], axis=0) if replay["full"] else replay[name]
        flat = kept.reshape(-1, *kept.shape[2:])
        rows = min(len(flat) // n_envs, buffer.buffer_size)
        steps[name] = flat[len(flat) - rows * n_envs :].reshape(rows, n_envs, *flat.shape[1:])
    rows = len(steps["rewards"])
    for name, values in steps.items():
        getattr(buffer, name)[:rows] = values
    buffer.pos, buffer.full = rows % buffer.buffer_size, rows == buffer.buffer_size


def _packed(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """A value as JSON; arrays and tensors go to `arrays`."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        return {"array": name, "tensor": isinstance(value, torch.Tensor)}
    if isinstance(value, dict):
        return {"items": [[key, _packed(item, arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict) and "array" in value:
        found = arrays[value["array"]]
        return torch.from_numpy(found.copy()) if value["tensor"] else found
    if isinstance(value, dict):
        return {key: _unpacked(item, arrays) for key, item in value["items"]}
    return [_unpacked(item, arrays) for item in value] if isinstance(value, list) else value


def _read(path: str | Path, keys: Container[str] | None = None) -> dict[str, Any]:
    """The tree of a state, or some of its keys without reading the rest."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            packed = json.loads(arrays["tree"].tobytes().decode())
            if keys is not None:
                packed = {"items": [[key, item] for key, item in packed["items"] if key in keys]}
            tree = _unpacked(packed, arrays)
    except OSError as error:
        raise FileError(f"{path}: cannot read the state of the run: {error.strerror or error}") from error
    except (EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path}: not the state of a training run ({error})") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else tree
        raise FileError(located(path, "format", found, repr(FORMAT)))
    return tree
