"""Messages that are lost, doubled, damaged or in another's name: dropped, and the frame ends with a named error."""

from __future__ import annotations

import pytest

from distredge.errors import ExecutionError, PeerTimeout
from distredge.runtime.in_process import run_in_process
from distredge.runtime.protocol.row_messages import HEAD_BYTES, Rows, write_head
from distredge.runtime.protocol.transport import NotConnected
from tests.runtime.conftest import Cell
from tests.runtime.requester.conftest import equal, read_any


@pytest.mark.parametrize("copies", [0, 2])
def test_a_lost_message_costs_time_and_a_doubled_one_changes_nothing(
    cell: Cell, running, graph, strategy, image, copies: int
) -> None:
    """The first message of rows between two workers is lost: they come over a new connection; or it comes twice."""
    hit: list[str] = []

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if not hit and isinstance(message, Rows) and message.source >= 0 and target.startswith("memory:"):
            hit.append(target)
            return [parts] * copies
        return [parts]

    cell.exchange.tamper = tamper
    assert equal(running.infer(image, deadline_s=4.0), run_in_process(graph, strategy, image))
    assert hit
    assert equal(running.infer(image), run_in_process(graph, strategy, image))


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_silent_connection_of_the_requester_is_made_anew(
    cell: Cell, running, graph, strategy, image, way: str
) -> None:
    """All rows that cross it are lost; what comes over the next one is not."""
    expected = run_in_process(graph, strategy, image)
    assert equal(running.infer(image), expected)
    worker = running._runner.workers["alpha" if way == "there" else "beta"]
    ends = (worker.data.address, worker.data_address)
    lost: list[int] = []

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        if isinstance(read_any(parts), Rows) and (source, target) == (ends if way == "there" else ends[::-1]):
            lost.append(1)
            return []
        return [parts]

    cell.exchange.tamper = tamper
    for _ in range(2):
        assert equal(running.infer(image, deadline_s=4.0), expected)
    assert lost
    assert worker.data.address != ends[0]


@pytest.mark.parametrize("damage", ["size", "stage", "noise", "version", "frame", "plan"])
def test_damaged_rows_are_counted_and_dropped(cell: Cell, running, graph, strategy, image, damage: str) -> None:
    hit: list[int] = []

    def tamper(source: str, target: str, parts: list[bytes]) -> list[list[bytes]]:
        message = read_any(parts)
        if hit or not isinstance(message, Rows):
            return [parts]
        hit.append(1)
        changed = {
            "stage": {"stage": 77},
            "frame": {"frame": message.frame + (1 << 30)},
            "plan": {"plan": 999},
        }
        if damage == "size":
            return [[*parts[:-1], parts[-1][:-1]]]
        if damage == "noise":
            return [[b"DRE\x04\xff\xff", *parts[1:]]]
        if damage == "version":
            return [[b"DRE\x09" + parts[0][4:], *parts[1:]]]
        head = bytearray(parts[0])
        rows = message._replace(**changed[damage])
        write_head(memoryview(head), rows.plan, rows.frame, rows.stage, rows.source, rows.sent_ns)
        return [[bytes(head), *parts[1:]]]

    cell.exchange.tamper = tamper
    with pytest.raises(PeerTimeout):
        running.infer(image, deadline_s=0.4)
    dropped = sum((worker._data.dropped for worker in cell.workers.values()), type(running.dropped)())
    assert dropped.total() == 1
    assert equal(running.infer(image), run_in_process(graph, strategy, image))


def test_an_imposter_is_dropped(cell: Cell, running, image) -> None:
    """Somebody with a key of the cluster sends rows in another's name."""
    network = cell.networks[0]
    plan, deployment = running._runner.plans.active.number, running._runner.current
    planned = deployment.input_messages[0]
    name = deployment.devices[planned.destination]
    evil = type(network)(cell.exchange, "beta" if name != "beta" else "gamma")
    cell.networks.append(evil)
    endpoint = evil.connect(f"memory://{name}:2", "data")
    rows = bytearray(HEAD_BYTES + planned.size_bytes)
    write_head(memoryview(rows), plan, 0, planned.stage, -1, 0)
    endpoint.send([rows])
    assert running.infer(image)
    assert cell.workers[name]._data.dropped["imposter"] == 1


def test_sending_to_a_lost_worker_is_an_error_at_once(cell: Cell, running, image, monkeypatch) -> None:
    worker = running._runner.workers["alpha"]

    def send(parts, to=b"", tracked=False):
        raise NotConnected("its queue is full")

    monkeypatch.setattr(worker.data, "send", send)
    with pytest.raises(ExecutionError, match="worker 'alpha': cannot be sent its rows: its queue is full"):
        running.infer(image, deadline_s=60.0)
