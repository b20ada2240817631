"""Keys, and who may connect: CURVE on both planes with an authenticator, as in pyzmq's "ironhouse" example.

Every worker and the requester have a key pair. A worker knows the public keys of its cluster; its authenticator, which
the doorkeeper asks, lets the requester on its control plane, and requester and workers on its data plane. Who connects
knows the public key of whom it connects to, so that either side is sure of the other.

A folder of keys, as ``distredge keys`` makes it::

    public.json        names and public keys of the cluster: copied to every board and to the requester
    NAME.secret        one secret key, readable by its owner alone: goes to NAME and nowhere else

Secrets are read from such files or from a pipe; they are in no argument, environment variable or message.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from distredge.errors import AuthError, FileError, KeyFileError

FORMAT: Final = "distredge.keys/1"
PUBLIC_FILE: Final = "public.json"
REQUESTER_NAME: Final = "requester"
MAKE_KEYS: Final = "make keys with: distredge keys CLUSTER.toml"

REFUSED_LOG_S: Final = 1.0
"""Between two lines of the log about keys that are not allowed."""

_log = logging.getLogger(__name__)

Key = Annotated[str, Meta(min_length=40, max_length=40)]


class _PublicFile(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["distredge.keys/1"]
    keys: dict[str, Key]


@dataclass(frozen=True)
class Security:
    """What one process needs: its own key pair, and who may connect to it.

    Attributes:
        name: who this process is.
        public_key, secret_key: its own keys, Z85.
        allowed: plane -> name -> public key of those that may connect to what this process binds.
    """

    name: str
    public_key: str
    secret_key: str = field(repr=False)
    allowed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, key in (("public", self.public_key), ("secret", self.secret_key)):
            if not is_key(key):
                raise AuthError(f"'{self.name}': its {what} key is not one of 40 Z85 characters")
        for plane, names in self.allowed.items():
            for name, key in names.items():
                if not is_key(key):
                    raise AuthError(
                        f"'{self.name}': {plane}: the public key of '{name}' is not one of 40 Z85 characters"
                    )


@dataclass(frozen=True)
class Keys:
    """The public keys of a cluster and one secret key.

    Attributes:
        name: whose secret key it is.
        public: name -> public key, of every device and of the requester.
        secret_key: Z85.
    """

    name: str
    public: Mapping[str, str]
    secret_key: str = field(repr=False)

    def for_worker(self) -> Security:
        """Returns what a worker needs: the requester may control it, everybody in the cluster may send it rows."""
        requester = {n: k for n, k in self.public.items() if n == REQUESTER_NAME}
        return Security(
            self.name, self.public[self.name], self.secret_key, {"control": requester, "data": dict(self.public)}
        )

    def for_requester(self) -> Security:
        """Returns what the requester needs; it binds nothing, so nobody connects to it."""
        return Security(self.name, self.public[self.name], self.secret_key)


def is_key(text: str) -> bool:
    """Whether a text is a CURVE key in Z85."""
    from zmq.utils import z85

    if len(text) != 40 or not text.isascii():
        return False
    try:
        return len(z85.decode(text.encode())) == 32
    except (KeyError, ValueError):
        return False


def make_keys(names: Iterable[str]) -> dict[str, Keys]:
    """Returns fresh keys for the devices of these names and for the requester."""
    import zmq

    everybody = [*dict.fromkeys(names), REQUESTER_NAME]
    pairs = {name: zmq.curve_keypair() for name in everybody}
    public = {name: pair[0].decode() for name, pair in pairs.items()}
    return {name: Keys(name, public, pair[1].decode()) for name, pair in pairs.items()}


def write_keys(keys: Mapping[str, Keys], folder: Path) -> tuple[Path, ...]:
    """Writes a folder of keys; returns the files.

    Raises:
        FileError: if a file is there already (keys are never overwritten) or cannot be written.
    """
    first = next(iter(keys.values()))
    public = json.dumps({"format": FORMAT, "keys": dict(first.public)}, indent=1)
    files = {folder / PUBLIC_FILE: (public + "\n", 0o644)}
    files |= {folder / f"{name}.secret": (held.secret_key + "\n", 0o600) for name, held in keys.items()}
    there = next((path for path in files if path.exists()), None)
    if there is not None:
        raise FileError(
            f"{there}: is there already; keys are not overwritten: move the folder away or give another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, (text, mode) in files.items():
            # Made with its mode: a file that is first open to all and then closed has been open to all.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise FileError(f"{error.filename or folder}: cannot write the keys: {error.strerror}") from error
    return tuple(files)


def read_keys(folder: Path, name: str) -> Keys:
    """Reads the public keys of a cluster and one secret key.

    Raises:
        FileError: if a file is missing or wrong.
        KeyFileError: if others than its owner may read the secret key, or `name` has none.
    """
    public = read_public_keys(folder / PUBLIC_FILE)
    if name not in public:
        raise KeyFileError(f"{folder / PUBLIC_FILE}: keys: no key of '{name}' among {sorted(public)}; {MAKE_KEYS}")
    path = folder / f"{name}.secret"
    try:
        # The open file is looked at, not the path: nobody can swap it in between.
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(128).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot read the secret key: {getattr(error, 'strerror', None) or error}") from error
    if mode & 0o077:
        raise KeyFileError(f"{path}: mode {mode:04o} lets others read the secret key; run: chmod 600 {path}")
    if not is_key(secret):
        raise FileError(f"{path}: not a secret key of 40 Z85 characters")
    _check_pair(path, public[name], secret)
    return Keys(name, public, secret)


def read_public_keys(path: Path) -> dict[str, str]:
    """Reads the public keys of a cluster.

    Raises:
        FileError: if the file is missing or wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot read the public keys: {error.strerror}; {MAKE_KEYS}") from error
    try:
        keys = msgspec.json.decode(content, type=_PublicFile).keys
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: {error}") from error
    wrong = next((name for name, key in keys.items() if not is_key(key)), None)
    if wrong is not None:
        raise FileError(f"{path}: keys.{wrong}: not a public key of 40 Z85 characters")
    return keys


def _check_pair(path: Path, public_key: str, secret_key: str) -> None:
    import zmq

    if zmq.curve_public(secret_key.encode()).decode() != public_key:
        raise KeyFileError(f"{path}: does not belong to the public key in {PUBLIC_FILE}: the two are of different sets")


class Authenticator:
    """Says which keys may connect, in libzmq's words (ZAP, RFC 27): a pure function of a request, with a counter.

    Args:
        security: who may connect on which plane; the plane is the request's domain.

    Attributes:
        refused: connections turned away.
    """

    def __init__(self, security: Security) -> None:
        from zmq.utils import z85

        self._names = {
            plane: {z85.decode(key.encode()): name for name, key in names.items()}
            for plane, names in security.allowed.items()
        }
        self.refused = 0
        self._logged_s = -REFUSED_LOG_S

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """Returns the answer to a request; its user id is the name of the key.

        Args:
            request: version, request id, domain, address, routing id, mechanism, and the client's key: 32 bytes.
        """
        number = request[1] if len(request) > 1 else b""
        if len(request) != 7 or request[0] != b"1.0" or request[5] != b"CURVE":
            return [b"1.0", number, b"400", b"not a request for CURVE", b"", b""]
        domain, address, key = request[2].decode(errors="replace"), request[3].decode(errors="replace"), request[6]
        name = self._names.get(domain, {}).get(key)
        if name is not None:
            return [b"1.0", number, b"200", b"OK", name.encode(), b""]
        self._refuse(domain, address, key)
        return [b"1.0", number, b"400", b"unknown key", b"", b""]

    def _refuse(self, domain: str, address: str, key: bytes) -> None:
        self.refused += 1
        now_s = time.monotonic()
        # Whoever tries many keys must not fill the log, nor take the time that writing it costs.
        if now_s >= self._logged_s + REFUSED_LOG_S:
            from zmq.utils import z85

            self._logged_s = now_s
            shown = z85.encode(key).decode() if len(key) == 32 else key.hex()
            _log.warning(
                "%s plane: refused a connection from %s: unknown key %s (%d refused so far)",
                domain, address, shown, self.refused,
            )  # fmt: skip
