"""Boards for the agent's cases: which of them it is trained on, and profiles jittered around the shipped ones.

A jittered profile is the shipped one with other coefficients: a board of its kind under another clock, another engine
or another cooling. Nothing but numbers changes, so that it is as valid as the one that it is made of.
"""

from __future__ import annotations

import functools
import math

import msgspec
import numpy as np

from distredge.errors import ConfigError, located
from distredge.profiles.compute import ComputeProfile, load_shipped
from distredge.profiles.schema import Coefficients, Copy, Handling, Messages, ProfileFile, Rates, Segments

TRAINING_BOARDS = (
    "default:nano",
    "default:tx2",
    "default:xavier",
    "default:xavier-nx",
    "default:agx-orin",
    "default:pi3",
    "default:pi4",
    "default:gtx1080ti",
    "default:this-machine",
)
"""Boards that training may draw."""

HELD_OUT_BOARDS = (
    "default:orin-nano",
    "default:pi5",
    "default:rtx2080ti",
    "distredge-paper:nano",
    "distredge-paper:pi3",
    "distredge-paper:tx2",
    "distredge-paper:xavier",
)
"""Boards that no training case has."""

SERVERS = ("default:gtx1080ti", "default:rtx2080ti")
"""Boards that stand in a rack, behind links of a rack."""

TRAINING_JITTERS = range(1, 65)
"""Jitters that training may draw; few enough that profiles, and the tables made of them, are met again."""

HELD_OUT_JITTERS = range(1001, 1065)
"""Jitters of held-out cases."""

_OVERALL, _KIND, _FIXED = 2.0, 1.18, 1.6
_SEED = 20261129


@functools.lru_cache(maxsize=2048)
def board_profile(name: str, jitter: int = 0) -> ComputeProfile:
    """Returns a shipped profile, or one jittered around it; the same object for the same arguments.

    The whole board is 0.5 to 2 times as slow, each kind of operator (and memory, and weights) 0.85 to 1.18 times that,
    log-uniformly; launches and messages 0.6 to 1.6 times as dear. A third of the jittered boards have a cost of
    starting a part and of the bytes that enter and leave it, as measured profiles do.

    Args:
        name: of a shipped profile, as "default:nano".
        jitter: number of the jitter, >= 0; 0 is the shipped profile.

    Raises:
        ConfigError: if the jitter is negative.
        ProfileError: if there is no such profile.
    """
    if jitter < 0:
        raise ConfigError(located(f"board '{name}'", "jitter", jitter, "a whole number >= 0"))
    shipped = load_shipped(name)
    if not jitter:
        return shipped
    return ComputeProfile(_jittered(shipped.data, name, jitter), f"{name}~{jitter}")


def _jittered(data: ProfileFile, board: str, jitter: int) -> ProfileFile:
    assert data.coefficients is not None, "shipped profiles are modelled"
    # Every letter counts: boards of the same jitter must not be slow or fast together.
    rng = np.random.default_rng((_SEED, jitter, *board.encode()))
    slower = _factor(rng, _OVERALL)
    messages = None if data.messages is None else _messages(data.messages, _factor(rng, _FIXED))
    segments = data.segments
    if rng.random() < 1 / 3:
        # Orders of magnitude of the measured profiles: tens to hundreds of microseconds, a memory copy.
        segments = Segments(
            factor=float(rng.uniform(0.8, 1.1)),
            overhead_s=float(np.exp(rng.uniform(math.log(1e-5), math.log(3e-4)))),
            s_per_byte=float(rng.uniform(0.0, 4.0)) * data.copy.s_per_byte,
        )
    return msgspec.structs.replace(
        data,
        name=f"{data.name}~{jitter}",
        coefficients=_coefficients(data.coefficients, slower, rng),
        messages=messages,
        segments=segments,
    )


def _coefficients(found: Coefficients, slower: float, rng: np.random.Generator) -> Coefficients:
    rates = {name: getattr(found.rates, name) / (slower * _factor(rng, _KIND)) for name in Rates.__struct_fields__}
    return msgspec.structs.replace(
        found,
        launch_s=found.launch_s * _factor(rng, _FIXED),
        rates=Rates(**rates),
        memory_bytes_per_s=found.memory_bytes_per_s / (slower * _factor(rng, _KIND)),
        weight_bytes_per_s=found.weight_bytes_per_s / (slower * _factor(rng, _KIND)),
    )


def _messages(found: Messages, slower: float) -> Messages:
    def copy(cost: Copy) -> Copy:
        return Copy(fixed_s=slower * cost.fixed_s, s_per_byte=slower * cost.s_per_byte)

    def handling(cost: Handling) -> Handling:
        return Handling(own=copy(cost.own), io=copy(cost.io), io_encrypted=copy(cost.io_encrypted))

    return msgspec.structs.replace(
        found,
        send=handling(found.send),
        receive=handling(found.receive),
        compress_s_per_byte=slower * found.compress_s_per_byte,
        expand_s_per_byte=slower * found.expand_s_per_byte,
    )


def _factor(rng: np.random.Generator, most: float) -> float:
    """A factor from 1 / most to most, log-uniform."""
    return float(np.exp(rng.uniform(-math.log(most), math.log(most))))
