"""What `distredge doctor` looks at on this machine."""

from __future__ import annotations

import functools
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distredge.cluster_file import Provider

_PACKAGES = ("numpy", "pyzmq", "msgspec", "onnx", "onnxruntime", "click", "rich", "pillow", "psutil")
_INSTEAD = {"onnxruntime": "onnxruntime-gpu"}
"""Package -> another that brings the same module: on Jetsons NVIDIA's build."""
_OPTIONAL = {
    "plan": ("numba", "scipy"),
    "train": ("torch", "gymnasium", "stable-baselines3", "tensorboard"),
    "watch": ("matplotlib", "prometheus-client"),
    "discovery": ("zeroconf",),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: "ok", "missing" (something optional) or "bad"."""

    what: str
    state: str
    detail: str


def look_around(engine_python: str | None = None, provider: Provider = "cpu") -> Iterator[Finding]:
    """Yields what was found, as it is found: the last check can take half a minute.

    Args:
        engine_python: older Python in which a worker's engine would run; None: this one.
        provider: what it would compute with.
    """
    yield Finding("python", "ok" if sys.version_info >= (3, 10) else "bad", f"{platform.python_version()}")
    yield from _packages(engine_python is not None)
    engine: dict[str, Callable[[], tuple[str, str]]] = {
        "engine": functools.partial(_engine, engine_python, provider),
        "worker": functools.partial(_loopback, engine_python, provider),
    }
    for what, check in {**_CHECKS, **engine, "planning": _kernel}.items():
        try:
            state, detail = check()
        except Exception as error:
            state, detail = "bad", f"{type(error).__name__}: {error}"
        yield Finding(what, state, " ".join(detail.split()))


def _packages(engine_elsewhere: bool) -> Iterator[Finding]:
    for name in _PACKAGES:
        version = _version(name) or _version(_INSTEAD.get(name, name))
        lacks = f"not installed: pip install {name}"
        if name == "onnxruntime" and not version:
            if engine_elsewhere:
                yield Finding(name, "missing", "not installed here, and not needed: the other Python's computes")
                continue
            lacks += "; where an older Python has it (JetPack 4 and 5): --engine-python PATH, as for `worker`"
        yield Finding(name, "ok" if version else "bad", version or lacks)
    for extra, names in _OPTIONAL.items():
        absent = [name for name in names if not _version(name)]
        there = ", ".join(f"{name} {_version(name)}" for name in names if name not in absent)
        hint = f"; {', '.join(absent)} absent: pip install 'distredge[{extra}]'" if absent else ""
        yield Finding(f"extra {extra}", "missing" if absent else "ok", (there + hint).lstrip("; "))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> tuple[str, str]:
    import os

    import psutil

    from distredge.processors import usable_cores

    memory = psutil.virtual_memory()
    cores = usable_cores()
    return "ok", (
        f"{platform.machine()}, {cores} cores, {memory.total / 1e9:.1f} GB memory ({memory.available / 1e9:.1f} free), "
        f"load {os.getloadavg()[0]:.2f}"
    )


def _interfaces() -> tuple[str, str]:
    import psutil

    stats = psutil.net_if_stats()
    found = [
        f"{name} {address.address}"
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and name in stats and stats[name].isup
    ]
    return ("ok" if found else "bad"), ", ".join(found) or "none is up"


def _ports() -> tuple[str, str]:
    from distredge.cluster_file import CONTROL_PORT, DATA_PORT

    busy = [port for port in (CONTROL_PORT, DATA_PORT) if not _is_free(port)]
    if busy:
        return (
            "missing",
            f"{', '.join(map(str, busy))} in use: a worker may run already, or give others in the cluster file",
        )
    return "ok", f"{CONTROL_PORT} (control) and {DATA_PORT} (data) are free"


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def _curve() -> tuple[str, str]:
    import zmq

    state = "ok" if zmq.has("curve") else "bad"
    return state, f"libzmq {zmq.zmq_version()}" + ("" if state == "ok" else " without CURVE: install the pyzmq wheel")


def _loopback(engine_python: str | None, provider: Provider) -> tuple[str, str]:
    """One worker process, encrypted, and what a message to it costs."""
    import msgspec

    from distredge.runtime.hosting.worker_process import START_S, WorkerProcesses, local_order
    from distredge.runtime.links.one_link import SIZES, fit, measure_link
    from distredge.runtime.protocol.addresses import PeerAddress
    from distredge.runtime.protocol.security import REQUESTER_NAME, make_keys
    from distredge.runtime.protocol.transport import ZmqNetwork

    keys = make_keys(["doctor"])
    order = local_order("doctor", keys["doctor"].for_worker())
    order = msgspec.structs.replace(order, engine_python=engine_python or "", provider=provider)
    workers = WorkerProcesses([order])
    try:
        (address,) = workers.wait(START_S, keys[REQUESTER_NAME])
        network = ZmqNetwork(keys[REQUESTER_NAME].for_requester())
        try:
            peer = PeerAddress(address.name, address.data, address.public_key)
            figures = fit(SIZES, measure_link(network, peer, SIZES, 5))
        finally:
            network.close()
    finally:
        workers.close()
    rate = "unbounded" if figures.rate_bps is None else f"{figures.rate_bps / 8e6:.0f} MB/s"
    return "ok", f"a worker answers in {1e3 * figures.round_trip_s:.3f} ms, takes rows at {rate}, encrypted"


def _engine(python: str | None, provider: Provider) -> tuple[str, str]:
    """A worker's engine, which runs a small model."""
    import contextlib

    import numpy as np

    from distredge.errors import DistredgeError
    from distredge.profiles.measuring.engines import chain_model
    from distredge.runtime.engine import OnnxRuntimeEngine
    from distredge.runtime.old_python_engine import OldPythonEngine

    with contextlib.ExitStack() as stack:
        try:
            if python is None:
                engine: OnnxRuntimeEngine | OldPythonEngine = OnnxRuntimeEngine(provider=provider)
            else:
                engine = stack.enter_context(contextlib.closing(OldPythonEngine(python, provider=provider)))
            given, found = np.array([[1.0, -2.0]], np.float32), np.zeros((1, 2), np.float32)
            engine.load(chain_model(2, 2), {}).bind({"x": given}, {"y": found}, 0)()
        except DistredgeError as error:
            return "bad", str(error)
        if not np.array_equal(found, np.abs(given)):
            return "bad", f"{engine.name} computes {found.tolist()} for abs(-x) of {given.tolist()}"
        if isinstance(engine, OldPythonEngine):
            has = f"{engine.name}, numpy {engine.about['numpy']}: {', '.join(engine.about['available'])}"
        else:
            import onnxruntime

            has = f"{engine.name}: {', '.join(onnxruntime.get_available_providers())}"
        return "ok", f"{has}; computes with {engine.providers[0]}"


def _kernel() -> tuple[str, str]:
    """Compiles what no cache holds yet, so that neither the first plan nor the first training waits for it."""
    import importlib
    import time
    from importlib.util import find_spec

    started_s = time.monotonic()
    try:
        importlib.import_module("distredge.latency.kernel.kernel").warm()
        importlib.import_module("distredge.planners.search").warm()
        what = "kernel and search"
        if find_spec("gymnasium") is not None:
            importlib.import_module("distredge.envs.warming").warm()
            what = "kernel, search and environments"
    except (ImportError, AttributeError) as error:
        return "missing", f"no compiled latency kernel, plans are slower: {error}"
    ready = f"compiled {what} ready in {time.monotonic() - started_s:.1f} s"
    folder = importlib.import_module("distredge.latency.kernel.entry_points").folder()
    if folder is None:
        return "missing", f"{ready}, and anew in every process: set NUMBA_CACHE_DIR to a folder that can be written"
    return "ok", f"{ready}, kept in {folder}"


_CHECKS: dict[str, Callable[[], tuple[str, str]]] = {
    "machine": _machine,
    "interfaces": _interfaces,
    "ports": _ports,
    "encryption": _curve,
}
