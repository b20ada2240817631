"""What happens when a plan cannot go on: its workers come back, or others are planned with; then it is prepared anew.

It goes on while frames come and go, whose deadlines do not depend on it: those that cannot be run in time end with the
loss as their reason, and later ones wait for the new plan up to theirs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from distredge.errors import DistredgeError, ExecutionError, PeerTimeout
from distredge.runtime.protocol.transport import Bell
from distredge.runtime.requester.io_loop import Task
from distredge.runtime.requester.open_plans import OpenPlan
from distredge.runtime.requester.plans import Blamed, Plans
from distredge.runtime.requester.watch import silent_s
from distredge.runtime.requester.workers import WorkerConnections

if TYPE_CHECKING:
    from distredge.runtime.deployment import Deployment

BACK: Final = 0.25
"""Share of a frame's deadline that goes into reaching a lost worker again, where another plan is at hand."""

SEEN_S: Final = 0.05
"""In which a loss that another worker has reported shows here too."""

AGAIN_S: Final = 0.1
"""Between two tries that fail at once."""

PREPARING_SILENT_S: Final = 3.0
"""For how long a worker that prepares a plan may say nothing at least: loading a sub-model can keep it that busy."""

_log = logging.getLogger(__name__)


class Recovery:
    """One recovery of a plan; `run` is its task.

    Args:
        workers: the connections.
        plans: where the new plan is prepared.
        broken: the plan that cannot go on.
        deadline_s: of frames.
        connect_s: within which workers must be reached.
        replan: see `Coordinator`; called in a thread of its own.
        bell: wakes the coordinator's thread.
    """

    def __init__(
        self,
        workers: WorkerConnections,
        plans: Plans,
        broken: OpenPlan,
        deadline_s: float,
        connect_s: float,
        replan: Callable[[frozenset[str]], Deployment] | None,
        bell: Bell,
    ) -> None:
        self._workers = workers
        self._plans = plans
        self._broken = broken
        self._connect_s = connect_s
        self._back_s = min(connect_s, BACK * deadline_s)
        self._silent_s = None if replan is None else max(PREPARING_SILENT_S, silent_s(deadline_s))
        self._replan = replan
        self._bell = bell
        self._lost = set(broken.given_up)
        self._does = ""

    def reason(self, limit_s: float) -> ExecutionError:
        """The error of a frame that has waited in vain for that many seconds."""
        if not self._does:
            absent = self._workers.absent([n for n in self._broken.indices if n not in self._lost], limit_s)
            if absent is not None:
                return absent
        does = self._does or "reaching the workers again"
        return PeerTimeout(f"no plan to run it on within {limit_s:.3g} s: {does}, after: {self._broken.error}")

    def run(self) -> Task[OpenPlan]:
        """Returns a plan that can run.

        Raises:
            ExecutionError: what keeps every plan from running.
            DistredgeError: what `replan` raised.
        """
        deployment = self._broken.deployment
        # Another worker may have seen first that one is gone.
        yield from _rest(SEEN_S if self._replan is not None else 0.0)
        while True:
            names = [deployment.devices[i] for i in deployment.busy]
            lost = yield from self._reached(names)
            if lost:
                _log.warning("lost %s: planning anew", ", ".join(sorted(lost)))
                self._does = "planning anew"
                deployment = yield from self._planned_anew(lost)
                again = sorted(self._lost & {deployment.devices[i] for i in deployment.busy})
                if again:
                    raise ExecutionError(f"the new plan has workers that are lost: {', '.join(again)}")
            self._does = "preparing the plan"
            try:
                return (yield from self._plans.prepare(deployment, self._broken.slots, True, self._silent_s))
            except PeerTimeout as error:
                _log.warning("the plan cannot be prepared again: %s", error)
                if self._replan is not None and isinstance(error, Blamed):
                    self._lost |= set(error.names)
            self._does = ""
            yield from _rest(AGAIN_S)

    def _reached(self, names: list[str]) -> Task[set[str]]:
        """Waits for the workers to stand; returns those that are lost, where there is another plan without them."""
        self._does = ""
        wanted = [name for name in names if name not in self._lost]
        try:
            limit_s = float("inf") if self._replan is None else self._back_s
            # One that cannot be had back says why; there is no use in waiting for it where others can do without it.
            yield from self._workers.connect(wanted, limit_s, back=True)
        except PeerTimeout:
            if self._replan is None:
                raise
        return {name for name in names if name in self._lost or not self._workers[name].stands}

    def _planned_anew(self, lost: set[str]) -> Task[Deployment]:
        replan = self._replan
        assert replan is not None
        made: list[Deployment | BaseException] = []

        def work() -> None:
            try:
                with _one_at_a_time:
                    made.append(replan(frozenset(lost)))
            except BaseException as error:
                made.append(error)
            self._bell.ring()

        threading.Thread(target=work, name="replan", daemon=True).start()
        while not made:
            yield float("inf")
        found = made[0]
        if isinstance(found, DistredgeError):
            raise found
        if isinstance(found, BaseException):
            raise ExecutionError(f"planning anew failed: {type(found).__name__}: {found}") from found
        return found


_one_at_a_time = threading.Lock()


def _rest(seconds: float) -> Task[None]:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        yield until_s
