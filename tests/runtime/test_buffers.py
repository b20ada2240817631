"""Rows arrive where they belong, whatever the box; plans that contradict themselves are refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.errors import ProtocolError
from distredge.runtime.buffers import MOST_UNSENT, HeldBox, Inbox, Keeper, Outbox, Slot, allocate
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.device_plan import SourceMessage, TensorBox
from distredge.runtime.protocol.transport import NotConnected
from tests.runtime.conftest import make_strategy


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """(shape of a tensor, start and shape of a source box, of a target box, and of a box inside both)."""
    whole, inner_start, inner_shape = [], [], []
    bounds: list[list[int]] = [[], [], [], []]
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 9))
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start + 1, size))
        whole.append(size)
        inner_start.append(start)
        inner_shape.append(stop - start)
        for box in (0, 2):
            first, last = draw(st.integers(0, start)), draw(st.integers(stop, size))
            bounds[box].append(first)
            bounds[box + 1].append(last - first)
    return tuple(map(tuple, (whole, *bounds, inner_start, inner_shape)))


@given(box=boxes(), wire=st.sampled_from(["float32", "float16"]))
def test_packed_rows_are_placed_where_they_belong(box, wire: str) -> None:
    whole, from_start, from_shape, to_start, to_shape, start, shape = box
    tensor = np.random.default_rng(0).standard_normal(whole).astype(np.float32)

    def cut(first, size):
        return tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))

    source = HeldBox(np.ascontiguousarray(tensor[cut(from_start, from_shape)]), from_start)
    target = HeldBox(np.full(to_shape, np.nan, np.float32), to_start)
    message = SourceMessage(1, 0, 1, (TensorBox("t", start, shape, wire),), (0,))
    inbox = Inbox(message, [target])
    inbox.place(inbox.open(Outbox(message, [source]).pack().frames))
    expected = np.full(whole, np.nan, np.float32)
    expected[cut(start, shape)] = tensor[cut(start, shape)].astype(wire)
    np.testing.assert_array_equal(target.array, expected[cut(to_start, to_shape)])


def test_arrays_start_on_a_cache_line() -> None:
    arrays = [allocate((3, 5), "float32") for _ in range(20)]
    assert all(array.ctypes.data % 64 == 0 and not array.any() for array in arrays)


def test_a_pack_in_use_is_not_written_again() -> None:
    class Tracker:
        done = False

    message = SourceMessage(1, 0, 1, (TensorBox("t", (0,), (4,), "float32"),), (0,))
    source = np.arange(4, dtype=np.float32)
    outbox = Outbox(message, [HeldBox(source, (0,))])
    first = outbox.pack()
    first.tracker = tracker = Tracker()
    source += 10
    second = outbox.pack()
    assert second is not first
    assert first.arrays[0].tolist() == [0, 1, 2, 3]
    second.tracker = tracker
    for _ in range(MOST_UNSENT - 2):
        outbox.pack().tracker = tracker
    with pytest.raises(NotConnected, match=f"{16 * MOST_UNSENT} bytes of earlier frames wait to be sent"):
        outbox.pack()
    tracker.done = True
    assert outbox.pack() is first


def test_what_the_engine_emits_as_it_travels_is_not_copied() -> None:
    tensor = np.random.default_rng(0).standard_normal((1, 4, 300, 300)).astype(np.float32)
    target = np.zeros_like(tensor)
    box = TensorBox("t", (0, 0, 0, 0), tensor.shape, "float32")
    message = SourceMessage(1, 0, 1, (box,), (0,))
    outbox = Outbox(message, [HeldBox(tensor, (0, 0, 0, 0))])
    inbox = Inbox(message, [HeldBox(target, (0, 0, 0, 0))])
    for _ in range(2):
        tensor += 1
        frames = outbox.pack().frames
        assert all(np.shares_memory(np.frombuffer(frame, np.uint8), tensor) for frame in frames[1:])
        inbox.place(inbox.open(frames))
        np.testing.assert_array_equal(target, tensor)
    part = TensorBox("t", (0, 0, 1, 0), (1, 4, 299, 300), "float32")
    packed = Outbox(SourceMessage(1, 0, 1, (part,), (0,)), [HeldBox(tensor, (0, 0, 0, 0))]).pack()
    assert not any(np.shares_memory(np.frombuffer(frame, np.uint8), tensor) for frame in packed.frames)


def test_kept_rows_that_share_an_array_are_not_copied() -> None:
    array = np.zeros(3)
    Keeper([(array, array)]).keep()
    target = np.zeros(3)
    Keeper([(target, array + 1)]).keep()
    assert target.tolist() == [1, 1, 1]


def test_one_device_alone_shares_arrays_between_its_volumes(graph) -> None:
    alone = deploy(graph, make_strategy(graph, [(1,), (1,)], head="alpha")).device_plan(0)
    slot = Slot(alone)
    made = {id(array) for arrays in slot.outputs.values() for array in arrays.values()}
    read = {id(array) for arrays in slot.inputs.values() for array in arrays.values()}
    assert made & read


@pytest.mark.parametrize("after", [0, 99])
def test_inputs_are_shared_only_with_a_segment_that_has_them(graph, strategy, after: int) -> None:
    plan = deploy(graph, strategy).device_plan(0)
    first, second, *rest = plan.segments
    with pytest.raises(ProtocolError, match=f"with stage {after}, which has no such input"):
        Slot(_change(plan, segments=(first, _change(second, after=after), *rest)))


def _change(plan, **changes):
    return msgspec.structs.replace(plan, **changes)


@pytest.mark.parametrize("what", ["beyond the box", "unknown tensor", "unknown stage", "dtype"])
def test_plans_that_contradict_themselves_are_refused(graph, strategy, what: str) -> None:
    plan = deploy(graph, strategy).device_plan(0)
    message = plan.incoming[0]
    box = message.boxes[0]
    if what == "beyond the box":
        bad = _change(message, boxes=(_change(box, start=tuple(s + 1 for s in box.start)),))
    elif what == "unknown tensor":
        bad = _change(message, boxes=(_change(box, tensor="nothing"),))
    elif what == "unknown stage":
        bad = _change(message, stage=99)
    else:
        bad = _change(message, boxes=(_change(box, dtype="object"),))
    with pytest.raises(ProtocolError):
        Slot(_change(plan, incoming=(bad,)))
