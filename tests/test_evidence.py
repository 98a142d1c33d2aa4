"""The evidence for the right word against a slow loop over single rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from probing import by_row, measure
from subjects import subject_of

from tracker.interventions import HALVES
from tracker.interventions.evidence import PLACES, Evidence
from tracker.model import LanguageModel
from tracker.probes import Context

Sums = dict[tuple[int, int, int], list[np.ndarray[Any, Any]]]
"""(language, fold, concept) -> the logits [place, written, concept] at its positions."""


def word_logits(context: Context, model: Any) -> Sums:
    """Mean logit of every concept's words, as the primary and as the language itself write them."""
    index, rows = context.concepts, by_row(context, model)
    assert index is not None
    parts, found = LanguageModel.of(model), Sums()
    for r, t, c, k in zip(
        index.positions.row, index.positions.token, index.language, index.concept, strict=True
    ):
        if c not in index.pairs or k not in index.pairs[c].concepts:
            continue
        row, _, seen = rows[int(r)]
        logits = [
            model.get_output_embeddings()(parts.final_norm(seen["hidden"][layer][t]))
            for layer in (1, 2, 3)
        ]
        # Of 3 layers, 1 and 2 lie between .25 and .9 of the depth.
        places = torch.stack([(logits[0] + logits[1]) / 2, logits[2]])
        words = [
            [places[:, list(index.first_tokens[j][x])].mean(-1) for j in index.pairs[c].concepts]
            for x in (context.primary_index, int(c))
        ]
        found.setdefault((int(c), row.fold, int(k)), []).append(
            torch.stack([torch.stack(w, -1) for w in words], 1).double().numpy()
        )
    return found


def contrast(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[..., concept] each logit minus the mean of the others'."""
    k = logits.shape[-1]
    return logits - (logits.sum(-1, keepdims=True) - logits) / (k - 1)


def evidence(found: Sums, c: int, concepts: list[int], without: int | None) -> Any:
    """[written, place] the contrast of methods 4: against other words and other positions."""
    mean = []
    for k in concepts:
        here = [
            x
            for (language, fold, concept), values in found.items()
            if (language, concept) == (c, k) and fold != without
            for x in values
        ]
        mean.append(contrast(np.stack(here)).mean(0))
    # [positions of concept j, place, written, word k]
    table = np.stack(mean)
    total = 0.0
    for k in range(len(concepts)):
        others = [table[j, ..., k] for j in range(len(concepts)) if j != k]
        total = total + table[k, ..., k] - np.mean(others, axis=0)
    return (total / len(concepts)).T


def test_evidence_is_the_double_contrast_of_the_logits(context: Context, model: Any) -> None:
    whole, without = measure(Evidence(), context, model)
    found = word_logits(context, model)
    assert context.concepts is not None
    assert PLACES == ("middle", "output")
    assert whole.shape == (3, 2, 2)
    assert without.shape == (3, 2, 2, context.text.folds)
    assert np.isnan(whole[context.primary_index]).all()
    for c, pair in context.concepts.pairs.items():
        concepts = pair.concepts.tolist()
        np.testing.assert_allclose(
            whole[c], evidence(found, c, concepts, None), rtol=1e-4, atol=1e-4
        )
        for fold in range(context.text.folds):
            np.testing.assert_allclose(
                without[c, ..., fold], evidence(found, c, concepts, fold), rtol=1e-4, atol=1e-4
            )


def test_the_first_contrasts_cancel_at_every_position(context: Context, model: Any) -> None:
    """Why the double contrast is `K / (K - 1)` times the first one."""
    found = word_logits(context, model)
    assert context.concepts is not None
    for values in found.values():
        single = contrast(np.stack(values))
        np.testing.assert_allclose(single.sum(-1), 0, atol=1e-4)
    for c, pair in context.concepts.pairs.items():
        concepts = pair.concepts.tolist()
        k = len(concepts)
        right = []
        for i, concept in enumerate(concepts):
            here = [v for (a, _, b), vs in found.items() if (a, b) == (c, concept) for v in vs]
            right.append(contrast(np.stack(here))[..., i].mean(0))
        first = np.mean(right, axis=0).T
        np.testing.assert_allclose(evidence(found, c, concepts, None), first * k / (k - 1))


def test_both_halves_add_up_and_what_is_not_read_is_nan(context: Context) -> None:
    raw = tiny_model("llama", context.text.vocabulary)
    subject = subject_of(context, raw)
    (half,) = subject.measure([Evidence()], HALVES[0], (0, 2))
    found, _ = half.result()
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2]).all()
    (both,) = subject.measure([Evidence()], HALVES[1], (0, 2), [half])
    expected, _ = measure(Evidence(), context, raw)
    np.testing.assert_allclose(both.result()[0][2], expected[2], rtol=1e-4)
    assert not np.allclose(found[2], expected[2])


def test_a_model_without_middle_layers_has_none(tokenizer: Any, context: Context) -> None:
    model = tiny_model("gpt2", context.text.vocabulary)
    model.transformer.h = model.transformer.h[:1]
    whole, _ = measure(Evidence(), context, model)
    assert np.isnan(whole[..., 0]).all()
    assert np.isfinite(whole[1:, :, 1]).all()


def test_evidence_needs_a_concept_table(context: Context) -> None:
    from dataclasses import replace

    with pytest.raises(AssertionError, match="concept table"):
        measure(Evidence(), replace(context, concepts=None), tiny_model("gpt2", 420))
