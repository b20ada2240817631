"""What one device, or the requester, needs to know of a strategy: the plan that travels in `messages.Prepare`.

A plan names boxes of tensors (start and shape, in elements of the whole tensor): those that each segment reads and
makes, and those that each message carries. Both ends derive from it how the rows of a message are cut into
parts (`parts_of`), so that a message has one valid form and everything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from distredge.errors import ProtocolError
from distredge.model.wires import PACKED_WIRES, WIRE_BYTES, dtype_of, is_packed
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.fields import Bytes, Count, Digest, Dimensions, Dtype, Index, Name, Stage
from distredge.runtime.protocol.packed_rows import PackedRows, read_packed

REQUESTER: Final = -1
"""Index of the requester among the devices of a plan."""

MAX_PART_BYTES: Final = 64 * 1024 * 1024
MAX_PARTS: Final = 4096

PART_BYTES: Final = 1024 * 1024
"""Rows travel in parts of about this size, so that encrypting, sending and decrypting overlap."""

DTYPES: Final = frozenset(WIRE_BYTES)
"""Types that elements of arrays may have."""

_FORMS: Final = DTYPES | frozenset(PACKED_WIRES)
"""In what rows may cross the network."""


class TensorBox(Struct, frozen=True, array_like=True):
    """A box of one tensor on the wire that `dtype` names: `start` and `shape` count elements of the whole tensor."""

    tensor: Name
    start: Dimensions
    shape: Dimensions
    dtype: Dtype

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire; of a packed one the most that there are."""
        return math.prod(self.shape) * np.dtype(dtype_of(self.dtype)).itemsize


class Buffer(Struct, frozen=True, array_like=True):
    """An input or output of a segment: value `name` of the sub-model holds a box of `tensor`."""

    name: Name
    tensor: Name
    start: Dimensions
    shape: Dimensions
    dtype: Dtype

    @property
    def box(self) -> TensorBox:
        """What it holds."""
        return TensorBox(self.tensor, self.start, self.shape, self.dtype)


class SegmentPlan(Struct, frozen=True, array_like=True):
    """What a device runs in one stage; the sub-model itself travels as a part of its own.

    `weights` maps constants that the sub-model lacks to their content hashes. With `after` other than -1 it has the
    inputs of the segment of that earlier stage, and runs after it.
    """

    stage: Count
    volume: Annotated[int, Meta(ge=-1, lt=4096)]
    weights: dict[Name, Digest]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    after: Stage = -1


class SourceMessage(Struct, frozen=True, array_like=True):
    """Everything that one stage needs from one source: one message.

    `made_in` says for each box in which stage the source makes it (-1: an input of the model).
    """

    stage: Count
    source: Index
    destination: Index
    boxes: tuple[TensorBox, ...]
    made_in: tuple[Stage, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows, without the header; where they are packed, the most that there are."""
        return sum(box.size_bytes for box in self.boxes)


class DevicePlan(Struct, frozen=True, array_like=True):
    """All that one device needs to know of a strategy.

    Attributes:
        plan: number of the plan, unique among all plans (random).
        graph: name of the model, for messages.
        device: index of this device among `devices`.
        devices: the strategy's devices in their order.
        slots: how many frames may be in flight.
        segments: what it runs, in stage order.
        incoming: messages that it gets; outgoing: that it sends; kept: rows that stay on it from stage to stage.
        peers: device index (as text) -> data address, of those that it sends to.
    """

    plan: Count
    graph: Name
    device: Index
    devices: tuple[Name, ...]
    slots: Annotated[int, Meta(ge=1, le=256)]
    segments: tuple[SegmentPlan, ...]
    incoming: tuple[SourceMessage, ...]
    outgoing: tuple[SourceMessage, ...]
    kept: tuple[SourceMessage, ...]
    peers: dict[str, PeerAddress]


class PartForm(NamedTuple):
    """One part of a message of rows: its shape and size, and where it stands along `axis` of its box.

    `size_bytes` are those of its plain rows; of a part that may be `packed` fewer travel.
    """

    box: int
    axis: int
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size_bytes: int
    packed: bool = False


def parts_of(boxes: Sequence[TensorBox]) -> tuple[PartForm, ...]:
    """Says how boxes are cut into parts of about PART_BYTES: along the first axis longer than 1, C order.

    Both ends compute it from the plan, so that a message has one valid form.

    Raises:
        ProtocolError: if a box has an unknown dtype, no elements, or would need a part beyond MAX_PART_BYTES.
    """
    forms: list[PartForm] = []
    for number, box in enumerate(boxes):
        if box.dtype not in _FORMS:
            raise ProtocolError(f"rows of '{box.tensor}' with dtype '{box.dtype}'; accepted: {sorted(_FORMS)}")
        if len(box.shape) != len(box.start) or not box.size_bytes:
            raise ProtocolError(f"rows of '{box.tensor}' at {box.start} with shape {box.shape}")
        dtype, packed = np.dtype(dtype_of(box.dtype)), is_packed(box.dtype)
        axis = next((i for i, size in enumerate(box.shape) if size > 1), 0)
        length = box.shape[axis] if box.shape else 1
        each_bytes = box.size_bytes // length
        step = max(1, PART_BYTES // each_bytes)
        if each_bytes > MAX_PART_BYTES:
            raise ProtocolError(f"rows of '{box.tensor}': {each_bytes} bytes in one part; at most {MAX_PART_BYTES}")
        # Before the parts are made: a box that is wrong may have millions.
        if len(forms) + -(-length // step) > MAX_PARTS:
            raise ProtocolError(f"a message of more than {MAX_PARTS} parts, with rows of '{box.tensor}'")
        for start in range(0, length, step):
            stop = min(length, start + step)
            shape = (*box.shape[:axis], stop - start, *box.shape[axis + 1 :]) if box.shape else ()
            forms.append(PartForm(number, axis, start, stop, shape, dtype, (stop - start) * each_bytes, packed))
    return tuple(forms)


def read_parts(
    found: tuple[TensorBox, ...], parts: Sequence[Bytes], boxes: tuple[TensorBox, ...], forms: Sequence[PartForm]
) -> list[NDArray[Any] | PackedRows]:
    """Returns the parts of a message as read-only arrays, after comparing everything with the plan.

    Args:
        found: the boxes that the header announces.
        parts: the frames after it.
        boxes: what the plan says this message carries.
        forms: `parts_of(boxes)`.

    Returns:
        (d0, d1, ...) for each part, of the shape and dtype of its form; or its packed rows.

    Raises:
        ProtocolError: naming the first difference.
    """
    if found != boxes:
        raise ProtocolError(f"rows {_brief(found)} where the plan has {_brief(boxes)}")
    if len(parts) != len(forms):
        raise ProtocolError(f"{len(parts)} parts where the plan has {len(forms)}")
    arrays: list[NDArray[Any] | PackedRows] = []
    for part, form in zip(parts, forms, strict=True):
        view = memoryview(part)
        if form.packed and view.nbytes < form.size_bytes:
            arrays.append(read_packed(view, form.shape, form.dtype, boxes[form.box].tensor))
            continue
        if view.nbytes != form.size_bytes:
            raise ProtocolError(
                f"a part of {view.nbytes} bytes where {form.size_bytes} of '{boxes[form.box].tensor}' are due"
            )
        arrays.append(np.frombuffer(view, dtype=form.dtype).reshape(form.shape))
    return arrays


def _brief(boxes: Sequence[TensorBox]) -> str:
    shown = [f"{p.tensor}{list(p.start)}+{list(p.shape)} {p.dtype}" for p in boxes[:2]]
    return ", ".join(shown) + (f" and {len(boxes) - 2} more" if len(boxes) > 2 else "")
