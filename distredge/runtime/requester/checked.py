"""Whether what a worker says fits the plan that it was given: another program, or an older one, may say anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from distredge.runtime.protocol.device_plan import REQUESTER
from distredge.runtime.protocol.messages import Missing, Ready, Record, Records, Situation, ToCoordinator, Told

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment

_KINDS: Final = ("compute", "send", "receive")


def fits(message: ToCoordinator, deployment: Deployment, device: int) -> bool:
    """Returns whether a message of a worker makes sense.

    Args:
        message: which names a plan.
        deployment: what that plan was made from.
        device: whose message it is.
    """
    if isinstance(message, Told):
        told = message.situation
        return told is None or (
            (told.plan, told.frame) == (message.plan, message.frame) and _fits_situation(told, deployment, device)
        )
    if isinstance(message, Records):
        return all(_fits_record(record, deployment) for record in message.records)
    if isinstance(message, Ready):
        return message.loaded <= len(deployment.programs[device].segments)
    if isinstance(message, Missing):
        return len(set(message.digests)) == len(message.digests)
    return True


def _fits_situation(told: Situation, deployment: Deployment, device: int) -> bool:
    stages = {segment.stage for segment in deployment.programs[device].segments}
    return (
        set(told.done) <= stages
        and (told.waits_in == -1 or told.waits_in in stages)
        and all(_is_device(source, deployment) for source in told.waits_for)
    )


def _fits_record(record: Record, deployment: Deployment) -> bool:
    return (
        record.kind in _KINDS
        and 0 <= record.stage <= len(deployment.layout.stages)
        and _is_device(record.peer, deployment)
    )


def _is_device(index: int, deployment: Deployment) -> bool:
    return REQUESTER <= index < len(deployment.devices)
