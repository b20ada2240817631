"""Pictures of a stream: files by folder, pattern and list, frames of a video, and of a camera that does not wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distredge.errors import MediaError, MissingDependency
from distredge.media import video
from distredge.media.picture_source import open_files, open_names
from distredge.media.pictures import Picture, ReadAhead, find_pictures, lines_of, read_picture
from distredge.media.video import Camera, open_video, within


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, a file that is none, and a folder with one more."""
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(("b.png", "a.jpg", "deep/c.png")):
        Image.new("RGB", (4 + number, 3), (255, 0, 0)).save(tmp_path / name)
    (tmp_path / "z.png").write_text("no picture")
    return tmp_path


def test_a_folder_a_pattern_and_a_file(pictures: Path) -> None:
    assert [p.name for p in find_pictures(str(pictures))] == ["a.jpg", "b.png", "z.png"]
    assert [p.name for p in find_pictures(str(pictures / "*.png"))] == ["b.png", "z.png"]
    assert [p.name for p in find_pictures(str(pictures / "**" / "*.png"))] == ["b.png", "c.png", "z.png"]
    assert [p.name for p in find_pictures(str(pictures / "a.jpg"))] == ["a.jpg"]
    (pictures / "[1].png").write_bytes((pictures / "b.png").read_bytes())
    assert [p.name for p in find_pictures(str(pictures / "[1].png"))] == ["[1].png"]


def test_no_picture_is_an_error_before_the_stream(pictures: Path) -> None:
    with pytest.raises(MediaError, match=r"no file fits the pattern"):
        find_pictures(str(pictures / "*.gif"))
    with pytest.raises(MediaError, match=r"no such file or folder"):
        find_pictures(str(pictures / "absent"))


def test_a_picture_that_cannot_be_read_comes_with_its_error(pictures: Path) -> None:
    source = open_files(str(pictures))
    assert (source.count, source.dropped) == (3, 0)
    good, other, bad = source
    source.close()
    assert good.taken().shape == (3, 5, 3)
    assert other.error is bad.pixels is None
    with pytest.raises(MediaError, match=r"z\.png: not an image"):
        bad.taken()
    with pytest.raises(MediaError, match=r"bare: no pixels"):
        Picture("bare", None).taken()
    assert "no such file" in str(read_picture(pictures / "gone.png").error)


def test_reading_ahead_keeps_the_order_and_ends_with_who_takes(pictures: Path) -> None:
    asked: list[str] = []

    def names() -> Iterator[str]:
        for number in range(100):
            asked.append(str(pictures / ("z.png" if number % 3 else "a.jpg")))
            yield asked[-1]

    ahead = ReadAhead(names(), 2)
    source = iter(ahead)
    found = [next(source) for _ in range(10)]
    assert [picture.name for picture in found] == asked[:10]
    assert [picture.error is None for picture in found] == [number % 3 == 0 for number in range(10)]
    assert len(asked) == 12
    # Whoever still iterates, as a stream that is broken off does, keeps no thread.
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]
    assert len(list(ReadAhead(iter(asked[:3]), 8))) == 3


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_names_come_as_they_are_written(pipe: tuple[int, int], pictures: Path) -> None:
    reading, writing = pipe
    names = lines_of(reading)
    os.write(writing, b"one\r\n\ntwo words\nthr")
    assert [next(names), next(names)] == ["one", "two words"]
    os.write(writing, b"ee \xff\nlast")
    assert next(names) == os.fsdecode(b"three \xff")
    os.close(writing)
    assert list(names) == ["last"]
    os.close(reading)
    with pytest.raises(MediaError, match="cannot be read"):
        next(lines_of(reading))


def test_what_has_no_lines_is_no_list_of_names(pipe: tuple[int, int]) -> None:
    reading, writing = pipe

    def write() -> None:
        for _ in range(20):
            os.write(writing, b"x" * 4096)
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(MediaError, match="bytes on one line, accepted: one name a line"):
        next(lines_of(reading))
    thread.join()


def test_pictures_named_by_a_list(pipe: tuple[int, int], pictures: Path) -> None:
    reading, writing = pipe
    source = open_names(reading)
    assert source.count is None
    os.write(writing, f"{pictures / 'a.jpg'}\n{pictures / 'z.png'}\n".encode())
    os.close(writing)
    assert [picture.error is None for picture in source] == [True, False]


# Videos.


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames whose red grows by 20 each."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * number), np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_film_in_order(film: Path) -> None:
    source = open_video(str(film))
    assert source.count == 12
    frames = list(source)
    source.close()
    assert source.dropped == 0
    assert [frame.name for frame in frames] == [f"film.avi#{number}" for number in range(12)]
    for number, frame in enumerate(frames):
        assert frame.taken().shape == (48, 64, 3)
        assert np.abs(frame.taken().mean(axis=(0, 1)) - (20 * number, 0, 0)).max() < 8


class Torn:
    """A film of which some frames cannot be decoded; its end looks as they do."""

    def __init__(self, good: str) -> None:
        self._good = iter(good)

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        return (True, np.zeros((2, 2, 3), np.uint8)) if next(self._good, "0") == "1" else (False, None)

    def get(self, propId: int) -> float:
        return 0.0

    def release(self) -> None:
        pass


def test_a_film_goes_on_after_frames_that_are_damaged(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Torn("1100110"))
    frames = list(open_video(str(film)))
    assert [frame.name for frame in frames] == [f"film.avi#{number}" for number in range(6)]
    assert [frame.pixels is None for frame in frames] == [False, False, True, True, False, False]
    assert [str(frame.error) for frame in frames[2:4]] == [f"film.avi#{n}: a damaged frame" for n in (2, 3)]


def test_what_is_no_video_is_refused(film: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.avi").write_bytes(film.read_bytes()[:200])
    for name in ("cut.avi", "absent.avi", "."):
        with pytest.raises(MediaError, match=r"gives no frame|no such file|not a file"):
            open_video(str(tmp_path / name))


@pytest.mark.parametrize("name", ["93", "/dev/video93"])
def test_a_camera_that_is_not_there(name: str) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(MediaError, match=r"/dev/video93: no such camera; found: "):
        open_video(name)


def test_without_opencv(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingDependency, match=r"pip install 'distredge\[video\]'"):
        open_video("film.avi")


class Frames:
    """A camera whose frames come when a test says so."""

    def __init__(self) -> None:
        self.ready = threading.Semaphore(0)
        self.given = 0
        self.end = 1 << 30
        self.released = False

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        self.ready.acquire(timeout=20)
        if self.given >= self.end:
            return False, None
        self.given += 1
        return True, np.full((2, 2, 3), self.given - 1, np.uint8)

    def get(self, propId: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released = True


def opened(frames: Frames, stall_s: float = 20.0) -> Camera:
    return Camera(frames, "cam", lambda frame: frame, stall_s)


def wait_for(condition: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(2000):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError("it does not come")


def test_a_camera_gives_its_newest_frame_and_counts_those_dropped() -> None:
    frames = Frames()
    camera = opened(frames)
    source = iter(camera)
    frames.ready.release()
    assert next(source).name == "cam#0"
    frames.ready.release(4)
    wait_for(lambda: camera.dropped == 3)
    newest = next(source)
    assert (newest.name, int(newest.taken()[0, 0, 0])) == ("cam#4", 4)
    assert camera.dropped == 3
    frames.ready.release()
    assert next(source).name == "cam#5"
    camera.close()
    frames.ready.release()
    assert list(source) == []
    wait_for(lambda: frames.ready._value == 0)


def test_closing_a_camera_ends_who_waits_for_it() -> None:
    frames = Frames()
    camera = opened(frames)
    found: list[Picture] = []
    thread = threading.Thread(target=lambda: found.extend(camera))
    thread.start()
    frames.ready.release()
    wait_for(lambda: len(found) == 1)
    closing = threading.Thread(target=camera.close)
    closing.start()
    frames.ready.release()
    closing.join()
    thread.join()
    assert frames.released


def test_a_camera_that_stalls_or_is_pulled_out_is_an_error() -> None:
    frames = Frames()
    camera = opened(frames, stall_s=0.05)
    with pytest.raises(MediaError, match=r"cam: gave no frame for 0\.05 s"):
        next(iter(camera))
    frames.ready.release(2)
    camera.close()
    frames = Frames()
    frames.end = 0
    frames.ready.release()
    camera = opened(frames)
    with pytest.raises(MediaError, match="cam: gives no more frames"):
        next(iter(camera))
    camera.close()
    assert frames.released


def test_what_hangs_is_left_alone(monkeypatch) -> None:
    free = threading.Event()
    with pytest.raises(MediaError, match=r"cam: gives no frame within 0\.05 s"):
        within(0.05, free.wait, "cam")
    free.set()
    assert within(20.0, lambda: 7, "cam") == 7
    with pytest.raises(ZeroDivisionError):
        within(20.0, lambda: 1 // 0, "cam")
    assert video.OPEN_S <= 10
