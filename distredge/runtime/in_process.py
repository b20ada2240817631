"""A strategy run in one process, without sockets: the oracle that split output is compared with, and a fallback.

Buffers, packing, wire types, placement and engine are those of a worker; only the network is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from distredge.runtime.buffers import Array, Inbox, Outbox, Slot, whole
from distredge.runtime.deployment import Deployment, deploy, fill
from distredge.runtime.engine import Engine, OnnxRuntimeEngine
from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.strategy import Strategy


def run_in_process(
    graph: Graph,
    strategy: Strategy,
    inputs: Mapping[str, Array],
    *,
    engine: Engine | None = None,
    dynamic_rows: bool = False,
) -> dict[str, Array]:
    """Computes every split-part of a strategy, one after the other.

    Args:
        graph: the model.
        strategy: a strategy for it.
        inputs: tensor name -> array, shape as in the graph, such as (N, C, H, W), dtype as in
            `Deployment.input_dtypes`.
        engine: what computes; ONNX Runtime with one thread by default.
        dynamic_rows: whether sub-models have dynamic rows where they can.

    Returns:
        Output name -> array, shape, such as (N, classes), and dtype as in the graph.

    Raises:
        StrategyError: if the strategy does not fit the graph.
        ModelError: if the inputs do not fit the graph.
        EngineError: if the engine refuses a sub-model.
    """
    return InProcess(deploy(graph, strategy), engine, dynamic_rows).infer(inputs)


class InProcess:
    """A deployment loaded once, for many frames."""

    def __init__(self, deployment: Deployment, engine: Engine | None = None, dynamic_rows: bool = False) -> None:
        self.deployment = deployment
        engine = engine or OnnxRuntimeEngine()
        self._slots: list[Slot] = []
        self._runs: dict[tuple[int, int], Callable[[], None]] = {}
        for device in range(len(deployment.devices)):
            plan = deployment.device_plan(device, dynamic_rows=dynamic_rows)
            slot = Slot(plan)
            store = deployment.weights(device, dynamic_rows)
            for segment, model in zip(plan.segments, deployment.models(device, dynamic_rows), strict=True):
                weights = {name: store[digest] for name, digest in segment.weights.items()}
                stage = segment.stage
                loaded = engine.load(model, weights, segment.ranges)
                self._runs[stage, device] = loaded.bind(slot.inputs[stage], slot.outputs[stage], stage)
            self._slots.append(slot)
        self._outboxes = {
            (box.message.stage, device, box.message.destination): box
            for device, slot in enumerate(self._slots)
            for box in slot.outboxes
        }

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one frame: inputs such as (N, C, H, W) and outputs such as (N, classes), see `run_in_process`."""
        deployment = self.deployment
        given = deployment.check_inputs(inputs)
        outputs = deployment.empty_outputs(given)
        messages: dict[int, list[SourceMessage]] = {}
        for message in deployment.messages:
            messages.setdefault(message.stage, []).append(message)
        last = len(deployment.layout.stages)
        for stage in range(last + 1):
            for message in messages.get(stage, ()):
                self._deliver(message, given, outputs)
            for device in range(len(deployment.devices)):
                run = self._runs.get((stage, device))
                if run is not None:
                    run()
        return outputs

    def _deliver(self, message: SourceMessage, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        if message.source == message.destination:
            if message.source != REQUESTER:
                for made_in in dict.fromkeys(message.made_in):
                    self._slots[message.source].keepers[message.stage, made_in].keep()
            return
        if message.source == REQUESTER:
            outbox = Outbox(message)
            fill(outbox, self.deployment, inputs)
        else:
            outbox = self._outboxes[message.stage, message.source, message.destination]
        inbox = (
            Inbox(message, [whole(outputs[box.tensor]) for box in message.boxes])
            if message.destination == REQUESTER
            else self._slots[message.destination].inboxes[message.stage, message.source]
        )
        inbox.place(inbox.open(outbox.pack().frames))
