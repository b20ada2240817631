"""Clusters and options of the agent's cases, drawn at random, as plain values of `agent_cases.AgentCase`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distredge.experiments.common.agent_boards import (
    HELD_OUT_BOARDS,
    HELD_OUT_JITTERS,
    SERVERS,
    TRAINING_BOARDS,
    TRAINING_JITTERS,
    board_profile,
)
from distredge.model.wires import offered_wires

Fields = dict[str, Any]

LOWEST_BPS, HIGHEST_BPS = 10e6, 1000e6
"""Range of synthetic rates; racks have more."""

WIFI_BPS = (7e6, 73e6)
"""Range of the means of measured traces of Wi-Fi in public places (Solis-WiFi-Trace)."""

RACK_BPS = (1e9, 100e9)
GROUP_BPS = (50e6, 100e6, 200e6, 300e6)
"""Rates of DistrEdge's groups LA to LD."""

WIFI_LINK, WIRED_LINK, RACK_LINK = (0.0006, 0.002), (0.0001, 0.0003), (0.00003, 0.0001)
"""Cost of a message and round trip, as the shipped cluster files have them."""

_COMPUTER = "default:this-machine"


def draw_cluster(rng: np.random.Generator, count: int, held_out: bool) -> Fields:
    """Draws devices, links, hosts and requester.

    Args:
        rng: source of all choices.
        count: devices.
        held_out: whether boards and jitters that training never has are among them.

    Returns:
        Fields of `AgentCase`.
    """
    kinds = _kinds(rng, held_out)
    each = bool(rng.random() < 0.15)
    drawn = [kinds[int(rng.integers(len(kinds)))] for _ in range(count)]
    if each:
        drawn = [(name, _jitter(rng, name, held_out)) for name, _ in drawn]
    if rng.random() < 0.3:  # people list their boards kind by kind
        drawn.sort()
    rack = all(name in SERVERS for name, _ in drawn)
    up, down = _rates(rng, count, rack)
    fixed_s, rtt_s = _link_costs(rng, float(np.median(up)), rack)
    boards: list[Fields] = [
        {"profile": name, "jitter": jitter, "uplink_bps": float(u), "downlink_bps": float(d)}
        for (name, jitter), u, d in zip(drawn, up, down, strict=True)
    ]
    shared = bool(rng.random() < 0.55)
    fields: Fields = {
        "boards": boards,
        "fixed_s": fixed_s,
        "rtt_s": rtt_s,
        "link_model": "shared" if shared else "independent",
        "shared_medium": bool(shared and rng.random() < 0.08),
        "encrypted": bool(rng.random() < (0.6 if shared else 0.1)),
        "hosts": {},
        "requester": _requester(rng, up, down),
    }
    if shared and count >= 2 and rng.random() < 0.12:
        _put_on_one_host(rng, fields)
    return fields


def draw_options(rng: np.random.Generator, link_model: str, takes_pixels: bool) -> Fields:
    """Draws what a plan may use: as published, all that is lossless, or a mixture.

    Args:
        rng: source of all choices.
        link_model: of the cluster.
        takes_pixels: whether the model's input may travel as uint8.

    Returns:
        Fields of `AgentCase`.
    """
    every = ["uint8", "float32"] if takes_pixels else ["float32"]
    kind = rng.random()
    if kind < 0.35:
        return {"input_dtypes": ["float32"], "wires": ["float32"], "boundary_first": False, "free_order": False}
    lossless = {"input_dtypes": every, "wires": offered_wires(False, link_model == "shared"), "free_order": True}
    if kind < 0.7:
        return {**lossless, "boundary_first": True}
    lossy = bool(rng.random() < 0.3)
    wires = offered_wires(lossy, link_model == "shared")
    return {
        "input_dtypes": every if rng.random() < 0.6 else ["float32"],
        "wires": wires if rng.random() < 0.6 else ["float32"],
        "boundary_first": bool(rng.random() < 0.5),
        "free_order": bool(rng.random() < 0.6),
        "allow_lossy": lossy,
    }


def _kinds(rng: np.random.Generator, held_out: bool) -> list[tuple[str, int]]:
    """One to four kinds of boards; half of the held-out cases have none that training knows."""
    if not held_out:
        known: tuple[str, ...] = TRAINING_BOARDS
    elif rng.random() < 0.5:
        known = HELD_OUT_BOARDS
    else:
        known = TRAINING_BOARDS + HELD_OUT_BOARDS
    if rng.random() < 0.06:
        names = [name for name in known if name in SERVERS]
    else:
        # Boards that people mix are within an order of magnitude of each other more often than not.
        first = known[int(rng.integers(len(known)))]
        near = sorted(known, key=lambda name: (_distance(first, name), name))[: len(known) // 2]
        pool = near if rng.random() < 0.7 else list(known)
        count = min(len(pool), (1, 1, 2, 2, 2, 3, 3, 4)[int(rng.integers(8))])
        names = [str(name) for name in rng.choice(pool, count, replace=False)]
    return [(name, _jitter(rng, name, held_out)) for name in names]


def _distance(one: str, other: str) -> float:
    """How far two boards are apart: the logarithm of the ratio of their speeds."""
    speeds = []
    for name in (one, other):
        found = board_profile(name).data.coefficients
        assert found is not None
        speeds.append(found.rates.conv)
    return abs(math.log(speeds[0] / speeds[1]))


def _jitter(rng: np.random.Generator, name: str, held_out: bool) -> int:
    """In training mostly some; of held-out boards, which are new anyway, half are as shipped."""
    numbers = HELD_OUT_JITTERS if held_out else TRAINING_JITTERS
    chosen = int(rng.choice(numbers))
    as_shipped = rng.random() < (0.5 if name in HELD_OUT_BOARDS else 0.15)
    return 0 if as_shipped and (name in HELD_OUT_BOARDS or not held_out) else chosen


def _rates(rng: np.random.Generator, count: int, rack: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rates up and down in bit/s, both (count,), of three digits."""
    kind = rng.random()
    low, high = (WIFI_BPS if kind < 0.15 else (LOWEST_BPS, HIGHEST_BPS)) if not rack else RACK_BPS
    middle = _log_uniform(rng, low, high)
    how = rng.random()
    if how < 0.3:
        up = np.full(count, middle)
    elif how < 0.5 and not rack:
        up = rng.choice(GROUP_BPS, count)
    elif how < 0.65:
        up = np.full(count, middle)
        up[int(rng.integers(count))] = max(low, middle / _log_uniform(rng, 2.0, 10.0))
    elif how < 0.8:
        up = np.clip(middle * np.exp(rng.normal(0.0, 0.4, count)), low, high)
    else:
        up = np.exp(rng.uniform(math.log(low), math.log(high), count))
    down = up.copy()
    asymmetric = rng.random()
    if asymmetric < 0.15:
        down = up * _log_uniform(rng, 1.0, 8.0)
    elif asymmetric < 0.25:
        down = np.clip(up * np.exp(rng.normal(0.0, 0.6, count)), low, high)
    return _three_digits(up), _three_digits(down)


def _link_costs(rng: np.random.Generator, rate_bps: float, rack: bool) -> tuple[float, float]:
    """Cost of a message and round trip: of a rack, of a wire where it is fast, else of Wi-Fi; varied a little."""
    wired = rate_bps > 400e6 or rng.random() < 0.2
    fixed_s, rtt_s = RACK_LINK if rack else WIRED_LINK if wired else WIFI_LINK
    if rng.random() < 0.5:
        fixed_s, rtt_s = fixed_s * _log_uniform(rng, 0.6, 1.6), rtt_s * _log_uniform(rng, 0.6, 1.6)
    return float(f"{fixed_s:.3g}"), float(f"{rtt_s:.3g}")


def _requester(rng: np.random.Generator, up: np.ndarray, down: np.ndarray) -> Fields:
    """A phone that nothing limits, a computer behind a link of its own, or a program on one of the boards."""
    kind = rng.random()
    if kind < 0.45:
        return {}
    if kind < 0.8:
        fastest = float(max(up.max(), down.max()))
        factor = 1.0 if rng.random() < 0.6 else _log_uniform(rng, 0.3, 3.0)
        rate_bps = float(_three_digits(np.array(fastest * factor)))
        profile = _COMPUTER if rng.random() < 0.8 else None
        return {"uplink_bps": rate_bps, "downlink_bps": rate_bps, "profile": profile}
    return {"device": int(rng.integers(len(up)))}


def _put_on_one_host(rng: np.random.Generator, fields: Fields) -> None:
    """Makes some boards workers of one computer: one profile, one link, and cores that they may have to share."""
    boards = fields["boards"]
    ends = len(boards) + 1
    # The compiled kernel keeps room for so many connections on one access link.
    most = max(k for k in (2, 3, 4) if k * (ends - k) <= 2 * ends)
    together = sorted(int(k) for k in rng.choice(len(boards), int(rng.integers(2, min(most, len(boards)) + 1)), False))
    first = boards[together[0]]
    for k in together:
        boards[k] = {**first, "host": "computer"}
    fields["hosts"] = {"computer": int(rng.integers(1, 9))}
    if not fields["requester"] and rng.random() < 0.5:
        fields["requester"] = {"host": "computer", "profile": _COMPUTER}


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _three_digits(values: np.ndarray) -> np.ndarray:
    digits = 10.0 ** (np.floor(np.log10(values)) - 2)
    rounded: np.ndarray = np.round(values / digits) * digits
    return rounded
