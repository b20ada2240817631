"""The agent's cases: drawn by seed, apart from what training has; and the figures that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ConfigError, FileError
from distredge.experiments import agent_quality
from distredge.experiments.common import agent_held_out as held
from distredge.experiments.common.agent_boards import (
    HELD_OUT_BOARDS,
    HELD_OUT_JITTERS,
    TRAINING_BOARDS,
    TRAINING_JITTERS,
    board_profile,
)
from distredge.experiments.common.agent_cases import (
    HELD_OUT_VARIANTS,
    TRAINING_MODELS,
    TRAINING_VARIANTS,
    UNSEEN_MODELS,
    AgentCase,
    CaseBoard,
    CaseRequester,
    draw_case,
    other_rates,
    read_cases,
    write_cases,
)
from distredge.experiments.common.agent_figures import Outcome, equal_time_latency_s, summarise, table
from distredge.experiments.common.agent_measuring import Measured, fresh_problem, measure
from distredge.experiments.common.regimes import fingerprint
from distredge.latency import evaluate
from distredge.latency.kernel.kernel import kernel_of
from distredge.planners.budget import Budget
from distredge.profiles.compute import ComputeProfile

_ALL_MODELS = tuple(HELD_OUT_VARIANTS)


def _tiny(name: str = "tiny", rate_bps: float = 1e9, devices: int = 3) -> AgentCase:
    """Raspberry Pi and a VGG-16 that is small enough for a test."""
    boards = [CaseBoard(profile="default:pi3", uplink_bps=rate_bps, downlink_bps=rate_bps) for _ in range(devices)]
    return AgentCase(
        name=name,
        model="vgg16",
        input_shape=(1, 3, 128, 128),
        width=0.25,
        boards=tuple(boards),
        link_model="independent",
    )


def test_a_seed_gives_the_same_cases_and_another_others() -> None:
    def drawn(seed: int) -> list[AgentCase]:
        rng = np.random.default_rng(seed)
        return [draw_case(rng, _ALL_MODELS, (2, 16), held_out=True) for _ in range(40)]

    assert drawn(7) == drawn(7)
    assert all(one != other for one, other in zip(drawn(7), drawn(8), strict=True))


def test_training_never_sees_what_is_held_out() -> None:
    assert not set(TRAINING_MODELS) & set(UNSEEN_MODELS)
    assert not set(TRAINING_BOARDS) & set(HELD_OUT_BOARDS)
    assert not set(TRAINING_JITTERS) & set(HELD_OUT_JITTERS)
    rng = np.random.default_rng(3)
    for _ in range(300):
        case = draw_case(rng, TRAINING_MODELS, (1, 16), held_out=False)
        assert (case.input_shape, case.width) in TRAINING_VARIANTS[case.model]
        assert all(board.profile in TRAINING_BOARDS for board in case.boards)
        assert all(board.jitter == 0 or board.jitter in TRAINING_JITTERS for board in case.boards)


def test_held_out_cases_have_boards_sizes_and_jitters_of_their_own() -> None:
    rng = np.random.default_rng(4)
    cases = [draw_case(rng, _ALL_MODELS, (2, 8), held_out=True) for _ in range(300)]
    boards = [board for case in cases for board in case.boards]
    assert {board.profile for board in boards} >= set(HELD_OUT_BOARDS)
    assert not {board.jitter for board in boards} & set(TRAINING_JITTERS)
    assert {case.model for case in cases} == set(_ALL_MODELS)
    new = [c for c in cases if (c.input_shape, c.width) not in TRAINING_VARIANTS.get(c.model, ())]
    assert len(new) > len([c for c in cases if c.model in UNSEEN_MODELS])


def test_what_may_not_be_drawn_is_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="training cases have no model 'yolov2'"):
        draw_case(rng, ("vgg16", "yolov2"), (2, 4), held_out=False)
    with pytest.raises(ConfigError, match="held-out cases have no model 'vgg61'; did you mean 'vgg16'"):
        draw_case(rng, ("vgg61",), (2, 4), held_out=True)
    for n_devices in ((0, 4), (4, 2), (4, 17)):
        with pytest.raises(ConfigError, match="1 to 16 devices"):
            draw_case(rng, ("vgg16",), n_devices, held_out=False)
    with pytest.raises(ConfigError, match="jitter"):
        board_profile("default:nano", -1)


def test_every_choice_of_cluster_and_options_is_drawn_and_makes_a_problem() -> None:
    rng = np.random.default_rng(11)
    cases = [draw_case(rng, ("squeezenet1.1", "voxelnet"), (2, 16), held_out=False) for _ in range(150)]
    clusters = [case.cluster() for case in cases]
    assert {cluster.link_model for cluster in clusters} == {"shared", "independent"}
    assert any(cluster.shared_medium for cluster in clusters)
    assert any(cluster.hosts for cluster in clusters)
    assert any(cluster.requester.host for cluster in clusters)
    assert any(cluster.requester.device for cluster in clusters)
    assert any(cluster.requester.uplink.rate_bps for cluster in clusters)
    assert any(device.uplink.rate_bps != device.downlink.rate_bps for c in clusters for device in c.devices)
    small = [case for case in cases if case.model == "squeezenet1.1"]
    problems = [case.problem() for case in small[:40]]
    assert {problem.regime for problem in problems} == {"as published", "lossless", "lossy"}
    assert {problem.boundary_first for problem in problems} == {True, False}
    assert any("uint8" in problem.input_dtypes for problem in problems)
    assert not any("uint8" in case.input_dtypes for case in cases if case.model == "voxelnet")


@given(st.sampled_from(TRAINING_BOARDS + HELD_OUT_BOARDS), st.sampled_from([*TRAINING_JITTERS, *HELD_OUT_JITTERS]))
def test_a_jittered_profile_is_a_valid_one_near_its_board(name: str, jitter: int) -> None:
    shipped, jittered = board_profile(name), board_profile(name, jitter)
    assert board_profile(name, jitter) is jittered
    again = msgspec.json.decode(msgspec.json.encode(jittered.data), type=type(jittered.data))
    assert ComputeProfile(again) == jittered
    before, after = shipped.data.coefficients, jittered.data.coefficients
    assert before is not None
    assert after is not None
    for kind in ("winograd", "conv", "pointwise", "depthwise", "dense"):
        assert 0.4 < getattr(after.rates, kind) / getattr(before.rates, kind) < 2.5
    assert after.tile_rows == before.tile_rows
    assert after.rates != before.rates


def test_boards_of_one_jitter_are_not_slow_together() -> None:
    slower = []
    for name in TRAINING_BOARDS:
        before, after = board_profile(name).data.coefficients, board_profile(name, 5).data.coefficients
        assert before is not None
        assert after is not None
        slower.append(before.rates.conv / after.rates.conv)
    assert min(slower) < 1.0 < max(slower)


def test_cases_go_to_a_file_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = tuple(draw_case(rng, TRAINING_MODELS, (2, 16), held_out=False, name=str(k)) for k in range(20))
    write_cases(cases, tmp_path / "a" / "cases.json")
    assert read_cases(tmp_path / "a" / "cases.json") == cases
    (tmp_path / "cases.json").write_text('[{"model": "vgg16", "input_shape": [1, 3, 8, 8], "bords": []}]')
    with pytest.raises(FileError, match="bords"):
        read_cases(tmp_path / "cases.json")


def test_a_case_on_another_day_has_other_rates_only() -> None:
    case = _tiny()
    other = other_rates(case, 1)
    assert other == other_rates(case, 1) != other_rates(case, 2)
    assert all(0.6 < b.uplink_bps / a.uplink_bps < 1.7 for a, b in zip(case.boards, other.boards, strict=True))
    back = [msgspec.structs.replace(b, uplink_bps=1e9, downlink_bps=1e9) for b in other.boards]
    assert msgspec.structs.replace(other, boards=tuple(back)) == case


def test_a_requester_on_a_board_has_its_links() -> None:
    case = msgspec.structs.replace(_tiny(rate_bps=5e7), requester=CaseRequester(device=1))
    cluster = case.cluster()
    assert cluster.requester.device == cluster.names[1]
    assert cluster.requester.uplink.rate_bps == 5e7


def test_a_fresh_problem_is_the_same_problem_with_nothing_kept() -> None:
    case = _tiny()
    known, fresh = case.problem(), fresh_problem(case)
    assert known.graph is case.problem().graph is not fresh.graph
    assert fresh.cluster.devices[0].profile is not known.cluster.devices[0].profile
    strategy = held.search_alone(known, Budget(evaluations=2000), 0)
    assert evaluate(fresh, strategy) == evaluate(known, strategy)
    assert kernel_of(fresh).tables is not kernel_of(known).tables


def test_committed_sets_are_what_they_are_said_to_be() -> None:
    baseline = held.read_records(held.BASELINE, held.BaselineRun)
    for name, wanted in held.SETS.items():
        cases = held.held_out(name)
        assert len(cases) == wanted.cases
        assert [case.name for case in cases] == [f"{name}-{k}" for k in range(len(cases))]
        assert {len(case.boards) for case in cases} <= set(range(wanted.n_devices[0], wanted.n_devices[1] + 1))
        assert {case.model for case in cases} <= set(wanted.models)
        runs = [baseline[case.name] for case in cases]
        assert sum(run.offload_latency_s >= held.ROOM * run.latency_s for run in runs) >= 70
        assert {run.budget_s for run in runs} == {held.baseline_seconds(len(c.boards)) for c in cases}


@pytest.mark.parametrize("name", held.SETS)
def test_committed_cases_are_those_that_the_seed_draws(name: str) -> None:
    wanted, cases = held.SETS[name], held.held_out(name)
    rng, found = np.random.default_rng(wanted.seed), 0
    for _ in range(10 * len(cases)):  # those without room are left out where there are enough of them
        drawn = draw_case(rng, wanted.models, wanted.n_devices, held_out=True, name=f"{name}-{found}")
        found += drawn == cases[found]
        if found == len(cases):
            return
    pytest.fail(f"{found} of {len(cases)} cases of '{name}' were drawn")


def test_a_set_is_drawn_with_room_in_as_many_cases_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([False, False, False, True, False, True, True])
    monkeypatch.setattr(held, "has_room", lambda problem: next(found))
    wanted = held.HeldOutSet(5, ("mobilenet-v2",), (2, 3), cases=4, with_room=2)
    drawn = list(held.draw_set("some", wanted))
    assert [case.name for case in drawn] == ["some-0", "some-1", "some-2", "some-3"]
    rng = np.random.default_rng(5)
    every = [draw_case(rng, wanted.models, (2, 3), held_out=True) for _ in range(6)]
    assert [msgspec.structs.replace(case, name="") for case in drawn] == [every[0], every[1], every[3], every[5]]


def test_room_is_where_a_search_beats_one_device_by_a_lot() -> None:
    assert held.has_room(_tiny().problem())
    assert not held.has_room(_tiny(devices=1).problem())


def _baseline(case: AgentCase) -> held.BaselineRun:
    return held.BaselineRun(
        case=case.name,
        latency_s=0.5,
        offload_latency_s=1.0,
        budget_s=1.0,
        seed=0,
        cpu_s=2.0,
        threads=2,
        cores=2,
        fingerprint=fingerprint(case.problem()),
        strategy={},
        date="2026-11-29",
    )


def _equal_time(case: AgentCase) -> held.EqualTimeRun:
    return held.EqualTimeRun(
        case=case.name,
        asked_ms=(5.0,),
        latency_s=(0.3,),
        wall_ms=(9.0,),
        cpu_ms=(9.0,),
        seeds=(0,),
        threads=1,
        cores=2,
        fingerprint=fingerprint(case.problem()),
        date="2026-11-29",
    )


def test_records_go_on_where_they_were_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    cases = [_tiny("one"), _tiny("two", 2e8)]
    run = _baseline(cases[0])
    held.append_record(path, run)
    with open(path, "ab") as file:
        file.write(b'{"case":"two","latency')  # killed while it wrote
    assert [case.name for case in held.missing(cases, path, held.BaselineRun)] == ["two"]
    held.append_record(path, _baseline(cases[1]))
    held.append_record(path, msgspec.structs.replace(run, latency_s=0.4))
    assert held.missing(cases, path, held.BaselineRun) == []
    assert held.read_records(path, held.BaselineRun)["one"].latency_s == 0.4
    path.write_text(json.dumps({"case": "one"}) + "\n")
    with pytest.raises(FileError, match="line 1"):
        held.read_records(path, held.BaselineRun)


def test_a_record_of_another_cost_model_is_none(tmp_path: Path) -> None:
    path, case = tmp_path / "records.jsonl", _tiny("one")
    for run in (_baseline(case), _equal_time(case)):
        path.unlink(missing_ok=True)
        held.append_record(path, msgspec.structs.replace(run, fingerprint=1.001 * run.fingerprint))
        assert held.missing([case], path, type(run)) == [case]
        held.append_record(path, run)
        assert held.missing([case], path, type(run)) == []


@pytest.mark.parametrize("wrong", ["baseline", "equal time", "absent"])
def test_nothing_is_compared_with_what_is_not_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    cases = (_tiny("four-0"), _tiny("four-1", 2e8))
    monkeypatch.setattr(held, "held_out", lambda _: cases)
    for name in ("BASELINE", "EQUAL_TIME"):
        monkeypatch.setattr(held, name, tmp_path / f"{name}.jsonl")
    for name in ("load_kernel", "load_search"):
        monkeypatch.setattr(agent_quality, name, lambda: None)
    for case in cases:
        last = case is cases[1]
        if not (last and wrong == "absent"):
            factor = 2.0 if last and wrong == "baseline" else 1.0
            run = _baseline(case)
            held.append_record(held.BASELINE, msgspec.structs.replace(run, fingerprint=factor * run.fingerprint))
        factor = 2.0 if last and wrong == "equal time" else 1.0
        other = _equal_time(case)
        held.append_record(held.EQUAL_TIME, msgspec.structs.replace(other, fingerprint=factor * other.fingerprint))
    monkeypatch.setattr("sys.argv", ["agent_quality", "--sets", "four", "--method", "offload"])
    assert agent_quality.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "of four-1: run it with --baseline first" in said.err
    assert "four-0" not in said.err
    path = held.EQUAL_TIME if wrong == "equal time" else held.BASELINE
    assert str(path) in said.err
    held.append_record(path, _equal_time(cases[1]) if wrong == "equal time" else _baseline(cases[1]))
    assert agent_quality.main() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["agent_cases_4"] == 2


def test_two_cases_are_measured_against_what_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "EQUAL_TIME_MS", (2.0, 4.0))
    monkeypatch.setattr(held, "baseline_seconds", lambda devices: 0.05)
    outcomes = []
    for part, case in (("four", _tiny("four-0")), ("unseen", _tiny("unseen-0", devices=1))):
        baseline, equal_time = held.record_baseline(case), held.record_equal_time(case)
        assert baseline.latency_s <= baseline.offload_latency_s * (1.0 + 1e-9)
        measured = measure(case, "offload", None, 0, cold=part == "four")
        assert measured.latency_s == pytest.approx(baseline.offload_latency_s, rel=1e-12)
        assert (measured.cold_ms is not None) == (part == "four")
        outcomes.append(Outcome.of(part, case, measured, baseline, equal_time))
    figures = summarise(outcomes)
    assert [o.has_room for o in outcomes] == [True, False]
    assert figures["agent_ratio_mean_4"] == figures["agent_ratio_worst_4_room"] < 1.0
    assert figures["agent_ratio_unseen_models_mean"] == pytest.approx(1.0)
    assert figures["agent_ratio_unseen_models_mean_room"] is figures["agent_ratio_mean_16"] is None
    assert figures["agent_over_search_equal_time_4"] < 1.0
    assert figures["agent_plan_cold_ms_p95_4"] > 0.0
    assert figures["agent_ratio_raw_mean"] is None
    assert "four-0" in table(outcomes)


def test_as_much_time_is_the_largest_budget_whose_whole_call_fits() -> None:
    run = held.EqualTimeRun(
        case="c",
        asked_ms=(5.0, 10.0, 20.0),
        latency_s=(0.3, 0.2, 0.1),
        wall_ms=(100.0, 100.0, 100.0),
        cpu_ms=(16.0, 25.0, 46.0),
        seeds=(0,),
        threads=2,
        cores=2,
        fingerprint=0.1,
        date="2026-11-29",
    )
    assert run.call_ms == (11.0, 15.0, 26.0)
    assert [equal_time_latency_s(run, ms) for ms in (1.0, 11.0, 14.9, 15.0, 30.0)] == [0.3, 0.3, 0.3, 0.2, 0.1]


def test_figures_are_means_and_worst_of_ratios_and_apart_with_room() -> None:
    def outcome(part: str, room: float, ratio: float, raw: float | None) -> Outcome:
        return Outcome(part, part, "vgg16", room, ratio, raw, 1.5, Measured(0.1, 0.2, 10.0, 9.0))

    figures = summarise(
        [outcome("four", 1.0, 1.0, 1.0), outcome("four", 2.0, 0.9, 0.8), outcome("four", 2.0, 0.8, None)]
    )
    assert figures["agent_ratio_mean_4"] == 0.9
    assert figures["agent_ratio_worst_4"] == 0.8
    assert figures["agent_ratio_mean_4_room"] == pytest.approx(0.85)
    assert figures["agent_ratio_raw_mean"] == 0.9
    assert figures["agent_ratio_raw_mean_room"] == 0.8
    assert (figures["agent_cases_4"], figures["agent_cases_4_room"], figures["agent_cases_16"]) == (3, 2, 0)
    assert figures["agent_plan_ms_p95_4"] == 10.0
    assert figures["agent_plan_cold_ms_p95_4"] is None
