"""A plan and its sub-models arrive as they were sent, or not at all."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProtocolError
from distredge.runtime.protocol import prepare_parts as module
from distredge.runtime.protocol.device_plan import PART_BYTES, DevicePlan, SegmentPlan
from distredge.runtime.protocol.messages import Prepare, decode_to_worker, encode
from distredge.runtime.protocol.prepare_parts import prepare_parts, read_prepare


def _plan(segments: int, name_length: int = 3) -> DevicePlan:
    made = tuple(SegmentPlan(stage, 0, {}, (), ()) for stage in range(segments))
    return DevicePlan(7, "g" * min(name_length, 512), 0, ("a",), 1, made, (), (), (), {})


@given(sizes=st.lists(st.integers(0, 5000), max_size=5), part_bytes=st.integers(1, 3000))
def test_round_trip(sizes: list[int], part_bytes: int) -> None:
    models = tuple(bytes([number]) * size for number, size in enumerate(sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_BYTES", part_bytes)
        message, parts = prepare_parts(_plan(len(models)), models)
    assert all(0 < len(part) <= part_bytes for part in parts)
    assert read_prepare(decode_to_worker(encode(message)), parts) == (_plan(len(models)), models)


def test_no_part_is_longer_than_a_worker_takes() -> None:
    message, parts = prepare_parts(_plan(4096), [b"m" * 700] * 4096)
    assert max(map(len, parts)) <= PART_BYTES
    assert len(encode(message)) <= PART_BYTES
    assert len(parts) > 2


def test_what_a_worker_would_not_take_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PREPARE_BYTES", 1000)
    with pytest.raises(ProtocolError, match=r"the plan of 'a' and its sub-models are .* bytes; at most 1000"):
        prepare_parts(_plan(1), [bytes(1000)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"plan_bytes": 0}, "bytes of a plan with sub-models where"),
        ({"plan_bytes": 2**61}, "at most"),
        ({"model_bytes": (2**61,) * 9}, "at most"),
        ({"model_bytes": (3, 6)}, "bytes of a plan with sub-models where"),
        ({"model_bytes": (3, 4, 0)}, "3 sub-models for 2 segments"),
        ({"model_bytes": (7,)}, "1 sub-models for 2 segments"),
        ({"checksum": 1}, "checksum does not match"),
        ({"plan": 8}, "plan 7 where plan 8 was announced"),
    ],
)
def test_what_is_not_as_announced_is_refused(changes: dict[str, object], told: str) -> None:
    message, parts = prepare_parts(_plan(2), [b"abc", b"defg"])
    with pytest.raises(ProtocolError, match=told):
        read_prepare(msgspec.structs.replace(message, **changes), parts)


@given(content=st.binary(max_size=300))
def test_noise_is_a_plan_or_refused(content: bytes) -> None:
    import zlib

    try:
        plan, _ = read_prepare(Prepare(7, len(content), (), zlib.crc32(content)), [content])
    except ProtocolError:
        return
    assert isinstance(plan, DevicePlan)
