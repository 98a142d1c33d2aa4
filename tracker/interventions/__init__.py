"""Interventions: change one thing in a checkpoint, measure what follows, put it back.

An intervention is a frozen dataclass of settings with `needs_concepts`/`needs_corpus` where it
cannot do without a concept table or text to train on, and `run(subject)`, which returns a frozen
dataclass of arrays (`tracker.store.array`), as a probe's result is. Changes are made inside the
context managers of `tracker.interventions.edits`, which restore the model bit for bit.

What is changed is chosen on one half of the text and its effect is measured on the other half, and
the reverse (cross-fitting): otherwise units would be picked for the noise of the very documents
that then show their effect.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Accumulator, Context, Probe

FOLDS = 8
"""Folds of the text that interventions read."""

HALVES = (frozenset({0, 1, 4, 5}), frozenset({2, 3, 6, 7}))
"""Two halves of the folds, each with as many even as odd ones: a probe that compares even with odd
folds works on either."""

P = TypeVar("P")


@dataclass(frozen=True)
class Subject:
    """One checkpoint to change, and all that is needed to tell what follows."""

    model: LanguageModel
    context: Context
    tokenizer: Any
    step: int
    batch_tokens: int = 4096
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """The run's probes: sets are chosen with the run's own settings."""
    corpus: Mapping[str, Path] = field(default_factory=dict)
    """Language -> JSON lines to train on, of those that there are."""
    progress: Callable[[str], None] = lambda _: None
    """Told what is being done."""

    def probe(self, kind: type[P]) -> P:
        """The run's probe of this class, or one with the class's own defaults."""
        for probe in self.probes.values():
            if isinstance(probe, kind):
                return probe
        return kind()

    def measure(
        self,
        probes: Sequence[Probe],
        folds: Container[int] | None = None,
        languages: Container[int] | None = None,
        accumulators: Sequence[Accumulator] | None = None,
    ) -> list[Accumulator]:
        """One pass of the model as it is now (see `one_pass`)."""
        return one_pass(
            self.model, self.context, probes, self.batch_tokens, folds, languages, accumulators
        )

    def generator(self, *key: object) -> np.random.Generator:
        """Random numbers of their own for every `key`; the same at every checkpoint.

        A control that is drawn anew at every checkpoint would add its own noise to the evolution.
        """
        return np.random.default_rng([self.context.seed, zlib.crc32(repr(key).encode())])


class Intervention(Protocol):
    """A method and its settings."""

    def run(self, subject: Subject) -> Any:
        """A frozen dataclass of arrays (`tracker.store.array`); the model is left as it was."""
