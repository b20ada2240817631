"""The arrays that segments read and write, and the rows that go between them and messages.

For each frame that may be in flight there is one slot: a set of arrays made once, when a plan is prepared. Received
rows are placed once, straight into the array that the engine reads; rows to send are packed once (rows of
(1, C, H, W) are C strided pieces). Views into the arrays are made once too, so that a message costs a few copies and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distredge.errors import ProtocolError
from distredge.model.wires import dtype_of, is_file, is_packed, packing, unpacking
from distredge.runtime.picture_files import PictureDecoder
from distredge.runtime.protocol.device_plan import (
    DTYPES,
    Buffer,
    DevicePlan,
    RowMask,
    SegmentPlan,
    SourceMessage,
    TensorBox,
)
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.packed_rows import PackedRows, pack
from distredge.runtime.protocol.row_messages import HEAD_BYTES, PartForm, RowsForm, read_file, read_rows, rows_form
from distredge.runtime.protocol.transport import NotConnected, Tracker

if TYPE_CHECKING:
    from distredge.model.wires import Convert

Array: TypeAlias = NDArray[Any]

Room: TypeAlias = Callable[[int], Array]
"""Given a number of bytes, returns so much memory: (bytes,) of uint8, zeros."""

Opened: TypeAlias = "Sequence[Any] | PictureFile"
"""The rows of a message as they came, compared with the plan; or the picture's file that came instead."""

ALIGNMENT_BYTES = 64
"""Where arrays begin: on a cache line."""

SHARED_BYTES = 256 * 1024
"""Messages with a frame this large are shared with the transport until it has sent them."""

MOST_UNSENT = 8
"""Messages of one kind that may wait to be sent, or to be given back by the transport, which takes its time about it:
bounds what a receiver that takes nothing costs."""

_HEAD_ROOM = 64


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


def zeros(size_bytes: int) -> Array:
    """Returns memory of this process: (size_bytes,) of uint8, zeros."""
    return np.zeros(size_bytes, dtype=np.uint8)


def allocate(shape: Sequence[int], dtype: str, room: Room = zeros) -> Array:
    """Returns zeros (d0, d1, ...), C-ordered, whose first byte lies on a cache line.

    Args:
        shape: its size on every axis.
        dtype: one of `DTYPES`.
        room: gives it memory.

    Raises:
        ProtocolError: if the dtype is not one that plans may name.
    """
    if dtype not in DTYPES:
        raise ProtocolError(f"a buffer of dtype '{dtype}'; accepted: {sorted(DTYPES)}")
    size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = room(size_bytes + ALIGNMENT_BYTES)
    offset = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[offset : offset + size_bytes].view(dtype).reshape(tuple(shape))


def bytes_of(parts: Sequence[Bytes]) -> int:
    """Bytes of the parts of a message."""
    return sum(map(len, parts))


class _Mailbox:
    """One end of a message.

    Args:
        message: what the plan says of it.
        form: `rows_form(message.boxes)`, where it is known already.
    """

    def __init__(self, message: SourceMessage, form: RowsForm | None) -> None:
        self.message = message
        self.form = form or rows_form(message.boxes)
        self._views: list[Array] = []


@dataclass(frozen=True, eq=False)
class PictureFile:
    """The file of a picture that came instead of rows of it."""

    content: Bytes


class Inbox(_Mailbox):
    """Places the rows of one message into the arrays that want them.

    Args:
        message, form: what comes, as in `_Mailbox`.
        targets: what holds each of the message's boxes, in their order.
        decoder: makes the whole input of a picture's file, where one may come instead of rows of it.
    """

    def __init__(
        self,
        message: SourceMessage,
        targets: Sequence[HeldBox],
        form: RowsForm | None = None,
        decoder: PictureDecoder | None = None,
    ) -> None:
        super().__init__(message, form)
        self._decoder = decoder if is_file(message.boxes[0].dtype) else None
        parts = self.form.parts
        self._views = [_part_view(targets[part.box], message.boxes[part.box], part) for part in parts]
        self._unpack = [
            unpacking(part.dtype.name, view.dtype.name) for part, view in zip(parts, self._views, strict=True)
        ]
        # Made once: what one core does with a small message is mostly to look such things up.
        self._plain = tuple(
            (view, unpack, part.frame, part.offset, part.shape, part.dtype)
            for view, unpack, part in zip(self._views, self._unpack, parts, strict=True)
        )
        self._is_packed = any(part.packed for part in parts)
        self._frames = list(self.form.frames)

    def open(self, frames: Sequence[Bytes]) -> Opened:
        """Checks a message against the plan; returns its rows, not copied, for `place`.

        Args:
            frames: of the message, the one with the head included.

        Raises:
            ProtocolError: if it is not exactly what the plan announces.
        """
        # What has the right size in all its frames is right; only rows that may be packed have others.
        if self._is_packed or [len(frame) for frame in frames] != self._frames:
            if self._decoder is not None:
                file = read_file(frames, self.message.boxes, self.form)
                if file is not None:
                    return PictureFile(file)
            return read_rows(frames, self.message.boxes, self.form)
        return frames

    def place(self, opened: Opened) -> None:
        """Copies rows to their place.

        Args:
            opened: what `open` returned, of this inbox or of another slot's.

        Raises:
            MediaError: if it is a picture's file that cannot be decoded.
        """
        if isinstance(opened, PictureFile):
            self._place_file(opened)
            return
        if self._is_packed:
            for unpack, view, rows in zip(self._unpack, self._views, opened, strict=True):
                unpack(view, rows.unpacked() if isinstance(rows, PackedRows) else rows)
            return
        for view, unpack, frame, offset, shape, dtype in self._plain:
            unpack(view, np.ndarray(shape, dtype, opened[frame], offset))

    def _place_file(self, file: PictureFile) -> None:
        assert self._decoder is not None
        whole_input = whole(self._decoder.rows(file.content))
        for view, part in zip(self._views, self.form.parts, strict=True):
            np.copyto(view, _part_view(whole_input, self.message.boxes[part.box], part))


class Pack:
    """A message that the transport may still be reading.

    Args:
        boxes, form: what it carries, and how that is cut.
        emitted: (n_bytes,) the boxes' bytes one after the other where the engine leaves them so: they are sent from
            there. None makes room for them.

    Attributes:
        arrays: one per box, of its shape and dtype, C-ordered, to be filled; none where the rows are `emitted`.
        frames: of the message; the first begins with HEAD_BYTES for its head.
        tracker: tells when the transport has done with them; None when it copied them.
    """

    def __init__(self, boxes: Sequence[TensorBox], form: RowsForm, emitted: Array | None = None) -> None:
        # Rows begin on a cache line, the head right before them.
        size_bytes = 0 if emitted is not None else sum(box.size_bytes for box in boxes)
        buffer = allocate((_HEAD_ROOM + size_bytes,), "uint8")
        rows = buffer[_HEAD_ROOM:] if emitted is None else emitted
        self.arrays: list[Array] = []
        for box in boxes if emitted is None else ():
            start = sum(array.nbytes for array in self.arrays)
            self.arrays.append(rows[start : start + box.size_bytes].view(dtype_of(box.dtype)).reshape(box.shape))
        first = form.frames[0] - HEAD_BYTES
        self.frames: list[Bytes] = [buffer[_HEAD_ROOM - HEAD_BYTES : _HEAD_ROOM + first].data]
        start = first
        self._packed: list[tuple[int, Array, Array]] = []
        for number, part in enumerate(form.frames[1:], 1):
            frame = rows[start : start + part]
            start += part
            self.frames.append(frame.data)
            form_of = next(p for p in form.parts if p.frame == number)
            if form_of.packed:
                self._packed.append((number, frame.view(form_of.dtype), allocate((part,), "uint8")))
        self.may_shrink = bool(self._packed)
        self.head = memoryview(self.frames[0])
        self._rows_frames = self.frames
        self.tracker: Tracker | None = None
        self.size_bytes = bytes_of(self.frames) - HEAD_BYTES

    def carry(self, file: bytes | None) -> None:
        """Carries a picture's file instead of the rows, until it is told to carry them again with None."""
        self.frames = self._rows_frames if file is None else [self.head[:HEAD_BYTES], file]
        self.size_bytes = bytes_of(self.frames) - HEAD_BYTES

    def shrink(self) -> None:
        """Leaves the zeros out of those parts that may be packed and get smaller by it."""
        for number, rows, room in self._packed:
            size_bytes = pack(rows, room)
            self.frames[number] = rows.view(np.uint8).data if size_bytes is None else room[:size_bytes].data
        self.size_bytes = bytes_of(self.frames) - HEAD_BYTES


class Outbox(_Mailbox):
    """Packs the rows of one message, taken from what `sources` say: each holds one of its boxes, in their order.

    Args:
        message, form: what is sent, as in `_Mailbox`.
        sources: None: `take_from` or `take_file` says it before the first.
    """

    def __init__(
        self, message: SourceMessage, sources: Sequence[HeldBox] | None = None, form: RowsForm | None = None
    ) -> None:
        super().__init__(message, form)
        self._fills: list[Convert] = []
        self._emitted: Array | None = None
        self._may_carry_file = is_file(message.boxes[0].dtype)
        self._file: bytes | None = None
        self._packs: list[Pack] = []
        self.shared = max(self.form.frames) >= SHARED_BYTES
        if sources is not None:
            self.take_from(sources)

    def take_file(self, file: bytes) -> None:
        """Sends a picture's file from now on, instead of rows of it."""
        self._file = file

    def take_from(self, sources: Sequence[HeldBox]) -> None:
        """Takes the rows from other arrays from now on."""
        self._file = None
        boxes = self.message.boxes
        self._views = [held.view(box.start, box.shape, _rows_of(box)) for held, box in zip(sources, boxes, strict=True)]
        self._fills = [
            packing(view.dtype.name, dtype_of(box.dtype)) for view, box in zip(self._views, boxes, strict=True)
        ]
        was, self._emitted = self._emitted, self._emits()
        if was is not None or self._emitted is not None:
            self._packs = []

    def _emits(self) -> Array | None:
        """The rows where they are, if they are large and can be sent from there."""
        if not self.shared or len(self._views) != 1 or is_packed(self.message.boxes[0].dtype):
            return None
        view = self._views[0]
        if view.dtype.name != self.message.boxes[0].dtype or not view.flags.c_contiguous:
            return None
        return view.reshape(-1).view(np.uint8)

    def pack(self) -> Pack:
        """Returns the message with its rows, to write its head and send it; set its `tracker` then when `shared`.

        Rows that the engine emits as they travel are not copied: the next frame of their slot overwrites them, which
        begins when this one has ended, whatever became of it.

        Raises:
            NotConnected: if messages of earlier frames have not been sent yet: the receiver takes nothing.
        """
        for found in self._packs:
            if found.tracker is None or found.tracker.done:
                break
        else:
            if len(self._packs) >= MOST_UNSENT:
                waiting = sum(p.size_bytes for p in self._packs)
                raise NotConnected(f"{waiting} bytes of earlier frames wait to be sent: the receiver is too slow")
            found = Pack(self.message.boxes, self.form, self._emitted)
            self._packs.append(found)
        found.tracker = None
        if self._may_carry_file:
            found.carry(self._file)
        if self._emitted is None and self._file is None:
            for fill, target, source in zip(self._fills, found.arrays, self._views):  # noqa: B905 of equal length
                fill(target, source)
            if found.may_shrink:
                found.shrink()
        return found


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
        room: gives the arrays their memory.

    Attributes:
        inputs, outputs: stage -> name of the value in its sub-model -> array, of the shape and dtype that its `Buffer`
            says; masks are among the inputs.
        inboxes: (stage, source) -> what places a message.
        outboxes: in the order of `plan.outgoing`.
        keepers: (stage, stage that made the rows) -> what copies them over.

    Raises:
        ProtocolError: if the plan contradicts itself.
    """

    def __init__(self, plan: DevicePlan, room: Room = zeros) -> None:
        self._room = room
        self._into: dict[tuple[int, str], HeldBox] = {}
        self._made: dict[tuple[int, str], HeldBox] = {}
        self._masks: dict[tuple[int, str], Array] = {}
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
            for mask in segment.masks:
                self.inputs[stage][mask.name] = self._masks[stage, mask.name] = _ones(mask, room)
            self.outputs[stage] = {
                buffer.name: self._box(self._made, stage, buffer, None) for buffer in segment.outputs
            }
        files = sum(is_file(box.dtype) for message in plan.incoming for box in message.boxes)
        decoder = PictureDecoder(plan.picture, files > 1) if plan.picture is not None and files else None
        self.inboxes = {
            (message.stage, message.source): Inbox(
                message, [self._target(message.stage, box) for box in message.boxes], decoder=decoder
            )
            for message in plan.incoming
        }
        self.outboxes = tuple(Outbox(message, self._sources(message)) for message in plan.outgoing)
        self.keepers = self._keepers(plan)

    def _box(self, boxes: dict[tuple[int, str], HeldBox], stage: int, buffer: Buffer, made_in: int | None) -> Array:
        if made_in is not None:
            held = self._made[made_in, buffer.tensor]
        else:
            held = HeldBox(allocate(buffer.shape, buffer.dtype, self._room), buffer.start)
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
        return sum(array.nbytes for array in (*arrays.values(), *self._masks.values()))


def _ones(mask: RowMask, room: Room) -> Array:
    """What a mask says, as an array of its shape: float32."""
    made = allocate(mask.shape, "float32", room)
    made.reshape(-1)[mask.start : mask.stop] = 1
    return made


def _part_view(held: HeldBox, box: TensorBox, part: PartForm) -> Array:
    start = [of_box + of_part for of_box, of_part in zip(box.start, part.start, strict=True)]
    return held.view(start, part.shape, _rows_of(box))


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
