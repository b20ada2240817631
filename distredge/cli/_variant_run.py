"""`deploy-strategy --variants`: pictures through whichever model of a menu is the most accurate in time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distredge.cli._common import print_json
from distredge.cli._deployment import Comparison, preparing
from distredge.cli._interrupts import Interrupts
from distredge.cli._planning import about_links, say_assumption
from distredge.cli._stream import Counted, follow
from distredge.cli._stream_observers import traced, watching
from distredge.cli._stream_report import Tally, check_some_done, counts, first_of, show_counts, write_report
from distredge.cli._stream_sinks import annotated, json_lines, progress, say
from distredge.cli._variant_frames import Variant, VariantFrames, load_variants, make_variants
from distredge.cli._variant_report import SelectionTally, VariantMeaning, show_selection
from distredge.errors import ExecutionError
from distredge.writing import as_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distredge.cli._stream import Sink, StreamObserver
    from distredge.cli._stream_options import StreamOptions
    from distredge.media.picture_source import PictureSource
    from distredge.planners.live_selection.selector import Selector
    from distredge.runtime.hosting.session import Session

NOISE_SHAPE = (480, 640, 3)


@dataclass(frozen=True)
class VariantRun:
    """A run that was asked for.

    Attributes:
        menu: its file.
        limit_s: within which frames are to end.
        stream: options of a stream; without one it is one picture, or noise.
        image: that picture; None for noise.
        repeat: how often.
        cluster_name: as it was given.
        session: options of `open_session`, by name.
        check: whether outputs are compared with the whole models'.
        timeline_path: where the latest frame's timeline goes.
        as_json: whether machines read what is said.
        say_aside: tells people on stderr.
    """

    menu: Path
    limit_s: float
    stream: StreamOptions
    image: Path | None
    repeat: int
    cluster_name: str
    session: Mapping[str, Any]
    check: bool
    timeline_path: Path | None
    as_json: bool
    say_aside: Callable[[str], None]

    def run(self) -> None:
        """Runs it and says how it went; what was done is written down however it ends.

        Raises:
            InputError: naming what cannot be used.
            ExecutionError: if no picture came through, or an output is wrong.
            KeyboardInterrupt: on Ctrl-C.
        """
        from distredge.planners.live_selection.menu import load_menu
        from distredge.planners.live_selection.selector import Selector
        from distredge.runtime.hosting.session import open_session

        with contextlib.ExitStack() as stack:
            # What is wrong with what was given is said before anything is planned, or a worker started.
            entries = load_menu(self.menu)
            first_pixels = self._pixels()
            source = stack.enter_context(contextlib.closing(self._source(first_pixels)))
            loaded = load_variants(entries)
            for one in loaded:
                self.stream.check_model(one.graph)
            title = f"{len(entries)} variants of {self.menu.name}"
            observers = stack.enter_context(watching(self.stream, None, self.as_json, title))
            variants = make_variants(loaded, self.cluster_name, not self.session["plaintext"], self.say_aside)
            cluster = variants[0].problem.cluster
            plans = [(variant.problem, variant.strategy) for variant in variants]
            selector = Selector(cluster, plans, [entry.accuracy for entry in entries], self.limit_s)
            session = stack.enter_context(
                open_session(
                    variants[0].problem, variants[0].strategy, self.cluster_name, in_flight=1, say=self.say_aside,
                    deployments=tuple(variant.deployment for variant in variants), **self.session,
                )
            )  # fmt: skip
            frames = VariantFrames(session.coordinator, variants, selector, self.session["deadline_s"])
            apart = frames.try_each(first_pixels, self.check)
            compared = [
                Comparison(variant.problem.graph, variant.strategy, difference)
                for variant, difference in zip(variants, apart, strict=True)
            ]
            self._follow(variants, selector, frames, source, session, observers, compared)
        say_assumption(cluster)
        fault = next((found.fault for found in compared if found.fault is not None), None)
        if fault is not None:
            raise ExecutionError(fault)

    def _follow(
        self,
        variants: Sequence[Variant],
        selector: Selector,
        frames: VariantFrames,
        source: PictureSource,
        session: Session,
        watching: Sequence[StreamObserver],
        compared: Sequence[Comparison],
    ) -> None:
        began = datetime.now(timezone.utc)
        tally, pictures = Tally(), Counted(source)
        chosen = SelectionTally(variants, frames, self.limit_s)
        ended: BaseException | None = None
        if not self.as_json:
            where = "worker processes of this machine" if session.where == "local" else "running workers"
            click.echo(f"{len(variants)} variants on {variants[0].problem.cluster.name}, {where}")
        with Interrupts() as interrupts:
            try:
                with self._sinks(tally, chosen, source.count) as sinks:
                    with interrupts.held():
                        for observer in watching:
                            observer.begin(session.coordinator, variants[0].strategy, None)
                    meaning = VariantMeaning(variants, frames, self.limit_s, self.stream.min_score)
                    follow(frames.runs, pictures, meaning, sinks, watching, interrupts)
            except (KeyboardInterrupt, Exception) as error:
                ended = error
            with interrupts.held():
                figures = {
                    **self._about(variants, session, began),
                    **tally.figures(),
                    **counts(tally, pictures.taken, source, ended),
                    **chosen.figures(selector, time.monotonic()),
                    **_correctness(compared),
                }
                for observer in watching:
                    figures |= observer.end()
                unwritten = write_report(self.stream.report, figures)
                self._tell(figures, unwritten is None)
                untraced = self._save(watching, session, frames)
            if (wrong := first_of(ended, unwritten, untraced)) is not None:
                raise wrong
            check_some_done(tally)

    @contextlib.contextmanager
    def _sinks(self, tally: Tally, chosen: SelectionTally, count: int | None) -> Iterator[list[Sink]]:
        with contextlib.ExitStack() as stack:
            sinks: list[Sink] = [lambda frame, *_: tally.add(frame), chosen]
            if self.stream.out is not None:
                sinks.append(stack.enter_context(json_lines(self.stream.out)))
            if self.stream.annotate is not None:
                sinks.append(annotated(self.stream.annotate))
            if not self.as_json:
                sinks.append(say)
            elif not self.stream.watch:
                sinks.append(stack.enter_context(progress(count)))
            yield sinks

    def _pixels(self) -> NDArray[np.uint8]:
        """What the variants are tried on, (height, width, 3): the picture that was given, or noise."""
        import numpy as np

        from distredge.media.images import read_image

        if self.image is not None:
            return read_image(self.image)
        return np.random.default_rng(0).integers(0, 256, NOISE_SHAPE, dtype=np.uint8)

    def _source(self, pixels: NDArray[np.uint8]) -> PictureSource:
        if self.stream.wanted:
            return self.stream.open_source()
        return _Again("noise" if self.image is None else str(self.image), pixels, self.repeat)

    def _about(self, variants: Sequence[Variant], session: Session, began: datetime) -> dict[str, Any]:
        cluster = variants[0].problem.cluster
        stream = self.stream.images if self.stream.video is None else self.stream.video
        source = stream if stream is not None else ("noise" if self.image is None else self.image)
        return {
            "menu": as_text(str(self.menu)),
            "cluster": cluster.name,
            **about_links(cluster),
            "workers": session.where,
            "encrypted": session.encrypted,
            "lossless": all(variant.strategy.lossless for variant in variants),
            "source": as_text(str(source)),
            "started": began.isoformat(timespec="milliseconds"),
            "in_flight": session.coordinator.in_flight,
            **preparing(session.coordinator),
        }

    def _tell(self, figures: Mapping[str, Any], written: bool) -> None:
        path = self.stream.report if written else None
        if self.as_json:
            print_json(figures)
        else:
            _show(figures)
        options = self.stream
        for what, place in (("results", options.out), ("pictures", options.annotate), ("report", path)):
            if place is not None and not self.as_json:
                click.echo(f"{what}: {place}")

    def _save(
        self, watching: Sequence[StreamObserver], session: Session, frames: VariantFrames
    ) -> ExecutionError | None:
        """Writes the timeline that is wanted; returns why the one frame that was asked for has none."""
        if self.timeline_path is None:
            return None
        try:
            timeline = traced(watching, session.coordinator, self.as_json, frames.timeline)
        except ExecutionError as error:
            if self.stream.trace_frame is not None:
                return error
            click.echo(f"no timeline: {error}", err=True)
            return None
        timeline.save(self.timeline_path)
        if not self.as_json:
            click.echo(f"timeline: {self.timeline_path} (opens in ui.perfetto.dev)")
        return None


class _Again:
    """One picture, again and again (a `PictureSource`)."""

    dropped = 0

    def __init__(self, name: str, pixels: NDArray[np.uint8], count: int) -> None:
        self._name, self._pixels = name, pixels
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        from distredge.media.pictures import Picture

        return (Picture(self._name, self._pixels) for _ in range(self.count))

    def close(self) -> None:
        """Holds nothing."""


def _correctness(compared: Sequence[Comparison]) -> dict[str, Any]:
    """The worst of what was found where outputs were compared."""
    asked = [found for found in compared if found.difference is not None]
    worst = max(asked, key=lambda found: found.difference or 0.0, default=compared[0])
    correct = all(found.fault is None for found in asked) if asked else None
    return {**worst.figures(), "correct": correct}


def _show(figures: Mapping[str, Any]) -> None:
    failed = f", {figures['failed_frames']} failed" if figures["failed_frames"] else ""
    click.echo(f"{figures['done']} done{failed} in {figures['seconds']:.1f} s")
    latency = figures["latency"]
    if latency is not None:
        click.echo("latency: " + ", ".join(f"{name[:-2]} {1e3 * s:.2f} ms" for name, s in latency.items()))
    show_selection(figures)
    show_counts(figures)
    if figures["largest_relative_difference"] is not None:
        click.echo(
            f"largest difference of any variant from its model in one piece: "
            f"{figures['largest_relative_difference']:.2g} of its largest value"
        )
