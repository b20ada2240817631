"""Compiles the environments' loops beforehand, so that the first training does not wait for them."""

from __future__ import annotations

from distredge.cluster import load_cluster
from distredge.envs.partition import PartitionEnv
from distredge.envs.split_rows import SplitRowsEnv
from distredge.envs.vector import VolumesVectorEnv
from distredge.envs.volumes import VolumesEnv
from distredge.model import zoo


def warm() -> None:
    """Plays an episode of every kind that is compiled apart; what numba's on-disk cache holds is not compiled anew."""
    graph = zoo.build("vgg16", (1, 3, 32, 32), width=0.0625)
    end = len(graph.cuts) - 1
    cluster = load_cluster("db-50", [graph])
    envs: list[VolumesEnv] = [
        SplitRowsEnv(graph, cluster, partition=(end // 2, end)),
        PartitionEnv(graph, cluster),
    ]
    for env in envs:
        copies = VolumesVectorEnv(env, 2)
        copies.reset(seed=0)
        copies.action_space.seed(0)
        for _ in range(len(graph.cuts)):
            copies.step(copies.action_space.sample())
        env.reset(seed=0)
        env.step(env.action_space.sample())
