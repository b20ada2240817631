"""The decoder reads what the encoder writes, and refuses everything else without falling over."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProtocolError
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import TensorBox

BOX = TensorBox("conv1", (0, 0, 3, 0), (1, 64, 2, 224), "float32")
ABOUT = m.About("a", "0.1.0", "onnxruntime 1.31", ("CPUExecutionProvider",), 4, 0, "tcp://127.0.0.1:5", (1,))
LOAD = m.WorkerLoad("running", 10, 2, 1, 5_000_000, 4096, 1024, 61.5)

TO_WORKER = [
    m.Hello(b"s", "0.1.0", "a", "ada@desk", True),
    m.Prepare(7, 100, (20, 30), 2**32 - 1),
    m.Weight(7, "0" * 64, "float32", (3, 3), 0, 36),
    m.Retire(7),
    m.Ping(1),
    m.Ask(7, 0),
    m.Fetch(7, 0),
    m.Goodbye(),
    m.Measure(1, PeerAddress("b", "tcp://10.0.0.2:5701", ""), True, (0, 1024), 3, 1.0),
    m.Redial(7, 1),
]
TO_COORDINATOR = [
    m.Welcome(ABOUT),
    m.Missing(7, ("0" * 64,)),
    m.Progress(7, 100),
    m.Ready(7, 1000, 0.1, 3, 60.0),
    m.Failed(7, "engine", "no"),
    m.Pong(1, 5, 6, ABOUT, {"late": 2}, LOAD),
    m.Told(7, 0, m.Situation(7, 0, (0,), 1, (-1,), False)),
    m.Told(7, 0, None),
    m.Records(7, (m.Record("send", 0, 1, -1, 1, 2, 2, 10),)),
    m.Refused("no"),
    m.LinkMeasured(1, ((0.1, 0.2),), ""),
    m.Held("ada@desk", 12.5, 0.5, 9.5),
    m.TakenOver("ada@desk"),
]
ON_DATA = [
    m.FrameFailed(7, 3, 1, "engine", "no"),
    m.Echo(1, False),
    m.Echo(1, False, 100),
    m.Attach(b"s", 1),
]

DECODERS = {
    m.decode_to_worker: TO_WORKER,
    m.decode_to_coordinator: TO_COORDINATOR,
    m.decode_on_data: ON_DATA,
}
CASES = [(decode, message) for decode, messages in DECODERS.items() for message in messages]
ENCODED = [m.encode(message) for _, message in CASES]

CHECKSUMS = """
    c28d4149 7be05f90 b7022220 fbdee52b 0ba6715f c57d7b23 c4bf1114 27582196 03a81a9b bb60b2d1 04afe5ad
    e369ba83 fca03684 86880811 a36630c9 328259da 4842efaf fb977266 5811d4d0 3318bfc1 5080fdf6 2df75310
    26146d42 ebb04c34 6d998109 27462448 a5f90e8e
"""
"""Bytes 4 to 7 of each message above, in protocol 4."""


def test_the_wire_form_changes_only_with_the_protocol() -> None:
    """A tag or the order of fields that changes makes another protocol, which peers must be told by its number.

    Fields that are appended with a default do not: who does not know them leaves them out or skips them.
    """
    assert m.PROTOCOL == 4
    found = dict(zip(map(repr, [message for _, message in CASES]), (head[4:8].hex() for head in ENCODED), strict=True))
    assert found == dict(zip(found, CHECKSUMS.split(), strict=True))


@pytest.mark.parametrize(("decode", "message"), CASES)
def test_round_trip(decode, message) -> None:
    assert decode(m.encode(message)) == message


@pytest.mark.parametrize(("decode", "message"), CASES)
def test_messages_of_another_direction_are_refused(decode, message) -> None:
    for other in DECODERS.keys() - {decode}:
        with pytest.raises(ProtocolError):
            other(m.encode(message))


def test_every_message_is_tested() -> None:
    tested = {type(message) for _, message in CASES}
    kinds = {
        kind for kind in vars(m).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag is not None
    }  # fmt: skip
    assert tested == kinds


@pytest.mark.parametrize("decode", DECODERS)
@given(content=st.binary(max_size=200))
def test_noise_is_refused(decode, content: bytes) -> None:
    """Without the magic or the checksum nothing is read, whatever else it is."""
    for head in (content, m.PREFIX + content):
        with pytest.raises(ProtocolError):
            decode(head)


@pytest.mark.parametrize("decode", DECODERS)
@given(content=st.binary(max_size=200))
def test_noise_with_a_checksum_is_a_message_or_refused(decode, content: bytes) -> None:
    """As a holder of a key could send it; what is read is within its bounds, which encoding does not check."""
    _is_a_message_or_refused(decode, content)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.data())
def test_damaged_messages_are_read_as_valid_or_refused(decode, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(ENCODED))[8:])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    _is_a_message_or_refused(decode, bytes(content))


def _is_a_message_or_refused(decode, content: bytes) -> None:
    try:
        message = decode(m.seal(content))
    except ProtocolError:
        return
    assert type(message) in {type(known) for known in DECODERS[decode]}
    # NaN is a float that msgpack may carry, and is not equal to itself.
    assert repr(decode(m.encode(message))) == repr(message)


@given(head=st.sampled_from(ENCODED), place=st.integers(0), bit=st.integers(0, 7))
def test_one_flipped_bit_is_always_seen(head: bytes, place: int, bit: int) -> None:
    damaged = bytearray(head)
    damaged[place % len(head)] ^= 1 << bit
    for decode in DECODERS:
        with pytest.raises(ProtocolError):
            decode(bytes(damaged))


def test_another_version_is_named() -> None:
    head = m.encode(m.Ping(1))
    with pytest.raises(m.VersionMismatch, match="speaks protocol 9, this is protocol 4; install the same version"):
        m.decode_to_worker(head[:3] + b"\x09" + head[4:])


@pytest.mark.parametrize("decode", DECODERS)
def test_an_empty_message_is_named(decode) -> None:
    with pytest.raises(ProtocolError, match="an empty message"):
        decode(b"")


def test_oversized_headers_are_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="bytes; at most"):
        m.decode_on_data(m.PREFIX + bytes(m.MAX_DATA_HEAD_BYTES))


@pytest.mark.parametrize(
    "fields",
    [
        (-1, 3, 0, -1, 12, []),
        (7, 2**62, 0, -1, 12, []),
        (7, 3, 0, -2, 12, []),
        (7, 3, 0, 5000, 12, []),
        (7, 3, "0", -1, 12, []),
        (7, 3, 0, -1, 12, [["x", [0], [-4], "float32"]]),
        (7, 3, 0, -1, 12, [["x", [0], [2**31], "float32"]]),
        (7, 3, 0, -1, 12, [["x", [0] * 9, [1] * 9, "float32"]]),
        (7, 3, 0, -1, 12, [["", [0], [1], "float32"]]),
        (7, 3, 0, -1, 12, [["x", [0], [1], "f" * 17]]),
        (7, 3, 0, -1, 12, [["x", [0], [1.5], "float32"]]),
        (7, 3, 0, -1, 12),
    ],
)
def test_fields_out_of_bounds_are_refused(fields) -> None:
    with pytest.raises(ProtocolError):
        m.decode_on_data(m.seal(msgspec.msgpack.encode([41, *fields])))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        m.decode_on_data(m.seal(b"\x91" * 100_000))
