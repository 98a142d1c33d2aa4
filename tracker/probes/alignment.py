"""Semantic alignment: do translations lie closest to each other (methods 7)?

Of parallel documents in language `c` and in the primary `p`, at every hidden layer, the means of
the residual stream over tokens are compared by cosine. `alignment` is the share of documents whose
own translation is the nearest in both directions (mutual nearest neighbours, as in MEXA,
arXiv 2410.05873). Chance is exact: with translations dealt out at random a document hits with
probability `K / N^2`, `K` the pairs of any two documents that are each other's nearest; about
`1 / (2N - 1)` where similarities are without structure.

Over all languages, the two axes of arXiv 2410.11718 (there of neuron activations): documents that
say the same in two languages, and documents that say different things in one language, each
against documents that share neither (**choice**: one reference for both, so that each contrast
changes one thing only).

Hidden states share a large common direction, so raw cosines are near 1 and a language's offset
can hide what is shared. **Choice**: everything is given a second time after each language's mean
over the compared documents is subtracted (`centred`); that removes the language axis by
construction (within a language the mean cosine is then about `-1 / (N - 1)`) and leaves meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.document_means import DocumentMeans, group_sums, middle_mean, parallel_documents
from tracker.model import LanguageModel
from tracker.probes import Context, require_whole
from tracker.store import array
from tracker.trace import Need, Trace

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PAIR_KINDS = ("within_meaning", "within_language", "across")
ROUNDING = 1e-6
"""Relative error of means of a float32 residual stream."""
TIE = 1e-6
"""Difference in distance of unit vectors below which two neighbours are equally near."""


@dataclass(frozen=True)
class AlignmentResult:
    """Alignment per language, similarities over all. The primary's own row is NaN."""

    pair_kind: NDArray[Any] = array(
        "pair_kind", doc="same meaning, two languages; two meanings, same language; neither shared"
    )
    alignment: Floats = array(
        "language", "hidden_layer", unit="share", doc="own translation nearest, both directions"
    )
    alignment_centred: Floats = array(
        "language", "hidden_layer", unit="share", doc="the same without each language's mean"
    )
    alignment_chance: Floats = array(
        "language", "hidden_layer", unit="share", doc="expected with translations permuted"
    )
    alignment_chance_centred: Floats = array(
        "language", "hidden_layer", unit="share", doc="the same without each language's mean"
    )
    hit: Bools = array("document", "hidden_layer", doc="nearest to its translation, and it to it")
    hit_centred: Bools = array("document", "hidden_layer", doc="without each language's mean")
    compared: Bools = array("document", doc="compared with the primary's; others have no hit")
    aligned_documents: Ints = array("language", unit="documents", doc="compared with the primary's")
    similarity: Floats = array(
        "pair_kind", "hidden_layer", unit="cosine", doc="mean over pairs of documents"
    )
    similarity_centred: Floats = array(
        "pair_kind", "hidden_layer", unit="cosine", doc="without each language's mean"
    )
    meaning_contrast: Floats = array(
        "hidden_layer", unit="cosine", doc="within meaning minus across"
    )
    meaning_contrast_centred: Floats = array(
        "hidden_layer", unit="cosine", doc="the same without each language's mean"
    )
    language_contrast: Floats = array(
        "hidden_layer", unit="cosine", doc="within language minus across"
    )
    semantic_alignment: Floats = array(
        "language", unit="share", curve=True, doc="alignment, mean of the middle layers"
    )
    semantic_alignment_centred: Floats = array(
        "language", unit="share", curve=True, doc="alignment_centred, mean of the middle layers"
    )
    semantic_alignment_chance: Floats = array(
        "language", unit="share", curve=True, doc="alignment_chance, mean of the middle layers"
    )
    alignment_reason: NDArray[Any] = array("language", doc="why a language has no alignment")


@dataclass(frozen=True)
class Alignment:
    """Settings: how many parallel documents are compared."""

    documents: int = 200
    """Per pair of languages, taken in order."""
    least_documents: int = 8
    """A pair with fewer has no alignment: chance would be high and hits few."""
    group: str = "alignment"
    needs: Need = Need.RESIDUAL

    def __post_init__(self) -> None:
        """Refuse what is no whole number."""
        require_whole(
            "alignment", 2, documents=self.documents, least_documents=self.least_documents
        )

    def start(self, context: Context, model: LanguageModel) -> AlignmentSums:
        """Nothing summed yet."""
        return AlignmentSums(self, context, model)


class AlignmentSums:
    """Means of the parallel documents of every pair with the primary."""

    def __init__(self, settings: Alignment, context: Context, model: LanguageModel) -> None:
        text, p = context.text, context.primary_index
        self.text, self.primary, self.layers = text, p, model.layers + 1
        self.least = settings.least_documents
        table = parallel_documents(text)
        found = {c: table[(table[:, [c, p]] >= 0).all(1)][:, [c, p]] for c in context.others}
        self.available = {c: len(pairs) for c, pairs in found.items()}
        self.pairs: Mapping[int, Ints] = {
            c: pairs[: settings.documents] for c, pairs in found.items() if len(pairs) >= self.least
        }
        """Language -> [i, 2] its documents and the primary's."""
        chosen = np.unique([i for pairs in self.pairs.values() for i in pairs.flat]).astype(int)
        self.means = DocumentMeans(chosen, text, model)
        meaning = np.zeros(len(text.documents), np.int64)
        meaning[table[table >= 0]] = np.nonzero(table >= 0)[0]
        self.labels = meaning[chosen], text.document_language[chosen]

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        if not trace.batch.graded_only:
            self.means.update(trace)

    def result(self) -> AlignmentResult:
        """Neighbours of every pair and similarities over all, layer by layer."""
        # First axis: raw, centred.
        share, chance = np.full((2, 2, len(self.text.languages), self.layers), np.nan)
        similarity = np.full((2, len(PAIR_KINDS), self.layers), np.nan)
        hit = np.zeros((2, len(self.text.documents), self.layers), np.bool_)
        for layer in range(self.layers):
            documents = self.means.at(layer)
            if not len(documents) or not np.isfinite(documents).all():
                continue
            similarity[0, :, layer] = similarities(documents, *self.labels)
            similarity[1, :, layer] = similarities(centred(documents, self.labels[1]), *self.labels)
            for c, pairs in self.pairs.items():
                sides = documents[self.means.slot.numpy()[pairs]].swapaxes(0, 1)
                for kind, (own, primary) in enumerate((sides, np.stack([*map(centred, sides)]))):
                    found, chance[kind, c, layer] = mutual_nearest(own, primary)
                    share[kind, c, layer] = found.mean()
                    hit[kind, pairs[:, 0], layer] = found
        return self._collect(share, chance, similarity, hit)

    def _collect(
        self, share: Floats, chance: Floats, similarity: Floats, hit: Bools
    ) -> AlignmentResult:
        curves = middle_mean(share)
        compared = np.zeros(len(self.text.documents), np.bool_)
        count = np.zeros(len(self.text.languages), np.int64)
        for c, pairs in self.pairs.items():
            compared[pairs[:, 0]], count[c] = True, len(pairs)
        return AlignmentResult(
            pair_kind=np.array(PAIR_KINDS, dtype=object),
            alignment=share[0],
            alignment_centred=share[1],
            alignment_chance=chance[0],
            alignment_chance_centred=chance[1],
            hit=hit[0],
            hit_centred=hit[1],
            compared=compared,
            aligned_documents=count,
            similarity=similarity[0],
            similarity_centred=similarity[1],
            meaning_contrast=similarity[0, 0] - similarity[0, 2],
            meaning_contrast_centred=similarity[1, 0] - similarity[1, 2],
            language_contrast=similarity[0, 1] - similarity[0, 2],
            semantic_alignment=curves[0],
            semantic_alignment_centred=curves[1],
            semantic_alignment_chance=middle_mean(chance[0]),
            alignment_reason=self._reasons(curves[0]),
        )

    def _reasons(self, curve: Floats) -> NDArray[Any]:
        """[language] why the curve is NaN."""
        reasons = np.array([""] * len(curve), dtype=object)
        reasons[~np.isfinite(curve)] = "no middle layer, or hidden states there not finite"
        for c in set(self.available) - set(self.pairs):
            reasons[c] = (
                f"{self.available[c]} documents parallel to "
                f"{self.text.languages[self.primary]}, fewer than {self.least}"
            )
        reasons[self.primary] = "primary language"
        return reasons


def unit(values: Floats) -> Floats:
    """Rows of [i, d] at length 1; a row of zeros stays one, at cosine 0 to everything."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1.0)


def centred(values: Floats, label: Ints | None = None) -> Floats:
    """Rows of [i, d] minus the mean row, of each label if given.

    What is left of a row after rounding alone (less than `ROUNDING` of its length) is set to 0:
    a direction of rounding errors must not count as one.
    """
    label = np.zeros(len(values), np.int64) if label is None else label
    rest = values.copy()
    for group in np.unique(label):
        rest[label == group] -= values[label == group].mean(0)
    noise = np.linalg.norm(rest, axis=1) <= ROUNDING * np.linalg.norm(values, axis=1)
    rest[noise] = 0.0
    return rest


def mutual_nearest(first: Floats, second: Floats) -> tuple[Bools, float]:
    """Which rows i of `first` [N, d] and `second` [N, d] are each other's nearest by cosine.

    A neighbour that is nearer than the next by less than `TIE` (distance of unit vectors) is
    nobody's nearest.

    Returns:
        [N] and the chance level `K / N^2`, `K` the number of pairs (i, j) that are each other's
        nearest: the expected share when the rows of `second` are permuted at random.
    """
    cosine = unit(first) @ unit(second).T
    distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    forward, backward = _nearest(distance), _nearest(distance.T)
    n = np.arange(len(distance))
    mutual = (forward >= 0) & (backward[forward] == n)
    return mutual & (forward == n), float(mutual.sum() / len(n) ** 2)


def _nearest(distance: Floats) -> Ints:
    """[i] column of each row's smallest entry, -1 where another is as small."""
    two = np.partition(distance, 1, axis=1)[:, :2]
    return np.where(two[:, 0] + TIE < two[:, 1], distance.argmin(1), -1)


def similarities(values: Floats, meaning: Ints, language: Ints) -> Floats:
    """Mean cosine of pairs of documents of each of `PAIR_KINDS`; NaN where there is no such pair.

    `values` [i, d], at most one document per meaning and language. A sum of cosines over all pairs
    of a group is the squared length of its summed unit vectors, so no pair is ever formed.
    """
    x = unit(values)
    alone = np.square(x).sum(), len(x)
    same_meaning, same_language = _grouped(x, meaning), _grouped(x, language)
    everything = np.square(x.sum(0)).sum(), len(x) ** 2
    sums, pairs = np.array([
        (m - a, c - a, e - m - c + a)
        for m, c, e, a in zip(same_meaning, same_language, everything, alone, strict=True)
    ])  # fmt: skip
    mean: Floats = sums / np.where(pairs > 0, pairs, np.nan)
    return mean


def _grouped(x: Floats, label: Ints) -> tuple[float, int]:
    """Summed cosine over, and number of, ordered pairs within groups, a row with itself too."""
    sums, count = group_sums(x, label)
    return float(np.square(sums).sum()), int(np.square(count).sum())
