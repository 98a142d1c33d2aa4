"""Sets of MLP units and their algebra."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """A set of MLP units of one model: a mask [layer, unit].

    `|`, `&`, `-`, `^` and `~` are the set operations; sets of models of different shape do not mix.
    """

    mask: Mask

    def __post_init__(self) -> None:
        """A mask is two-dimensional and boolean."""
        assert self.mask.ndim == 2, self.mask.shape
        assert self.mask.dtype == np.bool_, self.mask.dtype

    @classmethod
    def of(cls, units: Iterable[tuple[int, int]], shape: tuple[int, int]) -> NeuronSet:
        """The set of the given (layer index, unit index) pairs in a model of `shape`."""
        mask = np.zeros(shape, dtype=np.bool_)
        for layer, unit in units:
            mask[layer, unit] = True
        return cls(mask)

    def __len__(self) -> int:
        """Number of units."""
        return int(self.mask.sum())

    def __contains__(self, unit: tuple[int, int]) -> bool:
        """Whether (layer index, unit index) is in the set."""
        return bool(self.mask[unit])

    def __eq__(self, other: object) -> bool:
        """The same units of the same shape."""
        return isinstance(other, NeuronSet) and np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        """By the units."""
        return hash((self.mask.shape, self.mask.tobytes()))

    def __or__(self, other: NeuronSet) -> NeuronSet:
        """Units in either."""
        return NeuronSet(self.mask | self._other(other))

    def __and__(self, other: NeuronSet) -> NeuronSet:
        """Units in both."""
        return NeuronSet(self.mask & self._other(other))

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        """Units in this one only."""
        return NeuronSet(self.mask & ~self._other(other))

    def __xor__(self, other: NeuronSet) -> NeuronSet:
        """Units in exactly one."""
        return NeuronSet(self.mask ^ self._other(other))

    def __invert__(self) -> NeuronSet:
        """All other units."""
        return NeuronSet(~self.mask)

    def _other(self, other: NeuronSet) -> Mask:
        assert self.mask.shape == other.mask.shape, (self.mask.shape, other.mask.shape)
        return other.mask

    def units(self) -> list[tuple[int, int]]:
        """(layer index, unit index) of every unit, ascending."""
        return [(int(layer), int(unit)) for layer, unit in np.argwhere(self.mask)]

    def per_layer(self) -> NDArray[np.int64]:
        """Number of units in each layer."""
        counts: NDArray[np.int64] = self.mask.sum(axis=1, dtype=np.int64)
        return counts

    def jaccard(self, other: NeuronSet) -> float:
        """|both| / |either|; NaN for two empty sets."""
        either = len(self | other)
        return len(self & other) / either if either else float("nan")

    def expected_overlap(self, other: NeuronSet) -> float:
        """Mean |both| of random sets with the same number of units per layer."""
        width = self.mask.shape[1]
        return float((self.per_layer() * other.per_layer()).sum() / width)

    def random_like(self, generator: np.random.Generator) -> NeuronSet:
        """A random set with the same number of units in each layer."""
        mask = np.zeros_like(self.mask)
        for layer, count in enumerate(self.per_layer()):
            mask[layer, generator.choice(mask.shape[1], int(count), replace=False)] = True
        return NeuronSet(mask)


@dataclass(frozen=True)
class Change:
    """What became of a set between two consecutive checkpoints, per layer (units)."""

    births: NDArray[np.int64]
    deaths: NDArray[np.int64]
    survivors: NDArray[np.int64]


def change(before: NeuronSet, after: NeuronSet) -> Change:
    """Units that joined, left and stayed."""
    return Change(
        births=(after - before).per_layer(),
        deaths=(before - after).per_layer(),
        survivors=(before & after).per_layer(),
    )
