"""IPS that DistrEdge reports (Hou et al., IPDPS 2022, arXiv 2202.01699, figures 6 to 9), read off the bars.

Error about 0.3 IPS. `None`: the bar shows less than 1, or about 1, and cannot be read. Frames are sent one at a time,
so that IPS is 1 / mean latency.
"""

from __future__ import annotations

METHODS = ("coedge", "modnn", "mednn", "deepthings", "deeperthings", "aofl", "distredge", "offload")

Row = tuple[float | None, ...]

VGG16: dict[str, Row] = {
    "da-50": (3, 2, 4, 6, 7, 9, 13, 7),
    "db-50": (4, 4, 5, 8, 8, 11, 16, 9),
    "dc-50": (6, 6, 7, None, None, 7, 11, 10),
    "da-300": (5, 5, 5, 7, 14, 16, 21, 17),
    "db-300": (5.5, 5, 7, 8, 12, 16, 48, 39),
    "dc-300": (9, 8, 9, None, None, 18, 40, 40),
    "na-nano": (5, 2, 2, 8, 10, 9, 13, 8),
    "nb-nano": (5, 3, 3, 7, 10, 10, 12, 7),
    "nc-nano": (6, 5, 6, 9, 12, 14, 16, 8),
    "nd-nano": (4, 2.4, 3, 6, 8, 7, 12, 8),
    "na-xavier": (8.5, 3.6, 4.6, 22, 27, 30, 36, 32),
    "nb-xavier": (10, 8.5, 9.4, 25, 32, 35, 42, 33),
    "nc-xavier": (11, 9.6, 10.6, 44, 51, 52, 60, 37),
    "nd-xavier": (6.6, 4.9, 4.8, 21, 26, 30, 44, 32),
    "la": (5.8, 3.6, 3.6, 11, 16, 18, 23, 8),
    "lb": (6.6, 5.7, 6.7, None, None, 13, 27, 21),
    "lc": (5.7, 5.7, 5.7, None, None, 27, 56, 33),
    "ld": (10, 9, 9.6, None, None, 21, 59, 44.5),
}
"""Case -> IPS of each of `METHODS`."""

OTHERS: dict[tuple[str, str], Row] = {
    ("resnet50", "db-50"): (8.4, 7.6, 9, 21, 27, 36, 57, 34),
    ("inception-v3", "db-50"): (5.2, 5.2, 8.4, 14, 17, 25, 47, 26.5),
    ("yolov2", "db-50"): (3, 3.8, 4.7, 7, 11, 16, 21, 13),
    ("ssd-resnet50", "db-50"): (None, None, None, None, None, 6.5, 14, 4.5),
    ("ssd-vgg16", "db-50"): (None, None, None, None, None, 3.1, 6, 1.5),
    ("openpose", "db-50"): (3.3, 4.6, 3.6, 8.5, 11.6, 17, 21.5, 13),
    ("voxelnet", "db-50"): (None, None, None, None, None, None, 3.5, 1.5),
    ("resnet50", "na-nano"): (11, 5, 6.4, 31, 42, 40, 49, 31),
    ("inception-v3", "na-nano"): (6.4, 2.7, 2.9, 18, 28, 27.5, 37, 19),
    ("yolov2", "na-nano"): (4, 2.4, 1.4, 8.5, 11, 12.4, 14.8, 10),
    ("ssd-resnet50", "na-nano"): (2, 1, 1, 3.7, 6.3, 5.4, 10, 3.7),
    ("ssd-vgg16", "na-nano"): (None, None, None, 1, 2.7, 2.6, 4.6, 1.6),
    ("openpose", "na-nano"): (4.6, 2.2, 1.2, 7, 13, 12, 18, 8),
    ("voxelnet", "na-nano"): (None, None, None, None, None, 1.3, 2.9, 1),
}
"""(Model, case) -> IPS of each of `METHODS`."""


def cases() -> list[tuple[str, str]]:
    """All 32 cases as (model, cluster), the 18 of VGG-16 first."""
    return [("vgg16", case) for case in VGG16] + list(OTHERS)


def ips(model: str, cluster: str, method: str) -> float | None:
    """The published IPS of a method in a case; None where it is not reported or cannot be read."""
    row = VGG16[cluster] if model == "vgg16" else OTHERS[model, cluster]
    return row[METHODS.index(method)] if method in METHODS else None
