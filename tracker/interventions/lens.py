"""The Lens objective on the last layers: does a language get better, and at what cost?

Zhao et al. 2024, "Lens: Rethinking Multilingual Enhancement for Large Language Models"
(arXiv 2410.04407; methods 6). For a target language `c` and the primary `p`, with parallel
sentences and the subspaces of `tracker.subspaces` (`P_a`, `P_s` the projections on the agnostic
direction and on the specific basis; `h⁰` the states before training), three mean-squared terms,
each a mean over pairs and dimensions, each of weight 1:

    pull   P_a h_c - P_a h_p                what the two languages share is drawn together
    move   P_s h_c - P_s h⁰_c - δ_c         c goes on in its direction, away from p
    keep   h_p - h⁰_p                       p stays where it was
    δ_c = mean P_s h⁰_c - mean P_s h⁰_p

The loss on text is not in the objective: whether it falls is the question.

**Choices**, where abstract and published script leave it open or differ from `methods.md`:
- A state `h` is the mean over the tokens of a document (its first window, where it has several).
  The script takes the last token for pull and move, which in its chat prompts is always the same
  one; a text's last token stands for nothing but itself. Its keep term has the mean, as here.
- States are read after the final norm of the last layer, as in the script: what the head reads.
- The last `layers` blocks train; everything below, the final norm, embeddings and head are fixed.
- `δ_c` is added to where each document was, not to a common point. Gradients of pull flow through
  both languages: p is held by keep alone. Dropout is off.
- AdamW (weight decay .1), gradients clipped to norm 1, warm-up over 5% of the steps and a cosine
  to 0, as in the script's settings.
- The subspaces are those of all languages of the text, from the documents that all have.

Controls: the same objective with random orthonormal subspaces of the same ranks, the same batches,
and the differences of the means projected on them as `δ`, stretched to the length of `δ_c` (a
random subspace holds little of the difference: a control that hardly moves would prove nothing).
Subspaces, `δ` and training use one half of the documents, everything is read on the other half,
and the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from checkpoints.errors import CheckpointError, UserError
from tracker.interventions import Subject
from tracker.interventions.arms import Arm, Effects, Folds, Reading, Trial, cross_fitted, effects
from tracker.interventions.edits import weights_kept
from tracker.interventions.lens_objective import TERMS, Objective
from tracker.interventions.lens_states import (
    StatesProbe,
    StateSums,
    inside,
    parallel_rows,
    states,
    states_of_all,
)
from tracker.interventions.training import require_trainable
from tracker.probes import Context, require_number, require_whole
from tracker.store import array
from tracker.subspaces import Subspaces, fit_subspaces

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WEIGHT_DECAY, CLIP, WARMUP = 0.1, 1.0, 0.05
RCOND = 1e-6
"""States are float32 sums."""


@dataclass(frozen=True)
class LensResult(Effects):
    """Losses under every arm, and what became of the objective and of the states."""

    lens_term: NDArray[Any] = array("lens_term", doc="pull, move, keep: terms of the objective")
    lens_moment: NDArray[Any] = array("lens_moment", doc="before, after the training")
    objective: Floats = array(
        "arm", "lens_term", "lens_moment",
        doc="mean square over the pairs that are trained on, mean of the halves",
    )  # fmt: skip
    subspace: NDArray[Any] = array("subspace", doc="agnostic, specific")
    distance: Floats = array(
        "arm", "language", "subspace",
        doc="of a language's mean state to the primary's, on the half that was not trained on, in "
        "the subspaces of the other (of a control, too); NaN without an agnostic direction",
    )  # fmt: skip
    moved: Floats = array(
        "arm", unit="share",
        doc="of the arm's own delta, by which the target's mean went along it, on the other half",
    )  # fmt: skip
    delta_length: Floats = array("arm", doc="length of the arm's delta, mean of the halves")
    pairs: Ints = array(unit="documents", doc="per language, both halves")
    trained_size: Ints = array(unit="parameters", doc="of the last blocks, which train")


@dataclass(frozen=True)
class Lens:
    """Settings: which languages, and how they are trained."""

    languages: tuple[str, ...] | None = None
    """Targets; None: every language but the primary."""
    learning_rate: float = 1e-5
    steps: int = 25
    batch_size: int = 8
    """Parallel pairs per step."""
    layers: int = 2
    """Last blocks that train."""
    rank: int | None = None
    """Of the specific subspace; None: number of languages - 1."""
    controls: int = 2

    def __post_init__(self) -> None:
        """Refuse settings that cannot be; languages and rank are seen when the text is known."""
        where = "interventions.lens"
        require_whole(where, 1, steps=self.steps, batch_size=self.batch_size, layers=self.layers)
        require_whole(where, 1, controls=self.controls)
        require_number(where, 1e-12, learning_rate=self.learning_rate)
        if self.rank is not None:
            require_whole(where, 1, rank=self.rank)

    def rate(self, step: int) -> float:
        """Learning rate of step number `step` (from 0)."""
        warm = math.ceil(WARMUP * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        part = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def run(self, subject: Subject) -> LensResult:
        """Train for every target and its controls, on either half."""
        require_trainable("lens", subject.model)
        if self.layers > subject.model.layers:
            raise UserError(
                f"interventions.lens.layers={self.layers}: the model has {subject.model.layers}"
            )
        rows = parallel_rows(subject.context.text, self.batch_size)
        work = Trainings(self, subject, self._targets(subject.context), rows)
        found = cross_fitted(subject, work.trials, [StatesProbe(rows)])
        return LensResult(**effects(found), **work.fields(found))

    def _targets(self, context: Context) -> list[int]:
        languages = context.text.languages
        if self.languages is None:
            return context.others
        for name in self.languages:
            if name not in languages or name == context.primary:
                raise UserError(
                    f"interventions.lens.languages: {name!r} is no target; choose among "
                    f"{', '.join(languages[c] for c in context.others)}"
                )
        return [languages.index(name) for name in self.languages]


@dataclass(frozen=True)
class _Half:
    """What is chosen on one half of the text."""

    rows: Ints
    """[meaning, language]."""
    before: Tensor
    """[language, meaning, d] states of the checkpoint as it is."""
    spaces: Subspaces

    @classmethod
    def of(cls, subject: Subject, rows: Ints, rank: int | None) -> _Half:
        before = _states(subject, rows.T)
        means = before.double().mean(1).cpu().numpy()
        if not np.isfinite(means).all():
            raise CheckpointError("its hidden states are not finite: they span no subspaces")
        return cls(rows, before, fit_subspaces(means.T, rank, RCOND))

    def difference(self, target: int, primary: int) -> Floats:
        """[d] mean state of the target minus the primary's."""
        gap = self.before[target].double().mean(0) - self.before[primary].double().mean(0)
        found: Floats = gap.cpu().numpy()
        return found


def _states(subject: Subject, rows: Ints) -> Tensor:
    """[group, row, d] of rows [group, row]."""
    model, text, most = subject.model, subject.context.text, subject.batch_tokens
    return torch.stack([states_of_all(model, text, group, most) for group in rows])


@dataclass(frozen=True)
class _Trained:
    """What was seen of one training."""

    objective: Objective
    terms: Floats
    """[term, moment]."""


class Trainings:
    """The trials, and what is kept of them beside the losses."""

    def __init__(
        self, settings: Lens, subject: Subject, targets: Sequence[int], rows: Ints
    ) -> None:
        self.settings, self.subject, self.targets, self.rows = settings, subject, targets, rows
        self.halves: dict[Folds, _Half] = {}
        self.trained: dict[tuple[Arm, Folds], _Trained] = {}
        last = subject.model.blocks[-settings.layers :]
        self.parameters = [p for block in last for p in block.parameters()]
        self.size = sum(p.numel() for p in self.parameters)

    def trials(self, folds: Folds) -> Iterator[Trial]:
        """Every target with its controls, ready to be trained on these folds."""
        context = self.subject.context
        chosen = self.rows[inside(context.text, self.rows, folds)]
        half = _Half.of(self.subject, chosen, self.settings.rank)
        self.halves[folds] = half
        for c in self.targets:
            name = context.text.languages[c]
            difference = half.difference(c, context.primary_index)
            own = Objective.of(half.spaces, difference, self.subject.model.device)
            yield self._trial(Arm("lens", name), folds, own)
            for r in range(self.settings.controls):
                control = own.random(self.subject.generator("lens", name, r), difference)
                yield self._trial(Arm("lens", name, r), folds, control)

    def _trial(self, arm: Arm, folds: Folds, objective: Objective) -> Trial:
        return Trial(arm, self.size, partial(self._after_training, arm, folds, objective))

    @contextmanager
    def _after_training(self, arm: Arm, folds: Folds, objective: Objective) -> Iterator[None]:
        half, context = self.halves[folds], self.subject.context
        pair = [context.text.languages.index(arm.target), context.primary_index]
        rows, before = half.rows[:, pair].T, half.before[pair]
        with weights_kept(self.subject.model):
            self._train(rows, before, objective, self.subject.generator("lens", arm.target))
            moments = [objective.terms(h, before) for h in (before, _states(self.subject, rows))]
            terms = torch.stack(moments, -1).double().cpu().numpy()
            self.trained[arm, folds] = _Trained(objective, terms)
            yield

    def _train(
        self, rows: Ints, before: Tensor, objective: Objective, generator: np.random.Generator
    ) -> None:
        """`rows` [2, pair] of target and primary, `before` [2, pair, d]."""
        model, text, settings = self.subject.model, self.subject.context.text, self.settings
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.parameters, weight_decay=WEIGHT_DECAY)
        for step, pairs in enumerate(batches(rows.shape[1], settings, generator)):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            with torch.enable_grad():
                flat = states(model, text, rows[:, pairs].ravel())
                now = flat.view(2, len(pairs), -1)
                loss = objective.terms(now, before[:, torch.from_numpy(pairs)]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def fields(self, found: dict[Arm, Reading]) -> dict[str, NDArray[Any]]:
        """Fields of the result beside the losses."""
        sums = {arm: _states_read(reading) for arm, reading in found.items()}
        nothing = next(iter(sums.values()))
        seen = [self._seen(arm, read, nothing) for arm, read in sums.items()]
        return {
            "lens_term": np.array(TERMS, dtype=object),
            "lens_moment": np.array(["before", "after"], dtype=object),
            "subspace": np.array(["agnostic", "specific"], dtype=object),
            "pairs": np.asarray(len(self.rows)),
            "trained_size": np.asarray(self.size),
            **{name: np.stack([one[name] for one in seen]) for name in seen[0]},
        }

    def _seen(self, arm: Arm, read: StateSums, nothing: StateSums) -> dict[str, Any]:
        """What became of an arm, mean of the halves."""
        halves = [
            self._seen_after(arm, folds, read.means_outside(folds), nothing.means_outside(folds))
            for folds in self.halves
        ]
        return {name: np.mean([half[name] for half in halves], axis=0) for name in halves[0]}

    def _seen_after(self, arm: Arm, folds: Folds, now: Floats, before: Floats) -> dict[str, Any]:
        """The same for one training; means [language, d] of what it was not trained on."""
        context = self.subject.context
        gaps = now - now[context.primary_index]
        distance = np.stack(self.halves[folds].spaces.distances(gaps), -1)
        trained = self.trained.get((arm, folds))
        if trained is None:
            nothing = np.full((len(TERMS), 2), np.nan)
            return {
                "distance": distance, "objective": nothing, "moved": np.nan, "delta_length": np.nan,
            }  # fmt: skip
        delta = trained.objective.delta.double().cpu().numpy()
        c = context.text.languages.index(arm.target)
        return {
            "distance": distance,
            "objective": trained.terms,
            "moved": share_along(now[c] - before[c], delta),
            "delta_length": np.linalg.norm(delta),
        }


def _states_read(reading: Reading) -> StateSums:
    sums = reading.accumulators[1]
    assert isinstance(sums, StateSums)
    return sums


def share_along(step: Floats, delta: Floats) -> float:
    """How much of `delta` lies in `step`: 1 for the whole, NaN where there is no `delta`."""
    square = float(delta @ delta)
    return float(step @ delta) / square if square else np.nan


def batches(pairs: int, settings: Lens, generator: np.random.Generator) -> Iterator[Ints]:
    """Pairs of each step: one order after another, so that all are seen equally often."""
    needed = settings.steps * settings.batch_size
    orders = [generator.permutation(pairs) for _ in range(-(-needed // pairs))]
    yield from np.concatenate(orders)[:needed].reshape(settings.steps, -1)
