"""The fidelity campaign on a testbed that is simulated: what is drawn, recorded, predicted anew and counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from distredge.errors import DistredgeError, ExecutionError, PlannerError
from distredge.experiments.common import fidelity_strategies
from distredge.experiments.common.fidelity_beds import Bed, LocalFrames, LocalWorkers
from distredge.experiments.common.fidelity_draw import SEEDS, SetUp, drafts, set_ups
from distredge.experiments.common.fidelity_figures import draw, summarise, table
from distredge.experiments.common.fidelity_measure import (
    missing_keys,
    predict,
    predicted_anew,
    run_set_up,
)
from distredge.experiments.common.fidelity_records import Run, append, read
from distredge.experiments.common.fidelity_strategies import (
    computing,
    inputs_for,
    make_strategy,
    random_strategy,
)
from distredge.latency import simulate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.wires import RUNNABLE_WIRES, is_packed
from distredge.planners import METHODS
from distredge.problem import Problem
from distredge.profiles.compute import ComputeProfile, load_shipped
from distredge.strategy import Strategy


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("mobilenet-v2", (1, 3, 64, 64))


@pytest.fixture(scope="module")
def own() -> ComputeProfile:
    return load_shipped("default:this-machine")


@dataclasses.dataclass(frozen=True)
class _Frames:
    latencies_s: tuple[float, ...]
    starts_s: tuple[float, ...]
    invalid: int
    frames: int
    dilation: float = 2.0
    processor_share: float = 0.5
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Simulated:
    """A testbed on which everything takes `slower` times as long as simulated, and one frame in ten is invalid."""

    mode = "simulated"

    def __init__(self, slower: float = 1.05, refused: str = "") -> None:
        self.slower, self.refused = slower, refused
        self.frames = 0

    def measure(
        self,
        problem: Problem,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        frames: int = 20,
        in_flight: int = 1,
        warmup: int = 3,
    ) -> _Frames:
        assert set(inputs) == set(problem.graph.input_names)
        if strategy.planner.method == self.refused:
            raise ExecutionError("a worker is lost")
        self.frames += frames
        simulated = simulate(problem, strategy, frames=frames + in_flight, in_flight=in_flight)
        found = [self.slower * s for s in simulated.frame_latency_s[in_flight:]]
        valid = frames - frames // 10
        return _Frames(tuple(found[:valid]), tuple(0.01 * k for k in range(valid)), frames - valid, frames)


def _opened(bed: _Simulated) -> Any:
    @contextmanager
    def bed_of(problem: Problem, set_up: SetUp) -> Iterator[Bed]:
        yield bed

    return bed_of


def _small(**changes: Any) -> SetUp:
    """The first set-up of the test, on three boards."""
    first = set_ups("test")[0]
    return dataclasses.replace(first, boards=first.boards[:3], **changes)


def test_the_campaign_covers_what_it_says() -> None:
    every = [(s, d) for s in set_ups("test") for d in drafts(s)]
    unpaced = [(s, d) for s, d in every if s.kind == "unpaced"]
    assert sum(s.kind != "this-machine" for s, _ in every) >= 60
    assert len(unpaced) >= 24
    assert {d.method for _, d in every} >= {*METHODS, "random"} - {"agent"}
    assert {s.model for s, _ in every} == {"vgg16", "resnet50", "mobilenet-v2", "efficientnet-lite0"}
    sizes = {len(s.boards) for s, _ in every}
    assert (min(sizes), max(sizes)) == (2, 16)
    rates = [b.rate_bps for s, _ in every if s.kind != "this-machine" for b in s.boards]
    assert 19e6 < min(rates) < 40e6
    assert 200e6 < max(rates) < 301e6
    for told in (
        {s.traced for s, _ in every},
        {d.boundary_first for _, d in every},
        {d.in_flight > 1 for _, d in every},
        {d.input_dtype == "uint8" for _, d in every},
        {d.in_flight > 1 for _, d in unpaced},
    ):
        assert told == {False, True}
    assert {d.wire for _, d in every} == set(RUNNABLE_WIRES)
    assert not any(is_packed(d.wire) for s, d in every if s.engine == "sleep")
    # Two plans of `auto` on each.
    assert 2 * len(set_ups("test")) >= 30


def test_calibration_and_test_are_drawn_apart() -> None:
    assert len(set(SEEDS.values())) == 2
    tested = {json.dumps(s.to_fields()["boards"]) for s in set_ups("test") if s.kind != "this-machine"}
    assert not tested & {json.dumps(s.to_fields()["boards"]) for s in set_ups("calibration")}
    seeds = {part: {d.seed for s in set_ups(part) for d in drafts(s)} for part in ("test", "calibration")}
    assert not seeds["test"] & seeds["calibration"]


def test_a_set_up_is_the_same_after_a_way_through_a_file(own: ComputeProfile) -> None:
    for part in ("test", "calibration"):
        for set_up in set_ups(part):
            again = SetUp.from_fields(json.loads(json.dumps(set_up.to_fields())))
            assert again == set_up
            assert again.cluster(own) == set_up.cluster(own)
    traced = next(s for s in set_ups("test") if s.traced).cluster(own)
    link = traced.devices[0].uplink
    assert link.trace is not None
    assert link.trace.mean_bps == pytest.approx(link.rate_bps)


def test_pinned_workers_have_no_spare_core_and_those_of_this_machine_share_it(own: ComputeProfile) -> None:
    by_kind = {s.kind: s.cluster(own) for s in reversed(set_ups("test")) if s.pinned}
    apart, together = by_kind["unpaced"], by_kind["this-machine"]
    assert set(apart.hosts.values()) == {1}
    assert len({d.host for d in apart.devices}) == len(apart.devices)
    assert apart.requester.host is None
    assert together.hosts == {"this-machine": 2}
    assert {d.host for d in together.devices} == {together.requester.host} == {"this-machine"}


def test_random_strategies_distribute_and_depend_on_their_seed(graph: Graph, own: ComputeProfile) -> None:
    problem = Problem(graph, _small().cluster(own))
    found = [random_strategy(problem, seed) for seed in range(20)]
    assert [s.to_json() for s in found] == [random_strategy(problem, seed).to_json() for seed in range(20)]
    assert len({s.to_json() for s in found}) == 20
    for strategy in found:
        strategy.check(graph)
        assert 2 <= len(strategy.volumes) <= 5
        assert computing(strategy) >= 2


def test_a_draft_lays_its_options_over_a_plan(graph: Graph, own: ComputeProfile) -> None:
    problem = Problem(graph, _small().cluster(own))
    draft = dataclasses.replace(drafts(_small())[0], wire="float16", boundary_first=True, input_dtype="uint8")
    planned = make_strategy(problem, dataclasses.replace(draft, method="deeperthings"))
    assert planned.planner.method == "deeperthings"
    assert {(v.wire, v.boundary_first) for v in planned.volumes} == {("float16", True)}
    assert planned.input.dtype == "uint8"
    assert next(iter(inputs_for(graph, planned).values())).dtype == np.uint8
    four = Problem(graph, set_ups("test")[2].cluster(own))
    grid = make_strategy(four, dataclasses.replace(draft, method="mednn"))
    assert any(v.columns is not None for v in grid.volumes)
    assert not any(v.boundary_first for v in grid.volumes)


def test_a_planner_that_does_not_apply_is_replaced(
    graph: Graph, own: ComputeProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Strategy:
        raise PlannerError("does not apply")

    monkeypatch.setattr(fidelity_strategies, "plan", refuse)
    problem = Problem(graph, _small().cluster(own))
    draft = dataclasses.replace(drafts(_small())[0], method="halp")
    assert make_strategy(problem, draft).planner.method == "random"


@pytest.fixture(scope="module")
def recorded(graph: Graph, own: ComputeProfile, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """Two set-ups run on a simulated testbed, and their file."""
    path = tmp_path_factory.mktemp("fidelity") / "runs.jsonl"
    unpaced = next(s for s in set_ups("test") if s.kind == "unpaced")
    for set_up in (_small(), unpaced):
        for run in run_set_up(set_up, graph, own, set(), bed_of=_opened(_Simulated())):
            append(run, path)
    return path, read(path)


def test_what_was_measured_is_on_record_and_not_measured_again(
    recorded: tuple[Path, list[Run]], graph: Graph, own: ComputeProfile
) -> None:
    path, runs = recorded
    done = {run.key for run in runs}
    assert missing_keys(_small(), done) == []
    bed = _Simulated()
    assert list(run_set_up(_small(), graph, own, done, bed_of=_opened(bed))) == []
    assert bed.frames == 0
    left = sorted(done)[0]
    again = list(run_set_up(_small(), graph, own, done - {left}, bed_of=_opened(bed)))
    assert [run.key for run in again] == [left]
    with open(path, "ab") as file:
        file.write(b'{"key": "cut o')  # killed while it wrote
    append(dataclasses.replace(again[0], latencies_s=(9.0,)), path)
    newest = {run.key: run for run in read(path)}
    assert len(newest) == len(runs)
    assert newest[left].latencies_s == (9.0,)
    assert newest[left].date
    assert newest[left].cores >= 1


def test_records_are_predicted_anew_on_the_same_boards_only(
    recorded: tuple[Path, list[Run]], graph: Graph, own: ComputeProfile
) -> None:
    for run in recorded[1]:
        anew = predicted_anew(run, graph, own)
        assert anew == pytest.approx((run.predicted_shared_s, run.predicted_independent_s), rel=1e-12)
        assert run.predicted_independent_s <= run.predicted_shared_s * (1 + 1e-9)
    faster = ComputeProfile(msgspec.structs.replace(own.data, encrypt_s_per_byte=1e-9))
    unpaced = next(run for run in recorded[1] if run.kind == "unpaced")
    assert predicted_anew(unpaced, graph, faster) is None


def test_the_figures_are_those_of_the_testbed_that_is_slower_by_a_twentieth(recorded: tuple[Path, list[Run]]) -> None:
    runs = [run for run in recorded[1] if run.latencies_s != (9.0,)]
    figures = summarise(runs)
    assert figures["strategies"] == figures["strategies_paced"] + figures["strategies_unpaced"] >= 8
    assert figures["error_mean"] == pytest.approx(1 - 1 / 1.05, abs=5e-3)
    assert figures["error_mean_unpaced"] == pytest.approx(1 - 1 / 1.05, abs=5e-3)
    assert figures["bias"] < 0
    assert figures["pairs_right"] == 1.0
    assert figures["pairs"] > 0
    assert figures["rank_correlation"] > 0.98
    assert 0.05 < figures["invalid_share"] <= 0.1
    assert figures["auto_plans"] == 4
    assert figures["auto_slower_measured"] == 0
    assert figures["auto_gain_mean_measured"] >= 0.99
    assert figures["this_machine_error_mobilenet_v2"] is None


def test_a_slower_auto_is_counted(recorded: tuple[Path, list[Run]]) -> None:
    run = next(run for run in recorded[1] if run.role == "auto")
    slower = dataclasses.replace(run, latencies_s=tuple(1.2 * s for s in run.offload_s))
    figures = summarise([slower])
    assert (figures["auto_plans"], figures["auto_slower_measured"]) == (1, 1)
    assert figures["auto_gain_mean_measured"] == pytest.approx(1 / 1.2)


def test_what_fails_is_said_and_the_rest_is_measured(graph: Graph, own: ComputeProfile) -> None:
    said: list[tuple[str, DistredgeError]] = []
    bed = _Simulated(refused="random")
    runs = list(run_set_up(_small(), graph, own, set(), failed=lambda k, e: said.append((k, e)), bed_of=_opened(bed)))
    assert {run.method for run in runs} & {"random"} == set()
    assert len(runs) + len(said) == len(missing_keys(_small(), set()))
    assert said
    assert all(str(error) == "a worker is lost" for _, error in said)


def test_links_along_a_trace_are_predicted_at_the_times_of_the_frames(graph: Graph, own: ComputeProfile) -> None:
    traced = next(s for s in set_ups("test") if s.traced)
    problem = Problem(graph, traced.cluster(own))
    strategy = random_strategy(problem, 3)
    at = {start_s: predict(problem, strategy, "shared", 1, (start_s,)) for start_s in (0.0, 0.6, 1.1)}
    assert len(set(at.values())) == 3
    assert predict(problem, strategy, "shared", 1, tuple(at)) == sorted(at.values())[1]


def test_table_and_picture_show_what_was_measured(recorded: tuple[Path, list[Run]], tmp_path: Path) -> None:
    lines = list(table(recorded[1]))
    assert sum(any(run.key in line for run in recorded[1]) for line in lines) >= len(recorded[1])
    draw(recorded[1], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_workers_of_this_machine_run_where_they_are_told(graph: Graph, own: ComputeProfile) -> None:
    here = next(s for s in set_ups("test") if s.kind == "this-machine")
    problem = Problem(graph, here.cluster(own))
    strategy = random_strategy(problem, 1)
    bed = LocalWorkers({name: 0 for name in problem.cluster.names})
    found = bed.measure(problem, strategy, inputs_for(graph, strategy), frames=3, in_flight=2, warmup=1)
    assert isinstance(found, LocalFrames)
    assert found.frames == 3
    assert min(found.latencies_s) > 0
