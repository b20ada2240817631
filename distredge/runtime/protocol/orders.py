"""What a parent process and the worker that it starts tell each other, on the worker's standard input and output."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from distredge.runtime.protocol.device_plan import DevicePlan

MAX_ORDER_BYTES: Final = 1024 * 1024

STOP_S: Final = 3.0
"""How long a worker may take to end before it is ended."""


MEASURING: Final = b"measuring"
"""The session that `worker.message_end` serves."""


class Order(Struct, frozen=True):
    """What a parent tells its worker.

    Attributes:
        name: of the worker.
        control, data: addresses to bind.
        threads, provider, engine: see `runtime.engine`; "sleep" computes nothing.
        memory_bytes: limit, or None.
        public_key, secret_key, allowed: see `protocol.security.Security`; empty keys mean no encryption.
        seconds: stage -> seconds, for the sleep engine.
        parent: process id of the parent; 0 for a worker that outlives it.
        cache: folder for constants that are kept from start to start; empty: none. `cache_bytes` is its bound.
        engine_python: interpreter of an older Python, in which the engine runs; empty: this one.
        dynamic_rows: whether it is given sub-models whose row axes are dynamic; None: as its provider has them.
    """

    name: str
    control: str
    data: str
    threads: int
    provider: str
    engine: Literal["onnxruntime", "sleep"]
    memory_bytes: int | None
    public_key: str
    secret_key: str
    allowed: dict[str, dict[str, str]]
    seconds: dict[int, float]
    parent: int
    cache: str = ""
    cache_bytes: int = 0
    engine_python: str = ""
    dynamic_rows: bool | None = None


class Bound(Struct, frozen=True):
    """What a worker answers: where it listens, or why it does not."""

    control: str = ""
    data: str = ""
    error: str = ""


class EndRequest(Struct, frozen=True):
    """What `worker.message_end` is asked for, after its order: perhaps to take a plan, and always for a reading.

    Attributes:
        plan: to take; None takes none.
        reads: number of the plan, and `since` the first frame of it, of whose messages the reading tells.
    """

    plan: DevicePlan | None = None
    reads: int = 0
    since: int = 0


class EndReading(Struct, frozen=True):
    """Processor time that an end has used since it began, and how long its messages were on the way.

    Attributes:
        receiving_s: of the thread of its data plane, without computing and sending.
        sending_s: of that thread, packing and sending.
        io_s: of the transport's threads.
        on_the_way_s: seconds of each message that it received, from the sender's hand-over until it was taken up.
    """

    receiving_s: float
    sending_s: float
    io_s: float
    on_the_way_s: tuple[float, ...]
