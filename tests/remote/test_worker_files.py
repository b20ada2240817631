"""What a worker on a board is given, and the unit that starts it there."""

from __future__ import annotations

from pathlib import Path

import pytest

from distredge.cluster_file import read_boards
from distredge.remote.worker_scripts import Place
from distredge.remote.workers import needed_files


@pytest.mark.parametrize(
    "line", ['ssh = "pi@secret"', "ssh = 'pi@secret'", '  ssh="pi@secret"  # mine', '"ssh" = "pi@secret"']
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_where_ssh_finds_boards_stays_here(tmp_path: Path, line: str, end: str) -> None:
    path = tmp_path / "c.toml"
    text = f'format = "distredge.cluster/1"\nname = "c"\n[[device]]\nname = "a"\nprofile = "default:pi3"\n{line}{end}'
    path.write_bytes(text.encode())
    boards = read_boards(path)
    assert boards.devices[0].ssh == "pi@secret"
    ((sent, _),) = needed_files(path, boards, boards.devices[0], None).values()
    assert b"secret" not in sent
    (tmp_path / "sent.toml").write_bytes(sent)
    assert read_boards(tmp_path / "sent.toml").names == boards.names


def test_a_files_name_means_nothing_to_systemd() -> None:
    text = Place("c", "one", 'my "50 %" $HOME.toml').unit_text()
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert line.split(" worker ")[1] == (
        '--cluster "%h/.local/share/distredge/workers/c/one/my \\"50 %%\\" $$HOME.toml" --name one'
    )
