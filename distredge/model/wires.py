"""Wires: the forms in which elements cross the network, and all that may differ between them.

Whoever plans, prices, checks or runs a wire reads it here; nobody else lists them. To add a wire, add an entry.
Commands offer wires before they load anything: NumPy is imported where elements are copied, not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Convert: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], None]
    """Fills its first argument with the elements of the second, of the same shape."""


def place(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copies elements into an array whose dtype holds each of them exactly.

    Args:
        target: shape (d0, d1, ...); filled.
        source: same shape; of the target's dtype or of one that is contained in it.
    """
    target[...] = source


def narrow(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copies elements into an array of another dtype, rounded; beyond its range they become infinite.

    Args:
        target: shape (d0, d1, ...), floating point; filled.
        source: same shape, floating point.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        np.copyto(target, source, casting="unsafe")


@dataclass(frozen=True)
class Wire:
    """One form in which elements cross the network.

    Attributes:
        name: so it stands in strategy files: NumPy's name of the dtype, and whether it is packed.
        element_bytes: bytes of one element; of a packed wire the most that one needs.
        number: what stands for it in arrays of strategies: of a plain wire the bytes of one element, of a packed one a
            number below that of the same dtype. It rises with the bytes that rows need.
        exact: whether what arrives is what was sent; a strategy with another wire is lossy.
        between_volumes: whether what a volume makes may travel in it.
        as_input: whether the requester may send the model's input in it.
        pixels: whether it carries an image's pixels, which devices normalise, instead of float32.
        plannable: whether a problem may offer it to planners.
        packed: whether zeros are left out (`runtime.protocol.packed_rows`), so that what travels depends on the values.
        file: whether a picture may travel as the file that it is in, for those who get it to decode.
        pack: fills an array of this dtype from what a device holds, float32 (pixels: uint8); None: nobody can yet.
        unpack: fills what a device holds, float32 (pixels: uint8), from an array of this dtype; None: nobody can yet.
    """

    name: str
    element_bytes: int
    number: int
    exact: bool = False
    between_volumes: bool = False
    as_input: bool = False
    pixels: bool = False
    plannable: bool = False
    packed: bool = False
    file: bool = False
    pack: Convert | None = None
    unpack: Convert | None = None

    @property
    def runnable(self) -> bool:
        """Whether a deployment may use it."""
        return self.pack is not None and self.unpack is not None

    @property
    def dtype(self) -> str:
        """NumPy's name of the dtype of its elements."""
        if self.file:
            return _PIXELS
        return self.name.removesuffix(_PACKED) if self.packed else self.name

    def travels_as(self, zero_share: float) -> Wire:
        """Returns this wire, or the plain one of its dtype for a tensor with too few zeros to leave out.

        Args:
            zero_share: share of the tensor's elements that are zero; 0 where it is not known.
        """
        return self if not self.packed or zero_share * self.element_bytes > MASK_BYTES else WIRES[self.dtype]

    def row_bytes(self, elements: int, zero_share: float = 0.0) -> int:
        """Bytes of one row of a tensor.

        Args:
            elements: of the row.
            zero_share: share of them that are zero, which a packed wire leaves out; 0 where it is not known.
        """
        plain = elements * self.element_bytes
        if not self.packed:
            return plain
        return min(plain, math.ceil(elements * ((1.0 - zero_share) * self.element_bytes + MASK_BYTES)))


_PACKED = "-packed"
_PIXELS = "uint8"

MASK_BYTES = 1 / 8
"""Bytes per element by which a packed row says which elements are zero."""


_TABLE = (
    Wire("float32", 4, 4, exact=True, between_volumes=True, as_input=True, plannable=True, pack=place, unpack=place),
    Wire(
        "float32-packed", 4, 3, exact=True, between_volumes=True, plannable=True, packed=True, pack=place, unpack=place
    ),
    Wire("float16", 2, 2, between_volumes=True, plannable=True, pack=narrow, unpack=place),
    # Below float16's number, but not 1: that of what has one byte.
    Wire("float16-packed", 2, 0, between_volumes=True, plannable=True, packed=True, pack=narrow, unpack=place),
    # A scale would have to travel with the rows; until it does, strategies with it can be read and simulated alone.
    Wire("int8", 1, 1, between_volumes=True),
    Wire(_PIXELS, 1, 1, exact=True, as_input=True, pixels=True, plannable=True, pack=place, unpack=place),
    # Rows of pixels where the file would be larger, or the picture comes in none.
    Wire("jpeg", 1, 1, exact=True, as_input=True, pixels=True, file=True, pack=place, unpack=place),
)
WIRES: Mapping[str, Wire] = MappingProxyType({wire.name: wire for wire in _TABLE})
"""Every wire by name."""

VOLUME_WIRES = tuple(name for name, wire in WIRES.items() if wire.between_volumes)
"""What a strategy file may name between volumes."""

INPUT_DTYPES = tuple(name for name, wire in WIRES.items() if wire.as_input)
"""What a strategy file may name for the input."""

MAX_FILE_BYTES = 1024 * 1024
"""Of a picture's file that travels: one frame of a message."""

PLANNABLE_INPUTS = tuple(name for name in INPUT_DTYPES if WIRES[name].plannable)
"""What planners may choose for the input."""

FILE_WIRES = tuple(name for name, wire in WIRES.items() if wire.file)
"""What lets a picture travel as the file that it is in."""

PLANNABLE_WIRES = tuple(name for name in VOLUME_WIRES if WIRES[name].plannable)
"""What planners may choose between volumes where the output may differ slightly."""

EXACT_WIRES = tuple(name for name in PLANNABLE_WIRES if WIRES[name].exact)
"""What planners may choose between volumes where it may not."""

PACKED_WIRES = tuple(name for name, wire in WIRES.items() if wire.packed)
"""Wires whose packing costs processor time: a problem has them where that is priced, under `shared` links."""

RUNNABLE_WIRES = tuple(name for name in VOLUME_WIRES if WIRES[name].runnable)
"""What a deployment runs between volumes."""

WIRE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        **{name: wire.element_bytes for name, wire in WIRES.items() if not wire.packed and not wire.file},
        "float64": 8, "int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    }
)  # fmt: skip
"""Bytes of one element by dtype. Tensors other than float32 travel as they are, whatever a strategy says."""

WIRE_NUMBERS: Mapping[str, int] = MappingProxyType({name: wire.number for name, wire in WIRES.items()})
"""What stands for each wire in arrays of strategies."""

FLOAT32_BYTES = WIRE_BYTES["float32"]
"""Bytes of one element that nothing narrowed."""


def offered_wires(allow_lossy: bool, shared_links: bool) -> tuple[str, ...]:
    """Returns all that a problem may have between volumes.

    Args:
        allow_lossy: whether outputs may differ from the whole model's beyond rounding.
        shared_links: whether links are shared: under `independent` links nobody prices what packing costs.
    """
    names = PLANNABLE_WIRES if allow_lossy else EXACT_WIRES
    return tuple(name for name in names if shared_links or not WIRES[name].packed)


def dtype_of(wire: str) -> str:
    """Returns the dtype of the elements of a wire, or of a tensor that travels as it is."""
    return WIRES[wire].dtype if wire in WIRES else wire


def is_packed(wire: str) -> bool:
    """Whether a wire leaves zeros out."""
    return wire in WIRES and WIRES[wire].packed


def file_fits(size_bytes: int, rows_bytes: int) -> bool:
    """Whether a picture's file may travel instead of rows of so many bytes."""
    return size_bytes < rows_bytes and size_bytes <= MAX_FILE_BYTES


def is_file(wire: str) -> bool:
    """Whether a picture may travel in its file."""
    return wire in WIRES and WIRES[wire].file


def packing(held: str, wire: str) -> Convert:
    """What fills an array to be sent from what a device holds.

    Args:
        held: dtype of the array that the device holds.
        wire: dtype on the wire.
    """
    return _conversion(held, wire, WIRES[wire].pack if wire in WIRES else None)


def unpacking(wire: str, held: str) -> Convert:
    """What fills an array that a device holds from what was received.

    Args:
        wire: dtype on the wire.
        held: dtype of the array that the device holds.
    """
    return _conversion(held, wire, WIRES[wire].unpack if wire in WIRES else None)


def _conversion(held: str, wire: str, by_table: Convert | None) -> Convert:
    # A tensor of another dtype than float32 is no wire's business even where a wire has the same name.
    return place if held == wire else by_table or narrow


def wire_of_number(names: Iterable[str]) -> dict[int, str]:
    """Number -> wire among some; of two that have it, the exact one."""
    return {WIRE_NUMBERS[name]: name for name in sorted(names, key=lambda name: WIRES[name].exact)}
