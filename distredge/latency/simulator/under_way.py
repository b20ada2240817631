"""What is under way in a simulation: images, their parts and messages, and the connections that carry them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Work:
    """One non-empty part of one image.

    Attributes:
        seconds: how long it computes.
        lead_s: how long after its start its messages leave.
        missing: messages that have not arrived.
        inputs: those that have, in that order.
        line_s: when they are handled, if the device has nothing else to do.
        receive_s, send_s: seconds for which the device handles what it needs and what it makes.
        ready_s, start_s, stop_s, free_s: when the last input was there, when it started and ended, from when on its
            device is free; NaN before.
        cause: what its start waited for: the message that it waited for last or the part before it.
    """

    frame: int
    stage: int
    device: int
    seconds: float
    lead_s: float
    missing: int
    outgoing: list[Message] = field(default_factory=list)
    inputs: list[Message] = field(default_factory=list)
    line_s: float = 0.0
    receive_s: float = 0.0
    send_s: float = 0.0
    ready_s: float = math.nan
    start_s: float = math.nan
    stop_s: float = math.nan
    free_s: float = math.nan
    cause: Work | Message | None = None

    @property
    def busy_s(self) -> float:
        """Seconds for which it occupies its device: handling its messages and computing."""
        return self.receive_s + self.seconds + self.send_s


@dataclass(slots=True, eq=False)
class Message:
    """What one stage of one image needs from one source.

    Attributes:
        stage: the stage that needs it; the number of stages for results.
        packed_bytes: bytes of float32 that are packed into it; what it carries plain does not count.
        decoding_s: seconds that its destination decodes the picture whose file it is, before the part starts.
        destination_work: the part that waits for it; None for results.
        leave_s: what it carries is there; ready_s: it could go over the connection; wire_s: it does; sent_s: its last
            bit is over; arrived_s: it is in place.
        cause: what its way over the connection waited for.
    """

    frame: int
    stage: int
    source: int
    destination: int
    size_bytes: int
    packed_bytes: int
    tensors: tuple[str, ...]
    destination_work: Work | None
    decoding_s: float = 0.0
    leave_s: float = math.nan
    ready_s: float = math.nan
    wire_s: float = math.nan
    sent_s: float = math.nan
    arrived_s: float = math.nan
    cause: Work | Message | None = None
    left_bits: float = 0.0


@dataclass(slots=True, eq=False)
class Connection:
    """An ordered pair of boards: which message is on it, and which come next of each image."""

    source: int
    destination: int
    current: Message | None = None
    last: Message | None = None
    queues: dict[int, list[Message]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class SimulatedFrame:
    """One image: its parts by device in stage order, first at the end, and what the requester still waits for.

    `last` is the result that the requester waited for last, `tail` what it has handled from then on.
    """

    number: int
    start_s: float
    pending: list[list[Work]]
    works: list[Work]
    messages: list[Message]
    first: list[Message]
    results: int
    to_start: int
    last: Message | Work | None = None
    tail: list[Message] = field(default_factory=list)
    done_s: float = math.nan
