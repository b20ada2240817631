"""A worker's data plane alone, whose processor time a parent asks for: one end of `hosting.message_costs`.

``python -m distredge.runtime.worker.message_end``::

    stdin    one line of JSON, `protocol.orders.Order`; then `protocol.orders.EndRequest`s, a line each, until it closes
    stdout   one line of JSON, `protocol.orders.Bound`; then one `protocol.orders.EndReading` for each request

The data plane runs in a thread of its own, as in a worker. Its engine computes nothing of use, but leaves the caches
as computing does: a message finds neither the interpreter's nor libzmq's code in them, which makes it two to three
times as dear. What the process uses beside that thread and the one that answers is libzmq's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import numpy as np

from distredge.errors import DistredgeError
from distredge.runtime.buffers import Array
from distredge.runtime.protocol.device_plan import ShapeRange
from distredge.runtime.protocol.orders import MEASURING, Bound, EndReading, EndRequest, Order
from distredge.runtime.protocol.security import Security
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.worker.data_plane import AddPlan, DataPlane, PlanFails, Stop
from distredge.runtime.worker.loaded_plan import LoadedPlan, load_plan

_BYTES: Final = 16 << 20
"""What computing a stage writes: about as much as a layer-volume's weights and activations are."""


class CacheFiller:
    """An engine that reads and writes memory of its own in each stage; `seconds` counts the processor time of that."""

    name = "cache filler"
    providers = ("none",)
    threads = 1
    warms_up = False

    def __init__(self) -> None:
        self.seconds = 0.0
        # Not zeros, which would be pages that share one place in memory until they are written.
        self._memory = np.ones(_BYTES // 8, dtype=np.int64)

    def load(
        self, model: bytes, weights: Mapping[str, Array], ranges: Mapping[str, ShapeRange] | None = None
    ) -> CacheFiller:
        """Accepts any sub-model, and constants (d0, d1, ...) of any shape and dtype."""
        return self

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], stage: int) -> Callable[[], None]:
        """Returns what fills the caches; (d0, d1, ...) arrays of any shape and dtype stay as they are."""

        def run() -> None:
            begin_s = time.thread_time()
            np.add(self._memory, 1, out=self._memory)
            self.seconds += time.thread_time() - begin_s

        return run


class TimedDataPlane(DataPlane):
    """A data plane; `sending_s` counts the processor time that its thread used to pack and send."""

    sending_s = 0.0

    def _send(self, loaded: LoadedPlan, frame: int, slot: int, index: int) -> None:
        begin_s = time.thread_time()
        super()._send(loaded, frame, slot, index)
        self.sending_s += time.thread_time() - begin_s


def main() -> None:
    """Serves the data plane that standard input describes until that closes."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    security = Security(order.name, order.public_key, order.secret_key, order.allowed) if order.secret_key else None
    try:
        network = ZmqNetwork(security)
    except DistredgeError as error:
        _say(Bound(error=str(error)))
        sys.exit(error.exit_code)
    plane = TimedDataPlane(network, order.data)
    plane.session = MEASURING
    engine = CacheFiller()
    _say(Bound(data=plane.endpoint.address))
    thread = threading.Thread(target=plane.run, name="data-plane")
    thread.start()
    try:
        for line in sys.stdin.buffer:
            request = msgspec.json.decode(line, type=EndRequest)
            if request.plan is not None:
                models = [b""] * len(request.plan.segments)
                plane.instruct(AddPlan(load_plan(request.plan, models, {}, engine, {})))
                while not plane.outcomes:
                    time.sleep(0.001)
                outcome = plane.outcomes.popleft()
                if isinstance(outcome, PlanFails):
                    sys.exit(outcome.reason)
            _say(_reading(plane, thread, engine, request))
    finally:
        plane.instruct(Stop())
        thread.join()
        network.close()


def _reading(plane: TimedDataPlane, thread: threading.Thread, engine: CacheFiller, request: EndRequest) -> EndReading:
    assert thread.ident is not None
    # The process first: what passes between the two readings must not count as libzmq's.
    process_s = time.process_time()
    own_s = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return EndReading(
        own_s - engine.seconds - plane.sending_s,
        plane.sending_s,
        max(0.0, process_s - own_s - time.thread_time()),
        tuple(
            1e-9 * (record.arrived_ns - record.start_ns)
            for record in plane.records(request.reads, request.since)
            if record.kind == "receive"
        ),
    )


def _say(message: Bound | EndReading) -> None:
    os.write(1, msgspec.json.encode(message) + b"\n")


if __name__ == "__main__":
    main()
