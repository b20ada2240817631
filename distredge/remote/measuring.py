"""Measuring boards that were just installed: a quick profile on the board itself, and the links from here to it."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from distredge.cluster_file import BoardEntries
from distredge.errors import ExecutionError, PeerTimeout
from distredge.network_addresses import tcp
from distredge.remote.look import HOME
from distredge.remote.ssh import Board
from distredge.runtime.links.one_link import SIZES, fit, measure_link
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.security import Keys
from distredge.runtime.protocol.transport import ZmqNetwork

PROFILE_S: Final = 900.0
"""Within which a quick profile is there; it is bounded itself, but for loading the models."""

LINK_S: Final = 30.0
"""Within which one direction of a link is measured."""

REPEATS: Final = 5

# A board keeps its profile: the same command then has nothing left to do. One that does not fit any more is left.
_SCRIPT: Final = """
cd {home} || exit 1
run() {{ venv/bin/distredge profile run --quick {models} --threads {threads}{engine} --name {name} --out {file} "$@"; }}
said=profile.said.$$
trap 'rm -f $said; exit 1' TERM
run >/dev/null 2>$said; code=$?
if [ $code -eq 2 ]; then run --restart >/dev/null 2>$said; code=$?; fi
[ $code -eq 0 ] || grep . $said | tail -n 1
rm -f $said
exit $code
"""


@dataclass(frozen=True)
class LinkMeasured:
    """One direction of a board's link: bits per second (None: more than can be told), and the round trip."""

    rate_bps: float | None
    rtt_s: float


def profile_script(
    name: str, models: Sequence[str], threads: int, provider: str = "cpu", engine_python: str | None = None
) -> str:
    """The script that measures a board's quick profile.

    Args:
        name: of the profile.
        models: of the zoo.
        threads: of the engine.
        provider: what computes.
        engine_python: older Python in which the engine runs; None: the worker's own.
    """
    engine = ["--provider", provider] if provider != "cpu" else []
    engine += ["--engine-python", engine_python] if engine_python is not None else []
    options = shlex.join([part for model in models for part in ("--model", model)])
    return _SCRIPT.format(
        home=HOME, models=options, threads=threads, engine="".join(f" {shlex.quote(word)}" for word in engine),
        name=shlex.quote(name), file=shlex.quote(_file(name, threads)),
    )  # fmt: skip


def measure_profile(
    board: Board,
    name: str,
    models: Sequence[str],
    threads: int,
    limit_s: float = PROFILE_S,
    provider: str = "cpu",
    engine_python: str | None = None,
) -> bytes:
    """Measures a quick profile on a board; returns its file.

    Args:
        board: with distredge installed.
        name: of the profile.
        models: of the zoo.
        threads: of the engine.
        limit_s: within which it is there.
        provider: what computes.
        engine_python: older Python in which the engine runs; None: the worker's own.

    Raises:
        SshError: if the connection is lost or it takes too long.
        ExecutionError: with what the board says, if it cannot be measured.
    """
    done = board.work(profile_script(name, models, threads, provider, engine_python), timeout_s=limit_s)
    if not done.ok:
        raise ExecutionError(f"{board.destination.text}: cannot measure a profile: {done.said.removeprefix('error: ')}")
    content = board.run(f"cat {HOME}/{shlex.quote(_file(name, threads))}").stdout
    try:
        json.loads(content)
    except ValueError as error:
        raise ExecutionError(f"{board.destination.text}: its profile cannot be read: {error}") from error
    return content.encode()


def measure_links(
    peers: Sequence[PeerAddress], keys: Keys, tell: Callable[[str], None] | None = None, limit_s: float = math.inf
) -> tuple[dict[str, tuple[LinkMeasured, LinkMeasured]], dict[str, str]]:
    """Measures the links between here and workers that run and are idle, one after the other.

    Args:
        peers: the workers.
        keys: the requester's.
        tell: told the name that is measured.
        limit_s: for all of them together; those that it does not suffice for are among what went wrong.

    Returns:
        Worker -> its uplink and its downlink; worker -> what went wrong.
    """
    found: dict[str, tuple[LinkMeasured, LinkMeasured]] = {}
    failed: dict[str, str] = {}
    until_s = time.monotonic() + limit_s
    with contextlib.closing(ZmqNetwork(keys.for_requester())) as network:
        for peer in peers:
            if tell is not None:
                tell(peer.name)
            try:
                found[peer.name] = (_one(network, peer, True, until_s), _one(network, peer, False, until_s))
            except ExecutionError as error:
                failed[peer.name] = f"its link cannot be measured: {error}"
    return found, failed


def peers_of(boards: BoardEntries, names: Sequence[str], keys: Keys) -> list[PeerAddress]:
    """Where the data planes of the workers of a cluster file are."""
    entries = [boards.device(name) for name in names]
    return [PeerAddress(e.name, tcp(e.address, e.data_port), keys.public[e.name]) for e in entries]


def _one(network: ZmqNetwork, peer: PeerAddress, back: bool, until_s: float) -> LinkMeasured:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise PeerTimeout("no time is left")
    figures = fit(SIZES, measure_link(network, peer, SIZES, REPEATS, min(LINK_S, left_s), back=back))
    return LinkMeasured(figures.rate_bps, figures.round_trip_s)


def _file(name: str, threads: int) -> str:
    return f"profile-{name}-{threads}.json"
