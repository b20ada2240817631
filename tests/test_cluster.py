"""Cluster files: the shipped cases against the papers' tables, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.cluster import Cluster, Device, Link, Requester, load_cluster, shipped_clusters
from distredge.cluster_file import read_boards
from distredge.errors import ClusterError, ProfileError
from distredge.model.capture import load_model
from distredge.problem import Problem
from distredge.processors import usable_cores
from distredge.profiles.compute import ComputeProfile, load_profile
from distredge.profiles.network import Trace
from distredge.profiles.schema import Board, Measured, Origin, ProfileFile, Runtime

MBPS = 1e6
# DistrEdge, section V: (board, Mbit/s) of every device.
PUBLISHED = {
    "da-50": [("tx2", 50)] * 2 + [("nano", 50)] * 2,
    "da-300": [("tx2", 300)] * 2 + [("nano", 300)] * 2,
    "db-50": [("xavier", 50)] * 2 + [("nano", 50)] * 2,
    "db-300": [("xavier", 300)] * 2 + [("nano", 300)] * 2,
    "dc-50": [("xavier", 50), ("tx2", 50), ("nano", 50), ("pi3", 50)],
    "dc-300": [("xavier", 300), ("tx2", 300), ("nano", 300), ("pi3", 300)],
    "na-nano": [("nano", r) for r in (50, 50, 200, 200)],
    "nb-nano": [("nano", r) for r in (100, 100, 200, 200)],
    "nc-nano": [("nano", r) for r in (200, 200, 300, 300)],
    "nd-nano": [("nano", r) for r in (50, 100, 200, 300)],
    "na-xavier": [("xavier", r) for r in (50, 50, 200, 200)],
    "nb-xavier": [("xavier", r) for r in (100, 100, 200, 200)],
    "nc-xavier": [("xavier", r) for r in (200, 200, 300, 300)],
    "nd-xavier": [("xavier", r) for r in (50, 100, 200, 300)],
    "la": [("nano", 300), ("nano", 200), ("nano", 100), ("nano", 50)] * 4,
    "lb": [("pi3", 300), ("nano", 200), ("tx2", 100), ("xavier", 50)] * 4,
    "lc": [("pi3", 200), ("nano", 200), ("tx2", 200), ("xavier", 200)] * 4,
    "ld": [("pi3", 50), ("nano", 100), ("tx2", 200), ("xavier", 300)] * 4,
}
HEAD = 'format = "distredge.cluster/1"\nname = "mine"\n'
DEVICE = '[[device]]\nname = "a"\nprofile = "nano"\nlink = { rate_bps = 1e6 }\n'


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_case_is_as_published(name: str) -> None:
    cluster = load_cluster(name)
    assert [(d.profile.name, d.uplink.rate_bps) for d in cluster.devices] == [
        (board, rate * MBPS) for board, rate in PUBLISHED[name]
    ]
    assert all(d.uplink == d.downlink for d in cluster.devices)
    assert cluster.requester.uplink.rate_bps is None
    assert cluster.link_model == "independent"
    assert "2202.01699" in cluster.source


def test_every_shipped_case_loads() -> None:
    for name in shipped_clusters():
        cluster = load_cluster(name)
        assert cluster.name == name
        assert cluster.description
        assert cluster.source


def test_this_machine_has_four_single_threaded_workers() -> None:
    cluster = load_cluster("this-machine")
    assert len(cluster.devices) == 4
    assert {d.threads for d in cluster.devices} == {1}
    assert {d.address for d in cluster.devices} == {"127.0.0.1"}


def test_this_machines_workers_and_the_requester_share_its_cores() -> None:
    cluster = load_cluster("this-machine")
    assert {d.host for d in cluster.devices} == {cluster.requester.host} == {"this-machine"}
    assert cluster.hosts == {"this-machine": usable_cores()}
    assert cluster.link_model == "shared"


def test_links_share_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load_cluster(write(tmp_path, HEAD + DEVICE)).link_model == "shared"
    assert load_cluster(write(tmp_path, HEAD + 'link_model = "independent"\n' + DEVICE)).link_model == "independent"
    cluster = load_cluster("db-50")
    assert Cluster("plain", cluster.requester, cluster.devices).link_model == "shared"


def write(folder: Path, text: str) -> Path:
    path = folder / "c.toml"
    path.write_text(text)
    return path


def test_the_requester_gets_the_largest_rate_when_the_file_gives_none(tmp_path: Path) -> None:
    second = DEVICE.replace('"a"', '"b"').replace("1e6", "7e6, fixed_s = 0.5")
    cluster = load_cluster(write(tmp_path, HEAD + DEVICE + second))
    assert cluster.requester.uplink == Link(7e6, None, 0.5)
    assert cluster.device("b") is cluster.devices[1]


def test_a_requester_that_is_a_device_has_that_devices_links(tmp_path: Path) -> None:
    second = DEVICE.replace('"a"', '"b"').replace("1e6", "7e6")
    cluster = load_cluster(write(tmp_path, HEAD + '[requester]\ndevice = "a"\n' + DEVICE + second))
    assert cluster.requester.uplink == cluster.device("a").uplink


def test_a_traces_mean_is_the_links_rate(tmp_path: Path) -> None:
    Trace([0.0, 1.0], [1e6, 3e6], 0.0, 2.0).save(tmp_path / "t.csv")
    for link, mean in (('{ trace = "t.csv" }', 2e6), ('{ trace = "t.csv", rate_bps = 5e7 }', 5e7)):
        cluster = load_cluster(write(tmp_path, HEAD + DEVICE.replace("{ rate_bps = 1e6 }", link)))
        uplink = cluster.devices[0].uplink
        assert uplink.rate_bps == pytest.approx(mean)
        assert uplink.trace is not None
        assert uplink.trace.rate_at(1.5) == pytest.approx(1.5 * mean)


def test_a_profile_is_found_beside_the_cluster_file(tmp_path: Path) -> None:
    load_profile("tx2").save(tmp_path / "board.json")
    cluster = load_cluster(write(tmp_path, HEAD + DEVICE.replace('"nano"', '"board.json"')))
    assert cluster.devices[0].profile == load_profile("tx2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, r"c\.toml: the key 'device' is missing"),
        (DEVICE, r"c\.toml: the key 'format' is missing"),
        (HEAD + "link_modell = 1\n" + DEVICE, r"c\.toml: link_modell: unknown key; did you mean 'link_model'"),
        (HEAD + 'link_model = "fair"\n' + DEVICE, r"c\.toml: link_model: found 'fair', accepted: .*'shared'"),
        (HEAD + DEVICE.replace("1e6", "-1e6"), r"c\.toml: device\[0\]\.link\.rate_bps: found -1000000\.0"),
        (HEAD + DEVICE.replace("1e6", "nan"), r"c\.toml: device\[0\]\.link\.rate_bps"),
        (HEAD + DEVICE.replace("1e6", "inf"), r"c\.toml: device\[0\]\.link\.rate_bps"),
        (HEAD + DEVICE.replace("link =", "lnik ="), r"c\.toml: device\[0\]\.lnik: unknown key; did you mean 'link'"),
        (HEAD + DEVICE + DEVICE, r"device\[1\]\.name: 'a' stands twice"),
        (HEAD + DEVICE + "threads = 0\n", r"device\[0\]\.threads: found 0"),
        (HEAD + DEVICE + "data_port = 70000\n", r"device\[0\]\.data_port: found 70000"),
        (HEAD + DEVICE.replace("link = { rate_bps = 1e6 }\n", ""), r"device\[0\]: found neither 'link' nor 'uplink'"),
        (HEAD + DEVICE.replace("rate_bps = 1e6", "rtt_s = 0.1"), r"device\[0\]\.link: found neither 'rate_bps'"),
        (HEAD + DEVICE + "uplink = { rate_bps = 1e6 }\n", r"device\[0\]: found 'link' beside 'uplink'"),
        (HEAD + '[requester]\ndevice = "b"\n' + DEVICE, r"requester\.device: no device 'b'"),
        ("format = ", r"c\.toml: not TOML"),
        (
            HEAD + DEVICE + 'control_port = 0\nprovider = "cuda"\n',
            r"device\[0\]\.provider: found 'cuda' beside control_port",
        ),
        (
            HEAD + DEVICE + 'control_port = 0\nengine_python = "/py"\n',
            r"device\[0\]\.engine_python: found '/py' beside",
        ),
        (HEAD + DEVICE.replace('"a"', '"a\\n"'), r"device\[0\]\.name: found 'a"),
        (HEAD + DEVICE + 'ssh = "pi@a\\n"\n', r"device\[0\]\.ssh: found 'pi@a"),
        (HEAD + DEVICE + 'engine_python = "/py\\n"\n', r"device\[0\]\.engine_python: found '/py"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        load_cluster(write(tmp_path, text))


def test_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="did you mean 'db-50'"):
        load_cluster("db-50s")
    with pytest.raises(ClusterError, match="cannot be read"):
        load_cluster(tmp_path / "none.toml")
    with pytest.raises(ProfileError, match="no shipped profile 'default:nanoo'"):
        load_cluster(write(tmp_path, HEAD + DEVICE.replace("nano", "nanoo")))
    with pytest.raises(ClusterError, match="has no device 'xavier-9'; did you mean 'xavier-"):
        load_cluster("db-50").device("xavier-9")


def test_objects_check_themselves() -> None:
    nano = load_profile("nano")
    with pytest.raises(ClusterError, match="fixed_s: found -1"):
        Link(1e6, None, -1)
    with pytest.raises(ClusterError, match="its trace's mean"):
        Link(1e6, Trace([0.0], [2e6]))
    with pytest.raises(ClusterError, match="found 'requester'"):
        Device("requester", nano)
    with pytest.raises(ClusterError, match="at least one"):
        Cluster("empty", Requester(), ())
    assert Link(None, Trace([0.0], [2e6])).rate_bps == 2e6
    assert hash(load_cluster("db-50").devices[0]) == hash(load_cluster("db-50").devices[0])


def test_a_measured_profile_of_this_machine_stands_in_only_where_it_covers_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"input_shape": (1, 3, 64, 64), "width": 0.25}
    measured, other = load_model("resnet18", **small), load_model("mobilenet-v2", **small)
    once = Measured(rows=(1,), median_s=(1e-3,), p95_s=(1e-3,), spread=(0.0,), repeats=(3,))
    operators = {s.key: once for s in measured.signatures if s is not None}
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "distredge").mkdir()
    ComputeProfile(
        ProfileFile(
            name="this-machine",
            device=Board(name="test"),
            runtime=Runtime(name="test"),
            origin=Origin(kind="measured", date="2026-01-01"),
            operators=operators,
        )
    ).save(tmp_path / "distredge" / "this-machine.json")
    cluster = load_cluster("this-machine")
    assert all(device.profile.measured for device in Problem(measured, cluster).cluster.devices)
    assert not any(device.profile.measured for device in Problem(other, cluster).cluster.devices)
    assert not any(device.profile.measured for device in load_cluster("this-machine", models=[other]).devices)


def test_devices_are_read_without_what_they_compute_and_carry(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(
        f'{HEAD}[[device]]\nname = "a"\nprofile = "not-here.json"\naddress = "pi.local:6000"\n'
        'link = { trace = "not-here.csv" }\nthreads = 3\n'
    )
    boards = read_boards(path)
    board = boards.device("a")
    assert (boards.names, board.address, board.control_port, board.data_port) == (("a",), "pi.local", 6000, 5701)
    assert (board.profile, board.threads, board.memory_bytes, boards.folder) == ("not-here.json", 3, None, tmp_path)
    with pytest.raises(ClusterError, match="has no device 'b'"):
        boards.device("b")
    with pytest.raises(ProfileError, match=r"not-here\.json"):
        load_cluster(path)


def test_shipped_cases_devices_are_those_of_the_cluster() -> None:
    for name in ("db-50", "this-machine"):
        assert read_boards(name).names == load_cluster(name).names


def test_one_port_for_both_planes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'{HEAD}{DEVICE}address = "1.2.3.4:5701"\n')
    with pytest.raises(ClusterError, match=r"device\[0\]: data_port: found 5701, accepted: another port than"):
        read_boards(path)
