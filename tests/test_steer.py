"""Steering: a planted model whose units decide the language, and how what is written is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGES, WORDS, tiny_model
from subjects import fingerprint, planted, subject_of, words_only
from transformers import GenerationConfig

from checkpoints.errors import UserError
from tracker.generation import continued
from tracker.interventions import HALVES, steer
from tracker.interventions.steer import Steer, SteerArm
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.probes.lape import Lape
from tracker.probes.vocabulary_mass import VocabularyMass, distinctive_tokens

SMALL = Steer(prompts=4, prompt_tokens=3, new_tokens=6, controls=1)

UNITS = {(0, 3): (("xx",), 1.0), (1, 9): (("yy",), 1.0), (2, 8): (("zz",), 1.0)}
"""One unit per language: it fires on the language's words and writes for them."""


def slow(model: Any, prompts: np.ndarray[Any, Any], new_tokens: int) -> np.ndarray[Any, Any]:
    """The same without a cache and one prompt at a time."""
    found = []
    for ids in prompts.tolist():
        for _ in range(new_tokens):
            ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
        found.append(ids[-new_tokens:])
    return np.array(found)


def test_continuing_is_greedy_search(context: Context, model: Any) -> None:
    prompts = np.stack([row.ids[:7] for row in context.text.rows if not row.graded_only][:5])
    found = continued(LanguageModel.of(model), prompts, 9, batch_tokens=10**6)
    np.testing.assert_array_equal(found, slow(model, prompts, 9))
    settings = GenerationConfig(
        max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=None, bos_token_id=None
    )
    model.generation_config = GenerationConfig()
    ids = torch.from_numpy(prompts)
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    np.testing.assert_array_equal(found, theirs[:, 7:].numpy())
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_prompts_are_continued_alike_together_and_alone(context: Context, model: Any) -> None:
    parts = LanguageModel.of(model)
    prompts = np.stack([row.ids[:7] for row in context.text.rows if not row.graded_only][:5])
    together = continued(parts, prompts, 6, batch_tokens=10**6)
    for batch_tokens in (1, 13 * 2):
        np.testing.assert_array_equal(continued(parts, prompts, 6, batch_tokens), together)


def test_what_does_not_fit_into_the_model_is_refused() -> None:
    parts = LanguageModel.of(tiny_model("gpt2", 40))
    prompts = np.ones((2, 100), np.int64)
    assert continued(parts, prompts, 28, 300).shape == (2, 28)
    with pytest.raises(UserError, match="prompts of 100 tokens and 29 more do not fit into the mo"):
        continued(parts, prompts, 29, 300)


def shares(result: Any, arm: int) -> list[float]:
    """Share of what was written that is distinctive of each language."""
    return (result.distinctive_count[arm].sum(0) / result.generated_count[arm].sum()).tolist()


@pytest.mark.parametrize("sets", ["specific", "specific_absolute"])
def test_planted_units_flip_the_language(tokenizer: Any, sets: str) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    before = fingerprint(model)
    subject = subject_of(context, model, tokenizer, probes={"lape": Lape(top_fraction=3 / 96)})
    result = replace(SMALL, sets=sets, directions="all").run(subject)
    assert fingerprint(model) == before
    assert len(result.arm) == 3 + 6 * 2
    own = np.eye(3).tolist()
    for arm, (source, target, control) in enumerate(
        zip(result.arm_source, result.arm_target, result.arm_control, strict=True)
    ):
        written = target if target and control < 0 else source
        assert shares(result, arm) == own[LANGUAGES.index(written)], result.arm[arm]
        assert set(result.sample[arm].split()) <= set(WORDS[written])
        assert result.arm_size[arm] == (2 if target else 0)
        assert result.arm_size_on[arm] == (1 if target else 0)
        assert result.arm_edit[arm] == ("steer" if target else "none")
    assert result.arm[:3].tolist() == list(LANGUAGES)
    assert "xx -> yy" in result.arm
    assert "zz -> yy (random 0)" in result.arm
    assert (result.generated_count == 6).all()
    assert (result.different_count == 1).all()  # the most likely word, again and again
    # The first word of a document is another token, too rare to be distinctive.
    np.testing.assert_allclose(result.distinctive_share, np.eye(3) * 11 / 12)


def test_a_unit_of_both_languages_counts_as_the_target_s(tokenizer: Any) -> None:
    context = words_only(tokenizer)
    units = {(0, 3): (("xx", "yy"), 1.0), (2, 8): (("zz",), 1.0)}
    model = planted(context, units)
    subject = subject_of(
        context, model, tokenizer, probes={"lape": Lape(top_fraction=2 / 96, bar_fraction=0.5)}
    )
    result = replace(SMALL, directions="primary").run(subject)
    arms = result.arm.tolist()
    assert result.arm_size[arms.index("xx -> yy")] == 1
    assert result.arm_size_on[arms.index("xx -> yy")] == 1
    assert result.arm_size[arms.index("xx -> zz")] == 2
    assert not any(a.startswith("yy -> zz") for a in arms)
    assert {a for a in arms if "->" in a and "random" not in a} == {
        "xx -> yy", "xx -> zz", "yy -> xx", "zz -> xx",
    }  # fmt: skip


def test_units_are_held_at_their_means_on_the_other_half(
    context: Context, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_model("llama", context.text.vocabulary)
    lape = Lape(top_fraction=0.2, bar_fraction=0.3)
    subject = subject_of(context, raw, tokenizer, probes={"lape": lape})
    seen: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    def spy(model: LanguageModel, units: Any, values: Any) -> Any:
        seen.append((units.mask, values))
        return held(model, units, values)

    held = steer.units_held
    monkeypatch.setattr(steer, "units_held", spy)
    result = SMALL.run(subject)
    assert len(seen) == 2 * len(result.arm)
    index = {name: i for i, name in enumerate(result.arm.tolist())}
    for half, folds in enumerate(HALVES):
        (sums,) = subject.measure([lape], folds)
        found = sums.result()
        mean = found.activation_sum[..., 1] / found.tokens[1]
        mask, values = seen[half * len(index) + index["xx -> yy"]]
        on, off = found.specific[1], found.specific[0] & ~found.specific[1]
        assert on.any()
        assert off.any()
        np.testing.assert_array_equal(mask, on | off)
        np.testing.assert_allclose(values[on], mean[on], rtol=1e-5)
        assert (values[off] == 0).all()
        # The control: as many of each kind in each layer, none of the units themselves.
        control, level = seen[half * len(index) + index["xx -> yy (random 0)"]]
        assert not (control & mask).any()
        assert control.sum(1).tolist() == mask.sum(1).tolist()
        raised = control & (level != 0)
        assert raised.sum(1).tolist() == on.sum(1).tolist()
        np.testing.assert_allclose(level[raised], mean[raised], rtol=1e-5)
        nothing, _ = seen[half * len(index) + index["xx"]]
        assert not nothing.any()


def test_prompts_begin_different_documents_of_the_other_half(
    context: Context, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_model("gpt_neox", context.text.vocabulary)
    asked: list[np.ndarray[Any, Any]] = []

    def spy(model: LanguageModel, prompts: Any, new_tokens: int, batch_tokens: int) -> Any:
        asked.append(prompts)
        return continued(model, prompts, new_tokens, batch_tokens)

    monkeypatch.setattr(steer, "continued", spy)
    result = SMALL.run(subject_of(context, raw, tokenizer))
    assert result.prompt_document.shape == (3, 4)
    assert int(result.prompt_tokens) == 3
    for half, read_on in enumerate(HALVES[::-1]):
        for arm, source in enumerate(result.arm_source):
            prompts = asked[half * len(result.arm) + arm]
            assert prompts.shape == (2, 3)
            c = LANGUAGES.index(source)
            assert len({tuple(p) for p in prompts.tolist()}) == 2
            for prompt, name in zip(
                prompts, result.prompt_document[c, 2 * half : 2 * half + 2], strict=True
            ):
                (row,) = [
                    r
                    for r in context.text.rows
                    if r.language == c and context.text.documents[r.document].id == name
                ]
                assert row.fold in read_on
                assert row.ids[:3].tolist() == prompt.tolist()
    every = replace(SMALL, prompts=1000, prompt_tokens=1).run(subject_of(context, raw, tokenizer))
    firsts = [r.ids[0] for r in context.text.rows if not r.graded_only]
    assert len(every.prompt) < len(set(firsts))  # equally many for each language and half


def test_what_is_written_is_counted_up_to_the_end_of_the_text(
    context: Context, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tiny_model("gpt_neox", context.text.vocabulary + 5)  # a padded head
    known = distinctive_tokens(context.text.token_counts())
    x, y = (int(np.flatnonzero(row)[0]) for row in known[:2])
    shared = int(np.flatnonzero(~known.any(0) & (context.text.token_counts().min(0) > 0))[0])
    end, nul = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("Ā")
    padding = context.text.vocabulary + 3
    lines = [
        [x, y, y, shared, end, y], [end, x, x, x, x, x], [x] * 6, [nul, padding, x, end, end, y],
    ]  # fmt: skip
    written = iter([lines[i : i + 2] for i in (0, 2)] * 99)
    # Arms take turns: the first one gets the first two lines, the second one the others.
    monkeypatch.setattr(steer, "continued", lambda *_: np.array(next(written)))
    result = SMALL.run(subject_of(context, raw, tokenizer))
    assert len(result.arm) % 2 == 1  # so in the second half the lines change places
    assert result.generated_count[0].tolist() == [4, 0, 6, 3]
    assert result.distinctive_count[0].tolist() == [[1, 2, 0], [0, 0, 0], [6, 0, 0], [1, 0, 0]]
    assert result.different_count[0].tolist() == [3, 0, 1, 3]
    assert result.generated_count[1].tolist() == [6, 3, 4, 0]
    assert result.sample[0] == tokenizer.decode([x, y, y, shared])
    monkeypatch.setattr(steer, "continued", lambda *_: np.array([lines[3], lines[0]]))
    sample = SMALL.run(subject_of(context, raw, tokenizer)).sample[0]
    assert "\0" not in sample
    assert sample.startswith("\ufffd")
    counts = context.text.token_counts()
    expected = [[counts[c, known[d]].sum() / counts[c].sum() for d in range(3)] for c in range(3)]
    np.testing.assert_allclose(result.distinctive_share, expected)


def test_the_model_is_left_as_it_was(
    context: Context, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(model)
    lape = Lape(top_fraction=0.2, bar_fraction=0.3)
    subject = subject_of(context, model, tokenizer, probes={"lape": lape})
    result = SMALL.run(subject)
    assert fingerprint(model) == before
    assert (result.arm_size[result.arm_edit == "steer"] > 0).all()

    def fail(*_: Any) -> Any:
        assert fingerprint(model) != before  # hooks are in force
        raise RuntimeError("inside")

    monkeypatch.setattr(steer, "continued", fail)
    monkeypatch.setattr(Steer, "_arms", lambda *_: [SteerArm("xx", "yy")])
    with pytest.raises(RuntimeError, match="inside"):
        SMALL.run(subject)
    assert fingerprint(model) == before


def test_the_run_s_own_settings_tell_what_is_distinctive(context: Context, tokenizer: Any) -> None:
    raw = tiny_model("gpt_neox", context.text.vocabulary)
    probes = {"mass": VocabularyMass(least_count=10**6)}
    result = SMALL.run(subject_of(context, raw, tokenizer, probes=probes))
    assert (result.distinctive_share == 0).all()
    assert (result.distinctive_count == 0).all()
    assert (result.generated_count > 0).any()


def test_empty_sets_are_reported_and_change_nothing(tokenizer: Any) -> None:
    context = words_only(tokenizer, documents=8)
    result = SMALL.run(subject_of(context, planted(context, {}), tokenizer))
    assert (result.arm_size == 0).all()
    for source in LANGUAGES:
        mine = result.arm_source == source
        assert (result.distinctive_count[mine] == result.distinctive_count[mine][0]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": "loud"}, "sets=loud: choose specific or specific_absolute"),
        ({"directions": "up"}, "directions=up: choose primary or all"),
        ({"prompts": 1}, "prompts=1: choose a whole number of at least 2"),
        ({"new_tokens": 0}, "new_tokens=0: choose"),
        ({"prompt_tokens": 2.5}, "prompt_tokens=2.5: choose"),
        ({"controls": 0}, "controls=0: choose"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^interventions\.steer\.{message}"):
        Steer(**settings)


def test_documents_that_are_too_short_are_said(context: Context, tokenizer: Any) -> None:
    raw = tiny_model("gpt_neox", context.text.vocabulary)
    with pytest.raises(UserError, match=r"steer\.prompt_tokens=90: 'xx' has no documents that lo"):
        Steer(prompt_tokens=90).run(subject_of(context, raw, tokenizer))
