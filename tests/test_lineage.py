"""Lineage against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from analysis.lineage import lineage
from tracker.neurons import NeuronSet


def test_lineage_against_sets_of_units() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((3, 20)) < share for share in (0.3, 0.5, 0.1, 0.4)]
    units = [set(map(tuple, np.argwhere(m).tolist())) for m in masks]
    steps = lineage([NeuronSet(m) for m in masks])
    assert len(steps) == 3
    for step, (before, after) in zip(steps, pairwise(units), strict=True):
        assert step.count == len(after)
        assert step.births == len(after - before)
        assert step.deaths == len(before - after)
        assert step.survivors == len(before & after)
        assert step.jaccard == pytest.approx(len(before & after) / len(before | after))
        expected = sum(
            sum(u[0] == layer for u in before) * sum(u[0] == layer for u in after) / 20
            for layer in range(3)
        )
        assert step.expected_survivors == pytest.approx(expected)
        either = len(before) + len(after) - expected
        assert step.random_jaccard == pytest.approx(expected / either)


def test_random_sets_survive_as_expected() -> None:
    rng = np.random.default_rng(1)
    first = NeuronSet(rng.random((4, 50)) < 0.3)
    (one,) = lineage([first, first.random_like(rng)])
    survivors = [lineage([first, first.random_like(rng)])[0].survivors for _ in range(400)]
    assert abs(np.mean(survivors) - one.expected_survivors) < 4 * np.std(survivors) / 20


def test_empty_sets_have_no_jaccard() -> None:
    nothing = NeuronSet(np.zeros((2, 5), np.bool_))
    (step,) = lineage([nothing, nothing])
    assert np.isnan(step.jaccard)
    assert np.isnan(step.random_jaccard)
    assert lineage([nothing]) == []
