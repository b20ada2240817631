"""Pictures as frames of a stream, and results that say which picture they are of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distredge.errors import DistredgeError, ModelError
from distredge.media.pictures import Picture, read_picture
from distredge.runtime.buffers import Array
from distredge.runtime.picture_files import FileInputs
from distredge.runtime.requester.pending import FrameResult, Offered, RanAs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distredge.model.graph import Graph
    from distredge.model.preprocess import Preprocess
    from distredge.runtime.deployment import Deployment
    from distredge.strategy import Strategy


class PictureResult(NamedTuple):
    """How a picture of a stream ended.

    Attributes:
        number: of the picture as it was read, from 0.
        picture: what was read: its name and size, and its pixels where these are kept.
        outputs: name -> array, such as (N, classes); None if it failed.
        error: why it failed; None if it did not.
        latency_s: seconds from the frame's start until the last output was placed; None if it failed.
        ran_as: what `Coordinator.timeline_of` knows it by; None if it failed.
        inputs: what the model was given: name -> array, such as (N, C, H, W); None if there was nothing.
    """

    number: int
    picture: Picture
    outputs: dict[str, Array] | None
    error: DistredgeError | None
    latency_s: float | None
    ran_as: RanAs | None = None
    inputs: Mapping[str, Array] | None = None

    @property
    def name(self) -> str:
        """The picture's name."""
        return self.picture.name

    def result(self) -> dict[str, Array]:
        """The outputs: name -> array, such as (N, classes); raises what the picture failed with."""
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs


class _Read(NamedTuple):
    number: int
    picture: Picture
    inputs: Mapping[str, Array] | None


def offer(
    current: Callable[[], Deployment], pictures: Iterable[str | Path | Picture], keep_pixels: bool
) -> Iterator[Offered]:
    """Returns pictures as frames, read and resized one by one as they are taken.

    Args:
        current: says what they will run on, which may have been planned anew meanwhile.
        pictures: files to be read, or pictures.
        keep_pixels: whether their pixels stay with them until their results are there.

    Raises:
        ModelError: if the model does not say how a picture becomes its input.
    """
    check_takes_pictures(current().graph)
    return _offered(current, pictures, keep_pixels)


def _offered(
    current: Callable[[], Deployment], pictures: Iterable[str | Path | Picture], keep_pixels: bool
) -> Iterator[Offered]:
    for number, given in enumerate(pictures):
        deployment = current()
        picture = given if isinstance(given, Picture) else read_picture(given, deployment.file_limits)
        inputs = _inputs(deployment, picture)
        given_up = picture if keep_pixels else picture.without_pixels()
        del given, picture
        yield Offered(inputs, _Read(number, given_up, None if isinstance(inputs, DistredgeError) else inputs))


def _inputs(deployment: Deployment, picture: Picture) -> Mapping[str, Array] | DistredgeError:
    try:
        return picture_inputs(deployment, picture)
    except DistredgeError as error:
        return error


def picture_inputs(deployment: Deployment, picture: Picture) -> Mapping[str, Array]:
    """Returns a picture as the deployment sends it; where its file travels to every device it is not decoded.

    Args:
        deployment: what it will run on.
        picture: read with `keep_files` where the strategy sends files.

    Returns:
        The model's input -> array, such as (1, 3, H, W); `FileInputs` where the file was left as it is.

    Raises:
        MediaError: if it could not be read, or must be decoded here and is damaged.
        ModelError: if the model does not say how a picture becomes its input.
    """
    if picture.file is None or not deployment.strategy.input.file:
        return inputs_of(deployment.graph, deployment.strategy, picture.taken())
    preprocess = check_takes_pictures(deployment.graph)
    # Here, and not where the frame is started: whoever starts it may not wait so long.
    return deployment.check_inputs(FileInputs(deployment.graph.input_names[0], picture.file, preprocess))


def inputs_of(graph: Graph, strategy: Strategy, pixels: NDArray[np.uint8]) -> dict[str, Array]:
    """Returns a picture as the strategy sends it.

    Args:
        graph: the model.
        strategy: says whether pixels travel as they are.
        pixels: uint8 (height, width, 3), RGB, of any size.

    Returns:
        The model's input -> (1, depth, height, width), or (1, height, width, depth) where its layout is NHWC.

    Raises:
        ModelError: if the model does not say how a picture becomes its input.
    """
    preprocess = check_takes_pictures(graph)
    prepared = preprocess.prepare(pixels)
    return {graph.input_names[0]: prepared if strategy.input.pixels else preprocess.normalise(prepared)}


def check_takes_pictures(graph: Graph) -> Preprocess:
    """Returns how a picture becomes the model's input.

    Raises:
        ModelError: if the model does not say so.
    """
    if graph.preprocess is None or len(graph.input_names) != 1:
        raise ModelError(f"{graph.name}: does not say how a picture becomes its input")
    return graph.preprocess


def picture_result(result: FrameResult) -> PictureResult:
    """Returns the result of a frame that `offer` made."""
    assert isinstance(result.tag, _Read)
    number, picture, inputs = result.tag
    return PictureResult(number, picture, result.outputs, result.error, result.latency_s, result.ran_as, inputs)


def picture_results(results: Generator[FrameResult, None, None]) -> Generator[PictureResult, None, None]:
    """Yields the results of a stream of frames that `offer` made; the stream is closed with this one."""
    try:
        for result in results:
            yield picture_result(result)
    finally:
        results.close()
