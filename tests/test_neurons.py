"""Set algebra of neuron sets against Python's own sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracker.neurons import NeuronSet, change

SHAPE = (3, 7)
UNITS = [(layer, unit) for layer in range(SHAPE[0]) for unit in range(SHAPE[1])]
sets = st.sets(st.sampled_from(UNITS))


def of(units: set[tuple[int, int]]) -> NeuronSet:
    return NeuronSet.of(units, SHAPE)


@given(sets, sets)
def test_operations_are_those_of_sets(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> None:
    assert set((of(a) | of(b)).units()) == a | b
    assert set((of(a) & of(b)).units()) == a & b
    assert set((of(a) - of(b)).units()) == a - b
    assert set((of(a) ^ of(b)).units()) == a ^ b
    assert set((~of(a)).units()) == set(UNITS) - a
    assert len(of(a)) == len(a)
    assert (of(a) == of(b)) == (a == b)
    assert all((u in of(a)) == (u in a) for u in UNITS)
    if a == b:
        assert hash(of(a)) == hash(of(b))


@given(sets, sets)
def test_jaccard_and_change(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> None:
    j = of(a).jaccard(of(b))
    assert np.isnan(j) if not a | b else j == len(a & b) / len(a | b)
    moved = change(of(a), of(b))
    for layer in range(SHAPE[0]):
        assert moved.births[layer] == sum(u[0] == layer for u in b - a)
        assert moved.deaths[layer] == sum(u[0] == layer for u in a - b)
        assert moved.survivors[layer] == sum(u[0] == layer for u in a & b)


@given(sets, st.integers(0, 100))
def test_random_like_keeps_the_number_per_layer(a: set[tuple[int, int]], seed: int) -> None:
    drawn = of(a).random_like(np.random.default_rng(seed))
    assert drawn.per_layer().tolist() == of(a).per_layer().tolist()


def test_expected_overlap_is_the_mean_over_random_sets() -> None:
    a, b = of({(0, 0), (0, 1), (0, 2), (1, 4)}), of({(0, 5), (0, 6), (2, 1)})
    rng = np.random.default_rng(0)
    overlaps = [len(a.random_like(rng) & b.random_like(rng)) for _ in range(4000)]
    assert abs(np.mean(overlaps) - a.expected_overlap(b)) < 4 * np.std(overlaps) / 4000**0.5
