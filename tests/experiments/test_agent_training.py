"""How the shipped agent is trained: labels, examples, the network, and the whole command on a few cases."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distredge.errors import ConfigError
from distredge.experiments.common import agent_labels as labels
from distredge.experiments.common.agent_cases import draw_case
from distredge.experiments.common.agent_models import drawn_model
from distredge.experiments.common.agent_workers import spread
from distredge.latency import evaluate, offload_latency_s
from distredge.planners import plan
from distredge.planners.agent.features import FEATURES, LAYOUT
from distredge.planners.agent.policy import Policy
from distredge.planners.annealing.batch_pricing import BatchPricer
from distredge.planners.annealing.encoding import Codec
from distredge.planners.budget import Budget
from distredge.strategy import PlannerRef

torch = pytest.importorskip("torch")
training = pytest.importorskip("distredge.experiments.common.agent_training")
networks = pytest.importorskip("distredge.experiments.common.agent_network")


@pytest.fixture(scope="module")
def some() -> list[labels.Label]:
    found = (labels.searched(seed, 0.02) for seed in range(30))
    made = [label for label in found if label is not None][:8]
    assert len(made) == 8
    return made


@pytest.fixture
def alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_a_label_is_what_it_says(some: list[labels.Label]) -> None:
    for label in some[:4]:
        problem = label.case.problem()
        strategy = Codec(problem).strategy(labels.batch_of(label, Codec(problem)), 0, PlannerRef())
        assert evaluate(problem, strategy) == pytest.approx(label.latency_s, rel=1e-9)
        assert offload_latency_s(problem) == pytest.approx(label.offload_s, rel=1e-9)
        assert label.latency_s <= label.offload_s * (1 + 1e-9)


def test_models_are_drawn_by_name_alone_and_are_of_many_kinds() -> None:
    graphs = [drawn_model(f"drawn-{seed}") for seed in range(30)]
    same = drawn_model("drawn-7")
    assert same.skeleton.SerializeToString() == graphs[7].skeleton.SerializeToString()
    assert all(len(graph.cuts) > 4 for graph in graphs)
    outputs = {len(graph.skeleton.graph.output) for graph in graphs}
    assert 1 in outputs
    assert max(outputs) > 4
    operators = {node.op_type for graph in graphs for node in graph.skeleton.graph.node}
    assert operators >= {"Conv", "ConvTranspose", "Concat", "Add", "MaxPool", "GlobalAveragePool", "Gemm"}


def test_a_drawn_model_is_planned_for() -> None:
    problem = labels.drawn(next(s for s in range(100) if labels.drawn(s).model.startswith("drawn-"))).problem()
    strategy = plan(problem, "agent", evaluations=500)
    assert strategy.model.name == problem.graph.name
    assert strategy.predicted["latency_s"] <= offload_latency_s(problem) * (1 + 1e-9)


def test_no_examination_has_a_drawn_model() -> None:
    with pytest.raises(ConfigError, match="held-out cases have no model 'drawn-3'"):
        draw_case(np.random.default_rng(0), ["drawn-3"], (2, 4), True)


def test_labels_are_read_as_written_and_a_line_cut_short_is_left_out(some: list[labels.Label], tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    for label in some:
        labels.write_label(path, label)
    better = labels.Label(**{**{f: getattr(some[0], f) for f in some[0].__struct_fields__}, "latency_s": 1e-9})
    labels.write_label(path, better)
    path.write_bytes(path.read_bytes() + b'{"seed": 7, "case": {')
    assert labels.read_labels(path) == [better, *some[1:]]
    # The next one does not become part of that line.
    labels.write_label(path, some[0])
    assert labels.read_labels(path)[0] == some[0]


def test_a_round_never_makes_a_label_worse(some: list[labels.Label]) -> None:
    from distredge.planners.agent.policy import SHIPPED

    for label in some[:3]:
        found = labels.proposed(label.seed, label.case, SHIPPED.read_bytes(), 0.005, "a round", label)
        assert found is not None
        assert found.latency_s <= label.latency_s
        assert found is label or found.origin == "a round"


def test_an_example_is_the_label(some: list[labels.Label]) -> None:
    for label in some:
        example = training.example(label)
        assert example is not None
        devices, cuts, seen = example.tokens.shape
        assert (devices, seen) == (len(label.case.boards), FEATURES)
        assert example.ends.sum() == len(label.cuts)
        assert example.ends[-1]
        sizes = np.diff(np.array(label.rows, float), axis=1)
        np.testing.assert_allclose(example.share[example.ends], sizes / sizes.sum(axis=1, keepdims=True), atol=1e-6)
        np.testing.assert_allclose(example.share.sum(axis=1), np.ones(cuts), atol=1e-6)


def test_turned_upside_down_twice_is_the_same(some: list[labels.Label]) -> None:
    example = training.example(some[0])
    once = training.flipped(example)
    assert once.head == len(example.tokens) - 1 - example.head
    assert not np.array_equal(once.tokens, example.tokens)
    twice = training.flipped(once)
    for field in dataclasses.fields(example):
        np.testing.assert_array_equal(getattr(twice, field.name), getattr(example, field.name))


@pytest.mark.usefixtures("alone")
def test_every_parameter_moves_and_the_loss_falls(some: list[labels.Label]) -> None:
    examples = [training.example(label) for label in some]
    network = networks.AgentNetwork(width=16, blocks=1, heads=2)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    first = training.mean_loss(network, examples)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    for _ in range(30):
        training.train_epoch(network, optimizer, schedule, examples, np.random.default_rng(0))
    assert training.mean_loss(network, examples) < 0.7 * first
    still = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    # A bias that is added to every device's logit alike changes no share and no head.
    assert set(still) <= {"share.bias", "of_device.2.bias"}


@pytest.mark.usefixtures("alone")
def test_what_is_filled_up_makes_no_difference(some: list[labels.Label]) -> None:
    examples = [training.example(label) for label in some[:4]]
    network = networks.AgentNetwork(width=16, blocks=2, heads=2).eval()
    together = training.Batch._make(training.collate(examples))
    every = training.losses(network(together.tokens, together.devices, together.cuts), together)
    for k, example in enumerate(examples):
        one = training.collate([example])
        single = training.losses(network(one.tokens, one.devices, one.cuts), one)
        torch.testing.assert_close(every[k : k + 1], single, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("alone")
def test_the_exported_network_says_the_same(some: list[labels.Label], tmp_path: Path) -> None:
    network = networks.AgentNetwork(width=16, blocks=1, heads=2)
    path = tmp_path / "policy.onnx"
    networks.export(network, path, {"features": f"{LAYOUT}:{FEATURES}"})
    tokens = training.example(some[1]).tokens[None]
    with torch.no_grad():
        said = network.eval()(torch.from_numpy(tokens))
    for policy in (Policy(path), Policy(path.read_bytes())):
        for here, there in zip(policy(tokens), said, strict=True):
            np.testing.assert_allclose(here, there.numpy(), rtol=1e-3, atol=1e-4)


def test_proposals_without_learning_are_compared_with_the_label(some: list[labels.Label]) -> None:
    from distredge.planners.agent.policy import SHIPPED

    raw, polished = labels.ratios(some[0], SHIPPED)
    pricer = BatchPricer(Codec(some[0].case.problem()), Budget(evaluations=1))
    pricer.fill()
    offload = some[0].latency_s / labels.offload_s_of(pricer)
    # Every single device is among the proposals, and polish makes nothing worse.
    assert offload * (1 - 1e-9) <= raw <= polished * (1 + 1e-9)


def test_work_is_spread_and_all_of_it_comes_back() -> None:
    assert sorted(spread(abs, range(-20, 0), 2)) == list(range(1, 21))


def test_processes_that_are_spread_over_use_one_thread() -> None:
    assert list(spread(_threads, [0], 1)) == ["1"]


def _threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "0"], "--labels"),
        (["--device", "nonsense"], "--device: found nonsense"),
        (["--quick", "--install"], "--install"),
        (["--folder", "{file}"], "File exists"),
    ],
)
def test_bad_input_of_the_command(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = [text.format(file=tmp_path / "file") for text in ["--folder", str(tmp_path / "runs"), *arguments]]
    done = subprocess.run(
        [sys.executable, "experiments/train_shipped_agent.py", *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_from_nothing_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    command = [sys.executable, "experiments/train_shipped_agent.py", "--quick", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["complete"] is True
    assert [line["round"] for line in said["rounds"]] == [0, 1]
    assert said["rounds"][1]["labels"] > said["rounds"][0]["labels"]
    kept = tmp_path / "agent-quick"
    Policy(kept / "policy-1.onnx")
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout.splitlines()[-1])["rounds"] == said["rounds"]
