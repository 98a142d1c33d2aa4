"""Language-agnostic and language-specific subspaces at every layer (methods 6; Lens).

`M_l` [d, C] holds the mean hidden state of each language at hidden layer `l`: over the tokens of
the documents that every language has where there are enough of them, else of all documents.
`tracker.subspaces` splits it. Three things are read off:

- how much of the variance of document means lies between languages, between meanings, and in
  neither, beside what dealing the same documents out at random would give (which is not 0);
- how far each language's mean is from the primary's along the agnostic direction and inside the
  specific basis. Bases are fitted on even folds and distances measured on odd ones: at full rank
  the distance along the agnostic direction is identically 0 on the means it was fitted on;
- the same distance for each pair of parallel documents of odd folds.

Distances are in units of the residual stream, which grows over layers and checkpoints. **Choice**:
the curves are divided by `distance_scale`, the root mean square distance of the same layer's
document means from their grand mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tracker.document_means import (
    DocumentMeans,
    finite_or_nan,
    group_sums,
    middle_mean,
    parallel_documents,
)
from tracker.model import LanguageModel
from tracker.probes import Context, require_whole
from tracker.store import array
from tracker.subspaces import Subspaces, check_rank, fit_subspaces
from tracker.text import ProbeText
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PARTS = ("language", "meaning", "rest")
RCOND = 1e-6
"""Sums of a float32 residual stream are no more exact than this."""


@dataclass(frozen=True)
class SubspacesResult:
    """Subspaces, variance and distances by layer; NaN where hidden states are not finite."""

    model_dim: Ints = array("model_dim", doc="dimension of the residual stream")
    specific_rank: Ints = array("specific_rank", doc="direction of the specific basis")
    variance_part: NDArray[Any] = array("variance_part", doc="language, meaning, rest")
    parallel_documents: Ints = array(
        unit="documents", doc="per language, behind the means; 0: means over all documents"
    )
    language_mean: Floats = array(
        "language", "hidden_layer", "model_dim", doc="mean over tokens of the residual stream"
    )
    agnostic: Floats = array("hidden_layer", "model_dim", doc="m', fitted on all folds")
    specific_basis: Floats = array(
        "hidden_layer", "model_dim", "specific_rank",
        doc="orthonormal, fitted on all folds; NaN beyond the rank of the means",
    )  # fmt: skip
    specific_singular_value: Floats = array(
        "hidden_layer", "specific_rank", doc="of M^ - m'1^T; 0 beyond the rank of the means"
    )
    variance_share: Floats = array(
        "variance_part", "hidden_layer", unit="share",
        doc="of the document means; without parallel documents no meaning, rest = within language",
    )  # fmt: skip
    variance_share_chance: Floats = array(
        "variance_part", unit="share", doc="mean when the documents are dealt out at random"
    )
    distance_scale: Floats = array(
        "hidden_layer", doc="RMS distance of document means from their grand mean"
    )
    agnostic_distance: Floats = array(
        "language", "hidden_layer", doc="to the primary's mean: odd folds, bases of even folds"
    )
    specific_distance: Floats = array("language", "hidden_layer", doc="the same")
    agnostic_pair_distance: Floats = array(
        "language", "hidden_layer", doc="mean over parallel documents of odd folds"
    )
    specific_pair_distance: Floats = array("language", "hidden_layer", doc="the same")
    agnostic_document_distance: NDArray[np.float32] = array(
        "document", "hidden_layer", doc="to the primary's document; NaN where not compared"
    )
    specific_document_distance: NDArray[np.float32] = array(
        "document", "hidden_layer", doc="the same"
    )
    subspace_distance_agnostic: Floats = array(
        "language", unit="RMS", curve=True, doc="distance / scale, mean of the middle layers"
    )
    subspace_distance_specific: Floats = array(
        "language", unit="RMS", curve=True, doc="distance / scale, mean of the middle layers"
    )
    subspace_distance_reason: NDArray[Any] = array("language", doc="why the curves are NaN")


@dataclass(frozen=True)
class LanguageSubspaces:
    """Settings: the rank of the specific basis, and how many documents are kept one by one."""

    rank: int | None = None
    """None: number of languages - 1, the largest."""
    documents: int = 200
    """Meanings (without parallel documents: documents per language) whose means are kept."""
    least_documents: int = 8
    """With fewer documents that every language has, the means are over all documents."""
    group: str = "subspaces"
    needs: Need = Need.RESIDUAL

    def __post_init__(self) -> None:
        """Refuse what is no whole number; whether the rank fits the languages, `start` sees."""
        if self.rank is not None:
            require_whole("subspaces", 1, rank=self.rank)
        require_whole("subspaces", 1, least_documents=self.least_documents)
        require_whole("subspaces", 2, documents=self.documents)

    def start(self, context: Context, model: LanguageModel) -> SubspaceSums:
        """Empty sums."""
        return SubspaceSums(self, context, model)


@dataclass(frozen=True)
class _Chosen:
    """Which documents enter what."""

    averaged: NDArray[np.bool_]
    """[document] whether its tokens enter its language's mean."""
    parallel: int
    """Documents per language behind the means; 0 where the means are over all documents."""
    single: Ints
    """[i] documents whose own means are kept; parallel ones meaning by meaning."""
    labels: tuple[Ints, ...]
    """[i] language and, where documents are parallel, meaning."""
    odd: NDArray[np.bool_]
    """[meaning] kept meanings in odd folds; none without parallel documents."""

    @classmethod
    def of(cls, text: ProbeText, most: int, least: int) -> _Chosen:
        """Documents that every language has if there are `least`, `most` kept one by one."""
        table = parallel_documents(text)
        common = table[(table >= 0).all(1)]
        language = text.document_language
        averaged = np.array([not d.graded_only for d in text.documents])
        if len(common) < least:
            single = _first(np.where(averaged, language, -1), most)
            return cls(averaged, 0, single, (language[single],), np.zeros(0, np.bool_))
        averaged[:] = False
        averaged[common] = True
        kept = common[:most]
        meaning = np.repeat(np.arange(len(kept)), kept.shape[1])
        labels = language[kept.ravel()], meaning
        return cls(
            averaged, len(common), kept.ravel(), labels, text.document_fold[kept[:, 0]] % 2 == 1
        )


def _first(label: Ints, most: int) -> Ints:
    """The first `most` indices of each label from 0 on."""
    groups = [np.flatnonzero(label == c)[:most] for c in range(label.max() + 1)]
    return np.concatenate(groups)


@dataclass(frozen=True)
class _Layer:
    """What is found at one hidden layer; pairs of distances are [agnostic, specific]."""

    agnostic: Floats
    basis: Floats
    """[d, rank]."""
    value: Floats
    share: Floats
    scale: Floats
    to_mean: Floats
    """[2, language]."""
    to_document: Floats
    """[2, meaning, language]."""


class SubspaceSums:
    """Sums over tokens per fold parity and language, and the means of single documents."""

    def __init__(self, settings: LanguageSubspaces, context: Context, model: LanguageModel) -> None:
        text = context.text
        self.text, self.primary = text, context.primary_index
        self.rank = check_rank(len(text.languages), settings.rank)
        self.chosen = _Chosen.of(text, settings.documents, settings.least_documents)
        self.averaged = torch.from_numpy(self.chosen.averaged)
        self.means = DocumentMeans(self.chosen.single, text, model)
        shape = (2, len(text.languages), *self.means.sum.shape[1:])
        self.sum = torch.zeros(shape, dtype=torch.float64, device=model.device)
        self.tokens = torch.zeros(shape[:2], dtype=torch.int64)

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        batch = trace.batch
        if batch.graded_only:
            return
        self.means.update(trace)
        averaged = self.averaged[batch.on_host.document]
        parity, tokens = batch.on_host.fold % 2, batch.on_host.real.sum(1)
        for side in (0, 1):
            rows = torch.nonzero(averaged & (parity == side))[:, 0]
            sums = trace.row_sum[:, rows.to(trace.row_sum.device, non_blocking=True)]
            self.sum[side, batch.language] += sums.sum(1, dtype=torch.float64)
            self.tokens[side, batch.language] += tokens[rows].sum()

    def result(self) -> SubspacesResult:
        """Fit and measure layer by layer."""
        whole = _mean(self.sum.sum(0), self.tokens.sum(0))
        even, odd = _mean(self.sum, self.tokens)
        layers = [
            self._layer(self.means.at(layer), whole[:, layer], even[:, layer], odd[:, layer])
            for layer in range(whole.shape[1])
        ]
        return self._collect(whole, layers)

    def _layer(self, documents: Floats, whole: Floats, even: Floats, odd: Floats) -> _Layer:
        """Everything at one layer from means of documents [i, d] and of languages [language, d]."""
        agnostic, basis, value = self._padded(self._fit(whole))
        to_mean, to_document = self._distances(self._fit(even), odd, documents)
        share = variance_shares(documents, *self.chosen.labels)
        scale = np.sqrt(np.square(documents - documents.mean(0)).sum(1).mean())
        return _Layer(agnostic, basis, value, _parts(share), scale, to_mean, to_document)

    def _fit(self, means: Floats) -> Subspaces | None:
        """Subspaces of means [language, d]; None where one is missing or not finite."""
        finite = np.isfinite(means).all()
        return fit_subspaces(means.T, self.rank, RCOND) if finite else None

    def _padded(self, found: Subspaces | None) -> tuple[Floats, Floats, Floats]:
        """Agnostic vector, basis and singular values with as many columns as the rank asks."""
        basis, value = np.full((self.sum.shape[-1], self.rank), np.nan), np.zeros(self.rank)
        if found is None:
            return basis[:, 0], basis, basis[0]
        r = len(found.singular_value)
        basis[:, :r], value[:r] = found.specific, found.singular_value
        return found.agnostic, basis, value

    def _distances(
        self, found: Subspaces | None, odd: Floats, documents: Floats
    ) -> tuple[Floats, Floats]:
        """To the primary's, in the subspaces of even folds: of odd means, of odd documents."""
        languages, side = len(odd), self.chosen.odd
        to_mean = np.full((2, languages), np.nan)
        to_document = np.full((2, len(side), languages), np.nan)
        if found is None:
            return to_mean, to_document
        to_mean[:] = found.distances(odd - odd[self.primary])
        if len(side):
            pairs = documents.reshape(len(side), languages, -1)[side]
            to_document[:, side] = found.distances(pairs - pairs[:, [self.primary]])
        to_mean[:, self.primary] = to_document[:, :, self.primary] = np.nan
        return to_mean, to_document

    def _collect(self, whole: Floats, layers: list[_Layer]) -> SubspacesResult:
        to_mean = np.stack([x.to_mean for x in layers], -1)
        to_document = np.stack([x.to_document for x in layers], -1)
        scale = np.array([x.scale for x in layers])
        count = self.chosen.odd.sum()
        pair = (
            to_document[:, self.chosen.odd].sum(1) / count
            if count
            else np.full_like(to_mean, np.nan)
        )
        single = np.full((2, len(self.text.documents), len(layers)), np.nan, np.float32)
        if self.chosen.parallel:
            single[:, self.chosen.single] = to_document.reshape(2, -1, len(layers))
        curves = middle_mean(to_mean / np.where(scale > 0, scale, np.nan))
        return SubspacesResult(
            model_dim=np.arange(whole.shape[-1]),
            specific_rank=np.arange(self.rank),
            variance_part=np.array(PARTS, dtype=object),
            parallel_documents=np.asarray(self.chosen.parallel),
            language_mean=whole,
            agnostic=np.stack([x.agnostic for x in layers]),
            specific_basis=np.stack([x.basis for x in layers]),
            specific_singular_value=np.stack([x.value for x in layers]),
            variance_share=np.stack([x.share for x in layers], -1),
            variance_share_chance=_parts(shuffled_shares(*self.chosen.labels)),
            distance_scale=scale,
            agnostic_distance=to_mean[0],
            specific_distance=to_mean[1],
            agnostic_pair_distance=pair[0],
            specific_pair_distance=pair[1],
            agnostic_document_distance=single[0],
            specific_document_distance=single[1],
            subspace_distance_agnostic=curves[0],
            subspace_distance_specific=curves[1],
            subspace_distance_reason=self._reasons(curves),
        )

    def _reasons(self, curves: Floats) -> NDArray[Any]:
        """[language] why the curves are NaN."""
        names, tokens = self.text.languages, self.tokens.numpy()
        reasons = np.array([""] * len(names), dtype=object)
        unknown = ~np.isfinite(curves).all(0)
        reasons[unknown] = "no middle layer, or hidden states there not finite or all the same"
        for side, parity in zip(tokens, ("even", "odd"), strict=True):
            lacking = [names[c] for c in np.flatnonzero(side == 0)]
            if lacking:
                reasons[unknown] = f"no text of {', '.join(lacking)} in {parity} folds"
        reasons[self.primary] = "primary language"
        return reasons


def _mean(sums: torch.Tensor, tokens: torch.Tensor) -> Floats:
    """[..., hidden_layer, d] means of sums; NaN where there are no tokens or no finite sum."""
    return finite_or_nan((sums.cpu() / tokens[..., None, None]).numpy())


def _parts(shares: Floats) -> Floats:
    """Shares in the order of `PARTS`, the meanings' NaN where they are not known."""
    return shares if len(shares) == len(PARTS) else np.insert(shares, 1, np.nan)


def variance_shares(values: Floats, *labels: Ints) -> Floats:
    """Shares of the total sum of squares: between the groups of each label, then the rest.

    `sum_g n_g |mean_g - mean|^2 / sum_i |x_i - mean|^2` of `values` [i, d]. Where the labels are
    crossed and balanced (every meaning once in every language) these are the shares of a two-way
    analysis of variance, and add up to 1. NaN where the values do not vary.
    """
    centred = values - values.mean(0)
    total = np.square(centred).sum()
    between = [_between(centred, label) for label in labels]
    parts = np.array([*between, total - sum(between)])
    return parts / (total if total > 0 else np.nan)


def _between(centred: Floats, label: Ints) -> float:
    sums, count = group_sums(centred, label)
    return float((np.square(sums).sum(1) / count).sum())


def shuffled_shares(*labels: Ints) -> Floats:
    """What `variance_shares` is on average when the values are dealt out at random.

    `(groups - 1) / (n - 1)` for each label, whatever the values.
    """
    parts = [(len(np.unique(label)) - 1) / (len(label) - 1) for label in labels]
    return np.array([*parts, 1 - sum(parts)])
