"""Which documents are parallel, and their mean hidden states against a loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGES, tiny_model
from conftest import documents as parallel_rows
from probing import by_row

from analysis.measures import middle_layers
from tracker.document_means import DocumentMeans, finite_or_nan, middle_mean, parallel_documents
from tracker.documents import Document
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.text import ProbeText, TextSettings, build_text
from tracker.trace import Need, run


def text_of(found: list[Document], tokenizer: Any, **settings: Any) -> ProbeText:
    return build_text(found, tokenizer, LANGUAGES, TextSettings(10**6, **settings))


def test_documents_of_one_id_are_parallel_in_their_order(tokenizer: Any) -> None:
    found = [
        Document(id_, language, f"{language} a b c {n}", graded_only=graded)
        for language, ids in {
            "xx": [("a", 0), ("b", 0), ("b", 0), ("g", 1), ("last", 0)],
            "yy": [("b", 0), ("a", 0), ("b", 0), ("b", 0), ("last", 0)],
            "zz": [("only", 0), ("b", 0), ("last", 0), ("g", 1)],
        }.items()
        for n, (id_, graded) in enumerate(ids)
    ]
    text = text_of(found, tokenizer, equal_tokens=False)
    table = parallel_documents(text)
    named = {
        tuple(-1 if i < 0 else (text.documents[i].id, text.documents[i].text[-1]) for i in row)
        for row in table
        if (row >= 0).any()
    }
    # The n-th with the n-th; what is only graded and each language's last document are left out.
    assert named == {
        (("a", "0"), ("a", "1"), -1),
        (("b", "1"), ("b", "0"), ("b", "1")),
        (("b", "2"), ("b", "2"), -1),
        (-1, ("b", "3"), -1),
        (-1, -1, ("only", "0")),
    }
    assert table[0].tolist()[0] == 0  # in the order of the text
    parts = text.document_language[table[(table >= 0).all(1)]]
    assert (parts == [0, 1, 2]).all()


def test_a_document_that_the_budget_cut_is_nobodys_translation(tokenizer: Any) -> None:
    rows = [Document(r["id"], r["language"], r["text"]) for r in parallel_rows(6, 10)]
    text = build_text(rows, tokenizer, LANGUAGES, TextSettings(tokens_per_language=50, folds=2))
    whole = {d.text for d in rows}
    table = parallel_documents(text)
    assert any(d.text not in whole for d in text.documents)
    assert all(text.documents[i].text in whole for i in table[table >= 0])
    assert (table >= 0).all(1).sum() == 2


@pytest.mark.parametrize(("window", "batch_tokens"), [(512, 300), (7, 40), (7, 10**6)])
def test_means_equal_a_loop_over_rows(
    tokenizer: Any, model: Any, window: int, batch_tokens: int
) -> None:
    rows = [Document(r["id"], r["language"], r["text"]) for r in parallel_rows(3, 9)]
    text = text_of(rows, tokenizer, window=window, folds=2)
    parts = LanguageModel.of(model)
    chosen = np.array([7, 0, 4])
    means = DocumentMeans(chosen, text, parts)
    for batch in text.batches(batch_tokens):
        means.update(run(parts, batch, Need.RESIDUAL))
    hidden: dict[int, list[Any]] = {}
    for row, _, seen in by_row(Context(text, "xx", None, 0), model).values():
        hidden.setdefault(row.document, []).append(torch.stack(seen["hidden"]).numpy())
    for layer in range(parts.layers + 1):
        for found, document in zip(means.at(layer), chosen, strict=True):
            tokens = np.concatenate([h[layer] for h in hidden[document]])
            assert (len(hidden[document]) > 1) == (window == 7)
            np.testing.assert_allclose(found, tokens.mean(0), rtol=1e-4, atol=1e-5)


def test_no_document_chosen(tokenizer: Any, context: Context) -> None:
    parts = LanguageModel.of(tiny_model("gpt2", len(tokenizer)))
    means = DocumentMeans(np.zeros(0, np.int64), context.text, parts)
    for batch in context.text.batches(300):
        means.update(run(parts, batch, Need.RESIDUAL))
    assert means.at(0).shape == (0, 16)


@pytest.mark.parametrize("hidden_layers", [1, 2, 3, 4, 7, 13, 33])
def test_middle_layers_are_those_of_the_other_curves(hidden_layers: int) -> None:
    values = np.random.default_rng(0).random((2, hidden_layers))
    middle = middle_layers(hidden_layers)
    expected = values[:, middle].mean(1) if len(middle) else np.full(2, np.nan)
    np.testing.assert_allclose(middle_mean(values), expected)


def test_infinities_become_nan() -> None:
    found = finite_or_nan(np.array([1.0, np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(found, [1.0, np.nan, np.nan, np.nan])
