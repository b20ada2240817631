"""Messages lost, doubled, late, reordered or damaged at random: a frame is right or ends in a named error."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest

from distredge.errors import ExecutionError
from distredge.runtime.deployment import deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.row_messages import HEAD_BYTES, is_rows
from tests.runtime.conftest import DEVICES, Cell, make_strategy, taking_over

DEADLINE_S = 0.3


class Chaos:
    """Does something to one message in `one_in`, by a seed."""

    def __init__(self, seed: int, one_in: int) -> None:
        self._random = random.Random(seed)
        self._one_in = one_in
        self._held: dict[tuple[str, str], list[list[bytes]]] = {}
        self.hits = 0

    def __call__(self, source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        late = self._held.pop((source, target), [])
        if self._random.randrange(self._one_in):
            return [parts, *late]
        self.hits += 1
        what = self._random.choice(["lose", "double", "late", "cut", "flip", "swap"])
        if what == "lose":
            return late
        if what == "double":
            return [parts, parts, *late]
        if what == "late":
            self._held[source, target] = [parts]
            return late
        if what == "cut":
            return [parts[: self._random.randrange(len(parts) + 1)], *late]
        if what == "flip":
            head = bytearray(parts[0])
            head[self._random.randrange(min(len(head), HEAD_BYTES))] ^= 1 << self._random.randrange(8)
            return [[bytes(head), *parts[1:]], *late]
        return [[*reversed(parts)], *late]


def _only_rows(chaos: Chaos):
    """Chaos on the data plane; constants and plans arrive."""

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        return chaos(source, target, parts) if is_rows(parts[0]) else [parts]

    return tamper


@pytest.mark.parametrize("seed", range(6))
def test_frames_on_a_bad_network(cell: Cell, graph, seed: int) -> None:
    strategy = make_strategy(graph, [(2, 1, 1), (1, 1, 2), (1, 1, 1)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=DEADLINE_S)
    coordinator.deploy(deploy(graph, strategy), in_flight=1 + seed % 3)
    chaos = Chaos(seed, 40)
    cell.exchange.tamper = _only_rows(chaos)
    rng = np.random.default_rng(seed)
    good = bad = 0
    for _ in range(25):
        image = {"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)}
        try:
            found = coordinator.infer(image)
        except ExecutionError:
            # Any other kind of error fails the test.
            bad += 1
        else:
            good += 1
            assert np.array_equal(found["scores"], run_in_process(graph, strategy, image)["scores"])
    assert chaos.hits
    assert good
    assert good + bad == 25
    cell.exchange.tamper = None
    image = {"image": rng.standard_normal((1, 3, 33, 21), dtype=np.float32)}
    found = coordinator.infer(image, deadline_s=20.0)
    assert np.array_equal(found["scores"], run_in_process(graph, strategy, image)["scores"])


@pytest.mark.parametrize("seed", range(6))
def test_preparing_on_a_bad_network(cell: Cell, graph, image, seed: int) -> None:
    strategy = make_strategy(graph, [(1, 1, 1)])
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=DEADLINE_S, connect_s=0.5, patience_s=0.5)
    cell.exchange.tamper = Chaos(seed, 12)
    for _ in range(4):
        with contextlib.suppress(ExecutionError):
            coordinator.deploy(deploy(graph, strategy))
    cell.exchange.tamper = taking_over
    later = cell.coordinator()
    later.deploy(deploy(graph, strategy))
    found = later.infer(image, deadline_s=20.0)
    assert np.array_equal(found["scores"], run_in_process(graph, strategy, image)["scores"])
