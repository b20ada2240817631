"""Three workers in threads and a coordinator of theirs, without sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from distredge.errors import ProtocolError
from distredge.runtime.deployment import deploy
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.row_messages import is_rows, read_head
from distredge.runtime.requester.coordinator import Coordinator
from tests.runtime.conftest import DEVICES, Cell


@pytest.fixture
def running(cell: Cell, graph, strategy) -> Coordinator:
    """Three workers and a coordinator that has deployed the strategy."""
    for name in DEVICES:
        cell.start(name)
    coordinator = cell.coordinator(deadline_s=20.0)
    coordinator.deploy(deploy(graph, strategy), in_flight=2)
    return coordinator


def read_any(parts: list[bytes]) -> object:
    """The message in whatever direction it goes."""
    if parts and is_rows(parts[0]):
        with suppress(ProtocolError):
            return read_head(parts[0])
    for decode in (m.decode_on_data, m.decode_to_worker, m.decode_to_coordinator):
        try:
            return decode(parts[0])
        except ProtocolError:
            continue
    return None


def equal(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Whether outputs are the same to the bit."""
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


@pytest.fixture
def doors(cell: Cell) -> Iterator[Any]:
    """Makes `doors.Door`s for the three devices, by what each answers."""
    from tests.runtime.requester.doors import Door

    made: dict[str, Door] = {}
    log: list[str] = []

    def make(**answers: list[Any]) -> dict[str, Any]:
        for name in DEVICES:
            made[name] = Door(cell, name, log, answers.get(name, []))
        return made

    yield make
    for coordinator in cell.coordinators:
        coordinator.close()
    for door in made.values():
        door.stop()
