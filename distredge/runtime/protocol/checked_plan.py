"""Compares a device's plan with itself, before anything of it is touched.

Whoever sends a plan has the requester's key; what it says may still be wrong. Everything that loading and running a
plan takes for granted is checked here, so that nothing later meets an index, a name or a size that does not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from distredge.errors import ModelError, ProtocolError
from distredge.model.wires import dtype_of, is_file
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import (
    DTYPES,
    REQUESTER,
    Buffer,
    DevicePlan,
    RowMask,
    SegmentPlan,
    ShapeRange,
    SourceMessage,
    TensorBox,
)
from distredge.runtime.protocol.row_messages import rows_form
from distredge.runtime.protocol.security import is_key

MAX_ARRAYS_BYTES: Final = 1 << 40
"""What the arrays of a plan may come to on any machine; what a worker has is its memory account's to say."""

_LAST_STAGE: Final = 1 << 31
_ADDRESS: Final = re.compile(r"(?:tcp|memory)://[!-~]+:(\d{1,5})")


def check_plan(plan: DevicePlan) -> None:
    """Checks that a plan does not contradict itself.

    Raises:
        ProtocolError: naming the first contradiction.
    """
    if not 0 <= plan.device < len(plan.devices):
        raise ProtocolError(f"device {plan.device} of a plan for {len(plan.devices)} devices")
    if len(set(plan.devices)) != len(plan.devices):
        raise ProtocolError(f"devices of one name in a plan: {list(plan.devices)}")
    arrays_bytes = _check_segments(plan)
    _check_size(plan, arrays_bytes)
    made = {(s.stage, b.tensor): b for s in plan.segments for b in s.outputs}
    wanted = {(s.stage, b.tensor): b for s in plan.segments for b in s.inputs}
    _check_ends(plan)
    picture_shape = _check_picture(plan)
    for message in plan.incoming:
        for box in message.boxes:
            held = _check_held(box, message.stage, wanted, "input")
            if is_file(box.dtype):
                _check_file(plan, message, box, held, picture_shape)
    for message in plan.outgoing:
        for made_in, box in zip(message.made_in, message.boxes, strict=True):
            _check_held(box, made_in, made, "output")
            if is_file(box.dtype):
                raise ProtocolError(f"stage {message.stage}: rows of '{box.tensor}' are sent as '{box.dtype}'")
    for message in plan.kept:
        _check_kept(message, made, wanted)
    for message in (*plan.incoming, *plan.outgoing):
        rows_form(message.boxes)
        arrays_bytes += message.size_bytes
        # In between: whoever claims too much is not heard to the end.
        _check_size(plan, arrays_bytes)
    _check_peers(plan)


def _check_picture(plan: DevicePlan) -> tuple[int, ...]:
    """Returns the shape of what is made of a picture's file; () where none comes."""
    if plan.picture is None:
        return ()
    try:
        preprocess = plan.picture.preprocess()
    except ModelError as error:
        raise ProtocolError(f"pictures of '{plan.picture.tensor}': {error}") from error
    _check_size(plan, plan.picture.decoding_bytes)
    return preprocess.shape


def _check_file(
    plan: DevicePlan, message: SourceMessage, box: TensorBox, held: Buffer, picture_shape: tuple[int, ...]
) -> None:
    where = f"stage {message.stage}: rows of '{box.tensor}' may come in a picture's file"
    if message.source != REQUESTER:
        raise ProtocolError(f"{where} from device {message.source}, which is not the requester")
    if plan.picture is None or plan.picture.tensor != box.tensor:
        raise ProtocolError(f"{where}, and the plan does not say how that becomes rows")
    if held.dtype != dtype_of(box.dtype):
        raise ProtocolError(f"{where} and are held as {held.dtype}")
    inside = len(box.shape) == len(picture_shape) and all(
        start + size <= room for start, size, room in zip(box.start, box.shape, picture_shape, strict=True)
    )
    if not inside:
        raise ProtocolError(f"{where}: {list(box.start)}+{list(box.shape)} lies outside {list(picture_shape)}")


def check_peer(peer: PeerAddress) -> None:
    """Checks that somebody could be connected to at an address.

    Raises:
        ProtocolError: if it is no address, or its key is none.
    """
    found = _ADDRESS.fullmatch(peer.endpoint)
    if found is None or not 0 < int(found[1]) < 65536:
        raise ProtocolError(f"'{peer.name}': {peer.endpoint!r} is no address such as 'tcp://192.168.1.11:5701'")
    if peer.public_key and not is_key(peer.public_key):
        raise ProtocolError(f"'{peer.name}': its public key is not one of 40 Z85 characters")


def _check_size(plan: DevicePlan, arrays_bytes: int) -> None:
    if arrays_bytes * plan.slots > MAX_ARRAYS_BYTES:
        raise ProtocolError(
            f"arrays of {arrays_bytes} bytes for each of {plan.slots} frames; "
            f"at most {MAX_ARRAYS_BYTES} are accepted in all"
        )


def _check_segments(plan: DevicePlan) -> int:
    """Returns the bytes of all buffers of one frame."""
    stages: dict[int, SegmentPlan] = {}
    total_bytes, last = 0, -1
    for segment in plan.segments:
        stage = segment.stage
        if not last < stage < _LAST_STAGE:
            raise ProtocolError(f"stage {stage} of {[s.stage for s in plan.segments][:20]}: stages must rise")
        for what, buffers in (("input", segment.inputs), ("output", segment.outputs)):
            for buffer in buffers:
                total_bytes += _buffer_bytes(buffer, stage, what)
            masks = [mask.name for mask in segment.masks] if what == "input" else []
            _check_once((*(buffer.name for buffer in buffers), *masks), f"stage {stage}: {what}")
            _check_once((buffer.tensor for buffer in buffers), f"stage {stage}: {what}")
        total_bytes += sum(_mask_bytes(mask, stage) for mask in segment.masks)
        for name, sizes in segment.ranges.items():
            _check_range(sizes, f"stage {stage}: '{name}'")
        if segment.after >= 0:
            _check_after(segment, stages.get(segment.after))
        stages[stage], last = segment, stage
    return total_bytes


def _buffer_bytes(buffer: Buffer, stage: int, what: str) -> int:
    where = f"stage {stage}: {what} '{buffer.name}'"
    if buffer.dtype not in DTYPES:
        raise ProtocolError(f"{where}: a buffer of dtype '{buffer.dtype}'; accepted: {sorted(DTYPES)}")
    if len(buffer.start) != len(buffer.shape):
        raise ProtocolError(f"{where}: it starts at {list(buffer.start)} and has the shape {list(buffer.shape)}")
    return math.prod(buffer.shape) * np.dtype(buffer.dtype).itemsize


def _mask_bytes(mask: RowMask, stage: int) -> int:
    rows = math.prod(mask.shape)
    if max(mask.shape, default=1) != rows or not mask.start <= mask.stop <= rows:
        raise ProtocolError(
            f"stage {stage}: mask '{mask.name}': rows {mask.start} to {mask.stop} of a buffer of {list(mask.shape)}"
        )
    return mask.size_bytes


def _check_range(sizes: ShapeRange, where: str) -> None:
    """Three shapes of one rank, none with an axis longer than the next one's."""
    shapes = (sizes.least, sizes.usual, sizes.most)
    if len(set(map(len, shapes))) != 1 or any(list(axis) != sorted(axis) for axis in zip(*shapes, strict=True)):
        raise ProtocolError(f"{where}: shapes from {list(shapes[0])} by {list(shapes[1])} to {list(shapes[2])}")


def _check_after(segment: SegmentPlan, earlier: SegmentPlan | None) -> None:
    held = {b.tensor: b.box for b in earlier.inputs} if earlier is not None else {}
    for buffer in segment.inputs:
        if held.get(buffer.tensor) != buffer.box:
            raise ProtocolError(
                f"stage {segment.stage} shares its input '{buffer.tensor}' with stage {segment.after}, "
                "which has no such input"
            )
    if earlier is None:
        raise ProtocolError(f"stage {segment.stage} comes after stage {segment.after}, which is not in the plan")


def _check_ends(plan: DevicePlan) -> None:
    """Who sends to whom, and how often."""
    me, devices = plan.device, range(len(plan.devices))
    stages = {segment.stage for segment in plan.segments}
    for what, messages in (("incoming", plan.incoming), ("outgoing", plan.outgoing), ("kept", plan.kept)):
        for message in messages:
            ends = (message.source, message.destination)
            fits = {
                "incoming": ends[1] == me != ends[0],
                "outgoing": ends[0] == me != ends[1],
                "kept": ends == (me, me),
            }[what]
            if not fits or any(end != REQUESTER and end not in devices for end in ends):
                raise ProtocolError(f"{what} rows from device {ends[0]} to device {ends[1]} in the plan of {me}")
            if message.stage >= _LAST_STAGE or (what != "outgoing" and message.stage not in stages):
                raise ProtocolError(f"{what} rows for stage {message.stage}, which is not in the plan")
            if not message.boxes or len(message.made_in) != len(message.boxes):
                raise ProtocolError(
                    f"{what} rows for stage {message.stage}: {len(message.boxes)} boxes made in "
                    f"{len(message.made_in)} stages"
                )
        _check_once(((m.stage, m.source, m.destination) for m in messages), f"{what} rows")


def _check_kept(
    message: SourceMessage, made: Mapping[tuple[int, str], Buffer], wanted: Mapping[tuple[int, str], Buffer]
) -> None:
    for made_in, box in zip(message.made_in, message.boxes, strict=True):
        target, source = _check_held(box, message.stage, wanted, "input"), _check_held(box, made_in, made, "output")
        if made_in >= message.stage:
            raise ProtocolError(f"stage {message.stage} keeps rows of '{box.tensor}' from stage {made_in}")
        if target.dtype != source.dtype:
            raise ProtocolError(f"rows of '{box.tensor}' are kept as {source.dtype} and as {target.dtype}")


def _check_held(box: TensorBox, stage: int, buffers: Mapping[tuple[int, str], Buffer], what: str) -> Buffer:
    """Returns the buffer that holds a box, at the end of a message that this device has."""
    held = buffers.get((stage, box.tensor))
    if held is None:
        raise ProtocolError(f"stage {stage} has no {what} '{box.tensor}', yet rows of it are sent or kept")
    inside = len(box.start) == len(box.shape) == len(held.shape) and all(
        mine <= start and start + size <= mine + room
        for mine, room, start, size in zip(held.start, held.shape, box.start, box.shape, strict=True)
    )
    if not inside:
        raise ProtocolError(
            f"stage {stage}: rows of '{box.tensor}': {list(box.start)}+{list(box.shape)} lies outside "
            f"{list(held.start)}+{list(held.shape)}"
        )
    return held


def _check_peers(plan: DevicePlan) -> None:
    for key, peer in plan.peers.items():
        index = int(key) if key.isascii() and key.isdigit() and len(key) < 5 else -1
        if not 0 <= index < len(plan.devices) or str(index) != key or plan.devices[index] != peer.name:
            raise ProtocolError(f"peer {key!r} is '{peer.name}', which device of {list(plan.devices)[:20]} is that?")
        check_peer(peer)
    for message in plan.outgoing:
        if message.destination != REQUESTER and str(message.destination) not in plan.peers:
            name = plan.devices[message.destination]
            raise ProtocolError(f"rows for stage {message.stage} go to '{name}', whose address the plan lacks")


def _check_once(found: Iterable[object], what: str) -> None:
    seen: set[object] = set()
    for item in found:
        if item in seen:
            raise ProtocolError(f"{what}: {item!r} stands there twice")
        seen.add(item)
