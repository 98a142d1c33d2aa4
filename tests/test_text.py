"""Tokenised probe text: budget, windows, folds, batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import documents as parallel_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints.errors import UserError
from tracker.documents import Document, Span
from tracker.text import ProbeText, TextSettings, build_text, graded_positions, scored_bytes

LANGUAGES = ("xx", "yy", "zz")


def parallel(**settings: Any) -> list[Document]:
    return [Document(r["id"], r["language"], r["text"]) for r in parallel_rows(**settings)]


def build(tokenizer: Any, found: list[Document], **settings: Any) -> ProbeText:
    return build_text(found, tokenizer, LANGUAGES, TextSettings(**settings))


def test_every_language_gets_exactly_the_budget(tokenizer: Any) -> None:
    text = build(tokenizer, parallel(), tokens_per_language=500)
    assert text.tokens().tolist() == [500, 500, 500]
    assert "documents fill the budget" in text.notes[0]


def test_the_shortest_language_sets_the_level_and_it_is_said(tokenizer: Any) -> None:
    found = [*parallel(), Document("more", "xx", "dax a wug b." * 50)]
    text = build(tokenizer, found, tokens_per_language=10**6)
    assert len(set(text.tokens().tolist())) == 1
    assert any("fewer than the budget" in note for note in text.notes)
    assert any("every language was cut to" in note for note in text.notes)
    unequal = build(tokenizer, found, tokens_per_language=10**6, equal_tokens=False)
    assert unequal.tokens()[0] > unequal.tokens()[1]


def test_windows_cover_every_token_once(tokenizer: Any) -> None:
    found = parallel()
    whole = build(tokenizer, found, tokens_per_language=10**6, window=10**6)
    cut = build(tokenizer, found, tokens_per_language=10**6, window=7)
    assert max(len(r.ids) for r in cut.rows) == 7
    np.testing.assert_array_equal(whole.token_counts(), cut.token_counts())
    for document in range(3):
        pieces = [r.ids for r in cut.rows if r.document == document]
        (one,) = [r.ids for r in whole.rows if r.document == document]
        np.testing.assert_array_equal(np.concatenate(pieces), one)


def test_the_models_maximum_bounds_the_window(tokenizer: Any) -> None:
    text = build_text(parallel(), tokenizer, LANGUAGES, TextSettings(window=512), longest=16)
    assert max(len(r.ids) for r in text.rows) == 16


def test_translations_share_a_fold_and_folds_are_even(tokenizer: Any) -> None:
    text = build(tokenizer, parallel(), tokens_per_language=10**6, folds=4)
    folds: dict[str, set[int]] = {}
    for row in text.rows:
        folds.setdefault(text.documents[row.document].id, set()).add(row.fold)
    assert all(len(f) == 1 for f in folds.values())
    sizes = Counter(next(iter(f)) for f in folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_tokens=st.integers(1, 400), window=st.integers(2, 60))
def test_batches_hold_every_token_once_whatever_their_size(
    tokenizer: Any, batch_tokens: int, window: int
) -> None:
    text = build(tokenizer, parallel(per_language=5), tokens_per_language=100, window=window)
    counts = np.zeros_like(text.token_counts())
    seen: list[int] = []
    for batch in text.batches(batch_tokens):
        seen += batch.rows
        ids = batch.ids[batch.real].numpy()
        np.add.at(counts[batch.language], ids, 1)
        assert batch.ids.numel() <= max(batch_tokens, batch.ids.shape[1])
        # A scored position's target is the token after it.
        where = batch.scored.nonzero()
        for row, token in where.tolist():
            assert batch.target[row, token] == batch.ids[row, token + 1]
            assert batch.real[row, token + 1]
        assert not batch.scored[:, -1].any()
    assert sorted(seen) == list(range(len(text.rows)))
    np.testing.assert_array_equal(counts, text.token_counts())


@pytest.mark.parametrize("batch_tokens", [1, 100, 10**6])
@pytest.mark.parametrize("languages", [None, {0, 2}])
@pytest.mark.parametrize("folds", [None, {1}])
def test_the_last_batch_of_a_language_is_marked(
    tokenizer: Any, batch_tokens: int, languages: Any, folds: Any
) -> None:
    graded = Document("g", "yy", "a dax b", (Span(2, 5, "fact"),), True)
    text = build(tokenizer, [*parallel(), graded], folds=3)
    kinds = []
    seen = [
        (b.language, b.graded_only, b.last) for b in text.batches(batch_tokens, folds, languages)
    ]
    for i, (language, graded_only, last) in enumerate(seen):
        later = [s[:2] for s in seen[i + 1 :]]
        assert last == ((language, graded_only) not in later)
        kinds += [(language, graded_only)] if last else []
    main = [(c, False) for c in sorted(languages or {0, 1, 2})]
    assert [k for k in kinds if not k[1]] == main
    assert next(text.batches(batch_tokens)).to(torch.device("cpu")).last == seen[0][2]


def test_a_tokenizer_with_bos_gets_a_prefix_that_is_not_counted(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    raw = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    raw.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    with_bos = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    text = build_text(parallel(), with_bos, LANGUAGES, TextSettings(300), longest=20)
    plain = build_text(parallel(), tokenizer, LANGUAGES, TextSettings(300), longest=19)
    assert all(r.prefix == 1 and r.ids[0] == 0 and len(r.ids) <= 20 for r in text.rows)
    assert text.tokens().tolist() == plain.tokens().tolist() == [300] * 3
    batch = next(text.batches(1000))
    assert not batch.real[:, 0].any()
    # The first token of a text is predicted from BOS, that of a later window is context only.
    first = [not text.rows[r].continued for r in batch.rows]
    assert batch.scored[:, 0].tolist() == first
    assert any(first)
    assert not all(first)
    assert scored_bytes(text).sum() > scored_bytes(plain).sum()


def test_unigram_entropy_by_hand(tokenizer: Any) -> None:
    found = [Document("1", c, "a b a b") for c in LANGUAGES]
    text = build(tokenizer, found)
    counts = Counter(tokenizer("a b a b")["input_ids"])
    p = np.array(list(counts.values())) / sum(counts.values())
    np.testing.assert_allclose(text.unigram_entropy(), -(p * np.log(p)).sum())


def test_scored_bytes_are_those_of_the_predicted_tokens(tokenizer: Any) -> None:
    found = [Document("1", c, "dax ü日 wug") for c in LANGUAGES]
    text = build(tokenizer, found)
    first = tokenizer("dax ü日 wug", return_offsets_mapping=True)["offset_mapping"][0][1]
    assert scored_bytes(text).tolist() == [len("dax ü日 wug"[first:].encode())] * 3


def test_graded_positions_predict_every_token_of_the_answer(tokenizer: Any) -> None:
    content = "a dax b wug c"
    spans = (Span(8, 11, "k"), Span(0, 1, "k"))
    found = [Document("1", c, content, spans) for c in LANGUAGES]
    text = build(tokenizer, found)
    graded = graded_positions(text)
    assert len(graded) == 3  # the first token has no predecessor: not gradable
    row, span, positions = graded[0]
    answer = text.rows[row].ids[positions + 1]
    assert tokenizer.decode(answer).strip() == content[span.start : span.end]


def test_graded_only_documents_stay_out_of_counts_and_budget(tokenizer: Any) -> None:
    extra = [Document("g", c, "dax dax dax", (Span(4, 7, "k"),), True) for c in LANGUAGES]
    with_extra = build(tokenizer, parallel() + extra, tokens_per_language=200)
    without = build(tokenizer, parallel(), tokens_per_language=200)
    np.testing.assert_array_equal(with_extra.token_counts(), without.token_counts())
    assert len(graded_positions(with_extra)) == 3


def test_settings_and_tokenizers_that_cannot_work_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"text\.window=1"):
        TextSettings(window=1)
    with pytest.raises(UserError, match=r"text\.tokens_per_language=0"):
        TextSettings(tokens_per_language=0)
    with pytest.raises(UserError, match=r"text\.folds=1"):
        TextSettings(folds=1)
    with pytest.raises(UserError, match="not a fast tokenizer"):
        build_text(parallel(), object(), LANGUAGES, TextSettings())
    with pytest.raises(UserError, match="the text of 'zz' has no tokens"):
        build(tokenizer, [d for d in parallel() if d.language != "zz"])
