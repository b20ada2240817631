"""The rules of a door: who waits there, who has to go, and what honest peers may do."""

from __future__ import annotations

import pytest

from distredge.runtime.protocol.door import (
    CONNECTIONS_OF_USER,
    HEARTBEAT_BYTES_PER_S,
    STRANGER_BYTES,
    UNREAD_BYTES,
    UNSENT_BYTES,
    WAITING,
    WAITING_OF_ADDRESS,
    Close,
    Connection,
    Counted,
    Door,
    Limits,
    Stage,
    Traffic,
)

KEYED = 300
"""Acknowledged by a client whose handshake is done."""


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Door:
    return Door(True, 20_000, clock)


def _observe(door: Door, fd: int, received: int = 600, acked: int = KEYED) -> Close | None:
    connection = door.open[fd]
    before = Counted(connection.taken_bytes, connection.sent_bytes)
    return door.observe(connection, before, Traffic(received, acked))


def _known(door: Door, fd: int, user: str, address: str = "10.0.0.1") -> Connection:
    door.accepted(fd, address, 1000 + fd)
    door.took(fd, fd.to_bytes(5, "big"), user, [range(10)])
    assert _observe(door, fd) is None
    assert door.open[fd].stage is Stage.KNOWN
    return door.open[fd]


def test_the_oldest_stranger_of_the_address_with_most_gives_way(door: Door) -> None:
    door.accepted(1, "10.0.0.9", 1)
    for fd in range(2, 2 + WAITING_OF_ADDRESS):
        door.accepted(fd, "10.0.0.1", fd)
        assert door.crowded() is None
    door.accepted(1000, "10.0.0.1", 1000)
    oldest = door.crowded()
    assert oldest is door.open[2]
    assert door.give_way(oldest).ending == "gave way"
    assert door.crowded() is None


def test_strangers_from_everywhere_are_bounded_too(door: Door) -> None:
    for fd in range(WAITING):
        door.accepted(fd, f"10.0.{fd // 50}.1", fd)
        assert door.crowded() is None
    door.accepted(WAITING, "10.9.9.9", 1)
    oldest = door.crowded()
    assert oldest is door.open[0]


def test_a_handshake_that_is_done_makes_room(door: Door) -> None:
    for fd in range(WAITING_OF_ADDRESS):
        door.accepted(fd, "10.0.0.1", fd)
        assert _observe(door, fd) is None
        assert door.open[fd].stage is Stage.GUEST
    door.accepted(1000, "10.0.0.1", 1000)
    assert door.crowded() is None
    _observe(door, 1000)
    assert door.crowded() is door.open[0]


def test_who_was_heard_gives_way_to_nobody(door: Door) -> None:
    first = _known(door, 1, "beta")
    for fd in range(2, 2 + 2 * WAITING_OF_ADDRESS):
        door.accepted(fd, "10.0.0.1", fd)
        while (oldest := door.crowded()) is not None:
            assert oldest is not first
            door.give_way(oldest)


def test_a_message_may_be_taken_before_its_connection_is_announced(door: Door) -> None:
    door.took(7, b"\0peer", "beta", [range(1000)])
    door.accepted(7, "10.0.0.1", 1)
    assert (door.open[7].user, door.open[7].taken_bytes) == ("beta", 1000 + 33 + 9)
    door.took(8, b"\0gone", "beta", [range(1000)])
    door.forget_early(door.early())
    door.accepted(8, "10.0.0.1", 2)
    assert not door.open[8].heard


@pytest.mark.parametrize(("received", "goes"), [(STRANGER_BYTES, False), (STRANGER_BYTES + 1, True)])
def test_a_stranger_says_hardly_more_than_a_handshake(door: Door, received: int, goes: bool) -> None:
    door.accepted(1, "10.0.0.1", 1)
    close = _observe(door, 1, received, 244)
    assert (close is not None) == goes
    if close is not None:
        assert "10.0.0.1:1: sent 16385 bytes before its keys were agreed" in close.reason
        assert _observe(door, 1, received, 244) is None, "it is told to go once"


def test_the_oldest_of_too_many_connections_of_a_user_goes(door: Door) -> None:
    first = _known(door, 1, "beta")
    for fd in range(2, CONNECTIONS_OF_USER + 1):
        _known(door, fd, "beta", f"10.0.0.{fd}")
    _known(door, 500, "gamma")
    assert list(door.excess()) == []
    _known(door, 501, "beta")
    (close,) = door.excess()
    assert (close.connection, close.ending) == (first, "too many connections")
    assert "'beta' at 10.0.0.1:1001" in close.reason


def test_what_a_user_sends_is_bounded_over_all_its_connections(door: Door) -> None:
    larger, smaller = _known(door, 1, "beta"), _known(door, 2, "beta")
    half = UNREAD_BYTES // 2
    _observe(door, 1, 600 + half + 1)
    _observe(door, 2, 600 + half)
    assert door.filling
    (close,) = door.excess()
    assert (close.connection, close.ending) == (larger, "sends too much")
    door.gone(1)
    assert list(door.excess()) == []
    assert not smaller.closing


def test_what_has_been_taken_counts_no_more(door: Door, clock: Clock) -> None:
    beta = _known(door, 1, "beta")
    received = 600
    for _ in range(200):
        door.took(1, beta.peer, "beta", [range(1024 * 1024), range(200)])
        received += 1024 * 1024 + 33 + 9 + 200 + 33 + 2
        _observe(door, 1, received)
    assert list(door.excess()) == []
    assert beta.unread_bytes < 1000
    assert not door.filling


def test_heartbeats_of_months_are_no_flood(door: Door, clock: Clock) -> None:
    beta = _known(door, 1, "requester")
    clock.now_s += 3e7
    _observe(door, 1, int(600 + HEARTBEAT_BYTES_PER_S * 3e7))
    assert beta.unread_bytes < 1000
    assert list(door.excess()) == []


def test_what_plans_announce_may_wait(door: Door) -> None:
    _known(door, 1, "beta")
    door.allow(1_000_000, 0)
    _observe(door, 1, 600 + UNREAD_BYTES + 900_000)
    assert list(door.excess()) == []
    door.allow(0, 0)
    assert [close.ending for close in door.excess()] == ["sends too much"]


def test_what_is_taken_while_the_kernel_is_asked_does_not_wait(door: Door) -> None:
    """Gigabytes a second pass between two steps of the doorkeeper, which must not take them for a flood."""
    beta = _known(door, 1, "beta")
    before = Counted(beta.taken_bytes, beta.sent_bytes)
    door.took(1, beta.peer, "beta", [range(UNREAD_BYTES)])
    door.observe(beta, before, Traffic(2 * UNREAD_BYTES - 2_000, KEYED))
    assert list(door.excess()) == []
    assert UNREAD_BYTES - 4_000 <= beta.unread_bytes <= UNREAD_BYTES
    _observe(door, 1, 2 * UNREAD_BYTES + 2_000)
    assert [close.ending for close in door.excess()] == ["sends too much"]


def test_a_slow_reader_goes_by_name(door: Door) -> None:
    beta = _known(door, 1, "beta")
    door.sends(beta.peer, [range(UNSENT_BYTES + 2_000)])
    door.sends(b"nobody", [range(UNSENT_BYTES)])
    _observe(door, 1, acked=KEYED + 1_000)
    (close,) = door.excess()
    assert close.ending == "reads too little"
    assert "'beta'" in close.reason


def test_what_was_sent_and_acknowledged_counts_no_more(door: Door) -> None:
    beta = _known(door, 1, "beta")
    acked = KEYED
    for _ in range(100):
        door.sends(beta.peer, [range(1024 * 1024)])
        acked += 1024 * 1024 + 33 + 9
        _observe(door, 1, acked=acked)
    assert list(door.excess()) == []
    assert beta.unsent_bytes < 1000


def test_a_descriptor_used_again_is_another_connection(door: Door) -> None:
    beta = _known(door, 1, "beta")
    door.gone(1)
    door.gone(1)
    door.accepted(1, "10.0.0.2", 5)
    door.sends(beta.peer, [range(UNSENT_BYTES * 2)])
    assert door.open[1].stage is Stage.STRANGER
    assert door.open[1].sent_bytes == 0
    assert not door.open[1].heard


def test_what_comes_over_a_connection_that_was_made_is_bounded_from_the_first_look_on() -> None:
    door = Door(True, 0)
    door.took(3, b"", "", [range(5_000)])
    door.dialled(3, "tcp://10.0.0.7:5700", "10.0.0.7", 5700)
    _observe(door, 3, 50_000_000)
    assert list(door.excess()) == []
    door.took(3, b"", "", [range(5_000)])
    _observe(door, 3, 50_000_000 + UNREAD_BYTES)
    assert list(door.excess()) == []
    _observe(door, 3, 50_000_000 + UNREAD_BYTES + 10_000)
    (close,) = door.excess()
    assert close.ending == "sends too much"
    assert "'tcp://10.0.0.7:5700' at 10.0.0.7:5700: 33559390 bytes wait to be read" in close.reason
    door.gone(3)
    assert not door.open


def test_without_encryption_the_address_stands_for_the_user(clock: Clock) -> None:
    door = Door(False, 20_000, clock)
    connection = _known(door, 1, "", "10.0.0.5")
    assert connection.owner == "10.0.0.5"
    door.accepted(2, "10.0.0.5", 2)
    assert _observe(door, 2, received=107) is None
    assert door.open[2].stage is Stage.GUEST
    door.took(1, connection.peer, "", [range(10), range(300)])
    assert connection.taken_bytes == (10 + 2) * 2 + 300 + 9


def test_a_process_with_few_descriptors_has_fewer_waiting() -> None:
    assert Limits.within(20_000) == Limits(WAITING_OF_ADDRESS, WAITING)
    assert Limits.within(400) == Limits(25, 50)
    assert Limits.within(0) == Limits(4, 8)
