"""Several deployments stand at a time, and a frame names the one that it runs on."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.errors import ConfigError, ExecutionError, ModelError, PeerTimeout, ProtocolError
from distredge.model.capture import from_onnx
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.worker import control_plane
from tests.runtime.conftest import DEVICES, Cell, make_strategy, small_cnn
from tests.runtime.requester.conftest import equal


@pytest.fixture
def smaller() -> Deployment:
    """Another model, for pictures of another size."""
    graph = from_onnx(small_cnn(height=17))
    return deploy(graph, make_strategy(graph, [(1, 0, 1)], head="alpha"))


@pytest.fixture
def both(cell: Cell, graph, strategy, smaller) -> Coordinator:
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator()
    coordinator.deploy(deploy(graph, strategy), in_flight=2)
    coordinator.deploy_also(smaller)
    return coordinator


def _small_image() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(5).standard_normal((1, 3, 17, 21), dtype=np.float32)}


def test_each_frame_runs_on_the_deployment_that_it_names(both, graph, strategy, smaller, image) -> None:
    small = _small_image()
    expected = run_in_process(graph, strategy, image)
    expected_small = run_in_process(smaller.graph, smaller.strategy, small)
    for _ in range(3):
        assert equal(both.infer(image), expected)
        assert equal(both.infer(small, on=smaller), expected_small)
    pending = both.submit(image), both.submit_when(small, on=smaller)
    assert pending[1] is not None
    assert equal(pending[0].result(), expected)
    assert equal(pending[1].result(), expected_small)


def test_inputs_are_those_of_the_deployment_named(both, smaller, image) -> None:
    with pytest.raises(ModelError, match=r"found shape \(1, 3, 33, 21\), accepted: \(1, 3, 17, 21\)"):
        both.infer(image, on=smaller)
    assert both.infer(_small_image(), on=smaller)


def test_what_happened_is_told_by_deployment(both, smaller, image) -> None:
    both.infer(image)
    with pytest.raises(ExecutionError, match="no frame has been run yet"):
        both.timeline(on=smaller)
    both.infer(_small_image(), on=smaller)
    assert {span.device for span in both.timeline(on=smaller).spans if span.lane == "compute"} == {"alpha", "gamma"}
    assert both.timeline().devices == ("alpha", "beta", "gamma", "requester")


def test_the_first_is_replaced_and_the_others_stay(both, graph, smaller, image) -> None:
    other = make_strategy(graph, [(1, 1, 1)])
    both.deploy(deploy(graph, other), in_flight=2)
    assert equal(both.infer(image), run_in_process(graph, other, image))
    assert both.infer(_small_image(), on=smaller)


def test_all_of_them_come_back_with_a_worker(cell: Cell, both, graph, strategy, smaller, image) -> None:
    small = _small_image()
    cell.stop("gamma")
    cell.start("gamma")
    assert equal(both.infer(small, on=smaller), run_in_process(smaller.graph, smaller.strategy, small))
    assert equal(both.infer(image), run_in_process(graph, strategy, image))


def test_one_does_not_wait_for_a_worker_of_another(cell: Cell, both, graph, strategy, smaller, image) -> None:
    """Before, what had been lost first was waited for, and nothing else came back meanwhile."""
    small = _small_image()
    cell.stop("beta")
    with pytest.raises(PeerTimeout, match="'beta'"):
        both.infer(image, deadline_s=0.5)
    cell.stop("gamma")
    cell.start("gamma")
    assert equal(both.infer(small, on=smaller), run_in_process(smaller.graph, smaller.strategy, small))
    with pytest.raises(PeerTimeout, match="'beta'"):
        both.infer(image, deadline_s=0.5)
    cell.start("beta")
    assert equal(both.infer(image), run_in_process(graph, strategy, image))


def test_what_cannot_come_back_ends_its_own_frames_alone(cell: Cell, both, smaller, image, monkeypatch) -> None:
    cell.stop("beta")
    monkeypatch.setattr(control_plane, "package_version", lambda: "0.0.1")
    cell.start("beta")
    with pytest.raises(ProtocolError, match=r"'beta' .* runs distredge 0\.0\.1"):
        both.infer(image)
    for _ in range(3):
        failing = both.submit(image)
        assert both.infer(_small_image(), on=smaller)
        with pytest.raises(ProtocolError, match=r"'beta' .* runs distredge 0\.0\.1"):
            failing.result()


def test_a_deployment_that_is_prepared_again_is_that_of_its_frames(cell: Cell, both, graph, strategy, smaller, image):
    """Though the one before it was lost, and is on its way back."""
    small = _small_image()
    cell.stop("gamma")
    with pytest.raises(PeerTimeout):
        both.infer(small, deadline_s=0.3, on=smaller)
    cell.start("gamma")
    both.deploy_also(smaller)
    assert equal(both.infer(small, on=smaller), run_in_process(smaller.graph, smaller.strategy, small))
    assert equal(both.infer(image), run_in_process(graph, strategy, image))


def test_one_that_does_not_stand_is_an_error(cell: Cell, both, smaller) -> None:
    never = deploy(smaller.graph, smaller.strategy)
    with pytest.raises(ExecutionError, match="the frame names does not stand: call deploy_also first"):
        both.infer(_small_image(), on=never)
    assert both.infer(_small_image(), on=smaller), "its place was given back"


def test_a_coordinator_that_plans_anew_has_one_deployment(cell: Cell, smaller) -> None:
    coordinator = cell.coordinator(replan=lambda lost: smaller)
    with pytest.raises(ConfigError, match="plans anew"):
        coordinator.deploy_also(smaller)
