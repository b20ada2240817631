"""Boards that are worked on at the same time, and Ctrl-C."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from pathlib import Path

import pytest

from distredge.remote.fleet import each, logged_in
from distredge.remote.ssh import Board, read_destination


@pytest.mark.timeout(60)
def test_ctrl_c_that_comes_again_leaves_no_board_working(
    boards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("one", "two"):
        boards(host)
    abandon = Board.abandon
    again = [KeyboardInterrupt()]

    def interrupted(board: Board) -> None:
        if again:
            raise again.pop()
        abandon(board)

    monkeypatch.setattr(Board, "abandon", interrupted)
    with logged_in({host: read_destination(host) for host in ("one", "two")}) as at, pytest.raises(KeyboardInterrupt):
        each(at.done, lambda name, board: board.work("echo up; sleep 300", lambda _: _thread.interrupt_main()))
