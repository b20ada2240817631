from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distredge.errors import ConfigError, FileError
from distredge.model import zoo
from distredge.planners.deadline_reliability import Channel, failure_probability
from distredge.planners.model_choice import MOBILENET_V1, Variant, choose, read_accuracies, reliability

MENU = (
    Variant("large", 0.70, 0.100, 600e3),
    Variant("middle", 0.64, 0.050, 200e3),
    Variant("small", 0.50, 0.020, 100e3),
)
CHANNEL = Channel(40e6, 15e6, 1e6)


def test_closed_form_equals_drawing() -> None:
    rates = CHANNEL.draw(200_000, np.random.default_rng(0))
    for deadline_s in (0.15, 0.2, 0.3):
        drawn = np.mean(8 * 600e3 / rates + 0.1 > deadline_s)
        assert failure_probability(600e3, 0.1, deadline_s, CHANNEL) == pytest.approx(drawn, abs=0.005)


def test_failure_is_certain_when_inference_alone_is_late_and_grows_with_the_image() -> None:
    assert failure_probability(1.0, 0.2, 0.2, CHANNEL) == 1.0
    chances = [failure_probability(b, 0.1, 0.2, CHANNEL) for b in (1e5, 3e5, 6e5)]
    assert 0.0 < chances[0] < chances[1] < chances[2] < 1.0


def test_chooses_the_most_accurate_that_fits() -> None:
    assert choose(MENU, 0.25, 40e6) is MENU[0]
    assert choose(MENU, 0.20, 40e6) is MENU[1]
    assert choose(MENU, 0.05, 40e6) is MENU[2]
    assert choose(MENU, 0.03, 40e6) is None


def test_selection_is_more_reliable_than_any_variant_and_more_accurate_than_the_smallest() -> None:
    with_selection = reliability(MENU, 0.2, CHANNEL)
    alone = [reliability([variant], 0.2, CHANNEL) for variant in MENU]
    assert with_selection.met == max(one.met for one in alone)
    assert with_selection.mean_accuracy > alone[2].mean_accuracy
    assert sum(with_selection.chosen.values()) == pytest.approx(with_selection.met)
    drawn = 1 - failure_probability(600e3, 0.1, 0.2, CHANNEL)
    assert alone[0].met == pytest.approx(drawn, abs=0.02)


@pytest.mark.parametrize("fields", [{"mean_bps": 0.0}, {"spread_bps": -1.0}, {"least_bps": 1e9}])
def test_channel_checks_itself(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Channel(**{"mean_bps": 1e6, "spread_bps": 1e5, "least_bps": 1e3, **fields})


def test_published_table_falls_with_width_and_resolution() -> None:
    table = {}
    for name, accuracy in MOBILENET_V1.items():
        found = zoo.find(name)
        assert found is not None
        table[found[1], found[2]] = accuracy
    assert len(table) == 7
    for (width, rows), accuracy in table.items():
        smaller = [other for key, other in table.items() if key != (width, rows) and key[0] <= width and key[1] <= rows]
        assert all(0.5 < other < accuracy < 0.71 for other in smaller)


def test_reads_a_users_table_and_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model,accuracy\na,0.5\nb,0.75\n")
    assert read_accuracies(path) == {"a": 0.5, "b": 0.75}
    path.write_text("model,accuracy\na,0.5\nb,75\n")
    with pytest.raises(FileError, match="row 3"):
        read_accuracies(path)
    path.write_text("name,top1\na,0.5\n")
    with pytest.raises(FileError, match="columns"):
        read_accuracies(path)
