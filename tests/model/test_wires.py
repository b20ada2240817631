"""The table of wires: widths, what is offered where, and that what is packed can be unpacked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from distredge.model.wires import (
    EXACT_WIRES,
    INPUT_DTYPES,
    PLANNABLE_INPUTS,
    PLANNABLE_WIRES,
    RUNNABLE_WIRES,
    VOLUME_WIRES,
    WIRE_BYTES,
    WIRE_NUMBERS,
    WIRES,
    dtype_of,
    offered_wires,
    packing,
    unpacking,
    wire_of_number,
)

SHAPES = npst.array_shapes(max_dims=4, max_side=5)
LARGEST = float(np.finfo(np.float16).max)


def test_widths_are_those_of_the_dtypes() -> None:
    assert {name: np.dtype(name).itemsize for name in WIRE_BYTES} == WIRE_BYTES
    assert "jpeg" not in WIRE_BYTES
    assert dtype_of("jpeg") == "uint8"
    assert all(wire.name == name and wire.element_bytes == WIRE_BYTES[wire.dtype] for name, wire in WIRES.items())
    assert all(WIRE_NUMBERS[name] == wire.element_bytes for name, wire in WIRES.items() if not wire.packed)


def test_numbers_rise_with_what_rows_need() -> None:
    by_number = [WIRES[name] for name in sorted(PLANNABLE_WIRES, key=WIRE_NUMBERS.__getitem__)]
    assert [wire.row_bytes(1000, 0.4) for wire in by_number] == [1325, 2000, 2525, 4000]


def test_a_packed_row_never_needs_more_than_a_plain_one() -> None:
    assert [WIRES["float32-packed"].row_bytes(17, share) for share in (0.0, 0.03, 0.5, 1.0)] == [68, 68, 37, 3]


def test_what_is_offered_where() -> None:
    assert VOLUME_WIRES == ("float32", "float32-packed", "float16", "float16-packed", "int8")
    assert INPUT_DTYPES == ("float32", "uint8", "jpeg")
    assert PLANNABLE_INPUTS == ("float32", "uint8")
    assert PLANNABLE_WIRES == RUNNABLE_WIRES == ("float32", "float32-packed", "float16", "float16-packed")
    assert EXACT_WIRES == ("float32", "float32-packed")
    assert offered_wires(allow_lossy=False, shared_links=True) == EXACT_WIRES
    assert offered_wires(allow_lossy=True, shared_links=True) == PLANNABLE_WIRES
    assert offered_wires(allow_lossy=True, shared_links=False) == ("float32", "float16")
    assert all(WIRES[name].runnable and WIRES[name].exact for name in INPUT_DTYPES)


def test_what_can_be_planned_can_be_run() -> None:
    assert all(wire.runnable for wire in WIRES.values() if wire.plannable)


def _there_and_back(values: np.ndarray, wire: str, held: str) -> np.ndarray:
    sent, back = np.empty(values.shape, dtype_of(wire)), np.empty(values.shape, held)
    packing(values.dtype.name, wire)(sent, values)
    unpacking(wire, held)(back, sent)
    return back


@pytest.mark.parametrize("wire", [name for name in RUNNABLE_WIRES if WIRES[name].exact])
@given(values=npst.arrays(np.float32, SHAPES))
def test_exact_wires_bring_back_what_was_sent(wire: str, values: np.ndarray) -> None:
    assert _there_and_back(values, wire, "float32").tobytes() == values.tobytes()


@given(values=npst.arrays(np.float32, SHAPES, elements=st.floats(-LARGEST, LARGEST, width=32)))
def test_float16_rounds_to_the_nearest(values: np.ndarray) -> None:
    back = _there_and_back(values, "float16", "float32")
    # Half of the last place: 11 bits of significand, 2**-24 between the smallest numbers.
    assert (np.abs(back - values) <= np.maximum(np.abs(values) * np.float32(2**-11), np.float32(2**-25))).all()
    assert _there_and_back(back, "float16", "float32").tobytes() == back.tobytes()


def test_values_beyond_float16_become_infinite_without_a_warning() -> None:
    assert _there_and_back(np.array([1e6, -1e6], np.float32), "float16", "float32").tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("held", ["uint8", "float32"])
def test_pixels_are_widened_where_they_are_placed(held: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    back = _there_and_back(pixels, "uint8", held)
    assert (back.dtype, back.tolist()) == (np.dtype(held), pixels.tolist())


@pytest.mark.parametrize("dtype", sorted(WIRE_BYTES))
def test_tensors_travel_as_they_are_whatever_wire_has_their_dtype(dtype: str) -> None:
    values = np.arange(-3, 3).astype(dtype)
    back = _there_and_back(values, dtype, dtype)
    assert (back.dtype, back.tobytes()) == (values.dtype, values.tobytes())


def test_the_exact_wire_stands_for_a_number_that_two_have() -> None:
    plain = {4: "float32", 2: "float16", 1: "int8"}
    assert wire_of_number(VOLUME_WIRES) == plain | {3: "float32-packed", 0: "float16-packed"}
    assert wire_of_number(("uint8", "int8")) == wire_of_number(("int8", "uint8")) == {1: "uint8"}
