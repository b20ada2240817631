"""How rows are cut into parts and frames, what heads them, and what is refused of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProtocolError
from distredge.runtime.protocol import row_messages as r
from distredge.runtime.protocol.device_plan import DTYPES, PART_BYTES, TensorBox
from distredge.runtime.protocol.row_messages import HEAD_BYTES, read_head, read_rows, rows_form, write_head

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=5).map(tuple)
dtypes = st.sampled_from(sorted(DTYPES))
boxes = st.builds(lambda s, d: TensorBox("t", (0,) * len(s), s, d), shapes, dtypes)


def _message(found: list[TensorBox], form: r.RowsForm) -> tuple[list[np.ndarray], list[bytes]]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, box.shape).astype(box.dtype) for box in found]
    content = b"".join(array.tobytes() for array in arrays)
    first = form.frames[0] - HEAD_BYTES
    frames, start = [bytes(HEAD_BYTES) + content[:first]], first
    for size in form.frames[1:]:
        frames.append(content[start : start + size])
        start += size
    assert start == len(content)
    return arrays, frames


@given(
    found=st.lists(boxes, min_size=1, max_size=3),
    part_bytes=st.integers(16, 4000),
    together=st.sampled_from([0, 100, 1 << 20]),
)
def test_frames_hold_every_element_once(found: list[TensorBox], part_bytes: int, together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(r, "PART_BYTES", part_bytes)
        patch.setattr(r, "MAX_FRAMES", 1 << 20)
        patch.setattr(r, "TOGETHER_BYTES", together)
        form = rows_form(found)
    arrays, frames = _message(found, form)
    opened = read_rows(frames, found, form)
    back = [np.zeros_like(array) for array in arrays]
    found_once = [np.zeros(array.shape, int) for array in arrays]
    for part, rows in zip(form.parts, opened, strict=True):
        place = tuple(slice(a, a + n) for a, n in zip(part.start, part.shape, strict=True))
        back[part.box][place] = rows
        found_once[part.box][place] += 1
    assert all((count == 1).all() for count in found_once)
    for array, expected in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(array, expected)
    total = sum(box.size_bytes for box in found)
    assert (len(form.frames) == 1) == (total <= together)
    assert len(form.frames) == 1 or max(form.frames[1:]) <= part_bytes
    assert sum(form.frames) == HEAD_BYTES + total


@pytest.mark.parametrize("shape", [(1, 1, 3000, 2000), (1, 2, 3, 1000, 1000), (7_000_000,)])
def test_no_frame_is_larger_than_a_part_however_long_a_row(shape: tuple[int, ...]) -> None:
    form = rows_form([TensorBox("t", (0,) * len(shape), shape, "float32")])
    assert form.frames[0] == HEAD_BYTES
    assert max(form.frames) <= PART_BYTES
    assert sum(form.frames) == HEAD_BYTES + 4 * math.prod(shape)


def test_packed_rows_have_frames_of_their_own() -> None:
    form = rows_form([TensorBox(name, (0,), (8,), dtype) for name, dtype in
                      [("a", "float32"), ("b", "float32-packed"), ("c", "float32"), ("d", "float32")]])  # fmt: skip
    assert form.frames == (HEAD_BYTES, 32, 32, 64)


def test_a_scalar_is_one_part() -> None:
    box = TensorBox("t", (), (), "float32")
    form = rows_form([box])
    opened = read_rows([bytes(HEAD_BYTES) + np.float32(2.5).tobytes()], (box,), form)
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
        rows_form([box])


GOOD = (TensorBox("t", (0, 0, 3, 0), (1, 4, 2, 5), "float32"),)
LARGE = (TensorBox("t", (0, 0), (3, PART_BYTES // 4), "float32"),)


@pytest.mark.parametrize(
    "frames",
    [[], [bytes(HEAD_BYTES + 160)] * 2, [bytes(HEAD_BYTES + 159)], [bytes(HEAD_BYTES + 161)], [bytes(HEAD_BYTES)],
     [bytes(HEAD_BYTES), bytes(160)]],
)  # fmt: skip
def test_frames_of_another_number_or_size_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        read_rows(frames, GOOD, rows_form(GOOD))


@pytest.mark.parametrize("wrong", range(4))
@pytest.mark.parametrize("bytes_more", [-1, 1])
def test_each_frame_is_compared_with_the_plan(wrong: int, bytes_more: int) -> None:
    form = rows_form(LARGE)
    sizes = list(form.frames)
    sizes[wrong] += bytes_more
    with pytest.raises(ProtocolError, match=f"frame {wrong}: {sizes[wrong]} bytes where {form.frames[wrong]}"):
        read_rows([bytes(size) for size in sizes], LARGE, form)


@given(frames=st.lists(st.binary(max_size=240), max_size=3))
def test_any_frames_are_read_or_refused(frames: list[bytes]) -> None:
    form = rows_form(GOOD)
    try:
        opened = read_rows(frames, GOOD, form)
    except ProtocolError:
        return
    assert sum(rows.nbytes for rows in opened) == math.prod(GOOD[0].shape) * 4


heads = st.tuples(
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-1, 4095),
    st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


def _head(fields: tuple[int, ...]) -> bytearray:
    head = bytearray(HEAD_BYTES)
    write_head(memoryview(head), *fields)
    return head


@given(fields=heads)
def test_a_head_comes_back(fields: tuple[int, ...]) -> None:
    for head in (bytes(_head(fields)), memoryview(_head(fields))):
        assert r.is_rows(head)
        rows = read_head(head)
        assert (rows.plan, rows.frame, rows.stage, rows.source, rows.sent_ns) == fields


@given(fields=heads, place=st.integers(0, HEAD_BYTES - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_always_seen(fields: tuple[int, ...], place: int, bit: int) -> None:
    head = _head(fields)
    head[place] ^= 1 << bit
    if r.is_rows(head):
        with pytest.raises(ProtocolError):
            read_head(head)


def test_the_wire_form_changes_only_with_the_protocol() -> None:
    assert r.PROTOCOL == 4
    assert bytes(_head((7, 3, 1, -1, 12))).hex() == (
        "445245040e4b3eca0000ffff0000000100000000000000070000000000000003000000000000000c"
    )


def test_another_version_is_named() -> None:
    head = _head((7, 3, 1, -1, 12))
    head[3] = 9
    with pytest.raises(r.VersionMismatch, match="speaks protocol 9, this is protocol 4; install the same version"):
        read_head(head)
