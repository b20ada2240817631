"""The commands beside `deploy-strategy`: probing, a first cluster file, the doctor."""

from __future__ import annotations

import importlib
import json
import platform
import re
import sys
from pathlib import Path

import pytest

from distredge.cli import _doctor_here, worker
from distredge.cli._common import load_object
from distredge.runtime.provider_options import PROVIDERS
from tests.runtime.commands.conftest import Done, distredge
from tests.runtime.conftest import DEVICES


def test_probing_this_machine(folder: Path) -> None:
    done = distredge(folder, "probe", "--cluster", "local.toml", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    links = [line for line in done.stdout.splitlines() if ": round trip " in line]
    assert len(links) == 2 * len(DEVICES)
    assert f"at the same time ({len(DEVICES) + 1} flows" in done.stdout
    assert "the medium is " in done.stdout
    assert "encryption: " in done.stdout
    for name in DEVICES:
        pasted = re.search(rf"for {name} in the cluster file, in place of its link:\n(.+)\n(.+)\n", done.stdout)
        assert pasted is not None
        for way, line in zip(("uplink", "downlink"), pasted.groups(), strict=True):
            assert re.fullmatch(rf" +{way} = {{ rate_bps = (\S+|\"unbounded\"), rtt_s = \S+ }}", line)


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
    assert (made.link_model, dict(made.hosts), made.requester.host) == ("shared", {}, None)
    assert distredge(folder, "cluster", "init", "new.toml", "--device", "a=b").returncode == 2
    wrong = distredge(folder, "cluster", "init", "other.toml", "--device", "a=1.2.3.4,default:abacus")
    assert wrong.returncode == 2
    assert not (folder / "other.toml").exists()


def test_a_cluster_file_names_the_computers_that_several_workers_are_on(folder: Path) -> None:
    from distredge.cluster import load_cluster
    from distredge.processors import usable_cores

    given = ("a=127.0.0.1:6000", "b=10.0.0.2", "c=10.0.0.3:6000", "d=10.0.0.3:6100")
    done = distredge(folder, "cluster", "init", "hosts.toml", *(part for one in given for part in ("--device", one)))
    assert done.returncode == 0, done.stderr
    made = load_cluster(folder / "hosts.toml")
    assert [d.host for d in made.devices] == ["this-machine", None, "host-1", "host-1"]
    assert made.requester.host == "this-machine"
    assert made.hosts == {"this-machine": usable_cores(), "host-1": 4}


def test_workers_of_one_computer_get_ports_of_their_own(folder: Path) -> None:
    from distredge.cluster import load_cluster
    from distredge.runtime.hosting.boards import check_addresses

    given = ("a=127.0.0.1", "b=localhost", "c=10.0.0.3:6000", "d=10.0.0.3", "e=10.0.0.4,nano")
    told = [part for one in given for part in ("--device", one)]
    done = distredge(folder, "cluster", "init", "hosts.toml", *told, "--json")
    assert json.loads(done.stdout) == {"cluster": "hosts", "file": "hosts.toml", "devices": list("abcde")}
    made = load_cluster(folder / "hosts.toml")
    check_addresses(made)
    ports = [(d.control_port, d.data_port) for d in made.devices]
    assert ports == [(5700, 5701), (5702, 5703), (6000, 5701), (5700, 5702), (5700, 5701)]
    # What the profiles were measured, or modelled, with.
    assert [d.threads for d in made.devices] == [4, 4, 4, 4, 1]
    collide = distredge(
        folder, "cluster", "init", "no.toml", "--device", "a=1.2.3.4:6000", "--device", "b=1.2.3.4:6000"
    )
    assert (collide.returncode, (folder / "no.toml").exists()) == (2, False)
    assert "have no addresses of their own" in collide.stderr


def test_results_of_every_kind_are_written_for_machines(folder: Path) -> None:
    for_people, for_machines = (distredge(folder, "schema", "cluster", *more) for more in ((), ("--json",)))
    assert json.loads(for_people.stdout) == json.loads(for_machines.stdout)
    assert (for_people.stdout.count("\n") > 1, for_machines.stdout.count("\n")) == (True, 1)
    told = ("profile", "plot", "nano", "--model", "small.onnx", "--out", "p.png", "--json")
    drawn = json.loads(distredge(folder, *told).stdout)
    assert (drawn["file"], drawn["operators"] > 5) == ("p.png", True)


def test_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes longer than everything else together: that it is asked for must do here.
    warmed: list[str] = []
    for name in ("distredge.latency.kernel.kernel", "distredge.planners.search"):
        monkeypatch.setattr(importlib.import_module(name), "warm", lambda name=name: warmed.append(name))
    findings = _findings(distredge(tmp_path, "doctor", "--json"), 0)
    for what in ("python", "onnxruntime", "encryption", "engine", "worker", "interfaces", "machine", "planning"):
        assert findings[what]["state"] == "ok", findings[what]
    assert re.match(r"a worker answers in \d+\.\d+ ms, takes rows at .*, encrypted$", findings["worker"]["detail"])
    assert "CPUExecutionProvider" in findings["engine"]["detail"]
    assert warmed == ["distredge.latency.kernel.kernel", "distredge.planners.search"]


def test_the_doctor_says_what_is_missing_and_what_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distredge.latency.kernel.kernel", None)
    monkeypatch.setitem(_doctor_here._CHECKS, "machine", lambda: 1 / 0)
    done = distredge(tmp_path, "doctor", "--json")
    findings = _findings(done, 1)
    assert findings["planning"]["state"] == "missing"
    assert findings["planning"]["detail"].startswith("no compiled latency kernel, plans are slower: ")
    assert findings["machine"] == {"what": "machine", "state": "bad", "detail": "ZeroDivisionError: division by zero"}
    for_people = distredge(tmp_path, "doctor")
    assert for_people.returncode == 1
    assert "bad      machine          ZeroDivisionError: division by zero" in for_people.stdout.splitlines()


def test_the_doctor_of_a_board_whose_engine_runs_under_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distredge.latency.kernel.kernel", None)
    # There this Python has no ONNX Runtime.
    known = _doctor_here._version
    monkeypatch.setattr(_doctor_here, "_version", lambda name: None if "onnxruntime" in name else known(name))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    findings = _findings(distredge(tmp_path, "doctor", "--json"), 1)
    assert findings["onnxruntime"]["state"] == "bad"
    assert "--engine-python PATH" in findings["onnxruntime"]["detail"]
    assert findings["engine"]["state"] == "bad"
    findings = _findings(distredge(tmp_path, "doctor", "--json", "--engine-python", sys.executable), 0)
    assert findings["onnxruntime"]["state"] == "missing"
    engine = rf"onnxruntime [\d.]+ \(Python {re.escape(platform.python_version())}\), numpy [\d.]+"
    detail = findings["engine"]["detail"]
    assert re.match(f"{engine}: .*CPUExecutionProvider.*; computes with CPUExecutionProvider$", detail)
    assert findings["worker"]["state"] == "ok"
    told = ("doctor", "--json", "--engine-python", sys.executable, "--provider", "cuda")
    findings = _findings(distredge(tmp_path, *told), 1)
    for what in ("engine", "worker"):
        assert "it has no CUDAExecutionProvider" in findings[what]["detail"]
    refused = distredge(tmp_path, "doctor", "--cluster", "c.toml", "--engine-python", "python3.6")
    assert (refused.returncode, "boards' stand in the cluster file" in refused.stderr) == (2, True)


def _findings(done: Done, code: int) -> dict[str, dict[str, str]]:
    assert done.returncode == code, done.stderr
    return {found["what"]: found for found in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("name", ["worker", "keys", "cluster", "probe", "doctor", "deploy_strategy"])
def test_options_are_explained(name: str) -> None:
    command = load_object(f"distredge.cli.{name}:{name}")
    for one in [command, *getattr(command, "commands", {}).values()]:
        for option in one.params:
            assert option.param_type_name == "argument" or option.help, f"{one.name} {option.name}"


def test_the_providers_on_offer_are_the_engines() -> None:
    assert tuple(PROVIDERS) == worker.PROVIDERS


def test_without_a_home_a_worker_keeps_nothing(monkeypatch) -> None:
    """What else would be found, such as /dev/shm, may be memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    monkeypatch.setattr("distredge.folders.home", lambda: None)
    assert worker._own_cache() == Path("/given/distredge")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert worker._own_cache() is None
    monkeypatch.setattr("distredge.folders.home", lambda: Path("/home/ada"))
    assert worker._own_cache() == Path("/home/ada/.cache/distredge")
