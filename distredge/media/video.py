"""Frames of a video file or of a camera, by OpenCV.

A file's frames are read one by one as they are taken: none is left out. A camera goes on by itself: its newest frame is
the next one, and those that nobody took in time are dropped and counted.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from distredge.errors import MediaError, MissingDependency
from distredge.media.picture_source import PictureSource
from distredge.media.pictures import Picture

OPEN_S: Final = 10.0
"""Within which a video or a camera must give its first frame."""

STALL_S: Final = 10.0
"""How long a camera may give no frame."""

TORN: Final = 50
"""Frames one after the other that a video file does not give, until that is its end: damaged ones look alike."""

_DEVICE: Final = "/dev/video"
_QUIET: Final = {"OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_LOG_LEVEL": "SILENT"}

T = TypeVar("T")


class Capture(Protocol):
    """What is used of OpenCV's `VideoCapture`."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, Any]: ...

    def get(self, propId: int) -> float: ...

    def release(self) -> None: ...


def open_video(what: str) -> PictureSource:
    """Opens a video file, or a camera by its number or as /dev/videoN.

    Raises:
        MissingDependency: if OpenCV is not installed.
        MediaError: if it is not there, no video, or gives no frame in time.
    """
    cv2 = _opencv()
    if what.isdecimal() or what.startswith(_DEVICE):
        _check_device(what)
        capture, _ = _opened(lambda: cv2.VideoCapture(int(what) if what.isdecimal() else what), what, "a camera")
        name = f"{_DEVICE}{what}" if what.isdecimal() else what
        return Camera(capture, name, lambda frame: _rgb(cv2, frame))
    if not Path(what).is_file():
        found = "not a file" if Path(what).exists() else "no such file"
        raise MediaError(f"{what}: {found}; accepted: a video, or a camera such as 0 or {_DEVICE}0")
    capture, first = _opened(lambda: cv2.VideoCapture(what), what, "a video of a kind that OpenCV can read")
    return _Film(capture, Path(what).name, first, lambda frame: _rgb(cv2, frame), capture.get(cv2.CAP_PROP_FRAME_COUNT))


def _opencv() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError as error:
        raise MissingDependency("opencv-python-headless", "to read videos and cameras", "video") from error
    return cv2


def _check_device(what: str) -> None:
    device = f"{_DEVICE}{what}" if what.isdecimal() else what
    if not sys.platform.startswith("linux"):
        return
    if not os.path.exists(device):
        there = sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))
        raise MediaError(f"{device}: no such camera; found: {', '.join(there) or 'none'}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise MediaError(f"{device}: permission denied; is this user in the group 'video'?")


def _opened(make: Callable[[], Capture], what: str, accepted: str) -> tuple[Capture, Any]:
    """Opens a capture and reads its first frame."""

    def first() -> tuple[Capture, Any]:
        capture = make()
        is_there, frame = capture.read() if capture.isOpened() else (False, None)
        if not is_there:
            capture.release()
            raise MediaError(f"{what}: gives no frame; accepted: {accepted}")
        return capture, frame

    return within(OPEN_S, first, what)


def within(limit_s: float, act: Callable[[], T], what: str) -> T:
    """Returns what a call returns that may hang; its thread is then left alone.

    Args:
        limit_s: how long it may take.
        act: is called in a thread of its own.
        what: its name, for the error.

    Raises:
        MediaError: if it does not come back in time. What it raises itself is raised.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            found.append(act())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="video", daemon=True)
    thread.start()
    thread.join(limit_s)
    if raised:
        raise raised[0]
    if not found:
        raise MediaError(f"{what}: gives no frame within {limit_s:g} s")
    return found[0]


def _rgb(cv2: Any, frame: Any) -> NDArray[np.uint8]:
    """A frame of OpenCV's, (height, width, 3) in BGR or (height, width) in grey, as (height, width, 3) in RGB."""
    pixels: NDArray[np.uint8] = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)
    return pixels


class _Film:
    """A video file."""

    dropped = 0

    def __init__(
        self, capture: Capture, name: str, first: Any, rgb: Callable[[Any], NDArray[np.uint8]], count: float
    ) -> None:
        self._capture = capture
        self._name = name
        self._first = first
        self._rgb = rgb
        self._lock = threading.Lock()
        self.count = int(count) if count >= 1 else None

    def __iter__(self) -> Iterator[Picture]:
        is_there, frame, number, torn = True, self._first, 0, 0
        self._first = None
        while torn < TORN:
            if is_there:
                # Frames follow: those before were damaged, and not the film's end.
                for place in range(number, number + torn):
                    name = f"{self._name}#{place}"
                    yield Picture(name, None, MediaError(f"{name}: a damaged frame"))
                number += torn
                torn = 0
                yield Picture(f"{self._name}#{number}", self._rgb(frame))
                number += 1
            else:
                torn += 1
            with self._lock:
                is_there, frame = self._capture.read()

    def close(self) -> None:
        with self._lock:
            self._capture.release()


class Camera:
    """A camera that is read all the time, by a thread of its own.

    Args:
        capture: an open one.
        name: of the camera.
        rgb: makes a frame of OpenCV's, (height, width, 3) in BGR, one in RGB.
        stall_s: how long it may give no frame.
    """

    count = None

    def __init__(
        self, capture: Capture, name: str, rgb: Callable[[Any], NDArray[np.uint8]], stall_s: float = STALL_S
    ) -> None:
        self._capture = capture
        self._name = name
        self._rgb = rgb
        self._stall_s = stall_s
        self._changed = threading.Condition()
        self._newest: Any = None
        self._read = 0
        self._is_over = self._is_closed = False
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def __iter__(self) -> Iterator[Picture]:
        self._thread = threading.Thread(target=self._watch, name="camera", daemon=True)
        self._thread.start()
        while True:
            with self._changed:
                came = self._changed.wait_for(lambda: self._newest is not None or self._is_over, self._stall_s)
                frame, self._newest = self._newest, None
                number, is_closed = self._read - 1, self._is_closed
            if is_closed:
                return
            if not came:
                raise MediaError(f"{self._name}: gave no frame for {self._stall_s:g} s")
            if frame is None:
                raise MediaError(f"{self._name}: gives no more frames")
            yield Picture(f"{self._name}#{number}", self._rgb(frame))

    def _watch(self) -> None:
        while not self._is_over:
            is_there, frame = self._capture.read()
            with self._changed:
                if not is_there:
                    self._is_over = True
                else:
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._read += 1
                self._changed.notify_all()

    def close(self) -> None:
        """Ends it; a driver that hangs keeps its thread."""
        with self._changed:
            self._is_over = self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(1.0)
        if self._thread is None or not self._thread.is_alive():
            self._capture.release()
