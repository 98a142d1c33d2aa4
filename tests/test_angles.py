"""Angles between planted subspaces, and against random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.angles import BASIS, principal_angles, turns
from tracker.store import Record, Variable


def record(step: int, basis: np.ndarray | None) -> Record:
    group, _, name = BASIS.partition("/")
    dims = ("hidden_layer", "model_dim", "specific_rank")
    groups = {} if basis is None else {group: {name: Variable(dims, basis.astype(np.float32))}}
    return Record(Path(f"step-{step}.h5"), {"step": step}, "", groups)


def random_basis(rng: np.random.Generator, d: int, r: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, r)))[0]


def test_planted_angles_are_found() -> None:
    rng = np.random.default_rng(0)
    frame = random_basis(rng, 10, 4)
    planted = np.array([0.2, 1.1])
    before = frame[:, :2]
    after = before * np.cos(planted) + frame[:, 2:] * np.sin(planted)
    turned = after @ random_basis(rng, 2, 2)  # a subspace is not its basis
    bases = [np.stack([before, before]), np.stack([turned, before]), np.stack([frame[:, 2:]] * 2)]
    first, second = turns([record(s, b) for s, b in zip((0, 8, 16), bases, strict=True)])
    assert (first.before, first.after, second.before, second.after) == (0, 8, 8, 16)
    np.testing.assert_allclose(first.angle, [planted, [0, 0]], atol=1e-3)
    np.testing.assert_allclose(first.overlap, [np.mean(np.cos(planted) ** 2), 1], atol=1e-5)
    np.testing.assert_allclose(second.angle[0], np.sort(np.pi / 2 - planted), atol=1e-5)
    np.testing.assert_allclose(second.overlap[1], 0, atol=1e-6)
    np.testing.assert_allclose(second.random_overlap, 0.2)


def test_angles_are_the_singular_values_of_the_product() -> None:
    rng = np.random.default_rng(1)
    one, two = random_basis(rng, 12, 3), random_basis(rng, 12, 5)
    cosines = np.linalg.svd(one.T @ two, compute_uv=False)
    np.testing.assert_allclose(np.cos(principal_angles(one, two)), cosines, atol=1e-9)


@pytest.mark.parametrize("ranks", [(3, 3), (2, 5)])
def test_random_subspaces_overlap_as_expected(ranks: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)

    def padded(r: int) -> np.ndarray:
        bases = np.full((500, 20, 5), np.nan)
        bases[:, :, :r] = [random_basis(rng, 20, r) for _ in range(500)]
        return bases

    (turn,) = turns([record(s, padded(r)) for s, r in enumerate(ranks)])
    assert np.isfinite(turn.angle).sum(1).tolist() == [min(ranks)] * 500
    error = 4 * turn.overlap.std() / np.sqrt(500)
    assert abs(turn.overlap.mean() - turn.random_overlap[0]) < error


def test_what_is_not_there_is_nan() -> None:
    basis = random_basis(np.random.default_rng(3), 6, 2)[None]
    (turn,) = turns([record(0, basis), record(4, np.full_like(basis, np.nan))])
    assert np.isnan(turn.angle).all()
    assert np.isnan(turn.overlap).all()
    assert np.isnan(turn.random_overlap).all()
    assert turns([record(0, basis), record(4, None)]) == []
    assert turns([]) == []
