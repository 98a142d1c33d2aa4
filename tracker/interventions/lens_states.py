"""Mean hidden states of parallel documents, for the Lens objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from checkpoints.errors import UserError
from tracker.document_means import parallel_documents
from tracker.interventions import HALVES
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.text import ProbeText
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def parallel_rows(text: ProbeText, least: int) -> Ints:
    """[meaning, language] first row of the documents that every language has.

    Raises:
        UserError: One half of the text has fewer than `least`.
    """
    table = parallel_documents(text)
    common = table[(table >= 0).all(1)]
    first = np.full(len(text.documents), -1)
    for index in range(len(text.rows) - 1, -1, -1):
        first[text.rows[index].document] = index
    rows: Ints = first[common]
    for half in HALVES:
        found = int(inside(text, rows, half).sum())
        if found < least:
            raise UserError(
                f"intervention=lens: {found} documents of a half of the text exist in all of "
                f"{', '.join(text.languages)}, and a batch needs {least}; give text whose "
                "translations share an id, fewer languages=[...], more text.tokens_per_language, "
                "or a smaller interventions.lens.batch_size"
            )
    return rows


def inside(text: ProbeText, rows: Ints, folds: frozenset[int]) -> NDArray[np.bool_]:
    """[meaning] whether it lies in these folds; translations share one."""
    return np.array([text.rows[r].fold in folds for r in rows[:, 0]], np.bool_)


def mean_states(hidden: Tensor, real: Tensor) -> Tensor:
    """[row, d] mean of `hidden` [row, token, d] over the tokens that are `real`."""
    weight = (real / real.sum(1, keepdim=True)).to(hidden)
    return torch.bmm(weight[:, None], hidden)[:, 0]


def states(model: LanguageModel, text: ProbeText, rows: Ints) -> Tensor:
    """[row, d] mean states of rows of the text, read where the head reads."""
    ids = [torch.from_numpy(text.rows[r].ids) for r in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(model.device)
    place = torch.arange(padded.shape[1], device=model.device)
    length, prefix = (
        torch.tensor(n, device=model.device)[:, None]
        for n in ([len(i) for i in ids], [text.rows[r].prefix for r in rows])
    )
    hidden = model.trunk(padded, (place < length).long())
    return mean_states(hidden, (place >= prefix) & (place < length))


def states_of_all(model: LanguageModel, text: ProbeText, rows: Ints, batch_tokens: int) -> Tensor:
    """[row, d] the same for any number of rows, as many at a time as fit `batch_tokens`."""
    each = max(1, batch_tokens // max(len(text.rows[r].ids) for r in rows))
    with torch.no_grad():
        parts = [states(model, text, rows[i : i + each]) for i in range(0, len(rows), each)]
    return torch.cat(parts)


@dataclass(frozen=True)
class StatesProbe:
    """Read-out of the mean states of parallel documents, of those read in this pass."""

    rows: Ints
    """[meaning, language]."""
    group: str = "states"
    needs: Need = Need.RESIDUAL

    def start(self, context: Context, model: LanguageModel) -> StateSums:
        """Empty sums."""
        return StateSums(self.rows, context, model)


class StateSums:
    """Sums over documents per fold and language."""

    def __init__(self, rows: Ints, context: Context, model: LanguageModel) -> None:
        self.wanted = np.zeros(len(context.text.rows), np.bool_)
        self.wanted[rows] = True
        shape = context.text.folds, len(context.text.languages)
        width = model.writing(0).shape[1]
        self.sum = torch.zeros((*shape, width), dtype=torch.float64)
        self.count = torch.zeros(shape, dtype=torch.int64)

    def update(self, trace: Trace) -> None:
        """Add the rows that are wanted."""
        batch = trace.batch
        if batch.graded_only:
            return
        kept = torch.from_numpy(np.flatnonzero(self.wanted[list(batch.rows)]))
        place = kept.to(batch.real.device)
        hidden = trace.model.norm.of(trace.residual[-1][place])
        mean = mean_states(hidden, batch.real[place]).double().cpu()
        fold = batch.on_host.fold[kept]
        self.sum[:, batch.language].index_add_(0, fold, mean)
        self.count[:, batch.language].index_add_(0, fold, torch.ones_like(fold))

    def result(self) -> tuple[Tensor, Tensor]:
        """Sum [fold, language, d] and count [fold, language]."""
        return self.sum, self.count

    def means_outside(self, folds: frozenset[int]) -> Floats:
        """[language, d] mean states of the documents in all folds but these."""
        kept = [f for f in range(len(self.count)) if f not in folds]
        count = self.count[kept].sum(0)
        mean: Floats = (self.sum[kept].sum(0) / count[:, None]).numpy()
        return mean
