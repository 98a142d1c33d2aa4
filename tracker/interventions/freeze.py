"""Freezing the core region while one language is learnt: is less of the others forgotten?

Zhang et al. 2024, "Unveiling Linguistic Regions in Large Language Models" (arXiv 2402.14700;
methods 5): the model is trained further on one language, and the parameters of the core region are
put back to their values after every optimizer step, so that neither the gradient nor momentum nor
weight decay moves them. Compared with `free` training and with a `random` set of as many
parameters in each matrix, none of them in the core region. A frozen set also slows the learning
itself: forgetting of the other languages is to be compared at equal gain on the new one, therefore
the loss of all probe text is read at several steps of the training.

**Choices.** The core region is that of the languages that the model knows (loss below their unigram
entropy), the new one apart: what they rest on is to be kept. Where it knows none, all others count.
All parameters train, embeddings and head included; only those in the blocks' matrices can be
frozen. The region is cross-fitted as everything that interventions choose: with each half of the
probe text its own region is found and trained with, and the documents of one half are read in the
model that was trained with the other half's. The training text has no document of the probe text,
so `free` and `random` need one run per seed. The learning rate is constant after a short warm-up:
a decay would tie the result to the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.batches import MixedBatches, Phase
from checkpoints.errors import UserError
from checkpoints.train import Recipe, Seen, train
from tracker.interventions import HALVES, Subject
from tracker.interventions.edits import holder, random_places, weights_kept
from tracker.interventions.training import read_stream, require_trainable
from tracker.model import LanguageModel
from tracker.probes import require_fraction, require_number, require_whole
from tracker.probes.performance import Performance, PerformanceResult, PerformanceSums
from tracker.probes.regions import Regions, RegionSums
from tracker.regions import Places
from tracker.store import array

Ints = NDArray[np.int64]

ARMS = ("free", "core", "random")
MOST = 1 / 3
"""Largest fraction: beside the cores of both halves a random set of the same size must fit."""


@dataclass(frozen=True)
class FreezeResult:
    """Loss of every document while one language is learnt."""

    freeze_arm: NDArray[Any] = array("freeze_arm", doc="what is frozen: free (nothing), ...")
    seed: NDArray[np.int64] = array("seed", doc="order of the training text, random set")
    training_step: NDArray[np.int64] = array("training_step", unit="steps", doc="of training here")
    nll: NDArray[np.float64] = array(
        "freeze_arm", "seed", "training_step", "document", unit="nats",
        doc="summed NLL of scored tokens, NaN where none; core: under the other half's region",
    )  # fmt: skip
    token_count: NDArray[np.int64] = array("document", unit="tokens", doc="scored tokens")
    document_language: NDArray[Any] = array("document", doc="language of the document")
    new_language: NDArray[Any] = array(doc="the language that is trained on")
    core_language: NDArray[np.bool_] = array("language", doc="whose core region is frozen")
    training_update: NDArray[np.int64] = array("training_update", doc="optimizer step, from 1")
    training_loss: NDArray[np.float64] = array(
        "freeze_arm", "seed", "training_update", unit="nats/token",
        doc="of each batch before its update; core: mean of both halves' runs",
    )  # fmt: skip
    training_tokens: NDArray[np.int64] = array(unit="tokens", doc="different ones that are read")
    step_tokens: NDArray[np.int64] = array(unit="tokens", doc="of one training step")
    matrix: NDArray[Any] = array("matrix", doc="weight matrices inside the blocks")
    matrix_size: NDArray[np.int64] = array("matrix", unit="parameters")
    frozen_count: NDArray[np.float64] = array(
        "freeze_arm", "matrix", unit="parameters", doc="held at their values; mean of the runs"
    )
    core_overlap: NDArray[np.float64] = array(
        unit="share", doc="of the core region of one half, inside that of the other"
    )


@dataclass(frozen=True)
class Freeze:
    """Settings: which language, how much is frozen, how it is trained."""

    language: str | None = None
    """None: the first one that is not the primary."""
    fraction: float = 0.05
    """Of every weight matrix."""
    seeds: int = 3
    evaluate_at: tuple[int, ...] = (0, 2, 4, 8, 16, 32, 64)
    """Steps after which the probe text is read; 0 always is one of them."""
    learning_rate: float = 1e-3
    warmup_steps: int = 2
    batch_size: int = 8
    sequence_length: int = 128
    """At most the model's maximum."""
    precision: str = "auto"
    """Of the matrix products (`checkpoints.train.Recipe`)."""
    needs_corpus = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        where = "interventions.freeze"
        require_fraction(where, fraction=self.fraction)
        if self.fraction > MOST:
            raise UserError(f"{where}.fraction={self.fraction}: choose at most a third")
        require_whole(where, 1, seeds=self.seeds, batch_size=self.batch_size)
        require_whole(where, 2, sequence_length=self.sequence_length)
        require_whole(where, 0, warmup_steps=self.warmup_steps)
        require_number(where, 1e-12, learning_rate=self.learning_rate)
        steps = list(self.evaluate_at)
        if not all(isinstance(s, int) and s >= 0 for s in steps) or not any(steps):
            raise UserError(f"{where}.evaluate_at={steps}: choose numbers of steps, as [0,8,32]")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UserError(f"{where}.precision={self.precision}: auto, float32 or bfloat16")

    @property
    def points(self) -> list[int]:
        """Steps at which the probe text is read."""
        return sorted({0, *self.evaluate_at})

    def run(self, subject: Subject) -> FreezeResult:
        """Train every arm with every seed, each time from the checkpoint's weights."""
        require_trainable("freeze", subject.model)
        new = self._new_language(subject)
        stream, length = self._training_text(subject, new)
        before = _read(subject)
        kept = _kept(before, subject, new)
        cores = [self._core(subject, kept, half) for half in HALVES]
        losses = _Losses(before, self.seeds, self.points)
        for run in self._runs(subject, cores):
            batches = MixedBatches(
                {new: stream},
                [Phase(self.points[-1], {new: 1.0})],
                batch_size=self.batch_size,
                sequence_length=length,
                seed=run.seed,
            )
            self._train(subject, batches, run, losses)
        return FreezeResult(
            freeze_arm=np.array(ARMS, dtype=object),
            seed=np.arange(self.seeds),
            training_step=np.array(self.points),
            new_language=np.array(new, dtype=object),
            core_language=np.isin(np.arange(len(before.unigram_entropy)), kept),
            training_tokens=np.asarray(len(stream)),
            step_tokens=np.asarray(self.batch_size * length),
            **losses.fields(),
            **_counts(subject.model, cores),
        )

    def _new_language(self, subject: Subject) -> str:
        languages, others = subject.context.text.languages, subject.context.others
        name = self.language or languages[others[0] if others else 0]
        if name not in languages or not others:
            raise UserError(
                f"interventions.freeze.language={name}: the text needs it and a language that can "
                f"be forgotten; it has {', '.join(languages)}"
            )
        if name not in subject.corpus:
            raise UserError(
                f"intervention=freeze: the corpus has no {name} to train on (it has "
                f"{', '.join(subject.corpus) or 'nothing'}); choose interventions.freeze.language, "
                "or name another table with mixture.corpus=FILE"
            )
        return name

    def _training_text(self, subject: Subject, new: str) -> tuple[Ints, int]:
        """Packed tokens, no more than the steps can read, and the length of a row."""
        longest = getattr(subject.model.model.config, "max_position_embeddings", None)
        length = min(self.sequence_length, longest or self.sequence_length)
        rows = self.points[-1] * self.batch_size
        # A pass over the stream starts at a random offset, which costs one row.
        stream = read_stream(subject.corpus[new], subject.tokenizer, (rows + 1) * length)
        if len(stream) < 2 * length:
            raise UserError(
                f"intervention=freeze: {subject.corpus[new]} has {len(stream)} tokens of {new}, "
                f"too few for two rows of {length}; add text, or choose a smaller "
                "interventions.freeze.sequence_length"
            )
        return stream, length

    def _core(self, subject: Subject, old: Sequence[int], half: frozenset[int]) -> Places:
        """The core region of the languages that are to be kept."""
        subject.progress("core region")
        (sums,) = subject.measure([Regions(top_fraction=self.fraction)], half, old)
        assert isinstance(sums, RegionSums)
        return sums.regions().core

    def _runs(self, subject: Subject, cores: Sequence[Places]) -> Iterator[_Run]:
        for seed in range(self.seeds):
            yield _Run("free", seed, {})
            for core, read_on in zip(cores, HALVES[::-1], strict=True):
                yield _Run("core", seed, core, read_on, weight=1 / len(cores))
            generator = subject.generator("freeze", seed)
            yield _Run("random", seed, random_outside(subject.model, cores, generator))

    def _train(self, subject: Subject, batches: MixedBatches, run: _Run, losses: _Losses) -> None:
        model = subject.model
        recipe = Recipe(
            steps=len(batches),
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_share=0.0,
            precision=self.precision,
            seed=run.seed,
        )

        def read(seen: Seen) -> None:
            subject.progress(f"{run.arm}, seed {run.seed}: step {seen.step} of {len(batches)}")
            model.model.eval()
            losses.read(run, self.points.index(seen.step), _read(subject, run.folds))

        def after(step: int, loss: float) -> None:
            put_back()
            losses.trained(run, step, loss)

        with weights_kept(model):
            put_back = holder(model, run.frozen)
            model.model.requires_grad_(True)
            train(model.model, batches, recipe, save_at=self.points[1:], save=read, on_step=after)


@dataclass(frozen=True)
class _Run:
    """One training."""

    arm: str
    seed: int
    frozen: Places
    folds: frozenset[int] | None = None
    """Of the probe text that is read in it; None: all."""
    weight: float = 1.0
    """In the mean of the runs of its arm and seed."""


class _Losses:
    """What was read and seen in all runs."""

    def __init__(self, before: PerformanceResult, seeds: int, points: Sequence[int]) -> None:
        self.before = before
        self.nll = np.full((len(ARMS), seeds, len(points), len(before.nll)), np.nan)
        self.nll[:, :, 0] = np.where(before.token_count > 0, before.nll, np.nan)
        self.training = np.zeros((len(ARMS), seeds, points[-1]))

    def read(self, run: _Run, point: int, loss: PerformanceResult) -> None:
        """Keep the documents that were read at an evaluation point."""
        read = loss.token_count > 0
        self.nll[ARMS.index(run.arm), run.seed, point, read] = loss.nll[read]

    def trained(self, run: _Run, step: int, loss: float) -> None:
        """Keep a batch's loss."""
        self.training[ARMS.index(run.arm), run.seed, step - 1] += run.weight * loss

    def fields(self) -> dict[str, NDArray[Any]]:
        """Fields of the result."""
        return {
            "nll": self.nll,
            "token_count": self.before.token_count,
            "document_language": self.before.document_language,
            "training_update": np.arange(1, self.training.shape[-1] + 1),
            "training_loss": self.training,
        }


def _kept(before: PerformanceResult, subject: Subject, new: str) -> list[int]:
    """Languages that the model knows, without the new one; all others where it knows none.

    Gradients of a language that is not known are the largest, and say nothing of what is kept.
    """
    others = [c for c, name in enumerate(subject.context.text.languages) if name != new]
    language = subject.context.text.document_language
    loss = [before.nll[language == c].sum() / before.token_count[language == c].sum()
            for c in range(len(before.unigram_entropy))]  # fmt: skip
    return [c for c in others if loss[c] < before.unigram_entropy[c]] or others


def _read(subject: Subject, folds: frozenset[int] | None = None) -> PerformanceResult:
    (sums,) = subject.measure([Performance()], folds)
    assert isinstance(sums, PerformanceSums)
    return sums.result()


def random_outside(
    model: LanguageModel, regions: Sequence[Places], generator: np.random.Generator
) -> dict[str, Ints]:
    """In each matrix as many random parameters as the first region has, in none of the regions."""
    union = {name: np.unique(np.concatenate([r[name] for r in regions])) for name in regions[0]}
    drawn = random_places(model, union, generator)
    return {
        name: np.sort(generator.choice(flat, min(len(flat), len(regions[0][name])), replace=False))
        for name, flat in drawn.items()
    }


def _counts(model: LanguageModel, cores: Sequence[Places]) -> dict[str, NDArray[Any]]:
    """Sizes of what is frozen."""
    names = list(model.matrices)
    sizes = np.array([[len(core[name]) for name in names] for core in cores])
    both = sum(np.intersect1d(cores[0][n], cores[1][n], assume_unique=True).size for n in names)
    return {
        "matrix": np.array(names, dtype=object),
        "matrix_size": np.array([m.numel() for m in model.matrices.values()]),
        "frozen_count": np.stack([np.zeros(len(names)), sizes.mean(0), sizes[0]]),
        "core_overlap": np.asarray(both / max(1, sizes[0].sum())),
    }
