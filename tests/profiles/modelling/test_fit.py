"""The command that fits the modelled boards."""

from __future__ import annotations

import json

import pytest

from distredge.profiles.modelling.boards import FITTED_TARGET
from distredge.profiles.modelling.fit import main


def test_the_command_prints_every_residual_and_a_line_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--board", "gtx1080ti"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("gtx1080ti") for line in lines) == 2
    figures = json.loads(lines[-1])
    assert figures["boards"] == 1
    assert figures["fitted_residual_max"] <= FITTED_TARGET
    with pytest.raises(SystemExit):
        main(["--board", "gtx1080"])
