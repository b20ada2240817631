"""Boards that are worked on at the same time, and Ctrl-C."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest

from distredge.remote.fleet import each


class _Board:
    """Works until it is abandoned; the first that is has Ctrl-C pressed once more meanwhile."""

    again = True

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def abandon(self) -> None:
        if _Board.again:
            _Board.again = False
            raise KeyboardInterrupt
        self.is_over.set()

    def recover(self) -> None:
        pass


def test_ctrl_c_that_comes_again_leaves_no_board_working() -> None:
    boards: dict[str, Any] = {"one": _Board(), "two": _Board()}

    def work(name: str, board: Any) -> bool:
        if name == "one":
            _thread.interrupt_main()
        return bool(board.is_over.wait(20))

    with pytest.raises(KeyboardInterrupt):
        each(boards, work)
    assert all(board.is_over.is_set() for board in boards.values())
