"""Addresses are read as people write them, and names as the system knows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.cluster import load_cluster
from distredge.errors import ClusterError
from distredge.network_addresses import host_of, is_loopback, read_address, resolve, tcp

HEAD = 'format = "distredge.cluster/1"\nname = "mine"\n[[device]]\nname = "a"\nprofile = "nano"\n'
LINK = "link = { rate_bps = 1e6 }\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.11", ("192.168.1.11", None)),
        (" 192.168.1.11 ", ("192.168.1.11", None)),
        ("1.2.3.4:6100", ("1.2.3.4", 6100)),
        ("tcp://1.2.3.4:6100", ("1.2.3.4", 6100)),
        ("tcp://nano-0", ("nano-0", None)),
        ("nano_0.local:5700", ("nano_0.local", 5700)),
        ("nano.home.", ("nano.home.", None)),
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        ("[::1]:5700", ("::1", 5700)),
        ("tcp://[FE80:0::1%eth0]:5700", ("fe80::1%eth0", 5700)),
        ("fe80::1%eth0", ("fe80::1%eth0", None)),
        ("2001:DB8:0:0::5", ("2001:db8::5", None)),
    ],
)
def test_what_is_read(text: str, expected: tuple[str, int | None]) -> None:
    assert read_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "http://nano", "nano:", "nano:port", "nano:0", "nano:70000", "300.1.1.1", "1.2.3", "[nano]",
        "[1.2.3.4]", "[::1", "::1]", "a b", "-nano", "nano-", "nano..local", "::1:zz", "*", "0.0.0.0", "::",
        "224.0.0.1", "a/b", "nano,other", "user@nano", "n" * 64,
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|port|bracket|no worker"):
        read_address(text)


def test_a_cluster_file_is_normalised(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(HEAD + 'address = "tcp://[::1]:6100"\n' + LINK)
    device = load_cluster(path).device("a")
    assert (device.address, device.control_port, device.data_port) == ("::1", 6100, 5701)
    path.write_text(HEAD + 'address = "1.2.3.4"\n' + LINK)
    device = load_cluster(path).device("a")
    assert (device.address, device.control_port, device.data_port) == ("1.2.3.4", 5700, 5701)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('address = "http://nano"', "device[0]: address: found 'http://nano', accepted: a host name, an IPv4"),
        ('address = "1.2.3.4:6100"\ncontrol_port = 6200', "found '1.2.3.4:6100', accepted: port 6200"),
        ('address = "0.0.0.0"', "distredge worker --bind"),
    ],
)
def test_what_is_refused_names_file_and_key(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(HEAD + lines + "\n" + LINK)
    with pytest.raises(ClusterError) as caught:
        load_cluster(path)
    assert str(caught.value).startswith(f"{path}: device[0]: address: ")
    assert message in str(caught.value)


def test_addresses_of_names_and_of_sockets() -> None:
    assert resolve("127.0.0.1") == ("127.0.0.1",)
    assert all(map(is_loopback, resolve("localhost")))
    assert is_loopback("127.0.1.1")
    assert not is_loopback("nano-0")
    for host in ("nano", "1.2.3.4", "fe80::1%eth0"):
        assert host_of(tcp(host, 5700)) == host
