"""`train_agent_gap` and `osds_ablation`: which records are taken for a run of today, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest

from distredge.cluster import load_cluster
from distredge.experiments.common.regimes import fingerprint, make_problem
from distredge.model import zoo
from distredge.problem import Problem

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

CASE = ("vgg16", "db-50")


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments choose threads where nobody did; here that is not theirs to say."""
    threads = str(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, threads))


@pytest.fixture
def gap() -> ModuleType:
    from distredge.experiments import train_agent_gap

    return train_agent_gap


@pytest.fixture
def ablation() -> ModuleType:
    from distredge.experiments import osds_ablation

    return osds_ablation


@pytest.fixture(scope="module")
def problem() -> Problem:
    graph = zoo.build("vgg16", (1, 3, 64, 64), width=0.25)
    return make_problem(graph, load_cluster("db-50", [graph]), "paper")


def _record(problem: Problem, key: tuple[Any, ...]) -> Any:
    from distredge.experiments.common.osds_runs import TrainingRecord

    case, regime, variant, seed, budget_s, clock, settings = key
    return TrainingRecord(
        case, regime, variant, seed, budget_s, clock, 0.1, 0.1, 0.2, 0.1, 5, 0, 1, 0.0, 1.0, "LC-PSS",
        fingerprint(problem), settings,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gap", "ablation"])
def test_a_record_counts_under_its_settings_and_cost_model_alone(
    name: str, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from distredge.experiments.common import osds_runs

    experiment = request.getfixturevalue(name)
    task = (*CASE, "paper", "osds", 5.0, "cpu") if name == "gap" else (*CASE, "osds", 0, 5.0, "cpu")
    monkeypatch.setattr(experiment, "_problem", lambda *_: (problem, 0.1))
    record = _record(problem, experiment._key(task))
    for other, counts in (
        (record, True),
        (dataclasses.replace(record, fingerprint=2 * record.fingerprint), False),
        (dataclasses.replace(record, settings="another"), False),
    ):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        osds_runs.append(path, other)
        done = {r.key: r for r in osds_runs.read(path)}
        assert osds_runs.is_done(done.get(experiment._key(task)), experiment._fingerprint(task)) is counts
    # A line from before settings were written is read, and is of none that is known.
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["settings"]
    path.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    (old,) = osds_runs.read(path)
    assert old.key != experiment._key(task)


def test_other_hyperparameters_make_another_key(gap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    task = (*CASE, "paper", "distredge", 5.0, "cpu")
    before = gap._key(task)
    assert before == gap._key(task)
    monkeypatch.setitem(gap.VARIANTS, "distredge", {"hyperparameters": {"gamma": 0.5}})
    assert gap._key(task) != before


def test_another_shipped_agent_makes_another_key_where_it_is_asked(
    gap: ModuleType, ablation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distredge.experiments.common import osds_ceiling, osds_runs

    asks = [(gap, (*CASE, "paper", variant, 5.0, "cpu")) for variant in ("distredge", "partition", gap.CEILING)]
    asks += [(ablation, (*CASE, variant, 0, 5.0, "cpu")) for variant in ("distredge", "osds+schemes")]
    alone = [(gap, (*CASE, "paper", "osds", 5.0, "cpu")), (ablation, (*CASE, "osds+polish", 0, 5.0, "cpu"))]

    def keys(tasks: list[tuple[ModuleType, Any]]) -> list[Any]:
        return [experiment._key(task) for experiment, task in tasks]

    before = keys(asks), keys(alone)
    for module in (osds_runs, osds_ceiling):
        monkeypatch.setattr(module, "agent_digest", lambda: "another agent")
    assert not set(keys(asks)) & set(before[0])
    assert keys(alone) == before[1]


def test_a_run_says_under_which_settings_it_was_made(problem: Problem, gap: ModuleType) -> None:
    from distredge.experiments.common import osds_ceiling, osds_runs

    config = dataclasses.replace(gap._config((*CASE, "paper", "osds", 5.0, "cpu")), episodes=3)
    record = osds_runs.train(problem, "vgg16 on db-50", "paper", "osds", config, "cpu", 0.001)
    assert record.key == gap._key((*CASE, "paper", "osds", 5.0, "cpu"))
    ceiling = osds_ceiling.ceiling_s(problem, "vgg16 on db-50", "paper", 0.01, "cpu", 0.001)
    assert ceiling.key == gap._key((*CASE, "paper", gap.CEILING, 0.01, "cpu"))
    assert record.is_of(fingerprint(problem))
    assert ceiling.is_of(fingerprint(problem))


def test_what_needs_demonstrations_brings_them_along(ablation: ModuleType) -> None:
    found = ablation.variants()
    for name in ("demonstration-polish", "schemes", "imitation"):
        assert found[f"osds+{name}"]["demonstrations"] > 0
    assert "demonstrations" not in found["osds+polish"]


@pytest.mark.parametrize("budget", ["-1", "0", "nan", "inf", "much"])
def test_a_budget_that_is_none_is_refused(
    gap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    monkeypatch.setattr("sys.argv", ["train_agent_gap", "--quick", "--budget", budget])
    with pytest.raises(SystemExit) as end:
        gap.main()
    assert end.value.code == 2
    assert f"found {budget}, accepted: a number of seconds above 0" in capsys.readouterr().err
