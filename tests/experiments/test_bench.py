"""What the benchmarks' commands accept."""

from __future__ import annotations

import pytest

from distredge.experiments.bench import planning


@pytest.mark.parametrize("size", [[], ["--quick"]])
@pytest.mark.parametrize("budget", ["-1", "0", "nan", "inf"])
def test_a_budget_that_is_none_is_refused(size: list[str], budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        planning._options([*size, "--budget", budget])
    assert end.value.code == 2
    assert "accepted: a number of seconds above 0" in capsys.readouterr().err


def test_a_quick_run_takes_the_budget_that_it_is_given() -> None:
    asked: list[list[str]] = [[], ["--quick"], ["--budget", "5"], ["--quick", "--budget", "5"]]
    assert [planning._options(arguments).budget for arguments in asked] == [60.0, 10.0, 5.0, 5.0]
