"""A process that may open no more files says so, after it has waited for some to become free."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest
import zmq

from distredge.errors import TransportError
from distredge.runtime.protocol import descriptors
from distredge.runtime.protocol.descriptors import with_descriptors


def test_what_is_short_for_a_moment_is_waited_for() -> None:
    tries: list[int] = []

    def make() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise zmq.ZMQError(errno.EMFILE)
        return "made"

    assert with_descriptors(make, "no socket") == "made"
    assert len(tries) == 3


def test_what_stays_short_is_named_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "PATIENCE_S", 0.05)

    def make() -> None:
        raise OSError(errno.EMFILE, "too many")

    own = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with pytest.raises(
        TransportError, match=f"no bell: too many open files: this process may have {own}; .* ulimit -n"
    ):
        with_descriptors(make, "no bell")


def test_another_error_is_not_waited_for() -> None:
    def make() -> None:
        raise zmq.ZMQError(errno.EACCES)

    with pytest.raises(TransportError, match="no socket: Permission denied"):
        with_descriptors(make, "no socket")


def test_a_process_without_descriptors_gets_an_error_from_everything_that_needs_one() -> None:
    """In a process of its own: there libzmq itself meets the limit."""
    code = """
import os, resource
from distredge.errors import TransportError
from distredge.runtime.protocol import descriptors
from distredge.runtime.protocol.transport import ZmqNetwork
descriptors.PATIENCE_S = 0.05
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
network = ZmqNetwork(None)
network.bind("tcp://127.0.0.1:0", "control")
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for what in (
    lambda: network.bind("tcp://127.0.0.1:0", "data"),
    lambda: network.connect("tcp://127.0.0.1:1", "data"),
    network.bell,
):
    for free in range(4):
        try:
            what()
        except TransportError as error:
            assert "oo many open files" in str(error), error
            print("named")
        os.close(held.pop())
for fd in held:
    os.close(fd)
network.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("named") >= 3


def test_the_limit_is_raised_as_far_as_the_system_allows() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 700))
from distredge.runtime.protocol.transport import ZmqNetwork
ZmqNetwork(None).close()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "(700, 700)", done.stderr
