"""The worker process that `hosting.local_cluster` and ``distredge cluster start`` start.

``python -m distredge.runtime.worker``::

    stdin    one line of JSON, `protocol.orders.Order`; then nothing, until the parent closes it: the worker ends
    stdout   one line of JSON, `protocol.orders.Bound`: where it listens
"""

from __future__ import annotations

import logging
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

import msgspec

from distredge.errors import DistredgeError
from distredge.runtime.engine import Engine, OnnxRuntimeEngine, SleepEngine
from distredge.runtime.old_python_engine import OldPythonEngine
from distredge.runtime.protocol.orders import MAX_ORDER_BYTES, STOP_S, Bound, Order
from distredge.runtime.protocol.security import Security
from distredge.runtime.protocol.transport import Network, ZmqNetwork
from distredge.runtime.worker.allocator import keep_freed_frames
from distredge.runtime.worker.settings import WorkerSettings, takes_dynamic_rows
from distredge.runtime.worker.supervisor import WorkerDied
from distredge.runtime.worker.weight_disk import WeightDisk
from distredge.runtime.worker.worker import Worker

Adapt: TypeAlias = Callable[[Engine, Network], tuple[Engine, Network]]


def main(adapt: Adapt | None = None) -> NoReturn:
    """Runs the worker that standard input describes; ends with the process.

    Args:
        adapt: given engine and network, returns those to use instead.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    order = _read_order()
    try:
        _serve(order, adapt)
    except WorkerDied as error:
        # The parent has long read where it listens: this is for the log.
        sys.exit(str(error))
    except DistredgeError as error:
        _say(Bound(error=str(error)))
        sys.exit(error.exit_code)
    sys.exit(0)


def _read_order() -> Order:
    # Read without Python's buffering: the watching thread reads the same descriptor later.
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece or len(line) > MAX_ORDER_BYTES:
            sys.exit("no order on standard input; this module is started by a parent")
        line += piece
    try:
        return msgspec.json.decode(bytes(line), type=Order)
    except msgspec.DecodeError as error:
        sys.exit(f"not an order: {error}")


def _serve(order: Order, adapt: Adapt | None) -> None:
    keep_freed_frames()
    engine = _engine(order)
    security = Security(order.name, order.public_key, order.secret_key, order.allowed) if order.secret_key else None
    network: Network = ZmqNetwork(security)
    if adapt is not None:
        engine, network = adapt(engine, network)
    try:
        disk = WeightDisk(Path(order.cache), order.cache_bytes) if order.cache else None
        dynamic_rows = takes_dynamic_rows(order.dynamic_rows, engine)
        settings = WorkerSettings(
            order.name, order.control, order.data, order.memory_bytes, disk=disk, dynamic_rows=dynamic_rows
        )
        worker = Worker(settings, network, engine)
    except BaseException:
        network.close()
        raise
    worker.stop_on_signals()
    worker.exit_on_death()
    if order.parent:
        _watch_parent(order.parent, worker.stop)
    _say(Bound(worker.control_address, worker.data_address))
    worker.run()


def _engine(order: Order) -> Engine:
    if order.engine == "sleep":
        return SleepEngine(order.seconds)
    if order.engine_python:
        return OldPythonEngine(order.engine_python, order.threads, order.provider)
    return OnnxRuntimeEngine(order.threads, order.provider)


def _say(bound: Bound) -> None:
    os.write(1, msgspec.json.encode(bound) + b"\n")


def _watch_parent(parent: int, stop: Callable[[], None]) -> None:
    """Starts a thread that calls `stop` when standard input closes or the parent is another, and then ends the process.

    The second test is for a parent whose pipe lives on in a process that it forked.
    """

    def watch() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            while True:
                if selector.select(1.0) and not os.read(0, 65536):
                    break
                if os.getppid() != parent:
                    break
        stop()
        time.sleep(STOP_S)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


if __name__ == "__main__":
    main()
