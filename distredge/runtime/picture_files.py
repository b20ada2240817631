"""Pictures that travel in the JPEG files that they are in: the requester's inputs, and what a device makes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from distredge.errors import EngineError, MediaError, ModelError, ProtocolError
from distredge.media.jpeg import JpegFile, decode_jpeg, decoder_mark, pillow_version
from distredge.runtime.protocol.device_plan import PicturePlan
from distredge.runtime.protocol.fields import Bytes

if TYPE_CHECKING:
    from distredge.model.preprocess import Preprocess

Array: TypeAlias = NDArray[Any]


class FileInputs(Mapping[str, Array]):
    """The inputs of a frame whose picture is in a file: it is decoded when somebody asks for its rows, once.

    Args:
        name: of the model's only input.
        file: the picture.
        preprocess: how it becomes that input.

    Attributes:
        name, file, preprocess: the same.
    """

    def __init__(self, name: str, file: JpegFile, preprocess: Preprocess) -> None:
        self.name = name
        self.file = file
        self.preprocess = preprocess
        self._rows: Array | None = None
        self._decoding = threading.Lock()

    def __getitem__(self, name: str) -> Array:
        """The input's rows: uint8 of `preprocess.shape`, such as (1, 3, H, W).

        Raises:
            MediaError: if the file is damaged.
        """
        if name != self.name:
            raise KeyError(name)
        with self._decoding:
            if self._rows is None:
                self._rows = self.preprocess.prepare(self.file.pixels())
            return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter((self.name,))

    def __len__(self) -> int:
        return 1


class PictureDecoder:
    """Makes the model's input of the files that a device gets for one slot's frames.

    Args:
        plan: how.
        again: whether a file may come more than once for a frame, since several stages read the input.

    Raises:
        EngineError: if files would become other pixels here than at the requester.
        ProtocolError: if the plan asks for what there is not.
    """

    def __init__(self, plan: PicturePlan, again: bool) -> None:
        try:
            self._preprocess = plan.preprocess()
        except ModelError as error:
            raise ProtocolError(f"pictures of '{plan.tensor}': {error}") from error
        try:
            mark = decoder_mark()
        except (ImportError, MediaError) as error:
            raise EngineError(f"JPEG pictures cannot be decoded here: {error}") from error
        if mark != plan.decoder:
            raise EngineError(
                f"Pillow {pillow_version()} decodes JPEG pictures otherwise than the requester's: install the same "
                "version of Pillow on both, or deploy a strategy with uint8 input"
            )
        self._max_pixels = plan.max_pixels
        self._again = again
        self._file = b""
        self._rows: Array | None = None

    def rows(self, file: Bytes) -> Array:
        """Returns the whole input: uint8, such as (1, 3, H, W).

        Args:
            file: what came.

        Raises:
            MediaError: if it is damaged, or its picture larger than the plan allows.
        """
        content = bytes(file)
        if self._rows is not None and content == self._file:
            return self._rows
        pixels = decode_jpeg(content, "the picture", self._max_pixels)
        try:
            rows = self._preprocess.prepare(pixels)
        except Exception as error:  # what a plan asks for may be beyond what Pillow takes
            raise MediaError(f"the picture: cannot become {self._preprocess.shape}: {error}") from error
        if self._again:
            self._file, self._rows = content, rows
        return rows
