"""Whatever a holder of the requester's key sends as a plan: it is refused or does no harm."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distredge.model.capture import from_onnx
from distredge.model.preprocess import Preprocess
from distredge.model.wires import is_file
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import PeerAddress
from distredge.runtime.protocol.device_plan import DevicePlan
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.row_messages import HEAD_BYTES
from distredge.runtime.weights import weight_messages
from distredge.runtime.worker import data_plane
from distredge.strategy import InputSpec
from tests.runtime.conftest import DEVICES, Cell, make_strategy, small_cnn
from tests.runtime.worker.conftest import PATIENCE_S, Speaker, rows_of

_NUMBERS = (-2, -1, 0, 1, 2, 3, 4, 5, 33, 255, 4095, 2**31 - 1, 2**62 - 1)
_TEXTS = ("", "x", "a2", "r1", "m", "g#partial", "float16", "int64", "float32-packed", "alpha", "memory://beta:2")


def _picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (120, 100), (90, 120, 30)).save(stream, "JPEG")
    return stream.getvalue()


PICTURE = _picture()


class Somebody:
    """Who has the requester's key, and says what is wrong; the data connection may speak for everybody."""

    def __init__(self, workers: Cell) -> None:
        self._network = InProcessNetwork(workers.exchange)
        self.control = Speaker(self._network, "memory://beta:1", "beta")
        self.data = self._network.connect("memory://beta:2", "data")
        self._waiter = self._network.waiter([self.data])
        self.control.hello(m.Welcome)

    def rows(self, plan: DevicePlan) -> None:
        """Sends zeros for everything that a plan waits for in its first frame, and waits until it has run."""
        for message in plan.incoming:
            frames = rows_of(plan, message)
            if is_file(message.boxes[0].dtype):
                # In its file, which is as good as rows.
                frames = [bytes(frames[0])[:HEAD_BYTES], PICTURE]
            self.data.send(frames)
        # Between two looks at what came in one stage is run.
        for _ in range(len(plan.segments) + 2):
            self.data.send([m.encode(m.Echo(1, False))])
            while self.data.receive() is None:
                assert self._waiter.wait(PATIENCE_S), "the thread that computes is gone"

    def close(self) -> None:
        self.control.send(m.Goodbye())
        self.control.ask(m.Ping(1), m.Pong)
        self._network.close()


@pytest.fixture(scope="module")
def deployment(graph) -> Deployment:
    return deploy(graph, make_strategy(graph, [(2, 1, 1), (1, 1, 2)]))


@pytest.fixture(scope="module")
def workers() -> Iterator[Cell]:
    cell = Cell()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_plane, "PEER_S", 0.2)
        for name in DEVICES:
            cell.start(name)
        yield cell
        cell.close()


@pytest.fixture(scope="module")
def somebody(workers: Cell) -> Somebody:
    return Somebody(workers)


@pytest.fixture(scope="module")
def of_pictures() -> Deployment:
    """The same on pictures that may come in their files."""
    graph = from_onnx(small_cnn(101, 81))
    graph.preprocess = Preprocess((101, 81), 110, (127.0,) * 3, (1 / 128,) * 3)
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2)])
    return deploy(graph, strategy.replace(input=InputSpec("jpeg", len(PICTURE), 120 * 100)))


def _plan(deployment: Deployment, number: int) -> DevicePlan:
    peers = [PeerAddress(name, f"memory://{name}:2", "") for name in DEVICES]
    return deployment.device_plan(1, number, 2, peers)


def _damage(rng: random.Random, node: Any) -> Any:
    """Changes, drops, doubles or moves one thing somewhere in a plan; types stay mostly what they are."""
    if isinstance(node, msgspec.Struct):
        field = rng.choice(node.__struct_fields__)
        return msgspec.structs.replace(node, **{field: _damage(rng, getattr(node, field))})
    if isinstance(node, dict) and node:
        key = rng.choice(sorted(node))
        rest = {k: v for k, v in node.items() if k != key}
        what = rng.choice(["in", "in", "drop", "rename"])
        if what == "in":
            rest[key] = _damage(rng, node[key])
        elif what == "rename":
            rest[rng.choice(["0", "2", "7", "w1"])] = node[key]
        return rest
    if isinstance(node, tuple) and node:
        at = rng.randrange(len(node))
        before, it, after = node[:at], node[at], node[at + 1 :]
        what = rng.choice(["in", "in", "in", "in", "drop", "twice", "last"])
        if what == "in":
            return (*before, _damage(rng, it), *after)
        return {"drop": (*before, *after), "twice": (*before, it, it, *after), "last": (*before, *after, it)}[what]
    if rng.random() < 0.05:
        return rng.choice([None, 0, "x", (), {}])
    if isinstance(node, int):
        return rng.choice([*_NUMBERS, node + 1, node - 1])
    return rng.choice(_TEXTS)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**60))
def test_a_damaged_plan_is_refused_or_harmless(somebody: Somebody, deployment, seed: int) -> None:
    rng = random.Random(seed)
    plan = _plan(deployment, seed)
    for _ in range(rng.choice([1, 1, 2])):
        plan = _damage(rng, plan)
    _try(somebody, deployment, seed, msgspec.msgpack.encode(plan))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**60))
def test_so_is_one_of_pictures_in_their_files(somebody: Somebody, of_pictures, seed: int) -> None:
    rng = random.Random(seed)
    plan = _plan(of_pictures, seed)
    if rng.random() < 0.5:
        plan = msgspec.structs.replace(plan, picture=_damage(rng, plan.picture))
    else:
        plan = _damage(rng, plan)
    _try(somebody, of_pictures, seed, msgspec.msgpack.encode(plan))


def _try(somebody: Somebody, deployment: Deployment, number: int, content: bytes) -> m.Situation | None:
    """Sends a plan, what it asks for, and rows of a frame; the worker must answer to the end.

    Returns how far the frame came.
    """
    control, models = somebody.control, deployment.models(1)
    whole = content + b"".join(models)
    head = m.Prepare(number, len(content), tuple(map(len, models)), zlib.crc32(whole))
    answer = control.ask(head, (m.Missing, m.Failed), [whole])  # type: ignore[arg-type]
    store = deployment.weights(1)
    if isinstance(answer, m.Missing) and all(digest in store for digest in answer.digests):
        for digest in answer.digests:
            for message, part in weight_messages(number, digest, store[digest]):
                control.send(message, [part])
        if isinstance(control.receive((m.Ready, m.Failed)), m.Ready):  # type: ignore[arg-type]
            somebody.rows(msgspec.msgpack.decode(content, type=DevicePlan))
    situation = control.ask(m.Ask(number, 0), m.Told).situation
    control.send(m.Retire(number))
    assert control.ask(m.Ping(number), m.Pong).token == number
    return situation


@pytest.mark.parametrize("which", ["deployment", "of_pictures"])
def test_the_honest_plan_is_run(somebody: Somebody, which: str, request: pytest.FixtureRequest) -> None:
    """What `_try` does reaches the end with it: it would find what is wrong."""
    deployment = request.getfixturevalue(which)
    plan = _plan(deployment, 77)
    situation = _try(somebody, deployment, 77, msgspec.msgpack.encode(plan))
    assert situation is not None
    # The last one's result has nowhere to go.
    assert set(situation.done) == {segment.stage for segment in plan.segments}


def test_afterwards_an_honest_requester_gets_its_result(
    workers: Cell, somebody: Somebody, deployment, graph, image, monkeypatch
) -> None:
    monkeypatch.setattr(data_plane, "PEER_S", 20.0)
    somebody.close()
    with workers.coordinator(deadline_s=20.0) as coordinator:
        coordinator.deploy(deployment)
        expected = run_in_process(graph, deployment.strategy, image)
        assert np.array_equal(coordinator.infer(image)["scores"], expected["scores"])
