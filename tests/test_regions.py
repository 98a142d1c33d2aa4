"""Linguistic regions against loops over single rows, brute-force sets and planted truths."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from conftest import LANGUAGES, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import measure
from torch.profiler import ProfilerActivity, profile

from checkpoints.errors import UserError
from tracker import store
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.probes.regions import MaskedRegionsResult, Regions, RegionsResult, RegionSums
from tracker.probes.vocabulary_mass import distinctive_tokens
from tracker.regions import RegionIndices, gini, highest, in_no_other, lowest, overlaps, top_share
from tracker.trace import Need, run


def read(
    context: Context,
    model: Any,
    probe: Regions,
    batch_tokens: int = 200,
    folds: Container[int] | None = None,
    languages: Container[int] | None = None,
) -> RegionSums:
    """Sums of a real model over (a part of) the text."""
    parts = LanguageModel.of(model)
    sums = probe.start(context, parts)
    for batch in context.text.batches(batch_tokens, folds, languages):
        sums.update(run(parts, batch, Need.LOSS if batch.graded_only else probe.needs))
    return sums


def slow_importance(context: Context, model: Any, folds: Iterable[int] = range(4)) -> Any:
    """[language] name -> |θ · sum over rows of dL/dθ|, by the model's own logits, row by row."""
    matrices = LanguageModel.of(model).matrices
    signed = [{n: torch.zeros_like(m) for n, m in matrices.items()} for _ in LANGUAGES]
    for matrix in matrices.values():
        matrix.requires_grad_(True)
    for row in context.text.rows:
        if row.graded_only or row.fold not in folds:
            continue
        ids = torch.from_numpy(row.ids)[None]
        logits = model(input_ids=ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        gradients = torch.autograd.grad(loss, list(matrices.values()))
        for name, gradient in zip(matrices, gradients, strict=True):
            signed[row.language][name] += gradient
    for matrix in matrices.values():
        matrix.requires_grad_(False)
    return [{n: (matrices[n] * g).abs().numpy().ravel() for n, g in s.items()} for s in signed]


def assert_highest(found: np.ndarray, importance: np.ndarray, k: int) -> None:
    """The k highest, up to values that rounding may put on either side of the last place."""
    order = np.argsort(-importance, kind="stable")
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == k
    bar = importance[order[k - 1]]
    for place in set(found.tolist()) ^ set(order[:k].tolist()):
        assert importance[place] == pytest.approx(bar, rel=5e-3)


def test_regions_are_those_of_the_signed_gradient_summed_row_by_row(
    context: Context, model: Any
) -> None:
    found = read(context, model, Regions(top_fraction=0.05)).regions()
    slow = slow_importance(context, model)
    for name, matrix in LanguageModel.of(model).matrices.items():
        k = found.size[name]
        assert k == round(0.05 * matrix.numel())
        for c in range(3):
            assert_highest(found.language[c][name], slow[c][name], k)
        total = slow[0][name] + slow[1][name] + slow[2][name]
        assert_highest(found.core[name], total, k)
        assert total[found.bottom[name]].max() <= np.sort(total)[k - 1] * 1.05 + 1e-6
        np.testing.assert_allclose(
            found.importance_of_core[name], total[found.core[name]], rtol=5e-3
        )
        assert found.importance[name] == pytest.approx(total.sum(), rel=5e-3)


def test_half_of_the_text_is_a_text_of_its_own(context: Context, model: Any) -> None:
    sums = read(context, model, Regions(top_fraction=0.05), folds={0, 1}, languages={0, 2})
    found, slow = sums.regions(), slow_importance(context, model, folds={0, 1})
    for name in found.core:
        for c in (0, 2):
            assert_highest(found.language[c][name], slow[c][name], found.size[name])
        assert_highest(found.core[name], slow[0][name] + slow[2][name], found.size[name])
        assert found.language[1][name].size == found.monolingual[1][name].size == 0
    result = sums.result()
    assert result.region_size.sum() == result.row_count[0].sum()
    assert np.isnan(result.monolingual_share).tolist() == [False, True, False]
    assert np.isnan(result.region_overlap_primary).tolist() == [True, True, False]
    assert np.isnan(result.row_gini[2]).all()


def test_the_model_is_left_as_it_was(context: Context, model: Any) -> None:
    def digest() -> str:
        weights = model.state_dict().values()
        return hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights)).hexdigest()

    before = digest()
    for matrix in LanguageModel.of(model).matrices.values():
        matrix.grad = torch.full_like(matrix, 1e6)  # left by somebody
    stale = read(context, model, Regions()).regions()
    clean = read(context, model, Regions()).regions()
    assert all(np.array_equal(stale.core[n], clean.core[n]) for n in clean.core)
    assert digest() == before
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_batch_size_does_not_matter(context: Context, model: Any) -> None:
    small, large = (
        read(context, model, Regions(top_fraction=0.05), tokens).regions() for tokens in (40, 5000)
    )
    for name in small.core:
        for a, b in ((small.core, large.core), *zip(small.language, large.language, strict=True)):
            assert np.intersect1d(a[name], b[name]).size >= 0.9 * a[name].size
        assert small.importance[name] == pytest.approx(large.importance[name], rel=5e-3)


def test_languages_must_be_read_one_after_another_and_once(context: Context) -> None:
    parts = LanguageModel.of(tiny_model("llama", context.text.vocabulary))
    probe = Regions()
    first, *_, last = (b for b in context.text.batches(100) if not b.graded_only)
    sums = probe.start(context, parts)
    sums.update(run(parts, first, probe.needs))
    with pytest.raises(AssertionError, match=r"\(0, 2\)"):
        sums.update(run(parts, last, probe.needs))
    sums = read(context, parts.model, probe, languages={0})
    with pytest.raises(AssertionError, match="language 0 was read twice"):
        sums.update(run(parts, first, probe.needs))
    sums.regions()
    with pytest.raises(AssertionError, match="released"):
        sums.update(run(parts, last, probe.needs))


def by_hand(
    matrices: dict[str, torch.Tensor], gradients: list[dict[str, Any]], probe: Regions, **more: Any
) -> RegionSums:
    """Sums over gradients that a test made up, language by language; None: not read."""
    parts = SimpleNamespace(matrices=matrices, input_first=more.get("input_first", frozenset()))
    text = SimpleNamespace(languages=tuple("abcdefgh"[: len(gradients)]))
    sums = probe.start(SimpleNamespace(text=text, primary_index=0, seed=3), parts)  # type: ignore[arg-type]
    for c, gradient in enumerate(gradients):
        for name, matrix in matrices.items():
            matrix.grad = torch.as_tensor(gradient[name], dtype=matrix.dtype).clone()
        batch = SimpleNamespace(language=c, graded_only=False, last=True)
        sums.update(SimpleNamespace(batch=batch))  # type: ignore[arg-type]
    return sums


def assert_shares(result: RegionsResult, sets: list[list[set[int]]], languages: int) -> None:
    """Shares over all matrices of `sets` [matrix][core, *languages]."""
    for a in range(languages):
        size = sum(len(s[1 + a]) for s in sets)
        if not size:
            assert np.isnan(result.overlap_share[a]).all()
            continue
        in_core = sum(len(s[0] & s[1 + a]) for s in sets) / size
        in_primary = sum(len(s[1] & s[1 + a]) for s in sets) / size
        assert result.core_share[a] == pytest.approx(in_core)
        assert result.overlap_share[a, 0] == pytest.approx(in_primary)
        if a:
            assert result.region_overlap_primary[a] == pytest.approx(in_primary)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    languages=st.integers(1, 4),
    fraction=st.sampled_from([0.001, 0.1, 0.5, 1.0]),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_set_algebra_with_ties_and_zeros(
    seed: int, languages: int, fraction: float, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    matrices = {n: torch.ones(s) for n, s in (("one", (6, 7)), ("two", (5, 3)))}
    gradients = [
        {n: rng.integers(-levels + 1, levels, m.shape) for n, m in matrices.items()}
        for _ in range(languages)
    ]
    sums = by_hand(matrices, gradients, Regions(top_fraction=fraction, keep_masks=True))
    found, result = sums.regions(), sums.result()
    assert sums.regions() is found
    everything = []
    for m, (name, matrix) in enumerate(matrices.items()):
        k = max(1, round(fraction * matrix.numel()))
        importance = [np.abs(g[name]).ravel().tolist() for g in gradients]
        total = [sum(values) for values in zip(*importance, strict=True)]

        def top(values: list[int], k: int = k) -> set[int]:
            order = sorted(range(len(values)), key=lambda i: (-values[i], i))
            return {i for i in order[:k] if values[i] > 0}

        tops = [top(values) for values in importance]
        core = top(total)
        up = sorted(range(len(total)), key=lambda i: (total[i], i))
        assert found.core[name].tolist() == sorted(core)
        assert found.bottom[name].tolist() == sorted(up[: len(core)])
        assert found.importance_of_core[name].tolist() == [total[i] for i in sorted(core)]
        assert found.importance[name] == sum(total)
        assert result.region_size[m] == k
        if sum(total):
            share = sum(total[i] for i in core) / sum(total)
            assert result.core_importance_share[m] == pytest.approx(share)
        for a in range(languages):
            others = set().union(*(t for b, t in enumerate(tops) if b != a))
            assert found.language[a][name].tolist() == sorted(tops[a])
            assert found.monolingual[a][name].tolist() == sorted(tops[a] - others)
            assert result.monolingual_count[a, m] == len(tops[a] - others)
            for b in range(languages):
                assert result.overlap[m, a, b] == len(tops[a] & tops[b])
        everything.append([core, *tops])
    assert_shares(result, everything, languages)
    assert np.isnan(result.region_overlap_primary[0])
    assert isinstance(result, MaskedRegionsResult)
    for m, (start, size) in enumerate(zip(result.mask_offset, result.matrix_size, strict=True)):
        for region, sets in enumerate(everything[m]):
            bits = np.unpackbits(result.region_mask[region, start:], count=size)
            assert set(np.flatnonzero(bits).tolist()) == sets


def test_chance_overlap_is_what_random_regions_share() -> None:
    rng = np.random.default_rng(0)
    matrices = {"one": torch.ones(40, 50), "two": torch.ones(7, 9)}
    gradients = [
        {n: rng.random(m.shape) for n, m in matrices.items()} for _ in range(8)
    ]  # importance without rhyme or reason: every region is random
    result = by_hand(matrices, gradients, Regions(top_fraction=0.1)).result()
    k, numel = np.array([200, 6]), np.array([2000, 63])
    assert result.overlap_chance == pytest.approx((k**2 / numel).sum() / k.sum())
    apart = result.overlap_share[~np.eye(8, dtype=bool)]
    assert apart.mean() == pytest.approx(result.overlap_chance, rel=0.1)
    # And their concentration is what the random draws say.
    assert result.row_gini[1:, 0].mean() == pytest.approx(result.row_gini_random[0], rel=0.1)
    assert result.column_gini[1:, 0].mean() == pytest.approx(result.column_gini_random[0], rel=0.1)
    assert result.row_top_share[1:, 0].mean() == pytest.approx(
        result.row_top_share_random[0], rel=0.2
    )
    assert result.column_top_share[1:, 0].mean() == pytest.approx(
        result.column_top_share_random[0], rel=0.2
    )


@pytest.mark.parametrize("input_first", [False, True])
def test_a_region_on_one_output_is_found_however_the_matrix_is_stored(input_first: bool) -> None:
    """All of language a's importance lies on output 3; language b's on input 5."""
    on_row, on_column = np.zeros((20, 30)), np.zeros((20, 30))
    on_row[3], on_column[:, 5] = 1, 2
    gradients = [{"w": g.T if input_first else g} for g in (on_row, on_column)]
    weight = torch.ones(30, 20) if input_first else torch.ones(20, 30)
    stored = frozenset({"w"}) if input_first else frozenset()
    sums = by_hand({"w": weight}, gradients, Regions(top_fraction=0.05), input_first=stored)
    result = sums.result()
    assert result.row_count[1].tolist() == [30 * (row == 3) for row in range(20)]
    assert result.column_count[1].tolist() == [1] * 30
    assert result.row_count[2].tolist() == [1] * 20
    assert result.column_count[2].tolist() == [20 * (column == 5) for column in range(30)]
    assert result.row_gini[1:, 0] == pytest.approx([1 - 1 / 20, 0])
    assert result.column_gini[1:, 0] == pytest.approx([0, 1 - 1 / 30])
    assert result.row_top_share[1:, 0] == pytest.approx([1, 1 / 20])
    assert result.column_top_share[1:, 0] == pytest.approx([1 / 30, 1])
    assert result.row_index.tolist() == list(range(20))
    assert result.column_index.tolist() == list(range(30))
    row, column = sums.regions().dimensions("w", sums.regions().language[1]["w"])
    assert set(column.tolist()) == {5}
    assert sorted(row.tolist()) == list(range(20))


def test_gpt2_rows_are_outputs(context: Context) -> None:
    """Only the weights into unit 7 of the first MLP are not zero: the region is that one row."""
    model = tiny_model("gpt2", context.text.vocabulary)
    weight = model.transformer.h[0].mlp.c_fc.weight
    with torch.no_grad():
        weight[:, :7] = 0
        weight[:, 8:] = 0
    result = read(context, model, Regions(top_fraction=0.05)).result()
    m = result.matrix.tolist().index("transformer.h.0.mlp.c_fc.weight")
    rows = result.row_index[result.row_matrix == m]
    assert (len(rows), (result.column_matrix == m).sum()) == (32, 16)
    for region in range(4):
        filled = rows[result.row_count[region, result.row_matrix == m] > 0]
        assert filled.tolist() == [7]
    assert result.row_top_share[:, m] == pytest.approx([1] * 4)
    # A parameter without effect is in no region: 16 of the 26 places are filled.
    assert result.region_size[m] == 26
    assert result.row_count[0, result.row_matrix == m].sum() == 16


def test_planted_monolingual_regions_are_found(context: Context) -> None:
    """Inputs 1 and 2 of the first MLP are excited by words of yy and zz only: by the embedding."""
    model = tiny_model("llama", context.text.vocabulary)
    words = distinctive_tokens(context.text.token_counts())
    embedding = model.model.embed_tokens.weight
    first = model.model.layers[0]
    with torch.no_grad():
        embedding.zero_()
        embedding[:, 0] = torch.linspace(1.0, 2.0, len(embedding))
        for c in (1, 2):
            embedding[torch.from_numpy(words[c]), c] = 4.0
        first.self_attn.o_proj.weight.zero_()  # nothing else reaches the MLP
        first.post_attention_layernorm.weight.fill_(1.0)
    sums = read(context, model, Regions(top_fraction=3 / 16))
    found, result = sums.regions(), sums.result()
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]
    for name in names:
        _, columns = found.dimensions(name, found.core[name])
        assert sorted(columns.tolist()) == sorted([0, 1, 2] * 32)
        for c, own in ((0, []), (1, [1] * 32), (2, [2] * 32)):
            _, columns = found.dimensions(name, found.monolingual[c][name])
            assert columns.tolist() == own
            _, columns = found.dimensions(name, found.language[c][name])
            assert sorted(columns.tolist()) == [0] * 32 + own
        m = result.matrix.tolist().index(name)
        assert result.overlap[m].tolist() == [[32, 32, 32], [32, 64, 32], [32, 32, 64]]
        assert result.monolingual_count[:, m].tolist() == [0, 32, 32]
        assert result.column_top_share[1:, m] == pytest.approx([1, 1 / 2, 1 / 2])
        assert result.column_gini[1:, m] == pytest.approx([15 / 16, 14 / 16, 14 / 16])
        assert result.row_gini[:, m] == pytest.approx([0] * 4)
        assert result.column_gini_random[m] < 0.3
    # Multiplied by nothing, attention's values have no effect on the loss, nor has what is zero.
    for part in ("q", "k", "v", "o"):
        assert found.core[f"model.layers.0.self_attn.{part}_proj.weight"].size == 0


def test_two_extra_copies_of_the_parameters_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler's count of live bytes, temporaries included, over six languages."""
    monkeypatch.setattr("tracker.gradients.MOST", 30)  # a constant size, however large the model
    matrices = {f"w{i}": torch.randn(16, 32) for i in range(30)}
    parts = SimpleNamespace(matrices=matrices, input_first=frozenset())
    text = SimpleNamespace(languages=tuple("abcdef"))
    context = SimpleNamespace(text=text, primary_index=0, seed=0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        sums = Regions().start(context, parts)  # type: ignore[arg-type]
        for c in range(6):
            for matrix in matrices.values():
                matrix.grad = torch.randn_like(matrix)
            batch = SimpleNamespace(language=c, graded_only=False, last=True)
            sums.update(SimpleNamespace(batch=batch))  # type: ignore[arg-type]
        sums.regions()
    changes = [
        e.nbytes() for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"
    ]
    live = np.cumsum(changes) / sum(4 * m.numel() for m in matrices.values())
    assert 1.95 < live.max() < 2.5
    assert live[-1] < 0.2  # of six languages, of core and bottom: indices
    assert all(matrix.grad is None for matrix in matrices.values())


def test_a_bfloat16_model_is_summed_in_float32() -> None:
    matrices = {"w": torch.ones(1, 4, dtype=torch.bfloat16)}
    gradients = [{"w": [[1.0, 256.0, 0.0, 2.0]]}, {"w": [[1.0, 1.0, 0.0, 2.0]]}]
    found = by_hand(matrices, gradients, Regions(top_fraction=0.5)).regions()
    assert found.core["w"].tolist() == [1, 3]
    assert found.importance_of_core["w"].tolist() == [257.0, 4.0]  # 256 in bfloat16
    assert found.importance_of_core["w"].dtype == np.float32


def test_a_gradient_that_is_not_finite_leaves_no_region() -> None:
    gradients = [{"w": [[1.0, np.nan], [2.0, 3.0]]}, {"w": [[1.0, 1.0], [2.0, 3.0]]}]
    result = by_hand({"w": torch.ones(2, 2)}, gradients, Regions(top_fraction=0.5)).result()
    assert result.overlap[0].tolist() == [[0, 0], [0, 2]]
    assert np.isnan(result.core_importance_share).all()


def test_no_text_no_regions(context: Context) -> None:
    parts = LanguageModel.of(tiny_model("gpt2", context.text.vocabulary))
    sums = Regions().start(context, parts)
    assert isinstance(sums.regions(), RegionIndices)
    for places in (sums.regions().core, sums.regions().bottom, *sums.regions().monolingual):
        assert set(places) == set(parts.matrices)
        assert not any(p.size for p in places.values())
    assert np.isnan(sums.result().overlap_share).all()
    assert sums.result().row_count.sum() == 0


@pytest.mark.parametrize("levels", [3, 50, 10_000, None])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.05, 0.5])
def test_highest_and_lowest_of_many_equal_a_stable_sort(levels: int | None, share: float) -> None:
    """Large matrices are searched among candidates that a sample tells; ties and order as ever."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(300, 400)) * rng.normal(size=(300, 1)))
    if levels is not None:
        values = np.floor(values * levels) / levels
    k = round(share * values.size)
    flat = values.ravel()
    up, down = np.argsort(-flat, kind="stable")[:k], np.argsort(flat, kind="stable")[:k]
    np.testing.assert_array_equal(highest(torch.tensor(values), k), np.sort(up[flat[up] > 0]))
    np.testing.assert_array_equal(lowest(torch.tensor(values), k), np.sort(down))


def test_a_sample_that_misleads_is_noticed() -> None:
    """All that is large lies beside the sampled places, or in them."""
    for values in (torch.zeros(120_000), torch.ones(120_000), torch.arange(120_000.0)):
        for places in (slice(1, None, 8), slice(None, None, 8)):
            peaked = values.clone()
            peaked[places] += 1e6
            best = np.sort(np.argsort(-peaked.numpy(), kind="stable")[:1200])
            np.testing.assert_array_equal(highest(peaked, 1200), best)
    spoilt = torch.rand(120_000)
    spoilt[5] = torch.nan
    assert not len(highest(spoilt, 1200))


def test_highest_and_lowest_break_ties_by_index() -> None:
    values = torch.tensor([[1.0, 0.0, 3.0], [1.0, 1.0, 0.0]])
    assert highest(values, 2).tolist() == [0, 2]
    assert highest(values, 6).tolist() == [0, 2, 3, 4]
    assert lowest(values, 1).tolist() == [1]
    assert lowest(values, 4).tolist() == [0, 1, 3, 5]
    assert lowest(values, 0).tolist() == []
    endless = torch.tensor([torch.inf, 1.0, torch.inf, 2.0])
    assert lowest(endless, 3).tolist() == [0, 1, 3]
    assert highest(endless, 2).tolist() == [0, 2]


def test_overlaps_and_what_is_in_no_other() -> None:
    sets = [np.array(s, np.int64) for s in ([1, 5, 9], [5, 7], [], [5, 9])]
    assert overlaps(sets).tolist() == [[3, 1, 0, 2], [1, 2, 0, 1], [0, 0, 0, 0], [2, 1, 0, 2]]
    assert [s.tolist() for s in in_no_other(sets)] == [[1], [7], [], []]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_the_mean_difference(counts: list[int]) -> None:
    x = np.array(counts)
    if not x.sum():
        assert np.isnan(gini(x))
        return
    pairs = sum(abs(a - b) for a in counts for b in counts)
    assert gini(x) == pytest.approx(pairs / (2 * len(x) * sum(counts)))
    assert top_share(x) == pytest.approx(max(counts) / sum(counts))
    np.testing.assert_allclose(gini(np.stack([x, x + 1]))[0], gini(x))


def test_top_share_is_of_one_percent() -> None:
    counts = np.arange(300)
    assert top_share(counts) == pytest.approx((299 + 298 + 297) / counts.sum())


@pytest.mark.parametrize("keep_masks", [False, True])
def test_a_record_of_it_opens_in_xarray(context: Context, tmp_path: Path, keep_masks: bool) -> None:
    model = tiny_model("gpt2", context.text.vocabulary)
    result = measure(Regions(top_fraction=0.02, keep_masks=keep_masks), context, model)
    assert type(result) is (MaskedRegionsResult if keep_masks else RegionsResult)
    path = tmp_path / "record.h5"
    languages = {"language": np.array(LANGUAGES, dtype=object)}
    groups = {"regions": store.variables(result)}
    store.write_record(path, groups, languages, {"step": 1, "tokens": -1}, "")
    with xarray.open_dataset(path, engine="h5netcdf", group="regions") as data:
        assert data.coords["region"].values.tolist() == ["core", *LANGUAGES]
        assert data["overlap"].dims == ("matrix", "language", "other_language")
        name = "transformer.h.1.attn.c_attn.weight"
        assert data["region_size"].sel(matrix=name) == round(0.02 * 16 * 48)
        m = data["matrix"].values.tolist().index(name)
        rows = data["row_count"].sel(region="core")[data["row_matrix"].values == m]
        assert rows.shape == (48,)
        assert rows.sum() == data["region_size"].sel(matrix=name)
        assert ("region_mask" in data, "mask_offset" in data) == (keep_masks, keep_masks)
        assert float(data["overlap_chance"]) == pytest.approx(0.02, rel=0.05)
    read = store.read_record(path).groups["regions"]
    curves = {name for name, variable in read.items() if variable.curve}
    assert curves == {"region_overlap_primary", "monolingual_share"}
    np.testing.assert_array_equal(read["row_count"].data, result.row_count)


def test_what_it_says_is_the_same_every_time(context: Context) -> None:
    model = tiny_model("llama", context.text.vocabulary)
    first, second = (store.variables(measure(Regions(), context, model)) for _ in range(2))
    for name, variable in first.items():
        np.testing.assert_array_equal(variable.data, second[name].data)


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1, "much", float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction: Any) -> None:
    with pytest.raises(UserError, match=r"probes\.regions\.top_fraction=.*more than 0, at most 1"):
        Regions(top_fraction=fraction)


def test_masks_are_kept_or_not() -> None:
    with pytest.raises(UserError, match=r"regions\.keep_masks=sometimes: choose true or false"):
        Regions(keep_masks="sometimes")  # type: ignore[arg-type]


def test_gradients_of_a_bfloat16_model_are_summed_in_float32() -> None:
    """A thousand small gradients after a large one: in bfloat16 they would all be lost."""
    weight = torch.ones(2, 2, dtype=torch.bfloat16)
    model: Any = SimpleNamespace(matrices={"w": weight}, input_first=frozenset())
    context: Any = SimpleNamespace(text=SimpleNamespace(languages=("a",)), seed=0)
    sums = RegionSums(Regions(top_fraction=0.25), context, model)
    for i in range(1001):
        weight.grad = torch.tensor([[256.0, 0.0], [0.0, 0.0]], dtype=torch.bfloat16)
        if i:
            weight.grad = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.bfloat16)
        batch = SimpleNamespace(language=0, graded_only=False, last=i == 1000)
        sums.update(SimpleNamespace(batch=batch))  # type: ignore[arg-type]
    assert weight.grad is None
    assert sums.regions().core["w"].tolist() == [1]
    assert sums.regions().importance_of_core["w"].tolist() == [1000.0]
