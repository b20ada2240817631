"""Modelled boards: the coefficients of a board, fitted to published latencies of whole networks, and its profile.

A board has more coefficients than there are published figures of it. So each coefficient starts from a value that the
kind of runtime suggests (`data/boards.toml`) and moves away from it only as far as the figures ask: least squares over
the logarithms of latencies (weight 1 / 4 %) and of coefficients (weight 1 / their stated uncertainty).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from distredge.errors import MissingDependency, ProfileError
from distredge.model.signatures import Signature
from distredge.profiles.modelled import modelled_s, profile_rows
from distredge.profiles.modelling.published_tables import (
    BoardEntry,
    Boards,
    Published,
    PublishedSource,
    Reference,
    Start,
    Target,
    targets_of,
)
from distredge.profiles.schema import (
    Board,
    Coefficients,
    Copy,
    Handling,
    Messages,
    Origin,
    ProfileFile,
    Rates,
    Residual,
    Runtime,
    Source,
)

LATENCY_UNCERTAINTY = 0.04
RATES = ("winograd", "conv", "pointwise", "depthwise")
FITTED_TARGET = 0.15
LEFT_OUT_TARGET = 0.30
PAPER_SET = "distredge-paper"
MESSAGE_SOURCES = ("messages", "score, cores", "score of the reference")
"""What the sources of `messages_of` are called."""


def make_board(entry: BoardEntry, boards: Boards, published: Published) -> ProfileFile:
    """Returns the modelled profile of one board, with its residuals and the source of every figure."""
    targets = targets_of(entry.name, published)
    if entry.like is None:
        coefficients = fit(entry, boards.start[entry.start], targets)
    else:
        other = next(b for b in boards.board if b.name == entry.like)
        made = make_board(other, boards, published)
        assert made.coefficients is not None
        slower = scaled(made.coefficients, entry.faster)
        coefficients = rounded(msgspec.structs.replace(slower, units=entry.units))
    residuals = residuals_of(coefficients, targets, entry.faster if entry.like is None else 1.0)
    sources = [
        Source(
            what=f"latency of {', '.join(f.latency_ms)}",
            source=_cite(published.source[f.source]),
            date=published.source[f.source].date,
            mark=published.source[f.source].mark,
        )
        for f in published.figures
        if f.board == entry.name
    ]
    start = boards.start[entry.start]
    sources.append(
        Source(what="start of every coefficient, tiles", source=start.source, date="2026-11-22", mark="assumed")
    )
    return ProfileFile(
        name=entry.name,
        device=Board(
            name=entry.board,
            processor=entry.processor,
            power_mode=entry.power_mode,
            clock_hz=entry.clock_hz,
            threads=entry.threads,
            cores=entry.cores,
        ),
        runtime=Runtime(name=entry.runtime, provider=entry.provider, precision=entry.precision),
        origin=Origin(
            kind="modelled",
            date="2026-11-22",
            note=_note(entry, residuals),
            sources=(*sources, *entry.sources, *boards.reference.sources),
            residuals=residuals,
        ),
        copy=entry.copy,
        encrypt_s_per_byte=entry.encrypt_s_per_byte,
        messages=messages_of(entry, boards.reference),
        memory_bytes=entry.memory_bytes,
        power=entry.power,
        coefficients=coefficients,
    )


def messages_of(entry: BoardEntry, reference: Reference) -> Messages:
    """Returns what messages cost a board: the reference's figures by the ratio of the single-core scores."""
    slower = reference.score / entry.score

    def copy(found: Copy) -> Copy:
        return Copy(fixed_s=digits(slower * found.fixed_s), s_per_byte=digits(slower * found.s_per_byte))

    def handling(found: Handling) -> Handling:
        return Handling(own=copy(found.own), io=copy(found.io), io_encrypted=copy(found.io_encrypted))

    found = reference.messages
    return Messages(
        send=handling(found.send),
        receive=handling(found.receive),
        compress_s_per_byte=digits(slower * found.compress_s_per_byte),
        expand_s_per_byte=digits(slower * found.expand_s_per_byte),
        source=f"measured on a core of PHPBench {reference.score:g}, scaled to this board's {entry.score:g}",
    )


def fit(entry: BoardEntry, start: Start, targets: Sequence[Target]) -> Coefficients:
    """Returns the coefficients of a board that are nearest to its published figures and to where they started.

    Raises:
        MissingDependency: without SciPy.
        ProfileError: if there is no figure to fit to.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingDependency("scipy", "to fit boards", "plan") from None
    used = [t for t in targets if t.fitted]
    if not used:
        raise ProfileError(f"published.toml: found no figure of '{entry.name}' to fit to")
    pull = math.log(start.uncertainty)

    def distances(steps: NDArray[np.float64]) -> NDArray[np.float64]:
        coefficients = _coefficients(entry, start, steps)
        errors = [math.log(whole_s(coefficients, t.model) / t.latency_s) / LATENCY_UNCERTAINTY for t in used]
        # The first step is the base rate, which is free.
        return np.array([*errors, *(steps[1:] / pull)])

    found = least_squares(distances, np.zeros(4 + len(RATES)), diff_step=0.01, max_nfev=60)
    return rounded(scaled(_coefficients(entry, start, found.x), entry.faster))


def residuals_of(coefficients: Coefficients, targets: Sequence[Target], faster: float = 1.0) -> tuple[Residual, ...]:
    """Returns modelled against published, of every figure of a board.

    Args:
        coefficients: the board's.
        targets: its figures.
        faster: how much faster the board of the figures is.
    """
    shown = coefficients if faster == 1.0 else scaled(coefficients, 1 / faster)
    return tuple(
        Residual(
            model=t.model,
            published_s=float(f"{t.latency_s:.6g}"),
            modelled_s=float(f"{whole_s(shown, t.model):.4g}"),
            fitted=t.fitted,
        )
        for t in targets
    )


def whole_s(coefficients: Coefficients, model: str) -> float:
    """Returns the modelled seconds of a whole model."""
    return sum(float(modelled_s(coefficients, s, np.array([profile_rows(s)]))[0]) for s in operators_of(model))


@cache
def operators_of(model: str) -> tuple[Signature, ...]:
    """Returns the operators of a model: one of the zoo, "googlenet-caffe", or "fcn-resnet18-WxH".

    The last is a ResNet-18 without its classifier, then a 3x3 convolution to 128 and a 1x1 one to 21 channels.
    """
    from distredge.model.capture import load_model

    if model == "googlenet-caffe":
        return _caffe_googlenet([s for s in load_model("googlenet").signatures if s is not None])
    if not model.startswith("fcn-resnet18-"):
        return tuple(s for s in load_model(model).signatures if s is not None)
    width, height = (int(v) for v in model.rpartition("-")[2].split("x"))
    body = [s for s in load_model("resnet18", (1, 3, height, width)).signatures if s is not None]
    body = [s for s in body if s.op_type.partition("+")[0] in ("Conv", "MaxPool", "Add", "Relu")]
    rows, columns = body[-1].out_shape[1:]
    return (*body, _conv(512, 128, 3, rows, columns), _conv(128, 21, 1, rows, columns))


def scaled(coefficients: Coefficients, faster: float) -> Coefficients:
    """Coefficients of a board whose arithmetic and memory are so much slower than the given one's."""
    rates = {name: getattr(coefficients.rates, name) / faster for name in Rates.__struct_fields__}
    return msgspec.structs.replace(
        coefficients,
        rates=Rates(**rates),
        memory_bytes_per_s=coefficients.memory_bytes_per_s / faster,
        weight_bytes_per_s=coefficients.weight_bytes_per_s / faster,
    )


def digits(value: float) -> float:
    """A number with three digits."""
    return float(f"{value:.3g}")


def rounded(coefficients: Coefficients) -> Coefficients:
    """Coefficients with three digits: more than any of them has."""
    rates = {name: digits(getattr(coefficients.rates, name)) for name in Rates.__struct_fields__}
    return msgspec.structs.replace(
        coefficients,
        rates=Rates(**rates),
        launch_s=digits(coefficients.launch_s),
        memory_bytes_per_s=digits(coefficients.memory_bytes_per_s),
        weight_bytes_per_s=digits(coefficients.weight_bytes_per_s),
    )


# Input and output channels of the convolutions that have 5x5 kernels in the published GoogLeNet.
_FIVE = frozenset({(16, 32), (32, 96), (16, 48), (24, 64), (32, 64), (32, 128), (48, 128)})


def _caffe_googlenet(signatures: Sequence[Signature]) -> tuple[Signature, ...]:
    """The GoogLeNet of Caffe, which ncnn times: 5x5 kernels where the zoo's (torchvision's) has 3x3, and two LRN."""
    found = []
    for s in signatures:
        if s.kernel == (3, 3) and (s.in_shape[0], s.out_shape[0]) in _FIVE:
            s = dataclasses.replace(s, kernel=(5, 5), macs=s.macs * 25 // 9, weight_bytes=s.weight_bytes * 25 // 9)
        found.append(s)
    for channels in (64, 192):
        shape = (channels, 56, 56)
        # Squares, sums, a power and a product: about four passes over the tensor.
        passes = 4 * 4 * math.prod(shape)
        found.append(Signature("LRN", shape, shape, (), (), (), 1, 56, 0, 0, passes, "lrn"))
    return tuple(found)


def _conv(channels_in: int, channels: int, kernel: int, rows: int, columns: int) -> Signature:
    weights = channels_in * channels * kernel * kernel
    return Signature(
        op_type="Conv+Relu",
        in_shape=(channels_in, rows, columns),
        out_shape=(channels, rows, columns),
        kernel=(kernel, kernel),
        strides=(1, 1),
        dilations=(1, 1),
        group=1,
        rows=rows,
        macs=weights * rows * columns,
        weight_bytes=4 * weights,
        io_bytes=4 * (channels_in + channels) * rows * columns,
        detail="fcn",
    )


def _coefficients(entry: BoardEntry, start: Start, steps: NDArray[np.float64]) -> Coefficients:
    """Steps are logarithms: base rate, launch, memory, weights, then one for each kind of rate."""
    factors = np.exp(steps)
    rates = {
        name: entry.base_rate * float(factors[0]) * start.rates[name] * float(factor)
        for name, factor in zip(RATES, factors[4:], strict=True)
    }
    return Coefficients(
        launch_s=start.launch_s * float(factors[1]),
        rates=Rates(**rates, dense=rates["pointwise"] * start.rates["dense"]),
        half_depth=start.half_depth,
        memory_bytes_per_s=entry.memory_bytes_per_s * float(factors[2]),
        weight_bytes_per_s=entry.memory_bytes_per_s * float(factors[3]),
        bytes_per_element={"float32": 4, "float16": 2, "int8": 1}[entry.precision],  # type: ignore[arg-type]
        winograd_launches=start.winograd_launches,
        tile_rows=start.tile_rows,
        tile_pixels=start.tile_pixels,
        tile_channels=start.tile_channels,
        units=entry.units,
    )


def _cite(source: PublishedSource) -> str:
    return f"{source.address} ({source.note})" if source.note else source.address


def _note(entry: BoardEntry, residuals: Sequence[Residual]) -> str:
    fitted = max((abs(r.error) for r in residuals if r.fitted), default=None)
    left_out = max((abs(r.error) for r in residuals if not r.fitted), default=None)
    text = f"Modelled from published latencies, not measured. {entry.note}".strip()
    if fitted is not None:
        text += f" Fitted figures within {100 * fitted:.0f} %"
        text += " (more than 15 %: use with care)." if fitted > FITTED_TARGET else "."
    if left_out is None:
        text += " No figure was left out of the fit, so nothing shows how it generalises."
    else:
        text += f" Figures left out of the fit within {100 * left_out:.0f} %"
        text += " (more than 30 %: use with care)." if left_out > LEFT_OUT_TARGET else "."
    return text
