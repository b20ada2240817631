"""The processes of emulated boards: workers in their namespaces, or on loopback addresses, with their pace tables."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distredge.child_processes import python_command
from distredge.cluster import Device
from distredge.network_addresses import tcp
from distredge.runtime.hosting.worker_process import START_S, WorkerProcess, stop_all
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.orders import Order
from distredge.runtime.protocol.security import REQUESTER_NAME, Keys
from distredge.testbed.pace_table import PACED, SETTINGS, PaceTable, make_table

EngineName = Literal["onnxruntime", "sleep"]


@dataclass(frozen=True)
class Seat:
    """Where a worker runs and how others find it.

    Attributes:
        device: what it emulates.
        bind: address that it binds.
        control_port, data_port: that it binds; 0 lets the system choose.
        prefix: what its command starts with.
        source: address that its connections come from; "" any.
    """

    device: Device
    bind: str
    control_port: int
    data_port: int
    prefix: tuple[str, ...] = ()
    source: str = ""


class Boards:
    """Workers of a testbed; they end with this object or its process.

    Args:
        seats: where each runs.
        keys: of all members; None without encryption.
        engine: what computes.
        paced: whether they are.
        parent: process id of the owner.

    Attributes:
        tables: device -> its pace table, (ROWS, COLUMNS) float64.

    Raises:
        PeerTimeout, ExecutionError: if one does not come up.
    """

    def __init__(
        self, seats: Sequence[Seat], keys: Mapping[str, Keys] | None, engine: EngineName, paced: bool, parent: int
    ) -> None:
        self.tables: dict[str, PaceTable] = {}
        self._processes: list[WorkerProcess] = []
        self._end = weakref.finalize(self, stop_all, self._processes)
        self._keys = keys
        # Both sides have mapped the tables when the workers are up: their files can go then.
        folder = Path(tempfile.mkdtemp(prefix="distredge-testbed-"))
        try:
            for seat in seats:
                path = folder / f"{seat.device.name}.table"
                table = self.tables[seat.device.name] = make_table(path)
                table[SETTINGS, PACED] = float(paced)
                command = [*seat.prefix, *python_command("distredge.testbed.board", str(path))]
                if seat.source:
                    command.append(seat.source)
                self._processes.append(WorkerProcess(_order(seat, keys, engine, parent), command=command))
            until_s = time.monotonic() + START_S
            for process in self._processes:
                process.wait_bound(until_s)
        except BaseException:
            self.close()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker."""
        return {process.name: process.pid for process in self._processes}

    @property
    def addresses(self) -> tuple[WorkerAddress, ...]:
        """Where they listen."""
        public = self._keys[REQUESTER_NAME].public if self._keys is not None else {}
        return tuple(
            WorkerAddress(p.name, p.bound.control, p.bound.data, public.get(p.name, "")) for p in self._processes
        )

    def close(self) -> None:
        """Ends them."""
        self._end()


def _order(seat: Seat, keys: Mapping[str, Keys] | None, engine: EngineName, parent: int) -> Order:
    name = seat.device.name
    security = keys[name].for_worker() if keys is not None else None
    return Order(
        name,
        tcp(seat.bind, seat.control_port),
        tcp(seat.bind, seat.data_port),
        seat.device.threads,
        "cpu",
        engine,
        None,
        security.public_key if security is not None else "",
        security.secret_key if security is not None else "",
        {plane: dict(names) for plane, names in security.allowed.items()} if security is not None else {},
        {},
        parent,
    )
