"""Pictures in their files through real worker processes, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from distredge.cluster import Cluster, Device, Requester
from distredge.problem import Problem
from distredge.profiles.compute import load_profile
from distredge.runtime.hosting.local_cluster import LocalCluster
from tests.runtime.conftest import DEVICES
from tests.runtime.photographs import check, sends_files, takes_photographs, write_files


@pytest.fixture(scope="module")
def problem() -> Problem:
    profile = load_profile("default:nano")
    devices = tuple(Device(name, profile, control_port=0, data_port=0) for name in DEVICES)
    return Problem(takes_photographs(), Cluster("test", Requester(), devices))


@pytest.fixture(scope="module")
def local(problem: Problem) -> Iterator[LocalCluster]:
    with LocalCluster(problem, sends_files(problem.graph), in_flight=2) as running:
        yield running


def test_a_mixed_stream(local: LocalCluster, problem: Problem, tmp_path: Path) -> None:
    """The first volume is split on three devices, each of which decodes each file; one that is torn fails alone."""
    files = write_files(tmp_path)
    assert len({message.destination for message in local.deployment.input_messages}) == 3
    for _ in range(2):
        check(list(local.stream_images(files)), files, problem.graph, local.deployment.strategy)


def test_it_is_the_whole_models_output(local: LocalCluster, problem: Problem, tmp_path: Path) -> None:
    graph = problem.graph
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString())
    (one,) = local.stream_images(write_files(tmp_path)[:1])
    (whole,) = session.run(None, {"image": graph.preprocess.normalise(one.inputs["image"])})
    assert np.abs(one.result()["scores"] - whole).max() <= 1e-5 * np.abs(whole).max()


def test_boundary_rows_first(problem: Problem, tmp_path: Path) -> None:
    """Segments that share an input get it of one file."""
    files = write_files(tmp_path)
    strategy = sends_files(problem.graph)
    strategy = strategy.replace(volumes=tuple(replace(v, boundary_first=True) for v in strategy.volumes))
    with LocalCluster(problem, strategy) as running:
        check(list(running.stream_images(files)), files, problem.graph, strategy)
