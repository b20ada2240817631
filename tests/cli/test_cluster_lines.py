"""Cluster files as `cluster init` writes them are known again, and edited ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.cli._cluster_lines import BoardLines, board_name, boards_of, cluster_text, link_line
from distredge.cluster import load_cluster
from distredge.cluster_file import read_boards, read_cluster_file
from distredge.errors import ClusterError

_LINKS = (link_line("uplink", 94.1e6, 0.0012), link_line("downlink", None, 0.0012))
_BOARDS = (
    BoardLines("nano-0", "192.168.1.11", "default:nano", 4, (link_line("link", 1e8, 0.002),)),
    BoardLines("nano-1", "192.168.1.12", "default:nano", 4, _LINKS, "pi@nano-1:2222"),
    BoardLines(
        "nano-2", "192.168.1.12", "default:pi4", 2, _LINKS, "pi@nano-1:2222", "/opt/py 3/bin/python", "tensorrt"
    ),
)


@pytest.mark.parametrize("cores", [None, {"192.168.1.12": 8}])
def test_what_was_written_is_known_again(tmp_path: Path, cores: dict[str, int] | None) -> None:
    path = tmp_path / "c.toml"
    text = cluster_text("c", _BOARDS, cores)
    path.write_text(text)
    assert boards_of(read_cluster_file(path)[0], text) == _BOARDS
    made = load_cluster(path)
    assert made.hosts == {"host-0": 8 if cores else 4}
    assert made.device("nano-1").downlink.rate_bps is None
    assert read_boards(path).device("nano-2").engine_python == "/opt/py 3/bin/python"
    assert [board.provider for board in read_boards(path).devices] == ["cpu", "cpu", "tensorrt"]
    assert [board.ssh for board in read_boards(path).devices] == [None, "pi@nano-1:2222", "pi@nano-1:2222"]


@pytest.mark.parametrize(
    "edit", [("threads = 2", "threads = 2  # fewer"), ("[requester]", "[requester]\ndevice = 'nano-0'")]
)
def test_what_was_edited_is_not(tmp_path: Path, edit: tuple[str, str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(cluster_text("c", _BOARDS).replace(*edit))
    assert boards_of(read_cluster_file(path)[0], path.read_text()) is None


@pytest.mark.parametrize("ssh", ["", "-oProxyCommand=x", "pi@nano 0", "pi@'nano'"])
def test_what_ssh_could_misunderstand_is_no_destination(tmp_path: Path, ssh: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(cluster_text("c", _BOARDS).replace("pi@nano-1:2222", ssh))
    with pytest.raises(ClusterError, match="ssh"):
        read_boards(path)


def test_names_are_made_of_anything() -> None:
    assert [board_name(text) for text in ("nano-0", "Böse Küche", "--", "_a_")] == [
        "nano-0",
        "B-se-K-che",
        "board",
        "a",
    ]
