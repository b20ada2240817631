"""What TensorBoard reads back from the files that are written for it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from distredge import metric_names
from distredge.monitor import hparams
from distredge.monitor.tensorboard import TensorboardWriter
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
        writer.timeline(metric_names.TIMELINE, timeline, 0, "a title")
    (found,) = _read(tmp_path).Images(metric_names.TIMELINE)
    picture = np.asarray(Image.open(io.BytesIO(found.encoded_image_string)))
    # The bar of volume 0 has the first colour of matplotlib's cycle and is a fair part of the picture.
    bar = (np.abs(picture.astype(int) - [31, 119, 180]).sum(axis=2) < 12).mean()
    assert bar > 0.02


def test_texts_and_histograms_come_back(tmp_path: Path) -> None:
    with TensorboardWriter(tmp_path) as writer:
        writer.text(metric_names.RUN_CONFIG, "**bold** é")
        writer.histogram("actions/0", np.array([1, 3]), np.array([-1.0, 0.0, 1.0]), 4)
    events = _read(tmp_path)
    assert events.Tensors(metric_names.RUN_CONFIG)[0].tensor_proto.string_val[0].decode() == "**bold** é"
    assert events.PluginTagToContent("text").keys() == {metric_names.RUN_CONFIG}
    (found,) = events.Tensors("actions/0")
    assert found.step == 4
    assert make_ndarray(found.tensor_proto).tolist() == [[-1, 0, 1], [0, 1, 3]]


def test_hparams_come_back(tmp_path: Path) -> None:
    told: dict[str, hparams.Parameter] = {"algo": "ddpg", "tau": 0.05, "as_published": True, "file": "caf\udce9"}
    with TensorboardWriter(tmp_path) as writer:
        writer.summary(hparams.experiment(told, ["hparam/x"]))
        writer.summary(hparams.session_start(told, 1.0))
        writer.summary(hparams.session_end(False, 2.0))
    content = _read(tmp_path).PluginTagToContent("hparams")
    columns = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    kinds = [("algo", 1), ("tau", 3), ("as_published", 2), ("file", 1)]
    assert [(info.name, info.type) for info in columns.hparam_infos] == kinds
    assert [info.name.tag for info in columns.metric_infos] == ["hparam/x"]
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert (start.hparams["algo"].string_value, start.hparams["tau"].number_value) == ("ddpg", 0.05)
    assert start.hparams["file"].string_value == "caf\ufffd", "a path need not be text"
    assert start.hparams["as_published"].bool_value is True
    assert metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG]).status == 2


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    with TensorboardWriter(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_is_in_the_file_at_once_and_may_be_closed_twice(tmp_path: Path) -> None:
    writer = TensorboardWriter(tmp_path)
    writer.scalar("x", 1.0, 0)
    assert _read(tmp_path).Scalars("x")[0].value == pytest.approx(1.0)
    writer.close()
    writer.close()
