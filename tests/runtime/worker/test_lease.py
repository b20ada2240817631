"""Who holds a worker: one at a time, as long as it is heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distredge.runtime.worker.lease import LEASE_S, NAMELESS, Granted, Lease, Occupied, Renewed, shown


def _ask(lease: Lease, who: str, now_s: float, take_over: bool = False, peer: bytes | None = None):
    return lease.hello(who.encode(), "requester", peer or who.encode(), f"{who}@desk", take_over, now_s)


def test_the_first_gets_it_and_the_second_is_told_of_it() -> None:
    lease = Lease()
    assert _ask(lease, "ada", 100.0) == Granted(None)
    assert lease.heard(b"ada", 103.0)
    assert _ask(lease, "bob", 105.0) == Occupied("ada@desk", 5.0, 2.0, LEASE_S - 2.0)
    assert not lease.heard(b"bob", 105.0)
    assert lease.refusal(b"bob") == "this worker serves another session, of 'ada@desk'"


def test_a_connection_made_anew_goes_on_with_its_session() -> None:
    lease = Lease()
    _ask(lease, "ada", 0.0)
    assert _ask(lease, "ada", 4.0, peer=b"again") == Renewed()
    assert lease.heard(b"again", 5.0)
    assert not lease.heard(b"ada", 5.0), "the connection before is not the holder's any more"


def test_the_same_session_with_another_key_is_somebody_else() -> None:
    lease = Lease()
    _ask(lease, "ada", 0.0)
    assert isinstance(lease.hello(b"ada", "beta", b"x", "", False, 1.0), Occupied)


def test_whoever_takes_it_over_has_it_and_the_other_hears_who() -> None:
    lease = Lease()
    _ask(lease, "ada", 0.0)
    answer = _ask(lease, "bob", 1.0, take_over=True)
    assert isinstance(answer, Granted)
    assert answer.taken_from is not None
    assert answer.taken_from.peer == b"ada"
    assert lease.refusal(b"ada") == "this worker serves this session no longer: 'bob@desk' has taken it over"
    assert isinstance(_ask(lease, "ada", 2.0), Occupied)


def test_silence_ends_it_and_a_sign_of_life_keeps_it() -> None:
    lease = Lease()
    _ask(lease, "ada", 0.0)
    assert lease.expire(LEASE_S - 0.1) is None
    lease.heard(b"ada", LEASE_S - 0.1)
    assert lease.expire(LEASE_S + 0.1) is None
    gone = lease.expire(2 * LEASE_S)
    assert gone is not None
    assert gone.name == "ada@desk"
    assert lease.holder is None
    assert lease.refusal(b"ada") == f"this worker serves this session no longer: it was silent for {LEASE_S:g} s"
    assert lease.refusal(b"bob") == "this worker serves nobody: say hello first"
    assert _ask(lease, "ada", 30.0) == Granted(None), "its plans are gone: it begins anew"


def test_who_asks_again_is_refused_no_longer() -> None:
    lease = Lease()
    _ask(lease, "ada", 0.0)
    _ask(lease, "bob", 1.0, take_over=True)
    _ask(lease, "ada", 2.0, take_over=True)
    _ask(lease, "bob", 3.0, take_over=True)
    lease.give_up()
    assert _ask(lease, "ada", 4.0) == Granted(None)
    lease.give_up()
    assert lease.refusal(b"ada") == "this worker serves nobody: say hello first"


def test_what_is_remembered_of_former_holders_is_bounded() -> None:
    lease = Lease()
    for number in range(100):
        _ask(lease, f"n{number}", float(number), take_over=True)
    told = [number for number in range(99) if "no longer" in lease.refusal(f"n{number}".encode())]
    assert told == list(range(83, 99))


@given(st.text())
def test_what_others_are_shown_is_short_printable_and_never_empty(name: str) -> None:
    text = shown(name)
    assert text.isprintable()
    assert 0 < len(text) <= 203
    assert text == shown(text)


def test_the_text_of_a_holder_is_made_harmless() -> None:
    assert shown("ada\x1b[2J@desk\n\t x") == "ada [2J@desk x"
    assert shown(" \n") == NAMELESS
