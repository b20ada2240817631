"""A plan that is loaded: its arrays, its sub-models, and where its rows go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from distredge.errors import EngineError
from distredge.model import model_digest
from distredge.runtime.buffers import Array, Slot, zeros
from distredge.runtime.engine import Engine, GivesMemory, Loaded
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import DevicePlan
from distredge.runtime.protocol.transport import Endpoint

RECORDS_KEPT: Final = 8192
_Record: TypeAlias = tuple[str, int, int, int, int, int, int, int]
"""The fields of a `Record`, which is made of it when somebody asks: most are never asked for."""


@dataclass
class Peer:
    """Another worker that rows are sent to."""

    address: PeerAddress
    endpoint: Endpoint
    connected: bool = False
    greeted: bool = False
    trouble: str = ""


@dataclass(eq=False)
class LoadedPlan:
    """A plan with its arrays and its sub-models.

    Attributes:
        models: its sub-models, which another plan may share.
        runs: per slot: stage -> what computes it.
        fresh: seconds that each took which was loaded for it, by digest, its first run included if there was one.
        load_s: seconds that all of it took.
        build_s: seconds that those would have taken, had nothing lain on the disk that was built for them before.
        routes: per outgoing message: the worker that it goes to, None for the requester; once peers are dialled.
    """

    plan: DevicePlan
    slots: tuple[Slot, ...]
    models: tuple[Loaded, ...]
    runs: tuple[Mapping[int, Callable[[], None]], ...]
    memory_bytes: int
    fresh: dict[bytes, float]
    load_s: float
    build_s: float = 0.0
    records: deque[_Record] = field(default_factory=lambda: deque(maxlen=RECORDS_KEPT))
    routes: tuple[Peer | None, ...] = ()

    @property
    def number(self) -> int:
        """Of the plan."""
        return self.plan.plan


def load_plan(
    plan: DevicePlan,
    models: Sequence[bytes],
    weights: Mapping[str, Array],
    engine: Engine,
    known: MutableMapping[bytes, Loaded],
    on_loaded: Callable[[], None] = lambda: None,
) -> LoadedPlan:
    """Loads the sub-models of a plan and makes its arrays.

    Args:
        plan: what to load.
        models: one sub-model per segment.
        weights: constants by content hash: (d0, d1, ...), shape and dtype as in the graph.
        engine: what runs them.
        known: sub-models that are loaded already, by digest; those loaded now are added.
        on_loaded: called after each sub-model.

    Raises:
        EngineError: if the engine refuses a sub-model.
        ProtocolError: if the plan contradicts itself.
    """
    started_s = time.monotonic()
    fresh: dict[bytes, float] = {}
    room = engine.room if isinstance(engine, GivesMemory) else zeros
    slots = tuple(Slot(plan, room) for _ in range(plan.slots))
    held: list[Loaded] = []
    runs: list[dict[int, Callable[[], None]]] = [{} for _ in slots]
    for segment, model in zip(plan.segments, models, strict=True):
        key, stage = model_digest(model, segment.weights, segment.ranges), segment.stage
        try:
            loaded, begun_s = known.get(key), time.monotonic()
            if loaded is None:
                fresh[key] = 0.0
                named = {name: weights[digest] for name, digest in segment.weights.items()}
                loaded = known[key] = engine.load(model, named, segment.ranges)
            held.append(loaded)
            for slot, run in zip(slots, runs, strict=True):
                run[stage] = loaded.bind(slot.inputs[stage], slot.outputs[stage], stage)
            if key in fresh:
                fresh[key] += time.monotonic() - begun_s
        except EngineError as error:
            raise EngineError(f"stage {stage}: {error}") from error
        on_loaded()
    memory_bytes = sum(slot.size_bytes for slot in slots) + sum(array.nbytes for array in weights.values())
    return LoadedPlan(plan, slots, tuple(held), tuple(runs), memory_bytes, fresh, time.monotonic() - started_s)
