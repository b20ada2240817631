"""Profiles side by side, and pictures of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from distredge.errors import FileError, ProfileError
from distredge.model.capture import load_model
from distredge.profiles.comparing import curves, diff, plot
from distredge.profiles.compute import ComputeProfile, load_profile
from distredge.profiles.schema import Board, Measured, Origin, ProfileFile, Runtime

KEY = "Conv+Relu 64x56x56>64x56x56 k3x3 s1x1 d1x1 g1 00000000"


def profile(name: str, **operators: tuple[tuple[int, ...], tuple[float, ...]]) -> ComputeProfile:
    entries = {
        KEY.replace("Conv+Relu", kind): Measured(
            rows=rows, median_s=times, p95_s=times, spread=(0.0,) * len(rows), repeats=(3,) * len(rows)
        )
        for kind, (rows, times) in operators.items()
    }
    data = ProfileFile(
        name=name,
        device=Board(name=name),
        runtime=Runtime(name="onnxruntime"),
        origin=Origin(kind="measured", date="2026-11-22"),
        operators=entries,
    )
    return ComputeProfile(data, name)


def test_a_difference_is_told_by_operator_and_at_its_worst_rows() -> None:
    first = profile("a", Conv=((1, 4, 8), (1.0, 4.0, 8.0)), MaxPool=((1,), (1.0,)))
    second = profile("b", Conv=((1, 4, 8), (1.0, 12.0, 16.0)), Add=((1,), (1.0,)))
    found = diff(first, second)
    assert [(d.ratio, d.most_ratio, d.most_rows) for d in found.common] == [(2.0, 3.0, 4)]
    assert found.mean_ratio == pytest.approx(2.0)
    assert len(found.only_first) == len(found.only_second) == 1
    assert ("board", "a", "b") in found.fields


def test_a_profile_does_not_differ_from_itself() -> None:
    graph = load_model("squeezenet1.1", (1, 3, 64, 64), width=0.25)
    found = diff(load_profile("nano"), load_profile("nano"), [graph])
    assert found.mean_ratio == pytest.approx(1.0)
    assert not found.fields
    assert len(found.common) == len({s.key for s in graph.signatures if s is not None})


def test_nothing_in_common_is_no_number() -> None:
    assert math.isnan(diff(profile("a", Conv=((1,), (1.0,))), profile("b", Add=((1,), (1.0,)))).mean_ratio)


def test_a_modelled_profile_needs_a_model_to_be_compared() -> None:
    with pytest.raises(ProfileError, match="name a model with --model"):
        curves(load_profile("nano"))


def test_a_picture_shows_every_operator_with_rows(tmp_path: Path) -> None:
    graph = load_model("squeezenet1.1", (1, 3, 64, 64), width=0.25)
    path = tmp_path / "p.png"
    assert plot([load_profile("nano"), load_profile("tx2")], path, [graph]) > 5
    with Image.open(path) as picture:
        assert min(picture.size) > 400
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10
    measured = profile("a", Conv=((1, 4, 8), (1.0, 4.0, 8.0)))
    assert plot([measured], tmp_path / "q.svg") == 1
    assert "<svg" in (tmp_path / "q.svg").read_text()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    measured = profile("a", Conv=((1,), (1.0,)))
    with pytest.raises(FileError, match=r"found '\.txt', accepted"):
        plot([measured], tmp_path / "p.txt")
    with pytest.raises(ProfileError, match="no operator with more than one row count"):
        plot([measured], tmp_path / "p.png")
