"""Several boards at once: each is worked on in a thread of its own, and what fails on one stops none of the others."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from distredge.errors import DistredgeError
from distredge.remote.ssh import Board, Destination, SshError, connections

R = TypeVar("R")

_AT_ONCE = 16
_ASKABLE = ("denied", "unknown key")


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of each board, by name: what was done there, or what went wrong."""

    done: Mapping[str, R]
    failed: Mapping[str, str]


@contextlib.contextmanager
def logged_in(
    destinations: Mapping[str, Destination], options: Sequence[str] = (), may_ask: bool = False
) -> Iterator[Outcome[Board]]:
    """Logs in to boards, all at the same time, and ends the connections at the end.

    Args:
        destinations: board -> where it is.
        options: of `ssh -o`.
        may_ask: whether those that want a password, or whose key is not known, are asked for at the terminal, one
            after the other.
    """
    with connections() as board_at:
        boards = {name: board_at(destination, options) for name, destination in destinations.items()}
        refused: set[str] = set()

        def login(name: str, board: Board) -> None:
            try:
                board.login(may_ask=False)
            except SshError as error:
                if error.reason in _ASKABLE:
                    refused.add(name)
                raise

        outcome = each(boards, login)
        failed = dict(outcome.failed)
        for name in sorted(refused) if may_ask else ():
            try:
                boards[name].login(may_ask=True)
            except SshError as error:
                failed[name] = str(error)
            else:
                del failed[name]
        yield Outcome({name: board for name, board in boards.items() if name not in failed}, failed)


def each(boards: Mapping[str, Board], work: Callable[[str, Board], R]) -> Outcome[R]:
    """Does the same on each board, at the same time; Ctrl-C ends what goes on there.

    Args:
        boards: by name.
        work: gets name and board; its errors of this project's tree are what failed there, others are raised.
    """
    done: dict[str, R] = {}
    failed: dict[str, str] = {}
    with _interrupted_once():
        try:
            with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(boards))), thread_name_prefix="board") as threads:
                futures: dict[str, Future[R]] = {n: threads.submit(work, n, board) for n, board in boards.items()}
                try:
                    for name, future in futures.items():
                        try:
                            done[name] = future.result()
                        except DistredgeError as error:
                            failed[name] = str(error)
                except BaseException:
                    for future in futures.values():
                        future.cancel()
                    for board in boards.values():
                        board.abandon()
                    raise
        finally:
            for board in boards.values():
                board.recover()
    return Outcome(done, failed)


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Takes one Ctrl-C; those that follow while it is tidied up would leave threads behind that never end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def take(number: int, frame: object) -> None:
        nonlocal came
        if not came:
            came = True
            raise KeyboardInterrupt

    # SIGTERM where it is taken as Ctrl-C is.
    taken = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, take) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
