"""A worker: computes its part of the plans that a coordinator gives it.

Nothing here, and nothing that it imports, needs torch, gymnasium, stable-baselines3, numba, scipy, matplotlib or onnx.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from distredge.runtime.engine import Engine
from distredge.runtime.protocol.orders import STOP_S
from distredge.runtime.protocol.transport import Network
from distredge.runtime.worker.control_plane import ControlPlane
from distredge.runtime.worker.data_plane import DataPlane, Stop
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.supervisor import Supervisor


class Worker:
    """Two threads: the caller's runs the data plane and computes, another one the control plane.

    Args:
        settings: name, addresses and limits.
        network: makes sockets; closed when `run` ends.
        engine: runs sub-models.
        clock: what leases are timed with: monotonic, seconds.

    Attributes:
        supervisor: of the worker's threads; whoever starts one for it tells it of that thread's death.

    Raises:
        TransportError: if an address cannot be bound.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        network: Network,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self.supervisor = Supervisor(self._died)
        self._stopped = threading.Lock()
        self._ended = threading.Event()
        self._exits = False
        control = network.bind(settings.control, "control")
        self._data = DataPlane(network, settings.data)
        self._control = ControlPlane(settings, network, control, self._data, engine, self.supervisor, clock)
        self.control_address = control.address
        self.data_address = self._data.endpoint.address
        # Last, since it may be told at once.
        network.on_death(functools.partial(self.supervisor.report, "doorkeeper"))

    def run(self) -> None:
        """Works until `stop`; sockets are closed then.

        Raises:
            WorkerDied: if one of its threads ended by an exception.
        """
        try:
            thread = self.supervisor.start("control", self._control.run)
            try:
                self.supervisor.run("data", self._data.run)
            finally:
                self._control.stop()
                thread.join()
        finally:
            self._network.close()
            self._ended.set()
        if self.supervisor.died is not None:
            raise self.supervisor.died

    def exit_on_death(self) -> None:
        """Lets the process end when a thread has died, or a signal came, and `run` does not return within STOP_S.

        Something else hangs then, or is loaded for minutes.
        """
        self._exits = True

    def stop_on_signals(self) -> list[int]:
        """Lets SIGTERM and SIGINT stop it, once; a second one does what it does by default.

        No exception is raised out of the middle of something. Called by the main thread.

        Returns:
            A list to which the signals are appended that have come.
        """
        came: list[int] = []

        def handle(number: int, frame: object) -> None:
            signal.signal(number, signal.SIG_DFL)
            came.append(number)
            self.stop()
            if self._exits:
                code = 128 + number if number == signal.SIGINT else 0
                self._exit_soon(f"ended by {signal.Signals(number).name} in the midst of what it was doing", code)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
        return came

    def stop(self) -> None:
        """Makes `run` return as soon as the stage that is being computed is done; called by any thread, once."""
        if self._stopped.acquire(blocking=False):
            self._data.instruct(Stop())

    def _died(self) -> None:
        self.stop()
        if self._exits:
            self._exit_soon(str(self.supervisor.died), 1)

    def _exit_soon(self, why: str, code: int) -> None:
        def exit_at_last() -> None:
            if not self._ended.wait(STOP_S):
                print(why, file=sys.stderr, flush=True)
                os._exit(code)

        threading.Thread(target=exit_at_last, name="last-resort", daemon=True).start()
