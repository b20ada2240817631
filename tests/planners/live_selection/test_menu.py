"""Menus are read, and what is wrong with one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.errors import FileError
from distredge.planners.live_selection.menu import MOST_VARIANTS, MenuEntry, load_menu

HEAD = 'format = "distredge.menu/1"\n'
GOOD = '[[variant]]\nmodel = "mobilenet-v1-1.0-224"\naccuracy = 0.706\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "menu.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_menu_and_shapes_are_in_the_name(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        HEAD + GOOD + '[[variant]]\nmodel = "own/small.onnx"\naccuracy = 1\nstrategy = "plans/s.json"\n'
        '[[variant]]\nmodel = "mobilenet-v2"\naccuracy = 0.6\n'
        'input_shape = [1, 3, 160, 160]\nweights = "w.safetensors"\n',
    )
    assert load_menu(path) == (
        MenuEntry("mobilenet-v1-1.0-224", "mobilenet-v1-1.0-224", 0.706),
        MenuEntry("small", str(tmp_path / "own/small.onnx"), 1.0, strategy=tmp_path / "plans/s.json"),
        MenuEntry("mobilenet-v2 1x3x160x160", "mobilenet-v2", 0.6, (1, 3, 160, 160), tmp_path / "w.safetensors"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + '[[variant]]\nmodel = "vgg16"\n', r"variant\[0\] \('vgg16'\): the key 'accuracy' is missing"),
        (
            HEAD + '[[variant]]\nmodel = "vgg16"\naccuracy = 70.6\n',
            r"variant\[0\].accuracy: found 70.6, accepted: float <= 1",
        ),
        (
            HEAD + '[[variant]]\nmodel = "vgg16"\naccuracy = "high"\n',
            r"accuracy: found 'high', accepted: float",
        ),
        (HEAD + '[[variant]]\nmodel = "vgg16"\naccuracy = true\n', "accuracy: found True"),
        (HEAD + '[[variant]]\nmodel = "vgg16"\naccuracy = nan\n', "accuracy: found nan"),
        (HEAD + '[[variant]]\nmodel = "vgg16"\naccurracy = 0.7\n', r"variant\[0\].accurracy: unknown key.*accuracy"),
        (HEAD + "[[variant]]\naccuracy = 0.7\n", r"variant\[0\]: the key 'model' is missing"),
        (HEAD + GOOD.replace("0.706", "0.7\ninput_shape = [0]"), "input_shape"),
        (HEAD, "variant: found '?0 of them'?, accepted: 1 to 12"),
        (HEAD + GOOD * (MOST_VARIANTS + 1), "13 of them"),
        (HEAD + GOOD + GOOD, r"variant\[1\]: 'mobilenet-v1-1.0-224' stands twice"),
        ('format = "distredge.menu/2"\n' + GOOD, "format: found 'distredge.menu/2', accepted: 'distredge.menu/1'"),
        ("= nothing", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        load_menu(_write(tmp_path, text))


def test_a_menu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        load_menu(tmp_path / "menu.toml")
