"""What messages cost, measured between two processes; what is checked is form and consistency, never speed."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import psutil
import pytest

from distredge.profiles.schema import Copy
from distredge.runtime.hosting.message_costs import (
    SIZES,
    EndCosts,
    FrameCosts,
    costs_of,
    measure_ends,
    measure_messages,
)
from distredge.runtime.protocol.security import make_keys

SIZES_BYTES = [4.0 * 64 * rows * columns for rows, columns in SIZES]


def test_a_round_trip_gives_costs_at_both_ends() -> None:
    found = measure_messages(0.2)
    for end in (found.send, found.receive):
        for cost in (end.own, end.io, end.io_encrypted):
            assert 0 <= cost.fixed_s < 1
            assert 0 <= cost.s_per_byte < 1
            assert cost.fixed_s + cost.s_per_byte > 0
        assert end.own.fixed_s > 0
        assert end.io.s_per_byte > 0
        # Nothing encrypts for nothing.
        assert end.io_encrypted.s_per_byte > end.io.s_per_byte
    assert 0 < found.compress_s_per_byte < 1
    assert 0 < found.expand_s_per_byte < 1


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_larger_message_costs_more_and_no_process_is_left(encrypted: bool) -> None:
    before = {child.pid for child in psutil.Process(os.getpid()).children()}
    sender, receiver = measure_ends(make_keys(("sender", "receiver")) if encrypted else None, 0.2)
    assert len(sender) == len(receiver) == len(SIZES)
    for end in (sender, receiver):
        assert all(math.isfinite(value) and value >= 0 for frame in end for value in frame)
        assert end[-1].io_s > end[0].io_s > 0
    assert sender[-1].sending_s > sender[0].sending_s > 0
    assert receiver[-1].receiving_s > receiver[0].receiving_s > 0
    # What the sender gets, and the receiver sends, is four bytes whatever the size.
    assert all(frame.sending_s > 0 for frame in receiver)
    assert {child.pid for child in psutil.Process(os.getpid()).children()} == before


def _ends(io_per_byte_s: float) -> tuple[EndCosts, EndCosts]:
    sender = tuple(FrameCosts(7e-5, 2e-5 + 1e-10 * n, 4e-5 + io_per_byte_s * n, 1e-4) for n in [0.0, *SIZES_BYTES[1:]])
    receiver = tuple(
        FrameCosts(8e-5 + 2e-10 * n, 2e-5, 6e-5 + io_per_byte_s * n, 1.5e-4) for n in [0.0, *SIZES_BYTES[1:]]
    )
    return sender, receiver


def test_costs_are_those_that_explain_the_frames() -> None:
    found = costs_of(_ends(1e-10), _ends(6e-10))
    assert _is(found.send.own, 2e-5, 1e-10)
    assert _is(found.receive.own, 8e-5, 2e-10)
    # Half of the smallest frame's, which has two small messages; with it the time until the receiver was awake.
    assert _is(found.send.io, 2e-5, 1e-10)
    assert _is(found.receive.io, 3e-5 + 1.5e-4 - 2e-5 - 5e-5, 1e-10)
    assert _is(found.send.io_encrypted, 2e-5, 6e-10)
    assert found.source == ""


def _is(cost: Copy, fixed_s: float, s_per_byte: float) -> bool:
    # 3 %: the smallest frame's messages are small, not empty.
    return cost.fixed_s == pytest.approx(fixed_s, rel=0.03) and cost.s_per_byte == pytest.approx(s_per_byte, rel=0.03)


def test_measuring_needs_no_training_planning_or_inference_package() -> None:
    code = (
        "import sys; import distredge.runtime.hosting.message_costs, distredge.runtime.worker.message_end;"
        "print([n for n in ('torch', 'numba', 'scipy', 'onnxruntime') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
