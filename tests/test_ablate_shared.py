"""Shared units: the matching against brute force, planted shares, and what is removed."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from conftest import LANGUAGES
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import fingerprint, losses, planted, silence, subject_of, words_only

from checkpoints.errors import UserError
from tracker.interventions import HALVES
from tracker.interventions.ablate_shared import AblateShared, matched
from tracker.neurons import NeuronSet
from tracker.probes import Context
from tracker.probes.importance import Importance

Floats = np.ndarray[Any, Any]


def best_pairing(first: Floats, second: Floats, caliper: float) -> tuple[int, float]:
    """(most pairs there can be, smallest sum of log ratios of that many), by trying them all."""
    few, many = sorted((first, second), key=len)
    found = []
    for order in permutations(range(len(many)), len(few)):
        ratios = [abs(np.log(a / many[j])) for a, j in zip(few, order, strict=True)]
        kept = [r for r in ratios if r <= np.log(caliper)]
        found.append((-len(kept), sum(kept)))
    pairs, cost = min(found)
    return -pairs, cost


scores = st.lists(st.sampled_from([1.0, 1.1, 1.2, 1.35, 1.5, 2.0, 2.1, 4.0]), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    layers=st.lists(st.tuples(scores, scores), min_size=2, max_size=2),
    caliper=st.sampled_from([1.0, 1.15, 1.3, 10.0]),
)
def test_matching_is_the_best_there_is_within_each_layer(
    layers: list[tuple[list[float], list[float]]], caliper: float
) -> None:
    first, second = np.zeros((2, 10), bool), np.zeros((2, 10), bool)
    score = np.zeros((2, 10))
    for layer, (a, b) in enumerate(layers):
        first[layer, : len(a)], second[layer, 5 : 5 + len(b)] = True, True
        score[layer, : len(a)], score[layer, 5 : 5 + len(b)] = a, b
    one, two = matched(NeuronSet(first), NeuronSet(second), score, caliper)
    assert not len(one - NeuronSet(first))
    assert not len(two - NeuronSet(second))
    assert one.per_layer().tolist() == two.per_layer().tolist()
    for layer, (a, b) in enumerate(layers):
        pairs, cost = best_pairing(np.array(a), np.array(b), caliper)
        mine = [np.sort(score[layer, s.mask[layer]]) for s in (one, two)]
        assert len(mine[0]) == pairs
        # Of two sets of numbers, the pairing in their order has the smallest sum of differences.
        assert np.abs(np.log(mine[0] / mine[1])).sum() == pytest.approx(cost, abs=1e-9)


def test_what_has_no_like_partner_stays_out() -> None:
    score = np.array([[8.0, 4.0, 1.0, 4.2, 0.9, 0.5]])
    first = NeuronSet.of([(0, 0), (0, 1), (0, 2)], (1, 6))
    second = NeuronSet.of([(0, 3), (0, 4), (0, 5)], (1, 6))
    one, two = matched(first, second, score, 1.25)
    assert one.units() == [(0, 1), (0, 2)]
    assert two.units() == [(0, 3), (0, 4)]
    with pytest.raises(AssertionError, match="share units"):
        matched(first, first, score, 1.25)


UNITS = {
    (0, 1): (("xx", "yy"), 1.0),
    (0, 2): (("yy",), 1.0),
    (1, 7): (("yy",), 0.7),
    (1, 3): (("zz",), 1.0),
    (2, 3): (("xx",), 1.0),
}
"""yy has one unit with xx and two of its own; zz has its own alone."""


def rise(result: Any, name: str, language: str) -> float:
    arm = result.arm.tolist().index(name)
    mine = result.document_language == language
    return float(result.nll[arm, mine].sum() - result.nll[0, mine].sum())


def test_planted_shares(tokenizer: Any) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    before = fingerprint(model)
    probes = {"importance": Importance(top_fraction=5 / 96)}
    # Any two units may be paired: which of them match is planted by their layers.
    result = AblateShared(caliper=1e6, controls=2).run(subject_of(context, model, probes=probes))
    assert fingerprint(model) == before
    sizes = dict(zip(result.arm.tolist(), result.arm_size.tolist(), strict=True))
    assert [sizes[f"{edit} yy"] for edit in ("language", "shared", "shared_matched")] == [3, 1, 1]
    assert [sizes[f"{edit} zz"] for edit in ("language", "shared", "shared_matched")] == [1, 0, 0]
    plain = losses(context, model)

    def expected(language: str, *off: tuple[int, int]) -> Any:
        silent = silence(copy.deepcopy(model), NeuronSet.of(off, (3, 32)).mask)
        mine = result.document_language == language
        return pytest.approx((losses(context, silent) - plain)[mine].sum(), rel=1e-4)

    assert rise(result, "language zz", "zz") == expected("zz", (1, 3))
    assert rise(result, "language yy", "yy") == expected("yy", (0, 1), (0, 2), (1, 7))
    assert rise(result, "shared yy", "yy") == expected("yy", (0, 1))
    assert rise(result, "shared_matched yy", "yy") == expected("yy", (0, 1))
    # Its match is the own unit of the same layer.
    assert rise(result, "unshared_matched yy", "yy") == expected("yy", (0, 2))
    # What is shared hurts the primary too, what is not shared is not read on its text.
    assert rise(result, "shared yy", "xx") > 1
    assert np.isnan(rise(result, "language yy", "xx"))
    assert rise(result, "shared zz", "zz") == 0
    ratio = rise(result, "shared yy", "yy") / rise(result, "language yy", "yy")
    assert 0 < ratio < 0.6


def arms(result: Any, edit: str, target: str, controls: bool = False) -> Any:
    return np.flatnonzero(
        (result.arm_edit == edit)
        & (result.arm_target == target)
        & ((result.arm_control >= 0) == controls)
    )


def test_arms_languages_and_importance_of_a_random_model(context: Context, model: Any) -> None:
    probe = Importance(top_fraction=0.3)
    subject = subject_of(context, model, probes={"importance": probe})
    before = fingerprint(model)
    result = AblateShared(caliper=1.5).run(subject)
    assert fingerprint(model) == before
    assert len(result.arm) == 1 + 2 * (4 + 3)
    main = np.array([not d.graded_only for d in context.text.documents])
    for arm, (edit, target) in enumerate(zip(result.arm_edit, result.arm_target, strict=True)):
        allowed = {"none": set(LANGUAGES), "shared": {"xx", target}}.get(edit, {target})
        for language in LANGUAGES:
            mine = main & (result.document_language == language)
            assert np.isfinite(result.nll[arm, mine]).all() == (language in allowed)
            assert np.isnan(result.nll[arm, mine]).all() == (language not in allowed)
    found = [subject.measure([probe], half)[0].result() for half in HALVES]
    tokens = np.zeros((2, 3))
    for row in context.text.rows:
        if not row.graded_only:
            half = 0 if row.fold in HALVES[0] else 1
            tokens[half, row.language] += len(row.ids) - row.first_scored
    importance = [f.importance / t[:, None, None] for f, t in zip(found, tokens, strict=True)]
    for c, language in enumerate(LANGUAGES[1:], 1):
        masks = [f.important for f in found]
        shared = [m[c] & m[0] for m in masks]
        for edit, chosen in (("language", [m[c] for m in masks]), ("shared", shared)):
            (arm,) = arms(result, edit, language)
            assert result.arm_size[arm] == np.mean([m.sum() for m in chosen])
            here = [i[:, m].sum(1) for i, m in zip(importance, chosen, strict=True)]
            there = [i[:, m].sum(1) for i, m in zip(importance[::-1], chosen, strict=True)]
            np.testing.assert_allclose(result.arm_importance[arm], np.mean(here, 0), rtol=1e-5)
            np.testing.assert_allclose(
                result.arm_importance_read[arm], np.mean(there, 0), rtol=1e-5
            )
        random = arms(result, "shared", language, controls=True)
        (arm,) = arms(result, "shared", language)
        assert result.arm_size[random].tolist() == [result.arm_size[arm]] * 3
        assert (result.arm_importance[random, c] < result.arm_importance[arm, c]).all()
        (one,), (two,) = (arms(result, f"{w}_matched", language) for w in ("shared", "unshared"))
        assert 0 < result.arm_size[one] == result.arm_size[two] <= result.arm_size[arm]
        ratio = result.arm_importance[one, c] / result.arm_importance[two, c]
        assert 1 / 1.5 < ratio < 1.5
    assert (result.arm_importance[0] == 0).all()


def test_without_a_second_language_on_shared_units_nothing_is_removed(tokenizer: Any) -> None:
    context = words_only(tokenizer, documents=8)
    # Nothing fires, so nothing is important.
    result = AblateShared().run(subject_of(context, planted(context, {})))
    assert (result.arm_size == 0).all()
    assert (result.nll[1:] == result.nll[0])[~np.isnan(result.nll[1:])].all()


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match=r"^interventions\.ablate_shared\.caliper=0\.5: choose at"):
        AblateShared(caliper=0.5)
    with pytest.raises(UserError, match=r"^interventions\.ablate_shared\.controls=0: choose a"):
        AblateShared(controls=0)
