"""`distredge worker`: runs a worker on this board."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from distredge.cli._options import verbose_option

PROVIDERS = ("cpu", "cuda", "tensorrt")


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
@click.option("--provider", type=click.Choice(PROVIDERS), default="cpu", show_default=True, help="What computes.")
@click.option("--plaintext", is_flag=True, help="No encryption, no authentication: anybody who can connect may use it.")
@verbose_option
def worker(
    cluster_name: str,
    name: str,
    keys_path: Path | None,
    bind: str | None,
    threads: int | None,
    provider: str,
    plaintext: bool,
) -> None:
    """Run a worker on this board until Ctrl-C.

    It listens at the ports that the cluster file gives it, and computes what the requester named in its keys deploys.
    """
    from distredge.cluster import load_cluster
    from distredge.runtime.engine import OnnxRuntimeEngine
    from distredge.runtime.hosting.boards import bind_addresses, check_addresses, cluster_keys, keys_folder
    from distredge.runtime.protocol.transport import ZmqNetwork
    from distredge.runtime.worker.settings import WorkerSettings
    from distredge.runtime.worker.worker import Worker

    cluster = load_cluster(cluster_name)
    device = cluster.device(name)
    check_addresses(cluster)
    security = None
    if not plaintext:
        security = cluster_keys(cluster, keys_folder(cluster_name, keys_path), name).for_worker()
    control, data = bind_addresses(device, bind, not plaintext)
    engine = OnnxRuntimeEngine(device.threads if threads is None else threads, provider)
    network = ZmqNetwork(security)
    try:
        made = Worker(WorkerSettings(name, control, data, device.memory_bytes), network, engine)
    except BaseException:
        network.close()
        raise
    signals = made.stop_on_signals()
    made.exit_on_death()
    click.echo(
        f"worker '{name}': control {made.control_address}, data {made.data_address}, "
        f"{'PLAINTEXT' if plaintext else 'encrypted'}, {engine.name} ({engine.providers[0]}), "
        f"{engine.threads} threads; Ctrl-C ends it"
    )
    made.run()
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
