"""Packed rows come back bit by bit, have one form, and never make more than the plan says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from distredge.errors import ProtocolError
from distredge.runtime.protocol.packed_rows import mask_bytes, pack, read_packed

# +0.0, -0.0, denormals, infinities, quiet and signalling NaN with payloads, an ordinary number.
BITS = (0, 0, 0, 0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7FA12345, 0xFFBFFFFF, 0x3FC00000)


def _packed(rows: np.ndarray) -> np.ndarray | None:
    room = np.full(rows.nbytes, 0xAB, np.uint8)
    size = pack(rows.reshape(-1), room)
    assert size is None or size < rows.nbytes
    return None if size is None else room[:size]


def _back(part: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return read_packed(part.data, rows.shape, rows.dtype, "t").unpacked()


@given(bits=npst.arrays(np.uint32, npst.array_shapes(max_dims=4, max_side=7), elements=st.sampled_from(BITS)))
def test_every_bit_of_float32_comes_back(bits: np.ndarray) -> None:
    rows = bits.view(np.float32)
    part = _packed(rows)
    left = int(np.count_nonzero(bits))
    if part is None:
        assert 4 * left + mask_bytes(bits.size) >= rows.nbytes
        return
    assert part.size == 4 * left + mask_bytes(bits.size)
    back = _back(part, rows)
    assert (back.shape, back.dtype, back.tobytes()) == (rows.shape, rows.dtype, rows.tobytes())


@given(bits=npst.arrays(np.uint16, st.integers(1, 70), elements=st.sampled_from((0, 0, 0x8000, 1, 0x7E01, 0x3C00))))
def test_every_bit_of_float16_comes_back(bits: np.ndarray) -> None:
    part = _packed(bits.view(np.float16))
    if part is not None:
        assert _back(part, bits.view(np.float16)).tobytes() == bits.tobytes()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 32, 33, 1000, 262_144])
def test_all_zeros_are_a_mask_alone(count: int) -> None:
    rows = np.zeros(count, np.float32)
    part = _packed(rows)
    assert part is not None
    assert part.size == mask_bytes(count)
    assert _back(part, rows).tobytes() == rows.tobytes()


def test_rows_that_do_not_shrink_are_not_packed() -> None:
    assert _packed(np.ones(100, np.float32)) is None
    assert _packed(np.full(64, -0.0, np.float32)) is None
    few = np.ones(64, np.float32)
    few[:2] = 0
    assert _packed(few) is None, "the mask has as many bytes as two elements"
    few[2] = 0
    part = _packed(few)
    assert part is not None
    assert part.size == few.nbytes - 4


def test_what_is_no_packed_form_is_refused() -> None:
    rows = np.zeros(21, np.float32)
    rows[[3, 20]] = 1.5, np.nan
    part = _packed(rows)
    assert part is not None
    assert part.size == 8 + 3

    def refused(changed: np.ndarray, shape: tuple[int, ...] = (21,)) -> str:
        with pytest.raises(ProtocolError) as error:
            read_packed(changed.data, shape, rows.dtype, "t")
        return str(error.value)

    assert "can be no packed form of 21 float32 of 't'" in refused(part[:-1])
    assert "can be no packed form" in refused(part[:2])
    assert "can be no packed form" in refused(np.zeros(84, np.uint8))
    assert "2 elements where 3 bits are set" in refused(np.concatenate([part[:-1], part[-1:] | 1]))
    assert "2 elements where 1 bits are set" in refused(np.concatenate([part[:8], part[8:] & 0xEF]))
    beyond = part.copy()
    beyond[-1] = 0x80  # a bit behind the last element instead of the last element's
    assert "2 elements where 2 bits are set" in refused(beyond)
    assert "can be no packed form" in refused(np.zeros(8 + 3, np.uint8), (2,))
