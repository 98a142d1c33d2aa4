"""What the arms of `peers.py` read and add up, and whether they found the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tracker.positions import random_positions
from tracker.probes import Context
from tracker.text import Batch

Values = NDArray[Any]
Found = dict[str, Values]
BATCH = 1024
"""Tokens of a batch. Of a short text a quarter is then padding, which the peers unembed: about as
much as of 20,000 tokens per language in batches of 4096."""
BASE_POSITIONS = 400
TOLERANCE = {
    "count": 1e-4, "loss": 1e-4, "language": 1e-4, "document": 1e-4, "importance": 1e-3,
    "score": 1e-3, "base": 1e-3, "evidence": 1e-3,
}  # fmt: skip
"""Largest `sum |theirs - ours| / sum |ours|`. An activation within rounding of 0 may count or not,
so that single counts may differ by a token."""


@dataclass(frozen=True)
class Place:
    """One batch with what is known of it before a model is."""

    batch: Batch
    weight: Tensor
    """[rows, tokens] 1.0 at tokens of the text."""
    labels: Tensor
    """[rows, tokens] next token, -100 where it is not scored."""
    rows: Tensor
    """Counterpart positions, then random ones."""
    tokens: Tensor
    places: Values
    """Index of each counterpart position in the text's list."""
    cell: Tensor
    """Fold and concept of each counterpart position, as one index."""


class Work:
    """What every arm reads: batches, positions, token sets."""

    def __init__(self, given: Context) -> None:
        assert given.concepts is not None
        self.context, self.index, self.text = given, given.concepts, given.text
        self.languages, self.concepts = len(self.text.languages), len(self.index.names)
        self.random, self.random_language = random_positions(self.text, BASE_POSITIONS, given.seed)
        self.places = [
            self._place(b) for b in self.text.batches(BATCH) if not b.graded_only
        ]  # fmt: skip
        everything = np.arange(self.concepts)
        sets = [s for c in range(self.languages) for s in self.index.token_sets(everything, c)]
        union = sorted({t for s in sets for t in s})
        self.tokens = torch.tensor(union)
        self.member = torch.full((len(sets), max(map(len, sets))), len(union))
        for i, s in enumerate(sets):
            self.member[i, : len(s)] = torch.tensor([union.index(t) for t in s])

    def _place(self, batch: Batch) -> Place:
        rows, tokens, places = self.index.positions.inside(batch.rows)
        more_rows, more_tokens, _ = self.random.inside(batch.rows)
        return Place(
            batch=batch,
            weight=batch.real.float(),
            labels=batch.target.masked_fill(~batch.scored, -100),
            rows=torch.cat([rows, more_rows]),
            tokens=torch.cat([tokens, more_tokens]),
            places=places,
            cell=batch.fold[rows] * self.concepts + torch.from_numpy(self.index.concept[places]),
        )


@dataclass(frozen=True)
class Ends:
    """The parts of a model that turn hidden states into scores."""

    norm: Callable[[Tensor], Tensor]
    """The final norm."""
    head: Tensor
    """[union of the token sets, d] rows of the unembedding."""
    centres: bool
    eps: float

    def scale(self, last: Tensor) -> Tensor:
        """[...] `σ`, by which the final norm divides the last hidden state [..., d]."""
        square = last.var(-1, correction=0) if self.centres else last.square().mean(-1)
        return (square + self.eps).sqrt()


class Sums:
    """What is added up, as fast as we know: one method per tensor that a hook hands over."""

    def __init__(self, work: Work, layers: int, units: int, width: int) -> None:
        self.work = work
        c, k, folds = work.languages, work.concepts, work.text.folds
        self.count = torch.zeros(c, layers, units)
        self.importance = torch.zeros(c, layers, units)
        self.hidden = torch.zeros(layers + 1, len(work.text.documents), width)
        self.loss = torch.zeros(len(work.text.documents), dtype=torch.float64)
        self.score = torch.zeros(len(work.index.positions), layers + 1, len(work.member))
        self.base = torch.zeros(c, layers + 1, len(work.member), dtype=torch.float64)
        self.evidence = torch.zeros(c, layers, folds * k, units)

    def begin(self, place: Place) -> None:
        """A batch is about to be read."""
        self.place, self.language = place, place.batch.language
        self.at_positions: list[Tensor] = []
        self.units: list[Tensor] = []

    @torch.no_grad()
    def see_active(self, layer: int, activation: Tensor) -> None:
        """Count tokens at which a unit is active; a product with the mask is the fastest sum."""
        active = (activation > 0).flatten(0, 1).float()
        self.count[self.language, layer] += self.place.weight.flatten() @ active

    @torch.no_grad()
    def see_means(self, layer: int, hidden: Tensor) -> None:
        """Sum hidden states per document."""
        rows = torch.bmm(self.place.weight[:, None], hidden)[:, 0]
        self.hidden[layer].index_add_(0, self.place.batch.document, rows)

    @torch.no_grad()
    def see_positions(self, hidden: Tensor) -> None:
        """Keep hidden states at the positions."""
        self.at_positions.append(hidden[self.place.rows, self.place.tokens])

    @torch.no_grad()
    def see_units(self, unit: Tensor) -> None:
        """Keep units at counterpart positions."""
        known = len(self.place.cell)
        self.units.append(unit[self.place.rows[:known], self.place.tokens[:known]])

    def see_logits(self, logits: Tensor) -> Tensor:
        """Loss per document; returns its sum."""
        flat = functional.cross_entropy(
            logits.flatten(0, 1).float(), self.place.labels.flatten(), reduction="none"
        )
        nll = flat.view(self.place.labels.shape)
        self.loss.index_add_(0, self.place.batch.document, nll.detach().double().sum(1))
        return nll.sum()

    @torch.no_grad()
    def see_slope(self, layer: int, unit: Tensor, slope: Tensor) -> None:
        """Add `|a · dL/da|`."""
        effect = (unit * slope).abs_().flatten(0, 1)
        self.importance[self.language, layer] += self.place.weight.flatten() @ effect

    @torch.no_grad()
    def lens(self, ends: Ends) -> None:
        """Score the token sets at all layers at once."""
        h = torch.stack(self.at_positions, 1)
        scores = functional.pad(ends.norm(h) @ ends.head.T, (0, 1), value=-torch.inf)
        found = scores[..., self.work.member].logsumexp(-1)
        known = len(self.place.cell)
        self.score[torch.from_numpy(self.place.places)] = found[:known]
        self.base[self.language] += found[known:].double().sum(0)

    @torch.no_grad()
    def divide(self, ends: Ends) -> None:
        """Add `a / σ`, `σ` the scale of the final norm at the last hidden state."""
        last = self.at_positions[-1][: len(self.place.cell)]
        scale = ends.scale(last)[:, None]
        for layer, unit in enumerate(self.units):
            self.evidence[self.language, layer].index_add_(0, self.place.cell, unit / scale)

    def found(self) -> Found:
        """Everything by metric."""
        document = self.hidden.transpose(0, 1).numpy()
        return {
            "count": self.count.numpy(),
            "importance": self.importance.numpy(),
            "loss": self.loss.numpy(),
            "document": document,
            "language": document,
            "score": self.score.numpy(),
            "base": self.base.numpy(),
            "evidence": self.evidence.numpy(),
        }


class PlainSums(Sums):
    """The same sums as a notebook has them: masks, products of tensors, the whole vocabulary."""

    def add_active(self, layer: int, activation: Tensor) -> None:
        """Count tokens at which a unit is active."""
        self.count[self.language, layer] += (activation[self.place.batch.real] > 0).sum(0)

    def add_means(self, layer: int, hidden: Tensor) -> None:
        """Sum hidden states per document."""
        rows = (hidden * self.place.weight[..., None]).sum(1)
        self.hidden[layer].index_add_(0, self.place.batch.document, rows)

    def add_loss(self, nll: Tensor) -> None:
        """Sum `nll` [rows, tokens - 1] per document."""
        rows = (nll * self.place.batch.scored[:, :-1]).double().sum(1)
        self.loss.index_add_(0, self.place.batch.document, rows)

    def add_lens(self, layer: int, log_probs: Tensor) -> None:
        """Score the token sets by [positions, tokens of the union] of a layer.

        A log-probability is our score less a number that is the same for all tokens.
        """
        padded = functional.pad(log_probs, (0, 1), value=-torch.inf)
        found = padded[:, self.work.member].logsumexp(-1)
        known = len(self.place.cell)
        self.score[torch.from_numpy(self.place.places), layer] = found[:known]
        self.base[self.language, layer] += found[known:].double().sum(0)

    def add_slope(self, layer: int, unit: Tensor, slope: Tensor) -> None:
        """Add `|a · dL/da|`."""
        effect = (unit * slope).abs()[self.place.batch.real]
        self.importance[self.language, layer] += effect.sum(0)

    def add_evidence(self, layer: int, unit: Tensor, scale: Tensor) -> None:
        """Add `a / σ` at the counterpart positions; `scale` is [rows, tokens]."""
        known = len(self.place.cell)
        rows, tokens = self.place.rows[:known], self.place.tokens[:known]
        divided = unit[rows, tokens] / scale[rows, tokens, None]
        self.evidence[self.language, layer].index_add_(0, self.place.cell, divided)


def agree(ours: Found, theirs: Found, work: Work) -> dict[str, float]:
    """`sum |theirs - ours| / sum |ours|` of every metric.

    Scores are compared less their mean over the sets: log-probabilities of the whole vocabulary
    differ from this project's scores, which need no unembedding, by a number per position.

    Raises:
        AssertionError: One is above `TOLERANCE`.
    """
    missing = set(TOLERANCE) & set(ours) - set(theirs)
    assert not missing, f"not measured: {missing}"
    theirs = dict(theirs)
    if "language" in ours:
        text = work.text
        averaged = np.array(
            [ours["averaged"] & (text.document_language == c) for c in range(work.languages)]
        )
        tokens = np.zeros(len(text.documents))
        for row in text.rows:
            tokens[row.document] += len(row.ids) - row.prefix
        sums = np.einsum("cd,dlw->clw", averaged, theirs["language"])
        theirs["language"] = sums / (averaged @ tokens)[:, None, None]
        theirs["document"] = theirs["document"][ours["kept"]]
    error = {}
    for name in [name for name in TOLERANCE if name in ours]:
        known = np.isfinite(ours[name])  # empty token sets score -inf
        mine, other = ours[name], theirs[name]
        if name in ("score", "base"):
            mine, other = _centred(mine, known), _centred(other, known)
        mine, other = mine[known], other[known]
        error[name] = float(np.abs(other - mine).sum() / np.abs(mine).sum())
    wrong = {name: e for name, e in error.items() if not e <= TOLERANCE[name]}
    assert not wrong, f"not the same numbers: {wrong}"
    return error


def _centred(values: Values, known: Values) -> Values:
    """Less the mean of the known values along the last axis."""
    kept = np.where(known, values, 0)
    mean: Values = kept.sum(-1, keepdims=True) / np.maximum(known.sum(-1, keepdims=True), 1)
    centred: Values = values - mean
    return centred
