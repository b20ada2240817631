"""Judges whether a board is still what its compute profile was measured on."""

from __future__ import annotations

from collections.abc import Iterator

from distredge.cluster import Device
from distredge.remote.checks.facts import Facts
from distredge.remote.checks.findings import Finding


def check_profile(device: Device, facts: Facts | None, engine: str) -> Iterator[Finding]:
    """Yields what differs between the board and its profile: plans are worth what that is worth.

    Args:
        device: of the cluster file, with its profile.
        facts: of its board; None: not known.
        engine: name and version that its worker tells; "": not known.
    """
    profile = device.profile
    if not profile.measured:
        todo = "`distredge cluster init FILE user@host` measures one, or `distredge profile run` on the board"
        yield Finding(device.name, "profile", "warning", f"'{profile.name}' is modelled, not measured here", todo)
        return
    apart = [f"{what} was {then}, is {now}" for what, then, now in _pairs(device, facts, engine) if then != now]
    if profile.board.throttled:
        apart.append("the board was slowed down to cool meanwhile")
    if apart:
        todo = "set the board as it was, or measure its profile anew"
        yield Finding(device.name, "profile", "warning", f"when it was measured: {'; '.join(apart)}", todo)
    else:
        yield Finding(device.name, "profile", "ok", "measured on the board as it is now")


def _pairs(device: Device, facts: Facts | None, engine: str) -> Iterator[tuple[str, str, str]]:
    """What is compared, as it was and as it is, where both are known."""
    board, runtime = device.profile.board, device.profile.runtime
    yield "threads", str(board.threads), str(device.threads)
    if engine and runtime.version:
        yield "engine", f"{runtime.name} {runtime.version}", engine
    if facts is None:
        return
    if board.governor and facts.governors:
        yield "governor", board.governor, ", ".join(facts.governors)
    if board.power_mode and facts.power_mode is not None:
        yield "power mode", board.power_mode, facts.power_mode.name
