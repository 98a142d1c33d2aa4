"""Loss and accuracy per document, and graded answers (methods 1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.late import Arrivals
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.store import array
from tracker.text import graded_positions, scored_bytes
from tracker.trace import Need, Trace


@dataclass(frozen=True)
class PerformanceResult:
    """Per-document sums, from which every mean and interval follows without the model."""

    graded_kind: NDArray[Any] = array("graded_kind", doc="kind of graded answer")
    nll: NDArray[np.float64] = array("document", unit="nats", doc="summed NLL of scored tokens")
    token_count: NDArray[np.int64] = array("document", unit="tokens", doc="scored tokens")
    correct: NDArray[np.int64] = array("document", unit="tokens", doc="most likely token is right")
    byte_count: NDArray[np.int64] = array("document", unit="bytes", doc="UTF-8 of scored tokens")
    document_language: NDArray[Any] = array("document", doc="language of the document")
    document_fold: NDArray[np.int64] = array("document", doc="fold of the document")
    unigram_entropy: NDArray[np.float64] = array("language", unit="nats/token", doc="H_c")
    graded_correct: NDArray[np.int64] = array("document", "graded_kind", unit="answers")
    graded_count: NDArray[np.int64] = array("document", "graded_kind", unit="answers")
    graded_chance: NDArray[np.float64] = array(
        "language", "graded_kind", unit="share", doc="the commonest answer, given always"
    )


@dataclass(frozen=True)
class Performance:
    """Mean negative log-likelihood, next-token accuracy and graded answers."""

    group: str = "performance"
    needs: Need = Need.LOSS

    def start(self, context: Context, model: LanguageModel) -> PerformanceSums:
        """Empty sums."""
        return PerformanceSums(context, model.device)


class PerformanceSums:
    """Sums per document; documents read only for graded answers add nothing to the loss."""

    def __init__(self, context: Context, device: torch.device) -> None:
        self.text = context.text
        documents = len(self.text.documents)
        self.nll = torch.zeros(documents, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(documents, dtype=torch.int64, device=device)
        self.correct = torch.zeros(documents, dtype=torch.int64, device=device)
        self.graded = graded_positions(self.text)
        self.kinds = sorted({span.kind for _, span, _ in self.graded})
        self.by_row: dict[int, list[int]] = {}
        for index, (row, _, _) in enumerate(self.graded):
            self.by_row.setdefault(row, []).append(index)
        self.right = np.zeros((documents, len(self.kinds)), np.int64)
        self.asked = np.zeros((documents, len(self.kinds)), np.int64)
        self._arrivals = Arrivals()

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        batch = trace.batch
        if not batch.graded_only:
            self.nll.index_add_(0, batch.document, trace.nll.double().sum(1))
            self.tokens.index_add_(0, batch.document, batch.scored.sum(1))
            self.correct.index_add_(0, batch.document, trace.correct.sum(1))
        if any(row in self.by_row for row in batch.rows):
            self._arrivals.add(trace.correct, lambda here: self._grade(here, batch.rows))

    def _grade(self, correct: Tensor, rows: tuple[int, ...]) -> None:
        for i, row in enumerate(rows):
            for index in self.by_row.get(row, ()):
                _, span, positions = self.graded[index]
                place = self.text.rows[row].document, self.kinds.index(span.kind)
                self.asked[place] += 1
                self.right[place] += bool(correct[i, positions].all())

    def result(self) -> PerformanceResult:
        """Everything to the host."""
        self._arrivals.finish()
        text = self.text
        tokens = self.tokens.cpu().numpy()
        return PerformanceResult(
            graded_kind=np.array(self.kinds, dtype=object),
            nll=self.nll.cpu().numpy(),
            token_count=tokens,
            correct=self.correct.cpu().numpy(),
            byte_count=np.where(tokens > 0, scored_bytes(text), 0),
            document_language=np.array([d.language for d in text.documents], dtype=object),
            document_fold=text.document_fold,
            unigram_entropy=text.unigram_entropy(),
            graded_correct=self.right,
            graded_count=self.asked,
            graded_chance=self._chance(),
        )

    def _chance(self) -> NDArray[np.float64]:
        """Share of the commonest answer, NaN where a language is not asked: chance level."""
        answers: dict[tuple[int, str], Counter[str]] = {}
        for row, span, _ in self.graded:
            document = self.text.documents[self.text.rows[row].document]
            key = self.text.rows[row].language, span.kind
            answers.setdefault(key, Counter())[document.text[span.start : span.end]] += 1
        chance = np.full((len(self.text.languages), len(self.kinds)), np.nan)
        for (language, kind), given in answers.items():
            chance[language, self.kinds.index(kind)] = max(given.values()) / given.total()
        return chance
