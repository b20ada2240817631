"""The decision process of OSDS: checkers, meaning of actions, observations and rewards, and its pictures."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import distredge.envs
from distredge import metric_names
from distredge.cluster import Cluster, Device, Link, Requester, load_cluster
from distredge.envs.observation import scale_time
from distredge.envs.split_rows import SplitRowsEnv, cut_points
from distredge.errors import ConfigError
from distredge.latency import evaluate, offload_latency_s, simulate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners.published import lc_pss
from distredge.problem import Problem
from distredge.profiles.network import Trace


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", width=0.125)


@pytest.fixture(scope="module")
def db50() -> Cluster:
    return load_cluster("db-50")


@pytest.fixture
def env(graph: Graph, db50: Cluster) -> SplitRowsEnv:
    return SplitRowsEnv(graph, db50)


def _traced(cluster: Cluster, rates: list[float]) -> Cluster:
    """The cluster with the same trace on every device's links."""
    trace = Trace(np.arange(len(rates), dtype=float), rates)
    link = Link(trace=trace)
    devices = tuple(Device(d.name, d.profile, link, link) for d in cluster.devices)
    return Cluster("traced", Requester(), devices, "independent")


def _play(env: SplitRowsEnv, actions: list[list[float]], **reset: Any) -> list[tuple[Any, ...]]:
    first = env.reset(**reset)
    return [first, *(env.step(np.array(action, np.float32)) for action in actions)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"cluster": ["db-50", "da-50"], "observe_cluster": True},
        {"reward_scale": "paper", "input_dtype": "uint8"},
        {"alpha": 0.25, "render_mode": "ansi"},
        {"render_mode": "rgb_array"},
    ],
    ids=["default", "clusters", "paper", "ansi", "rgb_array"],
)
def test_both_checkers(graph: Graph, arguments: dict[str, Any]) -> None:
    # Warnings are errors in this suite.
    env = gym.make(distredge.envs.SPLIT_ROWS, model=graph, **{"cluster": "db-50", **arguments}).unwrapped
    check_env_of_gymnasium(env, skip_render_check=env.render_mode is None)
    check_env_of_sb3(env)


def test_registered_by_name_alone() -> None:
    spec = gym.spec(distredge.envs.SPLIT_ROWS)
    assert spec.entry_point == "distredge.envs.split_rows:SplitRowsEnv"
    assert spec.to_json()


def test_both_checkers_with_traces(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, _traced(db50, [50e6, 5e6, 20e6]))
    check_env_of_gymnasium(env, skip_render_check=True)
    check_env_of_sb3(env)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
    st.integers(1, 500),
)
def test_actions_become_cut_points(action: list[float], height: int) -> None:
    points = cut_points(np.array(action, np.float32), height).tolist()
    assert points[0] == 0
    assert points[-1] == height
    assert points == sorted(points)
    for value, point in zip(sorted(action), points[1:-1], strict=True):
        assert abs(point - height * (value + 1) / 2) <= 0.5 + 1e-9


def test_actions_at_the_ends_and_between() -> None:
    assert cut_points([1.0, -1.0, 0.0], 14).tolist() == [0, 0, 7, 14, 14]
    assert cut_points([0.0], 7).tolist() == [0, 4, 7]


def test_an_episode_is_priced_like_its_strategy(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, alpha=0.25)
    rng = np.random.default_rng(3)
    problem = Problem(graph, db50)
    for _ in range(3):
        env.reset()
        done = False
        while not done:
            _, reward, done, truncated, info = env.step(rng.uniform(-1, 1, 3).astype(np.float32))
            assert not truncated
            if not done:
                assert reward == 0.0
        strategy = env.strategy(method="distredge", seed=4)
        latency_s = info[metric_names.LATENCY_S]
        assert latency_s == pytest.approx(evaluate(problem, strategy), rel=1e-9)
        assert reward == offload_latency_s(problem) / latency_s == info[metric_names.SPEEDUP]
        assert info[metric_names.IMAGES_PER_S] == 1.0 / latency_s
        assert (strategy.planner.method, strategy.planner.seed) == ("distredge", 4)
        last = np.diff(strategy.volumes[-1].rows)
        assert strategy.head.device == db50.names[int(np.argmax(last))]


def test_paper_reward_is_images_per_second(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, reward_scale="paper", partition=[len(graph.cuts) - 1])
    *_, (_, reward, done, _, info) = _play(env, [[1.0, 1.0, 1.0]])
    assert done
    assert reward == 1.0 / info[metric_names.LATENCY_S]


def test_everything_on_the_best_device_is_offload(graph: Graph, db50: Cluster) -> None:
    # The Xavier boards are fastest, and the first device of the cluster is one.
    assert db50.devices[0].profile.name.endswith("xavier")
    env = SplitRowsEnv(graph, db50, partition=[len(graph.cuts) - 1])
    *_, (_, reward, *_) = _play(env, [[1.0, 1.0, 1.0]])
    assert reward == pytest.approx(1.0, rel=1e-12)


def test_observation(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, partition=[9, 13, 17])
    obs, _ = env.reset()
    height = 2 * math.log(28) / math.log(4096) - 1
    channels = 2 * math.log(graph.tensors[graph.cuts[9].reference].shape[1]) / math.log(4096) - 1
    # pool3: 28 rows, kernel 2, stride 2.
    assert obs == pytest.approx([-1, -1, -1, -1, height, channels, 2 * 2 / 15 - 1, 2 * 2 / 8 - 1], abs=1e-6)
    obs, _, _, _, info = env.step(np.array([1.0, 1.0, 1.0], np.float32))
    done_s = info[metric_names.LATENCY_S]
    x = done_s / info[metric_names.OFFLOAD_LATENCY_S]
    assert obs[:4] == pytest.approx([2 * x / (1 + x) - 1, -1, -1, -1], abs=1e-6)
    env.step(np.array([1.0, 1.0, 1.0], np.float32))
    obs, _, done, _, _ = env.step(np.array([1.0, 1.0, 1.0], np.float32))
    assert done
    assert obs[4:].tolist() == [-1.0] * 4


def test_layer_features_of_a_fused_activation_are_the_convolutions(graph: Graph, db50: Cluster) -> None:
    first = SplitRowsEnv(graph, db50, partition=[0, 17])
    obs, _ = first.reset()
    assert obs[6:] == pytest.approx([2 * 3 / 15 - 1, 2 * 1 / 8 - 1], abs=1e-6)


def test_scale_of_time() -> None:
    assert scale_time(np.array([0.0, 1.0, 3.0, math.inf]), 1.0).tolist() == [-1.0, 0.0, 0.5, 1.0]


def test_info_keeps_its_keys(env: SplitRowsEnv) -> None:
    steps = _play(env, [[0.0, 0.0, 0.0]] * len(env.partition))
    keys = [list(step[-1]) for step in steps]
    assert all(k == keys[0] for k in keys)
    assert {
        metric_names.LATENCY_S,
        metric_names.IMAGES_PER_S,
        metric_names.OFFLOAD_LATENCY_S,
        "volume",
        "feasible",
    } <= set(keys[0])
    assert all(isinstance(v, (int, float)) for step in steps for v in step[-1].values())
    assert [step[-1]["volume"] for step in steps] == list(range(len(steps)))
    assert steps[0][-1][metric_names.OFFLOAD_LATENCY_S] > 0


def test_default_partition_is_lc_pss(graph: Graph, env: SplitRowsEnv) -> None:
    assert env.partition == lc_pss.partition(graph, 4)


def test_pickles_and_goes_on_alike(graph: Graph) -> None:
    env = SplitRowsEnv(graph, ["db-50", "da-50", "dc-50"], observe_cluster=True)
    twin = pickle.loads(pickle.dumps(env))  # noqa: S301 - made on the line
    for one, other in zip(
        _play(env, [[0.5, -0.5, 0.1]] * len(env.partition), seed=7),
        _play(twin, [[0.5, -0.5, 0.1]] * len(env.partition), seed=7),
        strict=True,
    ):
        assert np.array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_clusters_are_sampled_and_can_be_chosen(graph: Graph) -> None:
    env = SplitRowsEnv(graph, ["db-50", "da-300"], observe_cluster=True)
    assert env.observation_space.shape == (3 * 4 + 4,)
    env.reset(seed=0)
    drawn = {env.reset()[1]["cluster"] for _ in range(20)}
    assert drawn == {0, 1}
    views = [env.reset(options={"cluster": i})[0] for i in (0, 1)]
    assert env.problem.cluster.name == "da-300"
    assert not np.array_equal(views[0][8:], views[1][8:])


def test_cluster_features_tell_fast_from_slow(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, observe_cluster=True)
    obs, _ = env.reset()
    compute, reach = obs[8:12], obs[12:16]
    slow = [i for i, d in enumerate(db50.devices) if "nano" in d.profile.name]
    fast = [i for i, d in enumerate(db50.devices) if "xavier" in d.profile.name]
    assert len(slow) == len(fast) == 2
    assert min(compute[slow]) > max(compute[fast])
    assert len(set(reach.tolist())) == 1


def test_traces_are_entered_at_a_random_time(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, _traced(db50, [50e6, 2e6]))
    env.reset(seed=1)
    starts = [env.reset()[1]["start_s"] for _ in range(8)]
    assert len(set(starts)) == 8
    assert all(0 <= start < 2 for start in starts)
    all_first = [[1.0, 1.0, 1.0]] * len(env.partition)
    early = _play(env, all_first, options={"start_s": 0.0})[-1][-1][metric_names.LATENCY_S]
    late = _play(env, all_first, options={"start_s": 1.0})[-1][-1][metric_names.LATENCY_S]
    assert late > early
    strategy = env.strategy()
    assert late == pytest.approx(evaluate(env.problem, strategy, start_s=1.0), rel=1e-9)


def test_a_link_that_is_down_ends_the_episode(graph: Graph, db50: Cluster) -> None:
    dead = db50.devices[3]
    devices = (*db50.devices[:3], Device(dead.name, dead.profile, Link(rate_bps=0.0), Link(rate_bps=0.0)))
    env = SplitRowsEnv(graph, Cluster("broken", Requester(), devices, "independent"), render_mode="ansi")
    _, (obs, reward, done, truncated, info) = _play(env, [[-0.5, 0.0, 0.5]])
    assert done
    assert not truncated
    assert reward == 0.0
    assert info["feasible"] is False
    assert obs in env.observation_space
    assert "inf ms" in env.render()
    with pytest.raises(ResetNeeded, match="no strategy"):
        env.strategy()
    assert _play(env, [[1.0, 1.0, 1.0]] * len(env.partition))[-1][1] > 0


def test_strategy_survives_the_reset(env: SplitRowsEnv) -> None:
    _play(env, [[0.0, 0.2, 0.4]] * len(env.partition))
    before = env.strategy()
    env.reset()
    env.step(np.zeros(3, np.float32))
    assert env.strategy() == before


def test_uint8_input_is_cheaper_and_in_the_strategy(graph: Graph, db50: Cluster) -> None:
    all_first = [[1.0, 1.0, 1.0]]
    latencies = {}
    for dtype in ("float32", "uint8"):
        env = SplitRowsEnv(graph, db50, partition=[17], input_dtype=dtype)
        latencies[dtype] = _play(env, all_first)[-1][-1][metric_names.LATENCY_S]
        assert env.strategy().input.dtype == dtype
    assert latencies["uint8"] < latencies["float32"]


def test_ansi_shows_what_is_decided(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, partition=[9, 13, 17], render_mode="ansi")
    env.reset()
    assert "volumes decided: 0, up to cut 0 of 18" in env.render()
    env.step(np.array([-0.5, 0.0, 0.5], np.float32))
    first = env.render()
    assert "volumes decided: 1, up to cut 10 of 18" in first
    assert "0" in _bars(first, "nano-0")
    assert "1" not in _bars(first, "nano-0")
    env.step(np.array([-0.5, 0.0, 0.5], np.float32))
    env.step(np.array([-0.5, 0.0, 0.5], np.float32))
    whole = env.render()
    assert "volumes decided: 3, up to cut 18 of 18" in whole
    assert "H" in "".join(_bars(whole, name) for name in db50.names)


def _bars(text: str, device: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(device)).partition("|")[2]


def test_picture(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, partition=[17], render_mode="rgb_array")
    env.reset()
    empty = env.render()
    env.step(np.array([-0.5, 0.0, 0.5], np.float32))
    full = env.render()
    for picture in (empty, full):
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
    assert (full != 255).any(axis=2).sum() > 2 * (empty != 255).any(axis=2).sum()


def test_timeline_of_the_whole_episode_is_the_simulators(graph: Graph, db50: Cluster) -> None:
    env = SplitRowsEnv(graph, db50, partition=[9, 17], render_mode="ansi")
    _play(env, [[-0.5, 0.0, 0.5]] * 2)
    latency_s = simulate(env.problem, env.strategy()).latency_s
    assert f"{1e3 * latency_s:.2f} ms" in env.render()


def test_no_pictures_without_a_mode(env: SplitRowsEnv) -> None:
    env.reset()
    assert env.render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_scale": "ofload"}, "did you mean 'offload'"),
        ({"render_mode": "human"}, "render_mode: found 'human'"),
        ({"input_dtype": "int8"}, "did you mean 'uint8'"),
        ({"partition": [3, 2, 17]}, r"partition: found \[3, 2, 17\]"),
        ({"partition": [3]}, "the last one 17"),
        ({"partition": []}, "partition: found"),
        ({"alpha": 2.0}, "alpha"),
        ({"cluster": []}, "at least 2"),
    ],
)
def test_wrong_arguments(graph: Graph, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplitRowsEnv(graph, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clutser": 1}, "did you mean 'cluster'"), ({"cluster": 3}, "0 to 0"), ({"start_s": -1.0}, "start_s")],
)
def test_wrong_options(env: SplitRowsEnv, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        env.reset(options=options)


@pytest.mark.parametrize("action", [[0.0, 0.0], [0.0, 0.0, math.nan], [[0.0, 0.0, 0.0]]])
def test_wrong_actions(env: SplitRowsEnv, action: Any) -> None:
    env.reset()
    with pytest.raises(InvalidAction, match="3 numbers from -1 to 1"):
        env.step(np.array(action, np.float32))


def test_step_needs_a_reset(env: SplitRowsEnv) -> None:
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3, np.float32))
    _play(env, [[0.0, 0.0, 0.0]] * len(env.partition))
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3, np.float32))


def test_docstring_has_gymnasiums_headings() -> None:
    headings = [line.strip() for line in (SplitRowsEnv.__doc__ or "").splitlines() if line.strip().startswith("## ")]
    assert headings == [
        "## Description",
        "## Action Space",
        "## Observation Space",
        "## Rewards",
        "## Starting State",
        "## Episode End",
        "## Arguments",
        "## Vectorized environment",
        "## Version History",
    ]


def test_made_by_name_and_from_a_file(tmp_path: Path) -> None:
    small = zoo.build("mobilenet-v2", (1, 3, 64, 64), width=0.25)
    small.save(tmp_path / "small.onnx")
    env = gym.make("distredge.envs:distredge/SplitRows-v0", model=tmp_path / "small.onnx", cluster="na-nano")
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    env.close()
