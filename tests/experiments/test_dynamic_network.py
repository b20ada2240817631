"""The replay of `dynamic_network`: planners see the past alone, pay for their time, and never beat the clairvoyant."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.cluster import load_cluster
from distredge.errors import FileError
from distredge.experiments import dynamic_network
from distredge.experiments.common import dynamic_clairvoyant as clairvoyant
from distredge.experiments.common import dynamic_methods
from distredge.experiments.common import dynamic_records as records
from distredge.experiments.common.dynamic_links import (
    LEAST_BPS,
    MEANS_BPS,
    image_times,
    seen_rates,
    smoothed,
    traces_of,
)
from distredge.experiments.common.dynamic_replay import Hour, Method, replay
from distredge.latency import evaluate
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.planners import run
from distredge.planners.agent.online import with_failures
from distredge.planners.budget import Budget
from distredge.problem import Problem
from distredge.profiles.network import Trace
from distredge.profiles.traces.generators import Ar1
from distredge.strategy import Strategy

UNTIL_S, EVERY_S, WARM_UP_S = 20.0, 0.5, 4.0


@pytest.fixture(scope="module")
def graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.25)


def _traces() -> list[Trace]:
    """Links that carry little in turn, five seconds each, and noise."""
    found = []
    for link in range(4):
        noise = Ar1(60e6, 0.2, 0.5).trace(UNTIL_S, link)
        down = (noise.times_s // 5).astype(int) == link
        found.append(Trace(noise.times_s, noise.rates_bps * np.where(down, 0.1, 1), 0.002, noise.period_s))
    return found


def _hour(graph: Graph, traces: list[Trace]) -> Hour:
    cluster = load_cluster("dynamic-nano", [graph])
    return Hour(graph, cluster, traces, Problem.as_published, UNTIL_S, EVERY_S, WARM_UP_S)


@pytest.fixture(scope="module")
def hour(graph: Graph) -> Hour:
    return _hour(graph, _traces())


def _search(problem: Problem) -> Strategy:
    return run(problem, "search", Budget(evaluations=3000))


def test_latencies_are_the_simulators_at_the_times_of_the_images(hour: Hour) -> None:
    strategy = _search(hour.problem_at(hour.before_bps))
    seconds = hour.true_s(strategy)
    for k in (0, 7, len(seconds) - 1):
        assert seconds[k] == pytest.approx(evaluate(hour.problem, strategy, start_s=float(hour.times_s[k])), rel=1e-9)
    assert hour.expected_s(strategy)[7] == pytest.approx(evaluate(hour.problem_at(hour.seen_bps[7]), strategy))


@pytest.mark.parametrize("has_memory", [False, True])
def test_nobody_is_faster_than_the_clairvoyant_at_any_time(hour: Hour, has_memory: bool) -> None:
    found = replay(hour, Method("search", _search, 1.0, 0.1, has_memory=has_memory, charged_s=0.1))
    assert found.replans > 3
    clairvoyant.add_searches(hour, 3, 0.01)
    best_s, keys = clairvoyant.lowest_s(hour)
    assert (best_s <= found.latency_s).all()
    assert (best_s < found.latency_s).any()
    for k in (0, 11):
        assert hour.true_s(hour.known[keys[k]])[k] == best_s[k]
    assert 0 <= clairvoyant.slack(hour, best_s, keys, 5) < 1
    gain = clairvoyant.online_gain(hour, found, 5)
    assert gain["online_ms"] > 1e3 * best_s.min()


def test_the_plan_before_stays_in_force_for_the_time_that_planning_takes(hour: Hour) -> None:
    at_once = replay(hour, Method("search", _search, 0.0, 0.3, charged_s=0.0))
    later = replay(hour, Method("search", _search, 0.0, 0.3, charged_s=3.0))
    never = replay(hour, Method("search", _search, 0.0, np.inf))
    first = next(k for k, number in enumerate(at_once.in_force) if number)
    begun = first - 1  # planned when image `begun` started, in force from the next on
    switched = next(k for k, number in enumerate(later.in_force) if number)
    assert hour.times_s[switched - 1] < hour.times_s[begun] + 3.0 <= hour.times_s[switched]
    assert (later.latency_s[:switched] == never.latency_s[:switched]).all()
    assert (later.planning_s[0], never.replans, len(never.strategies)) == (3.0, 0, 1)


def test_a_plan_that_is_not_loaded_comes_into_force_later_by_what_loading_takes(hour: Hour) -> None:
    at_once = replay(hour, Method("search", _search, 0.0, 0.3, charged_s=1.0))
    later = replay(hour, Method("search", _search, 0.0, 0.3, charged_s=1.0, swap_s=2.0))
    never = replay(hour, Method("search", _search, 0.0, np.inf))
    unpaid = replay(hour, Method("search", _search, 0.0, 0.3, charged_s=0.0))
    begun = next(k for k, number in enumerate(unpaid.in_force) if number) - 1
    switched = [next(k for k, number in enumerate(one.in_force) if number) for one in (at_once, later)]
    for first, took_s in zip(switched, (1.0, 3.0), strict=True):
        assert hour.times_s[first - 1] < hour.times_s[begun] + took_s <= hour.times_s[first]
    assert (later.latency_s[: switched[1]] == never.latency_s[: switched[1]]).all()
    # What is charged as planning is planning alone, and while a plan is loaded no other is begun.
    assert set(later.planning_s) == {1.0}
    assert 0 < later.replans < at_once.replans


@pytest.mark.parametrize(("has_memory", "waits_s"), [(True, [3.0, 1.0, 1.0]), (False, [3.0, 3.0, 3.0])])
def test_what_a_memory_knows_is_loaded(hour: Hour, has_memory: bool, waits_s: list[float]) -> None:
    """Two plans by turns, the first of them from the beginning: without a memory each takes the other's place."""
    problem = hour.problem_at(hour.before_bps)
    first, second = (run(problem, name, Budget(evaluations=10)) for name in ("offload", "aofl"))
    before = 1 + (len(with_failures(hour.before_bps, LEAST_BPS)) if has_memory else 0)
    turns = itertools.chain([first] * before, itertools.cycle([second, first]))
    asked: list[float] = []

    def plan(problem: Problem) -> Strategy:
        rates_bps = [device.uplink.rate_bps for device in problem.cluster.devices]
        asked.append(hour.times_s[np.abs(hour.seen_bps - rates_bps).sum(axis=1).argmin()])
        return next(turns)

    replay(hour, Method("turns", plan, 0.0, 0.0, has_memory=has_memory, charged_s=1.0, swap_s=2.0))
    begun = asked[before : before + 4]
    # The next one is begun with the first image for which the one before is in force.
    due = [next(t for t in hour.times_s if t >= at + wait_s) for at, wait_s in zip(begun, waits_s, strict=False)]
    assert begun[1:] == due


def test_planning_is_charged_what_the_clock_says(hour: Hour) -> None:
    ticks = iter(range(10**6))
    found = replay(hour, Method("search", _search, 0.0, 0.3), clock=lambda: 2.0 * next(ticks))
    assert found.planning_s == [2.0] * found.replans
    rests = replay(hour, Method("search", _search, 0.0, 0.3, rest_s=6.0), clock=lambda: 2.0 * next(ticks))
    assert 0 < rests.replans < found.replans


def test_a_memory_waits_for_its_choice_and_takes_the_fastest_at_the_rates_seen(hour: Hour) -> None:
    ticks = iter(range(10**6))
    found = replay(hour, Method("search", _search, 0.0, 0.2, has_memory=True), clock=lambda: 0.001 * next(ticks))
    assert found.choice_s == pytest.approx(0.001)
    made = found.strategies
    seconds = np.stack([hour.true_s(plan) for plan in made])
    assert found.latency_s == pytest.approx(seconds[found.in_force, np.arange(len(hour.times_s))] + found.choice_s)
    known = {number for number in found.in_force[:-1]}
    expected = {number: hour.expected_s(made[number])[-1] for number in known | {found.in_force[-1]}}
    assert expected[found.in_force[-1]] == min(expected.values())


@given(seed=st.integers(0, 50), changed=st.integers(5, 18))
def test_an_estimate_knows_nothing_of_what_comes(seed: int, changed: int) -> None:
    trace = Ar1(60e6, 0.3, 0.5).trace(UNTIL_S, seed)
    other = Trace(trace.times_s, np.where(trace.times_s < changed, trace.rates_bps, 1e6), 0.0, trace.period_s)
    times_s = image_times(WARM_UP_S, UNTIL_S, EVERY_S)
    past = times_s <= changed
    seen = [seen_rates([one], times_s, EVERY_S) for one in (trace, other)]
    np.testing.assert_allclose(seen[0][past], seen[1][past])
    assert not np.allclose(seen[0][~past], seen[1][~past])
    means = [smoothed(rates, EVERY_S, 3.0, rates[0]) for rates in seen]
    np.testing.assert_allclose(means[0][past], means[1][past])


def test_what_comes_changes_no_plan_that_is_made_before(graph: Graph, hour: Hour) -> None:
    changed_s = 12.0
    later = [Trace(t.times_s, np.where(t.times_s < changed_s, t.rates_bps, 5e6), 0.002, t.period_s) for t in _traces()]
    method = Method("search", _search, 1.0, 0.1, has_memory=True, charged_s=0.1)
    found, other = replay(hour, method), replay(_hour(graph, later), method)
    count = int((hour.times_s <= changed_s).sum())
    assert found.in_force[:count] == other.in_force[:count]
    before = max(found.in_force[:count]) + 1
    assert found.strategies[:before] == other.strategies[:before]
    assert found.latency_s[-1] != other.latency_s[-1]


def test_seen_rates_are_means_of_the_window_across_the_end_of_a_period() -> None:
    trace = Trace([0.0, 1.0], [10e6, 30e6], 0.0, 2.0)
    found = seen_rates([trace], np.array([1.0, 1.5, 2.0, 2.5]), 1.0)
    np.testing.assert_allclose(found[:, 0], [10e6, 20e6, 30e6, 20e6])


def test_a_mean_forgets_with_its_time_constant() -> None:
    found = smoothed(np.full((101, 1), 1.0), 0.1, 2.0, np.array([0.0]))
    assert found[19, 0] == pytest.approx(1 - np.exp(-1))
    assert smoothed(found, 0.1, 0.0, np.array([0.0])) is found


def test_measured_links_are_scaled_to_the_shifts(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="DISTREDGE_WIFI_TRACES"):
        traces_of("wifi", tmp_path)
    rng = np.random.default_rng(0)
    for place in ("cafe", "campus", "office", "restr"):
        for number in range(7):
            lines = [f"{second}.0\t{rate:.2f}" for second, rate in enumerate(rng.uniform(0, 50, 200))]
            (tmp_path / f"wifi_{place}_{number}.txt").write_text("\n".join(lines))
    links = traces_of("wifi", tmp_path)
    assert [trace.period_s for trace in links] == [3600.0] * 4
    for trace in links:
        means = seen_rates([trace], np.array([1200.0, 2400.0, 3600.0]), 1200.0)[:, 0]
        np.testing.assert_allclose(means, MEANS_BPS)
    assert len({trace.rates_bps.tobytes() for trace in links}) == 4


def test_a_replay_is_read_back_as_it_was_and_only_for_what_it_is_of(hour: Hour, tmp_path: Path) -> None:
    found = replay(hour, Method("search", _search, 1.0, 0.2, has_memory=True))
    path = tmp_path / "work" / "one.json"
    records.save(path, {"set": "shifts"}, found)
    read = records.load(path, {"set": "shifts"})
    assert read is not None
    for field in dataclasses.fields(found):
        before, after = getattr(found, field.name), getattr(read, field.name)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
    assert records.load(path, {"set": "wifi"}) is None
    assert records.load(tmp_path / "none.json", {}) is None
    content = json.loads(path.read_text(encoding="utf-8"))
    for damaged in (
        '{"of"',
        "[]",
        "{}",
        json.dumps({"of": {"set": "shifts"}}),
        json.dumps({**content, "strategies": [1]}),
    ):
        path.write_text(damaged, encoding="utf-8")
        assert records.load(path, {"set": "shifts"}) is None


@pytest.fixture
def command(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the command small; returns its last arguments."""
    monkeypatch.setattr(dynamic_network, "load_model", lambda _: graph)
    monkeypatch.setattr(dynamic_network, "KEPT", tmp_path / "kept.json")
    for name in ("QUICK_S", "FULL_S"):
        monkeypatch.setattr(dynamic_network, name, (1195.0, 1205.0))
    for name, value in (("SEARCHES", 2), ("SEARCHED_S", 0.01), ("SAMPLE", 3)):
        monkeypatch.setattr(dynamic_network, name, value)
    for name in ("SEARCH_S", "SHORT_SEARCH_S"):
        monkeypatch.setattr(dynamic_methods, name, 0.05)
    return ["--work", str(tmp_path)]


def _ran(error: str) -> set[str]:
    """Methods that were not taken from the work folder."""
    return {line.removesuffix(" ...").split(": ")[1] for line in error.splitlines() if line.endswith(" ...")}


def test_the_command_goes_on_where_it_was_stopped(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--methods", "offload,aofl,search", *command]
    assert dynamic_network.main(arguments) == 0
    out = capsys.readouterr()
    first = json.loads(out.out.splitlines()[-1])
    assert first["dynamic_over_clairvoyant"] == pytest.approx(first["shifts_search_over_clairvoyant"], abs=1e-4)
    assert first["shifts_offload_over_clairvoyant"] >= first["shifts_search_over_clairvoyant"] >= 1.0
    assert _ran(out.err) == {"offload", "aofl", "search"}
    assert (tmp_path / "dynamic_network.png").stat().st_size > 10_000
    assert dynamic_network.main(arguments) == 0
    assert _ran(capsys.readouterr().err) == set()


def test_a_replay_of_other_settings_agent_or_cost_model_is_none(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--quick", "--methods", "aofl,aofl_10min,search_once", *command]

    def ran() -> set[str]:
        assert dynamic_network.main(arguments) == 0
        return _ran(capsys.readouterr().err)

    assert ran() == {"aofl", "aofl_10min", "search_once"}
    monkeypatch.setattr(dynamic_methods, "agent_digest", lambda: "another agent")
    assert ran() == {"search_once"}
    monkeypatch.setattr(dynamic_methods, "AOFL_BRUTE_FORCE_S", 1.0)
    assert ran() == {"aofl_10min"}
    monkeypatch.setattr(dynamic_methods, "SEARCH_S", 0.04)
    assert ran() == {"search_once"}
    (tmp_path / "quick" / "shifts-published-aofl.json").write_text('{"of": ', encoding="utf-8")
    assert ran() == {"aofl"}
    monkeypatch.setattr(dynamic_network, "fingerprint", lambda _: 1.0)
    assert ran() == {"aofl", "aofl_10min", "search_once"}
    assert ran() == set()
    arguments += ["--swap-s", "2"]
    assert ran() == {"aofl", "aofl_10min", "search_once"}
    assert ran() == set()


def test_osds_knows_nothing_of_the_set_before(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[Problem]] = []

    class Recorded:
        def __init__(self, trained_s: float, tuned_s: float) -> None:
            self.plans: list[Problem] = []
            assert trained_s > tuned_s

        def __call__(self, problem: Problem) -> Strategy:
            if not self.plans:
                made.append(self.plans)
            self.plans.append(problem)
            return run(problem, "offload", Budget(evaluations=10))

    monkeypatch.setattr(dynamic_methods, "FineTuned", Recorded)
    monkeypatch.setattr(dynamic_network, "traces_of", lambda name: traces_of("shifts"))
    assert dynamic_network.main(["--full", "--methods", "distredge", *command]) == 0
    assert [len(plans) > 0 for plans in made] == [True, True]
    assert made[0][0].cluster == made[1][0].cluster


def test_osds_is_as_published_and_lasts_as_long_as_it_is_told(
    graph: Graph, hour: Hour, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stable_baselines3")
    from distredge.agents import training

    told: list[dict[str, Any]] = []
    run_training = training.run_training

    def recorded(env: Any, config: Any, **options: Any) -> Any:
        told.append({"config": config, **options})
        return run_training(env, config, **{**options, "budget": Budget(evaluations=3)})

    monkeypatch.setattr(training, "run_training", recorded)
    osds = dynamic_methods.FineTuned(60.0, 20.0)
    for rates in (hour.before_bps, hour.seen_bps[0]):
        strategy = osds(hour.problem_at(rates))
        strategy.check(graph)
        assert strategy.planner.settings["preset"] == "osds"
    assert [one["budget"].seconds for one in told] == [60.0, 20.0]
    assert [one["config"].episodes for one in told] == [None, None]
    assert told[0]["trained_agent"] is None
    assert told[1]["trained_agent"] is not None


def _figures(ratio: float, names: tuple[str, ...] = ("search",)) -> dict[str, object]:
    methods = {name: {"mean_ms": 100.0, "over_clairvoyant": ratio} for name in (*names, "clairvoyant")}
    return {
        "methods": methods, "slack": 0.0, "online": {}, "best_adaptive": names[0], "dynamic_over_clairvoyant": ratio
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "is_recorded"),
    [
        ([], True),
        (["--methods", "aofl,offload"], True),
        (["--methods", "aofl"], False),
        (["--regime", "lossless"], False),
        (["--swap-s", "2"], False),
    ],
)
def test_only_a_run_of_all_methods_is_recorded(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    is_recorded: bool,
) -> None:
    every = [method for method in dynamic_methods.methods(False)[0] if method.name in ("aofl", "offload")]
    monkeypatch.setattr(dynamic_network, "methods", lambda quick: (every, []))
    monkeypatch.setattr(dynamic_network, "summary", lambda hour, found: _figures(1.1, tuple(found)))
    monkeypatch.setattr(dynamic_network, "show", lambda *_: None)
    monkeypatch.setattr(dynamic_network, "draw", lambda *_: None)
    path = tmp_path / "kept.json"
    before = json.dumps({"sets": {}})
    path.write_text(before, encoding="utf-8")
    assert dynamic_network.main(["--full", "--sets", "shifts", *arguments, *command]) == 0
    said = capsys.readouterr().out
    if is_recorded:
        assert set(json.loads(path.read_text(encoding="utf-8"))["sets"]["shifts"]["methods"]) >= {"aofl", "offload"}
    else:
        assert path.read_text(encoding="utf-8") == before
    assert ("nothing is recorded" in said) is not is_recorded


def test_a_record_that_cannot_be_read_is_refused_before_anything_is_run(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.json"
    for text in ('{"sets": ', "[]", '{"set": {}}'):
        path.write_text(text, encoding="utf-8")
        assert dynamic_network.main(["--full", *command]) == 2
        assert f"error: {path}: no record can be read" in capsys.readouterr().err
        assert path.read_text(encoding="utf-8") == text


def test_an_interrupt_ends_it_with_130(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dynamic_network, "replay", interrupted)
    assert dynamic_network.main(["--quick", "--methods", "aofl", *command]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_the_record_keeps_sets_that_were_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_network, "KEPT", tmp_path / "kept.json")

    for sets, worst in (
        ({"shifts": _figures(1.2)}, 1.2),
        ({"wifi": _figures(1.1)}, 1.2),
        ({"shifts": _figures(1.0)}, 1.1),
    ):
        dynamic_network.keep(sets, ["a note"], 60.0, 3600.0)
        kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
        assert kept["dynamic_over_clairvoyant"] == worst
    assert list(kept["sets"]) == ["shifts", "wifi"]
    assert (kept["minutes"], kept["notes"], kept["wifi_search_over_clairvoyant"]) == (59.0, ["a note"], 1.1)


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert dynamic_network.main(["--quick", "--methods", "serach"]) == 2
    assert "did you mean 'search'" in capsys.readouterr().err
    assert dynamic_network.main(["--quick", "--sets", "wify"]) == 2
    assert "did you mean 'wifi'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["-1", "nan", "inf"])
def test_a_charge_that_is_none_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dynamic_network.main(["--quick", "--swap-s", given]) == 2
    assert "dynamic_network: --swap-s: found" in capsys.readouterr().err
