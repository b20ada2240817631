"""The doctor over the system's own ssh: boards in network namespaces, each with its worker and its ssh server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.checks.test_command import Found

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


def _sshd() -> str:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("network namespaces are root's, on Linux")
    for name, found in (("sshd", program), ("ssh", shutil.which("ssh")), ("ip", shutil.which("ip"))):
        if found is None:
            pytest.skip(f"there is no '{name}' here; Debian's openssh-server, openssh-client and iproute2 bring it")
    assert program is not None
    return program


def _run(folder: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "distredge", *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        cwd=folder, env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.stdout


@contextlib.contextmanager
def _ssh_servers(program: str, folder: Path, namespaces: list[str]) -> Iterator[None]:
    """A server in each namespace, which knows one key."""
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "sshd.conf").write_text(
        f"Port {_PORT}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nUsePAM no\nStrictModes no\n"
        "PidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    # Where Debian's server puts the half of it that has no rights.
    Path("/run/sshd").mkdir(exist_ok=True)
    servers = [
        subprocess.Popen(["ip", "netns", "exec", name, program, "-D", "-f", str(folder / "sshd.conf")])
        for name in namespaces
    ]
    try:
        yield
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(20)


def _doctor(folder: Path, cluster: str, boards: dict[str, str], *more: str) -> Found:
    where = [word for name, address in boards.items() for word in ("--ssh", f"{name}=root@{address}:{_PORT}")]
    options = (f"IdentityFile={folder}/user", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    ssh = [word for option in options for word in ("--ssh-option", option)]
    told = json.loads(_run(folder, "doctor", "--cluster", cluster, *where, *ssh, "--batch", "--json", *more))
    return {(finding["board"], finding["what"]): finding for finding in told["findings"]}


@pytest.mark.slow
def test_boards_behind_real_ssh_servers(tmp_path: Path) -> None:
    program = _sshd()
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
        with _ssh_servers(program, tmp_path, own[0][1:]):
            _wait_for_ssh(made["boards"]["b"])
            found = _doctor(tmp_path, made["cluster"], made["boards"])
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
            found = _doctor(tmp_path, str(swapped), made["boards"], "--no-rates", "--timeout", "20")
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


def _wait_for_ssh(address: str) -> None:
    from distredge.remote.checks.workers import OPEN, knock

    until_s = time.monotonic() + 20
    while knock(address, _PORT) != OPEN:
        assert time.monotonic() < until_s, "the ssh server does not listen"
        time.sleep(0.1)
