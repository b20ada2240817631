"""One account for arrays, constants and engine: asked first, and never below what is really there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.model import AS_INPUT
from distredge.runtime.buffers import Slot
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol.device_plan import SegmentPlan
from distredge.runtime.weights import WeightStore, begin_digest, weight_messages
from distredge.runtime.worker import memory_account
from distredge.runtime.worker.memory_account import (
    MemoryAccount,
    ModelNeed,
    OverLimit,
    arrays_bytes,
    laid_out_anew,
    machine_bytes,
    resident_bytes,
)
from distredge.strategy import InputSpec
from tests.runtime.conftest import make_strategy
from tests.runtime.photographs import sends_files, takes_photographs

MB = 1_000_000


def _constant(seed: int, size_bytes: int) -> tuple[str, np.ndarray]:
    array = np.full(size_bytes, seed, dtype=np.uint8)
    digester = begin_digest("uint8", array.shape)
    digester.update(array.tobytes())
    return digester.hexdigest(), array


def _hold(store: WeightStore, plan: int, seed: int, size_bytes: int) -> str:
    """Gives a store a constant for a plan."""
    digest, array = _constant(seed, size_bytes)
    store.pin(plan, [digest])
    for message, content in weight_messages(plan, digest, array):
        store.receive(message, content)
    return digest


@pytest.fixture
def store() -> WeightStore:
    return WeightStore(1 << 40)


def test_arrays_and_sub_models_count_at_once(store: WeightStore) -> None:
    account = MemoryAccount(10 * MB, store)
    account.enter(1, 4 * MB, {b"m": ModelNeed(5 * MB, frozenset())})
    told = r"need 11.0 MB: 6.0 MB for arrays, 5.0 MB for the engine, 0.0 MB for constants; the limit is 10.0 MB"
    with pytest.raises(OverLimit, match=told):
        account.enter(2, 2 * MB, {b"m": ModelNeed(5 * MB, frozenset())})
    account.enter(2, MB, {b"m": ModelNeed(5 * MB, frozenset())})
    account.leave(1)
    assert account.engine_bytes == 5 * MB, "the other plan uses it too"
    account.leave(2)
    assert account.engine_bytes == 0
    account.enter(3, 10 * MB, {})


def test_a_constant_counts_twice_from_its_first_piece_on(store: WeightStore) -> None:
    """Here, and where the engine lays it out anew."""
    account = MemoryAccount(10 * MB, store)
    digest, array = _constant(1, 4 * MB)
    store.pin(1, [digest])
    account.enter(1, 0, {b"m": ModelNeed(0, frozenset([digest]))})
    message, content = next(weight_messages(1, digest, array))
    assert store.begins(message, len(content)) == 4 * MB
    account.admit(1, digest, 4 * MB)
    store.receive(message, content)
    assert store.begins(message, len(content)) == 0, "its memory is taken"
    assert (store.size_bytes, account.engine_bytes) == (4 * MB, 4 * MB)
    account.admit(1, "fed", 2 * MB)
    with pytest.raises(OverLimit, match=r"8\.0 MB for the engine, 8.0 MB for constants"):
        account.admit(1, digest, 4 * MB)


def test_constants_that_no_plan_needs_give_way(store: WeightStore) -> None:
    _hold(store, 1, 1, 4 * MB)
    kept = _hold(store, 2, 2, 4 * MB)
    account = MemoryAccount(10 * MB, store)
    store.unpin(1)
    account.enter(2, 0, {b"m": ModelNeed(0, frozenset([kept]))})
    assert store.size_bytes == 4 * MB, "8 MB of constants and 4 MB of the engine were too much"
    with pytest.raises(OverLimit):
        account.enter(3, 3 * MB, {})
    assert store.size_bytes == 4 * MB, "a plan that lives keeps its own"


def test_what_loading_really_took_counts_where_it_is_more(store: WeightStore) -> None:
    account = MemoryAccount(100 * MB, store)
    account.enter(1, 10 * MB, {b"m": ModelNeed(5 * MB, frozenset()), b"n": ModelNeed(MB, frozenset())})
    account.loaded(1, 10 * MB, [b"m"], 12 * MB)
    assert account.engine_bytes == 6 * MB, "the estimate was more"
    account.loaded(1, 10 * MB, [b"m"], 50 * MB)
    assert account.engine_bytes == 41 * MB
    account.loaded(1, 10 * MB, [], 500 * MB)
    assert account.engine_bytes == 41 * MB, "nothing was loaded: others grew"
    with pytest.raises(OverLimit):
        account.loaded(1, 10 * MB, [b"n"], 300 * MB)
    account.enter(2, 59 * MB, {})
    account.leave(2)
    with pytest.raises(OverLimit, match=r"40\.0 MB for the engine"):
        # Known from the first time.
        account.enter(3, 61 * MB, {b"m": ModelNeed(5 * MB, frozenset())})


def test_without_a_limit_it_is_the_machines_memory(store: WeightStore) -> None:
    account = MemoryAccount(None, store)
    with pytest.raises(OverLimit):
        account.enter(1, machine_bytes() + 1, {})
    assert 10 * MB < resident_bytes() < machine_bytes()


@given(
    shares=st.lists(st.tuples(*[st.integers(0, 3)] * 3).filter(any), min_size=1, max_size=3),
    slots=st.integers(1, 3),
    packed=st.booleans(),
)
def test_arrays_are_counted_before_they_are_made(graph, shares, slots: int, packed: bool) -> None:
    deployment = deploy(graph, make_strategy(graph, shares, wire="float32-packed" if packed else "float32"))
    for index in deployment.busy:
        plan = deployment.device_plan(index, 1, slots)
        buffers_bytes = sum(Slot(plan).size_bytes for _ in range(slots))
        packs_bytes = sum(message.size_bytes for message in plan.outgoing) * slots
        assert buffers_bytes + packs_bytes <= arrays_bytes(plan) <= buffers_bytes + packs_bytes * (1 + packed)


def test_decoding_a_picture_is_counted() -> None:
    graph = takes_photographs()
    strategy = sends_files(graph)
    rows = deploy(graph, strategy.replace(input=InputSpec("uint8")))
    files = deploy(graph, strategy)
    for index in files.busy:
        added = [
            arrays_bytes(files.device_plan(index, 1, n)) - arrays_bytes(rows.device_plan(index, 1, n)) for n in (1, 3)
        ]
        assert added[0] > 16 * files.picture.max_pixels
        assert added[1] - added[0] == 2 * files.picture.kept_bytes


def test_what_the_engine_is_fed_as_an_input_it_does_not_copy() -> None:
    segment = SegmentPlan(0, 0, {"w": "a" * 64, f"fc{AS_INPUT}": "b" * 64}, (), ())
    assert laid_out_anew(segment) == {"a" * 64}


_CHILD = "import sys\nheld = bytearray(b'x') * int(sys.argv[1])\nprint(len(held), flush=True)\nsys.stdin.read()"


@pytest.mark.parametrize("tasks", [memory_account._TASKS, Path("/nowhere")])
def test_the_memory_of_an_engines_process_counts(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel has no list of children."""
    monkeypatch.setattr(memory_account, "_TASKS", tasks)
    before_bytes = resident_bytes()
    command = [sys.executable, "-c", _CHILD, str(50 * MB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        grew_bytes = resident_bytes() - before_bytes
        child.stdin.close()
    assert 50 * MB <= grew_bytes < 80 * MB
    assert resident_bytes() < before_bytes + 10 * MB
