"""Many environments at once: each does what a single one does."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode

import distredge.envs
from distredge import metric_names
from distredge.cluster import Cluster, Device, Link, Requester, load_cluster
from distredge.envs.partition import PartitionEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.envs.volumes import VolumesEnv
from distredge.errors import ConfigError
from distredge.latency import evaluate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.profiles.network import Trace


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", width=0.125)


def _changed(graph: Graph, kind: str) -> Any:
    """A cluster, or several: as shipped, with traces, with shared links, with a dead link."""
    db50 = load_cluster("db-50")
    if kind == "several":
        return ["db-50", "da-300", "dc-50"]
    if kind == "shared":
        return Cluster("shared", db50.requester, db50.devices, link_model="shared")
    if kind == "traces":
        link = Link(trace=Trace(np.array([0.0, 0.05, 0.3]), np.array([50e6, 5e6, 90e6])))
        devices = tuple(Device(d.name, d.profile, link, link) for d in db50.devices)
        return Cluster("traced", Requester(), devices, "independent")
    if kind == "dead":
        dead = Device(db50.devices[2].name, db50.devices[2].profile, Link(rate_bps=0.0), Link(rate_bps=0.0))
        return Cluster("dead", Requester(), (*db50.devices[:2], dead, db50.devices[3]), "independent")
    return "db-50"


def _vector(env: VolumesEnv, num_envs: int) -> VolumesVectorEnv:
    return VolumesVectorEnv(env, num_envs)


@pytest.mark.parametrize("kind", ["plain", "several", "traces", "shared", "dead"])
@pytest.mark.parametrize("make", [SplitRowsEnv, PartitionEnv])
def test_each_copy_does_what_a_single_one_does(graph: Graph, make: type[VolumesEnv], kind: str) -> None:
    env = make(graph, _changed(graph, kind), observe_cluster=kind == "several")  # type: ignore[call-arg]
    several = len(env.problems)
    count = 5
    options = {"cluster": [i % several for i in range(count)], "start_s": [0.06 * i for i in range(count)]}
    if kind != "traces":
        options["start_s"] = [0.0] * count
    vector = _vector(env, count)
    obs, infos = vector.reset(seed=0, options=options)
    singles = [env.twin() for _ in range(count)]
    for i, single in enumerate(singles):
        first, info = single.reset(options={key: value[i] for key, value in options.items()})
        assert np.array_equal(obs[i], first)
        assert {key: infos[key][i] for key in info} == info
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(12):
        actions = rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        obs, rewards, terminated, truncated, infos = vector.step(actions)
        assert not truncated.any()
        for i, single in enumerate(singles):
            own_obs, own_reward, own_done, _, own_info = single.step(actions[i])
            assert rewards[i] == pytest.approx(own_reward, rel=1e-9)
            assert terminated[i] == own_done
            if own_done:
                ended += 1
                assert infos["_final_obs"][i]
                assert infos["final_obs"][i] == pytest.approx(own_obs, abs=1e-6)
                assert {k: infos["final_info"][k][i] for k in own_info} == pytest.approx(own_info, rel=1e-9)
                episode = vector.last_episode(i)
                assert episode is not None
                assert single.last_episode is not None
                assert episode.volumes == single.last_episode.volumes
                assert episode.head == single.last_episode.head
                fresh = {"cluster": int(infos["cluster"][i]), "start_s": float(infos["start_s"][i])}
                own_obs, own_info = single.reset(options=fresh)
            else:
                assert "final_obs" not in infos or not infos["_final_obs"][i]
            assert obs[i] == pytest.approx(own_obs, abs=1e-6)
            assert {k: infos[k][i] for k in own_info} == pytest.approx(own_info, rel=1e-9)
    assert ended >= count


def test_episodes_are_strategies(graph: Graph) -> None:
    env = SplitRowsEnv(graph, "db-50", partition=[9, 17])
    vector = _vector(env, 3)
    assert vector.last_episode(0) is None
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2):
        *_, infos = vector.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))
    for i in range(3):
        strategy = env.strategy(vector.last_episode(i))
        assert infos["final_info"][metric_names.LATENCY_S][i] == pytest.approx(
            evaluate(env.problem, strategy), rel=1e-9
        )


def test_made_by_name(graph: Graph) -> None:
    for name in (distredge.envs.SPLIT_ROWS, distredge.envs.PARTITION):
        vector = gym.make_vec(name, num_envs=4, model=graph, cluster="db-50")
        assert isinstance(vector.unwrapped, VolumesVectorEnv)
        assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
        obs, _ = vector.reset(seed=0)
        assert obs in vector.observation_space
        obs, *_ = vector.step(vector.action_space.sample())
        assert obs in vector.observation_space
        vector.close()


def test_works_step_by_step_in_gymnasiums_own_vector_too(graph: Graph) -> None:
    vector = gym.make_vec(
        distredge.envs.SPLIT_ROWS, num_envs=2, vectorization_mode="sync", model=graph, cluster="db-50"
    )
    vector.reset(seed=0)
    obs, *_ = vector.step(vector.action_space.sample())
    assert obs in vector.observation_space
    vector.close()


def test_returns_fresh_arrays(graph: Graph) -> None:
    vector = _vector(SplitRowsEnv(graph, "db-50", partition=[9, 17]), 2)

    def arrays(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [a for v in value.values() for a in arrays(v)]
        if isinstance(value, tuple):
            return [a for v in value for a in arrays(v)]
        return [value] if isinstance(value, np.ndarray) else []

    results = [vector.reset(seed=0)]
    copies = []
    for _ in range(5):
        copies.append([a.copy() for a in arrays(results[-1])])
        results.append(vector.step(np.zeros((2, 3), np.float32)))
    seen = [a for result in results for a in arrays(result)]
    assert len({id(a) for a in seen}) == len(seen)
    own = [v for v in vars(vector).values() if isinstance(v, np.ndarray)]
    assert not any(np.shares_memory(a, b) for a in seen for b in own)
    # Nothing that was returned changes afterwards.
    for result, copy in zip(results, copies, strict=False):
        for before, after in zip(copy, arrays(result), strict=True):
            assert before.dtype == object or np.array_equal(before, after)


def test_same_seed_same_draws(graph: Graph) -> None:
    draws = []
    for seed in (3, 3, 4):
        vector = _vector(SplitRowsEnv(graph, ["db-50", "da-50", "dc-50"], observe_cluster=True), 16)
        _, infos = vector.reset(seed=seed)
        draws.append(infos["cluster"].tolist())
    assert draws[0] == draws[1] != draws[2]
    assert set(draws[0]) == {0, 1, 2}


def test_a_dead_link_ends_an_episode_early(graph: Graph) -> None:
    vector = _vector(SplitRowsEnv(graph, _changed(graph, "dead")), 2)
    vector.reset(seed=0)
    actions = np.array([[-0.5, 0.0, 0.5], [1.0, 1.0, 1.0]], np.float32)
    _, rewards, terminated, _, infos = vector.step(actions)
    assert terminated.tolist() == [True, False]
    assert rewards[0] == 0.0
    assert infos["final_info"][metric_names.LATENCY_S][0] == math.inf
    assert infos["final_info"]["feasible"][0] == np.False_
    assert infos["volume"].tolist() == [0, 1]
    episode = vector.last_episode(0)
    assert episode is not None
    assert not episode.complete


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clutser": 1}, "did you mean 'cluster'"),
        ({"cluster": 2}, "0 to 0"),
        ({"cluster": [0, 0, 0]}, "one value, or 2"),
        ({"start_s": [0.0, -1.0]}, "seconds >= 0"),
    ],
)
def test_wrong_options(graph: Graph, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _vector(SplitRowsEnv(graph), 2).reset(options=options)


def test_wrong_use(graph: Graph) -> None:
    env = SplitRowsEnv(graph)
    with pytest.raises(ConfigError, match="num_envs: found 0"):
        _vector(env, 0)
    vector = _vector(env, 2)
    with pytest.raises(ResetNeeded):
        vector.step(np.zeros((2, 3), np.float32))
    vector.reset()
    with pytest.raises(InvalidAction, match=r"\(2, 3\)"):
        vector.step(np.zeros((3, 3), np.float32))
    with pytest.raises(InvalidAction, match="found some that are not finite"):
        vector.step(np.full((2, 3), np.nan, np.float32))


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_other_modes_play_the_same_episodes(graph: Graph, mode: str) -> None:
    arguments = {"model": graph, "cluster": "db-50", "partition": [9, 17]}
    vector = gym.make_vec(distredge.envs.SPLIT_ROWS, num_envs=3, autoreset_mode=mode, **arguments)
    alone = [SplitRowsEnv(graph, "db-50", partition=[9, 17]) for _ in range(3)]
    obs, _ = vector.reset(seed=0)
    expected = np.array([env.reset(seed=0)[0] for env in alone])
    assert np.array_equal(obs, expected)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for number in range(2):
            actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
            obs, rewards, terminated, truncated, infos = vector.step(actions)
            steps = [env.step(action) for env, action in zip(alone, actions, strict=True)]
            assert np.allclose(obs, [step[0] for step in steps], rtol=1e-9, atol=1e-7)
            assert np.allclose(rewards, [step[1] for step in steps], rtol=1e-9)
            assert terminated.all() == (number == 1)
            assert not truncated.any()
            assert "final_obs" not in infos
        if mode == "Disabled":
            with pytest.raises(ResetNeeded, match=r"environments \[0, 1, 2\] are over"):
                vector.step(actions)
            for i in range(3):
                obs, infos = vector.reset(options={"reset_mask": np.arange(3) == i})
                assert infos["_volume"].tolist() == [j == i for j in range(3)]
        else:
            obs, rewards, terminated, _, infos = vector.step(actions)
            assert sum(np.count_nonzero(found) for found in (rewards, terminated, infos["volume"])) == 0
        assert np.array_equal(obs, expected)
        for env in alone:
            env.reset()


def test_episodes_of_several_lengths_begin_anew_on_their_own(graph: Graph) -> None:
    vector = gym.make_vec(distredge.envs.PARTITION, num_envs=4, model=graph, cluster="db-50")
    _, infos = vector.reset(seed=0)
    rng = np.random.default_rng(1)
    volumes, over = infos["volume"], np.zeros(4, bool)
    mixed = 0
    for _ in range(60):
        obs, rewards, done, _, infos = vector.step(rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32))
        assert np.array_equal(infos["volume"], np.where(over, 0, volumes + 1))
        assert np.count_nonzero(done[over]) + np.count_nonzero(rewards[over]) == 0
        assert obs in vector.observation_space
        mixed += over.any() and not over.all()
        volumes, over = infos["volume"], done
    assert mixed > 5


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_gymnasiums_wrappers_take_it(graph: Graph, mode: str) -> None:
    wrappers = gym.wrappers.vector
    needs_next_step = {"NormalizeObservation", "FlattenObservation", "RescaleObservation", "ReshapeObservation"}
    needs_next_step |= {"DtypeObservation", "TransformObservation"}  # so Gymnasium says
    made = {
        "RecordEpisodeStatistics": {},
        "NormalizeReward": {},
        "ClipAction": {},
        "ClipReward": {"min_reward": 0.0, "max_reward": 1.0},
        "DictInfoToList": {},
        "DtypeObservation": {"dtype": np.float32},
        "FlattenObservation": {},
        "NormalizeObservation": {},
        "RescaleAction": {"min_action": np.float32(0), "max_action": np.float32(1)},
        "RescaleObservation": {"min_obs": np.float32(0), "max_obs": np.float32(1)},
        "ReshapeObservation": {"shape": (1, 8)},
        "TransformObservation": {"func": lambda obs: obs},
        "TransformAction": {"func": lambda action: action},
        "TransformReward": {"func": lambda reward: 2.0 * reward},
        "VectorizeTransformReward": {
            "wrapper": gym.wrappers.TransformReward,
            "func": lambda reward: 2.0 * reward,
        },
    }
    for name, arguments in made.items():
        vector = gym.make_vec(
            distredge.envs.SPLIT_ROWS, num_envs=3, autoreset_mode=mode, model=graph, cluster="db-50", partition=[9, 17]
        )
        if mode == "SameStep" and name in needs_next_step:
            with pytest.raises(ValueError, match="autoreset_mode"):
                getattr(wrappers, name)(vector, **arguments)
            continue
        wrapped = getattr(wrappers, name)(vector, **arguments)
        wrapped.action_space.seed(0)
        obs, _ = wrapped.reset(seed=0)
        assert obs in wrapped.observation_space, name
        ended = 0
        for _ in range(8):
            obs, _, done, _, infos = wrapped.step(wrapped.action_space.sample())
            assert obs in wrapped.observation_space, name
            ended += int(done.sum())
            if name == "RecordEpisodeStatistics" and done.any():
                assert infos["episode"]["l"].tolist() == [2, 2, 2]
        assert ended == (12 if mode == "SameStep" else 9), name


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
@pytest.mark.parametrize("name", [distredge.envs.SPLIT_ROWS, distredge.envs.PARTITION])
def test_tells_what_gymnasiums_own_vector_tells(graph: Graph, name: str, mode: str) -> None:
    arguments: dict[str, Any] = {"num_envs": 3, "model": graph, "cluster": "db-50"}
    native = gym.make_vec(name, autoreset_mode=mode, **arguments)
    own = gym.make_vec(
        name, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode(mode)}, **arguments
    )
    assert native.metadata["autoreset_mode"] is own.metadata["autoreset_mode"]
    assert native.observation_space == own.observation_space
    assert native.action_space == own.action_space
    _same_infos(native.reset(seed=0)[1], own.reset(seed=0)[1])
    rng = np.random.default_rng(0)
    for _ in range(14):
        actions = rng.uniform(-1, 1, native.action_space.shape).astype(np.float32)
        one, other = native.step(actions), own.step(actions)
        for a, b in zip(one[:4], other[:4], strict=True):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
            assert a.dtype == b.dtype
        _same_infos(one[4], other[4])
    own.close()


def _same_infos(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Where the masks of the second say that there is something, both say the same."""
    assert {key for key in one if not key.startswith("_")} == {key for key in other if not key.startswith("_")}
    for key, value in other.items():
        if isinstance(value, dict):
            _same_infos(one[key], value)
        elif key.startswith("_"):
            assert one[key].tolist() == value.tolist()
        else:
            for i in np.flatnonzero(other[f"_{key}"]):
                assert one[key][i] == pytest.approx(value[i], rel=1e-9, abs=1e-6)


def test_copies_draw_themselves(graph: Graph) -> None:
    vector = gym.make_vec(
        distredge.envs.SPLIT_ROWS, num_envs=2, model=graph, cluster="db-50", partition=[9, 17], render_mode="ansi"
    )
    vector.reset(seed=0)
    vector.step(np.array([[-0.5, 0.0, 0.5], [1.0, 1.0, 1.0]], np.float32))
    shown = vector.render()
    assert shown is not None
    assert len(shown) == 2
    assert all("volumes decided: 1" in text for text in shown)
    assert shown[0] != shown[1]
    assert gym.make_vec(distredge.envs.SPLIT_ROWS, num_envs=2, model=graph).render() is None


def test_an_unknown_mode(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"autoreset_mode: found 'Never', accepted: 'NextStep'"):
        VolumesVectorEnv(SplitRowsEnv(graph, "db-50"), 2, "Never")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (5, "options: found 5, accepted: a dict with any of model, cluster, start_s"),
        ([("cluster", 0)], "options: found"),
        ("cluster", "options: found 'cluster'"),
        ({"clusters": 0}, "did you mean 'cluster'"),
        ({3: 0}, "options: found 3"),
        ({"cluster": "0"}, "options: cluster: found '0'"),
        ({"cluster": 0.5}, "options: cluster: found 0.5"),
        ({"cluster": True}, "options: cluster: found True"),
        ({"cluster": [0]}, "options: cluster: found"),
        ({"start_s": "now"}, "options: start_s: found 'now'"),
        ({"start_s": float("nan")}, "options: start_s: found nan"),
        ({"start_s": 1j}, "options: start_s: found 1j"),
        ({"start_s": {}}, "options: start_s: found {}"),
    ],
)
def test_options_of_a_wrong_kind(graph: Graph, options: object, message: str) -> None:
    env = SplitRowsEnv(graph, "db-50")
    before = env.reset(seed=1)[0]
    with pytest.raises(ConfigError) as caught:
        env.reset(seed=2, options=options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert str(caught.value).startswith("SplitRows.reset: ")
    if options == {"cluster": [0]}:
        return  # one for each of one environment
    with pytest.raises(ConfigError) as caught:
        VolumesVectorEnv(env, 1).reset(options=options)  # type: ignore[arg-type]
    assert message.split(", cluster, start_s")[0] in str(caught.value)
    assert np.array_equal(env.reset(seed=1)[0], before)


@pytest.mark.parametrize("mask", [[1, 0], [True], np.zeros(2, bool), "yes"])
def test_a_mask_of_a_wrong_kind(graph: Graph, mask: object) -> None:
    vector = VolumesVectorEnv(SplitRowsEnv(graph, "db-50"), 2)
    vector.reset()
    with pytest.raises(ConfigError, match=r"options: reset_mask: found"):
        vector.reset(options={"reset_mask": mask})
