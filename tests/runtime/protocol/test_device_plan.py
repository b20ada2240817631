"""How rows are cut into parts, and what is refused of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProtocolError
from distredge.runtime.protocol import device_plan as p
from distredge.runtime.protocol.device_plan import TensorBox, parts_of, read_parts

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=5).map(tuple)
dtypes = st.sampled_from(sorted(p.DTYPES))
boxes = st.builds(lambda s, d: TensorBox("t", (0,) * len(s), s, d), shapes, dtypes)


def _bytes_of(found: list[TensorBox], forms) -> tuple[list[np.ndarray], list[bytes]]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, box.shape).astype(box.dtype) for box in found]
    cut = [
        arrays[f.box][(slice(None),) * f.axis + (slice(f.start, f.stop),)].tobytes() for f in forms
    ]  # fmt: skip
    return arrays, cut


@given(found=st.lists(boxes, min_size=1, max_size=3), part_bytes=st.integers(1, 4000))
def test_parts_hold_every_element_once(found: list[TensorBox], part_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(p, "PART_BYTES", part_bytes)
        forms = parts_of(found)
    arrays, cut = _bytes_of(found, forms)
    opened = read_parts(tuple(found), cut, tuple(found), forms)
    for number, array in enumerate(arrays):
        mine = [(f, rows) for f, rows in zip(forms, opened, strict=True) if f.box == number]
        together = np.concatenate([rows for _, rows in mine], axis=mine[0][0].axis)
        np.testing.assert_array_equal(together, array)
    for form in forms:
        alone = form.stop - form.start == 1
        assert alone or form.size_bytes <= part_bytes
    assert sum(f.size_bytes for f in forms) == sum(box.size_bytes for box in found)


def test_a_scalar_is_one_part() -> None:
    box = TensorBox("t", (), (), "float32")
    forms = parts_of([box])
    opened = read_parts((box,), [np.float32(2.5).tobytes()], (box,), forms)
    assert [float(rows) for rows in opened] == [2.5]


@pytest.mark.parametrize(
    "box",
    [
        TensorBox("t", (0,), (4,), "object"),
        TensorBox("t", (0,), (4,), "O"),
        TensorBox("t", (0,), (4,), "float33"),
        TensorBox("t", (0, 0), (4,), "float32"),
        TensorBox("t", (0,), (0,), "float32"),
        TensorBox("t", (0,), (2**31 - 1,), "float64"),
        TensorBox("t", (0, 0), (1, 2**31 - 1), "float64"),
        TensorBox("t", (0, 0), (2**30, 2**30), "float64"),
    ],
)
def test_impossible_boxes_are_refused(box: TensorBox) -> None:
    with pytest.raises(ProtocolError):
        parts_of([box])


GOOD = (TensorBox("t", (0, 0, 3, 0), (1, 4, 2, 5), "float32"),)


@pytest.mark.parametrize(
    "found",
    [
        (),
        GOOD + GOOD,
        (TensorBox("u", (0, 0, 3, 0), (1, 4, 2, 5), "float32"),),
        (TensorBox("t", (0, 0, 2, 0), (1, 4, 2, 5), "float32"),),
        (TensorBox("t", (0, 0, 3, 0), (1, 4, 5, 2), "float32"),),
        (TensorBox("t", (0, 0, 3, 0), (1, 4, 2, 5), "float64"),),
        (TensorBox("t", (0, 0, 3, 0), (1, 4, 2, 5), "int32"),),
    ],
)
def test_rows_that_the_plan_does_not_announce_are_refused(found: tuple[TensorBox, ...]) -> None:
    with pytest.raises(ProtocolError, match="where the plan has"):
        read_parts(found, [bytes(160)], GOOD, parts_of(GOOD))


@pytest.mark.parametrize("parts", [[], [bytes(160)] * 2, [bytes(159)], [bytes(161)], [b""], [bytes(80), bytes(80)]])
def test_parts_of_another_number_or_size_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        read_parts(GOOD, parts, GOOD, parts_of(GOOD))


@given(parts=st.lists(st.binary(max_size=200), max_size=4))
def test_any_parts_are_read_or_refused(parts: list[bytes]) -> None:
    forms = parts_of(GOOD)
    try:
        opened = read_parts(GOOD, parts, GOOD, forms)
    except ProtocolError:
        return
    assert sum(rows.nbytes for rows in opened) == math.prod(GOOD[0].shape) * 4
