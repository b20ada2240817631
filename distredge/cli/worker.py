"""`distredge worker`: runs a worker on this board."""

from __future__ import annotations

import contextlib
import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from distredge.cli._options import verbose_option

if TYPE_CHECKING:
    from distredge.cluster_file import Provider

PROVIDERS: Final[tuple[Provider, ...]] = ("cpu", "cuda", "tensorrt")


@click.command()
@click.option("--cluster", "cluster_name", required=True, help="The cluster file.")
@click.option("--name", required=True, help="This board's name in it.")
@click.option(
    "--keys",
    "keys_path",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with public.json and this board's secret key; default: 'keys' beside the cluster file.",
)
@click.option("--bind", help="Address to listen at, or '*' for every interface; default: the cluster file's.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the engine; default: the cluster file's.")
@click.option("--provider", type=click.Choice(PROVIDERS), help="What computes; default: as the cluster file says.")
@click.option("--engine-python", metavar="PATH",
              help="Older Python (3.6 or later) whose ONNX Runtime computes; default: the cluster file's.")  # fmt: skip
@click.option("--dynamic-rows/--no-dynamic-rows", default=None,
              help="Load one sub-model for each volume, whatever rows a plan gives this board, instead of one for each "
              "plan; default: the cluster file's, else with TensorRT, which takes minutes to build one.")  # fmt: skip
@click.option("--cache", "cache_path", type=click.Path(file_okay=False, path_type=Path),
              help="Keeps weights, and what TensorRT builds, for later; default: ~/.cache/distredge.")  # fmt: skip
@click.option("--cache-mb", type=click.IntRange(1), default=2000, show_default=True,
              help="Most that weights take there; what TensorRT has built takes as much again.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Keep nothing on disk.")
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication: anybody who can connect may use it.")
@click.option("--announce", is_flag=True, help="Tell the local network of it (mDNS), for `cluster init --discover`.")
@verbose_option
def worker(
    cluster_name: str,
    name: str,
    keys_path: Path | None,
    bind: str | None,
    threads: int | None,
    provider: str | None,
    engine_python: str | None,
    dynamic_rows: bool | None,
    cache_path: Path | None,
    cache_mb: int,
    no_cache: bool,
    plaintext: bool,
    announce: bool,
) -> None:
    """Run a worker on this board until Ctrl-C.

    It needs the cluster file, this board's own profile, and its keys: public.json and NAME.secret. It listens at the
    ports that the cluster file gives it, and computes what the requester named in its keys deploys.
    """
    from distredge.cluster_file import read_boards
    from distredge.errors import ConfigError, TransportError
    from distredge.runtime.engine import Engine, OnnxRuntimeEngine
    from distredge.runtime.engine_folders import EngineFolders
    from distredge.runtime.hosting.boards import (
        bind_addresses,
        check_addresses,
        cluster_keys,
        keys_folder,
        memory_limit_bytes,
    )
    from distredge.runtime.old_python_engine import OldPythonEngine
    from distredge.runtime.protocol.transport import ZmqNetwork
    from distredge.runtime.worker.allocator import keep_freed_frames
    from distredge.runtime.worker.settings import WorkerSettings, takes_dynamic_rows
    from distredge.runtime.worker.weight_disk import WeightDisk
    from distredge.runtime.worker.worker import Worker

    if no_cache and cache_path is not None:
        raise ConfigError("--cache says where to keep weights and --no-cache to keep none: give one of them")
    # Nothing but this board's own profile: the other boards' are not here.
    boards = read_boards(cluster_name)
    device = boards.device(name)
    check_addresses(boards)
    security = None
    if not plaintext:
        security = cluster_keys(boards, keys_folder(cluster_name, keys_path), name).for_worker()
    control, data = bind_addresses(device, bind, not plaintext)
    memory_bytes = memory_limit_bytes(device, boards.folder)
    keep_freed_frames()
    disk = folders = None
    folder = None if no_cache else cache_path or _own_cache()
    if folder is not None:
        disk = WeightDisk(folder / "weights", cache_mb * 1_000_000, required=cache_path is not None)
        folders = EngineFolders(folder / "engines", cache_mb * 1_000_000)
    count = device.threads if threads is None else threads
    provider, engine_python = provider or device.provider, engine_python or device.engine_python
    engine: Engine
    if engine_python is None:
        engine = OnnxRuntimeEngine(count, provider, folders=folders)
    else:
        engine = OldPythonEngine(engine_python, count, provider, folders=folders)
    dynamic = takes_dynamic_rows(device.dynamic_rows if dynamic_rows is None else dynamic_rows, engine)
    network = ZmqNetwork(security)
    try:
        settings = WorkerSettings(name, control, data, memory_bytes, disk=disk, dynamic_rows=dynamic)
        made = Worker(settings, network, engine)
    except TransportError as error:
        network.close()
        raise TransportError(
            f"worker '{name}': {error}; if one of that name runs here already, end it; otherwise give the device "
            "another address, control_port or data_port in the cluster file"
        ) from error
    except BaseException:
        network.close()
        raise
    signals = made.stop_on_signals()
    made.exit_on_death()
    click.echo(
        f"worker '{name}': control {made.control_address}, data {made.data_address}, "
        f"{'PLAINTEXT' if plaintext else 'encrypted'}, {engine.name} ({engine.providers[0]}), "
        f"{engine.threads} thread{'s' if engine.threads > 1 else ''}{', dynamic rows' if dynamic else ''}; waits for "
        f"{'anybody' if plaintext else 'the requester'} to deploy or probe; Ctrl-C ends it"
    )
    with _announced(name, made.control_address) if announce else contextlib.nullcontext():
        made.run()
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


def _announced(name: str, control: str) -> AbstractContextManager[None]:
    """Announces a worker at the addresses that it listens at; where that is every one, at this machine's own."""
    from distredge.network_addresses import host_of, is_numeric
    from distredge.remote.discovery import announced

    hosts = [host_of(address) for address in control.split(",")]
    return announced(name, int(control.rpartition(":")[2]), tuple(filter(is_numeric, hosts)))


def _own_cache() -> Path | None:
    """The user's folder for what is kept; None without a home, as what then stands for one may lie in memory."""
    from distredge.folders import home, user_folder

    if not os.environ.get("XDG_CACHE_HOME") and home() is None:
        return None
    return user_folder("XDG_CACHE_HOME", ".cache") / "distredge"
