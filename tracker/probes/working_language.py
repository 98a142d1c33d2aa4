"""Working language of the layers at counterpart positions (methods 2; Babel Tower, logit lens).

At a position of language `c` whose next word has a counterpart in the primary language `p`, the
logit lens says at every layer how likely the counterpart and the word itself are. Part of that is
a static preference of the layer for the primary's words, whatever it reads; the headline `share`
is corrected for it:

    b_l(v) = mean over languages of the mean over random positions of log q_l(v)
    z(v)   = log q_l(v) - b_l(v)     over the 2K token sets {p_j}, {c_j}
    r      = softmax(z);  P_l, C_l = means of r(p_k), r(c_k), over concepts first
    S_l    = P_l / (P_l + C_l),  specificity = P_l + C_l (chance 1/K)

`log q` is needed only up to a constant per position and layer, which cancels in `r` and in every
difference, so only the concepts' tokens are scored (`tracker.lens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.lens import TokenSets
from tracker.model import LanguageModel
from tracker.positions import ConceptIndex, Pair, random_positions
from tracker.probes import Context, require_number
from tracker.store import array
from tracker.trace import Need, Trace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class WorkingLanguageResult:
    """Shares per language and layer, and the sums behind them. The primary's own row is NaN."""

    concept: NDArray[Any] = array("concept", doc="concepts that any pair keeps")
    share: Floats = array("language", "hidden_layer", unit="share", doc="S_l, corrected")
    specificity: Floats = array("language", "hidden_layer", unit="share", doc="P_l + C_l")
    ceiling: Floats = array("language", "hidden_layer", unit="share", doc="S_l on primary text")
    raw_pair_share: Floats = array("language", "hidden_layer", unit="share", doc="q_p/(q_p+q_c)")
    raw_win_rate: Floats = array("language", "hidden_layer", unit="share", doc="q_p > q_c")
    static_part: Floats = array("language", "hidden_layer", unit="nats")
    language_part: Floats = array("language", "hidden_layer", unit="nats")
    concept_part: Floats = array("language", "hidden_layer", unit="nats")
    kept: NDArray[np.bool_] = array("language", "concept", doc="compared with the primary")
    dropped: NDArray[Any] = array("language", doc="concepts left out, by reason")
    primary_sum: NDArray[np.float32] = array(
        "document", "concept", "hidden_layer", unit="share", doc="summed r(p_k)"
    )
    own_sum: NDArray[np.float32] = array(
        "document", "concept", "hidden_layer", unit="share", doc="summed r(c_k)"
    )
    position_count: NDArray[np.int64] = array("document", "concept", unit="positions")
    static_base: Floats = array(
        "hidden_layer", "concept", "language", unit="nats", doc="b_l, up to a constant per layer"
    )


@dataclass(frozen=True)
class WorkingLanguage:
    """Settings: how many random positions the static base rests on."""

    base_positions: int = 400
    least_concepts: int = 3
    """A pair with fewer has no share: specificity would be high by construction."""
    group: str = "working_language"
    needs: Need = Need.RESIDUAL
    needs_concepts: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        require_number(
            "working_language", 1,
            base_positions=self.base_positions, least_concepts=self.least_concepts,
        )  # fmt: skip

    def start(self, context: Context, model: LanguageModel) -> WorkingLanguageScores:
        """Nothing scored yet."""
        return WorkingLanguageScores(self, context, model)


class WorkingLanguageScores:
    """Scores of the concepts' token sets at counterpart positions, and sums at random ones."""

    def __init__(self, settings: WorkingLanguage, context: Context, model: LanguageModel) -> None:
        assert context.concepts is not None, "a working language needs a concept table"
        self.context, self.index = context, context.concepts
        self.least_concepts = settings.least_concepts
        self.layers = model.layers + 1
        languages, concepts = len(context.text.languages), len(self.index.names)
        every = np.arange(concepts)
        sets = [s for c in range(languages) for s in self.index.token_sets(every, c)]
        self.shape = (languages, concepts)
        self.sets = TokenSets(sets, model.device)
        self.random, self.random_language = random_positions(
            context.text, settings.base_positions, context.seed
        )
        self.base = torch.zeros(
            (languages, self.layers, *self.shape), dtype=torch.float64, device=model.device
        )
        self.scored: list[Tensor] = []
        self.places: list[NDArray[np.int64]] = []

    def update(self, trace: Trace) -> None:
        """Score a batch's positions."""
        batch = trace.batch
        if batch.graded_only:
            return
        rows, tokens, _ = self.random.inside(batch.rows)
        if len(rows):
            self.base[batch.language] += self._score(trace, rows, tokens).double().sum(0)
        rows, tokens, places = self.index.positions.inside(batch.rows)
        if len(rows):
            wanted = self._languages(batch.language)
            score = self._score(trace, rows, tokens)
            self.scored.append(torch.stack([score[:, :, c] for c in wanted], 2))
            self.places.append(places)

    def _score(self, trace: Trace, rows: Tensor, tokens: Tensor) -> Tensor:
        scores = self.sets.scores(trace.model, trace.residual, rows, tokens)
        return scores.reshape(*scores.shape[:-1], *self.shape)

    def _languages(self, language: int) -> list[int]:
        """Languages whose words are scored in text of `language`: all in the primary's text."""
        p = self.context.primary_index
        return list(range(self.shape[0])) if language == p else [p, language]

    def result(self) -> WorkingLanguageResult:
        """Correct for the static base, pair by pair."""
        return _summarise(
            self.context, self.index, self._base(), self._positions(), self.least_concepts
        )

    def _base(self) -> Floats:
        counts = np.bincount(self.random_language, minlength=self.shape[0])
        mean = self.base.cpu().numpy() / np.maximum(counts, 1)[:, None, None, None]
        base: Floats = mean[counts > 0].mean(0).astype(np.float64)
        return base

    def _positions(self) -> Mapping[int, tuple[NDArray[np.int64], Floats]]:
        """Language of the text -> (places, scores [place, hidden_layer, language, concept])."""
        found: dict[int, tuple[NDArray[np.int64], Floats]] = {}
        for language in range(self.shape[0]):
            mine = [i for i, p in enumerate(self.places) if self.index.language[p[0]] == language]
            if mine:
                found[language] = (
                    np.concatenate([self.places[i] for i in mine]),
                    torch.cat([self.scored[i] for i in mine]).cpu().double().numpy(),
                )
        return found


def corrected(primary: Floats, own: Floats) -> tuple[Floats, Floats]:
    """`r(p_j)`, `r(c_j)`: softmax over both sets of scores [place, hidden_layer, concept]."""
    both = np.stack([primary, own])
    weight = np.exp(both - both.max(axis=(0, -1), keepdims=True))
    weight /= weight.sum(axis=(0, -1), keepdims=True)
    return weight[0], weight[1]


def _concept_mean(values: Floats, concept: NDArray[np.int64], concepts: int) -> Floats:
    """[hidden_layer] mean over concepts of the mean over each concept's places."""
    sums = np.zeros((concepts, values.shape[1]))
    np.add.at(sums, concept, values)
    count = np.bincount(concept, minlength=concepts)
    present = count > 0
    mean: Floats = (sums[present] / count[present, None]).mean(0)
    return mean


def _summarise(
    context: Context,
    index: ConceptIndex,
    base: Floats,
    scored: Mapping[int, tuple[NDArray[np.int64], Floats]],
    least: int,
) -> WorkingLanguageResult:
    text, p = context.text, context.primary_index
    languages, concepts, layers = len(text.languages), len(index.names), len(base)
    names = (
        "share", "specificity", "ceiling", "raw_pair_share", "raw_win_rate",
        "static_part", "language_part", "concept_part",
    )  # fmt: skip
    table = {name: np.full((languages, layers), np.nan) for name in names}
    sums = np.zeros((2, len(text.documents), concepts, layers))
    count = np.zeros((len(text.documents), concepts), np.int64)
    kept = np.zeros((languages, concepts), np.bool_)
    for c, pair in index.pairs.items():
        if len(pair.concepts) < least or c not in scored:
            continue
        kept[c, pair.concepts] = True
        places, scores = scored[c]
        view = _View.of(index, pair, places, scores[:, :, 0], scores[:, :, 1])
        bases = base[:, p, pair.concepts], base[:, c, pair.concepts]
        table["share"][c], table["specificity"][c], r = view.shares(*bases)
        for name, value in view.differences(*bases).items():
            table[name][c] = value
        document = np.array([text.rows[r].document for r in index.positions.row[view.places]])
        place = document, pair.concepts[view.concept]
        np.add.at(sums[0], place, r[0])
        np.add.at(sums[1], place, r[1])
        np.add.at(count, place, 1)
        if p in scored:
            places, scores = scored[p]
            view = _View.of(index, pair, places, scores[:, :, p], scores[:, :, c])
            table["ceiling"][c] = view.shares(*bases)[0]
    return WorkingLanguageResult(
        concept=np.array(index.names, dtype=object),
        kept=kept,
        dropped=np.array(
            [
                _reasons(index.pairs[c], index.names, least) if c != p else ""
                for c in range(languages)
            ],
            dtype=object,
        ),
        primary_sum=sums[0].astype(np.float32),
        own_sum=sums[1].astype(np.float32),
        position_count=count,
        static_base=np.moveaxis(base, 1, -1),
        **table,
    )


def _reasons(pair: Pair, names: Sequence[str], least: int) -> str:
    by_reason: dict[str, list[str]] = {}
    if len(pair.concepts) < least:
        by_reason[f"left, fewer than the {least} that a comparison needs"] = [
            names[k] for k in pair.concepts
        ]
    for name, reason in pair.dropped.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{len(n)} {reason}: {', '.join(n)}" for reason, n in by_reason.items())


@dataclass(frozen=True)
class _View:
    """A pair's scores at the places of its concepts in one language's text."""

    places: NDArray[np.int64]
    concept: NDArray[np.int64]
    """[place] index among the pair's concepts."""
    primary: Floats
    """[place, hidden_layer, concept of the pair]."""
    own: Floats

    @classmethod
    def of(
        cls,
        index: ConceptIndex,
        pair: Pair,
        places: NDArray[np.int64],
        primary: Floats,
        own: Floats,
    ) -> _View:
        mine = np.isin(index.concept[places], pair.concepts)
        concept = np.searchsorted(pair.concepts, index.concept[places][mine])
        columns = pair.concepts
        return cls(places[mine], concept, primary[mine][..., columns], own[mine][..., columns])

    def _at(self, values: Floats) -> Floats:
        """[place, hidden_layer] the entry of each place's own concept."""
        chosen: Floats = np.take_along_axis(values, self.concept[:, None, None], axis=-1)[..., 0]
        return chosen

    def _mean(self, values: Floats) -> Floats:
        return _concept_mean(values, self.concept, self.primary.shape[-1])

    def shares(
        self, base_p: Floats, base_c: Floats
    ) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
        """`S_l`, specificity, and `r(p_k)`, `r(c_k)` at each place."""
        r_p, r_c = corrected(self.primary - base_p, self.own - base_c)
        at_p, at_c = self._at(r_p), self._at(r_c)
        p, c = self._mean(at_p), self._mean(at_c)
        return p / (p + c), p + c, (at_p, at_c)

    def differences(self, base_p: Floats, base_c: Floats) -> dict[str, Floats]:
        """Raw scores, and the decomposition of `log q(p_k)/q(c_k)` into three parts (nats)."""
        raw = self._at(self.primary) - self._at(self.own)
        static = self._at(np.broadcast_to(base_p - base_c, self.primary.shape))
        rest = (self.primary - base_p) - (self.own - base_c)
        language = rest.mean(-1)
        return {
            "raw_pair_share": self._mean(1 / (1 + np.exp(-np.clip(raw, -500, 500)))),
            "raw_win_rate": self._mean((raw > 0).astype(np.float64)),
            "static_part": self._mean(static),
            "language_part": self._mean(language),
            "concept_part": self._mean(self._at(rest) - language),
        }
