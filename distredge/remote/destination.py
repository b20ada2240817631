"""Where a board is for `ssh`, and what `ssh` means when it does not get there."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from distredge.errors import ConfigError, TransportError, located

DESTINATION: Final = "user@host, user@host:port, user@[IPv6 address]:port or ssh://user@host:port"

Reason = Literal["refused", "unknown host", "unreachable", "unknown key", "changed key", "denied", "timeout", "lost"]

_NAME_S: Final = 10.0
_PARTS = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<six>[^\]]+)\]|(?P<host>[^@:\[\]]+))(?::(?P<port>\d{1,5}))?")

# What ssh says -> what it means; the first that is found counts.
_SAYS: tuple[tuple[str, Reason, str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "changed key",
     "its host key is another than before: if the board was set up anew, run: ssh-keygen -R {known}; "
     "if not, somebody else answers there"),
    ("Host key verification failed", "unknown key",
     "its host key is not known yet: log in once with `ssh {text}` and compare it, or give "
     "--ssh-option StrictHostKeyChecking=accept-new"),
    ("Permission denied", "denied",
     "it refuses the login: no key or password that it accepts; bring it a key with `ssh-copy-id {copy}`, "
     "or name one with --ssh-option IdentityFile=PATH"),
    ("Too many authentication failures", "denied",
     "it refuses the login after too many keys: name one with --ssh-option IdentityFile=PATH --ssh-option "
     "IdentitiesOnly=yes"),
    ("Could not resolve hostname", "unknown host", "there is no host of this name: correct it, or give its address"),
    ("Connection refused", "refused", "it refuses the connection: is its ssh server on, and at this port?"),
    ("No route to host", "unreachable", "no way leads there: is it on, and in this network?"),
    ("Network is unreachable", "unreachable", "no way leads there: is it on, and in this network?"),
    ("timed out", "timeout", "it does not answer: is it on, and in this network?"),
)  # fmt: skip


class SshError(TransportError):
    """A board cannot be reached by ssh, or the connection is lost.

    Args:
        destination: which board.
        reason: what went wrong, for programs.
        text: what went wrong and what to do, for people.
    """

    def __init__(self, destination: Destination, reason: Reason, text: str) -> None:
        self.destination, self.reason = destination, reason
        super().__init__(f"{destination.text}: {text}")


@dataclass(frozen=True)
class Destination:
    """Where a board is for ssh.

    Attributes:
        text: as it was given, without `ssh://`.
        user: who logs in; None: as ssh's configuration has it.
        host: name, address, or alias of ssh's configuration.
        port: of the ssh server; None: as ssh's configuration has it.
    """

    text: str
    user: str | None
    host: str
    port: int | None

    @property
    def arguments(self) -> list[str]:
        """What `ssh` is given."""
        port = ["-p", str(self.port)] if self.port is not None else []
        return [*port, "--", self.host if self.user is None else f"{self.user}@{self.host}"]


def read_destination(text: str) -> Destination:
    """Returns what a text says of a board: `pi@nano-0`, `nano-0:2222`, `ssh://pi@[fd00::1]:22`.

    Raises:
        ConfigError: if it is no destination.
    """
    bare = text.strip().removeprefix("ssh://").rstrip("/")
    found = _PARTS.fullmatch(bare)
    if found is None:
        raise ConfigError(located("ssh destination", "", text, DESTINATION))
    user, host = found["user"], found["six"] or found["host"]
    port = int(found["port"]) if found["port"] else None
    strange = any(character.isspace() or not character.isprintable() or character in "\"'\\" for character in bare)
    if strange or bare.startswith("-") or host.startswith("-") or (port is not None and not 1 <= port <= 65535):
        raise ConfigError(located("ssh destination", "", text, DESTINATION))
    return Destination(bare, user, host, port)


def host_name(destination: Destination, options: Sequence[str] = ()) -> str:
    """Returns the host behind a destination, which may be an alias of ssh's configuration."""
    named = [part for option in options for part in ("-o", option)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["ssh", "-G", *named, *destination.arguments], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_NAME_S, check=False,
        )  # fmt: skip
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            key, _, value = line.partition(" ")
            if key == "hostname" and value:
                return value
    return destination.host


def what_ssh_says(destination: Destination, said: str) -> SshError:
    """Returns the error that stands for what `ssh` wrote."""
    known = destination.host if destination.port in (None, 22) else f"[{destination.host}]:{destination.port}"
    name = destination.arguments[-1]
    copy = name if destination.port is None else f"-p {destination.port} {name}"
    for words, reason, text in _SAYS:
        if words.lower() in said.lower():
            told = text.format(known=shlex.quote(known), text=copy, copy=copy)
            return SshError(destination, reason, told)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return SshError(destination, "lost", f"ssh failed: {lines[-1] if lines else 'it says nothing'}")
