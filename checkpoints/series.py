"""A series: the ordered checkpoints of one pretraining run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from checkpoints.errors import UserError
from checkpoints.shelf import Shelf


@dataclass(frozen=True)
class Checkpoint:
    """One saved state of a training run."""

    step: int
    """Optimizer step (0 = untrained)."""
    path: Path
    """Folder with the weights, the model's config and, usually, the tokenizer."""
    revision: str = ""
    """Branch, tag or commit on a hub; the folder's name for a local series."""
    tokens: int | None = None
    """Tokens seen so far, all languages; None where unknown."""
    tokens_by_language: Mapping[str, int] = field(default_factory=dict)
    """Tokens seen so far per language, where the run recorded them."""

    def __post_init__(self) -> None:
        """Refuse what no optimizer can have done."""
        if self.step < 0:
            raise UserError(f"checkpoint {self.path}: step {self.step} is negative")
        if self.tokens is not None and self.tokens < 0:
            raise UserError(f"checkpoint {self.path}: {self.tokens} tokens is negative")


@dataclass(frozen=True)
class Series:
    """Checkpoints of one run in the order of their steps."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    pending: Mapping[int, str] = field(default_factory=dict)
    """Steps without a checkpoint to measure yet, and why; left for the next run."""
    suspects: Mapping[int, str] = field(default_factory=dict)
    """Steps left out because their weights are another step's, with what was found."""
    remarks: tuple[str, ...] = ()
    """What was found when the series was checked, a line each."""
    origin: str = ""
    """Where the checkpoints come from, whatever machine reads them; empty: their folder."""
    dtype: str | None = None
    """Type that the weights have to be read in where nobody asks for another."""
    shelf: Shelf = field(default_factory=Shelf, compare=False)
    """Has the weights of a checkpoint at hand."""

    def __post_init__(self) -> None:
        """Steps ascend strictly; tokens never fall."""
        steps = [c.step for c in self.checkpoints]
        for earlier, later in pairwise(self.checkpoints):
            if earlier.step == later.step:
                raise UserError(
                    f"series {self.name}: step {later.step} appears twice "
                    f"({earlier.path.name} and {later.path.name}); narrow series.pattern"
                )
        assert steps == sorted(steps), steps
        known = [c for c in self.checkpoints if c.tokens is not None]
        for earlier, later in pairwise(known):
            if (later.tokens or 0) < (earlier.tokens or 0):
                raise UserError(
                    f"series {self.name}: tokens fall from {earlier.tokens} at step "
                    f"{earlier.step} to {later.tokens} at step {later.step}; check tracker.json, "
                    "the pattern's group `tokens` or series.tokens_per_step"
                )

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return [c.step for c in self.checkpoints]

    def take(self, steps: Sequence[int]) -> Series:
        """The checkpoints at `steps` only."""
        have = {c.step: c for c in self.checkpoints}
        lacking = sorted(set(steps) - set(have) - set(self.pending) - set(self.suspects))
        if lacking:
            raise UserError(
                f"series {self.name} has no checkpoint at step {', '.join(map(str, lacking))}; "
                f"it has {shortened(self.steps)}"
            )
        chosen = tuple(have[s] for s in sorted(set(steps)) if s in have)
        pending = {s: why for s, why in self.pending.items() if s in set(steps)}
        return replace(self, checkpoints=chosen, pending=pending)

    def select(self, n: int, spacing: str = "log") -> Series:
        """`n` checkpoints, first and last included, evenly spaced in log(step) or in step."""
        if spacing not in ("log", "linear"):
            raise UserError(f"series.select.spacing={spacing}: choose log or linear")
        if n < 1:
            raise UserError(f"series.select.n={n}: choose at least 1")
        if n >= len(self.checkpoints):
            return self
        steps = np.asarray(self.steps, dtype=float)
        place = np.log(steps + _first_positive(steps)) if spacing == "log" else steps
        return self.take([int(steps[i]) for i in _spread(place, n)])


def _first_positive(steps: np.ndarray) -> float:
    positive = steps[steps > 0]
    return float(positive.min()) if positive.size else 1.0


def _spread(place: np.ndarray, n: int) -> list[int]:
    """Indices of `n` entries of ascending `place`, ends included, each nearest to an even grid.

    A grid point takes the nearest entry that is still free and leaves enough entries for the grid
    points after it, so that exactly `n` distinct entries come back.
    """
    if n == 1:
        return [len(place) - 1]
    chosen: list[int] = []
    for i, target in enumerate(np.linspace(place[0], place[-1], n)):
        first = chosen[-1] + 1 if chosen else 0
        last = len(place) - (n - i)
        chosen.append(first + int(np.argmin(np.abs(place[first : last + 1] - target))))
    return chosen


def shortened(steps: Sequence[int], most: int = 12) -> str:
    """Steps in a line: all of them, or the first, the last and how many."""
    if len(steps) <= most:
        return ", ".join(map(str, steps))
    head = ", ".join(map(str, steps[: most // 2]))
    tail = ", ".join(map(str, steps[-most // 2 :]))
    return f"{head}, ..., {tail} ({len(steps)} steps)"
