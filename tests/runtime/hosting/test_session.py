"""A session on workers of this machine: deployed once, exact, and closed at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distredge.errors import ConfigError, ExecutionError
from distredge.runtime import deployment
from distredge.runtime.hosting.session import open_session
from distredge.runtime.in_process import run_in_process
from tests.runtime.conftest import DEVICES


@pytest.fixture(autouse=True)
def no_background_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_every_sub_model_is_made_once(problem, strategy, image, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_in_process(problem.graph, strategy, image)
    built: list[str] = []
    build = deployment.build

    def counted(graph: Any, strategy: Any, device: str, *more: Any) -> Any:
        built.append(device)
        return build(graph, strategy, device, *more)

    monkeypatch.setattr(deployment, "build", counted)
    with open_session(problem, strategy, "test") as session:
        assert (session.where, session.encrypted) == ("local", True)
        assert np.array_equal(session.coordinator.infer(image)["scores"], expected["scores"])
    assert built == list(DEVICES)
    with pytest.raises(ExecutionError, match="the coordinator was closed"):
        session.coordinator.infer(image)


def test_keys_do_not_apply_to_workers_of_this_machine(problem, strategy, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="--keys does not apply to cluster 'test'"),
        open_session(problem, strategy, "test", keys_path=tmp_path),
    ):
        pass
