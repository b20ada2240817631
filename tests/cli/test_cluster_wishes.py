"""What boards that were looked at are called, and what shows what is done on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.cli._cluster_wishes import Wanted, Wishes, name_boards
from distredge.cli._remote import progress
from distredge.remote.look import Found
from distredge.remote.ssh import read_destination


def test_boards_with_ipv6_addresses_have_their_cores_to_themselves() -> None:
    boards = tuple(Wanted(f"nano-{k}", read_destination(f"pi@[fd00::{k}]"), f"fd00::{k}") for k in (1, 2))
    both = Wanted("beside", read_destination("pi@[fd00::2]"), "[fd00::2]:6100")
    found = Found("Linux", "aarch64", "pi", 64, 4, None, None, True, "", "", "pi", (), False, False, {}, False)
    wishes = Wishes(Path("c.toml"), boards, (), None, False, False, "", (), True, True, False, False)
    named = name_boards(wishes, dict.fromkeys((*boards, both), found), ())
    assert {board.name: board.threads for board in named} == {"nano-1": 4, "nano-2": 2, "beside": 2}


def test_what_a_board_says_is_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress(["one"]) as tell:
        tell("one", "Processing x.whl[engine] [/home/pi]")
    assert "x.whl[engine] [/home/pi]" in capsys.readouterr().err
