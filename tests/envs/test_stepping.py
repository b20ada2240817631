"""The compiled step prices the new volume alone, and says what the simulator says of all of them."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge import metric_names
from distredge.cluster import Cluster, load_cluster
from distredge.envs.observation import scale_time
from distredge.envs.partition import PartitionEnv
from distredge.envs.pricing import KernelPricer
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.envs.volumes import VolumesEnv, cut_points
from distredge.latency import StepSimulator, evaluate, offload_latency_s
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.strategy import Strategy

CLOSE = 1e-9
MODELS = ("vgg16", "mobilenet-v3-small", "resnet18", "unet")
"""A chain; partial sums in mid-network; two tensors alive; skips and no head."""


@functools.cache
def _env(kind: type[VolumesEnv], model: str, dtype: str, several: bool) -> VolumesEnv:
    db50 = load_cluster("db-50")
    graph = zoo.build(model, (1, 3, 64, 64), width=0.125)
    clusters = [Cluster("trio", db50.requester, db50.devices[1:], db50.link_model), db50]
    return kind(graph, clusters if several else db50, input_dtype=dtype)


@settings(max_examples=40)
@given(
    st.sampled_from([SplitRowsEnv, PartitionEnv]),
    st.sampled_from(MODELS),
    st.sampled_from(["float32", "uint8"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_every_step_is_what_the_simulator_says(
    kind: type[VolumesEnv], model: str, dtype: str, several: bool, seed: int
) -> None:
    env = _env(kind, model, dtype, several)
    assert not env.process.steps[0].hard.any()
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    problem = env.problem
    assert problem is env.problems[info["cluster"]]
    n_devices = len(problem.cluster.devices)
    simulator = StepSimulator(problem, input_dtype=dtype)
    first, done = 0, False
    while not done:
        action = rng.uniform(-1.2, 1.2, env.action_space.shape).astype(np.float32)
        obs, reward, done, _, info = env.step(action)
        assert env._batch is not None
        cut, rows = env._batch._volumes(env._batch._state, 0)[-1]
        assert cut >= first
        first = cut + 1
        mine = action[env.process.rules.n_values :][: n_devices - 1]
        assert list(rows) == cut_points(mine, problem.graph.cuts[cut].height).tolist()
        finish_s = simulator.advance(cut, rows)
        assert env._batch._state.finish_s[0, :n_devices] == pytest.approx(finish_s, rel=CLOSE)
        assert obs[:n_devices] == pytest.approx(scale_time(finish_s, offload_latency_s(problem)), abs=1e-6)
        if done:
            latency_s = simulator.finish(int(np.argmax(np.diff(rows))))
            assert reward == pytest.approx(offload_latency_s(problem) / latency_s, rel=CLOSE)
        else:
            latency_s = max(finish_s)
            assert reward == 0.0
        assert info[metric_names.LATENCY_S] == pytest.approx(latency_s, rel=CLOSE)
    assert evaluate(problem, env.strategy()) == pytest.approx(latency_s, rel=CLOSE)


@pytest.mark.parametrize("kind", [SplitRowsEnv, PartitionEnv])
def test_many_copies_are_what_the_kernel_says(kind: type[VolumesEnv]) -> None:
    env = _env(kind, "vgg16", "uint8", False)
    pricer = env.process.steps[0].pricer
    assert isinstance(pricer, KernelPricer)
    vector = VolumesVectorEnv(env, 50)
    vector.reset(seed=0)
    rng = np.random.default_rng(0)
    state = vector._batch._state
    for _ in range(9):
        *_, done, _, infos = vector.step(rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32))
        going = np.flatnonzero(~done)
        if len(going):
            longest = int(state.n_decided[going].max())
            rows = state.rows[going, : longest * 5].reshape(len(going), longest, 5)
            finish_s, _ = pricer(
                state.cuts[going, :longest], rows, np.zeros(len(going), np.int64), np.zeros(len(going), np.int64),
                np.zeros(len(going)),
            )  # fmt: skip
            assert state.finish_s[going] == pytest.approx(finish_s, rel=CLOSE)
        for i in np.flatnonzero(done):
            episode = vector.last_episode(int(i))
            assert episode is not None
            predicted = evaluate(episode.problem, env.strategy(episode))
            assert infos["final_info"][metric_names.LATENCY_S][i] == pytest.approx(predicted, rel=CLOSE)


def test_the_optimum_of_a_tiny_problem_is_among_what_actions_can_do(tiny: Graph, pair: Cluster) -> None:
    """All strategies by brute force with the simulator; all actions in the vector environment find the same best."""
    problem = Problem(tiny, pair)
    last = len(tiny.cuts) - 1
    best_s, count = np.inf, 0
    for inner in itertools.chain.from_iterable(itertools.combinations(range(last), n) for n in range(last + 1)):
        ends = (*inner, last)
        for points in itertools.product(*(range(tiny.cuts[e].height + 1) for e in ends)):
            volumes = [(e, (0, p, tiny.cuts[e].height)) for e, p in zip(ends, points, strict=True)]
            head = int(np.argmax(np.diff(volumes[-1][1])))
            strategy = Strategy.make(tiny, pair.names, volumes, head=pair.names[head])
            best_s, count = min(best_s, evaluate(problem, strategy)), count + 1
    assert count > 100
    vector = VolumesVectorEnv(PartitionEnv(tiny, pair), count)
    # Every sequence of actions that leads to another strategy: an end in the middle of its share, a cut point.
    plays: list[list[tuple[float, float]]] = []
    for inner in itertools.chain.from_iterable(itertools.combinations(range(last), n) for n in range(last + 1)):
        ends, firsts = (*inner, last), (0, *(e + 1 for e in inner))
        middles = [2 * (e - f + 0.5) / (last - f + 1) - 1 for e, f in zip(ends, firsts, strict=True)]
        for points in itertools.product(*(range(tiny.cuts[e].height + 1) for e in ends)):
            shares = [2 * p / tiny.cuts[e].height - 1 for e, p in zip(ends, points, strict=True)]
            plays.append(list(zip(middles, shares, strict=True)))
    vector.reset(seed=0)
    found = np.full(count, np.inf)
    for step in range(last + 1):
        actions = np.array([play[min(step, len(play) - 1)] for play in plays], np.float32)
        *_, infos = vector.step(actions)
        ends_here = np.array([len(play) == step + 1 for play in plays])
        assert (infos["_final_info"] & ends_here).sum() == ends_here.sum()
        found[ends_here] = infos["final_info"][metric_names.LATENCY_S][ends_here]
    assert found.min() == pytest.approx(best_s, rel=CLOSE)
    assert len({round(1e12 * s) for s in found.tolist()}) > 10  # the strategies differ in what they cost


_PLAY = """
import json, sys
if {blocked}:
    sys.modules["numba"] = None
import numpy as np
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.model import zoo

graph = zoo.build("vgg16", (1, 3, 64, 64), width=0.125)
env = SplitRowsEnv(graph, ["db-50", "da-300"], partition=[9, 17], observe_rows=True, observe_cluster=True)
vector = VolumesVectorEnv(env, 3)
rng = np.random.default_rng(0)
told = [vector.reset(seed=0)[0].tolist()]
for _ in range(4):
    obs, rewards, *_, infos = vector.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))
    told += [obs.tolist(), rewards.tolist(), infos["latency_s"].tolist()]
print(json.dumps(told), "distredge.latency.compiling" in sys.modules)
"""


def test_steps_without_numba_are_the_same() -> None:
    """The loops in plain Python, with the simulator's prices, do what they do compiled."""
    said = []
    for blocked in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", _PLAY.format(blocked=blocked)], check=True, capture_output=True, text=True
        )
        told, _, compiled = done.stdout.strip().rpartition(" ")
        assert compiled == str(not blocked)
        said.append(json.loads(told))
    for one, other in zip(*said, strict=True):
        assert np.array(one) == pytest.approx(np.array(other), rel=CLOSE, abs=1e-6)
