"""Measures the link to another worker when a control plane is asked to, in a thread of its own, one link at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from distredge.errors import ExecutionError, ProtocolError
from distredge.runtime.links.one_link import measure_link
from distredge.runtime.protocol.checked_plan import check_peer
from distredge.runtime.protocol.messages import LinkMeasured, Measure
from distredge.runtime.protocol.transport import Network
from distredge.runtime.worker.supervisor import Supervisor


class LinkMeasuring:
    """Of one worker; all methods belong to the thread of its control plane.

    Args:
        network: makes sockets.
        supervisor: starts the thread.
        wake: called by that thread when it has an answer; `take_end` is called then.
        reply: sends an answer to who asked.
    """

    def __init__(
        self,
        network: Network,
        supervisor: Supervisor,
        wake: Callable[[], None],
        reply: Callable[[bytes, LinkMeasured], None],
    ) -> None:
        self._network = network
        self._supervisor = supervisor
        self._wake = wake
        self._reply = reply
        self._thread: threading.Thread | None = None
        self._ends: queue.SimpleQueue[tuple[bytes, LinkMeasured]] = queue.SimpleQueue()

    def begin(self, peer: bytes, message: Measure) -> None:
        """Begins to measure; whatever comes of it is answered."""
        if self._thread is not None:
            self._reply(peer, LinkMeasured(message.token, (), "this worker is measuring another link"))
            return
        try:
            check_peer(message.peer)
            self._thread = self._supervisor.start("measure", lambda: self._measure(peer, message), daemon=True)
        except (ProtocolError, RuntimeError) as error:
            self._reply(peer, LinkMeasured(message.token, (), str(error)[:2000]))

    def take_end(self) -> None:
        """Answers for a measurement that has ended, so that the next one may begin."""
        while not self._ends.empty():
            peer, answer = self._ends.get()
            self.join()
            self._reply(peer, answer)

    def join(self) -> None:
        """Waits until the measurement that runs has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _measure(self, peer: bytes, message: Measure) -> None:
        answer = LinkMeasured(message.token, (), "the measurement broke off")
        try:
            times_s = measure_link(
                self._network, message.peer, message.sizes, message.repeats, message.timeout_s, back=message.back
            )
            answer = LinkMeasured(message.token, times_s, "")
        except ExecutionError as error:
            answer = LinkMeasured(message.token, (), str(error)[:2000])
        except Exception as error:  # a library's own: who asked must hear of it, and the next one be served
            answer = LinkMeasured(message.token, (), f"{type(error).__name__}: {error}"[:2000])
        finally:
            self._ends.put((peer, answer))
            self._wake()
