"""Alignment against loops over single rows, permutations and planted truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from conftest import LANGUAGES, WORDS, tiny_model
from conftest import documents as parallel_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import by_row, measure

from checkpoints.errors import UserError
from tracker import store
from tracker.documents import Document
from tracker.probes import Context
from tracker.probes.alignment import Alignment, centred, mutual_nearest, similarities
from tracker.text import TextSettings, build_text


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def slow_mutual(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[i, j] whether i and j are each other's nearest, pair by pair."""
    n = len(first)
    s = np.array([[cosine(a, b) for b in second] for a in first])
    return np.array([
        [
            all(s[i, j] > s[i, k] for k in range(n) if k != j)
            and all(s[i, j] > s[k, j] for k in range(n) if k != i)
            for j in range(n)
        ]
        for i in range(n)
    ])  # fmt: skip


# --- pure functions ---------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), noise=st.sampled_from([0.1, 1.0, 10.0]))
def test_mutual_neighbours_equal_loops(seed: int, n: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, 5))
    second = first + noise * rng.normal(size=(n, 5))
    hit, chance = mutual_nearest(first, second)
    mutual = slow_mutual(first, second)
    np.testing.assert_array_equal(hit, np.diag(mutual))
    assert chance == pytest.approx(mutual.sum() / n**2)


def test_chance_is_the_mean_over_permutations() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(12, 3))
    second = first + 0.5 * rng.normal(size=(12, 3))
    hit, chance = mutual_nearest(first, second)
    assert hit.mean() > 3 * chance
    shuffled = [mutual_nearest(first, rng.permutation(second))[0].mean() for _ in range(3000)]
    assert abs(np.mean(shuffled) - chance) < 4 * np.std(shuffled) / np.sqrt(3000)


def test_chance_without_structure_is_one_in_twice_the_documents() -> None:
    rng = np.random.default_rng(1)
    chances = [mutual_nearest(*rng.normal(size=(2, 20, 400)))[1] for _ in range(200)]
    assert abs(np.mean(chances) - 1 / 39) < 4 * np.std(chances) / np.sqrt(200)


def test_a_tie_is_not_aligned() -> None:
    first = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert mutual_nearest(first, first)[0].all()
    double = first[[0, 0, 2]] * np.array([[1.0], [3.0], [1.0]])  # cosine knows no length
    hit, chance = mutual_nearest(first[[0, 0, 2]], double)
    assert hit.tolist() == [False, False, True]
    assert chance == pytest.approx(1 / 9)
    for seed in range(20):
        noise = 1e-7 * np.random.default_rng(seed).normal(size=(2, *double.shape))
        assert mutual_nearest(*(double + noise))[0].tolist() == [False, False, True]
    for collapsed in (np.ones((4, 3)), np.zeros((4, 3))):
        assert not mutual_nearest(collapsed, collapsed)[0].any()


def test_centring_leaves_no_rounding_behind() -> None:
    rng = np.random.default_rng(0)
    values, label = rng.normal(size=(8, 3)), np.array([0, 1] * 4)
    np.testing.assert_allclose(centred(values), values - values.mean(0))
    rest = centred(values, label)
    for c in (0, 1):
        np.testing.assert_allclose(rest[label == c], values[c::2] - values[c::2].mean(0))
    assert (centred(5 + 1e-8 * values) == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), meanings=st.integers(1, 5), languages=st.integers(1, 4))
def test_similarities_equal_loops_also_where_translations_are_missing(
    seed: int, meanings: int, languages: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = [(m, c) for m in range(meanings) for c in range(languages) if rng.random() < 0.8]
    if not cells:
        return
    meaning, language = np.array(cells).T
    x = rng.normal(size=(len(cells), 6))
    pairs: list[list[float]] = [[], [], []]
    for i, (m, c) in enumerate(cells):
        for j, (k, b) in enumerate(cells):
            if i != j:
                pairs[0 if m == k else 1 if c == b else 2].append(cosine(x[i], x[j]))
    expected = [np.mean(p) if p else np.nan for p in pairs]
    np.testing.assert_allclose(similarities(x, meaning, language), expected, atol=1e-12)


# --- the probe --------------------------------------------------------------------------------


def context_of(
    tokenizer: Any, rows: list[dict[str, str]], primary: str = "xx", **settings: Any
) -> Context:
    found = [Document(r["id"], r["language"], r["text"]) for r in rows]
    text = build_text(found, tokenizer, LANGUAGES, TextSettings(10**6, folds=2, **settings))
    return Context(text, primary, None, seed=0)


def document_means(context: Context, model: Any) -> dict[int, np.ndarray]:
    """Document -> [layer, d], a loop over rows and tokens."""
    tokens: dict[int, list[Any]] = {}
    for row, _, seen in by_row(context, model).values():
        hidden = torch.stack(seen["hidden"], 1).numpy().astype(np.float64)
        tokens.setdefault(row.document, []).extend(hidden)
    return {i: np.mean(h, axis=0) for i, h in tokens.items()}


def test_the_probe_equals_its_definition(context: Context, model: Any) -> None:
    found = measure(Alignment(), context, model)
    text, means = context.text, document_means(context, model)
    by_language = [
        [i for i in means if text.document_language[i] == c][:-1] for c in range(3)
    ]  # the fixture's documents stand in one order everywhere; the last may be cut
    assert found.aligned_documents.tolist() == [0, 11, 11]
    assert set(np.flatnonzero(found.compared)) == {*by_language[1], *by_language[2]}
    for layer in range(4):
        x = [np.array([means[i][layer] for i in group]) for group in by_language]
        z = [group - group.mean(0) for group in x]
        for hits, share, chance, sides in (
            (found.hit, found.alignment, found.alignment_chance, x),
            (found.hit_centred, found.alignment_centred, found.alignment_chance_centred, z),
        ):
            for c in (1, 2):
                mutual = slow_mutual(sides[c], sides[0])
                np.testing.assert_array_equal(hits[by_language[c], layer], np.diag(mutual))
                assert share[c, layer] == pytest.approx(np.diag(mutual).mean())
                assert chance[c, layer] == pytest.approx(mutual.sum() / 11**2)
        for similarity, sides in ((found.similarity, x), (found.similarity_centred, z)):
            pairs: list[list[float]] = [[], [], []]
            for a in range(3):
                for b in range(3):
                    for i in range(11):
                        for j in range(11):
                            if (a, i) != (b, j):
                                kind = 0 if i == j else 1 if a == b else 2
                                pairs[kind].append(cosine(sides[a][i], sides[b][j]))
            np.testing.assert_allclose(
                similarity[:, layer], [np.mean(p) for p in pairs], rtol=1e-3, atol=1e-4
            )
    assert not found.hit[by_language[0]].any()
    same, language, across = found.similarity
    np.testing.assert_allclose(found.meaning_contrast, same - across)
    np.testing.assert_allclose(found.language_contrast, language - across)
    np.testing.assert_allclose(
        found.meaning_contrast_centred, found.similarity_centred[0] - found.similarity_centred[2]
    )
    assert np.isnan(found.alignment[0]).all()
    np.testing.assert_allclose(found.semantic_alignment[1:], found.alignment[1:, 1:3].mean(1))
    np.testing.assert_allclose(
        found.semantic_alignment_centred[1:], found.alignment_centred[1:, 1:3].mean(1)
    )
    np.testing.assert_allclose(
        found.semantic_alignment_chance[1:], found.alignment_chance[1:, 1:3].mean(1)
    )
    assert found.alignment_reason.tolist() == ["primary language", "", ""]


@pytest.mark.parametrize("window", [512, 6])
def test_the_size_of_batches_does_not_matter(tokenizer: Any, window: int) -> None:
    context = context_of(tokenizer, parallel_rows(12, 8), window=window)
    model = tiny_model("mistral", len(tokenizer))
    one, all_at_once = (
        store.variables(measure(Alignment(), context, model, n)) for n in (1, 10**6)
    )
    for name, variable in one.items():
        if variable.data.dtype.kind == "f":
            np.testing.assert_allclose(variable.data, all_at_once[name].data, atol=1e-5)
        else:
            np.testing.assert_array_equal(variable.data, all_at_once[name].data)


def planted_model(tokenizer: Any, meaning: float = 1.0, language: float = 1.0) -> Any:
    """Every layer holds the words' meaning (dimensions 3 to 10) and language (0 to 2)."""
    model = tiny_model("llama", len(tokenizer), scale=0.0)
    with torch.no_grad():
        weight = model.model.embed_tokens.weight
        for c, words in enumerate(WORDS.values()):
            for i, word in enumerate(words):
                for spelling in (word, " " + word):
                    (token,) = tokenizer(spelling)["input_ids"]
                    weight[token, c], weight[token, 3 + i] = language, meaning
    return model


def test_translations_that_coincide_up_to_an_offset_are_aligned(tokenizer: Any) -> None:
    context = context_of(tokenizer, parallel_rows(30, 40))
    found = measure(Alignment(), context, planted_model(tokenizer))
    np.testing.assert_array_equal(found.alignment_centred[1:], 1)
    np.testing.assert_array_equal(found.hit_centred[found.compared], True)
    np.testing.assert_allclose(found.alignment_chance_centred[1:], 1 / 29)
    np.testing.assert_allclose(found.similarity_centred[0], 1, atol=1e-5)
    # Unrelated documents of 29 are centred on their mean: -1/28 on average, whatever the language.
    np.testing.assert_allclose(found.similarity_centred[1:], -1 / 28, atol=0.02)
    assert (found.language_contrast > 0.1).all()
    assert (found.meaning_contrast > 0.01).all()


def test_documents_that_share_their_language_only_are_not_aligned(tokenizer: Any) -> None:
    context = context_of(tokenizer, parallel_rows(20, 40))
    found = measure(Alignment(), context, planted_model(tokenizer, meaning=0.0))
    # All documents of a language are the same vector: ties, and nothing left when centred.
    for share in (found.alignment, found.alignment_centred, found.alignment_chance):
        np.testing.assert_array_equal(share[1:], 0)
    np.testing.assert_allclose(found.similarity[:, 0], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(found.language_contrast, 1, atol=1e-6)
    np.testing.assert_array_equal(found.similarity_centred, 0)


def test_shuffled_translations_are_aligned_by_chance(tokenizer: Any) -> None:
    rows, rng = parallel_rows(80, 60), np.random.default_rng(0)
    ids = rng.permutation(80)
    rows = [
        {**r, "id": f"d{ids[int(r['id'][1:])]}" if r["language"] == "yy" else r["id"]} for r in rows
    ]
    found = measure(Alignment(), context_of(tokenizer, rows), planted_model(tokenizer))
    np.testing.assert_array_equal(found.alignment_centred[2], 1)
    n = found.aligned_documents[1]
    assert n >= 78
    # Every document still has its mutual neighbour somewhere else, so chance is about 1/N.
    np.testing.assert_allclose(found.alignment_chance_centred[1], 1 / n, rtol=0.1)
    assert (found.alignment_centred[1] < 4 / n).all()


def test_only_so_many_documents_are_compared(tokenizer: Any) -> None:
    context = context_of(tokenizer, parallel_rows(12, 8))
    found = measure(Alignment(documents=9), context, tiny_model("gpt2", len(tokenizer)))
    assert found.aligned_documents.tolist() == [0, 9, 9]
    first = [d.id for d in context.text.documents if d.language == "xx"][:9]
    compared = [d.id for d, c in zip(context.text.documents, found.compared, strict=True) if c]
    assert compared == first + first


def test_a_language_without_translations_has_none_and_says_why(tokenizer: Any) -> None:
    rows = [{**r, "id": r["id"] + "?" * (r["language"] == "yy")} for r in parallel_rows(12, 8)]
    model = tiny_model("qwen2", len(tokenizer))
    found = measure(Alignment(), context_of(tokenizer, rows), model)
    assert found.alignment_reason.tolist() == [
        "primary language", "0 documents parallel to xx, fewer than 8", ""
    ]  # fmt: skip
    assert np.isnan(found.alignment[1]).all()
    assert np.isnan(found.semantic_alignment[1])
    assert found.aligned_documents.tolist() == [0, 0, 11]
    assert np.isfinite(found.alignment[2]).all()
    assert np.isfinite(found.similarity).all()
    few = measure(Alignment(least_documents=12), context_of(tokenizer, parallel_rows(12, 8)), model)
    assert few.alignment_reason[1:].tolist() == ["11 documents parallel to xx, fewer than 12"] * 2
    assert np.isnan(few.similarity).all()
    assert np.isnan(few.semantic_alignment).all()
    assert not few.compared.any()


def test_a_checkpoint_that_diverged_has_no_alignment(tokenizer: Any) -> None:
    model = tiny_model("gpt2", len(tokenizer))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight.mul_(1e38)
    found = measure(Alignment(), context_of(tokenizer, parallel_rows(12, 8)), model)
    assert np.isfinite(found.alignment[1:, 0]).all()
    assert np.isnan(found.alignment[:, 2]).all()
    assert all("not finite" in r for r in found.alignment_reason[1:])


def test_settings_that_make_no_sense_are_refused() -> None:
    for name, value in (("documents", 1), ("least_documents", 0), ("documents", 2.5)):
        message = rf"probes.alignment.{name}={value}: choose a whole number of at least 2"
        with pytest.raises(UserError, match=message):
            Alignment(**{name: value})  # type: ignore[arg-type]


def test_the_record_opens_in_xarray(tmp_path: Path, tokenizer: Any, context: Context) -> None:
    found = measure(Alignment(), context, tiny_model("qwen3", len(tokenizer)))
    path = tmp_path / "record.h5"
    coordinates = {
        "language": np.array(LANGUAGES, dtype=object),
        "hidden_layer": np.arange(4),
        "document": np.array([d.id for d in context.text.documents], dtype=object),
    }
    store.write_record(path, {"alignment": store.variables(found)}, coordinates, {"step": 0}, "")
    with xarray.open_dataset(path, engine="h5netcdf", group="alignment") as data:
        assert data["alignment"].dims == ("language", "hidden_layer")
        assert data["hit"].dtype == np.bool_
        assert data["similarity"].sel(pair_kind="across").shape == (4,)
        assert data["semantic_alignment"].attrs["curve"] == 1
        compared = data["hit"].values[data["compared"].values & (np.array(
            [d.language for d in context.text.documents]) == "yy")]  # fmt: skip
        np.testing.assert_allclose(compared.mean(0), data["alignment"].sel(language="yy"))
