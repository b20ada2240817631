"""A worker's plans from the first word of them until they are forgotten: checked, given memory, loaded, told.

Sub-models are loaded in a thread per plan, one after the other, since that can take seconds or minutes; everything
else belongs to the thread of the control plane.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from distredge.errors import EngineError, ProtocolError
from distredge.model import model_digest
from distredge.runtime.buffers import Array
from distredge.runtime.engine import Closable, Engine, Loaded, built_s, lives
from distredge.runtime.protocol.checked_plan import check_plan
from distredge.runtime.protocol.device_plan import DevicePlan
from distredge.runtime.protocol.fields import Bytes
from distredge.runtime.protocol.messages import (
    Failed,
    Missing,
    Prepare,
    PreparingPlan,
    Progress,
    Ready,
    ToCoordinator,
    Weight,
)
from distredge.runtime.protocol.prepare_parts import read_prepare
from distredge.runtime.provider_options import CPU
from distredge.runtime.weights import WeightStore
from distredge.runtime.worker.allocator import give_memory_back
from distredge.runtime.worker.data_plane import AddPlan, DataPlane, PlanStands, RemovePlan
from distredge.runtime.worker.kept_constants import KeptConstants, ReadEnd
from distredge.runtime.worker.loaded_plan import LoadedPlan, load_plan
from distredge.runtime.worker.memory_account import (
    MemoryAccount,
    ModelNeed,
    OverLimit,
    arrays_bytes,
    laid_out_anew,
    resident_bytes,
)
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.supervisor import Supervisor
from distredge.runtime.worker.thread_priority import stand_back

PROGRESS_BYTES: Final = 8 * 1024 * 1024
"""How much of the constants comes in between two signs of life."""

MAX_PLANS: Final = 16

LOADING_NICE: Final = 5
"""Frames that run meanwhile come first: this much lower is the priority of what is loaded for later ones.

On cores that frames keep busy a new VGG-16 stands after 0.7 s, and holds a frame up for 1.0 times its own time; with 10
it takes 1.5 s and 0.8 to 1.2 times, with 3 0.5 s and 1.5 times.
"""

_log = logging.getLogger(__name__)


@dataclass
class _Preparing:
    plan: DevicePlan
    models: tuple[bytes, ...]
    missing: set[str]
    reading: set[str] = field(default_factory=set)
    received_bytes: int = 0
    told_bytes: int = 0
    loaded: int = 0

    def count_loaded(self) -> None:
        """Notes one more sub-model; called by the thread that loads them."""
        self.loaded += 1


class _LoadEnd(NamedTuple):
    """How loading a plan ended: `loaded` and the digests of new sub-models, or `kind` and `reason` of its failure."""

    plan: int
    loaded: LoadedPlan | None
    kind: str = ""
    reason: str = ""
    fresh: tuple[bytes, ...] = ()
    grew_bytes: int = 0


class Preparations:
    """All plans of one worker.

    Args:
        settings: name and limits.
        engine: loads sub-models.
        data: runs the plans that are ready.
        supervisor: starts threads.
        wake: called by them when something has ended; `take_outcomes` is called then.
        tell: sends a message to the holder of the worker.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        data: DataPlane,
        supervisor: Supervisor,
        wake: Callable[[], None],
        tell: Callable[[ToCoordinator], None],
    ) -> None:
        self._name = settings.name
        limits_bytes = [b for b in (settings.weights_bytes, settings.memory_bytes) if b is not None]
        self._store = WeightStore(min(limits_bytes))
        self._account = MemoryAccount(settings.memory_bytes, self._store)
        self._kept = KeptConstants(settings.disk, self._store, supervisor, wake)
        self._engine = engine
        self._data = data
        self._supervisor = supervisor
        self._wake = wake
        self._tell = tell
        self._preparing: dict[int, _Preparing] = {}
        self._plans: dict[int, DevicePlan] = {}
        self._loaders: dict[int, threading.Thread] = {}
        self._ends: queue.SimpleQueue[_LoadEnd] = queue.SimpleQueue()
        # One plan is loaded at a time: engines ask for it, and the process's growth is then that plan's.
        self._loading = threading.Lock()
        # Alive as long as some plan uses them: a new plan shares what the old one has, such as the head.
        self._models: weakref.WeakValueDictionary[bytes, Loaded] = weakref.WeakValueDictionary()

    def prepare(self, message: Prepare, parts: Sequence[Bytes]) -> None:
        """Begins with a plan; says which constants are missing, or why it cannot be."""
        number = message.plan
        if number in {*self._plans, *self._preparing, *self._loaders}:
            raise ProtocolError(f"plan {number} is here already")
        try:
            if len(self._plans) + len(self._preparing) >= MAX_PLANS or len(self._loaders) >= 2 * MAX_PLANS:
                raise OverLimit(f"{MAX_PLANS} plans are here already; retire one first")
            plan, models = read_prepare(message, parts)
            check_plan(plan)
            if plan.devices[plan.device] != self._name:
                raise ProtocolError(
                    f"a plan for '{plan.devices[plan.device]}', device {plan.device} of {list(plan.devices)}: "
                    f"this is '{self._name}'"
                )
            missing = self._store.pin(number, {d for segment in plan.segments for d in segment.weights.values()})
            preparing = _Preparing(plan, models, set(missing))
            self._preparing[number] = preparing
            needs = {
                model_digest(model, segment.weights, segment.ranges): ModelNeed(len(model), laid_out_anew(segment))
                for model, segment in zip(models, plan.segments, strict=True)
            }
            self._account.enter(number, arrays_bytes(plan), needs)
            preparing.reading = self._from_disk(number, missing)
        except (ProtocolError, OverLimit, MemoryError) as error:
            self._fail(number, _kind(error), _reason(error))
            return
        if not preparing.reading:
            self._ask(preparing)

    def weight(self, message: Weight, parts: Sequence[Bytes]) -> None:
        """Takes one piece of a constant in."""
        preparing = self._preparing.get(message.plan)
        if preparing is None or preparing.reading:  # nothing was asked for yet
            return
        if len(parts) != 1:
            raise ProtocolError(f"{len(parts)} parts with a piece of a constant")
        size_bytes = memoryview(parts[0]).nbytes
        preparing.received_bytes += size_bytes
        if preparing.received_bytes - preparing.told_bytes >= PROGRESS_BYTES:
            preparing.told_bytes = preparing.received_bytes
            self._tell(Progress(message.plan, preparing.received_bytes))
        try:
            begins_bytes = self._store.begins(message, size_bytes)
            if begins_bytes:
                self._account.admit(message.plan, message.digest, begins_bytes)
            complete = self._store.receive(message, parts[0])
        except (ProtocolError, OverLimit, MemoryError) as error:
            self._fail(message.plan, _kind(error), _reason(error))
            return
        if complete and message.digest in preparing.missing:
            self._kept.write(message.digest)
            preparing.missing.discard(message.digest)
            if not preparing.missing:
                self._load(preparing)

    def retire(self, plan: int) -> None:
        """Forgets a plan; its constants stay while there is room."""
        self._preparing.pop(plan, None)
        if self._plans.pop(plan, None) is not None:
            self._data.instruct(RemovePlan(plan))
        if plan not in self._loaders:
            self._release(plan)

    def retire_all(self) -> None:
        """Forgets all plans."""
        for plan in [*self._plans, *self._preparing]:
            self.retire(plan)

    @property
    def under_way(self) -> bool:
        """Whether a plan is being prepared."""
        return bool(self._preparing or self._loaders)

    def say_alive(self) -> None:
        """Tells of plans that are being loaded, which can take minutes: TensorRT builds its engines then.

        So it does of those whose constants are read from the disk, or come in over a slow link.
        """
        for number, preparing in self._preparing.items():
            if number in self._loaders or preparing.reading:
                self._tell(Progress(number, preparing.received_bytes, preparing.loaded, len(preparing.models)))
            elif preparing.received_bytes > preparing.told_bytes:
                preparing.told_bytes = preparing.received_bytes
                self._tell(Progress(number, preparing.received_bytes))

    def states(self) -> tuple[PreparingPlan, ...]:
        """How far the plans are that are not ready yet."""
        return tuple(PreparingPlan(n, p.loaded, len(p.models)) for n, p in self._preparing.items())

    def take_outcomes(self) -> None:
        """Goes on with the plans that have been loaded, and tells of those that stand or fail."""
        for end in self._kept.take_ends():
            if self._store.end_reading(*end):
                self._read(end)
        while not self._ends.empty():
            self._loaded(self._ends.get())
        while self._data.outcomes:
            outcome = self._data.outcomes.popleft()
            if isinstance(outcome, PlanStands):
                loaded = outcome.loaded
                if loaded.plan.plan in self._plans:
                    ready = loaded.plan.plan, loaded.memory_bytes, loaded.load_s, len(loaded.fresh), loaded.build_s
                    self._tell(Ready(*ready))
            elif self._plans.pop(outcome.plan, None) is not None:
                self._fail(outcome.plan, outcome.kind, outcome.reason)

    def join(self) -> None:
        """Waits until no plan is being loaded; constants that are not on the disk yet do not come there.

        An engine's own process ends at once, whatever it loads.
        """
        self._kept.stop()
        if isinstance(self._engine, Closable):
            self._engine.close()
        for thread in self._loaders.values():
            thread.join()

    def _from_disk(self, plan: int, missing: Iterable[str]) -> set[str]:
        """Begins to read those of the constants that a plan lacks which are on the disk; returns which.

        Raises:
            OverLimit: if there is no room for them.
        """
        found = set()
        for digest in missing:
            if not self._store.reads(digest):
                form = self._kept.form(digest)
                if form is None:
                    continue
                self._account.admit(plan, digest, form.size_bytes)
                self._kept.read(digest, self._store.begin_reading(digest, form.dtype, form.shape))
            found.add(digest)
        return found

    def _read(self, end: ReadEnd) -> None:
        """Goes on with the plans that waited for a constant from the disk; one that is damaged has to be sent."""
        for preparing in tuple(self._preparing.values()):
            if end.digest in preparing.reading:
                preparing.reading.discard(end.digest)
                if end.whole:
                    preparing.missing.discard(end.digest)
                if not preparing.reading:
                    self._ask(preparing)

    def _ask(self, preparing: _Preparing) -> None:
        """Says what is missing; loads the plan if that is nothing."""
        self._tell(Missing(preparing.plan.plan, tuple(sorted(preparing.missing))))
        if not preparing.missing:
            self._load(preparing)

    def _loaded(self, end: _LoadEnd) -> None:
        self._loaders.pop(end.plan).join()
        if end.plan not in self._preparing:
            self._release(end.plan)
        elif end.loaded is None:
            self._fail(end.plan, end.kind, end.reason)
        else:
            try:
                self._account.loaded(end.plan, arrays_bytes(end.loaded.plan), end.fresh, end.grew_bytes)
            except OverLimit as error:
                self._fail(end.plan, "memory", str(error))
                return
            self._plans[end.plan] = self._preparing.pop(end.plan).plan
            self._data.instruct(AddPlan(end.loaded))

    def _fail(self, plan: int, kind: str, reason: str) -> None:
        self._preparing.pop(plan, None)
        self._release(plan)
        _log.warning("plan %d: %s", plan, reason)
        self._tell(Failed(plan, kind, reason[:2000]))

    def _release(self, plan: int) -> None:
        self._account.leave(plan)
        self._store.unpin(plan)

    def _load(self, preparing: _Preparing) -> None:
        plan, weights = preparing.plan, self._store.take(preparing.plan.plan)

        def work() -> None:
            with self._loading:
                wanted = plan.plan in self._preparing
                end = self._load_now(preparing, weights) if wanted else _LoadEnd(plan.plan, None)
            self._ends.put(end)
            self._wake()

        try:
            self._loaders[plan.plan] = self._supervisor.start(f"load-{plan.plan}", work, daemon=True)
        except (RuntimeError, MemoryError) as error:
            self._fail(plan.plan, "memory", f"no thread to load it in: {error}")

    def _warms_up_now(self) -> bool:
        """Whether new sub-models are run once: not at the cost of another plan's frames, unless that takes seconds.

        On one core a first run is hardly slower than others, and takes from frames as much as loading does.
        """
        return self._engine.warms_up and not (self._plans and _steps_back(self._engine))

    def _load_now(self, preparing: _Preparing, weights: Mapping[str, Array]) -> _LoadEnd:
        """Loads a plan; whatever goes wrong is the plan's failure, not the worker's."""
        plan = preparing.plan
        try:
            _step_back(self._engine)
            before_bytes = resident_bytes()
            known = {digest: model for digest, model in dict(self._models).items() if lives(model)}
            loaded = load_plan(plan, preparing.models, weights, self._engine, known, preparing.count_loaded)
            fresh = {digest: known[digest] for digest in loaded.fresh}
            if self._warms_up_now():
                _warm_up(loaded, preparing.models)
            loaded.build_s = sum(built_s(known[digest], took_s) for digest, took_s in loaded.fresh.items())
            # Only now may another plan run them: nobody else did so until here.
            self._models.update(fresh)
            give_memory_back()
            grew_bytes = max(0, resident_bytes() - before_bytes)
            return _LoadEnd(plan.plan, loaded, fresh=tuple(fresh), grew_bytes=grew_bytes)
        except Exception as error:  # an engine may raise anything
            _log.info("plan %d cannot be loaded", plan.plan, exc_info=error)
            return _LoadEnd(plan.plan, None, _kind(error), _reason(error))


def _steps_back(engine: Engine) -> bool:
    return engine.threads == 1 and engine.providers[0] == CPU


def _warm_up(loaded: LoadedPlan, models: Sequence[bytes]) -> None:
    """Runs each new sub-model once, so that the plan's first frame is as fast as the others.

    TensorRT and CUDA build then what they run, and memory is taken while the account still looks.
    """
    for segment, model in zip(loaded.plan.segments, models, strict=True):
        digest, begun_s = model_digest(model, segment.weights, segment.ranges), time.monotonic()
        if digest in loaded.fresh:
            try:
                loaded.runs[0][segment.stage]()
            except EngineError as error:
                raise EngineError(f"stage {segment.stage}: {error}") from error
            took_s = time.monotonic() - begun_s
            loaded.fresh[digest] += took_s
            loaded.load_s += took_s


def _step_back(engine: Engine) -> None:
    """Lets this thread stand back behind those that compute frames.

    Threads that an engine starts while it loads would inherit that for good: only where it starts none.
    """
    if _steps_back(engine):
        stand_back(LOADING_NICE)


def _kind(error: Exception) -> str:
    if isinstance(error, (OverLimit, MemoryError)):
        return "memory"
    return "protocol" if isinstance(error, ProtocolError) else "engine"


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory for the plan: {error}" if str(error) else "not enough memory for the plan"
    if isinstance(error, (ProtocolError, OverLimit, EngineError)):
        return str(error)
    return f"{type(error).__name__}: {error}"
