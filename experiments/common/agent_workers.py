"""Work spread over the cores of this machine, or over a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, TypeVar

from distredge.errors import MissingDependency

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Tasks under way or waiting for each worker."""


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ray_address: str | None = None
) -> Iterator[Result]:
    """Calls a function for each item, several at a time; yields the results as they come, in no order.

    Args:
        function: of a module, so that other processes find it; what it holds goes along, files of this machine do not.
        items: its arguments, taken as they are needed.
        workers: processes; on a Ray cluster, tasks at a time.
        ray_address: of a Ray cluster's head ("auto" finds one that runs here); None: this machine alone.

    Raises:
        MissingDependency: if Ray is asked for and not installed.
    """
    if ray_address is not None:
        yield from _over_ray(function, items, workers, ray_address)
        return
    # One thread each: as many processes as cores do the rest.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
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


def _one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    with contextlib.suppress(AttributeError, OSError):
        os.nice(5)


def _over_ray(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, address: str
) -> Iterator[Result]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependency("ray", "by --ray-address", "ray") from error
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)

    def call(item: Item) -> Result:  # Ray takes no partial functions
        return function(item)

    task: Any = ray.remote(num_cpus=1)(call)
    waiting: list[Any] = []
    for item in items:
        waiting.append(task.remote(item))
        if len(waiting) >= AHEAD * workers:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)
