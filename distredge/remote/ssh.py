"""One board over the system's `ssh`: one login, then scripts and files over that connection, all bounded in time.

The user's own `ssh` is run, so that their keys, agent, configuration and known hosts hold. A login leaves a control
socket in a folder that only this user can enter; whatever follows goes through it. A connection that nobody uses ends
by itself, so that a command that was killed leaves nothing behind for long.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distredge.errors import ConfigError, TransportError
from distredge.remote.destination import Destination as Destination
from distredge.remote.destination import SshError as SshError
from distredge.remote.destination import host_name as host_name
from distredge.remote.destination import read_destination as read_destination
from distredge.remote.destination import what_ssh_says

CONNECT_S: Final = 10.0
"""Within which a board must answer."""

PASSWORD_S: Final = 120.0
"""Within which somebody must have typed a password."""

RUN_S: Final = 60.0
"""A script's time, unless it is given another."""

IDLE_S: Final = 300
"""After which a connection that nobody uses ends by itself."""

_LAST_S = 2.0
_LONGEST_SOCKET = 60  # the path of a Unix socket has 108 bytes, of which ssh takes some while it makes it
_SSH_FAILED = 255
_COMMANDS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Two may write the same file at once. A connection that is cut looks like the content's end.
_PUT = """
umask 077
part={path}.part.$$
mkdir -p {folder} && cat > "$part" &&
    {{ [ "$(wc -c < "$part")" -eq {size} ] || {{ echo "broke off" >&2; false; }}; }} &&
    chmod {mode:o} "$part" && mv -f "$part" {path} || {{ code=$?; rm -f "$part"; exit $code; }}
"""
# Ends the session of a script when its input ends, which is when whoever started it is gone. `kill 0` reaches this
# shell too: it waits for the script, which may have a trap of its own.
_WATCHED = """
trap : TERM
exec 3<&0
sh -c {script} 3<&- </dev/null & work=$!
{{ cat <&3; kill -TERM 0; }} >/dev/null 2>&1 & watch=$!
wait $work; code=$?
if [ $code -gt 128 ]; then wait $work; code=$?; fi
kill $watch 2>/dev/null
exit $code
"""


@dataclass(frozen=True)
class Result:
    """What a script left.

    Attributes:
        returncode: its exit code.
        stdout, stderr: what it wrote.
    """

    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it ended with 0."""
        return self.returncode == 0

    @property
    def said(self) -> str:
        """The last line that it wrote, on stderr before stdout; for messages."""
        lines = [line.strip() for text in (self.stderr, self.stdout) for line in reversed(text.splitlines())]
        return next((line for line in lines if line), f"exit code {self.returncode}")


class Board:
    """A board that `connections` has logged in to.

    Args:
        destination: where it is.
        options: of `ssh -o`, as KEY=VALUE.
        socket: of the connection.
        program: ssh's.
    """

    def __init__(self, destination: Destination, options: Sequence[str], socket: Path, program: str) -> None:
        self.destination = destination
        self._options, self._socket, self._program = tuple(options), socket, program
        self._running: dict[subprocess.Popen[bytes], bool] = {}
        self._lock = threading.Lock()
        self._abandoned = False

    def command(self, script: str) -> list[str]:
        """The command line that runs a script of POSIX sh there over the connection that is open."""
        return [*self._ssh("BatchMode=yes"), *self.destination.arguments, f"exec sh -c {shlex.quote(script)}"]

    def run(self, script: str, stdin: bytes | None = None, timeout_s: float = RUN_S) -> Result:
        """Runs a script of POSIX sh on the board.

        Args:
            script: starts in the user's home.
            stdin: what it reads; None: nothing.
            timeout_s: after which it is given up here.

        Raises:
            SshError: if the connection is lost or the time is over; what the script ends with is no error.
        """
        with self._process(self.command(script), stdin is not None) as process:
            try:
                out, err = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                text = f"no answer within {timeout_s:.0f} s"
                raise SshError(self.destination, "timeout", text) from None
        result = Result(process.returncode, _text(out), _text(err))
        self._check(result.returncode, result.stderr)
        return result

    def put(self, content: Path | bytes, remote_path: str, mode: int = 0o644, timeout_s: float = RUN_S) -> None:
        """Writes a file on the board, whole or not at all; folders above it are made, for this user alone.

        Args:
            content: a file here, or bytes.
            remote_path: there; a relative one begins in the user's home.
            mode: of the file; it never exists with another.
            timeout_s: after which it is given up.

        Raises:
            SshError: if the connection is lost.
            TransportError: if it cannot be written there.
        """
        data = content if isinstance(content, bytes) else content.read_bytes()
        script = _PUT.format(
            path=shlex.quote(remote_path), folder=shlex.quote(os.path.dirname(remote_path) or "."), size=len(data),
            mode=mode,
        )  # fmt: skip
        result = self.run(script, data, timeout_s)
        if not result.ok:
            raise TransportError(f"{self.destination.text}: {remote_path}: cannot be written: {result.said}")

    def work(self, script: str, tell: Callable[[str], None] | None = None, timeout_s: float | None = None) -> Result:
        """Runs a script that lasts, and tells each line that it writes when it comes.

        The script, and every process of its session, ends with this process, with the connection, and with the time.

        Args:
            script: of POSIX sh, in the user's home; a `trap` of TERM in it may tidy up.
            tell: told every line.
            timeout_s: after which it is ended; None: never.

        Returns:
            Its exit code and all that it wrote, as `stdout`.

        Raises:
            SshError: if the connection is lost or the time is over.
        """
        lines: list[str] = []
        with self._process(self.command(_WATCHED.format(script=shlex.quote(script))), True, True) as process:
            is_over = threading.Event()
            assert process.stdin is not None
            source = process.stdin

            def end() -> None:
                is_over.set()
                source.close()
                _end(process, own_group=True)

            timer = threading.Timer(timeout_s, end) if timeout_s is not None else None
            if timer is not None:
                timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    lines.append(_text(line).rstrip("\n"))
                    if tell is not None:
                        tell(lines[-1])
                code = process.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        if is_over.is_set():
            raise SshError(self.destination, "timeout", f"not done within {timeout_s:.0f} s; it was ended")
        self._check(code, "\n".join(lines[-3:]))
        return Result(code, "\n".join(lines), "")

    def abandon(self) -> None:
        """Ends what other threads do on the board, and refuses what they would begin; `work` there tidies up."""
        with self._lock:
            self._abandoned = True
            running = list(self._running.items())
        for process, lasts in running:
            if lasts and process.stdin is not None:
                process.stdin.close()
            _end(process, own_group=True)

    def recover(self) -> None:
        """Takes work again after `abandon`, such as tidying up."""
        with self._lock:
            self._abandoned = False

    def close(self) -> None:
        """Ends the connection; ends no process on the board."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [*self._ssh(), "-O", "exit", *self.destination.arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=CONNECT_S, check=False,
            )  # fmt: skip

    def login(self, may_ask: bool) -> None:
        """Opens the connection.

        Args:
            may_ask: whether ssh may ask at the terminal for a password, a passphrase or about a host key.

        Raises:
            SshError: saying why not.
        """
        options = ["ControlMaster=yes", f"ControlPersist={IDLE_S}", "NumberOfPasswordPrompts=3"]
        command = [*self._ssh(*options, "BatchMode=no" if may_ask else "BatchMode=yes"), "-N"]
        limit_s = CONNECT_S + (PASSWORD_S if may_ask else CONNECT_S)
        # The connection stays behind in a process that would hold a pipe open.
        with tempfile.TemporaryFile(dir=self._socket.parent) as said:
            process = subprocess.Popen(
                [*command, *self.destination.arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=not may_ask,
            )  # fmt: skip
            try:
                code = process.wait(limit_s)
            except BaseException as error:
                _end(process, own_group=not may_ask)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise SshError(self.destination, "timeout", f"no login within {limit_s:.0f} s") from None
            said.seek(0)
            text = _text(said.read())
        if code != 0:
            raise what_ssh_says(self.destination, text)

    def _check(self, code: int, said: str) -> None:
        if code < 0:
            raise SshError(self.destination, "lost", "ssh was ended")
        if code == _SSH_FAILED:
            raise what_ssh_says(self.destination, said)

    def _ssh(self, *options: str) -> list[str]:
        usual = (
            f"ConnectTimeout={CONNECT_S:.0f}",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
            "LogLevel=ERROR",
            # What the user's configuration adds for people at a terminal.
            "RemoteCommand=none",
            "RequestTTY=no",
            "ClearAllForwardings=yes",
        )
        # Of an option that stands twice ssh takes the first: the user's own.
        named = [part for option in (*self._options, *usual, *options) for part in ("-o", option)]
        return [self._program, "-T", "-x", "-a", "-S", str(self._socket), *named]

    @contextlib.contextmanager
    def _process(self, command: list[str], feeds: bool, together: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """A command in a process group of its own, which does not outlive the block.

        Args:
            command: what is run.
            feeds: whether its input is a pipe; else it is empty.
            together: whether it writes on one stream.
        """
        with self._lock:
            if self._abandoned:
                raise SshError(self.destination, "lost", "interrupted")
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if together else subprocess.PIPE,
                start_new_session=True,
            )
            self._running[process] = together
        with process:
            try:
                yield process
            finally:
                _end(process, own_group=True)
                with self._lock:
                    self._running.pop(process, None)


@contextlib.contextmanager
def connections() -> Iterator[Callable[[Destination, Sequence[str]], Board]]:
    """Makes boards, not logged in to yet, and ends their connections at the end.

    Raises:
        ConfigError: if there is no `ssh` here.
    """
    program = shutil.which("ssh")
    if program is None:
        raise ConfigError(
            "no `ssh` is installed here, by which boards are reached; on Debian: apt install openssh-client"
        )
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="dssh-", dir=base if len(base) < _LONGEST_SOCKET else "/tmp"))
    made: list[Board] = []

    def board(destination: Destination, options: Sequence[str] = ()) -> Board:
        made.append(Board(destination, options, folder / str(len(made)), program))
        return made[-1]

    try:
        yield board
    finally:
        for one in made:
            one.close()
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes], own_group: bool) -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if own_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            # While it asks for a password the terminal shows nothing that is typed, until it has put that back.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_S)
            process.kill()
    process.wait()


def _text(content: bytes) -> str:
    """What a board wrote, without what would command the terminal that it is shown on."""
    return _COMMANDS.sub("", content.decode("utf-8", "replace"))
