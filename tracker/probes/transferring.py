"""Language-transferring neurons: which units write the right word of which language (methods 4).

At positions of concept `k` in text of language `L`, with `a_u` the input of the MLP's output
projection and `σ` the final norm's scale at the position:

    A_L[k, u]  = mean of a_u / σ,    Δ_L[k, u] = A_L[k, u] - mean over j≠k of A_L[j, u]
    g^x[k, u]  = w_out_u · centre(γ ⊙ (W_U[x_k] - mean over j≠k of W_U[x_j])),   x = p or c
    e_{L,x}[u] = mean over k of Δ_L[k, u] · g^x[k, u]

`centre` subtracts the mean over the model dimension where the final norm is a LayerNorm; `a/σ · g`
is then the unit's exact direct contribution to the logit difference (before soft-capping, where
there is any). Where the MLP's output passes a norm of its own before it is added to the stream
(OLMo 2 and 3, Gemma 2 and 3), `σ` is multiplied with that norm's scale and `w_out` with its
weight: still exact. The null rotates the concept labels of `g` (`K - 1` ways); a unit counts above
the 99% quantile of its layer's null. With `A = {e_pp}`, `B = {e_cp}`, `D = {e_cc}` above it:
transferring `A ∩ B \\ D`, bilingual `A ∩ D`, own `D \\ A \\ B`. Mass
`M_x = max(0, sum_u max(0, e_cx) - null mean)`, `S_nn = M_p / (M_p + M_c)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.model import LanguageModel
from tracker.probes import Context, require_fraction, require_number
from tracker.store import array
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]
SETS = ("transferring", "bilingual", "own")


@dataclass(frozen=True)
class TransferringResult:
    """The three sets with the evidence behind them. The primary's own row is empty or NaN."""

    written_language: NDArray[Any] = array("written_language", doc="primary, own")
    neuron_set: NDArray[Any] = array("neuron_set", doc="transferring, bilingual, own")
    transferring: NDArray[np.bool_] = array("language", "layer", "unit")
    bilingual: NDArray[np.bool_] = array("language", "layer", "unit")
    own: NDArray[np.bool_] = array("language", "layer", "unit")
    evidence: NDArray[np.float32] = array(
        "language", "written_language", "layer", "unit", unit="logits", doc="e_cp, e_cc"
    )
    evidence_primary: NDArray[np.float32] = array(
        "language", "layer", "unit", unit="logits", doc="e_pp on the pair's concepts"
    )
    null_quantile: Floats = array(
        "language", "written_language", "layer", unit="logits", doc="thresholds of e_cp, e_cc"
    )
    null_quantile_primary: Floats = array("language", "layer", unit="logits", doc="of e_pp")
    mass: Floats = array("language", "written_language", unit="logits", doc="M_p, M_c")
    mass_share: Floats = array("language", unit="share", doc="S_nn")
    mass_reason: NDArray[Any] = array("language", doc="why S_nn is NaN, where it is")
    mass_leave_one_out: Floats = array(
        "language", "written_language", "evidence_fold", unit="logits", doc="M without each fold"
    )
    evidence_fold: NDArray[np.int64] = array("evidence_fold", doc="folds of the evidence")
    chance_count: Floats = array("language", "neuron_set", unit="units", doc="mean under the null")
    split_half: Floats = array(
        "language", "neuron_set", unit="share", doc="Jaccard of the sets of two halves"
    )
    evidence_concepts: NDArray[np.int64] = array("language", unit="concepts")


@dataclass(frozen=True)
class Transferring:
    """Settings of the sets and of the mass share."""

    quantile: float = 0.99
    least_concepts: int = 3
    least_mass: float = 0.5
    """`M_p + M_c` in logits below which the share is NaN: too little evidence."""
    group: str = "neurons"
    needs: Need = Need.RESIDUAL | Need.ACTIVATION
    needs_concepts: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no fraction or number."""
        require_fraction("transferring", quantile=self.quantile)
        require_number("transferring", 2, least_concepts=self.least_concepts)
        require_number("transferring", 0, least_mass=self.least_mass)

    def start(self, context: Context, model: LanguageModel) -> TransferringSums:
        """Empty sums."""
        return TransferringSums(self, context, model)


class TransferringSums:
    """Sums of `a/σ` at counterpart positions, per language, fold, concept, layer and unit."""

    def __init__(self, settings: Transferring, context: Context, model: LanguageModel) -> None:
        assert context.concepts is not None, "transferring neurons need a concept table"
        self.settings, self.context, self.model = settings, context, model
        self.index = context.concepts
        self.folds = context.text.folds
        shape = (len(context.text.languages), self.folds, len(self.index.names))
        self.sum = torch.zeros((*shape, model.layers, model.units), device=model.device)
        self.count = torch.zeros(shape, dtype=torch.int64)

    def update(self, trace: Trace) -> None:
        """Add a batch's counterpart positions."""
        batch = trace.batch
        if batch.graded_only:
            return
        rows, tokens, places = self.index.positions.inside(batch.rows)
        if not len(rows):
            return
        fold = batch.on_host.fold[rows]
        concept = torch.from_numpy(self.index.concept[places])
        cell = fold * len(self.index.names) + concept
        device = self.sum.device
        rows, tokens = (t.to(device, non_blocking=True) for t in (rows, tokens))
        scale = trace.model.norm_scale(trace.residual[-1][rows, tokens])
        total = self.sum[batch.language].flatten(0, 1)
        self.count[batch.language].view(-1).index_add_(0, cell, torch.ones_like(cell))
        cell = cell.to(device, non_blocking=True)
        for layer, all_units in enumerate(trace.unit):
            unit = all_units[rows, tokens]
            written = trace.model.written_scale(layer, unit)
            total[:, layer].index_add_(0, cell, unit.float() / (scale * written)[:, None])

    def result(self) -> TransferringResult:
        """Evidence, nulls, sets and masses of every pair."""
        n = len(self.context.text.languages)
        pairs: dict[int, _PairEvidence] = {}
        reasons = [""] * n
        for c, pair in self.index.pairs.items():
            known = self._both_halves(c, pair.concepts)
            if len(known) < self.settings.least_concepts:
                reasons[c] = (
                    f"{len(known)} concepts with positions in every part of the text, "
                    f"fewer than {self.settings.least_concepts}"
                )
                continue
            pairs[c] = self._pair(c, known)
            if not np.isfinite(pairs[c].share):
                reasons[c] = f"too little evidence ({pairs[c].mass.sum():.2g} logits)"
        reasons[self.context.primary_index] = "primary language"
        return self._collect(pairs, reasons)

    def _both_halves(self, c: int, concepts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pair's concepts that have positions in every fold-deleted part of both texts."""
        count = self.count[[c, self.context.primary_index]][:, :, concepts].numpy()
        halves = np.stack([count[:, 0::2].sum(1), count[:, 1::2].sum(1)])
        without = count.sum(1, keepdims=True) - count
        known = (halves > 0).all((0, 1)) & (without > 0).all((0, 1))
        kept: NDArray[np.int64] = concepts[known]
        return kept

    def _pair(self, c: int, concepts: NDArray[np.int64]) -> _PairEvidence:
        p = self.context.primary_index
        parts = _parts(self.folds)
        counts = {x: self.count[x][:, concepts].double() for x in (p, c)}
        sets = {x: self.index.token_sets(concepts, x) for x in (p, c)}
        direction = {x: _directions(self.model, sets[x]) for x in (p, c)}
        layers = []
        for layer in range(self.model.layers):
            writing = self.model.stream_writing(layer)
            g = {x: direction[x] @ writing.T for x in (p, c)}
            delta = {
                x: _contrast(parts, self.sum[x][:, concepts, layer].cpu().double(), counts[x])
                for x in (p, c)
            }
            layers.append(
                torch.stack([
                    correlate(delta[p], g[p].cpu().double()),
                    correlate(delta[c], g[p].cpu().double()),
                    correlate(delta[c], g[c].cpu().double()),
                ])
            )  # fmt: skip
        # [reading/writing, part, rotation, layer, unit]
        return _PairEvidence.of(torch.stack(layers, 3).numpy(), self.settings)

    def _collect(
        self, pairs: Mapping[int, _PairEvidence], reasons: list[str]
    ) -> TransferringResult:
        n, shape = len(reasons), (self.model.layers, self.model.units)
        masks = np.zeros((3, n, *shape), np.bool_)
        evidence = np.full((3, n, *shape), np.nan, np.float32)
        quantile = np.full((3, n, shape[0]), np.nan)
        mass, without = np.full((n, 2), np.nan), np.full((n, 2, self.folds), np.nan)
        share = np.full(n, np.nan)
        chance, half = np.full((n, 3), np.nan), np.full((n, 3), np.nan)
        concepts = np.zeros(n, np.int64)
        for c, pair in pairs.items():
            masks[:, c], evidence[:, c], quantile[:, c] = pair.sets, pair.evidence, pair.threshold
            mass[c], without[c], share[c] = pair.mass, pair.without, pair.share
            chance[c], half[c], concepts[c] = pair.chance, pair.split_half, pair.concepts
        return TransferringResult(
            written_language=np.array(["primary", "own"], dtype=object),
            neuron_set=np.array(SETS, dtype=object),
            transferring=masks[0],
            bilingual=masks[1],
            own=masks[2],
            evidence=np.moveaxis(evidence[1:], 0, 1),
            evidence_primary=evidence[0],
            null_quantile=np.moveaxis(quantile[1:], 0, 1),
            null_quantile_primary=quantile[0],
            mass=mass,
            mass_share=share,
            mass_reason=np.array(reasons, dtype=object),
            mass_leave_one_out=without,
            evidence_fold=np.arange(self.folds),
            chance_count=chance,
            split_half=half,
            evidence_concepts=concepts,
        )


def _parts(folds: int) -> Tensor:
    """[part, fold] which folds a part sums: all, even, odd, then all but each one."""
    all_folds = torch.ones(1, folds)
    even = (torch.arange(folds) % 2 == 0).double()[None]
    return torch.cat([all_folds, even, 1 - even, 1 - torch.eye(folds)]).double()


def _contrast(parts: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """`Δ` [part, concept, unit] from sums [fold, concept, unit] and counts [fold, concept]."""
    total = torch.einsum("pf,fku->pku", parts, sums)
    mean = total / torch.einsum("pf,fk->pk", parts, counts)[..., None]
    contrast: Tensor = mean - others_mean(mean, dim=1)
    return contrast


def others_mean(values: Tensor, dim: int) -> Tensor:
    """Along `dim`, the mean of all other entries."""
    n = values.shape[dim]
    mean: Tensor = (values.sum(dim, keepdim=True) - values) / (n - 1)
    return mean


def _directions(model: LanguageModel, sets: list[tuple[int, ...]]) -> Tensor:
    """[concept, d] `centre(γ ⊙ (W_U[x_k] - mean over j≠k of W_U[x_j]))`, a set by its mean row."""
    weight = model.unembedding
    rows = torch.stack([weight[list(s)].float().mean(0) for s in sets]).to(model.device)
    return model.norm.reading(rows - others_mean(rows, dim=0))


def correlate(delta: Tensor, g: Tensor) -> Tensor:
    """`mean over k of Δ[k, u] · g[(k + r) % K, u]` for every rotation `r`: [part, r, unit].

    A circular cross-correlation along the concepts, by FFT: rotation 0 is the evidence, the others
    are its null.

    Args:
        delta: [part, concept, unit].
        g: [concept, unit].
    """
    k = g.shape[0]
    spectrum = torch.fft.rfft(delta, dim=1).conj() * torch.fft.rfft(g, dim=0)
    correlation: Tensor = torch.fft.irfft(spectrum, n=k, dim=1)
    return correlation / k


@dataclass(frozen=True)
class _PairEvidence:
    """One pair's evidence on the three (reading, writing) combinations pp, cp, cc."""

    evidence: Floats
    """[combination, layer, unit]."""
    threshold: Floats
    """[combination, layer]."""
    sets: NDArray[np.bool_]
    """[set, layer, unit]."""
    mass: Floats
    """[2] M_p, M_c."""
    without: Floats
    """[2, fold] masses without each fold."""
    share: float
    chance: Floats
    """[set] mean size when the concept labels are rotated."""
    split_half: Floats
    """[set] Jaccard of two halves."""
    concepts: int

    @classmethod
    def of(cls, e: Floats, settings: Transferring) -> _PairEvidence:
        """From `e` [combination, part, rotation, layer, unit]; parts as in `_parts`."""
        whole, null = e[:, 0, 0], e[:, 0, 1:]
        threshold = np.quantile(null, settings.quantile, axis=(1, 3))
        sets = _sets(whole, threshold)
        rotated = np.stack([_sets(null[:, r], threshold) for r in range(null.shape[1])])
        halves = [
            _sets(e[:, h, 0], np.quantile(e[:, h, 1:], settings.quantile, axis=(1, 3)))
            for h in (1, 2)
        ]
        masses = np.stack([_mass(e[1:, part]) for part in range(e.shape[1])], axis=-1)
        mass = masses[:, 0]
        enough = mass.sum() >= settings.least_mass and mass.sum() > 0
        return cls(
            evidence=whole,
            threshold=threshold,
            sets=sets,
            mass=mass,
            without=masses[:, 3:],
            share=float(mass[0] / mass.sum()) if enough else float("nan"),
            chance=rotated.sum((2, 3)).mean(0),
            split_half=_jaccard(*halves),
            concepts=e.shape[2],
        )


def _sets(evidence: Floats, threshold: Floats) -> NDArray[np.bool_]:
    """[transferring, bilingual, own] masks from evidence [pp/cp/cc, layer, unit]."""
    a, b, d = evidence > threshold[..., None]
    return np.stack([a & b & ~d, a & d, d & ~a & ~b])


def _mass(e: Floats) -> Floats:
    """[2] `max(0, sum max(0, e) - null mean)` from `e` [2, rotation, layer, unit]."""
    sums = np.maximum(e, 0).sum((2, 3))
    mass: Floats = np.maximum(sums[:, 0] - sums[:, 1:].mean(1), 0)
    return mass


def _jaccard(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)
