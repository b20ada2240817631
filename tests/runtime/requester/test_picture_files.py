"""Pictures that travel in their JPEG files: devices decode them, and what cannot be decoded fails by name."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distredge.errors import EngineError, ExecutionError, MediaError
from distredge.media import jpeg
from distredge.media.images import read_image
from distredge.media.pictures import Picture, read_picture
from distredge.model.graph import Graph
from distredge.model.preprocess import LARGER_FILES
from distredge.runtime import picture_files
from distredge.runtime.deployment import Deployment, deploy
from distredge.runtime.in_process import run_in_process
from distredge.runtime.picture_files import FileInputs
from distredge.runtime.requester import picture_frames
from distredge.runtime.requester.async_coordinator import AsyncCoordinator
from distredge.runtime.requester.coordinator import Coordinator
from distredge.runtime.requester.picture_frames import inputs_of, picture_inputs
from distredge.runtime.worker import control_plane
from distredge.strategy import InputSpec, Strategy
from tests.runtime.conftest import DEVICES, Cell
from tests.runtime.photographs import (
    KEPT,
    as_jpeg,
    check,
    expected,
    photograph,
    sends_files,
    takes_photographs,
    write_files,
)
from tests.runtime.requester.conftest import equal


@pytest.fixture(scope="module")
def graph() -> Graph:
    return takes_photographs()


@pytest.fixture(scope="module")
def strategy(graph: Graph) -> Strategy:
    return sends_files(graph)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_files(tmp_path)


DECODED_HERE = {"other.png", "large.jpg"}


def sent_files(coordinator: Coordinator) -> set[int]:
    """Sizes of what the requester has sent."""
    return {r.size_bytes for r in coordinator._runner.plans.active.records if r.kind == "send"}


def test_a_mixed_stream(running, files, graph, strategy) -> None:
    check(list(running.stream_images(files)), files, graph, strategy)
    sizes = sent_files(running)
    assert {path.stat().st_size for path in files[:4:2]} <= sizes
    assert files[4].stat().st_size not in sizes


def test_a_mixed_stream_with_asyncio(running, files, graph, strategy) -> None:
    async def main() -> list:
        async with AsyncCoordinator(running) as coordinator:
            return [one async for one in coordinator.stream_images(files)]

    check(asyncio.run(asyncio.wait_for(main(), 60)), files, graph, strategy)


def test_nothing_is_decoded_here_unless_it_must_be(running, files, monkeypatch) -> None:
    decoded = []
    as_it_is = jpeg.JpegFile.pixels

    def counted(self: jpeg.JpegFile) -> Any:
        decoded.append(self.name)
        return as_it_is(self)

    monkeypatch.setattr(jpeg.JpegFile, "pixels", counted)
    found = list(running.stream_images(files, keep_pixels=True))
    assert decoded == []
    assert [one.picture.pixels is None for one in found] == [path.name not in DECODED_HERE for path in files]
    assert found[0].picture.taken().shape == (200, 150, 3)


def test_what_a_whole_model_gives(running, files, graph) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.proto.SerializeToString())
    for path in files[:3]:
        (one,) = running.stream_images([path])
        (whole,) = session.run(None, {"image": graph.preprocess.normalise(one.inputs["image"])})
        assert np.abs(one.result()["scores"] - whole).max() <= 1e-5 * np.abs(whole).max()


def test_arrays_and_pictures_run_as_well(running, graph, strategy) -> None:
    pixels = np.asarray(photograph(100, 90))
    (one,) = running.stream_images([Picture("array", pixels)])
    inputs = inputs_of(graph, strategy, pixels)
    assert equal(one.result(), running.infer(inputs))


def test_one_process_runs_them(files, graph, strategy) -> None:
    deployment = deploy(graph, strategy)
    for path in (files[0], files[2], files[4], files[5]):
        inputs = picture_inputs(deployment, read_picture(path, keep_files=KEPT))
        assert isinstance(inputs, FileInputs)
        assert equal(run_in_process(graph, strategy, inputs), expected(graph, strategy, path))


def with_size(content: bytes, height: int, width: int) -> bytes:
    """The same file, whose header says another size."""
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


@pytest.mark.parametrize(("side", "said"), [(3000, "found 3000 x 3000 pixels"), (30_000, "900000000 pixels")])
def test_a_header_that_announces_too_much_is_refused_before_decoding(running, monkeypatch, side, said) -> None:
    bomb = jpeg.JpegFile("bomb.jpg", with_size(as_jpeg(), side, side), (200, 150))
    loaded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: loaded.append(self.size))
    (one,) = running.stream_images([Picture("bomb.jpg", None, file=bomb)])
    assert isinstance(one.error, ExecutionError)
    assert said in str(one.error)
    assert "accepted: at most 60000" in str(one.error)
    assert not loaded
    monkeypatch.undo()
    (after,) = running.stream_images([Picture("good", np.zeros((50, 50, 3), np.uint8))])
    assert after.error is None


def test_a_worker_without_pillow_is_refused_by_name(cell: Cell, graph, strategy, monkeypatch) -> None:
    cell.start("alpha")
    cell.start("gamma")
    monkeypatch.setattr(control_plane, "pillow_version", lambda: "")
    cell.start("beta")
    coordinator = cell.coordinator()
    with pytest.raises(ExecutionError, match=r"worker 'beta' cannot decode JPEG files.*pip install pillow"):
        coordinator.deploy(deploy(graph, strategy))
    coordinator.deploy(deploy(graph, strategy.replace(input=InputSpec("uint8"))))
    assert [coordinator.decodes_files(name) for name in DEVICES] == [True, False, True]


def test_a_worker_that_decodes_otherwise_is_refused(cell: Cell, graph, strategy, monkeypatch) -> None:
    for name in DEVICES:
        cell.start(name)
    monkeypatch.setattr(picture_files, "decoder_mark", lambda: "another")
    with pytest.raises(EngineError, match="decodes JPEG pictures otherwise than the requester's"):
        cell.coordinator().deploy(deploy(graph, strategy))


def test_a_damaged_picture_that_is_decoded_here_fails_in_its_place(running, tmp_path) -> None:
    torn, good = tmp_path / "torn.jpg", tmp_path / "good.jpg"
    torn.write_bytes(as_jpeg(400, 500, quality=97)[:-9000])
    good.write_bytes(as_jpeg())
    found = list(running.stream_images([torn, good]))
    assert isinstance(found[0].error, MediaError)
    assert "torn.jpg: a damaged image" in str(found[0].error)
    assert found[1].error is None


def test_other_strategies_decode_files_here(files, graph, strategy) -> None:
    plain = deploy(graph, strategy.replace(input=InputSpec("uint8")))
    file = read_picture(files[0], keep_files=KEPT).file
    given = FileInputs("image", file, graph.preprocess)
    found = plain.check_inputs(given)
    assert isinstance(found, dict)
    assert np.array_equal(found["image"], graph.preprocess.prepare(read_image(files[0])))


def test_a_strategy_of_floats_normalises_what_is_in_a_file(files, graph, strategy) -> None:
    floats = deploy(graph, strategy.replace(input=InputSpec()))
    file = read_picture(files[0], keep_files=KEPT).file
    found = floats.check_inputs(FileInputs("image", file, graph.preprocess))
    expected = inputs_of(graph, floats.strategy, read_image(files[0]))
    assert np.array_equal(found["image"], expected["image"])


def test_a_stream_reads_files_that_may_travel_and_decodes_others(running, tmp_path, monkeypatch) -> None:
    small, large = tmp_path / "small.jpg", tmp_path / "large.jpg"
    small.write_bytes(as_jpeg())
    large.write_bytes(as_jpeg(400, 500, quality=97))
    limits = running.deployment.file_limits
    assert limits == jpeg.FileLimits(3 * 161 * 121 - 1, LARGER_FILES * 30_000)
    seen = []
    as_it_is = picture_frames.picture_inputs
    monkeypatch.setattr(
        picture_frames, "picture_inputs", lambda on, one: seen.append(one.file is not None) or as_it_is(on, one)
    )
    assert [one.error for one in running.stream_images([small, large])] == [None, None]
    assert seen == [True, False]


def test_files_with_many_pixels_are_rows(graph, strategy) -> None:
    deployment: Deployment = deploy(graph, strategy)
    most = LARGER_FILES * strategy.input.file_pixels
    message = deployment.input_messages[0]
    assert deployment.takes_file(message, jpeg.JpegFile("a", bytes(100), (1, most)))
    assert not deployment.takes_file(message, jpeg.JpegFile("a", bytes(100), (1, most + 1)))
    assert not deployment.takes_file(message, jpeg.JpegFile("a", bytes(message.size_bytes), (1, 1)))


def test_a_file_is_decoded_once_for_all_stages_that_read_it(graph, strategy, monkeypatch) -> None:
    deployment = deploy(graph, strategy)
    counted = []
    as_it_is = picture_files.decode_jpeg
    monkeypatch.setattr(picture_files, "decode_jpeg", lambda *a: counted.append(a) or as_it_is(*a))
    for again, times in ((False, 3), (True, 2)):
        counted.clear()
        decoder = picture_files.PictureDecoder(deployment.picture, again)
        first = decoder.rows(as_jpeg())
        assert np.array_equal(first, decoder.rows(memoryview(as_jpeg())))
        assert not np.array_equal(first, decoder.rows(as_jpeg(seed=9)))
        assert len(counted) == times


def test_what_pillow_does_not_take_is_the_pictures_error(graph, strategy, monkeypatch) -> None:
    decoder = picture_files.PictureDecoder(deploy(graph, strategy).picture, again=False)

    def refuses(*_: object) -> None:
        raise ValueError("box can't exceed original image size")

    monkeypatch.setattr("distredge.model.preprocess.Preprocess.prepare", refuses)
    with pytest.raises(MediaError, match=r"cannot become \(1, 3, 161, 121\): box"):
        decoder.rows(as_jpeg())
