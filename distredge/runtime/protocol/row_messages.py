"""The form of a message of rows. What it holds is known when a plan is prepared, so it says little of itself.

The head is PREFIX (see `messages`), the checksum of what follows as in every message, and, big endian::

    byte  8        0, which no other message has there
    byte  9        0
    bytes 10..11   source: index of the device that sends, signed; -1 is the requester
    bytes 12..15   stage that needs the rows, signed
    bytes 16..23   number of the plan
    bytes 24..31   number of the frame
    bytes 32..39   when the sender handed it over, nanoseconds of its monotonic clock, signed

The rows follow, the boxes of the plan's message one after the other, each in C order without gaps: in the same frame
where all of them are few, else in frames of at most PART_BYTES of their own, so that encrypting, sending and decrypting
overlap. Where they are cut follows from the boxes (`rows_form`), at both ends alike: a message has one valid form.

Where the plan lets a picture travel in its file (dtype "jpeg", of which a message has one box alone), the requester may
send the file instead of the rows: one frame with the head alone, one with the file, which begins as such files do, is
smaller than the rows that it stands for and no larger than `model.wires.MAX_FILE_BYTES`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ProtocolError
from distredge.media.jpeg import BEGINS
from distredge.model.wires import dtype_of, file_fits, is_file, is_packed
from distredge.runtime.protocol.device_plan import FORMS, PART_BYTES, TensorBox
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.packed_rows import PackedRows, read_packed

MAX_FRAMES: Final = 4096
"""Frames that the rows of one message may have."""

TOGETHER_BYTES: Final = 128 * 1024
"""Rows of up to so many bytes travel in one frame with the head: a frame more costs more than copying them."""

PROTOCOL: Final = 4
"""Version of everything in this module and in `messages`; both ends must have the same."""

MAGIC: Final = b"DRE"
PREFIX: Final = MAGIC + bytes([PROTOCOL])
CONTENT: Final = len(PREFIX) + 4
"""Where what the checksum covers starts."""

_HEAD: Final = struct.Struct(">4sIBxhiQQq")
_FIELDS: Final = struct.Struct(">BxhiQQq")
HEAD_BYTES: Final = _HEAD.size
ROWS: Final = 0
"""What byte CONTENT is in a message of rows, and in no other."""


UPGRADE: Final = "on boards that ssh reaches: distredge cluster upgrade CLUSTER.toml"
"""What to do where a worker is of another version."""


class VersionMismatch(ProtocolError):
    """The peer speaks another version of the protocol."""

    def __init__(self, found: int) -> None:
        self.found = found
        super().__init__(
            f"the peer speaks protocol {found}, this is protocol {PROTOCOL}; "
            f"install the same version of distredge on both; {UPGRADE}"
        )


class Rows(NamedTuple):
    """Heads the rows that one stage needs from one source; the sender's clock says when they were handed over."""

    source: int
    stage: int
    plan: int
    frame: int
    sent_ns: int


def write_head(target: memoryview, plan: int, frame: int, stage: int, source: int, sent_ns: int) -> None:
    """Writes the head of a message of rows.

    Args:
        target: HEAD_BYTES or more, of which the first HEAD_BYTES are filled.
        plan: number of the plan.
        frame: number of the frame.
        stage: that needs the rows.
        source: device that sends them.
        sent_ns: when it does.
    """
    fields = _FIELDS.pack(ROWS, source, stage, plan, frame, sent_ns)
    target[:HEAD_BYTES] = PREFIX + zlib.crc32(fields).to_bytes(4, "big") + fields


def is_rows(head: Bytes) -> bool:
    """Whether the first frame of a message is, if of this program at all, that of a message of rows."""
    return len(head) >= HEAD_BYTES and head[CONTENT] == ROWS


def read_head(head: Bytes) -> Rows:
    """Reads the head of a message of rows.

    Args:
        head: the first frame, for which `is_rows` holds.

    Raises:
        VersionMismatch: if the peer speaks another protocol.
        ProtocolError: if it is not of this program, or the checksum does not match.
    """
    prefix, checksum, _, source, stage, plan, frame, sent_ns = _HEAD.unpack_from(head)
    if prefix != PREFIX:
        if prefix[: len(MAGIC)] == MAGIC:
            raise VersionMismatch(prefix[len(MAGIC)])
        raise ProtocolError("not a message of distredge")
    if zlib.crc32(head[CONTENT:HEAD_BYTES]) != checksum:
        raise ProtocolError("a header whose checksum does not match")
    return Rows(source, stage, plan, frame, sent_ns)


class PartForm(NamedTuple):
    """Contiguous rows of one box that travel together.

    Attributes:
        box: number of the box among the message's.
        start: where they begin in it, one number per axis; `shape` is theirs.
        dtype: of their elements on the wire.
        size_bytes: of the rows; where they may be `packed` fewer travel.
        frame: number of the frame of the message that holds them, and `offset` the byte of it where they begin.
    """

    box: int
    start: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size_bytes: int
    packed: bool
    frame: int
    offset: int


class RowsForm(NamedTuple):
    """How the rows of a message are cut.

    Attributes:
        parts: in their order, which is that of the bytes of all boxes one after the other.
        frames: bytes of each frame of the message, the head's included, where nothing is packed.
    """

    parts: tuple[PartForm, ...]
    frames: tuple[int, ...]


def rows_form(boxes: Sequence[TensorBox]) -> RowsForm:
    """Says how boxes are cut into parts and frames; both ends compute it from the plan.

    Raises:
        ProtocolError: if a box has an unknown dtype or no elements, or there are more than MAX_FRAMES parts.
    """
    for box in boxes:
        if box.dtype not in FORMS:
            raise ProtocolError(f"rows of '{box.tensor}' with dtype '{box.dtype}'; accepted: {sorted(FORMS)}")
        if len(box.shape) != len(box.start) or not box.size_bytes:
            raise ProtocolError(f"rows of '{box.tensor}' at {box.start} with shape {box.shape}")
    if len(boxes) > 1 and any(is_file(box.dtype) for box in boxes):
        raise ProtocolError(f"rows of {len(boxes)} tensors beside a picture that may travel in its file")
    if sum(box.size_bytes for box in boxes) > MAX_FRAMES * PART_BYTES:
        raise ProtocolError(f"a message of more than {MAX_FRAMES * PART_BYTES} bytes of rows")
    together = sum(box.size_bytes for box in boxes) <= TOGETHER_BYTES and not any(is_packed(b.dtype) for b in boxes)
    frames = [HEAD_BYTES] if together else [HEAD_BYTES, 0]
    limit = HEAD_BYTES + TOGETHER_BYTES if together else PART_BYTES
    parts: list[PartForm] = []
    for number, box in enumerate(boxes):
        dtype, packed = np.dtype(dtype_of(box.dtype)), is_packed(box.dtype)
        for start, shape in _pieces(box.shape, dtype.itemsize):
            size_bytes = math.prod(shape) * dtype.itemsize
            alone = packed or (bool(parts) and parts[-1].packed)
            if len(frames) > 1 and frames[-1] and (alone or frames[-1] + size_bytes > limit):
                frames.append(0)
            parts.append(PartForm(number, start, shape, dtype, size_bytes, packed, len(frames) - 1, frames[-1]))
            frames[-1] += size_bytes
            if len(parts) > MAX_FRAMES:
                raise ProtocolError(f"a message of more than {MAX_FRAMES} parts")
    return RowsForm(tuple(parts), tuple(frames if parts else frames[:1]))


_Piece: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


def _pieces(shape: tuple[int, ...], element_bytes: int) -> Iterator[_Piece]:
    """Cuts a box into contiguous pieces of at most PART_BYTES: along the first axis, and each index of it further."""
    axis = next((i for i, size in enumerate(shape) if size > 1), None)
    whole_bytes = math.prod(shape) * element_bytes
    if axis is None or whole_bytes <= PART_BYTES:
        yield (0,) * len(shape), shape
        return
    before, length, after = shape[:axis], shape[axis], shape[axis + 1 :]
    step = PART_BYTES * length // whole_bytes
    if step:
        for start in range(0, length, step):
            yield (
                (*(0 for _ in before), start, *(0 for _ in after)),
                (*before, min(step, length - start), *after),
            )
        return
    inner = list(_pieces(after, element_bytes))
    for index in range(length):
        for corner, size in inner:
            yield (*(0 for _ in before), index, *corner), (*before, 1, *size)


def read_file(frames: Sequence[Bytes], boxes: Sequence[TensorBox], form: RowsForm) -> Bytes | None:
    """Returns the picture's file that came instead of rows; None where rows must have come.

    Args:
        frames: of the message; the first begins with the head.
        boxes: what the plan says this message carries.
        form: `rows_form(boxes)`.

    Raises:
        ProtocolError: if it is neither.
    """
    if not is_file(boxes[0].dtype) or [len(frame) for frame in frames] == list(form.frames):
        return None
    if len(frames) != 2 or len(frames[0]) != HEAD_BYTES or not file_fits(len(frames[1]), boxes[0].size_bytes):
        return None
    if bytes(frames[1][: len(BEGINS)]) != BEGINS:
        raise ProtocolError(f"frame 1: {len(frames[1])} bytes for '{boxes[0].tensor}' that are neither rows nor JPEG")
    return frames[1]


def read_rows(frames: Sequence[Bytes], boxes: Sequence[TensorBox], form: RowsForm) -> list[NDArray[Any] | PackedRows]:
    """Returns the parts of a message as read-only arrays, not copied, after comparing all sizes with the plan.

    Args:
        frames: of the message; the first begins with the head.
        boxes: what the plan says this message carries.
        form: `rows_form(boxes)`.

    Returns:
        (d0, d1, ...) for each part, of its shape and dtype; or its packed rows.

    Raises:
        ProtocolError: naming the first difference.
    """
    if len(frames) != len(form.frames):
        raise ProtocolError(f"{len(frames)} frames where the plan has {len(form.frames)}")
    views = [memoryview(frame) for frame in frames]
    arrays: list[NDArray[Any] | PackedRows] = []
    fits = [view.nbytes == due for view, due in zip(views, form.frames, strict=True)]
    for part in form.parts:
        view, tensor = views[part.frame], boxes[part.box].tensor
        if part.packed and view.nbytes < part.size_bytes:
            arrays.append(read_packed(view, part.shape, part.dtype, tensor))
        elif not fits[part.frame]:
            found, due = view.nbytes, form.frames[part.frame]
            raise ProtocolError(f"frame {part.frame}: {found} bytes where {due} with rows of '{tensor}' are due")
        else:
            count = part.size_bytes // part.dtype.itemsize
            arrays.append(np.frombuffer(view, part.dtype, count, part.offset).reshape(part.shape))
    if not fits[0]:
        raise ProtocolError(f"frame 0: {views[0].nbytes} bytes where {form.frames[0]} are due")
    return arrays
