"""Runs a stream of pictures on deployed workers, and says how it went."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge import metric_names
from distredge.cli._common import print_json
from distredge.cli._deployment import Comparison, difference, heading, preparing, whole_model
from distredge.cli._interrupts import Interrupts
from distredge.cli._planning import about_links
from distredge.cli._stream import Counted, follow
from distredge.cli._stream_meaning import Meaning, means_nothing
from distredge.cli._stream_observers import traced
from distredge.cli._stream_report import Tally, check_some_done, counts, first_of, show, write_report
from distredge.cli._stream_sinks import annotated, json_lines, progress, say
from distredge.errors import ExecutionError, InputError
from distredge.writing import as_text

if TYPE_CHECKING:
    from distredge.cli._replanning import Replanner
    from distredge.cli._stream import Sink, StreamedFrame, StreamObserver
    from distredge.cli._stream_meaning import Found
    from distredge.cli._stream_options import StreamOptions
    from distredge.media.picture_source import PictureSource
    from distredge.problem import Problem
    from distredge.runtime.hosting.session import Session
    from distredge.runtime.requester.picture_frames import PictureResult
    from distredge.strategy import Strategy
    from distredge.timeline import Timeline


@dataclass(frozen=True)
class StreamRun:
    """A stream that was asked for.

    Attributes:
        options: its options.
        source: its pictures.
        problem: model and cluster, as it runs.
        strategy: what runs.
        strategy_path: its file.
        session: the deployed strategy.
        watching: what watches it.
        predicted_s: of one frame alone; None if not known.
        check: whether the first output is compared with the whole model's.
        as_json: whether machines read what is said.
        replanner: plans anew where workers are lost; None where that is not wanted.
        save: writes a frame's timeline, and ends the log; None where neither is wanted.
    """

    options: StreamOptions
    source: PictureSource
    problem: Problem
    strategy: Strategy
    strategy_path: Path
    session: Session
    watching: Sequence[StreamObserver]
    predicted_s: float | None
    check: bool
    as_json: bool
    replanner: Replanner | None
    save: Callable[[Timeline], None] | None

    def run(self) -> None:
        """Runs it and says how it went; what was done is written down however it ends.

        Raises:
            ExecutionError: if no picture came through, or the output is wrong.
            FileError: if something cannot be written.
            MediaError: if there was no picture, or the source broke off.
            KeyboardInterrupt: on Ctrl-C.
        """
        began = datetime.now(timezone.utc)
        tally, first, pictures = Tally(), _First(), Counted(self.source)
        ended: BaseException | None = None
        if self.replanner is not None:
            count = self.source.count
            self.replanner.follow(self.session.coordinator, lambda: None if count is None else count - tally.frames)
        if not self.as_json:
            click.echo(self._heading())
        sections: list[Mapping[str, Any]] | None = None
        apart: float | None = None
        with Interrupts() as interrupts:
            try:
                with self._sinks(tally, first) as sinks:
                    with interrupts.held():
                        for observer in self.watching:
                            observer.begin(self.session.coordinator, self.strategy, self.predicted_s)
                    keep_pixels = self.options.annotate is not None
                    runs = functools.partial(self.session.coordinator.stream_images, keep_pixels=keep_pixels)
                    meaning = Meaning(self.problem.graph, self.options.min_score)
                    follow(runs, pictures, meaning, sinks, self.watching, interrupts)
                with interrupts.held():
                    sections = [observer.end() for observer in self.watching]
                apart = self._difference(first)
            except (KeyboardInterrupt, Exception) as error:
                ended = error
            with interrupts.held():
                if sections is None:
                    sections = [observer.end() for observer in self.watching]
                comparison = Comparison(self.problem.graph, self.strategy, apart)
                figures = {
                    **self._about(began),
                    **tally.figures(),
                    **self._counts(tally, pictures, ended),
                    **self._predicted(),
                    **comparison.figures(),
                    "replanned": [] if self.replanner is None else self.replanner.figures(),
                }
                for section in sections:
                    figures |= section
                unwritten = write_report(self.options.report, figures)
                self._tell(figures, comparison, unwritten is None)
                untraced = self._save()
            if (wrong := first_of(ended, unwritten, untraced)) is not None:
                raise wrong
            check_some_done(tally)
            if comparison.fault is not None:
                raise ExecutionError(comparison.fault)

    def _save(self) -> ExecutionError | None:
        """Writes the timeline that is wanted; returns why the one frame that was asked for has none."""
        if self.save is None:
            return None
        try:
            self.save(traced(self.watching, self.session.coordinator, self.as_json))
        except ExecutionError as error:
            if self.options.trace_frame is not None:
                return error
            click.echo(f"no timeline: {error}", err=True)
        return None

    @contextlib.contextmanager
    def _sinks(self, tally: Tally, first: _First) -> Iterator[list[Sink]]:
        with contextlib.ExitStack() as stack:
            sinks: list[Sink] = [lambda frame, *_: tally.add(frame)]
            if self.check:
                sinks.append(first)
            if self.options.out is not None:
                sinks.append(stack.enter_context(json_lines(self.options.out)))
            if self.options.annotate is not None:
                sinks.append(annotated(self.options.annotate))
            if not self.as_json:
                sinks.append(say)
            elif not self.options.watch:
                # Both would draw on the same terminal.
                sinks.append(stack.enter_context(progress(self.source.count)))
            yield sinks

    def _heading(self) -> str:
        where, encrypted = self.session.where, self.session.encrypted
        devices = len(self.session.coordinator.deployment.busy)
        return heading(self.problem, self.strategy, devices, where, encrypted)

    def _difference(self, first: _First) -> float | None:
        """How far the first output is from the whole model's; None where it is not to be compared."""
        inputs = None if first.result is None else first.result.inputs
        if first.result is None or inputs is None:
            return None
        return difference(whole_model(self.problem.graph, self.strategy, inputs), first.result.result())

    def _about(self, began: datetime) -> dict[str, Any]:
        cluster = self.problem.cluster
        source = self.options.images if self.options.video is None else self.options.video
        return {
            "model": self.strategy.model.name,
            "weights": self.problem.graph.weights_from,
            "cluster": cluster.name,
            **about_links(cluster),
            "plan": as_text(str(self.strategy_path)),
            "devices": list(self.strategy.devices),
            "workers": self.session.where,
            "encrypted": self.session.encrypted,
            "lossless": self.strategy.lossless,
            "source": as_text(str(source)),
            "started": began.isoformat(timespec="milliseconds"),
            "in_flight": self.session.coordinator.in_flight,
            **preparing(self.session.coordinator),
        }

    def _counts(self, tally: Tally, pictures: Counted, ended: BaseException | None) -> dict[str, Any]:
        return counts(tally, pictures.taken, self.source, ended)

    def _predicted(self) -> dict[str, Any]:
        from distredge.latency import throughput

        found = None
        with contextlib.suppress(InputError):
            found = throughput(self.problem, self.strategy, self.session.coordinator.in_flight)
        return {
            "predicted_latency_s": self.predicted_s,
            "predicted_images_per_s": None if found is None else found.images_per_s,
            metric_names.BOTTLENECK: None if found is None else found.resource,
            "bound_images_per_s": None if found is None else found.bound_per_s,
        }

    def _tell(self, figures: Mapping[str, Any], comparison: Comparison, written: bool) -> None:
        path = self.options.report if written else None
        if self.as_json:
            print_json(figures)
            return
        show(figures)
        comparison.show()
        if (nothing := means_nothing(self.problem.graph)) is not None:
            click.echo(nothing)
        options = self.options
        for what, place in (("results", options.out), ("pictures", options.annotate), ("report", path)):
            if place is not None:
                click.echo(f"{what}: {place}")


class _First:
    """Keeps the first picture that came through."""

    def __init__(self) -> None:
        self.result: PictureResult | None = None

    def __call__(self, frame: StreamedFrame, result: PictureResult, found: Found) -> None:
        if self.result is None and result.outputs is not None:
            self.result = result
