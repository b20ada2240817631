"""Boxes come out where they were put in, in every detector's own arrangement of its outputs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.errors import FileError, MediaError
from distredge.media.annotating import annotate
from distredge.media.detection import MOST_BOXES, Box, find_boxes, suppressed
from distredge.media.labels import coco_names
from distredge.model import zoo
from distredge.model.detector import Detector, SsdMap, YoloMap
from distredge.model.zoo import ssd, yolo

FEATURES = (38, 19, 10, 5, 3, 1)
ANCHORS = (4, 6, 6, 6, 4, 4)
WHOLE = (0.0, 0.0, 600.0, 400.0)
PICTURE = (400, 600)
"""Height and width; the input is a square."""


def sigmoid_of(share: float) -> float:
    """What a sigmoid makes that share of."""
    return math.log(share / (1 - share))


def about(box: Box, name: str, edges: tuple[float, ...]) -> None:
    assert box.name == name
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx(edges, abs=0.01)


def yolo_outputs(anchor: int, row: int, column: int, category: int) -> dict[str, np.ndarray]:
    """A box at (0.30, 0.62) of a 416 x 416 input, a quarter wide and an eighth high, and nothing else."""
    cells = np.zeros((5, 85, 13, 13), np.float32)
    cells[:, 4] = -20
    at = cells[anchor, :, row, column]
    at[0] = sigmoid_of(0.30 * 13 - column)
    at[1] = sigmoid_of(0.62 * 13 - row)
    at[2] = math.log(0.25 * 13 / (0.57273, 1.87446, 3.33843, 7.88282, 9.77052)[anchor])
    at[3] = math.log(0.125 * 13 / (0.677385, 2.06253, 5.47434, 3.52778, 9.16828)[anchor])
    at[4] = 3
    at[5 + category] = 12
    return {"detections": cells.reshape(1, 425, 13, 13)}


@pytest.mark.parametrize("anchor", range(5))
def test_boxes_of_yolov2(anchor: int) -> None:
    outputs = yolo_outputs(anchor, row=8, column=3, category=16)
    (box,) = find_boxes(yolo.DETECTOR, outputs, (416, 416), WHOLE, PICTURE, 0.5)
    about(box, "dog", (600 * 0.175, 400 * 0.5575, 600 * 0.425, 400 * 0.6825))
    assert box.score == pytest.approx(1 / (1 + math.exp(-3)), abs=0.001)
    assert find_boxes(yolo.DETECTOR, outputs, (416, 416), WHOLE, PICTURE, 0.99) == ()


def ssd_outputs(anchors_first: bool, classes: int, place: int, category: int) -> dict[str, np.ndarray]:
    """A box of one anchor that is moved by a tenth of its size and grows by a tenth, and nothing else.

    Outputs are made from the published lists of anchors, boxes and scores: torchvision lists positions and, of each,
    its anchors; NVIDIA's code anchors and, of each, its positions.
    """
    outputs = {}
    for number, (size, anchors) in enumerate(zip(FEATURES, ANCHORS, strict=True)):
        scores = np.zeros((size * size * anchors, classes), np.float32)
        boxes = np.zeros((size * size * anchors, 4), np.float32)
        scores[:, 0] = 20
        if number == 1:
            scores[place, category] = 30
            boxes[place] = (1.0, -1.0, 5 * math.log(1.1), 5 * math.log(1.1))
        for name, listed in (("classes", scores), ("boxes", boxes)):
            each = listed.shape[1]
            if anchors_first:
                # (position, anchor, value) -> view(N, -1, K, H, W) of the convolution, torchvision's `ssd.py`
                maps = listed.reshape(size, size, anchors, each).transpose(2, 3, 0, 1)
            else:
                # (anchor, position, value) -> view(N, K, -1) of the convolution, `bbox_view` of NVIDIA's `model.py`
                maps = listed.T.reshape(each, anchors, size, size)
            outputs[f"{name}{number}"] = np.ascontiguousarray(maps).reshape(1, anchors * each, size, size)
    return outputs


@pytest.mark.parametrize("anchor", range(6))
@pytest.mark.parametrize("anchors_first", [True, False])
def test_boxes_of_ssd(anchor: int, anchors_first: bool) -> None:
    row, column = 12, 4
    position = row * 19 + column
    place = position * 6 + anchor if anchors_first else anchor * 361 + position
    detector = ssd.VGG16_DETECTOR if anchors_first else ssd.RESNET50_DETECTOR
    # COCO's id of a bear is 23; it is the 22nd of the 80.
    classes, category = (91, 23) if anchors_first else (81, 22)
    outputs = ssd_outputs(anchors_first, classes, place, category)
    (box,) = find_boxes(detector, outputs, (300, 300), WHOLE, PICTURE, 0.5)
    scale, following = 45 / 300, 99 / 300
    between = math.sqrt(scale * following)
    sizes = [(scale, scale), (between, between)]
    for ratio in (2, 3):
        sizes += [(scale * ratio**0.5, scale / ratio**0.5), (scale / ratio**0.5, scale * ratio**0.5)]
    width, height = sizes[anchor]
    x, y = (column + 0.5) * 16 / 300 + 0.1 * width, (row + 0.5) * 16 / 300 - 0.1 * height
    edges = (x - 0.55 * width, y - 0.55 * height, x + 0.55 * width, y + 0.55 * height)
    about(box, "bear", tuple(max(0.0, e) * s for e, s in zip(edges, (600, 400, 600, 400), strict=True)))
    assert box.score == pytest.approx(1.0, abs=1e-3)


def test_ssd_has_the_published_number_of_anchors() -> None:
    for detector in (ssd.VGG16_DETECTOR, ssd.RESNET50_DETECTOR):
        counts = [len(part.anchors) for part in detector.maps]
        assert sum(f * f * n for f, n in zip(FEATURES, counts, strict=True)) == 8732


@pytest.mark.parametrize("name", ["yolov2", "ssd-vgg16", "ssd-resnet50"])
def test_the_zoo_s_outputs_are_those_that_are_decoded(name: str) -> None:
    entry = next(entry for entry in zoo.entries() if entry.name == name)
    graph = zoo.build(name, entry.small_shape, width=0.25)
    assert isinstance(graph.detector, Detector)
    named = [
        output
        for part in graph.detector.maps
        for output in ([part.output] if isinstance(part, YoloMap) else [part.classes, part.boxes])
    ]
    assert named == list(graph.output_names)
    rng = np.random.default_rng(0)
    outputs = {n: 3 * rng.standard_normal(graph.tensors[n].shape, np.float32) for n in graph.output_names}
    found = find_boxes(graph.detector, outputs, entry.small, WHOLE, PICTURE, 0.1)
    assert found
    assert {box.name for box in found} <= set(coco_names().values())
    for part in graph.detector.maps:
        if isinstance(part, SsdMap):
            assert graph.tensors[part.boxes].shape[1] == 4 * len(part.anchors)
        else:
            assert graph.tensors[part.output].shape[1] == 85 * len(part.anchors)


def test_what_the_model_saw_of_the_picture_is_where_its_boxes_lie() -> None:
    outputs = yolo_outputs(2, row=8, column=3, category=0)
    (box,) = find_boxes(yolo.DETECTOR, outputs, (416, 416), (100.0, 0.0, 500.0, 400.0), PICTURE, 0.5)
    about(box, "person", (100 + 400 * 0.175, 400 * 0.5575, 100 + 400 * 0.425, 400 * 0.6825))


def test_of_boxes_that_overlap_the_surest_is_left() -> None:
    edges = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [0, 6, 10, 16], [50, 50, 60, 60]], np.float64)
    assert suppressed(edges, np.array([0.6, 0.9, 0.8, 0.1])).tolist() == [1, 2, 3]
    assert suppressed(edges[:0], np.zeros(0)).tolist() == []


def test_no_more_than_so_many_boxes() -> None:
    cells = np.zeros((5, 85, 20, 20), np.float32)
    cells[0, 2:4] = -9
    cells[:, 4] = -20
    cells[0, 4], cells[0, 5] = 5, 20
    found = find_boxes(yolo.DETECTOR, {"detections": cells.reshape(1, 425, 20, 20)}, (640, 640), WHOLE, PICTURE, 0.5)
    assert len(found) == MOST_BOXES


def test_outputs_that_are_no_numbers_have_no_boxes() -> None:
    outputs = yolo_outputs(0, 8, 3, 0)
    outputs["detections"][0, 0, 0, 0] = np.nan
    with pytest.raises(MediaError, match="NaN or infinite"):
        find_boxes(yolo.DETECTOR, outputs, (416, 416), WHOLE, PICTURE, 0.5)


def test_names_of_coco() -> None:
    names = coco_names()
    assert len(names) == len(set(names.values())) == 80
    assert (names[1], names[90], list(names.values())[16]) == ("person", "toothbrush", "dog")
    assert set(range(1, 91)) - set(names) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    pixels = np.full((200, 300, 3), 128, np.uint8)
    annotate(pixels, [Box("dog", 0.9, 100, 80, 200, 160), Box("cat", 0.4, 0, 0, 299, 199)], tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as opened:
        drawn = np.asarray(opened).astype(int)
    assert drawn.shape == (200, 300, 3)
    changed = np.abs(drawn - 128).max(axis=2) > 40
    assert changed[120, 100]
    assert changed[159:161, 150].any()
    assert changed[199, 30]
    assert not changed[85:155, 110:190].any()
    for row, column in itertools.product((100, 150), (20, 280)):
        assert not changed[row, column]
    with pytest.raises(FileError, match="cannot write the picture"):
        annotate(pixels, [], tmp_path / "absent" / "a.jpg")
