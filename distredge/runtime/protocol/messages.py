"""What coordinator and workers say to each other: typed, bounded, and checked before anything is read from them.

Frame layouts (ZeroMQ multipart; routing ids of ROUTER sockets are not counted); those of rows are in `row_messages`.
Frame 0 of every other message::

    bytes 0..2   b"DRE"
    byte  3      PROTOCOL, unsigned
    bytes 4..7   CRC-32 of what follows, big endian: a changed frame number would still be a valid one
    bytes 8..    one msgpack array [tag, field, ...] of the structs below

    control plane   [head]                            all but two
                    [head, part, ...]                 Prepare: plan and sub-models, cut as `prepare_parts` does
                    [head, bytes]                     Weight: one piece of one constant
    data plane      [head, part, ...]                 Echo: any bytes
                    [head]                            FrameFailed

Nothing is pickled. A header is decoded into its type or refused; rows are compared with what the plan announces
(number and size of the frames) before `numpy.frombuffer` sees them.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from distredge.errors import ProtocolError
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import PART_BYTES
from distredge.runtime.protocol.fields import (
    Bytes,
    ClockNs,
    Count,
    Digest,
    Dimensions,
    Dtype,
    Index,
    Name,
    Session,
    Stage,
    Text,
)
from distredge.runtime.protocol.row_messages import CONTENT, MAGIC, PREFIX, PROTOCOL, VersionMismatch

MAX_DATA_HEAD_BYTES: Final = 256 * 1024
MAX_CONTROL_HEAD_BYTES: Final = 1024 * 1024

MAX_SEGMENTS: Final = 4096
"""Of one plan."""

WEIGHT_CHUNK_BYTES: Final = 1024 * 1024
MAX_ECHO_BYTES: Final = 16 * 1024 * 1024
MAX_ECHOES: Final = 1000


class PreparingPlan(Struct, frozen=True, array_like=True):
    """A plan that is not ready yet: sub-models loaded, of how many."""

    plan: Count
    loaded: Count
    models: Count


class About(Struct, frozen=True, array_like=True):
    """What a worker says of itself.

    `pillow` is the version that decodes pictures there, "" if none does; with `dynamic_rows` it is given sub-models
    whose row axes are dynamic.
    """

    name: Name
    version: Name
    engine: Text
    providers: tuple[Name, ...]
    threads: Count
    memory_bytes: Count
    data_endpoint: Name
    plans: tuple[Count, ...]
    preparing: Annotated[tuple[PreparingPlan, ...], Meta(max_length=256)] = ()
    pillow: Text = ""
    dynamic_rows: bool = False


class WorkerLoad(Struct, frozen=True, array_like=True):
    """What a worker does, and has done since it started.

    `state` is "preparing" while a plan is on its way, "running" while frames come, else "idle". `frames` are done as
    far as they concern this device, `open_frames` begun; `queued` stages could run if the engine were free. `busy_ns`
    is computing, the stage that runs now included; bytes are of rows.
    """

    state: Literal["idle", "preparing", "running"]
    frames: Count
    open_frames: Count
    queued: Count
    busy_ns: Count
    received_bytes: Count
    sent_bytes: Count
    temperature_c: Annotated[float, Meta(ge=-273.15, le=1000)] | None


class Situation(Struct, frozen=True, array_like=True):
    """How far a frame has come on one device: stages done, and what the first unfinished one waits for."""

    plan: Count
    frame: Count
    done: tuple[Count, ...]
    waits_in: Stage
    waits_for: tuple[Index, ...]
    running: bool


class Record(Struct, frozen=True, array_like=True):
    """One thing that a worker did; times are its own monotonic clock's.

    `kind` is "compute", "send" (packing until libzmq has it), or "receive" (from the sender's hand-over, in the
    sender's clock, until placed; `arrived_ns` is when the message came in).
    """

    kind: Annotated[str, Meta(max_length=8)]
    frame: Count
    stage: Count
    peer: Index
    start_ns: ClockNs
    stop_ns: ClockNs
    arrived_ns: ClockNs
    size_bytes: Count


# Control plane, coordinator to worker.


class Hello(Struct, frozen=True, array_like=True, tag=1):
    """Takes the worker for a session: a lease that lasts as long as its holder is heard.

    `session` is a secret between the requester and this one worker; `holder` says who asks, for others to read. While
    somebody else holds the worker, `Held` is the answer unless `take_over` is set.
    """

    session: Session
    version: Name
    name: Name
    holder: Text = ""
    take_over: bool = False


class Prepare(Struct, frozen=True, array_like=True, tag=2):
    """Asks to prepare a plan beside those that run; it and its sub-models follow as parts (`prepare_parts`).

    They follow each other without gaps; `checksum` is the CRC-32 of all of it.
    """

    plan: Count
    plan_bytes: Count
    model_bytes: Annotated[tuple[Count, ...], Meta(max_length=MAX_SEGMENTS)]
    checksum: Annotated[int, Meta(ge=0, lt=2**32)]


class Weight(Struct, frozen=True, array_like=True, tag=3):
    """One piece of a constant that the worker lacks; its bytes follow as a part."""

    plan: Count
    digest: Digest
    dtype: Dtype
    shape: Dimensions
    offset: Count
    total_bytes: Count


class Retire(Struct, frozen=True, array_like=True, tag=4):
    """Forgets a plan and its buffers; the weights stay."""

    plan: Count


class Ping(Struct, frozen=True, array_like=True, tag=5):
    """Asks for a `Pong`; anybody authorised may ask, without taking the worker."""

    token: Count


class Ask(Struct, frozen=True, array_like=True, tag=6):
    """Asks for the situation of a frame."""

    plan: Count
    frame: Count


class Fetch(Struct, frozen=True, array_like=True, tag=7):
    """Asks for the records of the latest frames from `since` on."""

    plan: Count
    since: Count


class Goodbye(Struct, frozen=True, array_like=True, tag=8):
    """Ends the session: its plans are forgotten."""


class Measure(Struct, frozen=True, array_like=True, tag=9):
    """Asks to measure the link to another worker's data port (`runtime.links.one_link`); `back` the way from there."""

    token: Count
    peer: PeerAddress
    back: bool
    sizes: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_ECHO_BYTES)], ...], Meta(max_length=64)]
    repeats: Annotated[int, Meta(ge=1, le=MAX_ECHOES)]
    timeout_s: Annotated[float, Meta(gt=0, le=600)]


class Redial(Struct, frozen=True, array_like=True, tag=10):
    """Asks to make the data connection to another device of a plan anew: what is sent over it does not arrive."""

    plan: Count
    device: Index


# Control plane, worker to coordinator.


class Welcome(Struct, frozen=True, array_like=True, tag=21):
    """Answers `Hello`."""

    about: About


class Missing(Struct, frozen=True, array_like=True, tag=22):
    """Names the constants that the worker does not hold."""

    plan: Count
    digests: tuple[Digest, ...]


class Progress(Struct, frozen=True, array_like=True, tag=23):
    """Says that preparing goes on; the coordinator's patience starts anew. `loaded` of `models` sub-models are."""

    plan: Count
    received_bytes: Count
    loaded: Count = 0
    models: Count = 0


class Ready(Struct, frozen=True, array_like=True, tag=24):
    """Sub-models loaded, buffers made, every peer that it sends to connected.

    `loaded` of its sub-models were loaded anew, their first runs included in `load_s`; the others were there. Had no
    engines for them lain on the worker's disk, loading them would have taken `build_s`.
    """

    plan: Count
    memory_bytes: Count
    load_s: Annotated[float, Meta(ge=0, le=1e9)]
    loaded: Count
    build_s: Annotated[float, Meta(ge=0, le=1e9)]


class Failed(Struct, frozen=True, array_like=True, tag=25):
    """Preparing failed; `kind` is "engine", "peer", "memory" or "protocol"."""

    plan: Count
    kind: Annotated[str, Meta(max_length=16)]
    reason: Text


class Pong(Struct, frozen=True, array_like=True, tag=26):
    """Answers `Ping` with the worker's monotonic clock: when it heard the question, and when it answered."""

    token: Count
    heard_ns: ClockNs
    clock_ns: ClockNs
    about: About
    dropped: dict[Name, Count]
    load: WorkerLoad


class Told(Struct, frozen=True, array_like=True, tag=27):
    """Answers `Ask`; None when the worker does not know the plan or the frame."""

    plan: Count
    frame: Count
    situation: Situation | None


class Records(Struct, frozen=True, array_like=True, tag=28):
    """Answers `Fetch`."""

    plan: Count
    records: tuple[Record, ...]


class Refused(Struct, frozen=True, array_like=True, tag=29):
    """The worker does not do what was asked: it serves another session, or cannot read the message."""

    reason: Text


class LinkMeasured(Struct, frozen=True, array_like=True, tag=30):
    """Answers `Measure`: seconds there and back of each repeat, by size; or why not."""

    token: Count
    round_trips_s: tuple[tuple[float, ...], ...]
    error: Text


class Held(Struct, frozen=True, array_like=True, tag=31):
    """Answers `Hello`: somebody else holds the worker, since `held_s` and heard last `silent_s` ago."""

    holder: Text
    held_s: float
    silent_s: float
    expires_s: float


class TakenOver(Struct, frozen=True, array_like=True, tag=32):
    """Tells a holder that somebody else has taken the worker from it."""

    holder: Text


# Data plane.


class FrameFailed(Struct, frozen=True, array_like=True, tag=42):
    """Tells the requester that a frame cannot be finished; `kind` is "engine", "peer" or "picture"."""

    plan: Count
    frame: Count
    device: Index
    kind: Annotated[str, Meta(max_length=16)]
    reason: Text


class Echo(Struct, frozen=True, array_like=True, tag=43):
    """Comes back as an answer with that many bytes: shows that a data connection works, and measures it."""

    token: Count
    answer: bool
    answer_bytes: Annotated[int, Meta(ge=0, le=MAX_ECHO_BYTES)] = 0


class Attach(Struct, frozen=True, array_like=True, tag=44):
    """Tells a worker that this data connection is the requester's: results go back over it; answered as an `Echo` is.

    The first message on such a connection; `session` is that of `Hello`.
    """

    session: Session
    token: Count


ToWorker: TypeAlias = Hello | Prepare | Weight | Retire | Ping | Ask | Fetch | Goodbye | Measure | Redial
ToCoordinator: TypeAlias = (
    Welcome | Missing | Progress | Ready | Failed | Pong | Told | Records | Refused | LinkMeasured | Held | TakenOver
)
OnData: TypeAlias = FrameFailed | Echo | Attach

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_coordinator: msgspec.msgpack.Decoder[ToCoordinator] = msgspec.msgpack.Decoder(ToCoordinator)
_on_data: msgspec.msgpack.Decoder[OnData] = msgspec.msgpack.Decoder(OnData)


def encode(message: ToWorker | ToCoordinator | OnData) -> bytes:
    """Returns frame 0 of a message."""
    return seal(_encoder.encode(message))


def seal(content: bytes) -> bytes:
    """Puts magic, version and checksum before the encoded fields."""
    return PREFIX + zlib.crc32(content).to_bytes(4, "big") + content


def decode_to_worker(head: Bytes) -> ToWorker:
    """Reads frame 0 of a control message at a worker.

    Raises:
        VersionMismatch: if the peer speaks another protocol.
        ProtocolError: if it is no message of this direction, or a field is out of bounds.
    """
    return _decode(_to_worker, head, MAX_CONTROL_HEAD_BYTES)


def decode_to_coordinator(head: Bytes) -> ToCoordinator:
    """Reads frame 0 of a control message at the coordinator; raises as `decode_to_worker` does."""
    return _decode(_to_coordinator, head, MAX_CONTROL_HEAD_BYTES)


def decode_on_data(head: Bytes) -> OnData:
    """Reads frame 0 of a data message that is not of rows; raises as `decode_to_worker` does."""
    return _decode(_on_data, head, MAX_DATA_HEAD_BYTES)


def _decode(decoder: msgspec.msgpack.Decoder[T], head: Bytes, limit: int) -> T:
    view = memoryview(head)
    if not view.nbytes:
        raise ProtocolError("an empty message")
    if view.nbytes > limit:
        raise ProtocolError(f"a header of {view.nbytes} bytes; at most {limit} are accepted")
    if view.nbytes < CONTENT or bytes(view[: len(MAGIC)]) != MAGIC:
        raise ProtocolError("not a message of distredge")
    if view[3] != PROTOCOL:
        raise VersionMismatch(view[3])
    content = view[CONTENT:]
    if zlib.crc32(content) != int.from_bytes(view[len(PREFIX) : CONTENT], "big"):
        raise ProtocolError("a header whose checksum does not match")
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a header that cannot be read: {error}") from error


def package_version() -> str:
    """Returns the version of Distredge that this process runs, which `Hello` and `About` carry."""
    # Costs some milliseconds to import, and a command that only prints needs it not.
    from importlib.metadata import version

    return version("distredge")


_ZEROS: Final = memoryview(bytes(PART_BYTES))


def echo_parts(size_bytes: int) -> list[Bytes]:
    """Returns that many bytes in parts of the size in which rows travel."""
    return [_ZEROS[: min(PART_BYTES, size_bytes - start)] for start in range(0, size_bytes, PART_BYTES)]
