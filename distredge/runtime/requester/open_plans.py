"""What the coordinator holds of a plan and of the frames in it."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from distredge.errors import DistredgeError, ExecutionError
from distredge.runtime.buffers import Array, Inbox, Outbox, whole
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import Record, Weight
from distredge.runtime.protocol.row_messages import rows_form
from distredge.runtime.requester.next_actions import FrameBook, Preparation

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment


PREPARE_S: Final = 1800.0
"""Within which a plan must be ready: hundreds of megabytes of constants over a slow link take their time."""


class Waiting(Protocol):
    """What can wait for a frame: the coordinator."""

    def wait(self, pending: Pending) -> None:
        """Waits until a frame has ended."""


class Pending:
    """A frame that was submitted.

    Attributes:
        latency_s: seconds from submitting to the last output, once it has ended well.
    """

    def __init__(self, coordinator: Waiting) -> None:
        self._coordinator = coordinator
        self.outputs: dict[str, Array] | None = None
        self.error: DistredgeError | None = None
        self.latency_s: float | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.outputs is not None or self.error is not None

    def result(self) -> dict[str, Array]:
        """Waits for the outputs: name -> array, such as (N, classes), shape and dtype as in the graph.

        Raises:
            PeerTimeout: at the frame's deadline, or at once when a worker is lost.
            EngineError, TransportError: what a worker reported.
        """
        self._coordinator.wait(self)
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs


@dataclass(eq=False)
class Request:
    """A frame that was asked for.

    Attributes:
        pending: what the caller holds.
        inputs: name -> array, such as (N, C, H, W), dtype as the strategy sends it.
        started_ns, until_s: when it was submitted and when it must have ended (monotonic).
        lost: why it has to be run again.
    """

    pending: Pending
    inputs: dict[str, Array]
    started_ns: int
    until_s: float
    lost: ExecutionError | None = None


@dataclass(eq=False)
class OpenFrame:
    """A frame in flight."""

    request: Request
    outputs: dict[str, Array]
    inboxes: dict[int, Inbox]


class OpenPlan:
    """A deployment on its way to the workers, or standing there.

    Args:
        number: unique among all plans.
        deployment: what is run.
        slots: frames that may be in flight.
        patience_s: how long a worker may be silent while preparing.
    """

    def __init__(self, number: int, deployment: Deployment, slots: int, patience_s: float) -> None:
        self.number = number
        self.deployment = deployment
        self.slots = slots
        self.indices = {deployment.devices[i]: i for i in deployment.busy}
        outputs = [message.source for message in deployment.output_messages]
        self.book = FrameBook(deployment.devices, deployment.busy, outputs, slots)
        names = {i: name for name, i in self.indices.items()}
        self.preparation = Preparation(names, patience_s, PREPARE_S, time.monotonic())
        self.frames: dict[int, OpenFrame] = {}
        self.numbers = itertools.count()
        self.error: ExecutionError | None = None
        self.retiring = False
        self.weights: dict[str, Iterator[tuple[Weight, Bytes]]] = {}
        self.unsent: dict[str, tuple[Weight, Bytes]] = {}
        self.records: deque[Record] = deque(maxlen=8192)
        self.output_forms = {m.source: rows_form(m.boxes) for m in deployment.output_messages}
        self._outboxes: list[list[Outbox]] | None = None

    def outboxes(self, slot: int, inputs: Mapping[str, Array]) -> list[Outbox]:
        """Returns what packs the inputs of a frame, one for each message; the packs of a slot are used again.

        Args:
            slot: of the frame.
            inputs: tensor name -> array, such as (N, C, H, W): what `Deployment.check_inputs` returned.
        """
        if self._outboxes is None:
            self._outboxes = [
                [
                    Outbox(message, [whole(inputs[box.tensor]) for box in message.boxes])
                    for message in self.deployment.input_messages
                ]
                for _ in range(self.slots)
            ]
        for outbox in self._outboxes[slot]:
            outbox.take_from([whole(inputs[box.tensor]) for box in outbox.message.boxes])
        return self._outboxes[slot]
