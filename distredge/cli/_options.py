"""The options that commands share, and the kind of number that they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def input_shape_option(command: F) -> F:
    """Adds `--input-shape`, passed as `input_shape`: sizes for `load_model`, or None."""
    return click.option(
        "--input-shape",
        callback=_sizes,
        metavar="1,3,H,W",
        help="Shape of the model's input, where it is not fixed or another is wanted.",
    )(command)


def json_option(command: F) -> F:
    """Adds `--json`, passed as `as_json`: the command then writes one JSON object on stdout and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON object, for machines.")(command)


def seed_option(command: F) -> F:
    """Adds `--seed`, 0 to 2**32 - 1, default 0."""
    return click.option(
        "--seed",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Seed of every random choice.",
    )(command)


def verbose_option(command: F) -> F:
    """Adds `-v`, which `run` has read from the command line already; nothing is passed to the command."""
    return click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        help="Say more: -v what is done, -vv every detail, and the traceback of an error.",
    )(command)


def version_option(command: F) -> F:
    """Adds `--version`."""
    return click.version_option(package_name="distredge", message="%(prog)s %(version)s")(command)


class Number(click.ParamType[float]):
    """A finite number in a range; NaN and infinities, which click's own range lets through, are refused.

    Args:
        low: least value.
        high: greatest value; None for none.
        above: whether `low` itself is refused.
    """

    name = "number"

    def __init__(self, low: float, high: float | None = None, *, above: bool = False) -> None:
        self._low, self._high, self._above = low, high, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parses and checks it."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        low_enough = self._high is None or number <= self._high
        if not (math.isfinite(number) and low_enough and (number > self._low if self._above else number >= self._low)):
            self.fail(f"found '{value}', accepted: {self._accepted()}", param, ctx)
        return number

    def _accepted(self) -> str:
        text = f"a number {'above' if self._above else 'of at least'} {self._low:g}"
        return text if self._high is None else f"{text} and at most {self._high:g}"


def _sizes(_: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parses `1,3,224,224` (or `1x3x224x224`)."""
    if value is None:
        return None
    try:
        sizes = tuple(int(part) for part in value.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if min(sizes, default=0) < 1:
        raise click.BadParameter(f"found '{value}', accepted: sizes such as 1,3,224,224", param=option)
    return sizes
