"""Language-specific neurons by activation-probability entropy (LAPE, methods 3).

Tang et al. 2024, "Language-Specific Neurons: The Key to Multilingual Capabilities in Large
Language Models" (arXiv 2402.16438).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tracker.model import LanguageModel
from tracker.probes import Context, require_fraction, require_number
from tracker.store import array
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The published selection on one table of activation probabilities."""

    entropy: Floats
    """[layer, unit] nats; +inf for units that no language activates above the bar."""
    bar: float
    """Activation probability that a unit must exceed to belong to a language."""
    specific: NDArray[np.bool_]
    """[language, layer, unit]."""


def activation_entropy(probability: Floats) -> Floats:
    """LAPE `-sum_c a' ln a'`, `a' = a / sum_c a`, of `probability` [layer, unit, language]; nats.

    A unit that never fires has 0/0 -> 0 for every language, so entropy 0.
    """
    total = probability.sum(-1, keepdims=True)
    share = np.divide(probability, total, out=np.zeros_like(probability), where=total > 0)
    entropy: Floats = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return entropy


def select(
    probability: Floats, top_fraction: float = 0.01, bar_fraction: float = 0.95
) -> Selection:
    """The published procedure, in float64; ties are broken by flat index (methods 3, steps 2-5).

    Args:
        probability: [layer, unit, language] share of tokens on which a unit is active.
        top_fraction: Share of all units that is selected, over the whole model.
        bar_fraction: Rank of the bar among all entries of `probability`.
    """
    layers, units, languages = probability.shape
    bar = _bar(probability, bar_fraction)
    entropy = activation_entropy(probability)
    entropy[~(probability > bar).any(-1)] = np.inf
    order = np.argsort(entropy.ravel(), kind="stable")[: round(top_fraction * layers * units)]
    chosen = np.zeros(layers * units, np.bool_)
    chosen[order[np.isfinite(entropy.ravel()[order])]] = True
    member = chosen.reshape(layers, units, 1) & (probability > bar)
    assert member.shape == (layers, units, languages)
    return Selection(entropy, bar, np.moveaxis(member, -1, 0))


def _bar(probability: Floats, bar_fraction: float) -> float:
    """The value of rank `round(bar_fraction · N)` among all `N` entries."""
    flat = probability.ravel()
    rank = min(max(round(bar_fraction * flat.size), 1), flat.size)
    return float(np.partition(flat, rank - 1)[rank - 1])


def select_equal(
    probability: Floats, size: int = 400, bar_fraction: float = 0.95
) -> NDArray[np.bool_]:
    """As many units for every language: its `size` lowest-entropy ones above the bar.

    The variant of arXiv 2506.01074, where LAPE's sets of very different size would not compare:
    per language, among the units with `a > bar` in it, the `size` of lowest entropy, ties by flat
    index. **Choice**: a language with fewer units above the bar (small models) gets all of them,
    and its set is the smaller.

    Args:
        probability: [layer, unit, language] share of tokens on which a unit is active.
        size: Units per language.
        bar_fraction: Rank of the bar among all entries of `probability`.

    Returns:
        [language, layer, unit] masks.
    """
    above = np.moveaxis(probability > _bar(probability, bar_fraction), -1, 0)
    order = np.argsort(activation_entropy(probability).ravel(), kind="stable")
    chosen = np.zeros((len(above), above[0].size), np.bool_)
    for mine, candidate in zip(chosen, above.reshape(chosen.shape), strict=True):
        mine[order[candidate[order]][:size]] = True
    return chosen.reshape(above.shape)


def bar_notes(probability: Floats, bar: float) -> list[str]:
    """Per language what is wrong with a bar that selects nothing or anything; else empty.

    Activations that are almost never negative put the bar at 1, which no unit exceeds; those that
    are almost never positive put it at 0, which any unit exceeds that is ever active.
    """
    notes = []
    for c, rate in enumerate(probability.mean((0, 1))):
        seen = f"(mean activation probability {rate:.2g})"
        if bar <= 0:
            notes.append(f"the bar is 0, one active token is above it {seen}")
        elif not (probability[..., c] > bar).any():
            notes.append(f"no unit is above the bar of {bar:.3g} {seen}: nothing can be specific")
        else:
            notes.append("")
    return notes


def select_absolute(
    probability: Floats,
    entropy_fraction: float = 0.9,
    least_probability: float = 0.01,
    member_fraction: float = 0.5,
) -> NDArray[np.bool_]:
    """Units below a fixed entropy, whose number moves over training (methods 3; **choice**).

    A unit counts where `E < entropy_fraction · ln |C|` and some language activates it on at least
    `least_probability` of its tokens (not dead); it belongs to the languages that activate it at
    least `member_fraction` as often as the most activating one.

    Returns:
        [language, layer, unit] masks.
    """
    languages = probability.shape[-1]
    largest = probability.max(-1)
    low = activation_entropy(probability) < entropy_fraction * np.log(languages)
    chosen = low & (largest >= least_probability)
    member = chosen[..., None] & (probability >= member_fraction * largest[..., None])
    return np.moveaxis(member, -1, 0)


@dataclass(frozen=True)
class LapeResult:
    """Raw counts, and the sets that are made of them in three ways."""

    activation_count: NDArray[np.int64] = array("layer", "unit", "language", unit="tokens")
    activation_sum: Floats = array("layer", "unit", "language", doc="summed activation")
    activation_count_fold: NDArray[np.int64] = array(
        "fold", "layer", "unit", "language", unit="tokens"
    )
    activation_sum_fold: Floats = array("fold", "layer", "unit", "language")
    tokens: NDArray[np.int64] = array("language", unit="tokens", doc="tokens counted")
    tokens_fold: NDArray[np.int64] = array("fold", "language", unit="tokens")
    lape: Floats = array("layer", "unit", unit="nats", doc="entropy; inf below the bar")
    bar: Floats = array(unit="share", doc="activation probability a member must exceed")
    base_rate: Floats = array(
        "language", unit="share", doc="mean activation probability", curve=True
    )
    specific: NDArray[np.bool_] = array("language", "layer", "unit", doc="published selection")
    specific_note: NDArray[Any] = array("language", doc="bar that selects nothing or anything")
    specific_equal: NDArray[np.bool_] = array(
        "language", "layer", "unit", doc="as many per language"
    )
    specific_absolute: NDArray[np.bool_] = array(
        "language", "layer", "unit", doc="entropy below a fixed bound"
    )


@dataclass(frozen=True)
class Lape:
    """Settings of the three selections."""

    top_fraction: float = 0.01
    bar_fraction: float = 0.95
    equal_size: int = 400
    absolute_entropy: float = 0.9
    absolute_probability: float = 0.01
    group: str = "neurons"
    needs: Need = Need.ACTIVATION

    def __post_init__(self) -> None:
        """Refuse what is no fraction."""
        require_fraction(
            "lape",
            top_fraction=self.top_fraction,
            bar_fraction=self.bar_fraction,
            absolute_entropy=self.absolute_entropy,
            absolute_probability=self.absolute_probability,
        )
        require_number("lape", 1, equal_size=self.equal_size)

    def start(self, context: Context, model: LanguageModel) -> LapeCounts:
        """Empty counts."""
        return LapeCounts(self, context, model)


class LapeCounts:
    """Active tokens (activation > 0) and summed activation per fold, layer, unit, language."""

    def __init__(self, settings: Lape, context: Context, model: LanguageModel) -> None:
        self.settings = settings
        shape = (len(context.text.languages), context.text.folds, model.layers, model.units)
        self.count = torch.zeros(shape, dtype=torch.int32, device=model.device)
        self.sum = torch.zeros(shape, dtype=torch.float32, device=model.device)
        self.tokens = torch.zeros(shape[:2], dtype=torch.int64, device=model.device)

    def update(self, trace: Trace) -> None:
        """Add a batch."""
        batch = trace.batch
        if batch.graded_only:
            return
        real = batch.real[..., None]
        count, total = self.count[batch.language], self.sum[batch.language]
        self.tokens[batch.language].index_add_(0, batch.fold, batch.real.sum(1))
        for layer, activation in enumerate(trace.activation):
            active = ((activation > 0) & real).sum(1, dtype=torch.int32)
            count[:, layer].index_add_(0, batch.fold, active)
            summed = (activation * real).sum(1, dtype=torch.float32)
            total[:, layer].index_add_(0, batch.fold, summed)

    def result(self) -> LapeResult:
        """Totals, probabilities and selections."""
        s = self.settings
        count = np.moveaxis(self.count.cpu().numpy().astype(np.int64), 0, -1)
        total = np.moveaxis(self.sum.cpu().numpy(), 0, -1)
        tokens = self.tokens.cpu().numpy().T
        probability = count.sum(0) / np.maximum(tokens.sum(0), 1)
        published = select(probability, s.top_fraction, s.bar_fraction)
        return LapeResult(
            activation_count=count.sum(0),
            activation_sum=total.sum(0),
            activation_count_fold=count.astype(np.int32),
            activation_sum_fold=total,
            tokens=tokens.sum(0),
            tokens_fold=tokens,
            lape=published.entropy,
            bar=np.asarray(published.bar),
            base_rate=probability.mean((0, 1)),
            specific=published.specific,
            specific_note=np.array(bar_notes(probability, published.bar), dtype=object),
            specific_equal=select_equal(probability, int(s.equal_size), s.bar_fraction),
            specific_absolute=select_absolute(
                probability, s.absolute_entropy, s.absolute_probability
            ),
        )
