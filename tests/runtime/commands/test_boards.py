"""`deploy-strategy` on workers that run at fixed ports, each a `distredge worker` with keys of its own."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distredge.strategy import Strategy
from tests.runtime.commands.conftest import STRATEGY, at_frame, deploy, distredge, write_cluster
from tests.runtime.conftest import DEVICES


def test_on_boards(boards) -> None:
    folder, _ = boards
    for _ in range(2):
        done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--json", "--connect", "30")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["largest_relative_difference"] <= 1e-5
        assert (found["workers"], found["encrypted"]) == ("boards", True)
        assert set(found["prepared"]) == set(DEVICES)
        assert all(took["loaded"] > 0 and took["load_s"] > 0 for took in found["prepared"].values())
        sent_bytes = sum(took["weights_sent_bytes"] for took in found["prepared"].values())
        assert sent_bytes == found["weights_sent_bytes"]
    status = distredge(folder, "cluster", "status", "boards.toml", "--json")
    assert status.returncode == 0, status.stderr
    states = json.loads(status.stdout)
    assert {name: state["plans"] for name, state in states.items()} == dict.fromkeys(DEVICES, 0)
    probed = distredge(
        folder, "probe", "--cluster", "boards.toml", "--between", "alpha", "beta", "--repeats", "2", "--json"
    )
    assert probed.returncode == 0, probed.stderr
    links = json.loads(probed.stdout)["links"]
    assert [(link["source"], link["destination"]) for link in links] == [("alpha", "beta"), ("beta", "alpha")]
    assert all(link["rtt_s"] > 0 for link in links)


@pytest.mark.parametrize(
    ("said", "given", "dynamic"),
    [
        ("true", (), True),
        ("true", ("--no-dynamic-rows",), False),
        ("false", ("--dynamic-rows",), True),
        ("false", (), False),
    ],
)
def test_the_cluster_file_says_who_takes_dynamic_rows(
    folder: Path, ports: list[int], said: str, given: tuple[str, ...], dynamic: bool
) -> None:
    path = folder / "boards.toml"
    write_cluster(path, ports)
    path.write_text(f"{path.read_text()}\ndynamic_rows = {said}\n")
    own = ["--cluster", "boards.toml", "--name", DEVICES[-1], "--no-cache", "--plaintext", *given]
    command = [sys.executable, "-m", "distredge", "worker", *own]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as worker:
        try:
            assert worker.stdout is not None
            line = worker.stdout.readline()
        finally:
            worker.terminate()
    assert "waits for anybody" in line
    assert (", dynamic rows; " in line) is dynamic


@pytest.mark.parametrize("boards", [["--dynamic-rows"]], indirect=True)
def test_dynamic_rows(boards, graph) -> None:
    """One sub-model for each stage of a volume, whatever the rows."""
    folder, workers = boards
    first = next(cut.index for cut in graph.cuts if cut.reference == "r1")
    cuts = [(first, [0, 11, 22, 33]), (len(graph.cuts) - 1, [0, 3, 5, 8])]
    Strategy.make(graph, DEVICES, cuts, head="beta").save(folder / "s.json")
    assert ", dynamic rows; waits for " in workers[0].stdout.readline()
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--json", "--connect", "30")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["correct"] is True
    assert (found["volumes"], found["dynamic_volumes"]) == (2, 2)
    states = json.loads(distredge(folder, "cluster", "status", "boards.toml", "--json").stdout)
    assert [state["dynamic_rows"] for state in states.values()] == [True] * 3


def test_a_lost_worker_leaves_what_was_measured(boards, monkeypatch) -> None:
    folder, workers = boards
    at_frame(monkeypatch, 5, workers[1].kill)
    done = deploy(
        folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "20", "--repeat", "9", "--json",
        "--timeline", "t.json", "--deadline", "2",
    )  # fmt: skip
    assert done.returncode == 1
    assert "beta" in done.stderr
    found = json.loads(done.stdout)
    assert found["frames_wanted"] == 9
    # What the operating system had taken from the worker before it was killed may still complete a frame.
    assert 3 <= found["frames"] < 9
    assert found["latency_s"] > 0
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_a_lost_workers_frames_go_on_elsewhere(boards, monkeypatch) -> None:
    folder, workers = boards
    at_frame(monkeypatch, 3, workers[1].kill)
    told = ("--cluster", "boards.toml", "--connect", "20", "--repeat", "6", "--json", "--replan", "aofl")
    done = deploy(folder, *STRATEGY, *told)
    assert done.returncode == 0, done.stderr
    assert "lost beta: goes on with alpha, gamma" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["latencies_s"]) == 6
    assert found["correct"] is True
    assert [(said["lost"], said["devices"]) for said in found["replanned"]] == [(["beta"], ["alpha", "gamma"])]
    (replanned,) = found["replanned"]
    assert replanned["taken"] in ("planned", "dealt")
    assert 1 <= replanned["frames_to_come"] <= 7
    assert 0 <= replanned["predicted_swap_s"] < 30
    assert replanned["prepared_s"] == found["prepared_s"] > 0
    assert set(found["prepared"]) <= {"alpha", "gamma"}
    for took in found["prepared"].values():
        assert (took["load_s"] > 0, took["loaded"] >= 0, took["weights_sent_bytes"] >= 0) == (True,) * 3


def test_a_board_that_stays_away_is_named_in_time(boards) -> None:
    folder, workers = boards
    for worker in workers:
        assert ": control tcp://127.0.0.1:" in worker.stdout.readline()
    workers[1].terminate()
    workers[1].wait(20)
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--connect", "1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot reach worker 'beta' at tcp://127.0.0.1:" in done.stderr
    assert "within 1 s" in done.stderr
    status = distredge(folder, "cluster", "status", "boards.toml", "--timeout", "1")
    assert status.returncode == 1
    assert "beta: worker 'beta' at tcp://127.0.0.1:" in status.stdout
    hint = (
        "is it started, and do its ports get through? On the board: distredge worker --cluster boards.toml --name beta"
    )
    assert status.stdout.splitlines()[-1] == hint
    # Before any link is measured, though the first two are there.
    probed = distredge(folder, "probe", "--cluster", "boards.toml", "--timeout", "1")
    assert (probed.returncode, probed.stdout) == (1, "")
    assert probed.stderr.startswith("error: worker 'beta' at tcp://127.0.0.1:")
    assert probed.stderr.endswith(f"; {hint}\n")


def test_keys_of_another_set_are_refused(boards) -> None:
    folder, _ = boards
    assert distredge(folder, "keys", "boards.toml", "--out", "other").returncode == 0
    for worker in boards[1]:
        assert worker.stdout.readline().startswith("worker '")
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--keys", "other", "--connect", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "the handshake broke off: the keys may not fit" in done.stderr or "cannot reach workers" in done.stderr


def test_probing_with_keys_of_another_set_does_not_ask_for_workers_to_be_started(boards) -> None:
    folder, workers = boards
    assert distredge(folder, "keys", "boards.toml", "--out", "other").returncode == 0
    for worker in workers:
        assert worker.stdout.readline()
    for words in (("probe", "--cluster", "boards.toml"), ("cluster", "status", "boards.toml")):
        done = distredge(folder, *words, "--keys", "other", "--timeout", "20")
        assert done.returncode == 1
        assert "the keys may not fit" in done.stdout + done.stderr
        assert "is it started" not in done.stdout + done.stderr


def test_keys_that_cannot_be_used_are_wrong_input(folder: Path, ports: list[int]) -> None:
    write_cluster(folder / "away.toml", ports)
    assert distredge(folder, "keys", "away.toml").returncode == 0
    secret, public = folder / "keys" / "requester.secret", folder / "keys" / "public.json"
    told = (*STRATEGY, "--cluster", "away.toml")
    secret.chmod(0o644)
    done = deploy(folder, *told)
    assert (done.returncode, "lets others read the secret key" in done.stderr) == (2, True), done.stderr
    secret.chmod(0o600)
    secret.write_text((folder / "keys" / "alpha.secret").read_text())
    done = deploy(folder, *told)
    assert (done.returncode, "does not belong to the public key" in done.stderr) == (2, True), done.stderr
    content = json.loads(public.read_text())
    del content["keys"]["requester"]
    public.write_text(json.dumps(content))
    done = deploy(folder, *told)
    assert done.returncode == 2
    assert "no key of 'requester'" in done.stderr
    assert "distredge keys CLUSTER.toml" in done.stderr


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "interrupted")])
def test_a_worker_ends_as_it_is_told(boards, number: signal.Signals, code: int, said: str) -> None:
    _, workers = boards
    assert "waits for the requester to deploy or probe" in workers[0].stdout.readline()
    workers[0].send_signal(number)
    _, error = workers[0].communicate(timeout=20)
    assert (workers[0].returncode, said in error, "Traceback" in error) == (code, True, False)


def test_a_second_worker_at_one_address_says_so(boards) -> None:
    folder, workers = boards
    assert workers[0].stdout.readline()
    done = distredge(folder, "worker", "--cluster", "boards.toml", "--name", "alpha")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: worker 'alpha': cannot bind tcp://127.0.0.1:")
    assert "Address already in use" in done.stderr
    assert "if one of that name runs here already, end it" in done.stderr


def test_a_worker_needs_nothing_of_other_boards(folder: Path, ports: list[int]) -> None:
    write_cluster(folder / "boards.toml", ports)
    text = (folder / "boards.toml").read_text()
    before, middle, after = text.partition('name = "beta"')
    after = after.replace("default:nano", "beta.json").replace("rate_bps = 1e9", 'trace = "beta.csv"')
    (folder / "boards.toml").write_text(before + middle + after)
    assert distredge(folder, "keys", "boards.toml").returncode == 0
    for name in ("beta.secret", "gamma.secret", "requester.secret"):
        (folder / "keys" / name).unlink()
    command = [sys.executable, "-m", "distredge", "worker", "--cluster", "boards.toml", "--name", "alpha"]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        said = worker.stdout.readline() if worker.stdout is not None else ""
        assert said.startswith("worker 'alpha': control tcp://127.0.0.1:"), worker.communicate(timeout=20)
    finally:
        worker.terminate()
        worker.communicate(timeout=20)


def test_keys_says_what_to_copy_where(folder: Path) -> None:
    (folder / "c.toml").write_text(
        'format = "distredge.cluster/1"\nname = "c"\n'
        + "".join(
            f'[[device]]\nname = "{name}"\nprofile = "{profile}"\naddress = "{address}"\nlink = {{ rate_bps = 1e9 }}\n'
            for name, profile, address in (
                ("a", "nano", "192.168.1.11"), ("b", "boards/b.json", "fd00::1"), ("c", "c.json", "localhost"),
            )
        )
    )  # fmt: skip
    done = distredge(folder, "keys", "c.toml", "--out", "my keys")
    assert done.returncode == 0, done.stderr
    assert "give --keys my keys to the commands here that take --cluster" in done.stdout
    assert "c: is on this machine; nothing is to be copied" in done.stdout
    copying = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert copying == [
        "ssh 192.168.1.11 mkdir -p -m 700 keys",
        "scp -p c.toml 192.168.1.11:",
        "scp -p 'my keys/public.json' 'my keys/a.secret' 192.168.1.11:keys/",
        "ssh fd00::1 mkdir -p -m 700 boards keys",
        "scp -p c.toml '[fd00::1]:'",
        "scp -p boards/b.json '[fd00::1]:boards/'",
        "scp -p 'my keys/public.json' 'my keys/b.secret' '[fd00::1]:keys/'",
    ]
    collides = (folder / "c.toml").read_text().replace("192.168.1.11", "127.0.0.1")
    (folder / "d.toml").write_text(collides)
    done = distredge(folder, "keys", "d.toml", "--out", "other")
    assert (done.returncode, (folder / "other").exists()) == (2, False)
    assert "have no addresses of their own" in done.stderr


def test_an_engine_under_another_python(folder: Path, ports: list[int]) -> None:
    write_cluster(folder / "boards.toml", ports)
    own = [
        "--cluster",
        "boards.toml",
        "--name",
        "alpha",
        "--plaintext",
        "--no-cache",
        "--engine-python",
        sys.executable,
    ]
    command = [sys.executable, "-m", "distredge", "worker", *own]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        line = worker.stdout.readline()
        assert f"(Python {platform.python_version()}) (CPUExecutionProvider), 1 thread;" in line
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        status = distredge(folder, "cluster", "status", "boards.toml", "--plaintext", "--json")
        state = json.loads(status.stdout)["alpha"]
        assert state["engine"].endswith(f"(Python {platform.python_version()})")
        assert (state["plans"], state["preparing"]) == (0, [])
    finally:
        worker.terminate()
        _, errors = worker.communicate(timeout=20)
    assert (worker.returncode, errors) == (0, "")
    assert len(children) == 1
    until_s = time.monotonic() + 10
    while Path(f"/proc/{children[0]}/cmdline").exists() and Path(f"/proc/{children[0]}/cmdline").read_bytes():
        assert time.monotonic() < until_s, "it is still there"
        time.sleep(0.02)
