"""Constants arrive whole or not at all, are what their hash says, and stay while there is room."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.errors import ProtocolError
from distredge.runtime import weights as module
from distredge.runtime.protocol.messages import Weight
from distredge.runtime.weights import WeightStore, begin_digest, check_weight, weight_messages


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WEIGHT_CHUNK_BYTES", 100)


def content_digest(dtype: str, shape: tuple[int, ...], content: bytes) -> str:
    digester = begin_digest(dtype, shape)
    digester.update(content)
    return digester.hexdigest()


def _constant(seed: int, size: int = 64) -> tuple[str, np.ndarray]:
    array = np.random.default_rng(seed).standard_normal((2, size // 2)).astype(np.float32)
    return content_digest("float32", array.shape, array.tobytes()), array


def _send(store: WeightStore, plan: int, seed: int) -> bool:
    digest, array = _constant(seed)
    return [store.receive(message, content) for message, content in weight_messages(plan, digest, array)][-1]


def test_the_graphs_hash_is_the_wires_hash(graph) -> None:
    for name, array in graph.constants.items():
        assert graph.weight_hash(name) == content_digest(array.dtype.name, array.shape, array.tobytes())


def test_a_constant_in_pieces() -> None:
    digest, array = _constant(0)
    store = WeightStore(10_000)
    assert store.pin(1, [digest]) == (digest,)
    with pytest.raises(ProtocolError, match="1 constants of the plan are missing"):
        store.take(1)
    complete = [store.receive(message, content) for message, content in weight_messages(1, digest, array)]
    assert complete == [False, False, True]
    np.testing.assert_array_equal(store.take(1)[digest], array)
    assert store.pin(2, [digest]) == ()
    assert store.size_bytes == array.nbytes


def test_pieces_out_of_order_are_refused() -> None:
    digest, array = _constant(0)
    store = WeightStore(10_000)
    store.pin(1, [digest])
    pieces = list(weight_messages(1, digest, array))
    store.receive(*pieces[0])
    with pytest.raises(ProtocolError, match="at 200 where 100 is due"):
        store.receive(*pieces[2])
    assert not store.receive(*pieces[0]), "from the start again"
    store.receive(*pieces[1])
    assert store.receive(*pieces[2])


def test_content_that_is_not_what_the_hash_says_is_refused() -> None:
    digest, array = _constant(0)
    store = WeightStore(10_000)
    store.pin(1, [digest])
    *most, last = weight_messages(1, digest, array)
    for piece in most:
        store.receive(*piece)
    with pytest.raises(ProtocolError, match="does not match its hash"):
        store.receive(last[0], bytes(len(last[1])))
    assert store.pin(2, [digest]) == (digest,)


def test_constants_that_no_plan_asked_for_are_refused() -> None:
    store = WeightStore(10_000)
    with pytest.raises(ProtocolError, match="no plan asked for"):
        _send(store, 1, 0)


def test_the_least_recently_used_goes_first_and_living_plans_keep_theirs() -> None:
    digests = [_constant(seed)[0] for seed in range(4)]
    size = _constant(0)[1].nbytes
    store = WeightStore(2 * size)
    for seed in range(3):
        store.pin(seed, [digests[seed]])
        assert _send(store, seed, seed)
    assert store.size_bytes == 3 * size, "all three are pinned"
    store.unpin(0)
    store.unpin(1)
    assert store.size_bytes == 2 * size
    assert store.pin(5, digests[:3]) == (digests[0],)
    store.unpin(5)
    store.pin(3, [digests[3]])
    _send(store, 3, 3)
    assert store.pin(6, [digests[2]]) == ()


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (Weight(1, "0" * 64, "object", (1,), 0, 8), 8),
        (Weight(1, "0" * 64, "float32", (2, 2), 0, 17), 4),
        (Weight(1, "0" * 64, "float32", (2, 2), 13, 16), 4),
        (Weight(1, "0" * 64, "float32", (2, 2), 0, 16), 0),
        (Weight(1, "0" * 64, "float32", (2**31 - 1, 2**31 - 1, 2**31 - 1), 0, 16), 4),
    ],
)
def test_pieces_of_constants_that_contradict_themselves_are_refused(message: Weight, size: int) -> None:
    with pytest.raises(ProtocolError):
        check_weight(message, size)
