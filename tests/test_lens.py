"""The Lens objective against slow computations; what trains, what comes back, who is read."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGES, documents, tiny_model
from hydra import compose, initialize_config_module
from subjects import fingerprint, losses

from checkpoints.errors import CheckpointError, UserError
from tracker import store
from tracker.config import find_interventions
from tracker.documents import Document
from tracker.interventions import HALVES, Subject
from tracker.interventions.arms import Arm
from tracker.interventions.lens import Lens, LensResult, Trainings, batches
from tracker.interventions.lens_objective import Objective
from tracker.interventions.lens_states import inside, parallel_rows, states, states_of_all
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.subspaces import Subspaces, fit_subspaces
from tracker.text import TextSettings, build_text

SMALL = Lens(batch_size=4, steps=3, learning_rate=1e-2, layers=1, controls=1)


@pytest.fixture
def subject(model: Any, context: Context, tokenizer: Any) -> Subject:
    return Subject(LanguageModel.of(model), context, tokenizer, 0, 300)


@pytest.fixture(scope="module")
def neox(context: Context, tokenizer: Any) -> Subject:
    parts = LanguageModel.of(tiny_model("gpt_neox", len(tokenizer)))
    return Subject(parts, context, tokenizer, 0, 300)


def trainings(settings: Lens, subject: Subject) -> Trainings:
    rows = parallel_rows(subject.context.text, settings.batch_size)
    return Trainings(settings, subject, subject.context.others, rows)


def slow_state(context: Context, model: Any, row: int) -> np.ndarray[Any, Any]:
    """[d] mean of what the head reads over a row's tokens of text."""
    piece = context.text.rows[row]
    with torch.no_grad():
        hidden = model.base_model(input_ids=torch.from_numpy(piece.ids)[None]).last_hidden_state
    return np.asarray(hidden[0, piece.prefix :].double().mean(0))


def test_states_are_means_over_the_tokens_of_text(subject: Subject) -> None:
    text = subject.context.text
    rows = parallel_rows(text, 4).T.ravel()
    found = states_of_all(subject.model, text, rows, batch_tokens=200)
    expected = [slow_state(subject.context, subject.model.model, r) for r in rows]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states(subject.model, text, rows).numpy(), found, atol=1e-5)


def test_special_tokens_in_front_are_left_out(tokenizer: Any) -> None:
    """Of a text whose tokenizer puts one there."""
    parts = LanguageModel.of(tiny_model("llama", len(tokenizer)))
    found = [Document(f"d{i}", "xx", "dax a wug b " * (i + 1)) for i in range(3)]
    text = build_text(found, tokenizer, ["xx"], TextSettings(10**6, folds=2))
    rows = tuple(
        replace(r, ids=np.concatenate([[0], r.ids]), prefix=1) for r in text.rows
    )  # fmt: skip
    text = replace(text, rows=rows)
    context = Context(text, "xx", None, 0)
    expected = [slow_state(context, parts.model, r) for r in range(3)]
    np.testing.assert_allclose(states(parts, text, np.arange(3)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_terms_are_mean_squares_of_projections(rank: int) -> None:
    """Against loops over pairs and projections written as matrices."""
    draw = np.random.default_rng(rank)
    d, pairs = 7, 5
    spaces = fit_subspaces(draw.normal(size=(d, 4)), rank)
    difference = draw.normal(size=d)
    objective = Objective.of(spaces, difference, torch.device("cpu"))
    now, before = draw.normal(size=(2, 2, pairs, d))
    found = objective.terms(torch.from_numpy(now).float(), torch.from_numpy(before).float())
    agnostic = np.outer(spaces.agnostic, spaces.agnostic) / (spaces.agnostic @ spaces.agnostic)
    specific = sum(np.outer(v, v) for v in spaces.specific.T)
    delta = specific @ difference
    pull = move = keep = 0.0
    for i in range(pairs):
        for j in range(d):
            pull += (agnostic[j] @ now[0, i] - agnostic[j] @ now[1, i]) ** 2
            move += (specific[j] @ now[0, i] - specific[j] @ before[0, i] - delta[j]) ** 2
            keep += (now[1, i, j] - before[1, i, j]) ** 2
    np.testing.assert_allclose(found, np.array([pull, move, keep]) / (pairs * d), rtol=1e-5)


def test_without_an_agnostic_direction_nothing_is_pulled() -> None:
    spaces = Subspaces(np.zeros(3), np.eye(3)[:, :1], np.ones(1))
    objective = Objective.of(spaces, np.ones(3), torch.device("cpu"))
    found = objective.terms(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    assert found[0] == 0
    control = objective.random(np.random.default_rng(0), np.ones(3))
    assert not control.agnostic.any()


def test_a_control_has_the_same_ranks_and_goes_as_far() -> None:
    draw = np.random.default_rng(0)
    own = Objective.of(
        fit_subspaces(draw.normal(size=(9, 4))), draw.normal(size=9), torch.device("cpu")
    )
    difference = draw.normal(size=9)
    control = own.random(draw, difference)
    basis = torch.cat([control.agnostic[:, None], control.specific], 1)
    assert control.specific.shape == own.specific.shape
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(control.delta.norm(), own.delta.norm())
    inside_it = control.specific @ (control.specific.T @ torch.from_numpy(difference).float())
    cosine = torch.nn.functional.cosine_similarity(inside_it, control.delta, dim=0)
    assert cosine == pytest.approx(1, abs=1e-5)  # on the target's side, not the opposite one


def test_only_the_last_blocks_change_inside_and_all_comes_back(subject: Subject) -> None:
    before = fingerprint(subject.model.model)
    old = {n: p.clone() for n, p in subject.model.model.named_parameters()}
    trials = list(trainings(replace(SMALL, layers=2), subject).trials(HALVES[0]))
    assert [t.arm for t in trials[:3]] == [
        Arm("lens", "yy"), Arm("lens", "yy", 0), Arm("lens", "zz"),
    ]  # fmt: skip
    last = {id(p) for block in subject.model.blocks[-2:] for p in block.parameters()}
    for trial in trials[:2]:
        with trial.edit():
            changed = 0
            for name, parameter in subject.model.model.named_parameters():
                same = torch.equal(parameter, old[name])
                assert same == (id(parameter) not in last), name
                changed += 0 if same else parameter.numel()
            assert changed == trial.size
        assert fingerprint(subject.model.model) == before
    with pytest.raises(ZeroDivisionError), trials[0].edit():
        raise ZeroDivisionError
    assert fingerprint(subject.model.model) == before


def test_an_error_while_training_leaves_the_model_as_it_was(
    neox: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(neox.model.model)
    trial = next(trainings(SMALL, neox).trials(HALVES[0]))
    steps = iter([1e-2, 1e-2])
    monkeypatch.setattr(Lens, "rate", lambda self, step: next(steps))
    with pytest.raises(RuntimeError), trial.edit():
        pass
    assert fingerprint(neox.model.model) == before


def test_the_objective_falls_and_the_target_moves_along_its_direction(subject: Subject) -> None:
    """`moved` is read on the other half: positive for every arm and every language."""
    before = fingerprint(subject.model.model)
    settings = replace(SMALL, steps=25, learning_rate=3e-3, controls=1, languages=("zz",))
    result = settings.run(subject)
    assert fingerprint(subject.model.model) == before
    assert result.arm.tolist() == ["none", "lens zz", "lens zz (random 0)"]
    assert np.isnan(result.objective[0]).all()
    assert np.isnan(result.moved[0])
    total = result.objective[1:].sum(1)
    assert (total[:, 1] < 0.7 * total[:, 0]).all(), total
    np.testing.assert_allclose(result.objective[1:, 2, 0], 0, atol=1e-9)
    assert (result.moved[1:] > 0.2).all(), result.moved
    specific = result.distance[:, 2, 1]
    assert specific[1] > 1.1 * specific[0], "the target goes away from the primary"
    np.testing.assert_allclose(result.delta_length[1], result.delta_length[2], rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_documents_are_read_under_the_training_on_the_other_half(
    kind: str, context: Context, tokenizer: Any
) -> None:
    """Losses, distances and moves, one row at a time."""
    subject = Subject(LanguageModel.of(tiny_model(kind, len(tokenizer))), context, tokenizer, 0)
    settings = replace(SMALL, languages=("yy",))
    result = settings.run(subject)
    model, text = subject.model.model, context.text
    fold = {r.document: r.fold for r in text.rows}
    rows = parallel_rows(text, 4)
    untrained = losses(context, model)
    np.testing.assert_allclose(result.nll[0], untrained, rtol=1e-4)
    distance, moved = np.zeros((3, 2)), 0.0
    for chosen_on, read_on in (HALVES, HALVES[::-1]):
        train_rows = rows[inside(text, rows, chosen_on)]
        read_rows = rows[inside(text, rows, read_on)]
        assert len(train_rows) + len(read_rows) == len(rows)

        def means(model: Any, rows: Any) -> np.ndarray[Any, Any]:
            return np.array(
                [np.mean([slow_state(context, model, r) for r in c], 0) for c in rows.T]
            )

        chosen, was = means(model, train_rows), means(model, read_rows)
        spaces = fit_subspaces(chosen.T)
        delta = spaces.specific @ (spaces.specific.T @ (chosen[1] - chosen[0]))
        trial = next(trainings(settings, subject).trials(chosen_on))
        with trial.edit():
            trained = copy.deepcopy(model)
        mine = [d for d, f in fold.items() if f in read_on and not np.isnan(untrained[d])]
        np.testing.assert_allclose(result.nll[1, mine], losses(context, trained)[mine], rtol=1e-4)
        now = means(trained, read_rows)
        distance += np.stack(spaces.distances(now - now[0]), -1) / 2
        moved += (now[1] - was[1]) @ delta / (delta @ delta) / 2
    np.testing.assert_allclose(result.distance[1], distance, rtol=1e-3, atol=1e-4)
    assert result.moved[1] == pytest.approx(moved, rel=1e-3)
    assert np.nanmax(np.abs(result.nll[1] - untrained)) > 0.01


def test_two_languages_have_one_specific_direction(tokenizer: Any) -> None:
    found = [
        Document(r["id"], r["language"], r["text"])
        for r in documents(per_language=12, words=12)
        if r["language"] != "zz"
    ]
    text = build_text(found, tokenizer, LANGUAGES[:2], TextSettings(10**6, folds=4))
    parts = LanguageModel.of(tiny_model("mistral", len(tokenizer)))
    subject = Subject(parts, Context(text, "yy", None, 0), tokenizer, 0, 300)
    result = replace(SMALL, steps=25, learning_rate=3e-3).run(subject)
    assert result.arm_target.tolist() == ["", "xx", "xx"]
    # Means that differ in one direction: it is the whole difference.
    work = trainings(SMALL, subject)
    objective = next(work.trials(HALVES[0])).edit.args[2]  # type: ignore[attr-defined]
    difference = work.halves[HALVES[0]].difference(0, 1)
    np.testing.assert_allclose(objective.delta, difference, rtol=1e-4, atol=1e-5)
    assert objective.specific.shape[1] == 1
    assert result.moved[1] > 0.2


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    settings = Lens(learning_rate=2.0, steps=25)
    rates = [settings.rate(s) for s in range(25)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert rates[2 + 11] == pytest.approx(1 + math.cos(math.pi * 11 / 23))
    assert Lens(steps=1).rate(0) == 1e-5


@pytest.mark.parametrize("pairs", [4, 5, 11, 300])
def test_pairs_are_seen_equally_often(pairs: int) -> None:
    found = list(batches(pairs, replace(SMALL, steps=25), np.random.default_rng(0)))
    assert [len(b) for b in found] == [4] * 25
    seen = Counter(np.concatenate(found).tolist())
    assert set(seen) <= set(range(pairs))
    assert max(seen.values()) - min(seen.get(i, 0) for i in range(pairs)) <= 1


def test_the_record_holds_it(neox: Subject, tmp_path: Path) -> None:
    result = SMALL.run(neox)
    path = tmp_path / "step-000000000.h5"
    shared = {
        "document": np.array([d.id for d in neox.context.text.documents], dtype=object),
        "language": np.array(LANGUAGES, dtype=object),
    }
    store.write_record(path, {"lens": store.variables(result)}, shared, {}, "")
    record = store.read_record(path)
    assert record.groups["lens"]["distance"].dims == ("arm", "language", "subspace")
    assert record["lens/arm"].tolist()[:3] == ["none", "lens yy", "lens yy (random 0)"]
    assert set(store.variables(result)) == set(LensResult.__dataclass_fields__)
    assert result.arm_size[1] == sum(p.numel() for p in neox.model.blocks[-1].parameters())


def test_what_cannot_be_trained_is_an_error_of_use(neox: Subject, tokenizer: Any) -> None:
    alone = [
        Document(f"{c}{r['id']}", c, r["text"]) for r in documents(12) for c in [r["language"]]
    ]
    text = build_text(alone, tokenizer, LANGUAGES, TextSettings(10**6, folds=4))
    with pytest.raises(UserError, match=r"0 documents of a half .* share an id"):
        SMALL.run(replace(neox, context=Context(text, "xx", None, 0)))
    with pytest.raises(UserError, match=r"batch needs 8.*batch_size"):
        Lens().run(neox)
    with pytest.raises(UserError, match=r"lens\.layers=4: the model has 3"):
        replace(SMALL, layers=4).run(neox)
    with pytest.raises(UserError, match="'xx' is no target; choose among yy, zz"):
        replace(SMALL, languages=("xx",)).run(neox)
    with pytest.raises(UserError, match="'ww' is no target"):
        replace(SMALL, languages=("ww",)).run(neox)
    with pytest.raises(UserError, match="rank=3"):
        replace(SMALL, rank=3).run(neox)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"steps": 0}, "steps"),
        ({"layers": 0}, "layers"),
        ({"batch_size": 0}, "batch_size"),
        ({"controls": 0}, "controls"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"rank": 0}, "rank"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Lens(**wrong)


def test_the_yaml_names_every_setting_with_its_default() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["intervention=lens"])
    names = set(config.interventions.lens) - {"_target_", "_convert_"}
    assert names == set(Lens.__dataclass_fields__)
    assert find_interventions(config)["lens"] == Lens()


def test_hidden_states_that_are_not_finite_are_the_checkpoints_fault(neox: Subject) -> None:
    model = copy.deepcopy(neox.model.model)
    parts = LanguageModel.of(model)
    with torch.no_grad():
        parts.writing(0).mul_(1e38)
    with pytest.raises(CheckpointError, match="not finite: they span no subspaces"):
        SMALL.run(replace(neox, model=parts))
