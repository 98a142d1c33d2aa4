"""Evidence for the right word, read off the logits: what the transferring sets should move.

At positions of concept `k` in text of language `c`, with `z_l` the lens logits at layer `l` (a word
with several first tokens by their mean): `D_x[k] = z_l(x_k) - mean over j≠k of z_l(x_j)`, `x` the
primary's words or the language's own. The evidence is `K / (K - 1) · mean over k of D_x[k]`, means
over the positions of a concept first. The factor makes it the contrast of methods 4 (against the
other words *and* against the other concepts' positions): because `sum over k of D_x[k]` vanishes at
every position, the second contrast is the first one times `K / (K - 1)`. So the evidence here is
the total to which the units' direct evidence `e_{c,x}` adds up, with attention and embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.document_means import middle_layers
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]

PLACES = ("middle", "output")
"""Mean of the middle layers (.25 to .9 of the depth), and the last layer."""


@dataclass(frozen=True)
class Evidence:
    """Read-out of the evidence for the right word of the primary and of the language itself."""

    group: str = "evidence"
    needs: Need = Need.RESIDUAL

    def start(self, context: Context, model: LanguageModel) -> EvidenceSums:
        """Empty sums."""
        return EvidenceSums(context, model)


class EvidenceSums:
    """Sums of `D` per language, fold and concept."""

    def __init__(self, context: Context, model: LanguageModel) -> None:
        assert context.concepts is not None, "evidence needs a concept table"
        self.context, self.index = context, context.concepts
        concepts, languages = len(self.index.names), len(context.text.languages)
        shape = (languages, context.text.folds, concepts)
        self.sum = torch.zeros((*shape, 2, len(PLACES)), dtype=torch.float64)
        self.count = torch.zeros(shape, dtype=torch.int64)
        self.middle = middle_layers(model.layers + 1).tolist()
        self.words = {
            (c, x): _Words.of(self.index.token_sets(pair.concepts, language))
            for c, pair in self.index.pairs.items()
            for x, language in enumerate((context.primary_index, c))
        }

    def update(self, trace: Trace) -> None:
        """Add a batch's counterpart positions."""
        batch, c = trace.batch, trace.batch.language
        if batch.graded_only or c not in self.index.pairs:
            return
        rows, tokens, places = self.index.positions.inside(batch.rows)
        kept = self.index.pairs[c].concepts
        concept = self.index.concept[places]
        inside = np.isin(concept, kept)
        if not inside.any():
            return
        rows, tokens, concept = rows[inside], tokens[inside], concept[inside]
        column = torch.from_numpy(np.searchsorted(kept, concept))
        cell = batch.on_host.fold[rows], torch.from_numpy(concept)
        self.count[c].index_put_(cell, torch.ones_like(column), accumulate=True)
        for x in (0, 1):
            words = self.words[c, x]
            contrast = [
                words.contrast(trace.model, trace.residual[layer][rows, tokens], column)
                for layer in (*self.middle, -1)
            ]
            middle = torch.stack(contrast[:-1]).mean(0) if self.middle else contrast[-1] * np.nan
            value = torch.stack([middle, contrast[-1]], -1)
            self.sum[c, :, :, x].index_put_(cell, value, accumulate=True)

    def result(self) -> tuple[Floats, Floats]:
        """Evidence [language, written, place], and [..., fold] without each fold; NaN if unread."""
        folds = self.context.text.folds
        total = torch.stack(
            [self._evidence(torch.ones(folds).double())]
            + [self._evidence((torch.arange(folds) != f).double()) for f in range(folds)],
            -1,
        ).numpy()
        return total[..., 0], total[..., 1:]

    def _evidence(self, weight: Tensor) -> Tensor:
        """[language, written, place] with folds weighted."""
        found = torch.full((len(self.context.text.languages), 2, len(PLACES)), torch.nan)
        found = found.double()
        for c, pair in self.index.pairs.items():
            sums = torch.einsum("f,fkxp->kxp", weight, self.sum[c][:, pair.concepts])
            count = torch.einsum("f,fk->k", weight, self.count[c][:, pair.concepts].double())
            known = count > 0
            if len(pair.concepts) > 1 and known.any():
                mean = (sums[known] / count[known, None, None]).mean(0)
                found[c] = mean * len(pair.concepts) / (len(pair.concepts) - 1)
        return found


@dataclass(frozen=True)
class _Words:
    """First tokens of a pair's concepts in one language."""

    tokens: Tensor
    mean: Tensor
    """[token, concept] averages a concept's tokens."""

    @classmethod
    def of(cls, sets: list[tuple[int, ...]]) -> _Words:
        tokens = [t for s in sets for t in s]
        mean = torch.zeros(len(tokens), len(sets))
        place = 0
        for k, s in enumerate(sets):
            mean[place : place + len(s), k] = 1 / len(s)
            place += len(s)
        return cls(torch.tensor(tokens), mean)

    def contrast(self, model: LanguageModel, residual: Tensor, column: Tensor) -> Tensor:
        """[place] the right word's logit minus the mean of the others'."""
        logits = model.lens(residual, self.tokens.to(residual.device)).cpu() @ self.mean
        right = logits.gather(1, column[:, None])[:, 0]
        others = (logits.sum(1) - right) / (logits.shape[1] - 1)
        return (right - others).double()
