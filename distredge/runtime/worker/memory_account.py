"""What a worker's plans take of its memory: one account for arrays, constants and engine, asked before any is taken.

The engine's share is an estimate until a sub-model is loaded: the sub-model, and its constants once more, since ONNX
Runtime lays them out anew for its kernels; those that it is fed as inputs it reads where they are. Then it is what the
process grew by, where that was more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from distredge.errors import ExecutionError
from distredge.model import AS_INPUT
from distredge.model.wires import is_packed
from distredge.runtime.buffers import shareable
from distredge.runtime.protocol.device_plan import DevicePlan, SegmentPlan
from distredge.runtime.weights import WeightStore

REMEMBERED: Final = 256
"""Sub-models that are here no more whose real size is still known."""

_STATM: Final = Path("/proc/self/statm")
_TASKS: Final = Path("/proc/self/task")
_MB: Final = 1e6


class OverLimit(ExecutionError):
    """Something would take more memory than the worker may use."""


class ModelNeed(NamedTuple):
    """A sub-model of a plan, as the account sees it: its bytes, and the constants of which the engine has its own."""

    size_bytes: int
    constants: frozenset[str]


class MemoryAccount:
    """Of one worker; used by the thread of its control plane.

    Args:
        limit_bytes: what all may take together; None: the memory of this machine.
        store: the constants that are held, and those that are coming in.
    """

    def __init__(self, limit_bytes: int | None, store: WeightStore) -> None:
        self.limit_bytes = machine_bytes() if limit_bytes is None else limit_bytes
        self._store = store
        self._arrays: dict[int, int] = {}
        # By sub-model, since plans share those that they have in common.
        self._models: dict[bytes, ModelNeed] = {}
        self._grew: dict[bytes, int] = {}
        self._uses: dict[int, frozenset[bytes]] = {}

    def enter(self, plan: int, arrays_bytes: int, models: Mapping[bytes, ModelNeed]) -> None:
        """Takes a plan in.

        Args:
            plan: its number.
            arrays_bytes: what its arrays take (`arrays_bytes`).
            models: its sub-models by their digest.

        Raises:
            OverLimit: if there is no room for it; it is not in the account then.
        """
        self._arrays[plan], self._uses[plan] = arrays_bytes, frozenset(models)
        self._models.update(models)
        self._check(plan, 0)

    def admit(self, plan: int, digest: str, size_bytes: int) -> None:
        """Makes room for a constant of a plan that begins to come in, and for the engine's copies of it.

        Raises:
            OverLimit: if there is none; the plan is not in the account any more.
        """
        copies = sum(digest in need.constants for need in self._models.values())
        self._check(plan, size_bytes, copies * size_bytes)

    def loaded(self, plan: int, arrays_bytes: int, loaded: Sequence[bytes], grew_bytes: int) -> None:
        """Notes what a plan takes now that it is loaded.

        Args:
            plan: its number.
            arrays_bytes: what its arrays take.
            loaded: digests of the sub-models that were loaded for it; it may share others.
            grew_bytes: by how much the process grew meanwhile, arrays included; 0 where the platform does not tell.

        Raises:
            OverLimit: if that is too much; the plan is not in the account any more.
        """
        self._arrays[plan] = arrays_bytes
        excess_bytes = grew_bytes - arrays_bytes - sum(self._model_bytes(digest) for digest in loaded)
        if loaded and excess_bytes > 0:
            size_bytes = self._model_bytes(loaded[0]) + excess_bytes
            self._grew.pop(loaded[0], None)
            self._grew[loaded[0]] = size_bytes
        self._check(plan, 0)

    def leave(self, plan: int) -> None:
        """Takes a plan out."""
        self._arrays.pop(plan, None)
        self._uses.pop(plan, None)
        used = frozenset[bytes]().union(*self._uses.values())
        self._models = {digest: need for digest, need in self._models.items() if digest in used}
        # What loading took is remembered beyond that, so that the same sub-model is not loaded in vain again.
        for digest in [digest for digest in self._grew if digest not in used][:-REMEMBERED]:
            del self._grew[digest]

    @property
    def engine_bytes(self) -> int:
        """What the engine takes, or will take once the constants are here."""
        return sum(self._model_bytes(digest) for digest in self._models)

    def _model_bytes(self, digest: bytes) -> int:
        need = self._models[digest]
        return max(need.size_bytes + self._store.sizes_bytes(need.constants), self._grew.get(digest, 0))

    def _check(self, plan: int, coming_bytes: int, engine_bytes: int = 0) -> None:
        arrays_bytes = sum(self._arrays.values())
        engine_bytes += self.engine_bytes
        room_bytes = self.limit_bytes - arrays_bytes - engine_bytes - coming_bytes
        self._store.make_room(room_bytes)
        constants_bytes = self._store.size_bytes + coming_bytes
        total_bytes = arrays_bytes + engine_bytes + constants_bytes
        if total_bytes <= self.limit_bytes:
            return
        self.leave(plan)
        raise OverLimit(
            f"with it plans need {total_bytes / _MB:.1f} MB: {arrays_bytes / _MB:.1f} MB for arrays, "
            f"{engine_bytes / _MB:.1f} MB for the engine, {constants_bytes / _MB:.1f} MB for constants; "
            f"the limit is {self.limit_bytes / _MB:.1f} MB"
        )


def arrays_bytes(plan: DevicePlan) -> int:
    """Bytes of the arrays of a plan that contradicts nothing: buffers of all its frames, and packs of what it sends.

    With the room in which a picture is decoded, where one may come in its file.
    """
    shared = shareable(plan)
    outputs = [buffer for segment in plan.segments for buffer in segment.outputs]
    inputs = [
        buffer
        for segment in plan.segments
        for buffer in segment.inputs
        if segment.after < 0 and (segment.stage, buffer.tensor) not in shared
    ]
    packs = sum(box.size_bytes * (2 if is_packed(box.dtype) else 1) for m in plan.outgoing for box in m.boxes)
    masks = sum(mask.size_bytes for segment in plan.segments for mask in segment.masks)
    arrays = sum(buffer.box.size_bytes for buffer in (*inputs, *outputs)) + masks + packs
    if plan.picture is None:
        return arrays * plan.slots
    return (arrays + plan.picture.kept_bytes) * plan.slots + plan.picture.decoding_bytes


def laid_out_anew(segment: SegmentPlan) -> frozenset[str]:
    """Content hashes of the constants of a sub-model of which the engine makes a copy for its kernels."""
    return frozenset(digest for name, digest in segment.weights.items() if not name.endswith(AS_INPUT))


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process has in use, and an engine's process that it started; 0 where the platform is silent."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    for child in _children():
        # One that ends is no more; what the processes share is counted already.
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()
            pages += int(resident) - int(shared)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children() -> Iterator[int]:
    """Process ids of this process's children."""
    told = False
    for task in _TASKS.glob("*/children"):
        # A thread that ends is no more.
        with contextlib.suppress(OSError, ValueError):
            yield from map(int, task.read_text(encoding="ascii").split())
            told = True
    if told:
        return
    # A kernel without CONFIG_PROC_CHILDREN, as many boards' are.
    import psutil

    with contextlib.suppress(psutil.Error):
        yield from [child.pid for child in psutil.Process().children()]
