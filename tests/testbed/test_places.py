"""Which devices are one computer."""

from __future__ import annotations

import dataclasses

import pytest

from distredge.cluster import Link, Requester, load_cluster
from distredge.errors import ClusterError
from distredge.testbed.places import places, together
from tests.testbed.conftest import make_cluster


def test_every_device_is_a_place_and_the_requester_one_of_its_own() -> None:
    found = places(load_cluster("db-50"))
    assert [place.devices for place in found] == [("xavier-0",), ("xavier-1",), ("nano-0",), ("nano-1",), ()]
    assert [place.requester for place in found] == [False] * 4 + [True]


def test_a_requester_on_a_board_has_no_place_of_its_own() -> None:
    cluster = load_cluster("halp-pi4")
    assert [place.requester for place in places(cluster)] == [True, False, False]
    assert together(cluster, None, "pi4-0")
    assert not together(cluster, "pi4-1", "pi4-0")


def test_devices_of_one_host_share_the_first_one_s_link() -> None:
    cluster = make_cluster(boards=("a", "b", "c"))
    devices = [
        dataclasses.replace(device, host="box", uplink=Link(1e6 * (index + 1)))
        if index < 2 else device for index, device in enumerate(cluster.devices)
    ]  # fmt: skip
    cluster = dataclasses.replace(cluster, devices=tuple(devices), hosts={"box": 2}, requester=Requester(host="box"))
    first, second = places(cluster)
    assert (first.devices, first.uplink.rate_bps, first.requester) == (("a", "b"), 1e6, True)
    assert (second.devices, second.requester) == (("c",), False)


def test_a_link_that_is_down_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"uplink of 'alpha'.*found 0"):
        places(make_cluster(Link(0.0)))
