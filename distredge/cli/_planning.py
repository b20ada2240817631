"""What commands that plan or price share: the problem's options, what is assumed of links, Ctrl-C, saved charts."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from distredge.cli._common import check_writable
from distredge.cli._options import input_shape_option
from distredge.model.wires import EXACT_WIRES, INPUT_DTYPES, PLANNABLE_INPUTS, PLANNABLE_WIRES, dtype_of
from distredge.writing import picture_format, write_picture

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from distredge.cluster import Cluster
    from distredge.planners.budget import Budget, PlanningProgress
    from distredge.problem import Problem

INDEPENDENT = "independent links: the papers' assumption; on one access link transfers share it"

F = TypeVar("F", bound=Callable[..., Any])

_LOSSY = " or ".join(wire for wire in PLANNABLE_WIRES if wire not in EXACT_WIRES)
_OPTIONS = (
    click.option("--model", required=True, help="Zoo name, package.module:callable, or an .onnx file."),
    input_shape_option,
    click.option("--cluster", required=True, help="Shipped case (such as db-50), or a .toml file."),
    click.option("--profile-set", help="Set of shipped compute profiles instead of the cluster's own."),
    click.option("--link-model", type=click.Choice(["independent", "shared"]), help="Instead of the cluster's own."),
    click.option(
        "--allow-lossy", is_flag=True, help=f"Also {_LOSSY} between volumes: the output then differs slightly."
    ),
    click.option("--boundary-first/--no-boundary-first", default=None,
                 help="Whether what others wait for may be computed and sent first; default: yes."),
    click.option("--as-published", is_flag=True,
                 help="The papers' regime: float32 input, no overlap, every device in its order, independent links."),
)  # fmt: skip
_INPUT_HELP = "What the requester sends; default: pixels (uint8) where the model says how to take them."
_NAMES = (
    "model",
    "input_shape",
    "cluster",
    "profile_set",
    "link_model",
    "input_dtype",
    "allow_lossy",
    "boundary_first",
    "as_published",
)


def problem_options(command: F) -> F:
    """Adds the options that make a problem; `problem` is passed to the command as a function that loads it."""
    return _with_options(command, PLANNABLE_INPUTS, _INPUT_HELP)


def problem_and_file_options(command: F) -> F:
    """The same for a command that takes files as input as well; `input_dtype` is passed to it too."""
    return _with_options(command, INPUT_DTYPES, f"{_INPUT_HELP} jpeg: also in pictures' files, with --pictures.")


def _with_options(command: F, input_dtypes: Sequence[str], input_help: str) -> F:
    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _NAMES}
        if input_dtypes == INPUT_DTYPES:
            options["input_dtype"] = chosen["input_dtype"]
        return command(load=functools.partial(load_problem, **chosen), **options)

    decorated: Any = click.option("--input-dtype", type=click.Choice(input_dtypes), help=input_help)(wrapped)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def load_problem(
    model: str,
    cluster: str,
    profile_set: str | None = None,
    link_model: Literal["independent", "shared"] | None = None,
    input_dtype: str | None = None,
    allow_lossy: bool = False,
    boundary_first: bool | None = None,
    as_published: bool = False,
    input_shape: tuple[int, ...] | None = None,
) -> Problem:
    """Loads model and cluster and makes the problem that the options describe: the fastest lossless one without any.

    Raises:
        click.UsageError: if an option contradicts `as_published`, or pixels are asked for that the model cannot take.
    """
    import dataclasses

    from distredge.cluster import load_cluster
    from distredge.model.capture import load_model
    from distredge.problem import Problem, takes_pixels

    if as_published and (allow_lossy or input_dtype not in (None, "float32")):
        other = "--allow-lossy" if allow_lossy else f"--input-dtype {input_dtype}"
        raise click.UsageError(f"--as-published means float32: leave {other} away")
    graph = load_model(model, input_shape)
    found = load_cluster(cluster, [graph], profile_set)
    if as_published:
        overlap = bool(boundary_first)
        return Problem.as_published(graph, found, link_model or "independent", boundary_first=overlap)
    if link_model is not None:
        found = dataclasses.replace(found, link_model=link_model)
    options: dict[str, Any] = {"allow_lossy": allow_lossy}
    if input_dtype is not None:
        # A plan for pictures in files is one for their pixels, priced once more.
        options["input_dtypes"] = (dtype_of(input_dtype),)
        if input_dtype != "float32" and not takes_pixels(graph):
            raise click.UsageError(f"--input-dtype: {graph.name} does not say how pixels become its input; use float32")
    if boundary_first is not None:
        options["boundary_first"] = boundary_first
    return Problem.lossless(graph, found, **options)


def say_assumption(cluster: Cluster) -> None:
    """Says on stderr what is assumed where links are independent."""
    if cluster.link_model == "independent":
        click.echo(INDEPENDENT, err=True)


def about_links(cluster: Cluster) -> dict[str, str | None]:
    """The link model and what it assumes, for machines."""
    assumed = INDEPENDENT if cluster.link_model == "independent" else None
    return {"link_model": cluster.link_model, "assumption": assumed}


def check_chart(path: str | None) -> None:
    """Checks, before any work, that a chart can be written; None passes.

    Raises:
        FileError: if its name has another ending than those of charts, or it cannot be written.
    """
    if path is not None:
        picture_format(path)
    check_writable(path)


def save_chart(figure: Figure, path: str | Path) -> None:
    """Writes a chart in the format that the file's name says, and closes it.

    Raises:
        FileError: if it cannot be written.
    """
    from matplotlib import pyplot as plt

    try:
        write_picture(figure, path, dpi=150)
    finally:
        plt.close(figure)


class ProgressLine:
    """One line on stderr that is written over, only where stderr is a terminal.

    Args:
        best: what the lowest latency found is called; it need not be the best under another objective.
    """

    def __init__(self, best: str = "best") -> None:
        self._best = best
        self._shown = sys.stderr.isatty()
        self._width = 0

    def __call__(self, progress: PlanningProgress) -> None:
        """Shows where planning stands."""
        if not self._shown:
            return
        best = progress.best_latency_s
        found = (
            f"{self._best} {best * 1e3:.2f} ms, {1 / best:.2f} IPS (simulated)"
            if best < float("inf")
            else "nothing yet"
        )
        text = f"{progress.method}: {progress.elapsed_s:.1f} s, {progress.evaluations} strategies, {found}"
        text = text[: _columns() - 1]  # a line that wraps cannot be written over
        click.echo("\r" + text.ljust(self._width), err=True, nl=False)
        self._width = len(text)

    def clear(self) -> None:
        """Wipes the line."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0


def _columns() -> int:
    """Columns of the terminal behind stderr; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


@contextlib.contextmanager
def interruptible(budget: Budget) -> Iterator[None]:
    """The first Ctrl-C makes the planner return its best so far; the second one ends the command."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        budget.interrupt()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
