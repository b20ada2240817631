"""How a worker runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from distredge.runtime.provider_options import TENSORRT

if TYPE_CHECKING:
    from distredge.runtime.engine import Engine
    from distredge.runtime.worker.weight_disk import WeightDisk

WEIGHTS_BYTES: Final = 2 * 1024**3
"""Constants that a worker keeps from plan to plan unless it is told otherwise."""


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker runs.

    Attributes:
        name: its name in the cluster file.
        control, data: addresses to bind, such as ``tcp://192.168.1.11:5700``.
        memory_bytes: what plans and constants may take together; None for no limit.
        weights_bytes: constants kept from plan to plan.
        disk: where constants are kept from start to start; None: nowhere.
        dynamic_rows: whether it is given sub-models whose row axes are dynamic.
    """

    name: str
    control: str
    data: str
    memory_bytes: int | None = None
    weights_bytes: int = WEIGHTS_BYTES
    disk: WeightDisk | None = None
    dynamic_rows: bool = False


def takes_dynamic_rows(wanted: bool | None, engine: Engine) -> bool:
    """Whether a worker is given sub-models whose row axes are dynamic; unless told, where engines are built of them."""
    return TENSORRT in engine.providers if wanted is None else wanted
