"""Deactivation: a planted diagonal, weights set to zero by hand, and what is read on whose text."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from conftest import LANGUAGES, tiny_model
from subjects import fingerprint, losses, planted, silence, subject_of, words_only

from checkpoints.errors import UserError
from tracker.interventions import HALVES
from tracker.interventions.deactivate import OF_PAIRS, SOURCES, Deactivate
from tracker.probes import Context
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.transferring import Transferring

UNITS = {
    (0, 3): (("xx",), 1.0), (0, 9): (("yy",), 1.0), (1, 4): (("yy",), 0.5), (2, 8): (("zz",), 1.5)
}  # fmt: skip
"""(layer, unit) -> whose words it fires on and writes for, and how strongly."""


def matrix(result: Any, edit: str) -> np.ndarray[Any, Any]:
    """[deactivated, evaluated] change of the loss, nats/token."""
    found = np.full((3, 3), np.nan)
    for i, target in enumerate(LANGUAGES):
        (arm,) = np.flatnonzero(
            (result.arm_edit == edit) & (result.arm_target == target) & (result.arm_control < 0)
        )
        for j, language in enumerate(LANGUAGES):
            mine = result.document_language == language
            change = result.nll[arm, mine] - result.nll[0, mine]
            found[i, j] = change.sum() / result.token_count[mine].sum()
    return found


@pytest.mark.parametrize("name", ["specific", "specific_absolute"])
def test_planted_units_are_found_and_only_their_own_language_misses_them(
    tokenizer: Any, name: str
) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    before = fingerprint(model)
    # 4 units of 96, each active on a third of the text.
    probes = {"lape": Lape(top_fraction=4 / 96)}
    subject = subject_of(context, model, probes=probes)
    result = Deactivate(sets=(name,), controls=2).run(subject)
    assert fingerprint(model) == before
    sizes = {
        t: result.arm_size[(result.arm_target == t) & (result.arm_control < 0)].tolist()
        for t in LANGUAGES
    }
    assert sizes == {"xx": [1], "yy": [2], "zz": [1]}
    found = matrix(result, name)
    assert (np.diag(found) > 0.2).all(), found
    np.testing.assert_allclose(found[~np.eye(3, dtype=bool)], 0, atol=1e-6)
    # The other units never fire: as many of them, in the same layers, are missed by nobody.
    controls = result.arm_control >= 0
    assert controls.sum() == 2 * 3
    assert (result.arm_size[controls] > 0).all()
    np.testing.assert_allclose(
        result.nll[controls], np.broadcast_to(result.nll[0], (6, 48)), rtol=1e-6
    )
    assert np.isnan(result.evidence).all()


def test_deactivating_is_setting_the_writing_weights_to_zero(context: Context, model: Any) -> None:
    probe = Importance(top_fraction=0.1)
    subject = subject_of(context, model, probes={"importance": probe})
    before = fingerprint(model)
    result = Deactivate(sets=("important",), controls=1).run(subject)
    assert fingerprint(model) == before
    fold = np.zeros(len(context.text.documents), int)
    for row in context.text.rows:
        fold[row.document] = row.fold
    main = np.array([not d.graded_only for d in context.text.documents])
    for chosen_on, read_on in (HALVES, HALVES[::-1]):
        read = main & np.isin(fold, sorted(read_on))
        (sums,) = subject.measure([probe], chosen_on)
        mask = sums.result().important[LANGUAGES.index("yy")]
        expected = losses(context, silence(copy.deepcopy(model), mask))
        arm = result.arm.tolist().index("important yy")
        np.testing.assert_allclose(result.nll[arm, read], expected[read], rtol=1e-3)
        assert not np.allclose(result.nll[0, read], expected[read], rtol=1e-3)
        assert result.arm_size[arm] == mask.sum()


def test_sets_of_pairs_are_read_on_the_text_of_the_two_alone(context: Context) -> None:
    raw = tiny_model("llama", context.text.vocabulary)
    intervention = Deactivate(sets=OF_PAIRS, controls=1)
    assert intervention.needs_concepts
    assert not Deactivate().needs_concepts
    subject = subject_of(context, raw, probes={"t": Transferring(quantile=0.8)})
    result = intervention.run(subject)
    assert set(result.arm_target.tolist()) == {"", "yy", "zz"}
    assert len(result.arm) == 1 + 3 * 2 * 2
    main = np.array([not d.graded_only for d in context.text.documents])
    for arm, target in enumerate(result.arm_target):
        allowed = set(LANGUAGES) if not target else {"xx", target}
        for language in LANGUAGES:
            mine = main & (result.document_language == language)
            assert np.isfinite(result.nll[arm, mine]).all() == (language in allowed)
            assert np.isnan(result.nll[arm, mine]).all() == (language not in allowed)
            # The primary has no evidence of its own: it is what the others are compared with.
            known = np.isfinite(result.evidence[arm, LANGUAGES.index(language)]).all()
            assert known == (language in allowed - {"xx"})
    assert result.evidence.shape == (len(result.arm), 3, 2, 2)
    assert result.evidence_without.shape == (len(result.arm), 3, 2, 2, context.text.folds)
    changed = result.evidence[1:, 1, :, 1] != result.evidence[0, 1, :, 1]
    assert changed[(result.arm_target[1:] == "yy") & (result.arm_size[1:] > 0)].all()


def test_settings_are_checked() -> None:
    assert set(SOURCES) >= {"specific", *OF_PAIRS}
    with pytest.raises(UserError, match=r"interventions\.deactivate\.sets: no set 'loud'; choose"):
        Deactivate(sets=("loud",))
    for controls in (0, 1.5):
        with pytest.raises(UserError, match=r"^interventions\.deactivate\.controls="):
            Deactivate(controls=controls)  # type: ignore[arg-type]
