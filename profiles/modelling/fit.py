"""The command that fits the modelled boards to published latencies of whole networks, and shows how well they fit.

Run: ``python profiles/modelling/fit.py`` prints every board's residuals; ``--write`` also writes
`profiles/data/*.json`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distredge.errors import did_you_mean
from distredge.profiles.compute import write_profile
from distredge.profiles.modelling.boards import PAPER_SET, make_board
from distredge.profiles.modelling.paper_boards import make_paper_set, print_bars
from distredge.profiles.modelling.published_tables import load_boards, load_published
from distredge.profiles.schema import ProfileFile


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the residuals of every board and, when told to, writes the profiles."""
    parser = argparse.ArgumentParser(description="Fit the modelled boards to published latencies.")
    parser.add_argument("--write", action="store_true", help="write profiles/data/*.json")
    parser.add_argument("--board", action="append", help="only this board; may stand several times")
    options = parser.parse_args(arguments)
    boards, published = load_boards(), load_published()
    names = [entry.name for entry in boards.board]
    for name in options.board or ():
        if name not in names:
            parser.error(f"--board: there is no board '{name}'{did_you_mean(name, names)}")
    made = {
        entry.name: make_board(entry, boards, published)
        for entry in boards.board
        if not options.board or entry.name in options.board
    }
    _print(made)
    files = {f"default-{name}.json": data for name, data in made.items()}
    if not options.board:
        paper = make_paper_set(made)
        print_bars(paper)
        files |= {f"{PAPER_SET}-{data.name}.json": data for data in paper}
    if options.write:
        folder = Path(__file__).resolve().parents[1] / "data"
        for name, data in files.items():
            write_profile(data, folder / name)
        print(f"wrote {len(files)} profiles to {folder}")
    print(json.dumps(summary(made)))


def summary(made: Mapping[str, ProfileFile]) -> dict[str, float | int]:
    """Returns the largest residuals over all boards."""
    residuals = [r for data in made.values() for r in data.origin.residuals]
    return {
        "boards": len(made),
        "fitted_residual_max": max((abs(r.error) for r in residuals if r.fitted), default=math.nan),
        "left_out_residual_max": max((abs(r.error) for r in residuals if not r.fitted), default=math.nan),
    }


def _print(made: Mapping[str, ProfileFile], write: Callable[[str], None] = print) -> None:
    write(f"{'board':14} {'model':24} {'published':>11} {'modelled':>11} {'residual':>9}")
    for name, data in made.items():
        for r in data.origin.residuals:
            kind = "" if r.fitted else "  left out"
            write(
                f"{name:14} {r.model:24} {1e3 * r.published_s:8.2f} ms {1e3 * r.modelled_s:8.2f} ms "
                f"{100 * r.error:+8.1f} %{kind}"
            )
        write("")


if __name__ == "__main__":
    main()
