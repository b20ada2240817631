"""Measuring this machine, on small models; what is checked is form and consistency, never speed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from distredge.errors import ExecutionError, MissingDependency, ProfileError
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.operators import Kind
from distredge.model.wires import FLOAT32_BYTES
from distredge.processors import usable_cores
from distredge.profiles.compute import ComputeProfile
from distredge.profiles.measuring import board
from distredge.profiles.measuring.bench import Bench, Effort
from distredge.profiles.measuring.board import Measuring, MeasuringPlan, MeasuringProgress, check_same, warnings_of
from distredge.profiles.measuring.engines import EngineSettings, ThisProcess
from distredge.profiles.measuring.segments import SegmentCase, edge_cases, make_case, random_cases
from distredge.profiles.measuring.verify import verify
from distredge.profiles.measuring.windows import alone_of, windows_of
from distredge.profiles.part_costs import PartCosts, edge_elements
from distredge.profiles.schema import Copy, Handling, Messages

BRIEF = Effort(least=2, most=3, least_s=0.0, seconds=0.01, spread=1.0)
# More seconds than a test may take: measuring ends when there is nothing left to measure.
PLAN = MeasuringPlan(budget_s=3600.0, points=5, start=4, effort=BRIEF, segments=3, power_s=0.1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_model("mobilenet-v2", (1, 3, 32, 32), width=0.25)


@pytest.fixture(scope="module")
def profile(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> ComputeProfile:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    seen: list[MeasuringProgress] = []
    data = Measuring([graph], EngineSettings(), PLAN, path, models=["small"], report=seen.append).run()
    assert seen[-1].what == "done"
    assert all(progress.left_s >= 0 for progress in seen)
    loaded = ComputeProfile.load(path)
    assert loaded.data == data
    return loaded


def test_every_operator_is_measured_with_its_repeats(graph: Graph, profile: ComputeProfile) -> None:
    assert profile.measured
    for signature in graph.signatures:
        if signature is not None:
            assert profile.covers(signature)
            assert profile.operator_s(signature, signature.rows) >= 0
            entry = (profile.data.operators or {})[signature.key]
            assert entry.complete
            assert min(entry.repeats) >= BRIEF.least
    conv = max((s for s in graph.signatures if s is not None), key=lambda s: s.macs)
    assert profile.operator_s(conv, conv.rows) > 0
    assert profile.data.models == ("small",)


def test_the_state_of_the_machine_is_written_down(profile: ComputeProfile) -> None:
    assert profile.board.name
    assert profile.board.processor
    assert profile.board.pace is not None
    assert profile.board.load is not None
    assert profile.runtime.name == "onnxruntime"
    assert profile.runtime.version
    assert profile.copy_s_per_byte > 0
    assert profile.segment_factor > 0
    assert profile.memory_bytes is not None


def test_a_profile_goes_on_where_it_stopped(graph: Graph, profile: ComputeProfile) -> None:
    keys = sorted(profile.data.operators or {})
    kept = {key: (profile.data.operators or {})[key] for key in keys[: len(keys) // 2]}
    half = msgspec.structs.replace(profile.data, operators=kept)
    again = Measuring([graph], EngineSettings(), PLAN, start=half).run()
    assert again.operators is not None
    assert sorted(again.operators) == keys
    assert all(again.operators[key] == entry for key, entry in kept.items())
    assert again.pictures == profile.data.pictures
    assert again.pictures is not None


def test_what_pictures_cost_is_measured_where_an_older_profile_lacks_it(
    graph: Graph, profile: ComputeProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = msgspec.structs.replace(profile.data, pictures=None)
    again = Measuring([graph], EngineSettings(), PLAN, start=older).run()
    assert again.pictures is not None
    assert again.copy == older.copy
    monkeypatch.setattr(board, "measure_pictures", lambda seconds: None)
    rest = Measuring([graph], EngineSettings(), PLAN, start=older)
    assert rest.run().pictures is None
    assert rest.missing == ()


def test_an_interruption_keeps_what_was_measured(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "p.json"

    def interrupt(progress: MeasuringProgress) -> None:
        interrupt.calls += 1  # type: ignore[attr-defined]
        if interrupt.calls == 6:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    interrupt.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        Measuring([graph], EngineSettings(), PLAN, path, report=interrupt).run()
    saved = ComputeProfile.load(path).data
    assert any(not entry.complete for entry in (saved.operators or {}).values())
    assert any("did not come to its end" in warning for warning in warnings_of(saved))


def test_an_earlier_profile_of_another_runtime_is_refused(profile: ComputeProfile) -> None:
    data = profile.data
    other = msgspec.structs.replace(data, runtime=msgspec.structs.replace(data.runtime, version="0.1"))
    with pytest.raises(ProfileError, match=r"p\.json: runtime: found 'onnxruntime 0\.1', accepted: 'onnxruntime"):
        check_same(other, data, "p.json")
    threads = msgspec.structs.replace(data, device=msgspec.structs.replace(data.device, threads=8))
    with pytest.raises(ProfileError, match=r"device\.threads: found 8"):
        check_same(threads, data, "p.json")
    with pytest.raises(ProfileError, match=r"runtime: found onnxruntime 0\.1 \(CPU"):
        verify(ComputeProfile(other, "p.json"), [])


def test_without_an_onnx_runtime_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'distredge\[engine\]'"):
        ThisProcess()


def test_a_disturbed_or_throttling_machine_is_warned_of_with_the_figure(profile: ComputeProfile) -> None:
    state = msgspec.structs.replace(profile.board, pace=1.37, load=0.62, throttled=True, governor="ondemand")
    warnings = " / ".join(warnings_of(msgspec.structs.replace(profile.data, device=state)))
    for text in ("37 % slower", "62 % of the processors", "slowed itself down", "'ondemand'"):
        assert text in warnings


def test_verify_times_segments_that_were_not_measured(graph: Graph, profile: ComputeProfile) -> None:
    verification = verify(profile, [graph], segments=3, seed=5, sweeps=2)
    assert len(verification.checks) == 3
    assert all(check.measured_s > 0 and check.predicted_s > 0 for check in verification.checks)
    errors = [check.predicted_s / check.measured_s - 1 for check in verification.checks]
    assert verification.bias == pytest.approx(sum(errors) / 3)
    assert verification.mean_error == pytest.approx(sum(map(abs, errors)) / 3)
    assert sorted(map(abs, errors))[1] <= verification.p95_error <= max(map(abs, errors))
    assert verification.pace >= 1.0


def test_verify_draws_segments_by_seed(graph: Graph) -> None:
    first = [(c.first, c.last, c.rows) for c in random_cases(graph, 6, 1)]
    assert first == [(c.first, c.last, c.rows) for c in random_cases(graph, 6, 1)]
    assert first != [(c.first, c.last, c.rows) for c in random_cases(graph, 6, 2)]
    for case in random_cases(graph, 6, 1):
        assert any(graph.macs[item.operator] for item in case.part.operators)


def test_a_part_is_predicted_from_its_operators_and_its_edge(graph: Graph, profile: ComputeProfile) -> None:
    case = make_case(graph, -1, 4, (0, graph.cuts[4].height), 0)
    assert case is not None
    total = sum(
        profile.operator_s(signature, item.region.rows.size)
        for item in case.part.operators
        if (signature := graph.signatures[item.operator]) is not None
    )
    costs = PartCosts(graph, profile)
    edge = FLOAT32_BYTES * costs.edge_elements(case.part)
    assert edge == sum(4 * int(np.prod(graph.tensors[name].shape)) for name in (*case.part.inputs, *case.part.outputs))
    assert costs.part_s(case.part) == pytest.approx(
        profile.segment_overhead_s + profile.segment_factor * total + profile.segment_s_per_byte * edge
    )


@pytest.mark.parametrize("name", ["mobilenet-v3-small", "resnet18", "densenet121"])
def test_windows_and_lone_operators_show_every_signature(name: str) -> None:
    graph = load_model(name, (1, 3, 64, 64), width=0.25)
    bench = Bench(graph)
    windows = windows_of([bench])
    shown = frozenset(key for window in windows for key in window.keys)
    lone = alone_of([bench], shown)
    assert {s.key for s in graph.signatures if s is not None} == shown | {alone.signature.key for alone in lone}
    assert not shown & {alone.signature.key for alone in lone}
    for index, signature in enumerate(graph.signatures):
        if signature is not None and graph.body.verdicts[index].kind is not Kind.LOCAL:
            assert signature.key not in shown
    for window in windows:
        assert window.keys <= shown
        if window.height > 1 and window.last < len(graph.cuts) - 1:
            last = window.cases(1)[-1]
            assert graph.cuts[window.last].reference in last.part.outputs
            assert last.part.outputs[graph.cuts[window.last].reference].rows.size == 1


@pytest.mark.parametrize("name", ["mobilenet-v3-small", "resnet18", "densenet121"])
def test_every_lone_operator_of_a_model_can_be_run_at_any_rows(name: str) -> None:
    graph = load_model(name, (1, 3, 64, 64), width=0.25)
    bench = Bench(graph)
    for alone in alone_of([bench]):
        for rows in {1, max(1, alone.rows // 2), alone.rows}:
            wanted = rows if alone.rows > 1 else alone.signature.rows
            segment = bench.segment(bench.operator_part(alone.operator, wanted))
            sample = bench.run(segment, Effort(1, 1), kernels=rows == alone.rows)
            assert sample.total_s.min() > 0
            if graph.body.verdicts[alone.operator].kind is Kind.LOCAL and alone.rows > 1:
                assert {port.region.rows.size for port in segment.outputs} == {rows}


def test_kernels_are_given_to_their_operators() -> None:
    graph = load_model("resnet18", (1, 3, 64, 64), width=0.25)
    bench = Bench(graph)
    for window in windows_of([bench]):
        for case in window.cases(max(1, window.height // 2)):
            sample = bench.run(bench.segment(case.part, case.layout), Effort(2, 2, 0.0, 0.0))
            members = (*case.part.operators, *case.part.partials)
            computed = {graph.fused_into.get(item.operator, item.operator) for item in members}
            assert set(sample.operators) <= computed
            # Nothing is lost and nothing counted twice, and every convolution has a time of its own.
            assert sum(sample.operators.values()) == pytest.approx(sample.kernels_s)
            assert {op for op in computed if graph.macs[op]} <= set(sample.operators)


def test_a_merge_of_two_convolutions_is_another_operator_than_that_of_a_shortcut() -> None:
    graph = load_model("resnet18", (1, 3, 64, 64), width=0.25)
    kinds: dict[str, set[tuple[str, ...]]] = {}
    for op in graph.operators:
        if op.op_type == "Add":
            makers = [graph.operators[graph.producer[name]].op_type == "Conv" for name in op.activation_names]
            kinds.setdefault(graph.signatures[op.index].key, set()).add(tuple(sorted(makers)))
    # Four heights with a shortcut, three of them after a downsampling, too.
    assert len(kinds) == 7
    assert all(len(kind) == 1 for kind in kinds.values())


def test_a_small_budget_is_kept_and_going_on_ends_with_everything(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    plan = replace(PLAN, budget_s=0.0)
    first = Measuring([graph], EngineSettings(), plan, path)
    data = first.run()
    # One measurement, whatever the budget; what is missing is said.
    assert data.operators
    assert any("operators are not finished" in line for line in first.missing)
    assert any("copies and encryption" in line for line in first.missing)
    sizes = [sum(len(entry.rows) for entry in (data.operators or {}).values())]
    for _ in range(2):
        again = Measuring([graph], EngineSettings(), plan, path, start=ComputeProfile.load(path).data)
        data = again.run()
        sizes.append(sum(len(entry.rows) for entry in (data.operators or {}).values()))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    rest = Measuring([graph], EngineSettings(), PLAN, path, start=ComputeProfile.load(path).data)
    data = rest.run()
    assert rest.missing == ()
    assert all(entry.complete for entry in (data.operators or {}).values())


def test_messages_are_measured_once_and_a_failure_is_said(graph: Graph, tmp_path: Path) -> None:
    found = Messages(send=Handling(own=Copy(fixed_s=1e-4)))
    asked: list[float] = []

    def measure(seconds: float) -> Messages:
        asked.append(seconds)
        return found

    plan = replace(PLAN, budget_s=0.0)
    data = Measuring([graph], EngineSettings(), plan, messages=measure).run()
    assert data.messages == found
    assert data.device.cores == usable_cores()
    again = Measuring([graph], EngineSettings(), plan, start=data, messages=measure)
    assert again.run().messages == found
    assert len(asked) == 1

    def fail(seconds: float) -> Messages:
        raise ExecutionError("one end did not start")

    failing = Measuring([graph], EngineSettings(), plan, messages=fail)
    assert failing.run().messages is None
    assert any("one end did not start" in line for line in failing.missing)


def test_the_time_stretches_only_while_others_have_the_processor(graph: Graph) -> None:
    strict = Measuring([graph], EngineSettings(), replace(PLAN, budget_s=100.0))
    patient = Measuring([graph], EngineSettings(), replace(PLAN, budget_s=100.0, stretch=3.0))
    for measuring in (strict, patient):
        # Twenty seconds by the clock, of which this process computed five.
        measuring._began_s -= 20.0
        measuring._began_cpu_s -= 5.0
    # A busy machine may take seconds from line to line.
    assert 72.0 < strict._left_s() <= 80.0
    assert 85.0 < patient._left_s() < 95.0


def test_segments_are_chosen_for_their_edges(graph: Graph) -> None:
    def products_per_element(case: SegmentCase) -> float:
        rows = sum(graph.macs[item.operator] * item.region.rows.size for item in case.part.operators)
        return rows / edge_elements(graph, case.part)

    chosen = edge_cases(graph, 6, 3)
    assert len(chosen) == 6
    assert not any(case.drawn for case in chosen)
    drawn = list(random_cases(graph, 24, 3))
    assert all(case.drawn for case in drawn)
    assert np.median([*map(products_per_element, chosen)]) < np.median([*map(products_per_element, drawn)])
