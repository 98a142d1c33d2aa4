"""Mean hidden states of documents, and which documents are translations of each other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from numpy.typing import NDArray

from tracker.late import Arrivals
from tracker.model import LanguageModel
from tracker.text import ProbeText
from tracker.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIDDLE = (0.25, 0.9)
"""Depths l/n of the layers whose mean is a curve (methods 2)."""


def parallel_documents(text: ProbeText) -> Ints:
    """[meaning, language] index of the document that says it, -1 where a language has none.

    The n-th document of an id in one language goes with the n-th of that id in another. Documents
    read only for graded answers do not count. Nor does the last document of a language
    (**choice**): the budget may have ended in it, and half a text is no translation.
    """
    language = text.document_language
    main = [i for i, d in enumerate(text.documents) if not d.graded_only]
    last = {int(language[i]): i for i in main}
    row: dict[tuple[str, int], int] = {}
    seen: Counter[tuple[int, str]] = Counter()
    table = np.full((len(main), len(text.languages)), -1, np.int64)
    for i in main:
        c, name = int(language[i]), text.documents[i].id
        meaning = row.setdefault((name, seen[c, name]), len(row))
        seen[c, name] += 1
        if i != last[c]:
            table[meaning, c] = i
    return table[: len(row)]


def middle_layers(hidden_layers: int) -> Ints:
    """Indices of the middle hidden layers, `0.25 <= l/n <= 0.9`."""
    depth = np.arange(hidden_layers) / max(hidden_layers - 1, 1)
    return np.flatnonzero((depth >= MIDDLE[0]) & (depth <= MIDDLE[1]))


def middle_mean(values: Floats) -> Floats:
    """Mean over the middle layers of [..., hidden_layer]; NaN if there are none."""
    middle = middle_layers(values.shape[-1])
    if not len(middle):
        return np.full(values.shape[:-1], np.nan)
    mean: Floats = values[..., middle].mean(-1)
    return mean


def finite_or_nan(values: Floats) -> Floats:
    """Infinities of a checkpoint that diverged as NaN, which goes through sums without warning."""
    return np.where(np.isfinite(values), values, np.nan)


def group_sums(values: Floats, label: Ints) -> tuple[Floats, Ints]:
    """Sums of the rows of `values` [i, d] with equal labels, and how many they are."""
    _, group, count = np.unique(label, return_inverse=True, return_counts=True)
    sums = torch.zeros((len(count), values.shape[1]), dtype=torch.float64)
    # Ten times faster than numpy's add.at and add.reduceat.
    sums.index_add_(0, torch.from_numpy(group), torch.from_numpy(values))
    return sums.numpy(), count


class DocumentMeans:
    """Mean over tokens of the residual stream of chosen documents, at every hidden layer.

    A document's windows may come in several batches. The sums, float32
    [document, hidden_layer, d], stay on the host: they would not fit beside a large model.
    """

    def __init__(self, documents: Ints, text: ProbeText, model: LanguageModel) -> None:
        self.slot = torch.full((len(text.documents),), -1)
        self.slot[torch.from_numpy(documents)] = torch.arange(len(documents))
        width = model.writing(0).shape[1]
        self.sum = torch.zeros((len(documents), model.layers + 1, width))
        self.tokens = torch.zeros(len(documents), dtype=torch.int64)
        self._arrivals = Arrivals()

    def update(self, trace: Trace) -> None:
        """Add the rows of chosen documents."""
        slot = self.slot[trace.batch.on_host.document]
        rows = torch.nonzero(slot >= 0)[:, 0]
        if not len(rows):
            return
        slot = slot[rows]
        sums = trace.row_sum[:, rows.to(trace.row_sum.device, non_blocking=True)]
        self._arrivals.add(sums, lambda here: self._add(slot, here))
        self.tokens.index_add_(0, slot, trace.batch.on_host.real.sum(1)[rows])

    def _add(self, slot: torch.Tensor, sums: torch.Tensor) -> None:
        self.sum.index_add_(0, slot, sums.transpose(0, 1))

    def at(self, layer: int) -> Floats:
        """[document, d] means at one hidden layer, as they were chosen; NaN where not finite."""
        self._arrivals.finish()
        return finite_or_nan((self.sum[:, layer].double() / self.tokens[:, None]).numpy())
