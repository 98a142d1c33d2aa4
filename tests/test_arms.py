"""Arms: what is chosen on one half is read on the other, and what is not read is NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import tiny_model
from probing import measure
from subjects import losses, subject_of

from tracker import store
from tracker.interventions import FOLDS, HALVES
from tracker.interventions.arms import Arm, Effects, Folds, Trial, cross_fitted, effects
from tracker.interventions.edits import units_held
from tracker.neurons import NeuronSet
from tracker.probes import Context
from tracker.probes.performance import Performance
from tracker.trace import Need, Trace


@dataclass(frozen=True)
class Diary:
    """A change that does nothing, and a read-out that notes what is read while it is in force."""

    entries: list[tuple[Arm | None, Folds | None, int, int]] = field(default_factory=list)
    """(arm, folds it was chosen on, fold, language) of every row that was read."""
    now: list[tuple[Arm, Folds]] = field(default_factory=list)
    group: str = "diary"
    needs: Need = Need.NOTHING

    @contextmanager
    def edit(self, arm: Arm, folds: Folds) -> Iterator[None]:
        self.now.append((arm, folds))
        yield
        self.now.pop()

    def trial(self, arm: Arm, folds: Folds, size: int, languages: Any = None) -> Trial:
        return Trial(arm, size, lambda: self.edit(arm, folds), languages)

    def start(self, context: Context, model: Any) -> Diary:
        return self

    def update(self, trace: Trace) -> None:
        here = self.now[-1] if self.now else (None, None)
        self.entries.extend((*here, int(f), trace.batch.language) for f in trace.batch.fold)

    def result(self) -> None:
        return None


A, B = Arm("a", "yy"), Arm("b", "zz", control=0)


def test_the_halves_split_the_folds_and_each_has_even_and_odd_ones() -> None:
    assert HALVES[0] | HALVES[1] == set(range(FOLDS))
    assert not HALVES[0] & HALVES[1]
    assert all(sum(f % 2 for f in half) == 2 for half in HALVES)


def test_each_half_is_read_under_what_the_other_half_chose(context: Context) -> None:
    diary = Diary()
    subject = subject_of(context, tiny_model("gpt_neox", context.text.vocabulary))
    asked: list[Folds] = []

    def trials(folds: Folds) -> Iterator[Trial]:
        asked.append(folds)
        yield diary.trial(A, folds, 3)
        yield diary.trial(B, folds, len(asked), (0, 2))

    found = cross_fitted(subject, trials, [diary])
    assert list(found) == [Arm("none"), A, B]
    assert sorted(asked, key=min) == list(HALVES)
    assert [found[a].sizes for a in found] == [[0, 0], [3, 3], [1, 2]]
    for arm, chosen_on, fold, language in diary.entries:
        if arm is not None:
            assert chosen_on is not None
            assert fold not in chosen_on
            assert language in ((0, 1, 2) if arm == A else (0, 2))
    for arm, languages in ((None, 3), (A, 3), (B, 2)):
        # Every document is read, and read once.
        read = [e[2:] for e in diary.entries if e[0] == arm]
        rows = [(r.fold, r.language) for r in context.text.rows]
        assert sorted(read) == sorted(r for r in rows if languages == 3 or r[1] != 1)


def test_without_a_change_the_loss_is_what_the_probe_measures(context: Context, model: Any) -> None:
    found = effects(cross_fitted(subject_of(context, model), lambda folds: iter(())))
    alone = measure(Performance(), context, model)
    read = alone.token_count > 0
    np.testing.assert_allclose(found["nll"][0, read], alone.nll[read], rtol=1e-4)
    np.testing.assert_array_equal(found["token_count"], alone.token_count)
    assert found["document_language"].tolist() == alone.document_language.tolist()


def test_effects_are_losses_under_the_change_and_nan_where_nothing_was_read(
    context: Context,
) -> None:
    raw = tiny_model("gpt_neox", context.text.vocabulary)
    subject = subject_of(context, raw)
    everything = NeuronSet(np.ones((3, 32), np.bool_))
    hold = units_held(subject.model, everything)
    with hold:
        expected = losses(context, raw)

    def trials(folds: Folds) -> Iterator[Trial]:
        yield Trial(A, 96, lambda: units_held(subject.model, everything))
        yield Trial(B, 96, lambda: units_held(subject.model, everything), (1,))

    result = Effects(**effects(cross_fitted(subject, trials)))
    written = store.variables(result)
    assert set(written) == set(Effects.__dataclass_fields__)
    assert result.arm.tolist() == ["none", "a yy", "b zz (random 0)"]
    assert result.arm_edit.tolist() == ["none", "a", "b"]
    assert result.arm_target.tolist() == ["", "yy", "zz"]
    assert result.arm_control.tolist() == [-1, -1, 0]
    assert result.arm_number.tolist() == [0, 0, 0]
    assert result.arm_size.tolist() == [0, 96, 96]
    assert result.nll.shape == (3, len(context.text.documents))
    main = np.array([not d.graded_only for d in context.text.documents])
    np.testing.assert_allclose(result.nll[1, main], expected[main], rtol=1e-4)
    assert np.isnan(result.nll[:, ~main]).all()
    mine = result.document_language == "yy"
    np.testing.assert_array_equal(result.nll[2, mine & main], result.nll[1, mine & main])
    assert np.isnan(result.nll[2, ~mine]).all()


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        (Arm("none"), "none"),
        (Arm("specific", "php"), "specific php"),
        (Arm("specific", "php", control=2), "specific php (random 2)"),
        (Arm("top", number=3), "top #3"),
        (Arm("top", "go", 0, 1), "top go #1 (random 0)"),
    ],
)
def test_names_of_arms(arm: Arm, name: str) -> None:
    assert arm.name == name


def test_random_numbers_are_the_same_for_a_key_and_others_for_another(context: Context) -> None:
    subject = subject_of(context, tiny_model("gpt_neox", context.text.vocabulary))
    drawn = [subject.generator(*k).integers(1 << 40) for k in (("a", 0), ("a", 0), ("a", 1))]
    assert drawn[0] == drawn[1] != drawn[2]
