"""The commands, as processes: on this machine, on "boards" at fixed ports, and with everything that can be wrong."""

from __future__ import annotations

import io
import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from PIL import Image

from distredge.cli._common import load_object, run
from distredge.cli._deployment import difference, magnitude
from tests.runtime.conftest import DEVICES, make_strategy, small_cnn


class Done(NamedTuple):
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def _run(target: str, program: str, folder: Path, args: tuple[str, ...]) -> Done:
    """Runs a command in this process, which has imported what it needs already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        with pytest.raises(SystemExit) as ended:
            run(target, program, args)
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


def deploy(folder: Path, *args: str) -> Done:
    return _run("distredge.cli.deploy_strategy:deploy_strategy", "deploy-strategy", folder, args)


def distredge(folder: Path, *args: str) -> Done:
    return _run("distredge.cli.main:distredge", "distredge", folder, args)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _cluster_file(path: Path, ports: list[int]) -> None:
    lines = ['format = "distredge.cluster/1"', 'name = "test"', "[requester]", 'link = { rate_bps = "unbounded" }']
    for index, name in enumerate(DEVICES):
        lines += ["[[device]]", f'name = "{name}"', 'profile = "default:nano"', "link = { rate_bps = 1e9 }"]
        control, data = ports[2 * index : 2 * index + 2]
        lines += [f"control_port = {control}", f"data_port = {data}"]
    path.write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path, graph) -> Path:
    """A model, a strategy for three devices, and a cluster of this machine with their names."""
    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    make_strategy(graph, [(2, 1, 1), (1, 1, 2)]).save(tmp_path / "s.json")
    _cluster_file(tmp_path / "local.toml", [0] * 6)
    return tmp_path


@pytest.fixture
def boards(folder: Path) -> Iterator[tuple[Path, list[subprocess.Popen[str]]]]:
    """Three workers at fixed ports, with keys, each its own `distredge worker`."""
    _cluster_file(folder / "boards.toml", _free_ports(6))
    made = distredge(folder, "keys", "boards.toml")
    assert made.returncode == 0, made.stderr
    workers = []
    try:
        for name in DEVICES:
            command = [sys.executable, "-m", "distredge", "worker", "--cluster", "boards.toml", "--name", name]
            workers.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
            )
        yield folder, workers
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.communicate(timeout=20)


STRATEGY = ("s.json", "--model", "small.onnx")
LOCAL = ("--cluster", "local.toml")


def test_on_this_machine(folder: Path) -> None:
    done = deploy(
        folder, *STRATEGY, "--cluster", "local.toml", "--repeat", "3", "--in-flight", "2", "--json",
        "--timeline", "t.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["largest_relative_difference"] <= 1e-5
    assert (found["workers"], found["encrypted"], found["lossless"]) == ("local", True, True)
    assert len(found["latencies_s"]) == 3
    assert min(found["latency_s"], found["predicted_latency_s"], found["throughput_per_s"]) > 0
    assert found["outputs"] == {"scores": [1, 40]}
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_with_a_log_for_tensorboard(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--repeat", "2", "--log", "log")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "log: tensorboard --logdir log"
    (events,) = (folder / "log").iterdir()
    content = events.read_bytes()
    for tag in (b"run/latency_s", b"run/images_per_s", b"run/predicted_latency_s", b"run/timeline"):
        assert tag in content


def test_as_a_process_of_its_own(folder: Path) -> None:
    code = "from distredge.cli.main import deploy_strategy_main; deploy_strategy_main()"
    command = [sys.executable, "-c", code, *STRATEGY, "--cluster", "local.toml", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["largest_relative_difference"] <= 1e-5


def test_for_people_and_in_plaintext(folder: Path) -> None:
    done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--plaintext")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "small on test: 3 worker processes of this machine, volumes: 2, lossless, PLAINTEXT"
    assert lines[1].startswith("  output scores: shape 1x40, largest ")
    assert lines[2].startswith("largest difference from the whole model in one piece: ")
    assert lines[3].startswith("measured ")


def test_differences() -> None:
    wanted = {"a": np.array([1.0, -4.0], np.float32), "b": np.zeros((1, 2), np.float32)}
    assert difference(wanted, wanted) == 0.0
    assert difference(wanted, wanted | {"a": np.array([1.0, -3.0], np.float32)}) == 0.25
    assert difference(wanted, wanted | {"b": np.array([[0.0, 0.5]], np.float32)}) == 0.5
    for bad in (np.nan, np.inf, -np.inf):
        broken = wanted | {"b": np.array([[0.0, bad]], np.float32)}
        assert difference(wanted, broken) == difference(broken, wanted) == math.inf
    assert difference(wanted, wanted | {"b": np.zeros((2, 1), np.float32)}) == math.inf
    assert difference(wanted, {"a": wanted["a"]}) == math.inf
    assert magnitude(wanted["a"]) == 4.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(lambda a: 1.01 * a, "the output differs from the whole model's"), (lambda a: a * np.nan, "NaN or infinite")],
)
def test_a_wrong_output_is_an_error_after_the_figures(folder: Path, monkeypatch, wrong, said: str) -> None:
    from distredge.cli import deploy_strategy as command

    right = command.whole_model
    monkeypatch.setattr(command, "whole_model", lambda *a: {n: wrong(v) for n, v in right(*a).items()})
    done = deploy(folder, *STRATEGY, *LOCAL)
    assert done.returncode == 1
    assert "measured " in done.stdout
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    done = deploy(folder, *STRATEGY, *LOCAL, "--json")
    assert (done.returncode, json.loads(done.stdout)["correct"]) == (1, False)
    assert deploy(folder, *STRATEGY, *LOCAL, "--no-check").returncode == 0


def test_a_lossy_strategy_says_so(folder: Path, graph) -> None:
    make_strategy(graph, [(2, 1, 1), (1, 1, 2)], wire="float16").save(folder / "lossy.json")
    done = deploy(folder, "lossy.json", "--model", "small.onnx", *LOCAL)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("largest difference")]
    assert line.endswith(" (lossy)")


def test_classes_only_of_weights_that_were_trained(folder: Path) -> None:
    from distredge.model.capture import load_model

    assert load_model(folder / "small.onnx").weights_from == "file"
    zoo_graph = load_model("mobilenet-v1-0.25-128")
    assert zoo_graph.weights_from == "random"
    make_strategy(zoo_graph, [(1, 1, 1)]).save(folder / "zoo.json")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "black.png")
    told = ("zoo.json", "--model", "mobilenet-v1-0.25-128", *LOCAL, "--image", "black.png")
    done = deploy(folder, *told)
    assert done.returncode == 0, done.stderr
    assert "weights: random (seed 0): the classes mean nothing; give --weights FILE\n" in done.stdout
    assert "%" not in done.stdout
    found = json.loads(deploy(folder, *told, "--json").stdout)
    assert (found["weights"], found["classes"]) == ("random", [])


def test_an_interrupted_run_says_what_it_measured(folder: Path, monkeypatch) -> None:
    _at_frame(monkeypatch, 4, _interrupt)
    done = deploy(folder, *STRATEGY, *LOCAL, "--repeat", "9", "--timeline", "t.json")
    assert (done.returncode, done.stderr.strip()) == (130, "error: interrupted")
    assert done.stdout.startswith("ended early: 2 of 9 frames done, median latency ")
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_a_lost_worker_leaves_what_was_measured(boards, monkeypatch) -> None:
    folder, workers = boards
    _at_frame(monkeypatch, 5, workers[1].kill)
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
    _at_frame(monkeypatch, 3, workers[1].kill)
    told = ("--cluster", "boards.toml", "--connect", "20", "--repeat", "6", "--json", "--replan", "aofl")
    done = deploy(folder, *STRATEGY, *told)
    assert done.returncode == 0, done.stderr
    assert "lost beta: goes on with alpha, gamma" in done.stderr
    found = json.loads(done.stdout)
    assert len(found["latencies_s"]) == 6
    assert found["correct"] is True
    assert [(said["lost"], said["devices"]) for said in found["replanned"]] == [(["beta"], ["alpha", "gamma"])]


def test_an_unknown_method_for_planning_anew(folder: Path) -> None:
    done = deploy(folder, *STRATEGY, *LOCAL, "--replan", "aofll")
    assert (done.returncode, "did you mean 'aofl'" in done.stderr) == (2, True), done.stderr


def _interrupt() -> None:
    raise KeyboardInterrupt


def _at_frame(monkeypatch, number: int, act: Callable[[], None]) -> None:
    """Does something as this frame begins; the first one is 1 and is not measured."""
    from distredge.runtime.requester.coordinator import Coordinator

    begun = []
    infer = Coordinator.infer

    def counted(self: Coordinator, *args: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            act()
        return infer(self, *args)

    monkeypatch.setattr(Coordinator, "infer", counted)


def test_on_boards(boards) -> None:
    folder, _ = boards
    for _ in range(2):
        done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--json", "--connect", "30")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["largest_relative_difference"] <= 1e-5
        assert (found["workers"], found["encrypted"]) == ("boards", True)
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


def test_keys_of_another_set_are_refused(boards) -> None:
    folder, _ = boards
    assert distredge(folder, "keys", "boards.toml", "--out", "other").returncode == 0
    for worker in boards[1]:
        assert worker.stdout.readline().startswith("worker '")
    done = deploy(folder, *STRATEGY, "--cluster", "boards.toml", "--keys", "other", "--connect", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "the handshake broke off: the keys may not fit" in done.stderr or "cannot reach workers" in done.stderr


def test_keys_that_cannot_be_used_are_wrong_input(folder: Path) -> None:
    _cluster_file(folder / "away.toml", _free_ports(6))
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


def test_background_workers(folder: Path) -> None:
    missing = distredge(folder, "cluster", "status", "local.toml")
    assert missing.returncode == 1
    assert "no workers of 'test' run" in missing.stderr
    try:
        started = distredge(folder, "cluster", "start", "local.toml", "--json")
        assert started.returncode == 0, started.stderr
        assert set(json.loads(started.stdout)) == set(DEVICES)
        again = distredge(folder, "cluster", "start", "local.toml")
        assert again.returncode == 1
        assert "run already" in again.stderr
        for path in (folder / "state").rglob("*.secret"):
            assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            done = deploy(folder, *STRATEGY, "--cluster", "local.toml", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["workers"] == "background"
        assert distredge(folder, "cluster", "status", "local.toml").returncode == 0
    finally:
        stopped = distredge(folder, "cluster", "stop", "local.toml", "--json")
    assert sorted(json.loads(stopped.stdout)["stopped"]) == sorted(DEVICES)
    assert not list((folder / "state").rglob("*.secret"))
    assert distredge(folder, "cluster", "status", "local.toml").returncode == 1


def test_probing_this_machine(folder: Path) -> None:
    done = distredge(folder, "probe", "--cluster", "local.toml", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    links = [line for line in done.stdout.splitlines() if ": round trip " in line]
    assert len(links) == 2 * len(DEVICES)
    assert f"at the same time ({len(DEVICES) + 1} flows" in done.stdout
    assert "the medium is " in done.stdout
    assert "encryption: " in done.stdout


def test_probing_writes_a_trace(folder: Path) -> None:
    done = distredge(
        folder, "probe", "--cluster", "local.toml", "--between", "alpha", "beta", "--plaintext", "--trace", "t.csv",
        "--seconds", "0.3", "--every", "0.1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["trace"]
    assert (told["source"], told["destination"], told["rates"]) == ("alpha", "beta", 3)
    from distredge.profiles.network import Trace

    trace = Trace.load(folder / "t.csv")
    assert len(trace) == 3
    assert trace.rates_bps.min() > 0
    assert distredge(folder, "probe", "--cluster", "local.toml", "--between", "alpha", "alpha").returncode == 2


def test_a_cluster_file_to_start_from(folder: Path) -> None:
    done = distredge(
        folder, "cluster", "init", "new.toml", "--device", "a=192.168.1.11", "--device", "b=pi.local,default:pi3"
    )
    assert done.returncode == 0, done.stderr
    from distredge.cluster import load_cluster

    made = load_cluster(folder / "new.toml")
    assert [(d.name, d.address) for d in made.devices] == [("a", "192.168.1.11"), ("b", "pi.local")]
    assert distredge(folder, "cluster", "init", "new.toml", "--device", "a=b").returncode == 2
    wrong = distredge(folder, "cluster", "init", "other.toml", "--device", "a=1.2.3.4,default:abacus")
    assert wrong.returncode == 2
    assert not (folder / "other.toml").exists()


@pytest.fixture
def cases(folder: Path, graph) -> Path:
    (folder / "broken.json").write_text("{")
    (folder / "note.png").write_text("no picture")
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "broken.toml").write_text("= nothing")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "picture.png")
    make_strategy(graph, [(1, 1)]).replace(devices=("alpha", "nobody"), head=_head("alpha")).save(folder / "who.json")
    _cluster_file(folder / "away.toml", _free_ports(6))
    return folder


def _head(name: str):
    from distredge.strategy import Head

    return Head(name)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("nothing.json", *LOCAL), 2, "nothing.json: "),
        (("broken.json", *LOCAL), 2, "broken.json: "),
        ((*STRATEGY, "--cluster", "nothing.toml"), 2, "nothing.toml"),
        ((*STRATEGY, "--cluster", "broken.toml"), 2, "broken.toml: "),
        ((*STRATEGY, "--cluster", "db-51"), 2, "did you mean"),
        (("s.json", "--model", "broken.onnx", *LOCAL), 2, "broken.onnx"),
        (("s.json", "--model", "nothing.onnx", *LOCAL), 2, "nothing.onnx"),
        (("s.json", *LOCAL), 2, "'small', which is not in the zoo"),
        ((*STRATEGY, *LOCAL, "--input-shape", "1,3,32,32"), 2, "small"),
        ((*STRATEGY, *LOCAL, "--timeline", "nowhere/t.json"), 2, "nowhere/t.json: "),
        ((*STRATEGY, *LOCAL, "--log", "s.json/log"), 2, "s.json/log: cannot be made: 's.json' is not a folder"),
        (("s.json", "--model", "mobilenet-v2", *LOCAL), 2, "the strategy is for another model"),
        (("who.json", "--model", "small.onnx", *LOCAL), 2, "has no device 'nobody'"),
        ((*STRATEGY, *LOCAL, "--image", "nothing.png"), 2, "small: does not say how a picture becomes its input"),
        ((*STRATEGY, "--cluster", "away.toml"), 2, "make keys with: distredge keys CLUSTER.toml"),
        (
            (*STRATEGY, "--cluster", "away.toml", "--plaintext", "--connect", "0.5"),
            1,
            "cannot reach workers 'alpha' at",
        ),
        ((*STRATEGY, *LOCAL, "--deadline", "0"), 2, "deadline"),
        ((*STRATEGY, *LOCAL, "--repeat", "0"), 2, "repeat"),
        ((*STRATEGY, "--cluster", "db-50"), 2, "have no addresses of their own"),
        ((*STRATEGY, "--cluster", "db-50", "--plaintext"), 2, "this cluster is for planning and simulation"),
        ((*STRATEGY, *LOCAL, "--keys", "somewhere"), 2, "fresh keys are made for each run"),
        ((*STRATEGY, *LOCAL, "--connect", "0.001"), 1, "does not come up in time"),
    ],
)
def test_one_line_for_what_is_wrong(
    cases: Path, monkeypatch, capsys, args: tuple[str, ...], code: int, text: str
) -> None:
    monkeypatch.chdir(cases)
    with pytest.raises(SystemExit) as ended:
        run("distredge.cli.deploy_strategy:deploy_strategy", "deploy-strategy", args)
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    assert text in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("worker", "--cluster", "away.toml", "--name", "alpha"), 2, "public.json: cannot read the public keys"),
        (("worker", "--cluster", "away.toml", "--name", "delta"), 2, "has no device 'delta'"),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--bind", "*"),
            1,
            "only with encryption",
        ),
        (
            ("worker", "--cluster", "away.toml", "--name", "alpha", "--plaintext", "--bind", "192.0.2.77"),
            1,
            "cannot bind",
        ),
        (("worker", "--cluster", "away.toml", "--name", "alpha", "--provider", "cuda"), 2, "public.json"),
        (("worker", "--cluster", "db-50", "--name", "nano-0"), 2, "have no addresses of their own"),
        (("worker", "--cluster", "db-50", "--name", "nano-0", "--plaintext"), 2, "for planning and simulation"),
        (("keys", "nothing.toml"), 2, "nothing.toml"),
        (("cluster", "start", "away.toml"), 2, "start their workers there: on 127.0.0.1: distredge worker"),
        (("probe", "--cluster", "away.toml", "--plaintext", "--timeout", "0.5"), 1, "cannot be reached within 0.5 s"),
        (("probe", "--cluster", "local.toml", "--between", "alpha", "delta"), 2, "has no device 'delta'"),
    ],
)
def test_one_line_for_what_is_wrong_elsewhere(
    cases: Path, monkeypatch, capsys, args: tuple[str, ...], code: int, text: str
) -> None:
    monkeypatch.chdir(cases)
    with pytest.raises(SystemExit) as ended:
        run("distredge.cli.main:distredge", "distredge", args)
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    assert text in said.err
    assert said.err.count("\n") == 1


def test_the_doctor(monkeypatch, capsys) -> None:
    from distredge.cli import doctor

    # Compiling the latency kernel takes longer than everything else together.
    monkeypatch.setitem(sys.modules, "distredge.latency.kernel.kernel", None)
    with pytest.raises(SystemExit) as ended:
        run("distredge.cli.doctor:doctor", "doctor", ["--json"])
    assert ended.value.code == 0
    findings = {f["what"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    for what in ("python", "onnxruntime", "encryption", "engine", "worker", "interfaces", "machine"):
        assert findings[what]["state"] == "ok", findings[what]
    assert "a worker answers in" in findings["worker"]["detail"]
    assert findings["planning"]["state"] == "missing"
    monkeypatch.setitem(doctor._CHECKS, "worker", lambda: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        run("distredge.cli.doctor:doctor", "doctor", [])
    assert ended.value.code == 1
    assert "bad      worker" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["worker", "keys", "cluster", "probe", "doctor", "deploy_strategy"])
def test_options_are_explained(name: str) -> None:
    command = load_object(f"distredge.cli.{name}:{name}")
    for one in [command, *getattr(command, "commands", {}).values()]:
        for option in one.params:
            assert option.param_type_name == "argument" or option.help, f"{one.name} {option.name}"
