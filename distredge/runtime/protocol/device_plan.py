"""What one device, or the requester, needs to know of a strategy: the plan that travels in `messages.Prepare`.

A plan names boxes of tensors (start and shape, in elements of the whole tensor): those that each segment reads and
makes, and those that each message carries. Both ends derive from it the one valid form of each message
(`row_messages.rows_form`).
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from distredge.media.images import MAX_PIXELS
from distredge.model.preprocess import Preprocess
from distredge.model.wires import FILE_WIRES, PACKED_WIRES, WIRE_BYTES, dtype_of
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.fields import Corner, Count, Digest, Dimensions, Dtype, Index, Name, Stage

REQUESTER: Final = -1
"""Index of the requester among the devices of a plan."""

PART_BYTES: Final = 1024 * 1024
"""Rows travel in parts of at most this size, so that encrypting, sending and decrypting overlap."""

DTYPES: Final = frozenset(WIRE_BYTES)
"""Types that elements of arrays may have."""

FORMS: Final = DTYPES | frozenset(PACKED_WIRES) | frozenset(FILE_WIRES)
"""In what rows may cross the network."""


class TensorBox(Struct, frozen=True, array_like=True):
    """A box of one tensor on the wire that `dtype` names: `start` and `shape` count elements of the whole tensor."""

    tensor: Name
    start: Dimensions
    shape: Dimensions
    dtype: Dtype

    @property
    def size_bytes(self) -> int:
        """Bytes on the wire; of a packed one, or a picture that may travel in its file, the most that there are."""
        return math.prod(self.shape) * np.dtype(dtype_of(self.dtype)).itemsize


class Buffer(Struct, frozen=True, array_like=True):
    """An input or output of a segment: value `name` of the sub-model holds a box of `tensor`.

    With dynamic rows the box may reach beyond the tensor: what no message fills stays zeros.
    """

    name: Name
    tensor: Name
    start: Corner
    shape: Dimensions
    dtype: Dtype

    @property
    def box(self) -> TensorBox:
        """What it holds."""
        return TensorBox(self.tensor, self.start, self.shape, self.dtype)


class RowMask(Struct, frozen=True, array_like=True):
    """An input of a segment that no message fills: ones in the rows [start, stop), zeros in the others, float32.

    `shape` is 1 on every axis but that of the rows.
    """

    name: Name
    shape: Dimensions
    start: Count
    stop: Count

    @property
    def size_bytes(self) -> int:
        """Bytes of its array."""
        return math.prod(self.shape) * np.dtype(np.float32).itemsize


class ShapeRange(Struct, frozen=True, array_like=True):
    """Shapes that an input of a sub-model with dynamic rows may have; the engine is tuned for the `usual` one."""

    least: Dimensions
    usual: Dimensions
    most: Dimensions


class SegmentPlan(Struct, frozen=True, array_like=True):
    """What a device runs in one stage; the sub-model itself travels as a part of its own.

    `weights` maps constants that the sub-model lacks to their content hashes. With `after` other than -1 it has the
    inputs of the segment of that earlier stage, and runs after it. `masks` and `ranges` (by name of the input) belong
    to a sub-model with dynamic rows; any other has none.
    """

    stage: Count
    volume: Annotated[int, Meta(ge=-1, lt=4096)]
    weights: dict[Name, Digest]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    after: Stage = -1
    masks: tuple[RowMask, ...] = ()
    ranges: dict[Name, ShapeRange] = {}


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


_Side: TypeAlias = Annotated[int, Meta(ge=1, lt=2**16)]


class PicturePlan(Struct, frozen=True, array_like=True):
    """How a picture becomes the model's input, for a device that gets the file that it is in.

    Attributes:
        tensor: the input.
        crop, resize, layout, channels, interpolation: of `model.preprocess.Preprocess`; 0 is no `resize`.
        max_pixels: files whose header announces more are refused.
        decoder: `media.jpeg.decoder_mark` of the requester; the device's must be the same.
    """

    tensor: Name
    crop: tuple[_Side, _Side]
    resize: Annotated[int, Meta(ge=0, lt=2**16)]
    layout: Literal["NCHW", "NHWC"]
    channels: Literal["RGB", "BGR", "L"]
    interpolation: Annotated[str, Meta(max_length=16)]
    max_pixels: Annotated[int, Meta(ge=1, le=MAX_PIXELS)]
    decoder: Annotated[str, Meta(max_length=64)]

    def preprocess(self) -> Preprocess:
        """What resizes and crops; what follows is in the sub-models.

        Raises:
            ModelError: if there is no such interpolation.
        """
        depth = 1 if self.channels == "L" else 3
        zeros, ones = (0.0,) * depth, (1.0,) * depth
        return Preprocess(self.crop, self.resize or None, zeros, ones, self.layout, self.channels, self.interpolation)

    @property
    def decoding_bytes(self) -> int:
        """Memory that decoding one file takes at most."""
        return self.preprocess().decoding_bytes(self.max_pixels)

    @property
    def kept_bytes(self) -> int:
        """Memory of one frame's file and what was made of it, for stages that read the input later."""
        return self.preprocess().kept_bytes


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
        picture: how a picture's file becomes rows of the input, where the requester may send it one.
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
    picture: PicturePlan | None = None
