"""A plan and its sub-models as they travel behind `messages.Prepare`: cut into parts, and put together again.

A worker bounds every frame that comes in. What a plan needs can be longer, so that plan and sub-models follow each
other as one sequence of bytes, cut into parts of `PART_BYTES` as rows are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from distredge.errors import ProtocolError
from distredge.runtime.protocol.device_plan import PART_BYTES, DevicePlan
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import Prepare

MAX_PREPARE_BYTES: Final = 32 * 1024 * 1024
"""Plan and sub-models of one device, without large constants: what a worker takes in before it can look at it."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[DevicePlan] = msgspec.msgpack.Decoder(DevicePlan)


def prepare_parts(plan: DevicePlan, models: Sequence[bytes]) -> tuple[Prepare, list[Bytes]]:
    """Returns the message that asks to prepare a plan, and the parts that follow it.

    Args:
        plan: the device's plan.
        models: one sub-model per segment, in the plan's order.

    Raises:
        ProtocolError: if they are longer than a worker accepts.
    """
    encoded = _encoder.encode(plan)
    content = b"".join((encoded, *models))
    if len(content) > MAX_PREPARE_BYTES:
        raise ProtocolError(
            f"the plan of '{plan.devices[plan.device]}' and its sub-models are {len(content)} bytes; "
            f"at most {MAX_PREPARE_BYTES} are accepted"
        )
    message = Prepare(plan.plan, len(encoded), tuple(map(len, models)), zlib.crc32(content))
    view = memoryview(content)
    return message, [view[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]


def read_prepare(message: Prepare, parts: Sequence[Bytes]) -> tuple[DevicePlan, tuple[bytes, ...]]:
    """Puts a plan and its sub-models together again.

    Args:
        message: what it says of them.
        parts: the frames that followed it.

    Returns:
        The plan, not compared with anything yet (`checked_plan`), and one sub-model per segment.

    Raises:
        ProtocolError: if they are not what the message says.
    """
    total_bytes = message.plan_bytes + sum(message.model_bytes)
    if total_bytes > MAX_PREPARE_BYTES:
        raise ProtocolError(f"a plan with sub-models of {total_bytes} bytes; at most {MAX_PREPARE_BYTES} are accepted")
    found_bytes = sum(memoryview(part).nbytes for part in parts)
    if found_bytes != total_bytes:
        raise ProtocolError(f"{found_bytes} bytes of a plan with sub-models where {total_bytes} are due")
    content = b"".join(parts)
    if zlib.crc32(content) != message.checksum:
        raise ProtocolError("a plan with sub-models whose checksum does not match")
    try:
        plan = _decoder.decode(memoryview(content)[: message.plan_bytes])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a plan that cannot be read: {error}") from error
    if plan.plan != message.plan:
        raise ProtocolError(f"plan {plan.plan} where plan {message.plan} was announced")
    if len(message.model_bytes) != len(plan.segments):
        raise ProtocolError(f"{len(message.model_bytes)} sub-models for {len(plan.segments)} segments")
    models, at = [], message.plan_bytes
    for size_bytes in message.model_bytes:
        models.append(content[at : at + size_bytes])
        at += size_bytes
    return plan, tuple(models)
