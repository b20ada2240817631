"""A real Prometheus scrapes a stream, and every panel of the dashboard has something to draw."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.model import zoo
from distredge.monitor.prometheus import DASHBOARD
from tests.runtime.commands.conftest import write_cluster
from tests.runtime.conftest import make_strategy

SHAPE = (1, 3, 64, 64)

SCRAPED = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: distredge
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""

NOT_EVERYWHERE = ("distredge_device_temperature_celsius",)
"""What a computer may not tell."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _prometheus(where: Path, scraped: int) -> Iterator[str]:
    """Yields the address of one that scrapes a port of this computer."""
    (where / "prometheus.yml").write_text(SCRAPED.format(port=scraped))
    port = _free_port()
    with (where / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={where / 'prometheus.yml'}", f"--storage.tsdb.path={where / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _asked(address: str, expression: str) -> list[dict[str, object]]:
    """The series that an expression has now; none while Prometheus begins."""
    query = urllib.parse.urlencode({"query": expression.replace("$__rate_interval", "4s")})
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=10) as answer:
            found = json.load(answer)
    except urllib.error.URLError:
        return []
    assert found["status"] == "success", expression
    return list(found["data"]["result"])


def _expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus itself is not installed")
def test_every_panel_has_something_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    make_strategy(zoo.build("mobilenet-v1", input_shape=SHAPE), [(2, 1, 1), (1, 1, 2)]).save(tmp_path / "m.json")
    write_cluster(tmp_path / "local.toml", [0] * 6)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)).save(tmp_path / "one.png")
    scraped = _free_port()
    command = [
        sys.executable, "-c", "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()",
        "m.json", "--model", "mobilenet-v1", "--input-shape", "1,3,64,64", "--cluster", "local.toml", "--no-check",
        "--images", "-", "--prometheus", str(scraped), "--json",
    ]  # fmt: skip
    with (
        _prometheus(tmp_path, scraped) as address,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True) as stream,
    ):
        assert stream.stdin is not None
        missing = [expression for expression in _expressions() if expression not in NOT_EVERYWHERE]
        assert len(missing) > 15
        end_s = time.monotonic() + 60
        while missing and time.monotonic() < end_s:
            stream.stdin.write("one.png\n")
            stream.stdin.flush()
            time.sleep(0.1)
            missing = [expression for expression in missing if not _asked(address, expression)]
        stream.stdin.close()
        assert stream.wait(60) == 0
    assert missing == []
