"""The doctor over the system's own ssh: boards in network namespaces, each with its worker and its ssh server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.remote.checks.test_command import Found
from tests.remote.sshd import Servers, wait_for

_PORT = 2222
_CLUSTER = """
format = "distredge.cluster/1"
name = "two"
[requester]
link = { rate_bps = 100e6 }
[[device]]
name = "a"
profile = "default:pi4"
link = { rate_bps = 100e6 }
[[device]]
name = "b"
profile = "default:pi4"
link = { rate_bps = 100e6 }
"""


def _servers(folder: Path) -> Servers:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("network namespaces are root's, on Linux")
    if shutil.which("ip") is None:
        pytest.skip("there is no 'ip' here; Debian's iproute2 brings it")
    return Servers(folder / "servers")


def _run(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "distredge", *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        cwd=folder, env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.stdout


def _doctor(folder: Path, servers: Servers, cluster: str, boards: dict[str, str], *more: str) -> Found:
    where = [word for name, address in boards.items() for word in ("--ssh", f"{name}=root@{address}:{_PORT}")]
    ssh = [word for option in servers.options for word in ("--ssh-option", option)]
    told = json.loads(_run(folder, "doctor", "--cluster", cluster, *where, *ssh, "--batch", "--json", *more))
    return {(finding["board"], finding["what"]): finding for finding in told["findings"]}


@pytest.mark.slow
def test_boards_behind_real_ssh_servers(tmp_path: Path) -> None:
    servers = _servers(tmp_path)
    (tmp_path / "two.toml").write_text(_CLUSTER)
    name = f"doctor-{os.getpid()}"
    up = ("testbed", "up", "--cluster", "two.toml", "--name", name, "--mode", "namespaces", "--json")
    made = json.loads(_run(tmp_path, *up))
    try:
        own = [
            entry["namespaces"]
            for entry in json.loads(_run(tmp_path, "testbed", "list", "--json"))["namespaces"]
            if len(entry["namespaces"]) == 3 and _has(entry["namespaces"][1], made["boards"]["a"])
        ]
        assert len(own) == 1
        with contextlib.ExitStack() as stack:
            for namespace, address in zip(own[0][1:], made["boards"].values(), strict=True):
                prefix = ("ip", "netns", "exec", namespace)
                stack.enter_context(servers.started(namespace, port=_PORT, prefix=prefix))
                wait_for(address, _PORT)
            found = _doctor(tmp_path, servers, made["cluster"], made["boards"])
            for board, other in (("a", "b"), ("b", "a")):
                assert found[board, "worker"]["state"] == "ok"
                assert found[board, "interfaces"]["detail"].startswith(f"{made['boards'][board]} is at eth0")
                assert found[board, "reach"]["detail"] == f"reaches {other}"
                assert found[board, "clock"]["state"] == "ok"
                assert "100 Mbit/s in the cluster file" in found[board, "throughput"]["detail"]
                assert (board, "ssh") not in found
            # The board was given another address than the file has.
            swapped = Path(made["cluster"]).with_name("swapped.toml")
            text = Path(made["cluster"]).read_text()
            swapped.write_text(text.replace(made["boards"]["a"], "10.213.255.254"))
            found = _doctor(tmp_path, servers, str(swapped), made["boards"], "--no-rates", "--timeout", "20")
            assert found["a", "interfaces"]["state"] == "bad"
            assert f"eth0 {made['boards']['a']}" in found["a", "interfaces"]["detail"]
            assert found["a", "worker"]["state"] == "bad"
            assert found["b", "worker"]["state"] == "ok"
    finally:
        _run(tmp_path, "testbed", "down", name)


def _has(namespace: str, address: str) -> bool:
    told = subprocess.run(
        ["ip", "netns", "exec", namespace, "ip", "-o", "addr"], capture_output=True, text=True, check=True
    )
    return f" {address}/" in told.stdout
