"""What a stage needs from one source travels as one message."""

from __future__ import annotations

from distredge.model import zoo
from distredge.model.laying_out import lay_out_decisions
from distredge.model.messages_of_layout import messages_of_layout
from distredge.model.rows import even_cuts
from distredge.model.volumes import Decision


def test_every_transfer_is_in_the_one_message_of_its_stage_and_its_ends() -> None:
    graph = zoo.build("resnet18", (1, 3, 97, 64), width=0.125)
    wide = next(cut for cut in graph.cuts if len(cut.tensors) == 2)
    last = graph.cuts[-1]
    decisions = [Decision(cut, even_cuts(cut.height, 3)) for cut in (wide, last)]
    layout = lay_out_decisions(graph, ("a", "b", "c"), decisions, 1)
    messages = messages_of_layout(layout)
    assert max(len(transfers) for transfers in messages.values()) > 1
    assert sorted(t for transfers in messages.values() for t in transfers) == sorted(layout.transfers)
    for key, transfers in messages.items():
        assert {(t.stage, t.source, t.destination) for t in transfers} == {key}
        assert list(transfers) == [t for t in layout.transfers if t in transfers]
    assert {key.source == key.destination for key in messages} == {False, True}
