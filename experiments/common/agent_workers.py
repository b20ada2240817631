"""Work spread over the cores of this machine, or over a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, TypeVar

from distredge.errors import ConfigError, MissingDependency
from distredge.processors import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Tasks under way or waiting for each worker."""


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Result]:
    """Calls a function for each item, several at a time; yields the results as they come, in no order.

    Args:
        function: of a module, so that other processes find it; what it holds goes along, files of this machine do not.
        items: its arguments, taken as they are needed.
        workers: processes, on a Ray cluster tasks at a time; None: as many as there are cores.
        ray_address: of a Ray cluster's head ("auto" finds one that runs here); None: this machine alone.

    Raises:
        MissingDependency: if Ray is asked for and not installed.
        ConfigError: if there is no Ray cluster at that address.
    """
    if ray_address is not None:
        yield from _over_ray(function, items, workers, ray_address)
        return
    workers = workers or usable_cores()
    # One thread each: as many processes as cores do the rest. They are started with the first tasks.
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_politely) as pool,
    ):
        waiting: set[Future[Result]] = set()
        try:
            for item in items:
                waiting.add(pool.submit(function, item))
                if len(waiting) >= AHEAD * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started inside use one thread: they read this when they import what has threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _politely() -> None:
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)


def _over_ray(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None, address: str
) -> Iterator[Result]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency("ray", "by --ray-address", "ray") from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error

    def call(item: Item) -> Result:  # Ray takes no partial functions
        return function(item)

    task: Any = ray.remote(num_cpus=1)(call)
    resources: dict[str, float] = ray.cluster_resources()
    workers = workers or max(1, int(resources.get("CPU", 1)))
    waiting: list[Any] = []
    try:
        for item in items:
            waiting.append(task.remote(item))
            if len(waiting) >= AHEAD * workers:
                done, waiting = ray.wait(waiting)
                yield from ray.get(done)
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    finally:
        for reference in waiting:
            ray.cancel(reference)
