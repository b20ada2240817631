"""The arrays that segments read and write, and the rows that go between them and messages.

For each frame that may be in flight there is one slot: a set of arrays made once, when a plan is prepared. Received
rows are placed once, straight into the array that the engine reads; rows to send are packed once (rows of
(1, C, H, W) are C strided pieces). Views into the arrays are made once too, so that a message costs a few copies and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ProtocolError
from distredge.model.wires import dtype_of, packing, unpacking
from distredge.runtime.protocol.device_plan import (
    DTYPES,
    Buffer,
    DevicePlan,
    PartForm,
    SegmentPlan,
    SourceMessage,
    TensorBox,
    parts_of,
    read_parts,
)
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.packed_rows import PackedRows, pack
from distredge.runtime.protocol.transport import Tracker

if TYPE_CHECKING:
    from distredge.model.wires import Convert

Array: TypeAlias = NDArray[Any]

Opened: TypeAlias = Sequence[Array | PackedRows]
"""The rows of a message as they came: one array (d0, d1, ...), or its packed rows, per part."""

ALIGNMENT_BYTES = 64
"""Where arrays begin: on a cache line."""

SHARED_BYTES = 256 * 1024
"""Messages with a part this large are shared with the transport until it has sent them."""


class HeldBox(NamedTuple):
    """An array that holds a box of a tensor.

    Attributes:
        array: the box's shape and dtype.
        start: where it begins in the whole tensor: elements, one number per axis.
    """

    array: Array
    start: tuple[int, ...]

    def view(self, start: Sequence[int], shape: Sequence[int], what: str) -> Array:
        """Returns the part of the array that holds another box of the tensor.

        Args:
            start: where that box begins in the whole tensor, one number per axis.
            shape: its size on every axis.
            what: what it is, for the error.

        Returns:
            (d0, d1, ...) of that shape, a view into `array`.

        Raises:
            ProtocolError: if that box is not inside this one.
        """
        fits = len(start) == len(shape) == self.array.ndim == len(self.start) and all(
            mine <= wanted and wanted + size <= mine + held
            for mine, held, wanted, size in zip(self.start, self.array.shape, start, shape, strict=True)
        )
        if not fits:
            raise ProtocolError(
                f"{what}: {list(start)}+{list(shape)} lies outside {list(self.start)}+{list(self.array.shape)}"
            )
        corner = [wanted - mine for mine, wanted in zip(self.start, start, strict=True)]
        box = tuple(slice(c, c + size) for c, size in zip(corner, shape, strict=True))
        # A number is a view of itself; indexing by nothing would make a scalar of it.
        return self.array[box] if box else self.array.view()


def whole(array: Array) -> HeldBox:
    """Returns the box that is a whole tensor: (d0, d1, ...), any shape and dtype."""
    return HeldBox(array, (0,) * array.ndim)


def allocate(shape: Sequence[int], dtype: str) -> Array:
    """Returns zeros (d0, d1, ...), C-ordered, whose first byte lies on a cache line.

    Args:
        shape: its size on every axis.
        dtype: one of `DTYPES`.

    Raises:
        ProtocolError: if the dtype is not one that plans may name.
    """
    if dtype not in DTYPES:
        raise ProtocolError(f"a buffer of dtype '{dtype}'; accepted: {sorted(DTYPES)}")
    size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(size_bytes + ALIGNMENT_BYTES, dtype=np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[offset : offset + size_bytes].view(dtype).reshape(tuple(shape))


def bytes_of(parts: Sequence[Bytes]) -> int:
    """Bytes of the parts of a message."""
    return sum(memoryview(part).nbytes for part in parts)


class _Mailbox:
    """One end of a message.

    Args:
        message: what the plan says of it.
        forms: `parts_of(message.boxes)`, where they are known already.
    """

    def __init__(self, message: SourceMessage, forms: Sequence[PartForm]) -> None:
        self.message = message
        self.forms = forms or parts_of(message.boxes)
        self._views: list[Array] = []


class Inbox(_Mailbox):
    """Places the rows of one message into the arrays that want them.

    Args:
        message, forms: what comes, as in `_Mailbox`.
        targets: what holds each of the message's boxes, in their order.
    """

    def __init__(self, message: SourceMessage, targets: Sequence[HeldBox], forms: Sequence[PartForm] = ()) -> None:
        super().__init__(message, forms)
        self._views = [_part_view(targets[form.box], message.boxes[form.box], form) for form in self.forms]
        self._unpack = [
            unpacking(form.dtype.name, view.dtype.name) for form, view in zip(self.forms, self._views, strict=True)
        ]

    def open(self, found: tuple[TensorBox, ...], parts: Sequence[Bytes]) -> Opened:
        """Checks a message against the plan; returns its rows, not copied.

        Args:
            found: the boxes that the header announces.
            parts: the frames after it.

        Returns:
            One read-only array (d0, d1, ...) per part, of the shape and dtype of its `PartForm`, or its packed rows.

        Raises:
            ProtocolError: if it is not exactly what the plan announces.
        """
        return read_parts(found, parts, self.message.boxes, self.forms)

    def place(self, opened: Opened) -> None:
        """Copies rows to their place.

        Args:
            opened: what `open` returned, of this inbox or of another slot's.
        """
        for unpack, view, rows in zip(self._unpack, self._views, opened, strict=True):
            unpack(view, rows.unpacked() if isinstance(rows, PackedRows) else rows)


class Pack:
    """A message that the transport may still be reading.

    Attributes:
        arrays: one per box, of its shape and dtype, C-ordered.
        parts: the bytes of each part: in these arrays, or where its packed rows are.
        tracker: tells when the transport has done with them; None when it copied them.
    """

    def __init__(self, boxes: Sequence[TensorBox], forms: Sequence[PartForm]) -> None:
        self.arrays = [allocate(box.shape, dtype_of(box.dtype)) for box in boxes]
        self.parts: list[Bytes] = []
        self._packed: list[tuple[int, Array, Array]] = []
        for form in forms:
            part = self.arrays[form.box]
            if part.ndim:
                part = part[(slice(None),) * form.axis + (slice(form.start, form.stop),)]
            rows = part.reshape(-1)
            if form.packed:
                self._packed.append((len(self.parts), rows, allocate((form.size_bytes,), "uint8")))
            self.parts.append(rows.view(np.uint8).data)
        self.tracker: Tracker | None = None

    def shrink(self) -> None:
        """Leaves the zeros out of those parts that may be packed and get smaller by it."""
        for number, rows, room in self._packed:
            size_bytes = pack(rows, room)
            self.parts[number] = rows.view(np.uint8).data if size_bytes is None else room[:size_bytes].data

    @property
    def size_bytes(self) -> int:
        """Bytes of the parts."""
        return bytes_of(self.parts)


class Outbox(_Mailbox):
    """Packs the rows of one message, taken from what `sources` say: each holds one of its boxes, in their order."""

    def __init__(self, message: SourceMessage, sources: Sequence[HeldBox], forms: Sequence[PartForm] = ()) -> None:
        super().__init__(message, forms)
        self._fills: list[Convert] = []
        self.take_from(sources)
        self.shared = any(form.size_bytes >= SHARED_BYTES for form in self.forms)
        self._packs: list[Pack] = []

    def take_from(self, sources: Sequence[HeldBox]) -> None:
        """Takes the rows from other arrays from now on."""
        self._views = [
            held.view(box.start, box.shape, _rows_of(box))
            for held, box in zip(sources, self.message.boxes, strict=True)
        ]
        self._fills = [
            packing(view.dtype.name, dtype_of(box.dtype))
            for view, box in zip(self._views, self.message.boxes, strict=True)
        ]

    def pack(self) -> Pack:
        """Returns the message's parts; set its `tracker` after sending when `shared`."""
        pack = next((p for p in self._packs if p.tracker is None or p.tracker.done), None)
        if pack is None:
            pack = Pack(self.message.boxes, self.forms)
            self._packs.append(pack)
        pack.tracker = None
        for fill, target, source in zip(self._fills, pack.arrays, self._views, strict=True):
            fill(target, source)
        pack.shrink()
        return pack


class Keeper:
    """Copies rows that stay on a device from the segment that made them to the one that reads them."""

    def __init__(self, pairs: Iterable[tuple[Array, Array]]) -> None:
        self._pairs = [(target, source) for target, source in pairs if target is not source]

    def keep(self) -> None:
        """Copies them."""
        for target, source in self._pairs:
            np.copyto(target, source)


class Slot:
    """All arrays of one frame on one device, and the mailboxes between them.

    Args:
        plan: the device's plan.

    Attributes:
        inputs, outputs: stage -> name of the value in its sub-model -> array, of the shape and dtype that its `Buffer`
            says.
        inboxes: (stage, source) -> what places a message.
        outboxes: in the order of `plan.outgoing`.
        keepers: (stage, stage that made the rows) -> what copies them over.

    Raises:
        ProtocolError: if the plan contradicts itself.
    """

    def __init__(self, plan: DevicePlan) -> None:
        self._into: dict[tuple[int, str], HeldBox] = {}
        self._made: dict[tuple[int, str], HeldBox] = {}
        self.inputs: dict[int, dict[str, Array]] = {}
        self.outputs: dict[int, dict[str, Array]] = {}
        shared = shareable(plan)
        for segment in plan.segments:
            stage = segment.stage
            if segment.after >= 0:
                self._inherit(segment)
            else:
                self.inputs[stage] = {
                    buffer.name: self._box(self._into, stage, buffer, shared.get((stage, buffer.tensor)))
                    for buffer in segment.inputs
                }
            self.outputs[stage] = {
                buffer.name: self._box(self._made, stage, buffer, None) for buffer in segment.outputs
            }
        self.inboxes = {
            (message.stage, message.source): Inbox(message, [self._target(message.stage, box) for box in message.boxes])
            for message in plan.incoming
        }
        self.outboxes = tuple(Outbox(message, self._sources(message)) for message in plan.outgoing)
        self.keepers = self._keepers(plan)

    def _box(self, boxes: dict[tuple[int, str], HeldBox], stage: int, buffer: Buffer, made_in: int | None) -> Array:
        if made_in is not None:
            held = self._made[made_in, buffer.tensor]
        else:
            held = HeldBox(allocate(buffer.shape, buffer.dtype), buffer.start)
        boxes[stage, buffer.tensor] = held
        return held.array

    def _inherit(self, segment: SegmentPlan) -> None:
        """Gives a segment the inputs of an earlier one."""
        for buffer in segment.inputs:
            held = self._into.get((segment.after, buffer.tensor))
            if held is None or (held.start, held.array.shape, str(held.array.dtype)) != (
                buffer.start, buffer.shape, buffer.dtype,
            ):  # fmt: skip
                raise ProtocolError(
                    f"stage {segment.stage} shares its input '{buffer.tensor}' with stage {segment.after}, "
                    "which has no such input"
                )
            self._into[segment.stage, buffer.tensor] = held
        self.inputs[segment.stage] = {b.name: self._into[segment.stage, b.tensor].array for b in segment.inputs}

    def _target(self, stage: int, box: TensorBox) -> HeldBox:
        held = self._into.get((stage, box.tensor))
        if held is None:
            raise ProtocolError(f"stage {stage} has no input '{box.tensor}', yet rows of it are sent there")
        return held

    def _source(self, stage: int, box: TensorBox) -> HeldBox:
        held = self._made.get((stage, box.tensor))
        if held is None:
            raise ProtocolError(f"stage {stage} has no output '{box.tensor}', yet rows of it are wanted")
        return held

    def _sources(self, message: SourceMessage) -> list[HeldBox]:
        return [self._source(stage, box) for stage, box in zip(message.made_in, message.boxes, strict=True)]

    def _keepers(self, plan: DevicePlan) -> Mapping[tuple[int, int], Keeper]:
        pairs: dict[tuple[int, int], list[tuple[Array, Array]]] = {}
        for message in plan.kept:
            for made_in, box in zip(message.made_in, message.boxes, strict=True):
                target, source = self._target(message.stage, box), self._source(made_in, box)
                if target.array is source.array:
                    pairs.setdefault((message.stage, made_in), [])
                    continue
                what = _rows_of(box)
                views = (target.view(box.start, box.shape, what), source.view(box.start, box.shape, what))
                pairs.setdefault((message.stage, made_in), []).append(views)
        return {key: Keeper(value) for key, value in pairs.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays, each counted once."""
        arrays = {id(held.array): held.array for held in (*self._into.values(), *self._made.values())}
        return sum(array.nbytes for array in arrays.values())


def _part_view(held: HeldBox, box: TensorBox, form: PartForm) -> Array:
    start = list(box.start)
    if start:
        start[form.axis] += form.start
    return held.view(start, form.shape, _rows_of(box))


def _rows_of(box: TensorBox) -> str:
    return f"rows of '{box.tensor}'"


def shareable(plan: DevicePlan) -> dict[tuple[int, str], int]:
    """Inputs that are exactly what an earlier segment of the same device made: they need no array of their own.

    Returns:
        (stage, tensor) of each -> the stage that made it.
    """
    made = {(segment.stage, buffer.tensor): buffer.box for segment in plan.segments for buffer in segment.outputs}
    wanted = {(segment.stage, buffer.tensor): buffer.box for segment in plan.segments for buffer in segment.inputs}
    found = {}
    for message in plan.kept:
        for made_in, box in zip(message.made_in, message.boxes, strict=True):
            source, target = made.get((made_in, box.tensor)), wanted.get((message.stage, box.tensor))
            if source is None or source != target or made_in >= message.stage:
                continue
            if (box.start, box.shape) == (source.start, source.shape):
                found[message.stage, box.tensor] = made_in
    return found
