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
from distredge.model.wires import packing, unpacking
from distredge.runtime.protocol.device_plan import (
    DTYPES,
    Buffer,
    Bytes,
    DevicePlan,
    PartForm,
    SegmentPlan,
    SourceMessage,
    TensorBox,
    parts_of,
    read_parts,
)
from distredge.runtime.protocol.transport import Tracker

if TYPE_CHECKING:
    from distredge.model.wires import Convert

Array: TypeAlias = NDArray[Any]

ALIGNMENT_BYTES = 64
SHARED_BYTES = 256 * 1024
"""Messages with a part this large are shared with the transport until it has sent them."""


class Box(NamedTuple):
    """An array that holds a box of a tensor, from `start` on."""

    array: Array
    start: tuple[int, ...]

    def view(self, start: Sequence[int], shape: Sequence[int], what: str) -> Array:
        """The part of the array that holds another box of the tensor.

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
        return self.array[tuple(slice(c, c + size) for c, size in zip(corner, shape, strict=True))]


def whole(array: Array) -> Box:
    """A box that is the whole tensor."""
    return Box(array, (0,) * array.ndim)


def allocate(shape: Sequence[int], dtype: str) -> Array:
    """Returns an array of zeros whose first byte lies on a cache line.

    Raises:
        ProtocolError: if the dtype is not one that plans may name.
    """
    if dtype not in DTYPES:
        raise ProtocolError(f"a buffer of dtype '{dtype}'; accepted: {sorted(DTYPES)}")
    size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.zeros(size_bytes + ALIGNMENT_BYTES, dtype=np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[offset : offset + size_bytes].view(dtype).reshape(tuple(shape))


class Inbox:
    """Places the rows of one link into the arrays that want them.

    Args:
        link: what comes.
        targets: the box that each piece lies in, in the order of the link's pieces.
    """

    def __init__(self, link: SourceMessage, targets: Sequence[Box], forms: Sequence[PartForm] | None = None) -> None:
        self.link = link
        self.forms = parts_of(link.pieces) if forms is None else forms
        self.size_bytes = link.size_bytes
        self._views = [
            _part_view(
                targets[form.piece], link.pieces[form.piece], form, f"rows of '{link.pieces[form.piece].tensor}'"
            )
            for form in self.forms
        ]
        self._unpack = [
            unpacking(link.pieces[form.piece].dtype, view.dtype.name)
            for form, view in zip(self.forms, self._views, strict=True)
        ]

    def open(self, found: tuple[TensorBox, ...], parts: Sequence[Bytes]) -> list[Array]:
        """Checks a message against the plan; returns its rows, not copied.

        Raises:
            ProtocolError: if it is not exactly what the plan announces.
        """
        return read_parts(found, parts, self.link.pieces, self.forms)

    def place(self, opened: Sequence[Array]) -> None:
        """Copies rows that `open` returned (of this link, for any slot) to their place."""
        for unpack, view, rows in zip(self._unpack, self._views, opened, strict=True):
            unpack(view, rows)


class Pack:
    """A packed message that the transport may still be reading."""

    def __init__(self, pieces: Sequence[TensorBox], forms: Sequence[PartForm]) -> None:
        self.arrays = [allocate(piece.shape, piece.dtype) for piece in pieces]
        self.parts: list[Bytes] = []
        for form in forms:
            part = self.arrays[form.piece]
            if part.ndim:
                part = part[(slice(None),) * form.axis + (slice(form.start, form.stop),)]
            self.parts.append(part.reshape(-1).view(np.uint8).data)
        self.tracker: Tracker | None = None


class Outbox:
    """Packs the rows of one link.

    Args:
        link: what goes.
        sources: the box that each piece is taken from, in the order of the link's pieces.
    """

    def __init__(self, link: SourceMessage, sources: Sequence[Box], forms: Sequence[PartForm] | None = None) -> None:
        self.link = link
        self._forms = parts_of(link.pieces) if forms is None else forms
        self.size_bytes = link.size_bytes
        self._views: list[Array] = []
        self._fills: list[Convert] = []
        self.take_from(sources)
        self.shared = any(form.size_bytes >= SHARED_BYTES for form in self._forms)
        self._packs: list[Pack] = []

    def take_from(self, sources: Sequence[Box]) -> None:
        """Takes the rows from other arrays from now on."""
        self._views = [
            box.view(piece.start, piece.shape, f"rows of '{piece.tensor}'")
            for box, piece in zip(sources, self.link.pieces, strict=True)
        ]
        self._fills = [
            packing(view.dtype.name, piece.dtype) for view, piece in zip(self._views, self.link.pieces, strict=True)
        ]

    def pack(self) -> Pack:
        """Returns the message's parts; set its `tracker` after sending when `shared`."""
        pack = next((p for p in self._packs if p.tracker is None or p.tracker.done), None)
        if pack is None:
            pack = Pack(self.link.pieces, self._forms)
            self._packs.append(pack)
        pack.tracker = None
        for fill, target, source in zip(self._fills, pack.arrays, self._views, strict=True):
            fill(target, source)
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
        inputs, outputs: stage -> name of the value in its sub-model -> array.
        inboxes: (stage, source) -> what places a message.
        outboxes: in the order of `plan.outgoing`.
        keepers: (stage, stage that made the rows) -> what copies them over.

    Raises:
        ProtocolError: if the plan contradicts itself.
    """

    def __init__(self, plan: DevicePlan) -> None:
        self._into: dict[tuple[int, str], Box] = {}
        self._made: dict[tuple[int, str], Box] = {}
        self.inputs: dict[int, dict[str, Array]] = {}
        self.outputs: dict[int, dict[str, Array]] = {}
        shared = _shareable(plan)
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
            (link.stage, link.source): Inbox(link, [self._target(link.stage, p) for p in link.pieces])
            for link in plan.incoming
        }
        self.outboxes = tuple(Outbox(link, self._sources(link)) for link in plan.outgoing)
        self.keepers = self._keepers(plan)

    def _box(self, boxes: dict[tuple[int, str], Box], stage: int, buffer: Buffer, made_in: int | None) -> Array:
        if made_in is not None:
            box = self._made[made_in, buffer.tensor]
        else:
            box = Box(allocate(buffer.shape, buffer.dtype), buffer.start)
        boxes[stage, buffer.tensor] = box
        return box.array

    def _inherit(self, segment: SegmentPlan) -> None:
        """Gives a segment the inputs of an earlier one."""
        for buffer in segment.inputs:
            box = self._into.get((segment.after, buffer.tensor))
            if box is None or (box.start, box.array.shape, str(box.array.dtype)) != (
                buffer.start, buffer.shape, buffer.dtype,
            ):  # fmt: skip
                raise ProtocolError(
                    f"stage {segment.stage} shares its input '{buffer.tensor}' with stage {segment.after}, "
                    "which has no such input"
                )
            self._into[segment.stage, buffer.tensor] = box
        self.inputs[segment.stage] = {b.name: self._into[segment.stage, b.tensor].array for b in segment.inputs}

    def _target(self, stage: int, piece: TensorBox) -> Box:
        box = self._into.get((stage, piece.tensor))
        if box is None:
            raise ProtocolError(f"stage {stage} has no input '{piece.tensor}', yet rows of it are sent there")
        return box

    def _source(self, stage: int, piece: TensorBox) -> Box:
        box = self._made.get((stage, piece.tensor))
        if box is None:
            raise ProtocolError(f"stage {stage} has no output '{piece.tensor}', yet rows of it are wanted")
        return box

    def _sources(self, link: SourceMessage) -> list[Box]:
        return [self._source(stage, piece) for stage, piece in zip(link.made_in, link.pieces, strict=True)]

    def _keepers(self, plan: DevicePlan) -> Mapping[tuple[int, int], Keeper]:
        pairs: dict[tuple[int, int], list[tuple[Array, Array]]] = {}
        for link in plan.kept:
            for made_in, piece in zip(link.made_in, link.pieces, strict=True):
                target, source = self._target(link.stage, piece), self._source(made_in, piece)
                if target.array is source.array:
                    pairs.setdefault((link.stage, made_in), [])
                    continue
                what = f"rows of '{piece.tensor}'"
                views = (target.view(piece.start, piece.shape, what), source.view(piece.start, piece.shape, what))
                pairs.setdefault((link.stage, made_in), []).append(views)
        return {key: Keeper(value) for key, value in pairs.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays, each counted once."""
        arrays = {id(box.array): box.array for box in (*self._into.values(), *self._made.values())}
        return sum(array.nbytes for array in arrays.values())


def _part_view(box: Box, piece: TensorBox, form: PartForm, what: str) -> Array:
    start = list(piece.start)
    if start:
        start[form.axis] += form.start
    return box.view(start, form.shape, what)


def _shareable(plan: DevicePlan) -> dict[tuple[int, str], int]:
    """Inputs that are exactly what an earlier segment of the same device made: they need no array of their own."""
    made = {(segment.stage, buffer.tensor): buffer for segment in plan.segments for buffer in segment.outputs}
    found = {}
    for link in plan.kept:
        for made_in, piece in zip(link.made_in, link.pieces, strict=True):
            source = made.get((made_in, piece.tensor))
            target = next(
                (b for s in plan.segments if s.stage == link.stage for b in s.inputs if b.tensor == piece.tensor), None
            )
            if source is None or target is None or made_in >= link.stage:
                continue
            same = (source.start, source.shape, source.dtype) == (target.start, target.shape, target.dtype)
            if same and (piece.start, piece.shape) == (target.start, target.shape):
                found[link.stage, piece.tensor] = made_in
    return found
