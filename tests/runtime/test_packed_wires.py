"""Packed wires change no bit of what plain ones bring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distredge.errors import ProtocolError
from distredge.runtime.buffers import HeldBox, Inbox, Outbox, bytes_of
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.device_plan import PART_BYTES, SourceMessage, TensorBox
from distredge.runtime.protocol.row_messages import HEAD_BYTES
from distredge.strategy import Strategy
from tests.runtime.conftest import DEVICES


def _with_wire(strategy: Strategy, wire: str) -> Strategy:
    return strategy.replace(volumes=tuple(replace(volume, wire=wire) for volume in strategy.volumes))


def _rows(zeros: float, shape: tuple[int, ...] = (1, 5, 9, 4)) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.where(rng.random(shape) < zeros, 0, rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.5, 1.0])
def test_a_message_of_several_tensors(zeros: float) -> None:
    rows, others = _rows(zeros), _rows(0.7, (1, 3, 11, 2))
    boxes = (
        TensorBox("a", (0, 0, 2, 0), (1, 5, 3, 4), "float32-packed"),
        TensorBox("b", (0, 0, 1, 0), (1, 3, 7, 2), "float32"),
        TensorBox("c", (0, 0, 4, 0), (1, 3, 5, 2), "float32-packed"),
    )
    message = SourceMessage(1, 0, 1, boxes, (0, 0, 0))
    held = [HeldBox(array, (0, 0, 0, 0)) for array in (rows, others, others)]
    targets = [HeldBox(np.full_like(box.array, np.nan), (0, 0, 0, 0)) for box in held]
    pack = Outbox(message, held).pack()
    inbox = Inbox(message, targets)
    inbox.place(inbox.open(pack.frames))
    for box, source, target in zip(boxes, held, targets, strict=True):
        found, expected = (h.view(box.start, box.shape, "rows") for h in (target, source))
        assert found.tobytes() == expected.tobytes()
        assert np.isnan(target.array).sum() == target.array.size - found.size, "other rows are not touched"
    assert bytes_of(pack.frames) - HEAD_BYTES == pack.size_bytes < message.size_bytes


def test_parts_shrink_one_by_one_and_a_buffer_serves_frame_after_frame() -> None:
    each = PART_BYTES // 4
    tensor = np.ones((3, each), np.float32)
    tensor[1] = 0
    box = TensorBox("t", (0, 0), tensor.shape, "float32-packed")
    message = SourceMessage(1, 0, 1, (box,), (0,))
    outbox = Outbox(message, [HeldBox(tensor, (0, 0))])
    assert [memoryview(part).nbytes for part in outbox.pack().frames[1:]] == [PART_BYTES, each // 8, PART_BYTES]
    tensor[1], tensor[2] = 2, 0
    frames = outbox.pack().frames
    assert [memoryview(part).nbytes for part in frames[1:]] == [PART_BYTES, PART_BYTES, each // 8]
    target = np.full_like(tensor, np.nan)
    inbox = Inbox(message, [HeldBox(target, (0, 0))])
    inbox.place(inbox.open(frames))
    assert np.array_equal(target, tensor)


def test_only_planned_rows_may_be_packed() -> None:
    packed = TensorBox("t", (0,), (64,), "float32-packed")
    plain = TensorBox("t", (0,), (64,), "float32")
    source = [HeldBox(np.zeros(64, np.float32), (0,))]
    frames = Outbox(SourceMessage(1, 0, 1, (packed,), (0,)), source).pack().frames
    inbox = Inbox(SourceMessage(1, 0, 1, (plain,), (0,)), source)
    with pytest.raises(ProtocolError, match="2 frames where the plan has 1"):
        inbox.open(frames)
    with pytest.raises(ProtocolError, match="frame 0: 48 bytes where 296 with rows of 't' are due"):
        inbox.open([b"".join(frames)])


@pytest.mark.parametrize("wire", ["float32-packed", "float16-packed"])
@pytest.mark.parametrize("first", [False, True])
def test_in_one_process_no_bit_differs(graph, image, wire: str, first: bool) -> None:
    volumes = [(1, (0, 20, 20, 33)), (4, (0, 4, 9, 17)), (5, (0, 0, 5, 8))]
    strategy = Strategy.make(graph, DEVICES, volumes, head="beta")
    strategy = strategy.replace(volumes=tuple(replace(v, boundary_first=first) for v in strategy.volumes))
    plain = run_in_process(graph, _with_wire(strategy, wire.removesuffix("-packed")), image)
    packed = run_in_process(graph, _with_wire(strategy, wire), image)
    assert packed["scores"].tobytes() == plain["scores"].tobytes()
