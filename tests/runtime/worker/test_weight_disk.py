"""Constants on disk: what is read is what was written or nothing, within the bound, for several workers at once."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from distredge.errors import FileError
from distredge.runtime.buffers import allocate
from distredge.runtime.deployment import deploy
from distredge.runtime.engine import OnnxRuntimeEngine
from distredge.runtime.hosting.worker_process import START_S, WorkerProcess, local_order
from distredge.runtime.protocol import messages as m
from distredge.runtime.protocol.addresses import WorkerAddress
from distredge.runtime.protocol.in_process_transport import InProcessNetwork
from distredge.runtime.protocol.prepare_parts import prepare_parts
from distredge.runtime.protocol.transport import ZmqNetwork
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.weights import begin_digest, weight_messages
from distredge.runtime.worker import weight_disk as module
from distredge.runtime.worker.memory_account import arrays_bytes
from distredge.runtime.worker.settings import WorkerSettings
from distredge.runtime.worker.weight_disk import WeightDisk
from distredge.runtime.worker.worker import Worker
from tests.runtime.conftest import Cell, make_strategy

LIMIT_S = 30.0


def _constant(seed: int, *shape: int) -> tuple[str, np.ndarray]:
    array = np.random.default_rng(seed).standard_normal(shape or (10, 25)).astype(np.float32)
    digester = begin_digest("float32", array.shape)
    digester.update(array.tobytes())
    return digester.hexdigest(), array


def _write(disk: WeightDisk, *seeds: int) -> list[str]:
    digests = []
    for seed in seeds:
        digest, array = _constant(seed)
        disk.write(digest, array, lambda: True)
        digests.append(digest)
    return digests


def _read(disk: WeightDisk, digest: str) -> np.ndarray | None:
    form = disk.form(digest)
    if form is None:
        return None
    into = allocate(form.shape, form.dtype)
    return into if disk.read(digest, into, lambda: True) else None


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (1, 1)])
def test_what_is_read_is_what_was_written(tmp_path: Path, monkeypatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 16)
    digest, array = _constant(0, *shape)
    folder = tmp_path / "new" / "weights"
    WeightDisk(folder, 10_000).write(digest, array, lambda: True)
    assert (folder.stat().st_mode & 0o777, (folder / digest).stat().st_mode & 0o777) == (0o700, 0o600)
    found = _read(WeightDisk(folder, 10_000), digest)
    np.testing.assert_array_equal(found, array)
    assert os.listdir(folder) == [digest]


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"",
        lambda content: b"\xff" * len(content),
        lambda content: content.replace(b"[10,25]", b"[25,10]"),
        lambda content: content.replace(b"[10,25]", b"[1073741824,1073741824]"),
        lambda content: content.replace(b"float32", b"float31"),
    ],
)
def test_a_damaged_constant_is_dropped(tmp_path: Path, damage) -> None:
    disk = WeightDisk(tmp_path, 10_000)
    (digest,) = _write(disk, 0)
    path = tmp_path / digest
    path.write_bytes(damage(path.read_bytes()))
    assert _read(disk, digest) is None
    assert not path.exists()
    _write(disk, 0)
    assert _read(disk, digest) is not None


def test_what_is_no_file_in_its_place_is_no_constant(tmp_path: Path) -> None:
    disk = WeightDisk(tmp_path, 10_000)
    (digest,) = _write(disk, 0)
    secret = tmp_path / "secret"
    os.rename(tmp_path / digest, secret)
    os.symlink(secret, tmp_path / digest)
    assert _read(disk, digest) is None
    assert secret.exists()
    os.mkfifo(tmp_path / digest)
    assert _read(disk, digest) is None, "nor does it wait for a writer"


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    disk = WeightDisk(tmp_path, 3300)
    (tmp_path / "notes.txt").write_text("x" * 5000)
    first, second, third = _write(disk, 0, 1, 2)
    for age_s, digest in ((30, first), (20, second), (10, third)):
        os.utime(tmp_path / digest, (time.time() - age_s,) * 2)
    assert _read(disk, first) is not None
    (fourth,) = _write(disk, 3)
    assert [disk.form(digest) is not None for digest in (first, second, third, fourth)] == [True, False, True, True]
    large, array = _constant(4, 1000)
    disk.write(large, array, lambda: True)
    assert disk.form(large) is None, "larger than all may be"
    assert disk.form(fourth) is not None
    assert (tmp_path / "notes.txt").exists()


def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    disk = WeightDisk(tmp_path, 10_000)
    (kept,) = _write(disk, 0)

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING):
        _write(disk, 1, 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: constants are kept in memory alone from now on: No space left on device"
    ]
    assert os.listdir(tmp_path) == [kept], "nothing half done is left"
    assert _read(disk, kept) is not None


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="no folder to keep constants in: Not a directory"):
        WeightDisk(tmp_path / "file" / "weights", 10_000, required=True)
    disk = WeightDisk(tmp_path / "file" / "weights", 10_000)
    assert "kept in memory alone" in caplog.text
    (digest,) = _write(disk, 0)
    assert disk.form(digest) is None


def test_what_a_killed_worker_left_is_swept(tmp_path: Path) -> None:
    for name, age_s in (("old.part", 2 * 86400), ("new.part", 10)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    WeightDisk(tmp_path, 10_000)
    assert os.listdir(tmp_path) == ["new.part"]


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.runtime.worker.test_weight_disk import _read, _write
from distredge.runtime.worker.weight_disk import WeightDisk
disk = WeightDisk(Path(sys.argv[1]), 6000)
for turn in range(10):
    for digest in _write(disk, *range(8)):
        _read(disk, digest)
"""


def test_several_workers_share_a_folder(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", _WRITER, str(tmp_path), root]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert "memory alone" not in errors
    disk = WeightDisk(tmp_path, 6000)
    assert os.listdir(tmp_path)
    assert all(_read(disk, digest) is not None for digest in os.listdir(tmp_path))


# In a worker.


def _wait_for(condition) -> None:
    until_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)


def _worker(cell: Cell, folder: Path, memory_bytes: int | None = None) -> None:
    """Starts worker alpha with that folder."""
    settings = WorkerSettings(
        "alpha", "memory://alpha:1", "memory://alpha:2", memory_bytes, disk=WeightDisk(folder, 10_000_000)
    )
    worker = Worker(settings, InProcessNetwork(cell.exchange, "alpha"), OnnxRuntimeEngine())
    thread = threading.Thread(target=worker.run, name="worker-alpha")
    thread.start()
    cell.workers["alpha"], cell.threads["alpha"] = worker, thread


@pytest.fixture
def alone(graph):
    """Everything on one worker, whose name is alpha."""
    return deploy(graph, make_strategy(graph, [(1,)], head="alpha"))


def test_a_worker_that_was_started_again_asks_for_nothing(
    cell: Cell, tmp_path: Path, alone, image, whole_model
) -> None:
    weights_bytes = sum(array.nbytes for array in alone.weights(0).values())
    sent_bytes = []
    for _ in range(2):
        _worker(cell, tmp_path)
        with cell.coordinator(["alpha"]) as coordinator:
            coordinator.deploy(alone)
            sent_bytes.append(coordinator.weights_sent_bytes)
            outputs = coordinator.infer(image)
        _wait_for(lambda: len(os.listdir(tmp_path)) == len(alone.weights(0)))
        _wait_for(lambda: not [name for name in os.listdir(tmp_path) if name.endswith(".part")])
        cell.stop("alpha")
    assert sent_bytes == [weights_bytes, 0]
    for name, expected in whole_model(image).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_a_damaged_constant_is_asked_for_again(cell: Cell, speaker, tmp_path: Path, alone) -> None:
    disk = WeightDisk(tmp_path, 10_000_000)
    for digest, array in alone.weights(0).items():
        disk.write(digest, array, lambda: True)
    digest = min(alone.weights(0))
    path = tmp_path / digest
    path.write_bytes(_flip(path.read_bytes()))
    _worker(cell, tmp_path)
    speaker.hello(m.Welcome)
    missing = speaker.prepare(alone.device_plan(0, 1), alone.models(0))
    assert isinstance(missing, m.Missing)
    assert missing.digests == (digest,)
    speaker.send(m.Retire(1))
    assert isinstance(speaker.deploy(alone, 0, 2), m.Ready)
    _wait_for(path.exists)


def test_what_was_not_asked_for_yet_is_dropped(cell: Cell, speaker, tmp_path: Path, alone, monkeypatch) -> None:
    disk, goes_on = WeightDisk(tmp_path, 10_000_000), threading.Event()
    for digest, array in alone.weights(0).items():
        disk.write(digest, array, lambda: True)
    read = WeightDisk.read

    def late(*args) -> bool:
        assert goes_on.wait(LIMIT_S)
        return read(*args)

    monkeypatch.setattr(WeightDisk, "read", late)
    _worker(cell, tmp_path)
    speaker.hello(m.Welcome)
    message, parts = prepare_parts(alone.device_plan(0, 1), alone.models(0))
    speaker.send(message, parts)
    for digest, array in alone.weights(0).items():
        for piece, content in weight_messages(1, digest, array):
            speaker.send(piece, [content])
    about = speaker.ask(m.Ping(1), m.Pong).about
    assert [(state.plan, state.loaded) for state in about.preparing] == [(1, 0)]
    goes_on.set()
    assert speaker.receive(m.Missing).digests == ()
    speaker.receive(m.Ready)


def test_constants_on_disk_count_before_they_are_read(cell: Cell, speaker, tmp_path: Path, alone) -> None:
    disk = WeightDisk(tmp_path, 10_000_000)
    for digest, array in alone.weights(0).items():
        disk.write(digest, array, lambda: True)
    plan = alone.device_plan(0, 1)
    once_bytes = sum(array.nbytes for array in alone.weights(0).values())
    _worker(cell, tmp_path, arrays_bytes(plan) + sum(map(len, alone.models(0))) + once_bytes)
    speaker.hello(m.Welcome)
    failed = speaker.prepare(plan, alone.models(0))
    assert isinstance(failed, m.Failed), "the engine lays them out once more"
    assert (failed.kind, "for constants; the limit is" in failed.reason) == ("memory", True)


def test_a_fresh_process_is_sent_nothing(tmp_path: Path, alone) -> None:
    order = msgspec.structs.replace(local_order("alpha", None), cache=str(tmp_path), cache_bytes=10_000_000)
    sent_bytes = []
    for _ in range(2):
        process = WorkerProcess(order)
        network = ZmqNetwork(None)
        try:
            bound = process.wait_bound(time.monotonic() + START_S)
            with Coordinator(network, [WorkerAddress("alpha", bound.control, bound.data)]) as coordinator:
                coordinator.deploy(alone)
                sent_bytes.append(coordinator.weights_sent_bytes)
            _wait_for(lambda: sum(not n.endswith(".part") for n in os.listdir(tmp_path)) == len(alone.weights(0)))
        finally:
            network.close()
            process.stop()
    assert sent_bytes[0] > 0
    assert sent_bytes[1] == 0
