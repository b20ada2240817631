"""A worker: computes its part of the plans that a coordinator gives it.

Nothing here, and nothing that it imports, needs torch, gymnasium, stable-baselines3, numba, scipy, matplotlib or onnx.
"""

from __future__ import annotations

import signal
import threading

from distredge.runtime.engine import Engine
from distredge.runtime.protocol.transport import Network
from distredge.runtime.worker.control_plane import ControlPlane
from distredge.runtime.worker.data_plane import DataPlane, Stop
from distredge.runtime.worker.settings import WorkerSettings


class Worker:
    """Two threads: the caller's runs the data plane and computes, another one the control plane.

    Args:
        settings: name, addresses and limits.
        network: makes sockets; closed when `run` ends.
        engine: runs sub-models.

    Raises:
        TransportError: if an address cannot be bound.
    """

    def __init__(self, settings: WorkerSettings, network: Network, engine: Engine) -> None:
        self._network = network
        control = network.bind(settings.control, "control")
        self._data = DataPlane(network, settings.data)
        self._control = ControlPlane(settings, network, control, self._data, engine)
        self.control_address = control.address
        self.data_address = self._data.endpoint.address
        self._stopped = threading.Lock()

    def run(self) -> None:
        """Works until `stop`; sockets are closed then."""
        thread = threading.Thread(target=self._control.run, name="control")
        try:
            thread.start()
            self._data.run()
        finally:
            self._control.stop()
            thread.join()
            self._network.close()

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

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
        return came

    def stop(self) -> None:
        """Makes `run` return as soon as the stage that is being computed is done; called by any thread, once."""
        if self._stopped.acquire(blocking=False):
            self._data.instruct(Stop())
