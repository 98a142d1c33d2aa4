"""Freezing: frozen parameters stay, others move, everything comes back; against plain training."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGES, documents, tiny_model
from hydra import compose, initialize_config_module
from subjects import fingerprint, losses
from torch import Tensor

from checkpoints.batches import MixedBatches, Phase
from checkpoints.errors import UserError
from checkpoints.train import Recipe, train
from tracker import store
from tracker.config import find_interventions
from tracker.interventions import HALVES, Subject
from tracker.interventions.freeze import ARMS, Freeze, FreezeResult, _kept, random_outside
from tracker.interventions.training import read_stream
from tracker.model import LanguageModel
from tracker.probes import Context

SMALL = Freeze(seeds=1, evaluate_at=(1, 2), batch_size=2, sequence_length=24, precision="float32")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    rows = documents(per_language=20, words=10, seed=7)
    for language in LANGUAGES:
        lines = [json.dumps(r) for r in rows if r["language"] == language]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n")
    return {c: folder / f"{c}.jsonl" for c in LANGUAGES}


@pytest.fixture
def subject(model: Any, context: Context, tokenizer: Any, corpus: dict[str, Path]) -> Subject:
    return Subject(LanguageModel.of(model), context, tokenizer, 0, 300, corpus=corpus)


def core_by_hand(subject: Subject, new: int, folds: frozenset[int], share: float) -> dict[str, Any]:
    """Top share of |theta x gradient|, gradients summed row by row, importance over languages."""
    model = copy.deepcopy(subject.model.model).requires_grad_(True)
    text, parts = subject.context.text, LanguageModel.of(model)
    total = {name: torch.zeros(m.shape) for name, m in parts.matrices.items()}
    for language in range(len(text.languages)):
        model.zero_grad()
        for row in text.rows:
            if row.language == language != new and row.fold in folds and not row.graded_only:
                ids = torch.from_numpy(row.ids)
                logits = model(input_ids=ids[None]).logits[0, row.first_scored - 1 : -1]
                target = ids[row.first_scored :]
                torch.nn.functional.cross_entropy(logits, target, reduction="sum").backward()
        for name, matrix in parts.matrices.items():
            if language != new:
                assert matrix.grad is not None
                total[name] += (matrix.grad * matrix.detach()).abs()
    return {
        name: set(t.flatten().topk(round(share * t.numel())).indices.tolist())
        for name, t in total.items()
    }


def plain_training(
    subject: Subject, settings: Freeze, seed: int, after: Callable[[Any], None]
) -> Any:
    """A copy trained as the intervention says; `after` every step."""
    model = copy.deepcopy(subject.model.model).requires_grad_(True)
    stream = read_stream(subject.corpus["yy"], subject.tokenizer, 10**6)
    rows, length = settings.points[-1] * settings.batch_size, settings.sequence_length
    needed = read_stream(subject.corpus["yy"], subject.tokenizer, (rows + 1) * length)
    assert stream[: len(needed)].tolist() == needed.tolist()
    batches = MixedBatches(
        {"yy": needed}, [Phase(settings.points[-1], {"yy": 1.0})],
        batch_size=settings.batch_size, sequence_length=length, seed=seed,
    )  # fmt: skip
    recipe = Recipe(
        steps=settings.points[-1], learning_rate=settings.learning_rate, decay_share=0.0,
        warmup_steps=settings.warmup_steps, precision="float32", seed=seed,
    )  # fmt: skip
    train(model, batches, recipe, on_step=lambda *_: after(model))
    return model.eval()


def test_frozen_parameters_stay_others_move_and_all_come_back(subject: Subject) -> None:
    """Looked at inside, at the last evaluation of every arm."""
    settings = replace(SMALL, fraction=0.1)
    old = {n: m.detach().clone() for n, m in subject.model.matrices.items()}
    before = fingerprint(subject.model.model)
    cores = {half: core_by_hand(subject, 1, half, 0.1) for half in HALVES}
    same: list[tuple[str, dict[str, Tensor]]] = []

    def look(what: str) -> None:
        if "step 2" in what:
            now = subject.model.matrices
            assert all(p.requires_grad for p in subject.model.model.parameters())
            unmoved = {n: (now[n] == old[n]).flatten().nonzero()[:, 0] for n in old}
            same.append((what.split(",")[0], unmoved))

    result = settings.run(replace(subject, progress=look))
    assert fingerprint(subject.model.model) == before
    assert [arm for arm, _ in same] == ["free", "core", "core", "random"]
    for (arm, unmoved), half in zip(same, (None, *HALVES, None), strict=True):
        for name, matrix in old.items():
            size, found = round(0.1 * matrix.numel()), set(unmoved[name].tolist())
            if arm == "free":
                assert len(found) <= 0.01 * matrix.numel()
                continue
            assert size <= len(found) <= size + 0.01 * matrix.numel()
            core = cores[half or HALVES[0]][name]
            if arm == "core":
                assert len(found & core) >= 0.97 * size  # ties by rounding at the bar
            else:
                assert len(found & core) <= 0.01 * matrix.numel()
    assert result.frozen_count[0].sum() == 0
    assert result.frozen_count[1].tolist() == [round(0.1 * m.numel()) for m in old.values()]
    assert (result.frozen_count[2] == result.frozen_count[1]).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_losses_are_those_of_plain_training(
    kind: str, context: Context, tokenizer: Any, corpus: dict[str, Path]
) -> None:
    """`free` and, with the other half's region put back by hand, `core`; gpt2 has dropout."""
    parts = LanguageModel.of(tiny_model(kind, len(tokenizer)))
    subject = Subject(parts, context, tokenizer, 0, 300, corpus=corpus)
    result = SMALL.run(subject)
    untrained = losses(subject.context, subject.model.model)
    for arm in range(len(ARMS)):
        np.testing.assert_allclose(result.nll[arm, 0, 0], untrained, rtol=1e-4)
    free = losses(subject.context, plain_training(subject, SMALL, 0, lambda _: None))
    np.testing.assert_allclose(result.nll[0, 0, 2], free, rtol=1e-4)
    assert np.nanmax(np.abs(free - untrained)) > 0.01
    fold = {r.document: r.fold for r in subject.context.text.rows}
    for chosen_on, read_on in (HALVES, HALVES[::-1]):
        core = SMALL._core(subject, [0, 2], chosen_on)
        old = {n: m.detach().clone() for n, m in subject.model.matrices.items()}

        def put_back(model: Any, core: Any = core, old: Any = old) -> None:
            for name, matrix in LanguageModel.of(model).matrices.items():
                matrix.detach().view(-1)[core[name]] = old[name].view(-1)[core[name]]

        trained = losses(subject.context, plain_training(subject, SMALL, 0, put_back))
        mine = [d for d, f in fold.items() if f in read_on and not np.isnan(trained[d])]
        np.testing.assert_allclose(result.nll[1, 0, 2, mine], trained[mine], rtol=1e-4)


@pytest.fixture(scope="module")
def neox(context: Context, tokenizer: Any, corpus: dict[str, Path]) -> Subject:
    model = tiny_model("gpt_neox", len(tokenizer))
    return Subject(LanguageModel.of(model), context, tokenizer, 0, 300, corpus=corpus)


def test_an_error_inside_leaves_the_model_as_it_was(subject: Subject) -> None:
    before = fingerprint(subject.model.model)

    class StopError(Exception):
        pass

    def stop(what: str) -> None:
        if what.startswith("core,"):
            raise StopError

    with pytest.raises(StopError):
        SMALL.run(replace(subject, progress=stop))
    assert fingerprint(subject.model.model) == before


def test_a_seed_changes_order_and_random_set_and_nothing_else_does(neox: Subject) -> None:
    settings = replace(SMALL, seeds=2)
    first, again = settings.run(neox), settings.run(neox)
    np.testing.assert_array_equal(first.nll, again.nll)
    for arm in range(len(ARMS)):
        assert (first.nll[arm, 0, 1:] != first.nll[arm, 1, 1:]).any()
        assert (first.nll[arm, 0, 0] == first.nll[arm, 1, 0])[first.token_count > 0].all()
    assert first.training_loss[0, 0, 0] != first.training_loss[0, 1, 0]
    # The first batch is read before anything is frozen or trained.
    assert first.training_loss[:, 0, 0].tolist() == pytest.approx(
        [first.training_loss[0, 0, 0]] * 3
    )


def test_learning_lowers_the_new_language(neox: Subject) -> None:
    settings = replace(SMALL, evaluate_at=(8,), learning_rate=1e-2, batch_size=8)
    result = settings.run(neox)
    new = result.document_language == "yy"
    loss = np.nansum(result.nll[:, 0][:, :, new], -1)
    assert (loss[:, 1] < 0.8 * loss[:, 0]).all()
    assert (result.training_loss[..., -1] < result.training_loss[..., 0]).all()
    assert str(result.new_language) == "yy"
    assert result.step_tokens == 8 * 24


def test_random_sets_are_outside_all_regions_and_as_large(neox: Subject) -> None:
    generator = np.random.default_rng(0)
    regions = [
        {n: np.sort(generator.choice(m.numel(), m.numel() // 4, replace=False))
         for n, m in neox.model.matrices.items()}
        for _ in range(2)
    ]  # fmt: skip
    found = random_outside(neox.model, regions, generator)
    for name, flat in found.items():
        assert len(np.unique(flat)) == len(flat) == len(regions[0][name])
        assert not np.isin(flat, np.concatenate([r[name] for r in regions])).any()


def test_the_core_is_that_of_the_languages_that_are_known(context: Context) -> None:
    """`zz` alone is below its unigram entropy: its core is frozen while `yy` is learnt."""
    text = context.text
    entropy = text.unigram_entropy()
    label = text.document_language
    tokens = np.array([0 if d.graded_only else 10 for d in text.documents])
    level = np.where(label == 2, 0.5 * entropy[2], 2.0 * entropy.max())
    before: Any = SimpleNamespace(nll=level * tokens, token_count=tokens, unigram_entropy=entropy)
    subject: Any = SimpleNamespace(context=context)
    assert _kept(before, subject, "yy") == [2]
    before.nll = 2 * entropy.max() * tokens
    assert _kept(before, subject, "yy") == [0, 2]


def test_the_record_holds_it(neox: Subject, tmp_path: Path) -> None:
    result = replace(SMALL, language="zz").run(neox)
    path = tmp_path / "step-000000000.h5"
    documents = np.array([d.id for d in neox.context.text.documents], dtype=object)
    groups = {"freeze": store.variables(result)}
    languages = np.array(neox.context.text.languages, dtype=object)
    store.write_record(path, groups, {"document": documents, "language": languages}, {}, "")
    record = store.read_record(path)
    assert str(record["freeze/new_language"]) == "zz"
    assert record.groups["freeze"]["nll"].dims == (
        "freeze_arm", "seed", "training_step", "document",
    )  # fmt: skip
    assert record["freeze/training_step"].tolist() == [0, 1, 2]
    assert set(store.variables(result)) == set(FreezeResult.__dataclass_fields__)


def test_what_cannot_be_trained_is_an_error_of_use(
    neox: Subject, corpus: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the corpus has no yy to train on"):
        SMALL.run(replace(neox, corpus={"xx": corpus["xx"]}))
    with pytest.raises(UserError, match="it has xx, yy, zz"):
        replace(SMALL, language="ww").run(neox)
    few = tmp_path / "yy.jsonl"
    few.write_text('{"text": "oro a luma b"}\n')
    with pytest.raises(UserError, match="too few for two rows of 24"):
        SMALL.run(replace(neox, corpus={"yy": few}))


def test_rows_are_no_longer_than_the_model_reads(neox: Subject) -> None:
    result = replace(SMALL, sequence_length=4096, batch_size=1, evaluate_at=(1,)).run(neox)
    assert result.step_tokens == 128


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"fraction": 0.5}, "at most a third"),
        ({"fraction": 0}, "more than 0"),
        ({"seeds": 0}, "seeds"),
        ({"evaluate_at": (0,)}, "evaluate_at"),
        ({"evaluate_at": (-1, 4)}, "evaluate_at"),
        ({"evaluate_at": ("a",)}, "evaluate_at"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Freeze(**wrong)


def test_the_yaml_names_every_setting_with_its_default() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["intervention=freeze"])
    assert set(config.interventions.freeze) - {"_target_", "_convert_"} == set(
        Freeze.__dataclass_fields__
    )
    made = find_interventions(config)["freeze"]
    assert isinstance(made, Freeze)
    assert replace(made, evaluate_at=tuple(made.evaluate_at)) == Freeze()
    assert made.needs_corpus
