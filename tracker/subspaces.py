"""Language-agnostic and language-specific subspaces of mean hidden states (methods 6).

Zhao et al. 2024, "Lens: Rethinking Multilingual Enhancement for Large Language Models"
(arXiv 2410.04407). Plain arrays in, plain arrays out: no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Subspaces:
    """What the mean hidden states of several languages share, and where they differ."""

    agnostic: Floats
    """[d] `m'`; all 0 where the affine hull of the means passes through the origin."""
    specific: Floats
    """[d, r] orthonormal, by falling singular value, all of it orthogonal to `agnostic`."""
    singular_value: Floats
    """[r] of `M^ - m'1^T`."""

    def distances(self, difference: Floats) -> tuple[Floats, Floats]:
        """Lengths of `difference` [..., d] along the agnostic direction and in the specific basis.

        The first is NaN where there is no agnostic direction.
        """
        length = float(np.linalg.norm(self.agnostic))
        along = np.abs(difference @ self.agnostic) / length if length else np.nan
        inside: Floats = np.linalg.norm(difference @ self.specific, axis=-1)
        return np.broadcast_to(along, inside.shape).astype(np.float64), inside


def fit_subspaces(means: Floats, rank: int | None = None, rcond: float = 1e-10) -> Subspaces:
    """Split the space that `means` [d, C], one column per language, span (methods 6, steps 1-3).

    With `m = M1/C`, `M - m1^T = U Σ V^T` and `Γ = V_r Σ_r`, the rank-limited means are
    `M^ = m1^T + U_r Γ^T`; `m' = pinv(M^)^T 1`, `m' <- m'/||m'||^2`; the specific basis is the
    top-r left singular vectors of `M^ - m'1^T`.

    `V_r` is orthogonal to 1, so `M^^T m' = ||m'||^2 1` has the solution `m' = m - U_r U_r^T m`,
    which is the one of least norm: for **every** rank, not only the full one, `m'` is the point
    nearest the origin of the affine hull of the columns of `M^`, the specific basis spans `U_r`,
    and the two are orthogonal. That form is computed here. It needs no inverse, so that languages
    with nearly equal means do no harm, and never more than the thin d x C matrix.
    Where `m` lies in the span of `U_r` (C > d, or means that cancel) the point nearest the origin
    is 0, and so is `agnostic`; the pseudo-inverse would return a direction inside the specific
    subspace there.

    Args:
        means: Mean hidden state per language.
        rank: `r`; None: C - 1, the largest.
        rcond: Directions in which the means differ by less than this part of their Frobenius norm
            are rounding and left out, so the basis may be narrower than `rank` (equal means).

    Raises:
        UserError: One language, or a rank that C languages cannot have.
    """
    assert means.ndim == 2, means.shape
    assert np.isfinite(means).all(), "means that are not finite"
    rank = check_rank(means.shape[1], rank)
    m = means.mean(1)
    u, s, vt = np.linalg.svd(means - m[:, None], full_matrices=False)
    real = np.flatnonzero(s[:rank] > rcond * np.linalg.norm(means))
    u, gamma = u[:, real], s[real, None] * vt[real]
    inside = u.T @ m
    nearest = m - u @ inside
    nearest -= u @ (u.T @ nearest)  # once more: the first pass leaves rounding of the size of m
    if np.linalg.norm(nearest) <= rcond * np.linalg.norm(m):
        nearest = np.zeros_like(m)
    if not len(real):
        return Subspaces(nearest, u, np.zeros(0))
    turn, values, _ = np.linalg.svd(inside[:, None] + gamma, full_matrices=False)
    return Subspaces(nearest, u @ turn, values)


def check_rank(languages: int, rank: int | None) -> int:
    """The rank to use for `languages` means.

    Raises:
        UserError: One language, or a rank outside 1 to `languages` - 1.
    """
    if languages < 2:
        raise UserError(
            "subspaces: one language has no language-specific subspace; give at least two"
        )
    if rank is None:
        return languages - 1
    if not 1 <= rank < languages:
        raise UserError(
            f"rank={rank}: the means of {languages} languages differ in at most {languages - 1} "
            f"directions; choose 1 to {languages - 1}, or null for all"
        )
    return rank
