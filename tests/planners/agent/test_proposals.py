"""What the trained agent sees of a problem, and the strategies that it proposes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from distredge.cluster import Cluster, load_cluster
from distredge.errors import FileError, Unsupported
from distredge.model.graph import Graph
from distredge.planners.agent import policy
from distredge.planners.agent.features import FEATURES, features
from distredge.planners.agent.policy import Policy, load_policy
from distredge.planners.agent.proposals import alone, best_proposals, orders_of, propose
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.annealing.strategy_arrays import Batch
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile

Pricer = Callable[[Problem], BatchPricer]


@pytest.fixture
def pricer() -> Pricer:
    def made(problem: Problem) -> BatchPricer:
        found = BatchPricer(Codec(problem), Budget(evaluations=10**9))
        found.fill()
        return found

    return made


def test_the_numbering_of_the_devices_makes_no_difference(vgg: Graph, pricer: Pricer) -> None:
    cluster = load_cluster("db-50", [vgg])
    turned = dataclasses.replace(cluster, devices=cluster.devices[::-1])
    given, _ = features(pricer(Problem(vgg, cluster)), np.array([2, 0, 3, 1]))
    same, _ = features(pricer(Problem(vgg, turned)), np.array([1, 3, 0, 2]))
    np.testing.assert_allclose(given, same, rtol=1e-6)


def test_only_how_times_compare_is_seen(vgg: Graph, pricer: Pricer) -> None:
    cluster = load_cluster("db-50", [vgg])
    given, unit_s = features(pricer(Problem(vgg, cluster)), np.arange(4))
    slower, slower_s = features(pricer(Problem(vgg, _slower(cluster, 3.0))), np.arange(4))
    assert slower_s == pytest.approx(3.0 * unit_s, rel=1e-6)
    np.testing.assert_allclose(given, slower, rtol=1e-4, atol=1e-4)


def _slower(cluster: Cluster, factor: float) -> Cluster:
    """The cluster with everything that takes time taking that many times as long."""
    profiles: dict[int, ComputeProfile] = {}
    devices = []
    for device in cluster.devices:
        if id(device.profile) not in profiles:
            profiles[id(device.profile)] = _slower_board(device.profile, factor)
        links = {
            side: dataclasses.replace(
                getattr(device, side),
                rate_bps=getattr(device, side).rate_bps / factor,
                fixed_s=getattr(device, side).fixed_s * factor,
            )
            for side in ("uplink", "downlink")
        }
        devices.append(dataclasses.replace(device, profile=profiles[id(device.profile)], **links))
    return dataclasses.replace(cluster, devices=tuple(devices))


def _slower_board(profile: ComputeProfile, factor: float) -> ComputeProfile:
    data = profile.data
    found = data.coefficients
    assert found is not None
    rates = {name: getattr(found.rates, name) / factor for name in type(found.rates).__struct_fields__}
    coefficients = msgspec.structs.replace(
        found,
        launch_s=found.launch_s * factor,
        rates=type(found.rates)(**rates),
        memory_bytes_per_s=found.memory_bytes_per_s / factor,
        weight_bytes_per_s=found.weight_bytes_per_s / factor,
    )
    copy = msgspec.structs.replace(
        data.copy, fixed_s=data.copy.fixed_s * factor, s_per_byte=data.copy.s_per_byte * factor
    )
    return ComputeProfile(msgspec.structs.replace(data, coefficients=coefficients, copy=copy))


@pytest.mark.parametrize("case", ["db-50", "nd-xavier", "ld"])
@pytest.mark.parametrize("published", [True, False])
def test_every_proposal_is_a_strategy(vgg: Graph, pricer: Pricer, case: str, published: bool) -> None:
    make = Problem.as_published if published else Problem.lossless
    problem = make(vgg, load_cluster(case, [vgg]))
    found = pricer(problem)
    batch = propose(found, 100, 1)
    # The kernel checks each of them and refuses what contradicts itself.
    assert np.isfinite(found.price(batch)).all()
    if published:
        assert (batch.order == np.arange(len(problem.cluster.devices))).all()
        assert not batch.boundary.any()


def test_each_device_alone_is_among_them(problem: Problem, pricer: Pricer) -> None:
    found = pricer(problem)
    single, batch = alone(found.codec), propose(found, 50, 0)
    assert len(single.cuts) == 4
    for array, every in zip(single, batch, strict=True):
        np.testing.assert_array_equal(every[:4], array)


def test_proposals_are_better_than_the_best_device_where_that_is_easy(vgg: Graph, pricer: Pricer) -> None:
    found = pricer(Problem.as_published(vgg, load_cluster("dc-300", [vgg])))
    _, seconds = best_proposals(found, 136, 5, 0)
    assert (np.diff(seconds) >= 0).all()
    assert seconds[0] <= found.price(alone(found.codec)).min()


def test_a_scheme_is_kept(problem: Problem, pricer: Pricer) -> None:
    found = pricer(problem)
    last = len(problem.graph.cuts) - 1
    scheme = (1, 4, 7, last)
    batch = propose(found, 60, 3, scheme=scheme)
    assert len(batch.cuts) > 4
    assert (batch.cuts[:, : len(scheme)] == scheme).all()
    assert (batch.cuts[:, len(scheme) :] == -1).all()
    assert np.isfinite(found.price(batch)).all()


def test_samples_depend_on_the_seed_alone(problem: Problem, pricer: Pricer) -> None:
    one, same, other = (propose(pricer(problem), 80, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not _equal(one, other)
    # Without sampling there is no chance in it: the modes as they are.
    assert _equal(propose(pricer(problem), 12, 5), propose(pricer(problem), 12, 6))


def _equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_orders_are_looked_at_where_they_are_free(vgg: Graph, pricer: Pricer) -> None:
    cluster = load_cluster("db-50", [vgg])
    assert len(orders_of(pricer(Problem.as_published(vgg, cluster)))) == 1
    free = orders_of(pricer(Problem.lossless(vgg, load_cluster("nd-xavier", [vgg]))))
    assert (np.sort(free, axis=1) == np.arange(4)).all()


def test_more_devices_than_it_knows_are_refused_by_number(vgg: Graph, pricer: Pricer) -> None:
    cluster = load_cluster("ld", [vgg])
    more = (*cluster.devices, dataclasses.replace(cluster.devices[0], name="one-more"))
    with pytest.raises(Unsupported, match="up to 16 devices, here are 17"):
        propose(pricer(Problem(vgg, dataclasses.replace(cluster, devices=more))), 20, 0)


def test_what_is_shipped_fits_and_old_boards_can_load_it() -> None:
    import onnx

    assert policy.SHIPPED.stat().st_size <= 5_000_000
    model = onnx.load(str(policy.SHIPPED))
    assert model.ir_version == 8
    assert all(entry.version <= 18 for entry in model.opset_import)
    shipped = load_policy()
    # Any numbers of problems, devices and cuts.
    for shape in ((1, 2, 3), (3, 16, 48), (2, 1, 1)):
        modes = shipped(np.zeros((*shape, FEATURES), np.float32))
        assert modes.share.shape[:3] == shape
        assert modes.cut.shape[:2] == (shape[0], shape[2])
        assert modes.head.shape[:2] == shape[:2]
        assert all(np.isfinite(array).all() for array in modes)


def test_a_policy_that_is_none_is_refused(tmp_path: object, vgg: Graph) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "policy.onnx"
    with pytest.raises(FileError, match="no such file"):
        load_policy(path)
    path.write_bytes(b"something else")
    with pytest.raises(FileError, match="no policy"):
        Policy(path)
    import onnx

    model = onnx.load(str(policy.SHIPPED))
    for entry in model.metadata_props:
        if entry.key == "features":
            entry.value = "0:3"
    onnx.save(model, str(path))
    with pytest.raises(FileError, match="train the agent anew"):
        Policy(path)
