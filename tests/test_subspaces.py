"""Subspaces against the published formula, quadratic programming, loops and planted truth."""

from __future__ import annotations

import time
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
from scipy.linalg import subspace_angles
from scipy.optimize import minimize

from checkpoints.errors import UserError
from tracker import store
from tracker.documents import Document
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.probes.subspaces import LanguageSubspaces, shuffled_shares, variance_shares
from tracker.subspaces import fit_subspaces
from tracker.text import TextSettings, build_text
from tracker.trace import Need, run

SHAPES = st.tuples(st.integers(4, 40), st.integers(2, 5)).filter(lambda s: s[0] > s[1])


def draw(seed: int, d: int, languages: int, common: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return common * rng.normal(size=(d, 1)) + rng.normal(size=(d, languages))


def published(means: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Methods 6, steps 1 to 3, word for word."""
    one = np.ones(means.shape[1])
    m = means @ one / len(one)
    u, s, vt = np.linalg.svd(means - np.outer(m, one), full_matrices=False)
    limited = np.outer(m, one) + u[:, :rank] @ np.diag(s[:rank]) @ vt[:rank]
    agnostic = np.linalg.pinv(limited).T @ one
    agnostic = agnostic / (agnostic @ agnostic)
    basis, values, _ = np.linalg.svd(limited - np.outer(agnostic, one), full_matrices=False)
    return agnostic, basis[:, :rank], values[:rank]


def nearest_of_hull(means: np.ndarray) -> np.ndarray:
    """The point of the affine hull nearest the origin, by least squares over its directions."""
    directions = means[:, 1:] - means[:, :1]
    weights = np.linalg.lstsq(directions, -means[:, 0], rcond=None)[0]
    return means[:, 0] + directions @ weights


def assert_orthonormal(basis: np.ndarray) -> None:
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)


# --- the pure function ------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), shape=SHAPES, common=st.sampled_from([0.0, 1.0, 1e3]))
def test_every_rank_is_the_published_procedure(
    seed: int, shape: tuple[int, int], common: float
) -> None:
    means = draw(seed, *shape, common)
    for rank in range(1, shape[1]):
        found = fit_subspaces(means, rank)
        agnostic, basis, values = published(means, rank)
        scale = np.linalg.norm(means)
        np.testing.assert_allclose(found.agnostic, agnostic, atol=1e-6 * scale)
        np.testing.assert_allclose(found.singular_value, values, rtol=1e-5, atol=1e-9 * scale)
        # One subspace: the projectors agree (single columns may turn where values tie).
        np.testing.assert_allclose(found.specific @ found.specific.T, basis @ basis.T, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), shape=SHAPES, common=st.sampled_from([0.0, 1.0, 1e3]))
def test_identities(seed: int, shape: tuple[int, int], common: float) -> None:
    means = draw(seed, *shape, common)
    full = fit_subspaces(means)
    scale = np.linalg.norm(means)
    np.testing.assert_allclose(full.agnostic, nearest_of_hull(means), atol=1e-7 * scale)
    # Every mean has the same coordinate along the agnostic direction: what they share.
    np.testing.assert_allclose(
        full.agnostic @ means, full.agnostic @ full.agnostic, rtol=1e-7, atol=1e-9 * scale**2
    )
    # At full rank the means are the agnostic vector plus a part inside the specific subspace.
    rest = means - full.agnostic[:, None]
    inside = full.specific.T @ rest
    np.testing.assert_allclose(full.specific @ inside, rest, atol=1e-9 * scale)
    # Column by column these are the left singular vectors of that part.
    np.testing.assert_allclose(
        np.linalg.norm(inside, axis=1), full.singular_value, rtol=1e-6, atol=1e-9 * scale
    )
    for rank in range(1, shape[1]):
        found = fit_subspaces(means, rank)
        assert found.specific.shape == (shape[0], rank)
        assert_orthonormal(found.specific)
        np.testing.assert_allclose(found.specific.T @ found.agnostic, 0, atol=1e-9 * scale)
        assert (np.diff(found.singular_value) <= 1e-9 * scale).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(7, 30), st.integers(3, 5)))
def test_one_language_left_out(seed: int, shape: tuple[int, int]) -> None:
    means = draw(seed, *shape)
    whole = fit_subspaces(means)
    for c in range(shape[1]):
        fewer = np.delete(means, c, axis=1)
        found = fit_subspaces(fewer)
        np.testing.assert_allclose(found.agnostic, nearest_of_hull(fewer), atol=1e-7)
        inside = whole.specific @ (whole.specific.T @ found.specific)
        np.testing.assert_allclose(inside, found.specific, atol=1e-9)
        # A hull that is a face of a larger one cannot come nearer to the origin than it.
        assert np.linalg.norm(found.agnostic) >= np.linalg.norm(whole.agnostic) - 1e-9


def test_the_agnostic_vector_solves_the_constrained_quadratic_programme() -> None:
    means = draw(3, 6, 4)
    solved = minimize(
        lambda a: float(np.sum((means @ a) ** 2)),
        np.full(4, 0.25),
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    np.testing.assert_allclose(fit_subspaces(means).agnostic, means @ solved.x, atol=1e-5)


def test_two_languages_by_hand() -> None:
    found = fit_subspaces(np.array([[1.0, 1.0], [0.0, 2.0], [3.0, 3.0]]))
    np.testing.assert_allclose(found.agnostic, [1.0, 0.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.specific[:, 0]), [0.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.singular_value, [2.0])
    along, inside = found.distances(np.array([[0.0, 2.0, 0.0], [np.sqrt(10), 1.0, 0.0]]))
    np.testing.assert_allclose(along, [0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(inside, [2.0, 1.0])


def test_equal_means_narrow_the_basis() -> None:
    means = draw(5, 12, 3)
    doubled = fit_subspaces(means[:, [0, 0, 1, 2]])
    single = fit_subspaces(means)
    assert doubled.specific.shape == (12, 2)
    np.testing.assert_allclose(doubled.agnostic, single.agnostic, atol=1e-9)
    np.testing.assert_allclose(
        doubled.specific @ doubled.specific.T, single.specific @ single.specific.T, atol=1e-9
    )
    same = fit_subspaces(means[:, [0, 0, 0]])
    np.testing.assert_allclose(same.agnostic, means[:, 0])
    assert same.specific.shape == (12, 0)
    np.testing.assert_allclose(same.distances(means[:, 1])[1], 0)


def test_means_on_a_line_differ_in_one_direction() -> None:
    start, step = draw(1, 9, 2).T
    means = np.stack([start, start + step, start + 3 * step], axis=1)
    found = fit_subspaces(means)
    assert found.specific.shape == (9, 1)
    np.testing.assert_allclose(found.agnostic, nearest_of_hull(means[:, :2]), atol=1e-9)


def test_a_hull_through_the_origin_has_no_agnostic_direction() -> None:
    for means in (draw(0, 3, 5), np.array([[1.0, -1.0], [2.0, -2.0]]), np.zeros((4, 3))):
        found = fit_subspaces(means)
        assert (found.agnostic == 0).all()
        assert_orthonormal(found.specific)
        along, inside = found.distances(means[:, 1] - means[:, 0])
        assert np.isnan(along)
        assert inside == pytest.approx(np.linalg.norm(means[:, 1] - means[:, 0]))


def test_a_large_common_part_does_no_harm() -> None:
    """Thirty languages of a wide model that differ by a ten-thousandth of what they share."""
    rng = np.random.default_rng(0)
    planted = np.linalg.qr(rng.normal(size=(4096, 29)))[0]
    shared = rng.normal(size=4096)
    shared -= planted @ (planted.T @ shared)
    shared *= 1e4 / np.linalg.norm(shared)
    start = time.perf_counter()
    found = fit_subspaces(shared[:, None] + planted @ rng.normal(size=(29, 30)))
    assert time.perf_counter() - start < 2
    np.testing.assert_allclose(found.agnostic, shared, atol=1e-6)
    assert np.sin(subspace_angles(found.specific, planted)).max() < 1e-6
    assert_orthonormal(found.specific)


def test_a_mean_almost_inside_the_specific_subspace_leaves_no_rounding() -> None:
    frame = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 4)))[0]
    means = frame[:, :1] + 1e6 * frame[:, 1:] @ np.array([[1, 2, 3, 4], [1, 0, 0, 1], [0, 1, 2, 5]])
    found = fit_subspaces(means)
    np.testing.assert_allclose(found.specific.T @ found.agnostic, 0, atol=1e-14)
    np.testing.assert_allclose(found.agnostic, frame[:, 0], atol=1e-7)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="one language has no language-specific subspace"):
        fit_subspaces(np.ones((5, 1)))
    for rank in (0, 3):
        with pytest.raises(UserError, match=f"rank={rank}: .* 3 languages .* choose 1 to 2"):
            fit_subspaces(draw(0, 5, 3), rank)


# --- variance ---------------------------------------------------------------------------------


def crossed(meanings: int, languages: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.arange(languages), meanings), np.repeat(np.arange(meanings), languages)


def test_planted_variance_is_recovered() -> None:
    rng = np.random.default_rng(0)
    meanings, languages, d = 150, 6, 400
    spread = np.sqrt([0.5, 2.0, 1.0])
    parts = (
        rng.normal(size=(1, languages, d)), rng.normal(size=(meanings, 1, d)),
        rng.normal(size=(meanings, languages, d)),
    )  # fmt: skip
    values = 7 + sum(s * p for s, p in zip(spread, parts, strict=True))
    found = variance_shares(values.reshape(-1, d), *crossed(meanings, languages))
    # Expected mean squares of a two-way analysis of variance, per dimension.
    squares = np.array([
        (languages - 1) * (0.5 * meanings + 1.0),
        (meanings - 1) * (2.0 * languages + 1.0),
        (meanings - 1) * (languages - 1) * 1.0,
    ])  # fmt: skip
    np.testing.assert_allclose(found, squares / squares.sum(), atol=0.01)


def test_variance_equals_loops_and_adds_up() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 3, 5)) + rng.normal(size=(4, 1, 5))
    grand = values.mean((0, 1))
    language = meaning = rest = total = 0.0
    for m in range(4):
        for c in range(3):
            of_c, of_m = values[:, c].mean(0) - grand, values[m].mean(0) - grand
            language += of_c @ of_c
            meaning += of_m @ of_m
            left = values[m, c] - grand - of_c - of_m
            rest += left @ left
            total += (values[m, c] - grand) @ (values[m, c] - grand)
    found = variance_shares(values.reshape(-1, 5), *crossed(4, 3))
    np.testing.assert_allclose(found, np.array([language, meaning, rest]) / total)
    assert np.isnan(variance_shares(np.ones((6, 2)), *crossed(2, 3))).all()


def test_shuffled_shares_are_the_mean_over_shuffles() -> None:
    rng = np.random.default_rng(2)
    values, labels = rng.normal(size=(15, 4)) ** 3, crossed(5, 3)
    shuffled = [variance_shares(rng.permutation(values), *labels) for _ in range(2000)]
    error = 4 * np.std(shuffled, axis=0) / np.sqrt(2000)
    assert (np.abs(np.mean(shuffled, axis=0) - shuffled_shares(*labels)) < error).all()
    np.testing.assert_allclose(shuffled_shares(*labels), [2 / 14, 4 / 14, 8 / 14])


# --- the probe --------------------------------------------------------------------------------


def context_of(
    tokenizer: Any, rows: list[dict[str, str]], primary: str = "xx", **settings: Any
) -> Context:
    found = [Document(r["id"], r["language"], r["text"]) for r in rows]
    text = build_text(found, tokenizer, LANGUAGES, TextSettings(10**6, **settings))
    return Context(text, primary, None, seed=0)


def slow(context: Context, model: Any, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token means [part, language, layer, d] of all, even and odd folds, and [document, ...]."""
    text = context.text
    tokens: dict[tuple[int, int], list[Any]] = {}
    alone: dict[int, list[Any]] = {}
    for row, _, seen in by_row(context, model).values():
        hidden = torch.stack(seen["hidden"], 1).numpy().astype(np.float64)
        alone.setdefault(row.document, []).extend(hidden)
        if used[row.document]:
            for part in (0, 1 + row.fold % 2):
                tokens.setdefault((part, row.language), []).extend(hidden)
    means = np.array([
        [np.mean(tokens[part, c], axis=0) for c in range(len(text.languages))] for part in range(3)
    ])  # fmt: skip
    shape = means.shape[2:]
    documents = np.full((len(text.documents), *shape), np.nan)
    for i, hidden in alone.items():
        documents[i] = np.mean(hidden, axis=0)
    return means, documents


def test_the_probe_equals_its_definition(context: Context, model: Any) -> None:
    found = measure(LanguageSubspaces(), context, model)
    text = context.text
    main = [i for i, d in enumerate(text.documents) if not d.graded_only]
    by_language = [[i for i in main if text.document_language[i] == c][:-1] for c in range(3)]
    table = np.array(by_language).T  # the fixture's documents stand in one order everywhere
    fold = {row.document: row.fold for row in text.rows}
    used = np.isin(np.arange(len(text.documents)), table)
    means, documents = slow(context, model, used)
    assert found.parallel_documents == len(table) == 11
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(found.language_mean, means[0], **close)
    for layer in range(means.shape[2]):
        agnostic, basis, values = published(means[0, :, layer].T, 2)
        np.testing.assert_allclose(found.agnostic[layer], agnostic, **close)
        mine = found.specific_basis[layer]
        np.testing.assert_allclose(mine @ mine.T, basis @ basis.T, atol=1e-4)
        np.testing.assert_allclose(found.specific_singular_value[layer], values, **close)
        x = documents[table, layer]
        centred = x - x.mean((0, 1))
        scale = np.sqrt((centred**2).sum(-1).mean())
        assert found.distance_scale[layer] == pytest.approx(scale, rel=1e-3)
        between = (centred.mean(0) ** 2).sum() / 3, (centred.mean(1) ** 2).sum() / len(x)
        np.testing.assert_allclose(
            found.variance_share[:2, layer], np.array(between) / scale**2, rtol=1e-3
        )
        agnostic, basis, _ = published(means[1, :, layer].T, 2)
        agnostic = agnostic / np.linalg.norm(agnostic)
        for c in (1, 2):
            step = means[2, c, layer] - means[2, 0, layer]
            assert found.agnostic_distance[c, layer] == pytest.approx(
                abs(step @ agnostic), rel=1e-3, abs=1e-4 * scale
            )
            assert found.specific_distance[c, layer] == pytest.approx(
                np.linalg.norm(step @ basis), rel=1e-3
            )
            pairs = [(m[c], m[0]) for m in table if fold[int(m[c])] % 2]
            apart = [np.linalg.norm((documents[a, layer] - documents[b, layer]) @ basis)
                     for a, b in pairs]  # fmt: skip
            assert found.specific_pair_distance[c, layer] == pytest.approx(np.mean(apart), rel=1e-3)
            mine = found.specific_document_distance[[a for a, _ in pairs], layer]
            np.testing.assert_allclose(mine, apart, rtol=1e-3, atol=1e-4 * scale)
            along = [abs((documents[a, layer] - documents[b, layer]) @ agnostic) for a, b in pairs]
            assert found.agnostic_pair_distance[c, layer] == pytest.approx(
                np.mean(along), rel=1e-3, abs=1e-4 * scale
            )
    compared = np.isfinite(found.agnostic_document_distance).all(1)
    expected = {int(m[c]) for m in table for c in (1, 2) if fold[int(m[c])] % 2}
    assert set(np.flatnonzero(compared)) == expected
    relative = found.specific_distance / found.distance_scale
    np.testing.assert_allclose(found.subspace_distance_specific[1:], relative[1:, 1:3].mean(1))
    assert found.subspace_distance_reason.tolist() == ["primary language", "", ""]
    assert np.isnan(found.subspace_distance_agnostic[0])
    np.testing.assert_allclose(found.variance_share_chance, [2 / 32, 10 / 32, 20 / 32], rtol=1e-9)
    np.testing.assert_allclose(found.variance_share.sum(0), 1)


@pytest.mark.parametrize("window", [512, 6])
def test_the_size_of_batches_does_not_matter(tokenizer: Any, window: int) -> None:
    context = context_of(tokenizer, parallel_rows(12, 8), window=window, folds=4)
    model = tiny_model("llama", len(tokenizer))
    one, all_at_once = (measure(LanguageSubspaces(), context, model, n) for n in (1, 10**6))
    for name, variable in store.variables(one).items():
        other = store.variables(all_at_once)[name].data
        if variable.data.dtype.kind != "f":
            np.testing.assert_array_equal(variable.data, other)
        elif name == "specific_basis":
            np.testing.assert_allclose(
                np.abs(np.einsum("ldr,ldr->lr", variable.data, other)), 1, atol=1e-4
            )
        else:
            np.testing.assert_allclose(variable.data, other, rtol=1e-3, atol=1e-5)


LANGUAGE_VECTORS = {"xx": (3.0, 0.0, 0.0), "yy": (3.0, 2.0, 0.0), "zz": (3.0, 0.0, 1.0)}


def planted_model(tokenizer: Any) -> Any:
    """Every layer holds `meaning + language` of the words: dimensions 3 to 10 and 0 to 2."""
    model = tiny_model("llama", len(tokenizer), scale=0.0)
    with torch.no_grad():
        weight = model.model.embed_tokens.weight
        for c, words in WORDS.items():
            for i, word in enumerate(words):
                for spelling in (word, " " + word):
                    (token,) = tokenizer(spelling)["input_ids"]
                    weight[token, :3] = torch.tensor(LANGUAGE_VECTORS[c])
                    weight[token, 3 + i] = 1.0
    return model


def test_a_planted_model_is_taken_apart(tokenizer: Any) -> None:
    words = 20
    context = context_of(tokenizer, parallel_rows(16, words), folds=4)
    found = measure(LanguageSubspaces(), context, planted_model(tokenizer))
    assert {len(row.ids) for row in context.text.rows} == {2 * words + 1}
    share = words / (2 * words + 1)  # of tokens that are words
    planted = np.zeros((16, 2))
    planted[1, 0] = planted[2, 1] = 1.0
    for layer in range(4):
        assert subspace_angles(found.specific_basis[layer], planted).max() < 1e-5
        assert found.specific_basis[layer].T @ found.agnostic[layer] == pytest.approx(0, abs=1e-6)
    # Meaning and language 0 are the same for all, so they are what is agnostic.
    expected = np.zeros(16)
    counts = np.zeros(8)
    plans = [d.text.split()[::2] for d in context.text.documents if d.language == "xx"][:-1]
    for plan in plans:
        counts += [plan.count(w) for w in WORDS["xx"]]
    expected[0], expected[3:11] = 3 * share, counts / len(plans) / (2 * words + 1)
    np.testing.assert_allclose(found.agnostic, np.tile(expected, (4, 1)), atol=1e-6)
    np.testing.assert_allclose(found.specific_distance[1:, 0], [2 * share, share], rtol=1e-5)
    np.testing.assert_allclose(found.specific_pair_distance[1:, 0], [2 * share, share], rtol=1e-5)
    np.testing.assert_allclose(found.agnostic_distance[1:], 0, atol=1e-5)
    np.testing.assert_allclose(found.agnostic_pair_distance[1:], 0, atol=1e-5)
    # Meaning and language add up: nothing is left over.
    offsets = share * np.array(list(LANGUAGE_VECTORS.values()))
    language = np.square(offsets - offsets.mean(0)).sum(1).mean()
    np.testing.assert_allclose(
        found.variance_share[0], language / found.distance_scale**2, rtol=1e-4
    )
    np.testing.assert_allclose(found.variance_share[2], 0, atol=1e-6)


def test_rank_one_keeps_the_largest_direction(tokenizer: Any) -> None:
    context = context_of(tokenizer, parallel_rows(16, 20), folds=4)
    found = measure(LanguageSubspaces(rank=1), context, planted_model(tokenizer))
    assert found.specific_basis.shape == (4, 16, 1)
    assert found.specific_rank.tolist() == [0]
    assert np.abs(found.specific_basis[0, 1, 0]) > 0.9
    with pytest.raises(UserError, match="rank=3: the means of 3 languages differ in at most 2"):
        measure(LanguageSubspaces(rank=3), context, planted_model(tokenizer))


def test_languages_that_are_the_same_have_a_narrow_basis(tokenizer: Any) -> None:
    rows = parallel_rows(12, 10)
    same = {r["id"]: r["text"] for r in rows if r["language"] == "xx"}
    rows = [{**r, "text": same[r["id"]] if r["language"] == "yy" else r["text"]} for r in rows]
    context = context_of(tokenizer, rows, folds=4)
    parts = LanguageModel.of(tiny_model("gpt2", len(tokenizer)))
    sums = LanguageSubspaces().start(context, parts)
    for batch in context.text.batches(300):
        sums.update(run(parts, batch, Need.RESIDUAL))
    # Batches of other shapes round differently: that is no language.
    sums.sum[:, 1] *= 1 + 1e-8 * torch.randn(sums.sum[:, 1].shape, dtype=torch.float64)
    found = sums.result()
    assert np.isfinite(found.specific_basis[:, :, 0]).all()
    assert np.isnan(found.specific_basis[:, :, 1]).all()
    assert (found.specific_singular_value[:, 1] == 0).all()
    np.testing.assert_allclose(found.specific_distance[1], 0, atol=1e-5)
    assert (found.specific_distance[2] > 1e-3).all()


def test_without_parallel_documents_all_are_averaged(tokenizer: Any) -> None:
    rows = [{**r, "id": f"{r['id']} {r['language']}"} for r in parallel_rows(12, 8)]
    context = context_of(tokenizer, rows, folds=4)
    model = tiny_model("qwen3", len(tokenizer))
    found = measure(LanguageSubspaces(documents=5), context, model)
    means, documents = slow(context, model, np.ones(36, np.bool_))
    assert found.parallel_documents == 0
    np.testing.assert_allclose(found.language_mean, means[0], rtol=1e-3, atol=1e-5)
    kept = documents[[i for c in range(3) for i in range(12 * c, 12 * c + 5)]].reshape(3, 5, 4, 16)
    grand = kept.mean((0, 1))
    between = 5 * ((kept.mean(1) - grand) ** 2).sum((0, 2)) / ((kept - grand) ** 2).sum((0, 1, 3))
    np.testing.assert_allclose(found.variance_share[0], between, rtol=1e-3)
    np.testing.assert_allclose(found.variance_share[2], 1 - between, rtol=1e-3)
    assert np.isnan(found.variance_share[1]).all()
    np.testing.assert_allclose(found.variance_share_chance, [2 / 14, np.nan, 12 / 14])
    assert np.isfinite(found.subspace_distance_specific[1:]).all()
    assert np.isnan(found.specific_pair_distance).all()
    assert np.isnan(found.specific_document_distance).all()


def test_settings_say_how_many_documents_are_kept(tokenizer: Any) -> None:
    context = context_of(tokenizer, parallel_rows(12, 8), folds=2)
    model = tiny_model("gpt2", len(tokenizer))
    few = measure(LanguageSubspaces(documents=4), context, model)
    every = measure(LanguageSubspaces(), context, model)
    assert few.parallel_documents == every.parallel_documents == 11
    np.testing.assert_array_equal(few.language_mean, every.language_mean)
    kept = [np.isfinite(r.agnostic_document_distance).all(1).sum() for r in (few, every)]
    assert kept == [2 * 2, 2 * 5]  # odd ones of 4 and of 11, in two languages
    assert measure(LanguageSubspaces(least_documents=12), context, model).parallel_documents == 0


def test_a_curve_without_value_says_why(tokenizer: Any) -> None:
    model = tiny_model("gpt2", len(tokenizer))

    def without_yy(kept: str) -> Any:
        rows = [r for r in parallel_rows(2, 8) if r["language"] != "yy" or r["id"] == kept]
        context = context_of(tokenizer, rows, folds=2, equal_tokens=False)
        found = measure(LanguageSubspaces(), context, model)
        assert np.isfinite(found.specific_basis).all()
        unknown = np.isnan(found.subspace_distance_agnostic)
        np.testing.assert_array_equal(unknown, found.subspace_distance_reason != "")
        return found.subspace_distance_reason.tolist()

    # Distances of a language need its own odd folds; bases need everybody's even ones.
    assert without_yy("d0") == ["primary language", "no text of yy in odd folds", ""]
    assert without_yy("d1") == ["primary language", *["no text of yy in even folds"] * 2]


def test_a_checkpoint_that_diverged_has_no_value_and_does_not_stop_the_run(tokenizer: Any) -> None:
    model = tiny_model("gpt2", len(tokenizer))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight.mul_(1e38)
    context = context_of(tokenizer, parallel_rows(12, 8), folds=2)
    found = measure(LanguageSubspaces(), context, model)
    assert all("not finite" in r for r in found.subspace_distance_reason[1:])
    assert np.isfinite(found.specific_distance[1:, 0]).all()
    assert np.isnan(found.specific_distance[1:, 2]).all()
    assert np.isnan(found.variance_share[:, 2]).all()


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong, message in (
        ({"rank": 0}, "probes.subspaces.rank=0: choose a whole number of at least 1"),
        ({"documents": 1}, "probes.subspaces.documents=1: choose a whole number of at least 2"),
        ({"least_documents": "many"}, "probes.subspaces.least_documents=many"),
    ):
        with pytest.raises(UserError, match=message):
            LanguageSubspaces(**wrong)  # type: ignore[arg-type]


def test_the_record_opens_in_xarray(tmp_path: Path, tokenizer: Any, context: Context) -> None:
    found = measure(LanguageSubspaces(), context, tiny_model("mistral", len(tokenizer)))
    path = tmp_path / "record.h5"
    coordinates = {
        "language": np.array(LANGUAGES, dtype=object),
        "hidden_layer": np.arange(4),
        "document": np.array([d.id for d in context.text.documents], dtype=object),
    }
    store.write_record(path, {"subspaces": store.variables(found)}, coordinates, {"step": 0}, "")
    with xarray.open_dataset(path, engine="h5netcdf", group="subspaces") as data:
        assert data["specific_basis"].dims == ("hidden_layer", "model_dim", "specific_rank")
        assert data["variance_share"].sel(variance_part="meaning").shape == (4,)
        assert data["parallel_documents"] == 11
        assert data["subspace_distance_specific"].attrs["curve"] == 1
        assert data["specific_document_distance"].dtype == np.float32
        np.testing.assert_allclose(data["agnostic"], found.agnostic, rtol=1e-6)
