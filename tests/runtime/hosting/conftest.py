"""A cluster of this machine for the small CNN."""

from __future__ import annotations

import pytest

from distredge.cluster import Cluster, Device, Requester
from distredge.problem import Problem
from distredge.profiles.compute import load_profile
from tests.runtime.conftest import DEVICES


@pytest.fixture(scope="module")
def problem(graph) -> Problem:
    profile = load_profile("default:nano")
    devices = tuple(Device(name, profile, control_port=0, data_port=0) for name in DEVICES)
    return Problem(graph, Cluster("test", Requester(), devices))
