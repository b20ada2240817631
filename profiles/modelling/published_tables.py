"""The tables behind the modelled boards: published latencies, boards with where a fit starts, bars of Offload."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

from distredge.checked_reading import decode_toml
from distredge.errors import ProfileError
from distredge.profiles.schema import Copy, Count, Messages, Name, NotNegative, Positive, Power, Source

T = TypeVar("T")


class PublishedSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where figures come from."""

    address: Name
    date: Name
    mark: Literal["found", "memory, unverified", "derived"]
    note: Annotated[str, Meta(max_length=400)] = ""


class PublishedLatencies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latencies of one board from one source, by model; `fit` names those that the fit may use."""

    board: Name
    source: Name
    fit: tuple[Name, ...]
    latency_ms: dict[str, Positive]


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `data/published.toml`."""

    format: Literal["distredge.published/1"]
    source: dict[str, PublishedSource]
    figures: tuple[PublishedLatencies, ...]


class Start(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the coefficients of one kind of runtime start, and how far they may move.

    Attributes:
        rates: rate of each kind of operator, relative to that of Winograd convolutions.
        launch_s: cost of starting an operator.
        half_depth: see `schema.Coefficients`.
        uncertainty: of each coefficient but the base rate, as a factor (1.5: within 50 % or so).
        winograd_launches, tile_rows, tile_pixels, tile_channels: see `schema.Coefficients`.
        source: why.
    """

    rates: dict[str, Positive]
    launch_s: Positive
    half_depth: NotNegative
    uncertainty: Annotated[float, Meta(gt=1)]
    winograd_launches: int = 1
    tile_rows: int
    tile_pixels: int
    tile_channels: int
    source: Name


class Reference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processor whose messages were measured: what they cost it, and its `BoardEntry.score`."""

    score: Positive
    messages: Messages
    sources: tuple[Source, ...]


class BoardEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One board of `data/boards.toml`.

    Attributes:
        start: kind of runtime.
        units: tiles that run at once.
        memory_bytes_per_s: where the memory rates start.
        faster: factor on the fitted rates when the figures are of a faster sibling (above 1: that one is faster).
        cores: of the processor that the worker's own code runs on.
        score: PHPBench of one core of that processor, by which the costs of messages are scaled.
        like: board whose fitted coefficients are scaled instead of a fit; None fits.
    """

    name: Name
    board: Name
    processor: Name
    clock_hz: Positive | None = None
    power_mode: str = ""
    threads: int = 1
    cores: Count
    score: Positive
    runtime: Name
    provider: Name
    precision: Literal["float32", "float16", "int8"]
    start: Name
    units: int
    memory_bytes_per_s: Positive
    base_rate: Positive
    faster: Positive = 1.0
    like: str | None = None
    memory_bytes: int
    power: Power | None = None
    copy: Copy
    encrypt_s_per_byte: NotNegative
    note: str = ""
    sources: tuple[Source, ...]


class Boards(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `data/boards.toml`."""

    format: Literal["distredge.boards/1"]
    reference: Reference
    start: dict[str, Start]
    board: tuple[BoardEntry, ...]


class Bars(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file `data/offload-bars.toml`."""

    format: Literal["distredge.bars/1"]
    source: Name
    date: Name
    devices: dict[str, tuple[tuple[str, Positive], ...]]
    images_per_s: dict[str, dict[str, Positive]]


@dataclass(frozen=True)
class Target:
    """One published figure of a board."""

    model: str
    latency_s: float
    fitted: bool
    source: str


def load_published() -> Published:
    """Returns the shipped table of published latencies."""
    return load_table("published.toml", Published)


def load_boards() -> Boards:
    """Returns the shipped table of boards."""
    return load_table("boards.toml", Boards)


def load_bars() -> Bars:
    """Returns the shipped table of bars."""
    return load_table("offload-bars.toml", Bars)


def load_table(name: str, kind: type[T]) -> T:
    """Returns a shipped TOML table as an object of type `kind`."""
    content = (resources.files("distredge.profiles.data") / name).read_bytes()
    return decode_toml(content, kind, name, ProfileError)


def targets_of(board: str, published: Published) -> tuple[Target, ...]:
    """Returns the published figures of a board."""
    return tuple(
        Target(model, latency_ms * 1e-3, model in entry.fit, entry.source)
        for entry in published.figures
        if entry.board == board
        for model, latency_ms in entry.latency_ms.items()
    )
