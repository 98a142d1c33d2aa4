"""Lineage of neuron sets: births, deaths and survival between consecutive checkpoints (methods 4).

Large turnover under a steady count means that a set is replaced, not kept; how much turnover is
large is told by random sets with the same number of units per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tracker.neurons import NeuronSet, change


@dataclass(frozen=True)
class Step:
    """What became of a set from one checkpoint to the next, all layers together (units)."""

    count: int
    """At the later checkpoint."""
    births: int
    deaths: int
    survivors: int
    expected_survivors: float
    """Mean of random sets with the same number of units per layer."""
    jaccard: float
    """|both| / |either|; NaN for two empty sets."""
    random_jaccard: float
    """The same with the expected number of survivors."""


def lineage(sets: Sequence[NeuronSet]) -> list[Step]:
    """The steps between consecutive sets, one fewer than there are sets."""
    return [_step(before, after) for before, after in pairwise(sets)]


def _step(before: NeuronSet, after: NeuronSet) -> Step:
    moved = change(before, after)
    expected = before.expected_overlap(after)
    either = len(before) + len(after) - expected
    return Step(
        count=len(after),
        births=int(moved.births.sum()),
        deaths=int(moved.deaths.sum()),
        survivors=int(moved.survivors.sum()),
        expected_survivors=expected,
        jaccard=before.jaccard(after),
        random_jaccard=expected / either if either else float(np.nan),
    )
