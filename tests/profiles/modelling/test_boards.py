"""The modelled boards against the published figures they are made from."""

from __future__ import annotations

import msgspec
import pytest

from distredge.errors import ProfileError
from distredge.profiles.compute import load_profile, load_shipped, shipped_profiles
from distredge.profiles.modelling.boards import (
    FITTED_TARGET,
    LEFT_OUT_TARGET,
    MESSAGE_SOURCES,
    fit,
    make_board,
    operators_of,
    residuals_of,
    scaled,
    whole_s,
)
from distredge.profiles.modelling.published_tables import load_boards, load_published, targets_of

BOARDS = ("pi3", "pi4", "pi5", "nano", "tx2", "xavier-nx", "xavier", "orin-nano", "agx-orin", "rtx2080ti", "gtx1080ti")


def test_all_boards_are_shipped_in_both_sets() -> None:
    assert set(shipped_profiles()) == {
        *(f"default:{name}" for name in (*BOARDS, "this-machine")),
        *(f"distredge-paper:{name}" for name in ("pi3", "nano", "tx2", "xavier")),
    }


def test_every_figure_has_a_known_source_with_a_date() -> None:
    published = load_published()
    for entry in published.figures:
        assert entry.source in published.source
        assert set(entry.fit) <= set(entry.latency_ms)
        assert published.source[entry.source].date


@pytest.mark.parametrize("name", BOARDS)
def test_fitted_figures_are_close_and_a_profile_admits_what_is_not(name: str) -> None:
    origin = load_profile(name).source
    fitted = [abs(r.error) for r in origin.residuals if r.fitted]
    left_out = [abs(r.error) for r in origin.residuals if not r.fitted]
    assert max(fitted, default=0.0) <= FITTED_TARGET
    if max(left_out, default=0.0) > LEFT_OUT_TARGET:
        assert "more than 30 %: use with care" in origin.note
    if not left_out:
        assert "nothing shows how it generalises" in origin.note


@pytest.mark.parametrize("name", ["nano", "agx-orin"])
def test_shipped_residuals_are_those_of_the_shipped_coefficients(name: str) -> None:
    data = load_profile(name).data
    assert data.coefficients is not None
    for residual in data.origin.residuals:
        if residual.model in ("resnet50", "mobilenet-v2", "resnet18", "fcn-resnet18-512x320"):
            assert residual.modelled_s == pytest.approx(whole_s(data.coefficients, residual.model), rel=1e-3)


def test_a_fit_recovers_a_board_that_the_model_describes() -> None:
    boards = load_boards()
    entry = next(b for b in boards.board if b.name == "pi4")
    truth = load_profile("pi4").data.coefficients
    assert truth is not None
    known = ("mobilenet-v1", "mobilenet-v2", "resnet18")
    made = [
        msgspec.structs.replace(f, latency_ms={m: 1e3 * whole_s(truth, m) for m in known}, fit=known)
        for f in load_published().figures
        if f.board == "pi4"
    ]
    published = msgspec.structs.replace(load_published(), figures=tuple(made))
    targets = targets_of("pi4", published)
    found = fit(entry, boards.start[entry.start], targets)
    assert max(abs(r.error) for r in residuals_of(found, targets)) < 0.05
    assert whole_s(found, "squeezenet1.1") == pytest.approx(whole_s(truth, "squeezenet1.1"), rel=LEFT_OUT_TARGET)


def test_a_board_without_figures_cannot_be_fitted() -> None:
    boards = load_boards()
    entry = boards.board[0]
    with pytest.raises(ProfileError, match="found no figure of 'pi3'"):
        fit(entry, boards.start[entry.start], [])


def test_a_board_like_another_is_its_scaled_copy() -> None:
    boards, published = load_boards(), load_published()
    entry = next(b for b in boards.board if b.name == "xavier-nx")
    other, own = load_profile("xavier").data.coefficients, load_profile("xavier-nx").data.coefficients
    assert other is not None
    assert own is not None
    assert entry.like == "xavier"
    assert own.rates.winograd == pytest.approx(scaled(other, entry.faster).rates.winograd, rel=0.01)
    assert own.units < other.units
    residual = make_board(entry, boards, published).origin.residuals[0]
    assert not residual.fitted
    assert abs(residual.error) < LEFT_OUT_TARGET


def test_the_segmentation_network_of_the_published_series_has_its_size() -> None:
    macs = sum(s.macs for s in operators_of("fcn-resnet18-512x320"))
    # ResNet-18 without its classifier, 1.81 G at 224x224, and a head of 0.59 M at each of 16 x 10 places.
    assert macs == pytest.approx(1.814e9 * 512 * 320 / 224**2 + 0.593e6 * 160, rel=0.01)


def test_messages_cost_a_board_as_much_more_as_its_processor_is_slower() -> None:
    boards = load_boards()
    for entry in boards.board:
        profile = load_profile(entry.name)
        slower = boards.reference.score / entry.score
        found, reference = profile.messages, boards.reference.messages
        assert found.receive.own.fixed_s == pytest.approx(slower * reference.receive.own.fixed_s, rel=0.01)
        assert found.send.io_encrypted.s_per_byte == pytest.approx(
            slower * reference.send.io_encrypted.s_per_byte, rel=0.01
        )
        assert found.compress_s_per_byte == pytest.approx(slower * reference.compress_s_per_byte, rel=0.01)
        assert found.source
        assert profile.board.cores == entry.cores
        assert set(MESSAGE_SOURCES) <= {source.what for source in profile.source.sources}


def test_the_papers_boards_have_no_message_costs_of_their_own() -> None:
    for name in ("pi3", "nano", "tx2", "xavier"):
        profile = load_shipped(f"distredge-paper:{name}")
        assert profile.data.messages is None
        assert not set(MESSAGE_SOURCES) & {source.what for source in profile.source.sources}
