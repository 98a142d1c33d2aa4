"""Vocabulary mass: the fallback where no concept table exists (methods 2).

A token is *distinctive* of a language when, with equal tokens per language, at least 90% of its
occurrences are in that language's text. Where the next token of `c`-text is distinctive of `c`, the
lens' probability of every language's distinctive tokens is summed and normalised over languages.
It cannot tell translation from a preference for a language as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.lens import TokenSets
from tracker.model import LanguageModel
from tracker.positions import Positions, random_positions
from tracker.probes import Context, require_fraction, require_number
from tracker.store import array
from tracker.text import ProbeText
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]


def distinctive_tokens(
    counts: NDArray[np.int64], least_share: float = 0.9, least_count: int = 5, smooth: float = 0.1
) -> NDArray[np.bool_]:
    """[language, vocabulary] whether a token is distinctive of a language.

    `P(c | v)` from counts scaled to equal tokens per language, with `smooth` added to each
    language's count (**choice**: small enough that five occurrences in one language suffice).

    Args:
        counts: [language, vocabulary].
        least_share: Smallest `P(c | v)`.
        least_count: Fewest occurrences in the language, as counted.
        smooth: Pseudo-count.
    """
    tokens = np.maximum(counts.sum(1, keepdims=True), 1)
    scaled = counts * (tokens.mean() / tokens) + smooth
    share = scaled / scaled.sum(0, keepdims=True)
    distinctive: NDArray[np.bool_] = (share >= least_share) & (counts >= least_count)
    return distinctive


@dataclass(frozen=True)
class VocabularyMassResult:
    """Mass of each language's distinctive tokens; rows are NaN where a language has none."""

    mass: Floats = array("language", "hidden_layer", "decoded_language", unit="share")
    mass_corrected: Floats = array(
        "language", "hidden_layer", "decoded_language", unit="share", doc="static base subtracted"
    )
    mass_permuted: Floats = array(
        "language", "hidden_layer", "decoded_language", unit="share", doc="document labels permuted"
    )
    mass_sum: NDArray[np.float32] = array(
        "document", "hidden_layer", "decoded_language", unit="share", doc="summed raw mass"
    )
    mass_corrected_sum: NDArray[np.float32] = array(
        "document", "hidden_layer", "decoded_language", unit="share", doc="summed corrected mass"
    )
    mass_count: NDArray[np.int64] = array("document", unit="positions")
    mass_base: Floats = array("hidden_layer", "decoded_language", unit="nats")
    distinctive_tokens: NDArray[np.int64] = array("language", unit="tokens")


@dataclass(frozen=True)
class VocabularyMass:
    """Settings: what is distinctive, and how many positions are scored."""

    least_share: float = 0.9
    least_count: int = 5
    base_positions: int = 400
    positions_per_language: int = 1500
    group: str = "working_language"
    needs: Need = Need.RESIDUAL

    def __post_init__(self) -> None:
        """Refuse what is no fraction or number."""
        require_fraction("vocabulary_mass", least_share=self.least_share)
        require_number(
            "vocabulary_mass", 1,
            least_count=self.least_count, base_positions=self.base_positions,
            positions_per_language=self.positions_per_language,
        )  # fmt: skip

    def start(self, context: Context, model: LanguageModel) -> VocabularyMassSums:
        """Nothing scored yet."""
        return VocabularyMassSums(self, context, model)


def _distinctive_positions(
    text: ProbeText, distinctive: NDArray[np.bool_], most: int, seed: int
) -> Positions:
    """Positions whose next token is distinctive of the text's language, `most` per language."""
    generator = np.random.default_rng(seed)
    places: dict[int, list[tuple[int, int]]] = {}
    for index, row in enumerate(text.rows):
        if not row.graded_only:
            hit = np.flatnonzero(distinctive[row.language, row.ids[row.first_scored :]])
            here = hit + row.first_scored - 1
            places.setdefault(row.language, []).extend((index, int(t)) for t in here)
    chosen: list[tuple[int, int]] = []
    for language in sorted(places):
        group = places[language]
        if len(group) > most:
            drawn = generator.choice(len(group), most, replace=False)
            group = [group[i] for i in drawn]
        chosen += group
    table = np.array(sorted(chosen), np.int64).reshape(-1, 2)
    return Positions(table[:, 0], table[:, 1])


class VocabularyMassSums:
    """Scores of every language's distinctive set at the chosen positions."""

    def __init__(self, settings: VocabularyMass, context: Context, model: LanguageModel) -> None:
        self.context = context
        self.distinctive = distinctive_tokens(
            context.text.token_counts(), settings.least_share, settings.least_count
        )
        sets = [np.flatnonzero(row).tolist() for row in self.distinctive]
        self.sets = TokenSets(sets, model.device)
        self.random, self.random_language = random_positions(
            context.text, settings.base_positions, context.seed
        )
        self.positions = _distinctive_positions(
            context.text, self.distinctive, settings.positions_per_language, context.seed
        )
        languages = len(context.text.languages)
        self.base = torch.zeros(
            (languages, model.layers + 1, languages), dtype=torch.float64, device=model.device
        )
        self.scored: list[Tensor] = []
        self.places: list[NDArray[np.int64]] = []

    def update(self, trace: Trace) -> None:
        """Score a batch's positions."""
        batch = trace.batch
        if batch.graded_only or not self.distinctive.any():
            return
        rows, tokens, _ = self.random.inside(batch.rows)
        if len(rows):
            score = self.sets.scores(trace.model, trace.residual, rows, tokens)
            self.base[batch.language] += score.double().sum(0)
        rows, tokens, places = self.positions.inside(batch.rows)
        if len(rows):
            score = self.sets.scores(trace.model, trace.residual, rows, tokens)
            self.scored.append(score)
            self.places.append(places)

    def result(self) -> VocabularyMassResult:
        """Normalise over languages, raw and corrected; sum per document."""
        text = self.context.text
        counts = np.maximum(np.bincount(self.random_language, minlength=len(text.languages)), 1)
        base = (self.base.cpu().numpy() / counts[:, None, None]).mean(0)
        layers, languages = base.shape
        sums = np.zeros((2, len(text.documents), layers, languages))
        count = np.zeros(len(text.documents), np.int64)
        if self.scored:
            places = np.concatenate(self.places)
            score = torch.cat(self.scored).cpu().double().numpy()
            document = np.array([text.rows[r].document for r in self.positions.row[places]])
            np.add.at(sums[0], document, _softmax(score))
            usable = np.where(np.isfinite(base), base, 0.0)
            np.add.at(sums[1], document, _softmax(score - usable))
            np.add.at(count, document, 1)
        label = text.document_language
        permuted = np.random.default_rng(self.context.seed).permutation(label)
        return VocabularyMassResult(
            mass=_mean_by(sums[0], count, label, languages),
            mass_corrected=_mean_by(sums[1], count, label, languages),
            mass_permuted=_mean_by(sums[0], count, permuted, languages),
            mass_sum=sums[0].astype(np.float32),
            mass_corrected_sum=sums[1].astype(np.float32),
            mass_count=count,
            mass_base=base,
            distinctive_tokens=self.distinctive.sum(1),
        )


def _softmax(score: Floats) -> Floats:
    weight = np.exp(score - score.max(-1, keepdims=True))
    share: Floats = weight / weight.sum(-1, keepdims=True)
    return share


def _mean_by(
    sums: Floats, count: NDArray[np.int64], label: NDArray[np.int64], languages: int
) -> Floats:
    mean = np.full((languages, *sums.shape[1:]), np.nan)
    for c in range(languages):
        total = count[label == c].sum()
        if total:
            mean[c] = sums[label == c].sum(0) / total
    return mean
