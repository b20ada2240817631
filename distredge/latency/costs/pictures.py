"""What devices spend on a picture that comes to them in its file: decoding, and making the model's input of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distredge.model.layout import Layout
    from distredge.problem import Problem


def decoding_s(problem: Problem, layout: Layout) -> tuple[float, ...]:
    """Returns the seconds of one file on each device of a layout; 0 where rows are expected to come.

    It is the thread that computes that decodes, once an image, however many stages read the input.
    """
    takers = {transfer.destination for transfer in layout.transfers if transfer.is_file}
    if not takers:
        return (0.0,) * len(layout.devices)
    shape = problem.graph.tensors[problem.graph.input_names[0]]
    input_pixels = shape.height * shape.width
    costs = [problem.cluster.device(name).profile.pictures for name in layout.devices]
    return tuple(
        cost.s_per_pixel * layout.file_pixels + cost.s_per_input_pixel * input_pixels if index in takers else 0.0
        for index, cost in enumerate(costs)
    )
