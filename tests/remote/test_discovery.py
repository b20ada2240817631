"""Workers that announce themselves are found, on the loopback interface."""

from __future__ import annotations

import sys

import pytest

from distredge.errors import MissingDependency, TransportError
from distredge.remote.discovery import Announced, announced, discover

pytest.importorskip("zeroconf")

_HERE = ("127.0.0.1",)


@pytest.mark.slow
def test_what_is_announced_is_found() -> None:
    with announced("nano-0", 5700, ("192.0.2.7",), _HERE), announced("nano-1", 6100, ("192.0.2.8",), _HERE):
        found = discover(4.0, _HERE)
    # Another test may announce a worker meanwhile.
    assert tuple(worker for worker in found if worker.name.startswith("nano-")) == (
        Announced("nano-0", "192.0.2.7"),
        Announced("nano-1", "192.0.2.8:6100"),
    )


def test_without_zeroconf_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(MissingDependency, match=r"zeroconf is needed .*distredge\[discovery\]"):
        discover(0.1, _HERE)
    with pytest.raises(MissingDependency, match="to announce a worker"), announced("nano-0", 5700):
        pass


def test_where_no_network_is_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_interface(*_: object, **__: object) -> None:
        raise RuntimeError("No interfaces to listen on")

    monkeypatch.setattr("zeroconf.Zeroconf", no_interface)
    told = "no network in which workers could find each other by mDNS: No interfaces"
    with pytest.raises(TransportError, match=told):
        discover(0.1)
    with pytest.raises(TransportError, match=told), announced("nano-0", 5700):
        pass
