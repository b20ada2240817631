"""Frames of which each runs on a variant of its own: the menu's models made ready, and what runs pictures on them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from distredge.errors import DistredgeError, ExecutionError
from distredge.planners.live_selection.choosing import Choice
from distredge.planners.live_selection.menu import MenuEntry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distredge.media.pictures import Picture
    from distredge.model.graph import Graph
    from distredge.planners.live_selection.selector import Selector
    from distredge.problem import Problem
    from distredge.runtime.buffers import Array
    from distredge.runtime.deployment import Deployment
    from distredge.runtime.requester.coordinator import Coordinator
    from distredge.runtime.requester.pending import Offered, Pending
    from distredge.runtime.requester.picture_frames import PictureResult
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline

PLANNING_S: Final = 1.0
PICTURE: Final = "picture"
TRIES: Final = 2
"""Frames of each variant before the first picture; the last of them says how far off the simulator is."""


@dataclass(frozen=True)
class Variant:
    """One that is ready to be deployed.

    Attributes:
        entry: of the menu.
        problem: its model, on the cluster of all.
        strategy: its own, or planned here.
        deployment: of that.
    """

    entry: MenuEntry
    problem: Problem
    strategy: Strategy
    deployment: Deployment


@dataclass(frozen=True)
class Loaded:
    """A menu's entry, read.

    Attributes:
        entry: of the menu.
        graph: its model.
        strategy: its own; None: to be planned.
    """

    entry: MenuEntry
    graph: Graph
    strategy: Strategy | None


def load_variants(entries: Sequence[MenuEntry]) -> tuple[Loaded, ...]:
    """Reads the strategies and models of a menu.

    Raises:
        InputError: naming what cannot be used.
    """
    from distredge.cli._common import load_model_of
    from distredge.model.capture import load_model
    from distredge.runtime.requester.picture_frames import check_takes_pictures
    from distredge.strategy import Strategy

    given = [None if entry.strategy is None else Strategy.load(entry.strategy).with_rows() for entry in entries]
    loaded = []
    for entry, strategy in zip(entries, given, strict=True):
        if strategy is None:
            graph = load_model(entry.model, entry.input_shape, entry.weights)
        else:
            graph = load_model_of(strategy, str(entry.strategy), entry.model, entry.input_shape, entry.weights)
        check_takes_pictures(graph)
        loaded.append(Loaded(entry, graph, strategy))
    return tuple(loaded)


def make_variants(
    loaded: Sequence[Loaded], cluster_name: str, encrypted: bool, say: Callable[[str], None]
) -> tuple[Variant, ...]:
    """Plans those of a menu that have no strategy.

    Args:
        loaded: the menu, read.
        cluster_name: a cluster file, or a shipped one.
        encrypted: whether rows will travel encrypted.
        say: told what is planned.

    Raises:
        InputError: naming what cannot be used.
    """
    from distredge.cluster import load_cluster
    from distredge.problem import Problem
    from distredge.runtime.deployment import deploy, workers_of

    cluster = replace(load_cluster(cluster_name, models=[one.graph for one in loaded]), encrypted=encrypted)
    # What is given is checked before the first one is planned.
    given = [None if one.strategy is None else deploy(one.graph, one.strategy) for one in loaded]
    for name in workers_of(deployment for deployment in given if deployment is not None):
        cluster.device(name)
    made = []
    for one, deployment in zip(loaded, given, strict=True):
        problem = Problem.lossless(one.graph, cluster)
        strategy = _planned(problem, one.entry, say) if one.strategy is None else one.strategy
        made.append(Variant(one.entry, problem, strategy, deployment or deploy(one.graph, strategy)))
    return tuple(made)


def _planned(problem: Problem, entry: MenuEntry, say: Callable[[str], None]) -> Strategy:
    from distredge.planners import plan

    say(f"planning {entry.name}")
    return plan(problem, "auto", PLANNING_S)


class _Chosen(NamedTuple):
    """What a frame took, and the seconds that it was predicted to."""

    choice: Choice
    expected_s: float


class VariantFrames:
    """Runs pictures, each on the variant of the moment, one at a time (`streaming.Submits`).

    Pictures are read ahead in the stream's thread, where each is chosen for when the one before it has ended.

    Args:
        coordinator: on which all variants stand.
        variants: them.
        selector: chooses, and learns from each frame.
        deadline_s: of a frame.

    Attributes:
        latest: what the latest picture that has come out took; None where it could not be read.
        expected_s: what that was predicted to take.
        ran: the variant that ran last.
    """

    in_flight = 1

    def __init__(
        self, coordinator: Coordinator, variants: Sequence[Variant], selector: Selector, deadline_s: float
    ) -> None:
        self._coordinator = coordinator
        self._variants = variants
        self._selector = selector
        self._deadline_s = deadline_s
        self._changed = threading.Condition()
        self._chosen: deque[_Chosen] = deque()
        self._under_way: tuple[_Chosen, Pending] | None = None
        self.latest: Choice | None = None
        self.expected_s = 0.0
        self.ran = variants[0]

    def try_each(self, pixels: NDArray[np.uint8], check: bool) -> tuple[float | None, ...]:
        """Runs some frames on every variant, so that none is slow the first time that it counts.

        Args:
            pixels: (height, width, 3), RGB.
            check: whether outputs are compared with those of the model in one piece.

        Returns:
            How far each variant's outputs are from these; None where that was not asked for.
        """
        from distredge.cli._deployment import difference, whole_model
        from distredge.runtime.requester.picture_frames import inputs_of

        found = []
        for index, variant in enumerate(self._variants):
            inputs = inputs_of(variant.problem.graph, variant.strategy, pixels)
            for _ in range(TRIES):
                outputs, latency_s = self._infer(variant, inputs)
            self._selector.ended(index, latency_s, self._coordinator.timeline(on=variant.deployment), time.monotonic())
            whole = whole_model(variant.problem.graph, variant.strategy, inputs) if check else None
            found.append(None if whole is None else difference(whole, outputs))
        return tuple(found)

    def runs(self, pictures: Iterable[Picture]) -> Generator[PictureResult, None, None]:
        """Runs pictures one at a time; yields how each ended."""
        from distredge.runtime.requester.picture_frames import PictureResult
        from distredge.runtime.requester.streaming import Stream

        results = iter(Stream(self, _offered(pictures), None))
        try:
            for result in results:
                assert isinstance(result.tag, _Taken)
                number, picture = result.tag
                self.latest = None
                if picture.pixels is not None:
                    self.latest, self.expected_s = self._chosen.popleft()
                    self.ran = self._variants[self.latest.index]
                yield PictureResult(number, picture, result.outputs, result.error, result.latency_s, result.ran_as)
        finally:
            results.close()

    def submit_when(
        self, inputs: Mapping[str, Array], deadline_s: float | None, wanted: Callable[[], bool]
    ) -> Pending | None:
        """Starts a picture on the variant of the moment when the one before it has ended, unless nobody wants it.

        Args:
            inputs: `PICTURE` -> uint8 (height, width, 3).
            deadline_s: of the frame; None for the coordinator's own.
            wanted: asked whenever `look` is called.
        """
        from distredge.runtime.requester.picture_frames import inputs_of

        if not self._settled(wanted):
            return None
        chosen = _Chosen(*self._selector.choose(time.monotonic(), self._lost()))
        variant = self._variants[chosen.choice.index]
        try:
            taken = inputs_of(variant.problem.graph, variant.strategy, inputs[PICTURE])
            pending = self._coordinator.submit_when(taken, deadline_s, wanted, copied=False, on=variant.deployment)
        except DistredgeError:
            self._chosen.append(chosen)
            raise
        if pending is not None:
            self._chosen.append(chosen)
            self._under_way = chosen, pending
            pending.add_done_callback(lambda _: self.look())
        return pending

    def look(self) -> None:
        """Asks again what is wanted."""
        with self._changed:
            self._changed.notify_all()
        self._coordinator.look()

    def over(self) -> ExecutionError | None:
        """Why no picture can come through any more; None where one may."""
        return self._coordinator.over()

    def _settled(self, wanted: Callable[[], bool]) -> bool:
        """Waits for the frame that is under way and learns from it; returns whether the next one is still wanted."""
        if self._under_way is None:
            return True
        (choice, expected_s), pending = self._under_way
        with self._changed:
            self._changed.wait_for(lambda: pending.done or not wanted())
        if not pending.done:
            return False
        self._under_way = None
        if pending.latency_s is not None:
            self._selector.ended(
                choice.index, pending.latency_s, self._timeline_of(pending), time.monotonic(), expected_s
            )
        elif self._coordinator.stands(self._variants[choice.index].deployment):
            self._selector.ended(choice.index, self._deadline_s, None, time.monotonic(), expected_s)
        return True

    def _lost(self) -> list[int]:
        """The variants that lack a worker, while others can run: a frame that took one would fail."""
        lost = [k for k, variant in enumerate(self._variants) if not self._coordinator.stands(variant.deployment)]
        return lost if len(lost) < len(self._variants) else []

    def timeline(self) -> Timeline:
        """What happened in the latest frame.

        Raises:
            ExecutionError: if a worker does not say.
        """
        return self._coordinator.timeline(on=self.ran.deployment)

    def _timeline_of(self, pending: Pending) -> Timeline | None:
        """What happened in a frame; None where a worker does not say."""
        if pending.ran_as is None:
            return None
        try:
            return self._coordinator.timeline_of(pending.ran_as).wait()
        except ExecutionError:
            return None

    def _infer(self, variant: Variant, inputs: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        pending = self._coordinator.submit_when(inputs, on=variant.deployment, copied=False)
        assert pending is not None
        outputs = pending.result()
        assert pending.latency_s is not None
        return outputs, pending.latency_s


class _Taken(NamedTuple):
    number: int
    picture: Picture


def _offered(pictures: Iterable[Picture]) -> Iterator[Offered]:
    from distredge.runtime.requester.pending import Offered

    for number, picture in enumerate(pictures):
        try:
            inputs: Mapping[str, Array] | DistredgeError = {PICTURE: picture.taken()}
        except DistredgeError as error:
            inputs = error
        yield Offered(inputs, _Taken(number, picture))
