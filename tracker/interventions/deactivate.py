"""Deactivation: hold a language's units at 0 and see whose loss rises (methods 3).

For the language-specific units the expected picture is a matrix [deactivated, evaluated] whose
diagonal stands out (Tang et al. 2024, arXiv 2402.16438). For the transferring, bilingual and own
units (methods 4) the causal claim is about evidence, not loss: without the transferring units the
right word of the primary should lose its lead while reading `c`, without the own units the right
word of `c`. Each set is compared with random units outside it, as many in each layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.interventions import Subject
from tracker.interventions.arms import Arm, Effects, Folds, Reading, Trial, cross_fitted, effects
from tracker.interventions.edits import random_units, units_held
from tracker.interventions.evidence import PLACES, Evidence, EvidenceSums
from tracker.neurons import NeuronSet
from tracker.probes import require_whole
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.transferring import Transferring
from tracker.store import array

OF_PAIRS = ("transferring", "bilingual", "own")
"""Sets that compare a language with the primary: read on the text of these two alone."""

SOURCES: dict[str, type[Any]] = {
    "specific": Lape,
    "specific_absolute": Lape,
    "specific_equal": Lape,
    "important": Importance,
    **dict.fromkeys(OF_PAIRS, Transferring),
}
"""Set -> the probe that finds it."""


@dataclass(frozen=True)
class DeactivateResult(Effects):
    """Losses, and the evidence for the right word, under every arm."""

    written_language: NDArray[Any] = array("written_language", doc="primary, own")
    lens_place: NDArray[Any] = array("lens_place", doc="mean of the middle layers, output")
    evidence: NDArray[np.float64] = array(
        "arm", "language", "written_language", "lens_place", unit="logits",
        doc="right word against the other concepts' words; NaN where not read",
    )  # fmt: skip
    evidence_without: NDArray[np.float64] = array(
        "arm", "language", "written_language", "lens_place", "fold", unit="logits",
        doc="the same without each fold of documents",
    )  # fmt: skip


@dataclass(frozen=True)
class Deactivate:
    """Settings: which sets, and how many random controls each."""

    sets: tuple[str, ...] = ("specific",)
    controls: int = 3

    def __post_init__(self) -> None:
        """Refuse unknown sets."""
        for name in self.sets:
            if name not in SOURCES:
                raise UserError(
                    f"interventions.deactivate.sets: no set {name!r}; choose among "
                    f"{', '.join(SOURCES)}"
                )
        require_whole("interventions.deactivate", 1, controls=self.controls)

    @property
    def needs_concepts(self) -> bool:
        """Whether one of the sets rests on a concept table."""
        return any(name in OF_PAIRS for name in self.sets)

    def run(self, subject: Subject) -> DeactivateResult:
        """Deactivate every set of every language, one after another."""
        readouts = [] if subject.context.concepts is None else [Evidence()]
        found = cross_fitted(subject, partial(self._trials, subject), readouts)
        evidence, without = _evidence(list(found.values()), subject)
        return DeactivateResult(
            **effects(found),
            written_language=np.array(["primary", "own"], dtype=object),
            lens_place=np.array(PLACES, dtype=object),
            evidence=evidence,
            evidence_without=without,
        )

    def _trials(self, subject: Subject, folds: Folds) -> Iterator[Trial]:
        kinds = dict.fromkeys(SOURCES[name] for name in self.sets)
        probes = [subject.probe(kind) for kind in kinds]
        sums = subject.measure(probes, folds)
        found = {kind: s.result() for kind, s in zip(kinds, sums, strict=True)}
        p = subject.context.primary_index
        for name in self.sets:
            masks = getattr(found[SOURCES[name]], name)
            for c, language in enumerate(subject.context.text.languages):
                if name in OF_PAIRS and c == p:
                    continue
                read = (p, c) if name in OF_PAIRS else None
                yield from self._against_random(subject, NeuronSet(masks[c]), name, language, read)

    def _against_random(
        self,
        subject: Subject,
        units: NeuronSet,
        name: str,
        language: str,
        read: tuple[int, ...] | None,
    ) -> Iterator[Trial]:
        arm = Arm(name, language)
        yield Trial(arm, len(units), partial(units_held, subject.model, units), read)
        for r in range(self.controls):
            control = random_units(units, subject.generator(name, language, r))
            edit = partial(units_held, subject.model, control)
            yield Trial(replace(arm, control=r), len(control), edit, read)


def _evidence(
    readings: list[Reading], subject: Subject
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[arm, ...] the evidence, and [arm, ..., fold] without each fold; NaN without read-outs."""
    found = []
    shape = (len(subject.context.text.languages), 2, len(PLACES))
    for reading in readings:
        sums = reading.accumulators[1:]
        if sums and isinstance(sums[0], EvidenceSums):
            found.append(sums[0].result())
        else:
            nothing = np.full((*shape, subject.context.text.folds), np.nan)
            found.append((nothing[..., 0], nothing))
    return np.stack([f[0] for f in found]), np.stack([f[1] for f in found])
