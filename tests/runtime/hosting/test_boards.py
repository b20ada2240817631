"""From a cluster file to workers: colliding addresses, a worker's own memory, keys that are elsewhere."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from distredge.cluster import Cluster, Device, Requester
from distredge.cluster_file import BoardEntries, BoardEntry
from distredge.errors import ClusterError, FileError, ProfileError
from distredge.profiles.compute import load_profile, write_profile
from distredge.runtime.hosting.boards import check_addresses, cluster_keys, memory_limit_bytes, worker_addresses
from distredge.runtime.protocol.security import make_keys, write_keys


def entry(name: str, address: str = "10.0.0.1", control: int = 5700, data: int = 5701) -> BoardEntry:
    return BoardEntry(name, address, control, data, None, 1, None, "default:nano")


def boards(*entries: BoardEntry) -> BoardEntries:
    return BoardEntries("mine", entries, Path())


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((5700, 5701), (5702, 5701), "data_port of 'a' and data_port of 'b' are both 5701 at 10.0.0.1: write "
         "control_port = 5703 and data_port = 5704 under 'b'"),
        ((5700, 5701), (5701, 5702), "data_port of 'a' and control_port of 'b' are both 5701"),
        ((5700, 5701), (5702, 5700), "control_port of 'a' and data_port of 'b' are both 5700"),
        ((5700, 5701), (5700, 5702), r"have no addresses of their own \(both are at 10.0.0.1, port 5700\).*where both "
         "are workers of one computer, write control_port = 5703 and data_port = 5704 under 'b'"),
        ((6000, 6000), (5700, 5701), "control_port of 'a' and data_port of 'a' are both 6000"),
    ],
)  # fmt: skip
def test_workers_that_would_collide_are_named_beforehand(
    first: tuple[int, int], second: tuple[int, int], said: str
) -> None:
    with pytest.raises(ClusterError, match=said):
        check_addresses(boards(entry("a", "10.0.0.1", *first), entry("b", "10.0.0.1", *second)))


def test_names_of_the_own_machine_are_one_address() -> None:
    with pytest.raises(ClusterError, match="data_port of 'a' and data_port of 'b' are both 5701"):
        check_addresses(boards(entry("a", "127.0.0.1"), entry("b", "localhost", 5702)))


def test_what_does_not_collide_passes() -> None:
    check_addresses(boards(entry("a"), entry("b", "10.0.0.2"), entry("c", "10.0.0.1", 5702, 5703)))
    # The system chooses.
    check_addresses(boards(entry("a", "10.0.0.1", 5700, 0), entry("b", "10.0.0.1", 5702, 0)))
    # This machine starts these itself, whatever the file's data port.
    check_addresses(boards(entry("a", "127.0.0.1", 0), entry("b", "127.0.0.1", 0)))


def test_a_workers_memory_is_the_files_or_its_own_profiles(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = replace(entry("a"), profile="a.json")
    assert memory_limit_bytes(replace(board, memory_bytes=123), tmp_path) == 123
    with pytest.raises(ProfileError, match=r"device 'a': .*a\.json: cannot be read.*copy that here, or write memory_b"):
        memory_limit_bytes(board, tmp_path)
    modelled = load_profile("default:nano").data
    measured = msgspec.structs.replace(
        modelled,
        origin=msgspec.structs.replace(modelled.origin, kind="measured"),
        operators={},
        coefficients=None,
        memory_bytes=4567,
        device=msgspec.structs.replace(modelled.device, threads=3),
    )
    write_profile(measured, tmp_path / "a.json")
    with caplog.at_level(logging.WARNING):
        assert memory_limit_bytes(board, tmp_path) == 4567
    assert "device 'a': the cluster file gives it 1 threads, its profile was measured with 3" in caplog.text


def test_missing_keys_are_said_to_be_elsewhere_not_to_be_made_anew(tmp_path: Path) -> None:
    cluster = boards(entry("a"))
    with pytest.raises(FileError, match=r"public\.json: is not here; keys are made once, on the requester, and public"):
        cluster_keys(cluster, tmp_path, "a")
    with pytest.raises(FileError, match=r"public\.json: is not here; make keys with: distredge keys CLUSTER\.toml"):
        cluster_keys(cluster, tmp_path)
    write_keys(make_keys(["a"]), tmp_path)
    (tmp_path / "a.secret").unlink()
    with pytest.raises(FileError, match=r"a\.secret: is not here; keys are made once"):
        cluster_keys(cluster, tmp_path, "a")
    (tmp_path / "requester.secret").unlink()
    with pytest.raises(FileError, match=r"requester\.secret: is not here; make keys with"):
        cluster_keys(cluster, tmp_path)


def test_a_name_without_an_address_is_said_before_it_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    def resolve(name: str) -> tuple[str, ...]:
        if name == "gone.local":
            raise OSError(-2, "Name or service not known")
        return ("10.0.0.2",)

    places = (("a", "gone.local"), ("b", "here.local"), ("c", "10.0.0.3"))
    cluster = Cluster("mine", Requester(), tuple(Device(n, load_profile("nano"), address=at) for n, at in places))
    with caplog.at_level(logging.WARNING):
        found = worker_addresses(cluster, cluster.names, None, resolve)
    assert [worker.control for worker in found] == [f"tcp://{at}:5700" for _, at in places]
    assert caplog.messages == ["device 'a': its name 'gone.local' has no address here: Name or service not known"]
