"""A strategy run in one process, without sockets: the oracle that split output is compared with, and a fallback.

Buffers, packing, wire types, placement and engine are those of a worker; only the network is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from distredge.runtime.buffers import Array, Inbox, Outbox, Slot, whole
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.engine import Engine, OnnxRuntimeEngine
from distredge.runtime.protocol.device_plan import REQUESTER, SourceMessage

if TYPE_CHECKING:
    from distredge.model.graph import Graph
    from distredge.strategy import Strategy


def run_in_process(
    graph: Graph, strategy: Strategy, inputs: Mapping[str, Array], *, engine: Engine | None = None
) -> dict[str, Array]:
    """Computes every split-part of a strategy, one after the other.

    Args:
        graph: the model.
        strategy: a strategy for it.
        inputs: tensor name -> array, shapes as in the graph (uint8 pixels when the strategy sends those).
        engine: what computes; ONNX Runtime with one thread by default.

    Returns:
        Output name -> array.

    Raises:
        StrategyError: if the strategy does not fit the graph.
        ModelError: if the inputs do not fit the graph.
        EngineError: if the engine refuses a sub-model.
    """
    return InProcess(deploy(graph, strategy), engine).infer(inputs)


class InProcess:
    """A deployment loaded once, for many frames."""

    def __init__(self, deployment: Deployment, engine: Engine | None = None) -> None:
        self.deployment = deployment
        engine = engine or OnnxRuntimeEngine()
        self._slots: list[Slot] = []
        self._runs: dict[tuple[int, int], Callable[[], None]] = {}
        for device in range(len(deployment.devices)):
            plan = deployment.device_plan(device)
            slot = Slot(plan)
            store = deployment.weights(device)
            for segment, model in zip(plan.segments, deployment.models(device), strict=True):
                weights = {name: store[digest] for name, digest in segment.weights.items()}
                stage = segment.stage
                loaded = engine.load(model, weights)
                self._runs[stage, device] = loaded.bind(slot.inputs[stage], slot.outputs[stage], stage)
            self._slots.append(slot)
        self._outboxes = {
            (box.link.stage, device, box.link.destination): box
            for device, slot in enumerate(self._slots)
            for box in slot.outboxes
        }

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one frame; see `run_in_process`."""
        deployment = self.deployment
        given = deployment.check_inputs(inputs)
        outputs = deployment.empty_outputs(given)
        links: dict[int, list[SourceMessage]] = {}
        for link in deployment.links:
            links.setdefault(link.stage, []).append(link)
        last = len(deployment.layout.stages)
        for stage in range(last + 1):
            for link in links.get(stage, ()):
                self._deliver(link, given, outputs)
            for device in range(len(deployment.devices)):
                run = self._runs.get((stage, device))
                if run is not None:
                    run()
        return outputs

    def _deliver(self, link: SourceMessage, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        if link.source == link.destination:
            if link.source != REQUESTER:
                for made_in in dict.fromkeys(link.made_in):
                    self._slots[link.source].keepers[link.stage, made_in].keep()
            return
        outbox = (
            Outbox(link, [whole(inputs[piece.tensor]) for piece in link.pieces])
            if link.source == REQUESTER
            else self._outboxes[link.stage, link.source, link.destination]
        )
        inbox = (
            Inbox(link, [whole(outputs[piece.tensor]) for piece in link.pieces])
            if link.destination == REQUESTER
            else self._slots[link.destination].inboxes[link.stage, link.source]
        )
        inbox.place(inbox.open(link.pieces, outbox.pack().parts))
