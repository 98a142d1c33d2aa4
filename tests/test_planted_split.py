"""A planted split: a series of models written by hand, from their weights to the verdict.

Two languages of six concepts, xx the primary. In a text of either, the word of a concept follows
one of its cues; which cue comes next is open. The models know all of it. Reading yy, their first
block writes, depending on the cue, the primary's word or yy's own one into the residual stream, and
their last block turns the primary's word into yy's. How many of the cues think in the primary's
words falls along the checkpoints, as a logistic of the tokens of yy seen that is written down here
(`Plan`), plus checkpoint noise. The layers' static preference for the primary's words, which is
no part of it, is set apart from it.

A document draws its cues from all there are, so the share in the text differs from the planted one
by the chance of that draw: the error that the intervals have to cover.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handwritten import LAYERS, UNITS, D, Hand
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from analysis import load_run
from analysis.curves import Fit, Interval, Outcome, Reason
from analysis.run import Run
from analysis.stages import Stages
from checkpoints.local import local_series
from tracker.documents import Document
from tracker.loading import ModelSettings
from tracker.probes.performance import Performance
from tracker.probes.working_language import WorkingLanguage
from tracker.sweep import Measurement, series_tokenizer, track
from tracker.text import TextSettings

Array = NDArray[np.float64]

K, CUES, DOCUMENTS = 6, 8, 48
"""Concepts, cues of each, documents of each language (and as many mentions of each concept)."""
SAID, NEXT = 9.0, 8.0
"""Logit of the word that a layer decodes, and of every cue that may come next."""
SEEN = np.concatenate([[0.0, 0.0, 0.0], 1e5 * np.geomspace(1, 10**2.6, 15)])
"""Tokens of yy seen; the first two checkpoints are untrained, the third knows both languages."""
FORMED = np.arange(len(SEEN)) >= 2
U = np.log10(SEEN + SEEN[3])


@dataclass(frozen=True)
class Plan:
    """What is planted in a series of checkpoints."""

    share: Array
    """[s] part of yy's cues after which the middle layers decode the primary's word."""
    preference: Array = field(default_factory=lambda: np.full(len(SEEN), 12.0))
    """[s] logits by which the middle layers prefer the primary's words, whatever they read."""


def logistic(middle: float, width: float = 0.2, start: float = 0.96, end: float = 0.06) -> Array:
    """The planted fall, [s]."""
    return np.asarray(end + (start - end) / (1 + np.exp((U - middle) / width)))


def noisy(share: Array, seed: int, deviation: float = 0.02) -> Array:
    """With checkpoint noise, independent from checkpoint to checkpoint."""
    shaken = share + deviation * np.random.default_rng(seed).standard_normal(len(share))
    return np.asarray(np.clip(shaken, 0, 1))


@dataclass(frozen=True)
class World:
    """The languages: their text, their tokens, and the order in which yy's cues turn."""

    mentions: NDArray[np.int64]
    """[document, K] which of its cues announces a concept."""
    order: NDArray[np.int64]
    """[document, K] order of the concepts."""
    threshold: Array
    """[K, CUES] planted share from which a cue of yy thinks in the primary's words."""

    @classmethod
    def draw(cls, seed: int) -> World:
        """Cues of every mention at random; thresholds spread evenly over 0 to 1."""
        rng = np.random.default_rng(seed)
        order = rng.permuted(np.tile(np.arange(K), (DOCUMENTS, 1)), axis=1)
        levels = (np.arange(K * CUES) + 0.5) / (K * CUES)
        threshold = rng.permutation(levels).reshape(K, CUES)
        return cls(rng.integers(CUES, size=(DOCUMENTS, K)), order, threshold)

    def share(self, planted: Array) -> Array:
        """[s] of the text's mentions, how many the planted shares [s] decode in the primary."""
        turns = self.threshold[np.arange(K), self.mentions]
        return np.asarray([(turns < p).mean() for p in planted])

    def documents(self) -> list[Document]:
        """The text; translations share an id and their cues."""
        return [
            Document(str(i), c, " ".join(f"cue{c}{k}v{cues[k]} word{c}{k}" for k in order))
            for i, (order, cues) in enumerate(zip(self.order, self.mentions, strict=True))
            for c in ("xx", "yy")
        ]

    @property
    def names(self) -> list[str]:
        """All tokens; the first is for unknown words, of which there are none."""
        words = [f"word{c}{k}" for c in ("xx", "yy") for k in range(K)]
        cues = [f"cue{c}{k}v{v}" for c in ("xx", "yy") for k in range(K) for v in range(CUES)]
        return ["?", *words, *cues]

    def tokenizer(self) -> Any:
        """One token a word."""
        vocabulary = {name: i for i, name in enumerate(self.names)}
        raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64)

    def model(self, kind: str, share: float, preference: float) -> Any:
        """The model in whose middle layers yy's cues with a threshold below `share` say xx."""
        token = {name: i for i, name in enumerate(self.names)}
        hand = Hand(len(token), kind)
        said, nuisance = hand.spare[: 2 * K].reshape(2, K, D), 3 * hand.spare[2 * K]
        # Amplitude 3 everywhere: the stream's squared norm is 1 + 1 + 9 in the middle layers and,
        # without the constant, 10 in front of the head.
        unscale, head = 10**0.5 / D**0.5, hand.parts.unembedding
        for c, language in enumerate(("xx", "yy")):
            words = [token[f"word{language}{k}"] for k in range(K)]
            head[words] = SAID / 3 * unscale * said[c]
            cues = [i for name, i in token.items() if name.startswith(f"cue{language}")]
            head[cues] = NEXT * unscale * hand.token[words].sum(0)
            hand.unit(0, c, words, nuisance)
        head[[token[f"wordxx{k}"] for k in range(K)]] += preference * unscale * hand.constant
        for k in range(K):
            hand.unit(0, 2 + k, [token[f"cuexx{k}v{v}"] for v in range(CUES)], 3 * said[0, k])
            for v, turns in enumerate(self.threshold[k]):
                thinks_in = 0 if turns < share else 1
                cue = token[f"cueyy{k}v{v}"]
                hand.unit(0, 2 + K + CUES * k + v, [cue], 3 * said[thinks_in, k])
        self._translate(hand, said, token)
        return hand.model

    @staticmethod
    def _translate(hand: Hand, said: torch.Tensor, token: dict[str, int]) -> None:
        """The last block: the primary's word becomes yy's while reading yy; no preference."""
        reading_yy = hand.token[[i for name, i in token.items() if name.startswith("cueyy")]].sum(0)
        for k in range(K):
            both = said[0, k] / 3 + reading_yy - 1.5 * hand.constant
            hand.wire(LAYERS - 1, k, both, 3 * (said[1, k] - said[0, k]), 11.0)
        everything = range(len(token))
        hand.unit(LAYERS - 1, UNITS - 1, everything, -hand.constant, 11.0)


def write_series(folder: Path, world: World, plan: Plan, kind: str) -> None:
    """The checkpoints as a training run would leave them."""
    tokenizer = world.tokenizer()
    for s, (seen, share, preference) in enumerate(
        zip(SEEN, plan.share, plan.preference, strict=True)
    ):
        model = world.model(kind, share, preference)
        if not FORMED[s]:
            model.get_output_embeddings().weight.zero_()
        place = folder / f"step-{100 * s}"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        seen_by = {"xx": 10**7 * int(FORMED[s]), "yy": round(seen)}
        sidecar = {"step": 100 * s, "tokens": sum(seen_by.values()), "tokens_by_language": seen_by}
        (place / "tracker.json").write_text(json.dumps(sidecar))


def tracked(folder: Path, world: World, plan: Plan, kind: str = "gpt_neox") -> Run:
    """Write the series, sweep it, and read the records."""
    write_series(folder / "series", world, plan, kind)
    series = local_series(folder / "series")
    tokenizer, digest = series_tokenizer(series, None)
    languages = ("xx", "yy")
    measurement = Measurement(
        series=series, tokenizer=tokenizer, tokenizer_digest=digest, documents=world.documents(),
        concept_table=[
            {"concept": f"c{k}", **{c: [f"word{c}{k}"] for c in languages}} for k in range(K)
        ],
        languages=languages, primary="xx", text_settings=TextSettings(10**6), seed=0,
        probes={"performance": Performance(), "working_language": WorkingLanguage()},
        model_settings=ModelSettings(), config="seed: 0\n",
    )  # fmt: skip
    outcome = track(measurement, folder / "run" / "records")
    assert len(outcome.measured) == len(SEEN)
    return load_run(folder / "run", replicates=400)


def verdict(run: Run) -> tuple[Fit, Stages]:
    return run.fits["working_language_share", "yy"]


def values(run: Run, measure: str, language: str = "yy") -> Array:
    return run.curve(measure, language).value


def assert_the_models_are_as_planned(run: Run, world: World, plan: Plan) -> None:
    """They predict their text, and their middle layers say what they were written to say."""
    np.testing.assert_array_equal(run.formed, [FORMED, FORMED])
    # After a cue the word is certain, after a word any of the language's cues may come.
    per_document = 2 * K - 1
    best = (K - 1) / per_document * np.log(K * CUES)
    unigram = run.records[0]["performance/unigram_entropy"]
    for language, entropy in zip(("xx", "yy"), unigram, strict=True):
        loss = values(run, "loss", language)[FORMED]
        np.testing.assert_allclose(loss, best, atol=0.1)
        assert (loss < entropy - 1).all()
    share = values(run, "working_language_share")[FORMED]
    in_text = world.share(plan.share)[FORMED]
    np.testing.assert_allclose(share, in_text, atol=0.02)
    assert (values(run, "specificity")[FORMED] > 0.95).all()
    # Mentions are a sample of size DOCUMENTS x K of cues that turn one by one.
    planted = plan.share[FORMED]
    sampling = np.sqrt(planted * (1 - planted) / (DOCUMENTS * K))
    assert (np.abs(in_text - planted) < 4 * sampling + 1 / (K * CUES)).all()


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize(("kind", "middle", "seed"), [("gpt_neox", 6.2, 0), ("llama", 6.6, 1)])
def test_a_planted_split_is_announced_where_it_is(
    tmp_path: Path, kind: str, middle: float, seed: int
) -> None:
    world, width = World.draw(seed), 0.2
    plan = Plan(noisy(logistic(middle, width), seed))
    run = tracked(tmp_path, world, plan, kind)
    assert_the_models_are_as_planned(run, world, plan)
    assert (values(run, "raw_win_rate")[FORMED] > 0.95).all()  # raw scores see the preference only
    fit, stages = verdict(run)
    assert (fit.outcome, fit.unformed) == (Outcome.SPLIT, 2)
    assert holds(fit.u_mid, middle)
    assert holds(fit.u_width, width)
    assert fit.u_mid.high - fit.u_mid.low < 0.3  # of 2.6 decades
    assert holds(fit.x_mid, 10**middle - SEEN[3])
    assert fit.start_level.value == pytest.approx(0.96, abs=0.05)
    assert fit.end_level.value == pytest.approx(0.06, abs=0.05)
    # 10% and 90% of the fall.
    assert holds(stages.translation_end, 10 ** (middle - width * np.log(9)) - SEEN[3])
    assert holds(stages.transition_end, 10 ** (middle + width * np.log(9)) - SEEN[3])
    assert f"yy: split at {fit.x_mid.value:.1e}".replace("e+0", "e") in run.sentences()[0]


HIGH, CHANCE = np.full(len(SEEN), 0.95), np.full(len(SEEN), 0.5)


@pytest.mark.parametrize(
    ("plan", "raw_at_the_end"),
    [
        (Plan(HIGH), 1.0),
        (Plan(CHANCE), 1.0),
        (Plan(HIGH, 24 * logistic(6.2, start=1, end=0) - 12), 0.0),
    ],
    ids=["stays high", "stays at chance", "only the static preference falls"],
)
def test_without_the_fall_there_is_no_split(
    tmp_path: Path, plan: Plan, raw_at_the_end: float
) -> None:
    world, plan = World.draw(2), replace(plan, share=noisy(plan.share, 2))
    run = tracked(tmp_path, world, plan)
    assert_the_models_are_as_planned(run, world, plan)
    raw = values(run, "raw_win_rate")[FORMED]
    assert raw[[0, -1]] == pytest.approx([1, raw_at_the_end], abs=0.05)
    fit, _ = verdict(run)
    assert fit.outcome is Outcome.NO_SPLIT
    assert (fit.reason is Reason.AT_CHANCE) == (plan.share[-1] < 0.6)
    assert run.sentences() == [f"yy: no split found ({fit.reason})"]
