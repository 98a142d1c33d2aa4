"""Sets of single parameters, matrix by matrix: chosen by importance, compared, located.

A set is an array of flat indices into a weight matrix as the model stores it, ascending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Places = Mapping[str, Ints]
"""Name of a weight matrix -> flat indices into it."""

NOWHERE: Ints = np.zeros(0, np.int64)

SAMPLE = 2**14
"""Entries of a matrix that tell where its highest ones begin."""

TOP_DIMENSIONS = 0.01
"""Share of rows or columns whose part of a region is told."""


@dataclass(frozen=True)
class RegionIndices:
    """The regions of one checkpoint."""

    core: Places
    bottom: Places
    language: tuple[Places, ...]
    """Top `k` of each language, in the order of the text's languages."""
    monolingual: tuple[Places, ...]
    """The same minus what is in any other language's."""
    importance_of_core: Mapping[str, NDArray[np.float32]]
    """Importance summed over languages at the core's parameters (nats)."""
    importance: Mapping[str, float]
    """The same summed over the whole matrix."""
    size: Mapping[str, int]
    """`k` of each matrix."""
    shape: Mapping[str, tuple[int, int]]
    """As stored."""
    input_first: frozenset[str]
    """Matrices stored [input, output] (GPT-2); all others are [output, input]."""

    def dimensions(self, name: str, places: Ints) -> tuple[Ints, Ints]:
        """(row, column) of flat indices: a row is an output dimension, however it is stored."""
        first, second = np.divmod(places, self.shape[name][1])
        return (second, first) if name in self.input_first else (first, second)

    def outputs_and_inputs(self, name: str) -> tuple[int, int]:
        """Number of rows (output dimensions) and of columns (input dimensions)."""
        first, second = self.shape[name]
        return (second, first) if name in self.input_first else (first, second)


def highest(importance: Tensor, k: int) -> Ints:
    """Flat indices of the `k` highest, ascending; no zeros, and ties go to the lower index."""
    return _top(importance.flatten(), k, least=0.0)


def lowest(importance: Tensor, k: int) -> Ints:
    """Flat indices of the `k` lowest, ascending; ties go to the lower index."""
    return _top(-importance.flatten(), k) if k else NOWHERE


def _top(flat: Tensor, k: int, least: float | None = None) -> Ints:
    """The `k` highest above `least`; `topk` alone leaves open which of several equal ones it takes.

    Nothing where `flat` holds NaN.
    """
    where = _candidates(flat, k)
    values = flat if where is None else flat[where]
    bar = values.topk(k, sorted=False).values.min()
    beyond, level = values > bar, values == bar
    if least is not None:
        level &= bar > least
    level = level.nonzero()[:, 0]
    beyond[level[: k - int(beyond.sum())]] = True
    chosen = beyond.nonzero()[:, 0]
    found: Ints = (chosen if where is None else where[chosen]).cpu().numpy()
    return found


def _candidates(flat: Tensor, k: int) -> Tensor | None:
    """Ascending places among which the `k` highest of `flat` [n] are; None: anywhere.

    A sample tells a value that about 2k entries exceed; where between k and n/8 do, all of the
    highest are among them. Several times faster than `topk` of millions on a CPU.
    """
    n = len(flat)
    sample = flat[:: n // SAMPLE + 1]
    rank = 2 * k * len(sample) // n + 16
    if n < 4 * SAMPLE or 8 * rank > len(sample) or bool(flat.sum().isnan()):
        return None
    where = (flat > sample.topk(rank, sorted=False).values.min()).nonzero()[:, 0]
    return where if k <= len(where) <= n // 8 else None


def at(values: Tensor, places: Ints) -> NDArray[np.float32]:
    """The values at flat indices."""
    index = torch.from_numpy(places).to(values.device)
    found: NDArray[np.float32] = values.flatten()[index].cpu().numpy()
    return found


def in_no_other(sets: Sequence[Ints]) -> list[Ints]:
    """Of each set, what is in none of the others."""
    union, count = np.unique(np.concatenate(sets), return_counts=True)
    alone = union[count == 1]
    return [np.intersect1d(s, alone, assume_unique=True) for s in sets]


def overlaps(sets: Sequence[Ints]) -> Ints:
    """[n, n] how much every two of n sets have in common."""
    union, place = np.unique(np.concatenate(sets), return_inverse=True)
    member = np.zeros((len(sets), union.size), np.bool_)
    member[np.repeat(np.arange(len(sets)), [len(s) for s in sets]), place] = True
    return np.array([[np.count_nonzero(a & b) for b in member] for a in member], np.int64)


def gini(counts: NDArray[np.integer[Any]]) -> Floats:
    """`sum_ij |x_i - x_j| / (2 n sum_i x_i)` over the last axis [..., n]; NaN where all are 0.

    0: every row holds equally much; `1 - 1/n`: one row holds all.
    """
    n = counts.shape[-1]
    weighted = (np.sort(counts, -1) * (2.0 * np.arange(1, n + 1) - n - 1)).sum(-1)
    return share_of(weighted, n * counts.sum(-1))


def top_share(counts: NDArray[np.integer[Any]]) -> Floats:
    """Share of the sum that the largest 1% of the last axis (at least one) hold."""
    most = max(1, round(TOP_DIMENSIONS * counts.shape[-1]))
    return share_of(np.sort(counts, -1)[..., -most:].sum(-1), counts.sum(-1))


def share_of(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """`part / whole`, NaN where the whole is 0."""
    share: Floats = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=share, where=whole != 0)
    return share
