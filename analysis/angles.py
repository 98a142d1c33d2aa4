"""How language-specific subspaces turn between checkpoints: principal angles (methods 6).

Large angles under steady distances mean that the languages stay as far apart, in other directions.
How large is large is told by random subspaces of the same dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import subspace_angles

from tracker.store import Record

Floats = NDArray[np.float64]
BASIS = "subspaces/specific_basis"


@dataclass(frozen=True)
class Turn:
    """What became of the specific subspaces from one checkpoint to the next, by hidden layer."""

    before: int
    """Step of the earlier checkpoint."""
    after: int
    angle: Floats
    """[hidden_layer, r] principal angles in radians, ascending; NaN beyond the narrower basis."""
    overlap: Floats
    """[hidden_layer] mean squared cosine of the angles: 1 the same subspace, 0 orthogonal ones."""
    random_overlap: Floats
    """[hidden_layer] its mean for a random subspace: dimension of the wider basis / d."""


def turns(records: Sequence[Record]) -> list[Turn]:
    """The steps between consecutive records that hold specific bases, one fewer than there are."""
    found = [(r.step, b) for r in records if (b := r.get(BASIS)) is not None]
    return [_turn(*before, *after) for before, after in pairwise(found)]


def _turn(step: int, basis: NDArray[np.float32], next_step: int, then: NDArray[np.float32]) -> Turn:
    assert basis.shape == then.shape, (basis.shape, then.shape)
    layers, width, rank = basis.shape
    angle = np.full((layers, rank), np.nan)
    random = np.full(layers, np.nan)
    for layer in range(layers):
        one, two = _known(basis[layer]), _known(then[layer])
        found = principal_angles(one, two)
        angle[layer, : len(found)] = found
        if len(found):
            random[layer] = max(one.shape[1], two.shape[1]) / width
    known = np.isfinite(angle)
    squares = np.where(known, np.cos(np.where(known, angle, 0.0)) ** 2, 0.0).sum(1)
    overlap = squares / np.where(known.any(1), known.sum(1), np.nan)
    return Turn(step, next_step, angle, overlap, random)


def _known(basis: NDArray[np.float32]) -> Floats:
    """The columns [d, r] that are there: a basis may be narrower than its array."""
    columns: Floats = basis[:, np.isfinite(basis).all(0)].astype(np.float64)
    return columns


def principal_angles(first: Floats, second: Floats) -> Floats:
    """Angles between two subspaces in radians, ascending, as many as the narrower has dimensions.

    The k-th is the smallest angle between a vector of each, orthogonal to the vectors of the
    angles before (Björck & Golub 1973; `scipy.linalg.subspace_angles`).
    """
    if not first.shape[1] or not second.shape[1]:
        return np.zeros(0)
    angles: Floats = subspace_angles(first, second)[::-1].astype(np.float64)
    return angles
