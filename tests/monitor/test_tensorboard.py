"""What TensorBoard reads back from the files that are written for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from distredge import metric_names
from distredge.monitor.tensorboard import TRAINING_CHARTS, TensorboardWriter
from distredge.timeline import Span, Timeline


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return events.Reload()


def test_figures_come_back(tmp_path: Path) -> None:
    with TensorboardWriter(tmp_path / "run") as writer:
        for step, value in enumerate((0.5, 0.25)):
            writer.scalar(metric_names.EPISODE_LATENCY_S, value, step)
        writer.scalar(metric_names.BEST_LATENCY_S, np.float32(0.25), 1)
    events = _read(tmp_path / "run")
    assert [(e.step, e.value) for e in events.Scalars(metric_names.EPISODE_LATENCY_S)] == [(0, 0.5), (1, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars(metric_names.BEST_LATENCY_S)] == [(1, 0.25)]


def test_pictures_come_back(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with TensorboardWriter(tmp_path) as writer:
        writer.image("picture", picture, 3)
    (found,) = _read(tmp_path).Images("picture")
    assert (found.step, found.height, found.width) == (3, 5, 7)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found.encoded_image_string))), picture)


def test_a_timeline_is_drawn(tmp_path: Path) -> None:
    timeline = Timeline(0.02, (Span("a", "compute", "volume 0", 0.0, 0.02, stage=0, volume=0),), ("a", "b"))
    with TensorboardWriter(tmp_path) as writer:
        writer.timeline(metric_names.BEST_TIMELINE, timeline, 0, "a title")
    (found,) = _read(tmp_path).Images(metric_names.BEST_TIMELINE)
    picture = np.asarray(Image.open(io.BytesIO(found.encoded_image_string)))
    # The bar of volume 0 has the first colour of matplotlib's cycle and is a fair part of the picture.
    bar = (np.abs(picture.astype(int) - [31, 119, 180]).sum(axis=2) < 12).mean()
    assert bar > 0.02


def test_texts_and_charts_come_back(tmp_path: Path) -> None:
    with TensorboardWriter(tmp_path) as writer:
        writer.text(metric_names.RUN_CONFIG, "**bold** é")
        writer.charts(TRAINING_CHARTS)
    events = _read(tmp_path)
    assert events.Tags()["tensors"] == [metric_names.RUN_CONFIG, "custom_scalars__config__"]
    assert events.Tensors(metric_names.RUN_CONFIG)[0].tensor_proto.string_val[0].decode() == "**bold** é"
    assert events.PluginTagToContent("text").keys() == {metric_names.RUN_CONFIG}
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: tuple(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts == dict(TRAINING_CHARTS)
    assert metric_names.OFFLOAD_IMAGES_PER_S in charts["images per second"]


def test_may_be_closed_twice_and_flushed(tmp_path: Path) -> None:
    writer = TensorboardWriter(tmp_path)
    writer.scalar("x", 1.0, 0)
    writer.flush()
    assert _read(tmp_path).Scalars("x")[0].value == pytest.approx(1.0)
    writer.close()
    writer.close()
