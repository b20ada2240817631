"""`distredge simulate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distredge import metric_names
from distredge.cli._common import run as run_command
from distredge.cli._planning import INDEPENDENT
from distredge.cluster import load_cluster
from distredge.latency import offload_latency_s, simulate
from distredge.model.capture import load_model
from distredge.model.graph import Graph
from distredge.model.rows import even_cuts
from distredge.problem import Problem
from distredge.strategy import Strategy
from distredge.timeline import Timeline

MODEL, CLUSTER = "mobilenet-v3-small", "db-50"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def strategy(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    devices = load_cluster(CLUSTER).names
    path = tmp_path_factory.mktemp("simulate") / "s.json"
    cuts = [graph.cuts[i] for i in (5, len(graph.cuts) - 1)]
    volumes = [(cut.index, even_cuts(cut.height, len(devices))) for cut in cuts]
    Strategy.make(graph, devices, volumes, head=devices[0]).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, as a shell would see them."""
    with pytest.raises(SystemExit) as ended:
        run_command("distredge.cli.simulate:simulate", "distredge simulate", [str(a) for a in arguments])
    captured = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, captured.out, captured.err


def test_json_has_the_simulators_figures(capsys: pytest.CaptureFixture[str], graph: Graph, strategy: Path) -> None:
    code, out, err = run(capsys, strategy, "--cluster", CLUSTER, "--json")
    assert (code, err) == (0, f"{INDEPENDENT}\n")
    found = json.loads(out)
    assert (found["link_model"], found["assumption"]) == ("independent", INDEPENDENT)
    problem = Problem(graph, load_cluster(CLUSTER))
    timeline = simulate(problem, Strategy.load(strategy))
    assert found[metric_names.LATENCY_S] == timeline.latency_s
    assert found[metric_names.IMAGES_PER_S] == pytest.approx(1 / timeline.latency_s)
    assert found[metric_names.SPEEDUP] == pytest.approx(offload_latency_s(problem) / timeline.latency_s)
    assert found[metric_names.BYTES_SENT] == timeline.bytes_sent == sum(found[metric_names.LINK_BYTES].values())
    assert found[metric_names.RECOMPUTE_RATIO] > 0
    assert set(found[metric_names.UTILISATION]) == {*problem.cluster.names, "requester"}
    assert set(found[metric_names.PEAK_MEMORY_BYTES]) == set(problem.cluster.names)
    assert (found[metric_names.THROUGHPUT_PER_S], found[metric_names.BOTTLENECK], found["lossless"]) == (
        None,
        None,
        True,
    )


def test_several_images_in_flight(capsys: pytest.CaptureFixture[str], strategy: Path) -> None:
    one = json.loads(run(capsys, strategy, "--cluster", CLUSTER, "--json")[1])
    arguments = (strategy, "--cluster", CLUSTER, "--frames", 8, "--in-flight", 4)
    many = json.loads(run(capsys, *arguments, "--json")[1])
    assert many[metric_names.THROUGHPUT_PER_S] > one[metric_names.IMAGES_PER_S]
    assert many[metric_names.BYTES_SENT] == one[metric_names.BYTES_SENT]
    code, out, _ = run(capsys, *arguments)
    steady = " ".join(out.split())
    assert code == 0
    assert (many[metric_names.IMAGES_PER_S], many[metric_names.SPEEDUP]) == (None, None)
    assert " x" not in steady.partition("critical path")[0]
    assert (
        f"throughput {many[metric_names.THROUGHPUT_PER_S]:.2f} images/s, bound by {many[metric_names.BOTTLENECK]}"
        in steady
    )


def test_the_table_names_every_device_and_the_files(
    capsys: pytest.CaptureFixture[str], strategy: Path, tmp_path: Path
) -> None:
    chart, trace = tmp_path / "g.png", tmp_path / "t.json"
    code, out, _ = run(capsys, strategy, "--cluster", CLUSTER, "--gantt", chart, "--timeline", trace)
    assert code == 0
    for text in (f"{MODEL} on {CLUSTER}", "2 volumes on", "lossless", "latency", "critical path", f"timeline: {trace}"):
        assert text in out
    timeline = Timeline.from_chrome(trace)
    for device in timeline.devices:
        # Once in the table, once in the chart.
        assert sum(line.split()[:1] == [device] for line in out.splitlines()) == 2
    assert f"{1e3 * timeline.latency_s:.2f} ms" in out
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wire", ["float16", "int8"])
def test_a_lossy_strategy_says_so(
    capsys: pytest.CaptureFixture[str], graph: Graph, strategy: Path, tmp_path: Path, wire: str
) -> None:
    exact = Strategy.load(strategy)
    volumes = [(len(graph.cuts) - 1, exact.volumes[-1].rows)]
    path = tmp_path / "lossy.json"
    Strategy.make(graph, exact.devices, volumes, head=exact.head.device, wire=wire).save(path)
    assert "LOSSY" in run(capsys, path, "--cluster", CLUSTER)[1]
    assert json.loads(run(capsys, path, "--cluster", CLUSTER, "--json")[1])["lossless"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "db-5O"], "there is no shipped cluster 'db-5O'; did you mean"),
        (["--cluster", "none.toml"], "none.toml"),
        (["--cluster", CLUSTER, "--model", "mobilenet-v3-smal"], "did you mean 'mobilenet-v3-small'"),
        (["--cluster", CLUSTER, "--model", "vgg16"], "the strategy is for another model"),
        (["--cluster", CLUSTER, "--frames", "0"], "--frames"),
        (["--cluster", CLUSTER, "--in-flight", "0"], "--in-flight"),
        (["--cluster", CLUSTER, "--start", "-1"], "'--start': found '-1', accepted: a number of at least 0"),
        (["--cluster", CLUSTER, "--start", "nan"], "'--start': found 'nan', accepted: a number of at least 0"),
        (["--cluster", CLUSTER, "--timeline", "missing/t.json"], "missing/t.json: there is no folder 'missing'"),
        (["--cluster", CLUSTER, "--gantt", "missing/g.png"], "missing/g.png: there is no folder 'missing'"),
        (["--cluster", CLUSTER, "--gantt", "g.gif"], "found '.gif', accepted: .png or .svg or .pdf"),
        (["--cluster", "this-machine"], "has no device"),
        ([], "Missing option '--cluster'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], strategy: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, strategy, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("{", "s.json"), ("{}", "s.json")])
def test_bad_strategy_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
    code, out, err = run(capsys, path, "--cluster", CLUSTER)
    assert (code, out, message in err) == (2, "", True), err


def test_a_strategy_for_a_model_of_ones_own_asks_for_its_file(
    capsys: pytest.CaptureFixture[str], graph: Graph, tmp_path: Path
) -> None:
    model, path = tmp_path / "fix.onnx", tmp_path / "s.json"
    graph.save(model)
    own, devices = load_model(model), load_cluster(CLUSTER).names
    last = own.cuts[-1]
    Strategy.make(own, devices, [(last.index, even_cuts(last.height, len(devices)))], head=devices[0]).save(path)
    code, _, err = run(capsys, path, "--cluster", CLUSTER)
    expected = f"error: {path} is for the model 'fix', which is not in the zoo; give it with --model FILE\n"
    assert (code, err) == (2, expected)
    assert run(capsys, path, "--cluster", CLUSTER, "--model", model)[0] == 0


def test_another_input_shape_reaches_the_model(capsys: pytest.CaptureFixture[str], strategy: Path) -> None:
    code, _, err = run(capsys, strategy, "--cluster", CLUSTER, "--input-shape", "1,3,128,128")
    assert code == 2  # the strategy is for 224 rows
    assert "(1, 3, 128, 128)" in err
    assert "the strategy is for another model" in err


def test_a_link_that_is_down_is_named(capsys: pytest.CaptureFixture[str], graph: Graph, tmp_path: Path) -> None:
    cluster = tmp_path / "c.toml"
    cluster.write_text(
        'format = "distredge.cluster/1"\nname = "c"\n[requester]\nlink = { rate_bps = "unbounded" }\n'
        '[[device]]\nname = "up"\nprofile = "default:nano"\nlink = { rate_bps = 1e6 }\n'
        '[[device]]\nname = "off"\nprofile = "default:nano"\nlink = { rate_bps = 0.0 }\n'
    )
    path = tmp_path / "s.json"
    last = graph.cuts[-1]
    Strategy.make(graph, ("up", "off"), [(last.index, even_cuts(last.height, 2))], head="up").save(path)
    code, _, err = run(capsys, path, "--cluster", cluster)
    assert (code, "from 'requester' to 'off'" in err) == (2, True), err
