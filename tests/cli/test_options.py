"""The options that commands share."""

from __future__ import annotations

import click
import pytest

from distredge.cli import _options


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "0", "-1", "11", "x", ""])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    option = click.Option(["--limit"])
    with pytest.raises(click.BadParameter) as refused:
        _options.Number(0, 10, above=True).convert(text, option, None)
    assert refused.value.message == f"found '{text}', accepted: a number above 0 and at most 10"
    assert refused.value.param is option


def test_numbers_at_the_ends_of_their_range() -> None:
    assert _options.Number(0, 10).convert("0", None, None) == 0
    assert _options.Number(0, 10, above=True).convert("10", None, None) == 10
    assert _options.Number(0.1).convert("1e9", None, None) == 1e9


@pytest.mark.parametrize(("text", "sizes"), [("1,3,24,32", (1, 3, 24, 32)), ("1x3x24x32", (1, 3, 24, 32))])
def test_input_shapes(text: str, sizes: tuple[int, ...]) -> None:
    seen: list[object] = []

    @click.command()
    @_options.input_shape_option
    def command(input_shape: tuple[int, ...] | None) -> None:
        seen.append(input_shape)

    for arguments in ([], ["--input-shape", text]):
        command.main(arguments, standalone_mode=False)
    assert seen == [None, sizes]
    for wrong in ("1,3,-24,32", "1,3,0,32", "1,,3", "a", ""):
        with pytest.raises(click.BadParameter, match="accepted: sizes such as"):
            command.main(["--input-shape", wrong], standalone_mode=False)
