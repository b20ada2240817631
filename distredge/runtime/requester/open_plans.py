"""What the coordinator holds of a plan and of the frames in it."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, ExecutionError
from distredge.runtime.buffers import Array, Inbox, Outbox
from distredge.runtime.deployment import fill
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import Record, Weight
from distredge.runtime.protocol.row_messages import rows_form
from distredge.runtime.requester.next_actions import FrameBook, Preparation
from distredge.runtime.requester.pending import Request

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment


PREPARE_S: Final = 1800.0
"""Within which a plan must be ready, or a worker have loaded one sub-model more: hundreds of megabytes of constants
over a slow link take their time, and so does TensorRT."""


@dataclass(frozen=True)
class Prepared:
    """What it took to prepare plans on one worker.

    Attributes:
        loaded: sub-models that it loaded anew.
        load_s: seconds from the first of them until all had been run once.
        build_s: seconds for which it would have loaded them, had no engines for them lain on its disk.
        weights_sent_bytes: constants that it lacked and was sent.
    """

    loaded: int = 0
    load_s: float = 0.0
    build_s: float = 0.0
    weights_sent_bytes: int = 0

    def __add__(self, other: Prepared) -> Prepared:
        return Prepared(
            self.loaded + other.loaded,
            self.load_s + other.load_s,
            self.build_s + other.build_s,
            self.weights_sent_bytes + other.weights_sent_bytes,
        )


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
        leaves_out: see `FrameBook`.
        dynamic: workers that are given sub-models whose row axes are dynamic.

    Attributes:
        error: why it cannot be run any more, or never could.
        recovery_error: why it could be had back no more when that was tried last, nor another one in its place.
        deserted_s: since when none of its workers stands (monotonic); None while one does, or nobody has looked.
        over: why no frame can come through on it any more, nor on one in its place; None where one may.
        given_up: workers without which it must be planned anew, though they may seem to stand.
        weights: worker -> pieces of constants that it is still to be sent.
        loaded: worker -> (sub-models that it has loaded, of how many), of those that load and have said so.
        prepared: worker -> what it took there, of those that are ready.
        prepared_s: seconds from the first word of it until it could run; None before that.
        sent_bytes: worker -> bytes of constants that were sent to it; `received_bytes` that it has said to have.
    """

    def __init__(
        self,
        number: int,
        deployment: Deployment,
        slots: int,
        patience_s: float,
        leaves_out: bool = False,
        dynamic: Collection[str] = (),
    ) -> None:
        self.number = number
        self.deployment = deployment
        self.slots = slots
        self.dynamic = dynamic
        self.indices = {deployment.devices[i]: i for i in deployment.busy}
        self.book = FrameBook(deployment.devices, deployment.busy, deployment.messages, slots, leaves_out)
        names = {i: name for name, i in self.indices.items()}
        self.preparation = Preparation(names, patience_s, PREPARE_S, time.monotonic())
        self.frames: dict[int, OpenFrame] = {}
        self.error: ExecutionError | None = None
        self.given_up: tuple[str, ...] = ()
        self.recovery_error: DistredgeError | None = None
        self.deserted_s: float | None = None
        self.over: ExecutionError | None = None
        self.retiring = False
        self.retired = False
        self.told_missing: set[str] = set()
        self.weights: dict[str, Iterator[tuple[Weight, Bytes]]] = {}
        self.sent_bytes: Counter[str] = Counter()
        self.received_bytes: Counter[str] = Counter()
        self.loaded: dict[str, tuple[int, int]] = {}
        self.begun_s = time.monotonic()
        self.prepared: dict[str, Prepared] = {}
        self.prepared_s: float | None = None
        self.unsent: dict[str, tuple[Weight, Bytes]] = {}
        self.records: deque[Record] = deque(maxlen=8192)
        self.output_forms = {m.source: rows_form(m.boxes) for m in deployment.output_messages}
        self._outboxes: list[list[Outbox]] | None = None

    def stands(self) -> float:
        """Notes that frames can be run on it; returns the seconds since the first word of it."""
        self.prepared_s = time.monotonic() - self.begun_s
        return self.prepared_s

    def outboxes(self, slot: int, inputs: Mapping[str, Array]) -> list[Outbox]:
        """Returns what packs the inputs of a frame, one for each message; the packs of a slot are used again.

        Args:
            slot: of the frame.
            inputs: tensor name -> array, such as (N, C, H, W): what `Deployment.check_inputs` returned.
        """
        if self._outboxes is None:
            self._outboxes = [
                [Outbox(message) for message in self.deployment.input_messages] for _ in range(self.slots)
            ]
        for outbox in self._outboxes[slot]:
            fill(outbox, self.deployment, inputs)
        return self._outboxes[slot]

    def weights_of(self, worker: str) -> dict[str, Array]:
        """The constants that a worker must hold: content hash -> (d0, d1, ...) as in the graph."""
        return self.deployment.weights(self.indices[worker], worker in self.dynamic)

    @property
    def dynamic_volumes(self) -> int:
        """Volumes of which some worker runs a sub-model with dynamic rows."""
        programs = [self.deployment.program(self.indices[worker], True) for worker in self.dynamic]
        stages = self.deployment.layout.stages
        return len({stages[s.stage].volume for program in programs for s in program.segments if s.ranges})

    def work_of(self, device: int) -> int:
        """Elements that the segments of a device make: how much it has to do, roughly."""
        segments = self.deployment.programs[device].segments
        return sum(math.prod(port.shape) for segment in segments for port in segment.outputs)
