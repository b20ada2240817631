"""`distredge compare` and `plan`: Ctrl-C, and what they refuse before they plan."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
from pathlib import Path
from typing import Any

import onnx
import pytest

from distredge.cli._common import run as run_command
from distredge.cli._planning import INDEPENDENT, ProgressLine
from distredge.planners.budget import Budget, PlanningProgress
from distredge.strategy import InputSpec, Strategy
from tests.runtime.conftest import small_cnn

PROBLEM = ("--model", "mobilenet-v3-small", "--input-shape", "1,3,64,64", "--cluster", "db-50")


def run(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, as a shell would see them."""
    with pytest.raises(SystemExit) as ended:
        run_command(f"distredge.cli.{command}:{command}", f"distredge {command}", [*PROBLEM, *arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.fixture(params=[1, 2])
def pressed_during_modnn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the user presses Ctrl-C while MoDNN plans."""
    from distredge.planners.published import modnn

    planner = modnn.plan

    def interrupted(problem: Any, budget: Budget, seed: int) -> Any:
        for _ in range(request.param):
            signal.raise_signal(signal.SIGINT)
        assert budget.interrupted
        return planner(problem, budget, seed)

    monkeypatch.setattr(modnn, "plan", interrupted)
    assert isinstance(request.param, int)
    return request.param


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_finishes_the_table(
    capsys: pytest.CaptureFixture[str], pressed_during_modnn: int, as_json: bool
) -> None:
    methods = ("--methods", "modnn,mednn,aofl", "--evaluations", "10")
    code, out, err = run(capsys, "compare", *methods, *(["--json"] if as_json else []))
    done = ["offload", "modnn"][: 3 - pressed_during_modnn]
    left = ["modnn", "mednn", "aofl"][2 - pressed_during_modnn :]
    assert code == 130
    assert err == f"{INDEPENDENT}\ninterrupted: {', '.join(left)} not run\n"
    if as_json:
        found = json.loads(out)
        assert [row["method"] for row in found["methods"]] == done
        assert (found["interrupted"], found["not_run"]) == (True, left)
        shortened = [row["method"] for row in found["methods"] if row["cut_short"] == "interrupted"]
        assert shortened == done[1:]
    else:
        assert [name for name in ("offload", "modnn", "mednn", "aofl") if name in out.replace("x offload", "")] == done


def test_an_undisturbed_comparison_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compare", "--methods", "modnn", "--evaluations", "10", "--json")
    found = json.loads(out)
    assert (code, found["interrupted"], found["not_run"], found["simulated"]) == (0, False, [], True)
    for row in found["methods"]:
        assert row["over_bound"] == pytest.approx(row["latency_s"] / found["lower_bound_s"])
        assert row["over_bound"] >= 1


def test_the_table_says_how_far_from_the_bound_and_what_is_simulated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chart = tmp_path / "bars.png"
    code, out, _ = run(capsys, "compare", "--methods", "modnn", "--evaluations", "10", "--plot", str(chart))
    assert code == 0
    assert "x bound" in out
    assert "lower bound: " in out
    assert "the best, offload, takes " in out
    assert "simulated: all columns but planning s" in out
    assert "modnn is slower than the best single device" in out
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("plan", ("--out", "none/s.json"), "none/s.json: there is no folder 'none'"),
        ("compare", ("--plot", "none/c.png"), "none/c.png: there is no folder 'none'"),
        ("compare", ("--plot", "c.bmp"), "c.bmp: found '.bmp', accepted: .png or .svg or .pdf"),
        ("plan", ("--pareto", "--out", __file__), f"{__file__}: '{__file__}' is a file; give the name of a folder"),
        ("plan", ("--pareto", "--out", f"{__file__}/f"), "is a file; give the name of a folder"),
        ("plan", ("--pareto", "--objective", "energy"), "--pareto weighs all objectives"),
        ("plan", ("--pareto", "--plot", "c"), "c: found 'no ending', accepted: .png or .svg or .pdf"),
        ("plan", ("--budget", "nan"), "'--budget': found 'nan', accepted: a number above 0"),
        ("compare", ("--budget", "inf"), "'--budget': found 'inf', accepted: a number above 0"),
        ("plan", ("--input-shape", "1,3"), "input_shape: found (1, 3)"),
    ],
)
def test_refused_before_planning(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distredge.planners.run", None)  # not reached
    code, out, err = run(capsys, command, *arguments)
    assert (code, out, message in err) == (2, "", True), err


def test_the_input_shape_is_that_of_the_strategy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    code, told, _ = run(capsys, "plan", "--method", "offload", "--out", str(out), "--json")
    assert (code, Strategy.load(out).model.input_shape) == (0, (1, 3, 64, 64))
    with pytest.raises(SystemExit):  # the file says the shape; none is given here
        run_command("distredge.cli.simulate:simulate", "simulate", [str(out), "--cluster", "db-50", "--json"])
    simulated = json.loads(capsys.readouterr().out)
    assert simulated["latency_s"] == pytest.approx(json.loads(told)["simulated"]["latency_s"])


def test_says_which_methods_do_not_apply_and_which_were_cut_short(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    alone = tmp_path / "alone.toml"
    alone.write_text(
        'format = "distredge.cluster/1"\nname = "alone"\n[[device]]\nname = "x"\nprofile = "default:nano"\n'
        "link = { rate_bps = 50e6 }\n"
    )
    arguments = ("--cluster", str(alone), "--methods", "halp,distredge,dpfp", "--evaluations", "10")
    code, out, _ = run(capsys, "compare", *arguments)
    assert code == 0
    for method in ("halp", "distredge"):
        assert f"{method} does not apply: {method}: " in out
    assert out.count("offload and auto work with one") == 2
    code, out, _ = run(capsys, "compare", "--methods", "halp", "--evaluations", "10")
    assert code == 0
    assert "halp was cut short: the budget ended" in out


def test_the_table_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "a-strategy-with-a-long-name.json"
    run(capsys, "plan", "--method", "offload", "--out", str(out))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, table, _ = run(capsys, "compare", "--methods", "deeperthings", "--strategy", str(out), "--evaluations", "10")
    assert code == 0
    for word in ("latency", "offload", "volumes", "planning", "deeperthings"):
        assert word in table.split("lower bound")[0]


class _Terminal(io.StringIO):
    """A terminal of unknown width."""

    def isatty(self) -> bool:
        return True


def test_the_progress_line_is_written_over_and_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    line = ProgressLine("fastest")
    line(PlanningProgress("search" * 20, 0.1, 1, 0.5, 0.1))
    line(PlanningProgress("search", 0.1, 2, 0.5, 0.1))
    line.clear()
    _, long, short, blank, end = terminal.getvalue().split("\r")
    assert (len(long), blank.strip(), end) == (79, "", "")
    assert short.rstrip() == "search: 0.5 s, 2 strategies, fastest 100.00 ms, 10.00 IPS (simulated)"
    assert len(short) == len(long)


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLine()(PlanningProgress("search", 0.1, 1, 0.5, 0.1))
    assert capsys.readouterr() == ("", "")


def test_a_strategy_is_compared_under_its_own_options_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    run(capsys, "plan", "--method", "offload", "--out", str(out))
    arguments = ("--methods", "offload", "--strategy", str(out))
    code, _, err = run(capsys, "compare", *arguments, "--input-dtype", "float32")
    assert (code, f"{out}: was planned with uint8 input; give --input-dtype uint8" in err) == (2, True)
    code, _, err = run(capsys, "compare", *arguments, "--as-published")
    assert (code, f"{out}: was planned with uint8 input; leave --as-published away" in err) == (2, True)
    in_files = Strategy.load(out).replace(input=InputSpec("jpeg", 50_000, 300_000))
    in_files.save(tmp_path / "files.json")
    code, _, err = run(capsys, "compare", "--methods", "offload", "--strategy", str(tmp_path / "files.json"))
    assert (code, "files.json: sends pictures in their files" in err) == (2, True)
    code, told, _ = run(capsys, "compare", *arguments, "--json")
    assert (code, [row["speedup_over_offload"] for row in json.loads(told)["methods"]]) == (0, [1.0, 1.0])


@pytest.mark.parametrize("links", ["independent", "shared"])
def test_a_simulation_is_compared_with_one_device_under_the_same_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, links: str
) -> None:
    out = tmp_path / "s.json"
    run(capsys, "plan", "--method", "modnn", "--input-dtype", "uint8", "--link-model", links, "--out", str(out))
    with pytest.raises(SystemExit):
        run_command(
            "distredge.cli.simulate:simulate",
            "simulate",
            [str(out), "--cluster", "db-50", "--link-model", links, "--json"],
        )
    told = json.loads(capsys.readouterr().out)
    predicted = Strategy.load(out).predicted
    assert told["latency_s"] == pytest.approx(predicted["latency_s"])
    assert told["offload_latency_s"] == pytest.approx(predicted["offload_latency_s"])


def test_packed_strategies_are_compared_under_shared_links(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    run(capsys, "plan", "--method", "modnn", "--out", str(out))
    strategy = Strategy.load(out)
    packed = [dataclasses.replace(volume, wire="float32-packed") for volume in strategy.volumes]
    strategy.replace(volumes=tuple(packed)).save(out)
    arguments = ("--methods", "offload", "--strategy", str(out))
    code, _, err = run(capsys, "compare", *arguments, "--link-model", "independent")
    assert (code, "float32-packed between volumes; give --link-model shared" in err) == (2, True)
    code, table, _ = run(capsys, "compare", *arguments, "--link-model", "shared")
    assert code == 0
    assert "lossy" not in table


def test_lossy_strategies_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    run(capsys, "plan", "--method", "modnn", "--out", str(out))
    strategy = Strategy.load(out)
    wired = [dataclasses.replace(volume, wire="float16") for volume in strategy.volumes]
    strategy.replace(volumes=tuple(wired)).save(out)
    arguments = ("--methods", "offload", "--strategy", str(out))
    code, _, err = run(capsys, "compare", *arguments)
    assert (code, "float16 between volumes; give --allow-lossy" in err) == (2, True)
    code, table, _ = run(capsys, "compare", *arguments, "--allow-lossy")
    assert code == 0
    assert "lossy, rows travel in less than float32: modnn (s.json)\n" in table


def test_all_that_leaves_the_output_unchanged_is_used_unless_the_papers_regime_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "s.json"
    arguments = ("plan", "--method", "modnn", "--evaluations", "300", "--json", "--out", str(out))
    code, said, err = run(capsys, *arguments)
    free, used = json.loads(said), Strategy.load(out)
    assert (code, err) == (0, f"{INDEPENDENT}\n")
    assert (free["link_model"], free["assumption"]) == ("independent", INDEPENDENT)
    assert (free["options"]["regime"], free["options"]["wires"], free["lossless"]) == ("lossless", ["float32"], True)
    assert used.input.dtype == "uint8"
    assert any(volume.boundary_first for volume in used.volumes)
    code, said, _ = run(capsys, *arguments, "--as-published")
    papers, used = json.loads(said), Strategy.load(out)
    assert (code, papers["options"]) == (
        0,
        {
            "regime": "as published",
            "input_dtypes": ["float32"],
            "wires": ["float32"],
            "boundary_first": False,
            "free_order": False,
        },
    )
    assert used.input.dtype == "float32"
    assert not any(volume.boundary_first for volume in used.volumes)
    assert free["simulated"]["latency_s"] < papers["simulated"]["latency_s"]


def test_the_table_says_the_regime_and_shared_links_need_no_note(capsys: pytest.CaptureFixture[str]) -> None:
    code, table, err = run(capsys, "compare", "--methods", "modnn", "--evaluations", "10", "--link-model", "shared")
    assert (code, err) == (0, "")
    assert "simulated, lossless, shared links" in " ".join(table.split())
    assert "every method: uint8 input, float32" in table
    code, table, err = run(capsys, "compare", "--methods", "modnn", "--evaluations", "10", "--as-published")
    assert (code, err) == (0, f"{INDEPENDENT}\n")
    assert "simulated, as published, independent links" in " ".join(table.split())
    assert "devices in the cluster's order" in table


@pytest.mark.parametrize("other", [("--allow-lossy",), ("--input-dtype", "uint8")])
def test_the_papers_regime_is_float32(capsys: pytest.CaptureFixture[str], other: tuple[str, ...]) -> None:
    code, _, err = run(capsys, "compare", "--as-published", *other)
    assert (code, f"--as-published means float32: leave {' '.join(other)} away" in err) == (2, True)


def test_pixels_cannot_be_asked_of_a_model_that_does_not_say_how_to_take_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    onnx.save(small_cnn(), str(tmp_path / "small.onnx"))
    with pytest.raises(SystemExit) as ended:
        run_command(
            "distredge.cli.plan:plan", "distredge plan",
            ["--model", str(tmp_path / "small.onnx"), "--cluster", "db-50", "--input-dtype", "uint8"],
        )  # fmt: skip
    assert (ended.value.code, "does not say how pixels become its input" in capsys.readouterr().err) == (2, True)
