from __future__ import annotations

import numpy as np
import pytest

from distredge.errors import MediaError
from distredge.media.labels import imagenet_labels, softmax, top


def test_the_classes_are_1000_in_the_challenge_order() -> None:
    labels = imagenet_labels()
    assert [label.index for label in labels] == list(range(1000))
    assert len({label.synset for label in labels}) == 1000
    assert (labels[0].synset, labels[0].name) == ("n01440764", "tench")
    assert (labels[652].synset, labels[652].name) == ("n03763968", "military uniform")
    assert labels[999].words == ("toilet tissue", "toilet paper", "bathroom tissue")
    assert [label.synset for label in labels] == sorted(label.synset for label in labels)


def test_top_is_ordered_and_sums_below_one() -> None:
    scores = np.zeros((1, 1000), np.float32)
    scores[0, 652], scores[0, 3] = 20.0, 19.0
    best, second, third = top(scores, 3)
    assert (best.label.index, second.label.index, third.label.index) == (652, 3, 0)
    assert best.probability == pytest.approx(1 / (1 + np.exp(-1) + 998 * np.exp(-20)))


def test_softmax_does_not_overflow() -> None:
    assert softmax(np.array([1e5, 1e5])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("scores", "count", "words"),
    [
        (np.zeros(1001), 5, "1000 scores"),
        (np.full(1000, np.nan), 5, "NaN"),
        (np.zeros(1000), 0, "count"),
    ],
)
def test_bad_scores_are_named(scores: np.ndarray, count: int, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        top(scores, count)
