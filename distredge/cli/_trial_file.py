"""The file that `distredge trial` writes, and what it says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from distredge.problem import Problem
    from distredge.profiles.compute import ComputeProfile
    from distredge.remote.measuring import LinkMeasured
    from distredge.strategy import Strategy

FORMAT: Final = "distredge.trial/1"


class LeftOut(NamedTuple):
    """What was not done: of which device (None: of all), what ("profile", "link" or "run"), and why."""

    device: str | None
    what: str
    why: str


def content(
    problem: Problem,
    strategy: Strategy,
    run: Mapping[str, Any],
    links: Mapping[str, tuple[LinkMeasured, LinkMeasured]],
    left_out: Sequence[LeftOut],
    took_s: float,
) -> dict[str, Any]:
    """Returns the file's content: devices are numbers, since names may be those of people and places.

    Args:
        problem: what was planned for.
        strategy: what was run.
        run: what running it gave.
        links: device -> its uplink and downlink as measured.
        left_out: what was not done; why may name people and places, and stays out.
        took_s: all of it.
    """
    from importlib.metadata import version

    numbers = {name: f"device-{number}" for number, name in enumerate(problem.cluster.names)}
    plan = json.loads(strategy.to_json())
    measured, predicted = run["measured_s"], run["predicted_s"]
    return {
        "format": FORMAT,
        "distredge": version("distredge"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "took_s": took_s,
        "model": problem.graph.name,
        "devices": {numbers[d.name]: _about(d.profile, d.threads) for d in problem.cluster.devices},
        "links": {
            numbers[name]: {way: {"rate_bps": link.rate_bps, "rtt_s": link.rtt_s} for way, link in _ways(pair)}
            for name, pair in links.items()
        },
        "not_measured": sorted({numbers[item.device] for item in left_out if item.device is not None}),
        "left_out": [
            {"device": None if item.device is None else numbers[item.device], "what": item.what} for item in left_out
        ],
        "strategy": {
            "devices": [numbers[name] for name in strategy.devices],
            "volumes": plan["volumes"],
            "head": {"device": numbers[strategy.head.device], "split": strategy.head.split},
            "planner": strategy.planner.method,
            "offload_s": strategy.predicted.get("offload_latency_s"),
        },
        "run": dict(run),
        "predicted_over_measured": predicted / measured if measured else None,
    }


def _ways(pair: tuple[LinkMeasured, LinkMeasured]) -> tuple[tuple[str, LinkMeasured], ...]:
    return (("uplink", pair[0]), ("downlink", pair[1]))


def _about(profile: ComputeProfile, threads: int) -> dict[str, Any]:
    """What a profile says of its board but for names that people give, and its figures."""
    from msgspec import to_builtins

    data = profile.data
    board = to_builtins(data.device)
    return {
        "threads": threads,
        "measured": profile.measured,
        "board": {key: value for key, value in board.items() if key != "name"},
        "runtime": to_builtins(data.runtime),
        "segments": to_builtins(data.segments),
        "copy": to_builtins(data.copy),
        "messages": to_builtins(data.messages),
        "encrypt_s_per_byte": data.encrypt_s_per_byte,
        "memory_bytes": profile.memory_bytes,
        "operators": to_builtins(data.operators) if profile.measured else None,
    }


def save(out: Path, found: Mapping[str, Any]) -> None:
    """Writes the file.

    Raises:
        FileError: if it cannot be written.
    """
    from distredge.errors import FileError
    from distredge.writing import write

    try:
        write(out, json.dumps(found, allow_nan=False) + "\n")
    except OSError as error:
        raise FileError(f"{out}: cannot be written: {error.strerror or error}") from error


def tell(found: Mapping[str, Any], out: Path) -> None:
    """Says what is in the file."""
    run, plan = found["run"], found["strategy"]
    for name, pair in found["links"].items():
        rates = ", ".join(f"{way} {_rate(link['rate_bps'])}" for way, link in pair.items())
        click.echo(f"{name}: {rates}, round trip {1e3 * pair['uplink']['rtt_s']:.2f} ms")
    click.echo(f"plan: {len(plan['devices'])} devices, {len(plan['volumes'])} volumes ({plan['planner']})")
    if run["measured_s"] is not None:
        click.echo(
            f"measured {1e3 * run['measured_s']:.2f} ms (median of {run['frames']}), "
            f"predicted {1e3 * run['predicted_s']:.2f} ms"
        )
    click.echo(f"written: {out}, which can be sent back: it holds no addresses, names of users or boards, or keys")


def _rate(rate_bps: float | None) -> str:
    return "unbounded" if rate_bps is None else f"{rate_bps / 1e6:.0f} Mbps"
