"""`distredge testbed`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distredge.cli._common import run as run_command
from distredge.cluster import load_cluster
from distredge.model.capture import load_model
from distredge.model.rows import even_cuts
from distredge.strategy import InputSpec, Strategy

DOWN = """
format = "distredge.cluster/1"
name = "down"
[requester]
link = { rate_bps = "unbounded" }
[[device]]
name = "a"
profile = "default:pi4"
link = { rate_bps = 0 }
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, as a shell would see them."""
    with pytest.raises(SystemExit) as ended:
        run_command("distredge.cli.testbed:testbed", "distredge testbed", [str(a) for a in arguments])
    captured = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


@pytest.fixture
def strategy(tmp_path: Path) -> Path:
    """MobileNet-V3-small in one volume on the first two of db-50's boards."""
    graph = load_model("mobilenet-v3-small")
    devices = load_cluster("db-50").names[:2]
    cut = graph.cuts[-1]
    path = tmp_path / "s.json"
    Strategy.make(graph, devices, [(cut.index, even_cuts(cut.height, 2))], head=devices[0]).save(path)
    return path


def test_noise_is_predicted_as_the_rows_that_it_travels_in(
    capsys: pytest.CaptureFixture[str], strategy: Path, tmp_path: Path
) -> None:
    predicted = []
    for given in (InputSpec("uint8"), InputSpec("jpeg", 10_000, 100_000)):
        path = tmp_path / f"{given.dtype}.json"
        Strategy.load(strategy).replace(input=given).save(path)
        code, out, err = run(
            capsys, "run", "--cluster", "db-50", "--strategy", path, "--mode", "loopback", "--frames", 1, "--engine",
            "sleep", "--dilation", 1, "--json",
        )  # fmt: skip
        assert (code, err) == (0, "")
        predicted.append(json.loads(out)["predicted_latency_s"])
    assert predicted[0] == predicted[1]


def test_a_run_says_what_was_predicted_and_measured(
    capsys: pytest.CaptureFixture[str], strategy: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "t.json"
    code, out, err = run(
        capsys, "run", "--cluster", "db-50", "--strategy", strategy, "--mode", "loopback", "--frames", 3, "--unpaced",
        "--trace", trace, "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["correct"] is True
    assert found["mode"] == "loopback"
    assert len(found["latencies_s"]) == 3
    assert found["error"] == pytest.approx(found["predicted_latency_s"] / found["latency_s"] - 1.0)
    assert found["rows"][-1]["device"] == "requester"
    names = {e["args"]["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "process_name"}
    assert {"requester predicted", "requester measured"} <= names


def test_boards_stand_until_they_are_taken_down(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, out, err = run(capsys, "up", "--cluster", "pi4x4-wifi", "--name", "four", "--mode", "loopback", "--json")
    assert (code, err) == (0, "")
    try:
        made = load_cluster(json.loads(out)["cluster"])
        assert [device.uplink.rate_bps for device in made.devices] == [90e6] * 4
        assert made.link_model == "shared"
        assert all(device.public_key for device in made.devices)
        code, out, _ = run(capsys, "list", "--json")
        assert list(json.loads(out)["standing"]) == ["four"]
        code, _, err = run(capsys, "up", "--cluster", "pi4x4-wifi", "--name", "four", "--mode", "loopback")
        assert code == 2
        assert "stands already" in err
        file = str(tmp_path / "distredge" / "testbeds" / "four" / "cluster.toml")
        with pytest.raises(SystemExit) as ended:
            run_command("distredge.cli.cluster:cluster", "distredge cluster", ["status", file])
        assert ended.value.code == 0
        assert capsys.readouterr().out.count("onnxruntime") == 4
    finally:
        code, _, _ = run(capsys, "down", "four")
    assert code == 0
    assert json.loads(run(capsys, "list", "--json")[1])["standing"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--cluster", "db-50", "--model", "squeezenet", "--engine", "sleep", "--unpaced"], "computes nothing"),
        (["run", "--cluster", "db-50", "--model", "squeezenet", "--method", "offload", "--pin", "x"], "DEVICE=CORE"),
        (["run", "--cluster", "db-50", "--model", "squeezenet", "--dilation", "0.1"], "at least 1"),
        (["up", "--cluster", "db-50", "--name", "../x"], "a name without '/'"),
        (["down", "nobody"], "no testbed 'nobody' stands"),
    ],
)  # fmt: skip
def test_bad_usage(
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("command", ["run", "up"])
def test_a_link_that_is_down_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    file = tmp_path / "down.toml"
    file.write_text(DOWN)
    more = ["--model", "squeezenet", "--method", "offload"] if command == "run" else []
    code, out, err = run(capsys, command, "--cluster", file, *more)
    assert (code, out) == (2, "")
    assert "down" in err


def test_without_root_and_with_namespaces_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    code, _, err = run(capsys, "run", "--cluster", "db-50", "--model", "squeezenet", "--mode", "namespaces")
    assert code == 2
    assert "root" in err
