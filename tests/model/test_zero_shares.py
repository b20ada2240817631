"""Shares of zeros are those of the whole model's tensors, measured once and kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from distredge.model import zero_shares as module
from distredge.model import zoo
from distredge.model.graph import Graph
from distredge.model.original import EngineRefuses, Original
from distredge.model.zero_shares import assume_zero_shares, sample_inputs, zero_shares


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "distredge" / "zero-shares"


def _graph() -> Graph:
    return zoo.build("vgg16", (1, 3, 64, 64), width=0.125)


def test_a_relu_leaves_zeros_and_pooling_fewer(cache: Path) -> None:
    graph = _graph()
    shares = zero_shares(graph)
    crossing = {name for cut in graph.cuts for name in cut.tensors}
    assert crossing <= shares.keys()
    assert all(0.0 <= share < 1.0 for share in shares.values())
    rectified = [n for n in crossing if graph.operators[graph.producer[n]].op_type == "Relu"]
    pooled = [n for n in crossing if graph.operators[graph.producer[n]].op_type == "MaxPool"]
    assert np.mean([shares[n] for n in rectified]) > 0.3
    assert np.mean([shares[n] for n in pooled]) < np.mean([shares[n] for n in rectified])
    convolved = [n for n in crossing if graph.operators[graph.producer[n]].op_type == "Conv"]
    assert all(shares[n] == 0.0 for n in convolved)


def test_they_are_counted_on_the_samples(cache: Path) -> None:
    graph = _graph()
    name = graph.cuts[1].tensors[0]
    types = {v.name: v.type for v in graph.skeleton.graph.input}
    model = Original(graph.name, graph.skeleton, graph.constants, types, (name,))
    found = [np.mean(model.run(feeds)[name] == 0) for feeds in sample_inputs(graph)]
    assert zero_shares(graph)[name] == pytest.approx(np.mean(found), abs=1e-3)


def test_samples_are_pictures_where_the_model_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _graph()
    (entry,) = graph.input_names
    samples = sample_inputs(graph)
    assert all(feeds[entry].shape == graph.tensors[entry].shape for feeds in samples)
    assert all(feeds[entry].dtype == np.float32 for feeds in samples)
    monkeypatch.setattr(module, "_photograph", lambda: None)
    (noise,) = sample_inputs(graph)
    assert abs(float(noise[entry].mean())) < 0.1


def test_the_model_is_run_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = zero_shares(_graph())
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text()) == first

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was run again")

    monkeypatch.setattr(Original, "run", refuse)
    assert zero_shares(_graph()) == first
    # Another width, other weights: another model.
    with pytest.raises(AssertionError, match="run again"):
        zero_shares(zoo.build("vgg16", (1, 3, 64, 64), width=0.25))


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}'])
def test_a_file_that_cannot_be_used_is_made_anew(cache: Path, content: str) -> None:
    first = zero_shares(_graph())
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert zero_shares(_graph()) == first
    assert json.loads(kept.read_text()) == first


def test_a_model_that_cannot_be_run_is_priced_plain(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineRefuses(RuntimeError("no such operator"), running=False)

    monkeypatch.setattr(Original, "run", refuse)
    with caplog.at_level(logging.WARNING):
        assert set(zero_shares(_graph()).values()) == {0.0}
    assert "no such operator" in caplog.text
    assert not cache.exists()


def test_shares_may_be_given() -> None:
    graph = _graph()
    assume_zero_shares(graph, {"a": 0.25})
    assert zero_shares(graph) == {"a": 0.25}
