"""Removal: set a region's parameters to 0 and see whose loss rises (methods 5).

Zhang et al. 2024, "Unveiling Linguistic Regions in Large Language Models" (arXiv 2402.14700). What
is expected: without the core region (1% of every weight matrix) every language is lost, without the
bottom region or a random one hardly anything happens, and without the monolingual region of `c` the
loss of `c` rises more than that of the others: a matrix [removed, evaluated] whose diagonal stands
out. The loss is kept per document; perplexity is `exp` of its mean over tokens.

**Choices.** Regions are found on one half of the text and their removal is read on the other.
Controls hold as many random parameters of every matrix as the region, none of them in it. Beside
the paper's regions stands `largest`: as many parameters of every matrix as the core has, the
largest by absolute value. They need no gradient and no text, and where their removal does as much
harm as the core's, size explains what importance was to explain. Bottom and largest are of the
core's size in every matrix, so the core's random controls are theirs, too: they are read once, and
stand in the record under all three.

Importance has no sign: a region also holds parameters without which the loss would be lower. Of a
language that the model has not learnt (loss above its unigram entropy) these prevail, and removal
then helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tracker.interventions import HALVES, Subject
from tracker.interventions.arms import Arm, Effects, Folds, Reading, Trial, cross_fitted, effects
from tracker.interventions.choice import find_regions, region_probe, require_region
from tracker.interventions.edits import parameters_set, random_places
from tracker.probes import require_whole
from tracker.probes.regions import Regions
from tracker.regions import NOWHERE, Places, RegionIndices, highest
from tracker.store import array

CORE, BOTTOM, LARGEST, MONOLINGUAL = "core", "bottom", "largest", "monolingual"
OF_CORE_SIZE = (BOTTOM, LARGEST)
"""Compared with the core's random controls."""


@dataclass(frozen=True)
class RemoveResult(Effects):
    """Losses under every arm, and how sure the regions are."""

    top_fraction: NDArray[np.float64] = array(
        unit="share", doc="of every weight matrix that is a region"
    )
    parameter_count: NDArray[np.int64] = array(
        unit="parameters", doc="in the blocks' weight matrices, removed or not"
    )
    arm_overlap: NDArray[np.float64] = array(
        "arm", unit="share",
        doc="of a region found on one half, in that found on the other; NaN where it is no region",
    )  # fmt: skip


@dataclass(frozen=True)
class Remove:
    """Settings: how large regions are, and how many random controls each has."""

    top_fraction: float | None = None
    """Of every weight matrix; None: as the run's regions probe has it."""
    controls: int = 3

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        require_region("interventions.remove", self.top_fraction)
        require_whole("interventions.remove", 1, controls=self.controls)

    def run(self, subject: Subject) -> RemoveResult:
        """Remove one region after another."""
        probe = region_probe(subject, "interventions.remove", self.top_fraction)
        regions: dict[Folds, dict[Arm, Places]] = {}

        def trials(folds: Folds) -> Iterator[Trial]:
            regions[folds] = _regions(subject, probe, folds)
            for arm, places in regions[folds].items():
                yield from self._against_random(subject, arm, places)

        found = cross_fitted(subject, trials)
        for edit in OF_CORE_SIZE:
            for r in range(self.controls):
                found[Arm(edit, control=r)] = found[Arm(CORE, control=r)]
        sizes = [matrix.numel() for matrix in subject.model.matrices.values()]
        return RemoveResult(
            **effects(found),
            top_fraction=np.asarray(probe.top_fraction),
            parameter_count=np.asarray(sum(sizes)),
            arm_overlap=_overlap(found, [regions[half] for half in HALVES]),
        )

    def _against_random(self, subject: Subject, arm: Arm, places: Places) -> Iterator[Trial]:
        yield _removal(subject, arm, places)
        for r in range(0 if arm.edit in OF_CORE_SIZE else self.controls):
            generator = subject.generator("remove", arm.edit, arm.target, r)
            control = random_places(subject.model, places, generator)
            yield _removal(subject, replace(arm, control=r), control)


def _regions(subject: Subject, probe: Regions, folds: Folds) -> dict[Arm, Places]:
    found = find_regions(subject, probe, folds)
    alone = zip(subject.context.text.languages, found.monolingual, strict=True)
    return {
        Arm(CORE): found.core,
        Arm(BOTTOM): found.bottom,
        Arm(LARGEST): _largest(subject, found),
        **{Arm(MONOLINGUAL, language): places for language, places in alone},
    }


def _largest(subject: Subject, like: RegionIndices) -> Places:
    found = {}
    for name, core in like.core.items():
        weight = subject.model.matrices[name].detach()
        found[name] = highest(weight.abs(), len(core)) if len(core) else NOWHERE
    return found


def _removal(subject: Subject, arm: Arm, places: Places) -> Trial:
    return Trial(arm, _size(places), partial(parameters_set, subject.model, places))


def _size(places: Places) -> int:
    return sum(len(flat) for flat in places.values())


def _overlap(found: dict[Arm, Reading], halves: list[dict[Arm, Places]]) -> NDArray[np.float64]:
    """[arm] `2 |A ∩ B| / (|A| + |B|)` of the regions A and B of the two halves."""
    first, second = halves
    share = np.full(len(found), np.nan)
    for place, arm in enumerate(found):
        if arm not in first:
            continue
        a, b = first[arm], second[arm]
        both = sum(np.intersect1d(a[name], b[name], assume_unique=True).size for name in a)
        size = _size(a) + _size(b)
        share[place] = 2 * both / size if size else np.nan
    return share
