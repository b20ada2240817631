"""Exploration: how epsilon falls and what the noise is."""

from __future__ import annotations

import numpy as np
import pytest

from distredge.agents.noise import EpsilonNoise, EpsilonNoises


def _after(episodes: int, **arguments: float) -> EpsilonNoise:
    noise = EpsilonNoise(**{"n_actions": 3, "variance": 0.1, "decay": 1 / 250, "seed": 0, **arguments})  # type: ignore[arg-type]
    for _ in range(episodes + 1):
        noise.reset()
    return noise


@pytest.mark.parametrize(("episode", "epsilon"), [(0, 1.0), (25, 0.99), (125, 0.75), (250, 0.0), (4000, 0.0)])
def test_epsilon_falls_with_the_square_of_episodes(episode: int, epsilon: float) -> None:
    assert _after(episode).epsilon == pytest.approx(epsilon, abs=1e-12)


def test_every_step_decides_anew() -> None:
    noise = _after(125)
    drawn = np.array([noise() for _ in range(4000)])
    silent = (drawn == 0).all(axis=1)
    assert silent.mean() == pytest.approx(0.25, abs=0.03)
    assert drawn[~silent].std() == pytest.approx(0.1**0.5, rel=0.03)
    assert drawn.dtype == np.float32
    # A step without noise may follow one with noise within an episode.
    assert (silent[1:] & ~silent[:-1]).any()


def test_always_noise_at_first_and_none_in_the_end() -> None:
    assert all(_after(0)().any() for _ in range(50))
    late = _after(250)
    assert not any(late().any() for _ in range(50))


def test_its_random_numbers_are_its_own() -> None:
    one, other = _after(10), _after(10)
    first = [one() for _ in range(5)]
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    assert np.array_equal(first, [other() for _ in range(5)])
    assert not np.array_equal(first, [_after(10, seed=1)() for _ in range(5)])


def test_environments_that_step_together() -> None:
    noises = EpsilonNoises(_after(-1), 3)
    noises.reset()
    assert noises.epsilon == 1.0
    drawn = noises()
    assert drawn.shape == (3, 3)
    assert len({row.tobytes() for row in drawn}) == 3
    noises.reset(indices=[0, 2])
    assert noises.epsilon == pytest.approx(1 - (2 / 250) ** 2)
