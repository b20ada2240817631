"""The file `distredge.profile/1`: what a board's compute profile holds, as classes that check themselves.

A profile is *measured* (`operators` holds times by operator signature and rows) or *modelled* (`coefficients` holds
the numbers of `profiles.modelled`, each with its source). SI units; times are wall-clock seconds of one device.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

FORMAT = "distredge.profile/1"

Seconds = Annotated[float, Meta(ge=0, lt=1e6)]
Ratio = Annotated[float, Meta(ge=0, lt=1e6)]
Positive = Annotated[float, Meta(gt=0, lt=1e18)]
NotNegative = Annotated[float, Meta(ge=0, lt=1e18)]
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=600)]


class Board(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured: the board and the state it was in.

    Attributes:
        name: maker and type.
        processor: CPU or GPU that computes.
        power_mode: the board's power mode, "" when it has none or it is unknown.
        clock_hz: clock of that processor; None unknown.
        governor: Linux frequency governor, "" unknown.
        threads: threads of the engine.
        cores: of the processor that programs run on, which may be more than `threads`; None unknown.
        temperature_c: highest temperature while measuring.
        load: mean share of the processors that other programs used while measuring, 0 to 1.
        pace: how much slower than at its best a fixed kernel ran, the 95th percentile while measuring; 1 is none.
        throttled: whether the board reported throttling while measuring; None when it cannot say.
    """

    name: Name
    processor: str = ""
    power_mode: str = ""
    clock_hz: Positive | None = None
    governor: str = ""
    threads: Count = 1
    cores: Count | None = None
    temperature_c: float | None = None
    load: Annotated[float, Meta(ge=0, le=1)] | None = None
    pace: Ratio | None = None
    throttled: bool | None = None


class Runtime(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which software computed: engine, its version, its provider, the precision it computes in."""

    name: Name
    version: str = ""
    provider: str = ""
    precision: Literal["float32", "float16", "int8"] = "float32"


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a number comes from.

    Attributes:
        what: the field or figure.
        source: address, paper or reasoning.
        date: day on which it was published or read, ISO.
        mark: "found" (read at that address), "memory, unverified", "derived" (arithmetic on other numbers),
            "fitted" or "assumed".
    """

    what: Name
    source: Name
    date: Annotated[str, Meta(pattern=r"^\d{4}(-\d{2}){0,2}$")]
    mark: Literal["found", "memory, unverified", "derived", "fitted", "assumed"]


class Residual(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a modelled profile is from one published figure: modelled / published - 1."""

    model: Name
    published_s: Positive
    modelled_s: Positive
    fitted: bool

    @property
    def error(self) -> float:
        """Signed relative error."""
        return self.modelled_s / self.published_s - 1.0


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the profile came to be."""

    kind: Literal["measured", "modelled"]
    date: Annotated[str, Meta(pattern=r"^\d{4}(-\d{2}){0,2}$")]
    note: str = ""
    sources: tuple[Source, ...] = ()
    residuals: tuple[Residual, ...] = ()


class Segments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a part takes: overhead_s + factor * (sum of its operators) + s_per_byte * (bytes that enter and leave it).

    Attributes:
        factor: fused segment over the sum of its operators.
        overhead_s: starting one.
        s_per_byte: changing its inputs and outputs to the layout in which the engine computes, and back.
    """

    factor: Positive = 1.0
    overhead_s: Seconds = 0.0
    s_per_byte: Seconds = 0.0


class Copy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Packing rows on sending, placing them on receiving, each end: fixed_s + s_per_byte * bytes."""

    fixed_s: Seconds = 0.0
    s_per_byte: Seconds = 0.0


class Handling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processor time of one message at one end, each fixed_s + s_per_byte * bytes.

    Attributes:
        own: of the worker's own thread, which also computes: packing and sending, or receiving and placing.
        io: of the transport's thread, plaintext; at the receiving end with the time that its threads take to wake up.
        io_encrypted: the same where messages are encrypted.
    """

    own: Copy = msgspec.field(default_factory=Copy)
    io: Copy = msgspec.field(default_factory=Copy)
    io_encrypted: Copy = msgspec.field(default_factory=Copy)


class Messages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What messages cost the board's processor.

    Attributes:
        send: at the sending end.
        receive: at the receiving end.
        compress_s_per_byte: packing float32 losslessly, for each byte before it.
        expand_s_per_byte: the way back, for each byte after it.
        source: where the figures are from; empty for measured ones.
    """

    send: Handling = msgspec.field(default_factory=Handling)
    receive: Handling = msgspec.field(default_factory=Handling)
    compress_s_per_byte: Seconds = 0.0
    expand_s_per_byte: Seconds = 0.0
    source: str = ""


class Pictures(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Processor time of making a model's input of a picture's JPEG file, on one core.

    Attributes:
        s_per_pixel: decoding and resizing, for each pixel of the picture.
        s_per_input_pixel: resizing and laying out, for each pixel of the input.
        source: where the figures are from; empty for measured ones.
    """

    s_per_pixel: Seconds = 0.0
    s_per_input_pixel: Seconds = 0.0
    source: str = ""


class Power(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Watts of the whole board, idle and computing; `where`: "wall", "module", "rail" or "package"."""

    idle_w: NotNegative
    busy_w: NotNegative
    where: str = ""


class Measured(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operator's times, one entry for each measured number of output rows, ascending.

    Attributes:
        rows: output rows (input rows where the operator reduces all rows).
        median_s: median of the repeats that count: the faster half of each burst.
        p95_s: 95th percentile.
        spread: half the distance between the quartiles, over the median.
        repeats: runs that the median is of.
        complete: False while the operator is being measured.
    """

    rows: tuple[Count, ...]
    median_s: tuple[Seconds, ...]
    p95_s: tuple[Seconds, ...]
    spread: tuple[Ratio, ...]
    repeats: tuple[Count, ...]
    complete: bool = True

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("no measured row count")
        for name in ("median_s", "p95_s", "spread", "repeats"):
            if len(getattr(self, name)) != len(self.rows):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, rows has {len(self.rows)}")
        if any(b <= a for a, b in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError("rows must ascend")


class Rates(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multiply-adds per second by kind of operator.

    Attributes:
        winograd: 3x3 convolutions of stride 1, dense; counts the multiply-adds of the definition, so that it may lie
            above the processor's nominal peak.
        conv: other dense convolutions.
        pointwise: 1x1 convolutions.
        depthwise: one filter per channel.
        dense: matrix products.
    """

    winograd: Positive
    conv: Positive
    pointwise: Positive
    depthwise: Positive
    dense: Positive


class Coefficients(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers of a modelled board; `profiles.modelled` says what they mean.

    Attributes:
        launch_s: cost of starting one operator.
        winograd_launches: how often that is paid for a Winograd convolution (3 where the transforms are kernels of
            their own).
        rates: multiply-adds per second by kind of operator.
        half_depth: products per output element (kernel x input channels) at which half the rate is reached.
        memory_bytes_per_s: activations read and written.
        weight_bytes_per_s: weights read, once per operator, whatever the rows.
        bytes_per_element: in the engine's precision.
        tile_rows: rows (and columns) of a Winograd tile, 1 for none.
        tile_pixels: output pixels of one tile of the matrix product.
        tile_channels: output channels of one tile.
        units: tiles that run at once (threads, or multiprocessors x blocks on each).
    """

    launch_s: Seconds
    rates: Rates
    half_depth: NotNegative
    memory_bytes_per_s: Positive
    weight_bytes_per_s: Positive
    bytes_per_element: Literal[1, 2, 4] = 4
    winograd_launches: Count = 1
    tile_rows: Count = 1
    tile_pixels: Count = 1
    tile_channels: Count = 1
    units: Count = 1


class ProfileFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A compute profile as it stands in its file; `models` names those whose operators were measured."""

    format: Literal["distredge.profile/1"] = "distredge.profile/1"
    name: Name
    device: Board
    runtime: Runtime
    origin: Origin
    segments: Segments = msgspec.field(default_factory=Segments)
    copy: Copy = msgspec.field(default_factory=Copy)
    encrypt_s_per_byte: Seconds = 0.0
    messages: Messages | None = None
    pictures: Pictures | None = None
    models: tuple[Name, ...] = ()
    memory_bytes: Count | None = None
    power: Power | None = None
    operators: dict[str, Measured] | None = None
    coefficients: Coefficients | None = None

    def __post_init__(self) -> None:
        if self.origin.kind == "measured" and (self.operators is None or self.coefficients is not None):
            raise ValueError("a measured profile has 'operators' and no 'coefficients'")
        if self.origin.kind == "modelled" and (self.coefficients is None or self.operators is not None):
            raise ValueError("a modelled profile has 'coefficients' and no 'operators'")
