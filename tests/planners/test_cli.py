from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distredge.cli._front import left_over
from distredge.cli.main import distredge
from distredge.strategy import Strategy

PLAN = [sys.executable, "-m", "distredge", "plan", "--model", "vgg16", "--cluster", "db-50"]


def _distredge(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distredge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_plan_writes_the_strategy_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    done = _distredge("plan", "--model", "vgg16", "--cluster", "db-50", "--evaluations", "30", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stdout
    strategy = Strategy.load(out)
    assert strategy.predicted["latency_s"] <= strategy.predicted["offload_latency_s"]
    again = tmp_path / "t.json"
    _distredge("plan", "--model", "vgg16", "--cluster", "db-50", "--evaluations", "30", "--out", str(again))
    assert again.read_bytes() == out.read_bytes()


def test_plan_warns_of_a_strategy_slower_than_the_best_single_device(tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    arguments = ("--model", "vgg16", "--cluster", "dc-50", "--method", "deepthings", "--out", str(out))
    done = _distredge("plan", *arguments)
    assert done.returncode == 0, done.stderr
    assert "slower than the best single device" in done.stderr
    told = json.loads(_distredge("plan", *arguments, "--json").stdout)
    assert told["slower_than_offload"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--method", "serch"), "did you mean 'search'"),
        (("--budget", "0"), "budget"),
        (("--budget", "nan"), "budget"),
        (("--latency-limit-ms", "0"), "latency-limit-ms"),
        (("--latency-limit-ms", "0.001", "--evaluations", "500"), "closest"),
        (("--objective", "speed"), "throughput"),
        (("--pareto", "--method", "aofl"), "search"),
        (("--plot", "front.png"), "--pareto"),
        (("--pareto", "--plot", "{absent}/front.png"), "{absent}/front.png"),
        (("--evaluations", "0"), "budget"),
        (("--out", "{absent}/s.json", "--method", "offload"), "{absent}/s.json"),
    ],
)
def test_plan_refuses_bad_input(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    given = [argument.format(absent=absent) for argument in arguments]
    done = _distredge("plan", "--model", "vgg16", "--cluster", "db-50", *given)
    assert done.returncode == 2
    assert expected.format(absent=absent) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_front_is_printed_drawn_and_saved(tmp_path: Path) -> None:
    folder, chart = tmp_path / "front", tmp_path / "front.png"
    done = _distredge(
        *("plan", "--model", "squeezenet1.1", "--cluster", "na-nano", "--evaluations", "120", "--pareto"),
        *("--out", str(folder), "--plot", str(chart)),
    )
    assert done.returncode == 0, done.stderr
    assert "IPS, many in flight" in done.stdout
    assert chart.read_bytes().startswith(b"\x89PNG")
    strategies = [Strategy.load(path) for path in sorted(folder.iterdir())]
    assert strategies
    assert all(path.name in done.stdout for path in folder.iterdir())


def test_plan_for_throughput_is_not_warned_of(tmp_path: Path) -> None:
    done = _distredge(
        *("plan", "--model", "squeezenet1.1", "--cluster", "na-nano", "--evaluations", "100", "--json"),
        *("--objective", "throughput", "--out", str(tmp_path / "s.json")),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "between images" in told["settings"]["reason"]
    assert told["objective"] == "throughput"
    assert told["simulated"]["throughput_per_s"] > 1 / told["simulated"]["latency_s"]
    assert told["simulated"]["energy_j"] > 0


def test_interrupted_plan_writes_the_best_so_far(tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    leader, follower = pty.openpty()
    process = subprocess.Popen([*PLAN, "--budget", "600", "--out", str(out)], stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        # The progress line appears once something was found: only then is there a best so far.
        stop_at = time.monotonic() + 100
        while b"best " not in shown and time.monotonic() < stop_at:
            shown += os.read(leader, 1024)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert b"IPS" in shown
    assert process.returncode == 130
    assert Strategy.load(out).predicted["latency_s"] > 0


def test_compare_prints_every_method_and_draws_a_chart(tmp_path: Path) -> None:
    chart = tmp_path / "c.png"
    arguments = (
        "compare",
        "--model",
        "vgg16",
        "--cluster",
        "db-50",
        "--methods",
        "deepthings,search",
        "--evaluations",
        "20",
    )
    done = _distredge(*arguments, "--plot", str(chart), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["simulated"] is True
    assert [row["method"] for row in told["methods"]] == ["offload", "deepthings", "search"]
    assert told["methods"][0]["speedup_over_offload"] == 1.0
    assert chart.read_bytes().startswith(b"\x89PNG")
    table = _distredge(*arguments)
    assert "simulated" in table.stdout


@pytest.mark.parametrize("name", ["plan", "compare"])
def test_options_are_described(name: str) -> None:
    command = distredge.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert all(getattr(option, "help", "x") for option in command.params)


def test_strategies_of_an_earlier_front_are_named(tmp_path: Path) -> None:
    for name in ("01.json", "02.json", "03.json", "notes.json"):
        (tmp_path / name).write_text("{}")
    assert left_over(str(tmp_path), [str(tmp_path / "01.json")]) == ["02.json", "03.json"]
    assert left_over(str(tmp_path), [str(tmp_path / f"0{k}.json") for k in (1, 2, 3)]) == []
