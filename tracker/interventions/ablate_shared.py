"""How much of a language's competence runs on the primary's units (none of the papers has it).

`N_c` are the units that matter most for the loss on language `c` (`Importance`), `N_p` those of the
primary, `X_c = N_c ∩ N_p` the shared ones. Held at 0, the shared part of the competence is

    ratio = ΔNLL_c(X_c off) / ΔNLL_c(N_c off),

near 1 where `c` runs on the primary's units, and 0 where it has its own: the causal twin of a curve
that falls when a shared system splits. It means nothing by itself, since top units hurt anything
when removed and `X_c` may just be the larger part, or the better part, of `N_c`. So two
comparisons stand beside it:

- `shared_matched` against `unshared_matched`: pairs of a unit of `X_c` with a unit of `N_c \\ N_p`
  of the same layer and of like importance for `c`, without replacement (`matched`). Where a layer
  has too few of either kind, or none of like importance, the rest stays out of both arms, so that
  they remove as many units from every layer, and about as much importance.
- random units, as many in each layer as `X_c` has.

The ratios are left to whoever reads the record: the losses are kept per document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tracker.interventions import HALVES, Subject
from tracker.interventions.arms import Arm, Effects, Folds, Reading, Trial, cross_fitted, effects
from tracker.interventions.edits import random_units, units_held
from tracker.neurons import NeuronSet
from tracker.probes import require_number, require_whole
from tracker.probes.importance import Importance, ImportanceResult
from tracker.store import array
from tracker.text import ProbeText

Floats = NDArray[np.float64]
Sets = dict[Arm, NeuronSet]

LANGUAGE, SHARED = "language", "shared"
SHARED_MATCHED, UNSHARED_MATCHED = "shared_matched", "unshared_matched"


@dataclass(frozen=True)
class AblateSharedResult(Effects):
    """Losses under every arm, and how much importance each arm removes.

    `arm_importance` is what the matching made equal; `arm_importance_read` is the same units'
    importance on the documents whose loss is read, which the matching has not seen.
    """

    arm_importance: Floats = array(
        "arm", "language", unit="nats/token",
        doc="summed importance of the units on each language's text, where they were chosen",
    )  # fmt: skip
    arm_importance_read: Floats = array(
        "arm", "language", unit="nats/token", doc="the same where the loss is read"
    )


@dataclass(frozen=True)
class AblateShared:
    """Settings: how alike a matched pair must be, and how many random controls."""

    caliper: float = 1.25
    """Largest ratio of the two importances of a pair."""
    controls: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        require_number("interventions.ablate_shared", 1, caliper=self.caliper)
        require_whole("interventions.ablate_shared", 1, controls=self.controls)

    def run(self, subject: Subject) -> AblateSharedResult:
        """Remove the shared units of every language, and what they are compared with."""
        probe = subject.probe(Importance)
        found: dict[Folds, ImportanceResult] = {
            half: subject.measure([probe], half)[0].result() for half in HALVES
        }
        sets = {half: self._sets(subject, found[half]) for half in HALVES}
        readings = cross_fitted(subject, partial(_trials, subject, sets))
        per_token = {h: _per_token(found[h], subject.context.text, h) for h in HALVES}
        here = [_removed(readings, sets[h], per_token[h]) for h in HALVES]
        there = [
            _removed(readings, sets[h], per_token[g])
            for h, g in zip(HALVES, HALVES[::-1], strict=True)
        ]
        return AblateSharedResult(
            **effects(readings),
            arm_importance=np.mean(here, axis=0),
            arm_importance_read=np.mean(there, axis=0),
        )

    def _sets(self, subject: Subject, found: ImportanceResult) -> Sets:
        important = [NeuronSet(mask) for mask in found.important]
        primary = important[subject.context.primary_index]
        sets = {}
        for c in subject.context.others:
            language = subject.context.text.languages[c]
            shared, unshared = important[c] & primary, important[c] - primary
            pair = matched(shared, unshared, found.importance[c], self.caliper)
            sets[Arm(LANGUAGE, language)] = important[c]
            sets[Arm(SHARED, language)] = shared
            sets[Arm(SHARED_MATCHED, language)], sets[Arm(UNSHARED_MATCHED, language)] = pair
            for r in range(self.controls):
                generator = subject.generator(SHARED, language, r)
                control = Arm(SHARED, language, control=r)
                sets[control] = random_units(shared, generator)
        return sets


def matched(
    first: NeuronSet, second: NeuronSet, score: NDArray[np.floating[Any]], caliper: float
) -> tuple[NeuronSet, NeuronSet]:
    """The parts of two disjoint sets that can be paired within a layer, unit by unit.

    As many pairs as there can be whose scores differ by a factor of `caliper` at most; among these
    pairings the one with the smallest sum of `|ln score_1 - ln score_2|` (an optimal assignment:
    taking the nearest one after another would leave the last units unlike partners).

    Args:
        first: One set.
        second: The other.
        score: [layer, unit], positive on both sets.
        caliper: At least 1.

    Returns:
        As many units of `first` and of `second` in every layer.
    """
    assert not first & second, "the sets share units"
    masks = np.zeros((2, *first.mask.shape), np.bool_)
    for layer in np.flatnonzero(first.mask.any(1) & second.mask.any(1)):
        here, there = np.flatnonzero(first.mask[layer]), np.flatnonzero(second.mask[layer])
        rows, columns = _paired(score[layer, here], score[layer, there], caliper)
        masks[0, layer, here[rows]] = True
        masks[1, layer, there[columns]] = True
    return NeuronSet(masks[0]), NeuronSet(masks[1])


def _paired(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], caliper: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices into the two of the pairs."""
    assert min(first.min(), second.min()) > 0, "importance must be positive"
    logs = [np.log(np.asarray(s, np.float64)) for s in (first, second)]
    distance = np.abs(logs[0][:, None] - logs[1])
    alike = distance <= np.log(caliper)
    # One pair that is not allowed costs more than all allowed ones together.
    forbidden = 1.0 + np.log(caliper) * min(distance.shape)
    rows, columns = linear_sum_assignment(np.where(alike, distance, forbidden))
    kept = alike[rows, columns]
    return rows[kept], columns[kept]


def _trials(subject: Subject, sets: dict[Folds, Sets], folds: Folds) -> Iterator[Trial]:
    languages = subject.context.text.languages
    for arm, units in sets[folds].items():
        c = languages.index(arm.target)
        read = (subject.context.primary_index, c) if arm.edit == SHARED else (c,)
        yield Trial(arm, len(units), partial(units_held, subject.model, units), read)


def _per_token(found: ImportanceResult, text: ProbeText, folds: Folds) -> Floats:
    """[language, layer, unit] importance per scored token of these folds."""
    tokens = np.zeros(len(text.languages))
    for row in text.rows:
        if row.fold in folds and not row.graded_only:
            tokens[row.language] += len(row.ids) - row.first_scored
    share: Floats = found.importance / np.maximum(tokens, 1)[:, None, None]
    return share


def _removed(readings: dict[Arm, Reading], sets: Sets, importance: Floats) -> Floats:
    """[arm, language] summed importance of each arm's units; nothing is 0."""
    nobody = NeuronSet(np.zeros_like(importance[0], np.bool_))
    masks = [sets.get(arm, nobody).mask for arm in readings]
    removed: Floats = np.array([importance[:, mask].sum(1) for mask in masks])
    return removed
