"""Real ssh servers for tests: each with a configuration of its own, on a port of this machine or in a namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

START_S = 20.0

_LINES = (
    "PidFile none", "UsePAM no", "StrictModes no", "PermitRootLogin yes", "KbdInteractiveAuthentication no",
)  # fmt: skip


class Servers:
    """Starts ssh servers, all of which have one host key and let one key in.

    Args:
        folder: takes their keys and configurations; only this user may enter it.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
        if program is None or shutil.which("ssh") is None:
            pytest.skip("there is no sshd or no ssh here: apt install openssh-server openssh-client")
        self._program = program
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        if os.getuid() == 0:
            # Where Debian's server puts the half of it that has no rights.
            Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")

    @property
    def options(self) -> tuple[str, ...]:
        """What `ssh -o` must be told to get in."""
        return (
            f"IdentityFile={self.folder / 'user'}", "IdentitiesOnly=yes", "StrictHostKeyChecking=accept-new",
            f"UserKnownHostsFile={self.folder / 'known'}",
        )  # fmt: skip

    @contextlib.contextmanager
    def started(
        self,
        name: str,
        lines: Sequence[str] = (),
        port: int | None = None,
        prefix: Sequence[str] = (),
        password: bool = False,
    ) -> Iterator[int]:
        """Runs a server for as long as the block lasts; yields its port.

        Args:
            name: of its configuration.
            lines: of the configuration, beside the usual ones.
            port: where it listens, without which it takes a free one of the loopback interface.
            prefix: what runs it.
            password: whether it takes passwords and no keys.
        """
        chosen = free_port() if port is None else port
        where = ["ListenAddress 127.0.0.1"] if port is None else []
        method = f"PasswordAuthentication {'yes' if password else 'no'}"
        keys = ["PubkeyAuthentication no"] if password else [f"AuthorizedKeysFile {self.folder / 'authorized'}"]
        path = self.folder / f"{name}.config"
        path.write_text(
            "\n".join([f"Port {chosen}", f"HostKey {self.folder / 'host'}", *_LINES, method, *keys, *where, *lines, ""])
        )
        process = subprocess.Popen([*prefix, self._program, "-D", "-e", "-f", str(path)], stderr=subprocess.DEVNULL)
        try:
            if port is None:
                wait_for("127.0.0.1", chosen, process)
            yield chosen
        finally:
            process.terminate()
            process.wait(START_S)


PASSWORD = "sesame, open"


def with_password(folder: Path) -> tuple[str, ...]:
    """What runs a server that finds `PASSWORD` to be this user's: it alone sees another /etc/shadow; or skips.

    Args:
        folder: takes that file.
    """
    if os.getuid() != 0:
        pytest.skip("a server compares passwords as root alone")
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"openssl makes no hash of a password: {made.stderr.strip()}")
    lines = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    shadow = folder / "shadow"
    shadow.touch(0o600)
    shadow.write_text(
        "".join(":".join([n, made.stdout.strip() if n == user() else "*", *r]) + "\n" for n, _, *r in lines)
    )
    script = f'mount --bind {shadow} /etc/shadow && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"a server cannot be given passwords of its own here: {tried.stderr.strip()}")
    return prefix


def as_boards(home: Path) -> tuple[str, ...]:
    """Lines of a server whose sessions have a folder as their home, and find packages as this process does."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "UV_")) and not set(v) & set(' "\\')}
    kept |= {"HOME": str(home), "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin"}
    return (
        f"SetEnv {' '.join(f'{key}={value}' for key, value in kept.items())}",
        'ForceCommand cd "$HOME" && exec sh -c "$SSH_ORIGINAL_COMMAND"',
    )


def user() -> str:
    """Who runs the tests, and whom the servers let in."""
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def free_port() -> int:
    """A port of the loopback interface at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def wait_for(host: str, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits until something listens."""
    until_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            assert process is None or process.poll() is None
            assert time.monotonic() < until_s, "the ssh server does not listen"
            time.sleep(0.05)
