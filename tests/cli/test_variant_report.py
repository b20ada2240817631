"""What is counted of frames that took variants: failures are late, unreadable pictures took nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from distredge.cli._stream import StreamedFrame
from distredge.cli._variant_report import SelectionTally, VariantFound, VariantMeaning, show_selection
from distredge.errors import DistredgeError, MediaError, PeerTimeout
from distredge.media.pictures import Picture
from distredge.planners.live_selection.choosing import Choice
from distredge.planners.live_selection.menu import MenuEntry
from distredge.runtime.requester.picture_frames import PictureResult

LIMIT_S = 0.1
ENTRIES = (MenuEntry("large", "large.onnx", 0.7), MenuEntry("small", "small.onnx", 0.5))
SELECTOR: Any = SimpleNamespace(switches=2, predicted_s=lambda now_s: (float("inf"), 0.05))


def _counted(*frames: tuple[Choice | None, float | None, DistredgeError | None]) -> dict[str, Any]:
    latest: Any = SimpleNamespace(latest=None)
    variants: Any = [SimpleNamespace(entry=entry) for entry in ENTRIES]
    tally = SelectionTally(variants, latest, LIMIT_S)
    for number, (choice, latency_s, error) in enumerate(frames):
        latest.latest = choice
        picture = Picture("p", None)
        result = PictureResult(number, picture, None if error else {}, error, latency_s)
        tally(StreamedFrame(number, "p", latency_s, error and str(error), 0.0), result, VariantFound())
    return tally.figures(SELECTOR, 0.0)


def test_a_frame_that_failed_was_not_in_time_and_a_picture_that_is_none_does_not_count() -> None:
    found = _counted(
        (Choice(0, True), 0.08, None),
        (Choice(0, True), 0.12, None),
        (Choice(1, False), 0.09, None),
        (Choice(1, True), None, PeerTimeout("worker 'a' is gone")),
        (None, None, MediaError("p: not an image")),
        (Choice(1, True), None, MediaError("p: cannot be resized")),
    )
    assert found["selection_reliability"] == pytest.approx(2 / 4)
    assert found["mean_accuracy"] == pytest.approx((0.7 + 0.5) / 2)
    assert (found["switches"], found["none_predicted_in_time"]) == (2, 1)
    large, small = found["variants"]
    assert (large["frames"], large["in_time"], large["latency_s"]) == (2, 1, pytest.approx(0.1))
    assert (small["frames"], small["in_time"], small["latency_s"]) == (2, 1, pytest.approx(0.09))
    assert (large["predicted_latency_s"], small["predicted_latency_s"]) == (None, 0.05)


def test_a_frame_of_which_no_end_was_foreseen_has_no_prediction() -> None:
    frames: Any = SimpleNamespace(latest=Choice(1, False), expected_s=float("inf"))
    variants: Any = [SimpleNamespace(entry=entry, problem=SimpleNamespace(graph=None)) for entry in ENTRIES]
    failed = PictureResult(0, Picture("p", None), None, PeerTimeout("worker 'a' is gone"), None)
    found = VariantMeaning(variants, frames, LIMIT_S, 0.5)(failed).figures()
    assert found == {"variant": "small", "predicted_latency_s": None, "in_time": False}


def test_nothing_that_ran_has_no_share(capsys: pytest.CaptureFixture[str]) -> None:
    found = _counted()
    assert (found["selection_reliability"], found["mean_accuracy"]) == (None, None)
    show_selection(found)
    assert capsys.readouterr().out == ""


def test_people_read_one_line_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    show_selection(_counted((Choice(0, True), 0.08, None), (Choice(1, False), 0.2, None)))
    assert capsys.readouterr().out.splitlines() == [
        "within 100 ms: 50.0 %, mean accuracy of those 70.0 %; another variant than before: 2 times",
        "1 frame for which no variant was predicted to be in time",
        "  large (70.0 %): 1 frame, 1 in time, median 80.00 ms",
        "  small (50.0 %): 1 frame, 0 in time, median 200.00 ms",
    ]
