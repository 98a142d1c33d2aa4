"""Importance of MLP units for the loss of a language (methods 4).

`I[l, u, c] = sum over tokens |a · dL/da|`, `a` the input of the MLP's output projection and `L`
the summed NLL: the first-order change of the loss when the unit is set to 0 (Molchanov et al.
2017, arXiv 1611.06440). For gated MLPs `a` is the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tracker.model import LanguageModel
from tracker.probes import Context, require_fraction
from tracker.store import array
from tracker.trace import Need, Trace


@dataclass(frozen=True)
class ImportanceResult:
    """Importance and the most important units of each language."""

    importance: NDArray[np.float32] = array("language", "layer", "unit", unit="nats")
    importance_fold: NDArray[np.float32] = array("fold", "language", "layer", "unit", unit="nats")
    important: NDArray[np.bool_] = array("language", "layer", "unit", doc="top units, global")
    importance_reliability: NDArray[np.float64] = array(
        "language", unit="share", doc="overlap of the top units of two halves of the folds"
    )


@dataclass(frozen=True)
class Importance:
    """Settings: which share of a model's units counts as important."""

    top_fraction: float = 0.05
    group: str = "neurons"
    needs: Need = Need.GRADIENT

    def __post_init__(self) -> None:
        """Refuse what is no fraction."""
        require_fraction("importance", top_fraction=self.top_fraction)

    def start(self, context: Context, model: LanguageModel) -> ImportanceSums:
        """Empty sums."""
        return ImportanceSums(self, context, model)


class ImportanceSums:
    """Sums per fold, language, layer and unit."""

    def __init__(self, settings: Importance, context: Context, model: LanguageModel) -> None:
        self.settings = settings
        shape = (len(context.text.languages), context.text.folds, model.layers, model.units)
        self.sum = torch.zeros(shape, dtype=torch.float32, device=model.device)

    def update(self, trace: Trace) -> None:
        """Add a batch; special tokens in front of the text do not count."""
        batch = trace.batch
        if batch.graded_only:
            return
        real = batch.real[..., None]
        total = self.sum[batch.language]
        for layer, (unit, slope) in enumerate(zip(trace.unit, trace.gradient, strict=True)):
            effect = (unit * slope).abs_().mul_(real).sum(1, dtype=torch.float32)
            total[:, layer].index_add_(0, batch.fold, effect)

    def result(self) -> ImportanceResult:
        """Totals and top units."""
        folds = self.sum.cpu().numpy()
        total = folds.sum(1)
        return ImportanceResult(
            importance=total,
            importance_fold=np.swapaxes(folds, 0, 1),
            important=np.stack([top_units(t, self.settings.top_fraction) for t in total]),
            importance_reliability=np.array([self._reliability(f) for f in folds]),
        )

    def _reliability(self, folds: NDArray[np.float32]) -> float:
        """`rel`: overlap of the top units of even and odd folds, of one language."""
        even, odd = (
            top_units(folds[half::2].sum(0), self.settings.top_fraction) for half in (0, 1)
        )
        return float((even & odd).sum() / even.sum()) if even.any() else float("nan")


def top_units(score: NDArray[np.float32], fraction: float) -> NDArray[np.bool_]:
    """The `round(fraction · units)` highest of `score` [layer, unit], ties by flat index."""
    flat = score.ravel()
    chosen = np.argsort(-flat, kind="stable")[: round(fraction * flat.size)]
    mask = np.zeros(flat.size, np.bool_)
    mask[chosen[flat[chosen] > 0]] = True
    return mask.reshape(score.shape)
