"""The profile set `distredge-paper`: the boards of DistrEdge calibrated to its own Offload bars, and to nothing else.

Offload puts the whole model on one provider, so that a bar is the input's transfer plus one board's compute. Each
board of the default set is sped up or slowed down as a whole until the bars of VGG-16 in which it is the provider fit
best (least absolute logarithm, which one odd bar does not move). The requester's link never limits; the input is
float32, which is what the VGG-16 bars agree with. DistrEdge's own bars are not used.

The other models' bars contradict that: at 50 Mbit/s a float32 image alone takes longer than the whole bar of
ResNet-50. They are shown with a uint8 input, and not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from distredge.profiles.modelling.boards import MESSAGE_SOURCES, PAPER_SET, rounded, scaled, whole_s
from distredge.profiles.modelling.published_tables import Bars, load_bars
from distredge.profiles.schema import Origin, ProfileFile, Residual, Source

CALIBRATED = "vgg16"
MESSAGE_S = 0.0006
"""Cost of one message at a provider, as in the shipped cases."""

_OUTPUT_BYTES = 4000
_STEPS = np.exp(np.linspace(math.log(0.25), math.log(4.0), 561))


@dataclass(frozen=True)
class Bar:
    """One bar: who computes, the input's transfer, and what is published."""

    case: str
    model: str
    board: str
    transfer_s: float
    published_s: float


def bars_of(table: Bars, profiles: Mapping[str, ProfileFile]) -> tuple[Bar, ...]:
    """Returns every bar with its provider: the fastest board of the case, on the best of its links."""
    order = sorted(profiles, key=lambda name: _compute_s(profiles[name], CALIBRATED))
    found = []
    for model, values in table.images_per_s.items():
        input_bytes = _input_elements(model) * (4 if model == CALIBRATED else 1)
        for case, images_per_s in values.items():
            board = next(name for name in order if any(name == b for b, _ in table.devices[case]))
            rate_bps = 1e6 * max(rate for b, rate in table.devices[case] if b == board)
            copy = profiles[board].copy
            transfer_s = 8 * (input_bytes + _OUTPUT_BYTES) / rate_bps + copy.s_per_byte * input_bytes
            found.append(Bar(case, model, board, transfer_s + 2 * (MESSAGE_S + copy.fixed_s), 1 / images_per_s))
    return tuple(found)


def _input_elements(model: str) -> int:
    from distredge.model.zoo import find

    entry = find(model)
    assert entry is not None
    return math.prod(entry[0].input_shape)


def _compute_s(data: ProfileFile, model: str) -> float:
    assert data.coefficients is not None
    return whole_s(data.coefficients, model)


def make_paper_set(default: Mapping[str, ProfileFile]) -> tuple[ProfileFile, ...]:
    """Returns the calibrated boards.

    Args:
        default: the default set by name; "pi3", "nano", "tx2" and "xavier" are used.
    """
    table = load_bars()
    boards = {name: default[name] for name in ("pi3", "nano", "tx2", "xavier")}
    bars = bars_of(table, boards)
    return tuple(_calibrated(data, [bar for bar in bars if bar.board == name], table) for name, data in boards.items())


def _calibrated(data: ProfileFile, bars: Sequence[Bar], table: Bars) -> ProfileFile:
    used = [bar for bar in bars if bar.model == CALIBRATED]
    # The papers count messages as `copy` and encryption do, and no processor's time beside it.
    data = msgspec.structs.replace(
        data,
        device=msgspec.structs.replace(data.device, cores=None),
        messages=None,
        origin=msgspec.structs.replace(
            data.origin, sources=tuple(s for s in data.origin.sources if s.what not in MESSAGE_SOURCES)
        ),
    )
    assert data.coefficients is not None
    if not used:
        note = f"{data.origin.note} No bar of Offload is of this board: as in the default set."
        origin = msgspec.structs.replace(data.origin, note=note)
        return msgspec.structs.replace(data, origin=origin)
    whole = whole_s(data.coefficients, CALIBRATED)

    def distance(slower: float) -> float:
        return sum(abs(math.log((bar.transfer_s + slower * whole) / bar.published_s)) for bar in used)

    slower = float(min(_STEPS, key=distance))
    launch_s = data.coefficients.launch_s * slower
    coefficients = rounded(msgspec.structs.replace(scaled(data.coefficients, slower), launch_s=launch_s))
    residuals = tuple(
        Residual(
            model=f"{bar.model} {bar.case}",
            published_s=float(f"{bar.published_s:.5g}"),
            modelled_s=float(f"{bar.transfer_s + whole_s(coefficients, bar.model):.4g}"),
            fitted=bar.model == CALIBRATED,
        )
        for bar in bars
    )
    source = Source(
        what="VGG-16 bars of Offload", source=f"{table.source}, read off the figures", date=table.date, mark="derived"
    )
    note = (
        f"Modelled, not measured: the board of the default set made {slower:.2f} times as slow, so that DistrEdge's "
        "bars of Offload for VGG-16 fit best. Residuals are of whole bars, transfer included."
    )
    origin = Origin(
        kind="modelled", date=data.origin.date, note=note, sources=(source, *data.origin.sources), residuals=residuals
    )
    return msgspec.structs.replace(data, origin=origin, coefficients=coefficients)


def print_bars(made: Sequence[ProfileFile], write: Callable[[str], None] = print) -> None:
    """Prints the residual of every bar."""
    write(f"{PAPER_SET}: bars of Offload")
    write(f"{'board':10} {'model':14} {'case':10} {'published':>12} {'modelled':>12} {'residual':>9}")
    for data in made:
        for r in data.origin.residuals:
            model, _, case = r.model.rpartition(" ")
            if model and case in load_bars().devices:
                write(
                    f"{data.name:10} {model:14} {case:10} {1 / r.published_s:8.1f} IPS {1 / r.modelled_s:8.1f} IPS "
                    f"{100 * r.error:+8.1f} %{'' if r.fitted else '  not used'}"
                )
    write("")
