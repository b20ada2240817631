"""Options of `deploy-strategy` for a menu of variants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from distredge.cli._options import Number

F = TypeVar("F", bound=Callable[..., Any])

_NOT_WITH_A_MENU: Mapping[str, str] = {
    "STRATEGY": "the menu names the strategies, or they are planned",
    "--model": "the menu names the models",
    "--input-shape": "the menu gives the shapes",
    "--weights": "the menu names the weights",
    "--replan": "a lost worker is waited for; whoever plans anew has one strategy",
    "--in-flight": "a frame's latency is predicted for one at a time",
    "--log": "TensorBoard's log is of one strategy; --report has the figures",
}


@dataclass(frozen=True)
class VariantOptions:
    """What was asked of a menu.

    Attributes:
        menu: its file; None for none.
        latency_limit_s: within which frames are to end.
    """

    menu: Path | None
    latency_limit_s: float | None

    @property
    def wanted(self) -> bool:
        """Whether there is a menu."""
        return self.menu is not None

    def check(self, given: Mapping[str, object]) -> None:
        """Checks before any work that the options go together.

        Args:
            given: the other options that say what runs, by name; None, or 1 frame in flight, where they were not given.

        Raises:
            click.UsageError: naming the option that does not, or is missing.
        """
        if self.menu is None:
            if self.latency_limit_s is not None:
                raise click.UsageError("--latency-limit-ms is what variants are chosen by: give --variants MENU")
            if given["STRATEGY"] is None:
                raise click.UsageError("Missing argument 'STRATEGY' (or --variants MENU).")
            return
        if self.latency_limit_s is None:
            raise click.UsageError("--variants chooses by the time there is: give --latency-limit-ms")
        for name, why in _NOT_WITH_A_MENU.items():
            if given[name] not in (None, 1):
                raise click.UsageError(f"{name} does not go with --variants: {why}")


_OPTIONS = (
    click.option("--variants", "menu", metavar="MENU", type=click.Path(dir_okay=False, path_type=Path),
                 help="Instead of STRATEGY: models to choose from for each frame (TOML), with their accuracies."),
    click.option("--latency-limit-ms", type=Number(0, above=True),
                 help="With --variants: the most accurate one that is predicted to end within this is taken."),
)  # fmt: skip


def variant_options(command: F) -> F:
    """Adds the options of a menu; `variants` is passed to the command as `VariantOptions`."""

    @functools.wraps(command)
    def wrapped(*, menu: Path | None, latency_limit_ms: float | None, **options: Any) -> Any:
        limit_s = None if latency_limit_ms is None else 1e-3 * latency_limit_ms
        return command(variants=VariantOptions(menu, limit_s), **options)

    decorated: Any = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]
