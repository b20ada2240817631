"""A small model on shipped clusters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile


@pytest.fixture(scope="session")
def vgg() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


@pytest.fixture(scope="session")
def resnet() -> Graph:
    return zoo.build("resnet50", (1, 3, 64, 64), width=0.25)


@pytest.fixture
def problem(vgg: Graph) -> Problem:
    return Problem(vgg, load_cluster("db-50"))


@pytest.fixture(scope="session")
def with_edges() -> Callable[[Cluster, float], Cluster]:
    """Turns a cluster into one of boards on which a byte that enters or leaves a part costs that many seconds."""

    def changed(cluster: Cluster, s_per_byte: float) -> Cluster:
        profiles: dict[int, ComputeProfile] = {}
        for device in cluster.devices:
            data = device.profile.data
            segments = msgspec.structs.replace(data.segments, s_per_byte=s_per_byte)
            made = ComputeProfile(msgspec.structs.replace(data, segments=segments))
            profiles.setdefault(id(device.profile), made)
        devices = tuple(dataclasses.replace(d, profile=profiles[id(d.profile)]) for d in cluster.devices)
        return dataclasses.replace(cluster, devices=devices)

    return changed
