"""The built-in prompts: enough of them, in their language, and the function is where it should."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from pygments.lexers import get_lexer_by_name
from pygments.token import Token
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tracker.concepts import load, prompt_concepts, prompt_rows
from tracker.config import find_text
from tracker.documents import from_prompts
from tracker.positions import index_concepts
from tracker.syntax import comments_and_strings
from tracker.text import TextSettings, build_text

ROWS = prompt_rows()
TABLE = prompt_concepts()
LANGUAGES = tuple(dict.fromkeys(row["language"] for row in ROWS))
WORD = re.compile(r"[A-Za-z_]\w*")


def name_of(row: dict[str, str]) -> str:
    match = WORD.match(row["completion"])
    assert match is not None
    return match[0]


def test_the_languages_are_those_of_the_code_table() -> None:
    assert set(LANGUAGES) == {c for row in load("code") for c in row} - {"concept"}


@pytest.mark.parametrize("pair", list(combinations(LANGUAGES, 2)), ids="-".join)
def test_every_pair_keeps_five_functions_with_six_prompts_each(pair: tuple[str, str]) -> None:
    kept = [
        row["concept"]
        for row in TABLE
        if set(pair) <= set(row) and set(row[pair[0]]).isdisjoint(row[pair[1]])
    ]
    if pair == ("javascript", "typescript"):
        assert kept == []  # one library: there is nothing to compare
        return
    assert len(kept) >= (9 if "python" in pair else 5)
    for concept in kept:
        for language in pair:
            prompts = [
                r["prompt"] for r in ROWS if (r["concept"], r["language"]) == (concept, language)
            ]
            assert len(prompts) == len(set(prompts)) >= 6, (concept, language)


def test_prompts_are_distinct_and_parallel() -> None:
    for language in LANGUAGES:
        prompts = [row["prompt"] for row in ROWS if row["language"] == language]
        assert len(set(prompts)) == len(prompts)
    texts = [row["prompt"] + row["completion"] for row in ROWS]
    assert len(set(texts)) == len(texts), "code that could be of either language"
    keys = [(row["id"], row["language"]) for row in ROWS]
    assert len(set(keys)) == len(keys)
    ids = {row["id"]: row["concept"] for row in ROWS}
    assert all(ids[row["id"]] == row["concept"] for row in ROWS)
    for concept in TABLE:
        for language in set(concept) - {"concept"}:
            mine = {i for i, language_ in keys if language_ == language}
            assert {i for i, name in ids.items() if name == concept["concept"]} <= mine


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_lexed_in_its_language(language: str) -> None:
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    for row in ROWS:
        if row["language"] != language:
            continue
        text = row["prompt"] + row["completion"]
        tokens = list(lexer.get_tokens_unprocessed(text))
        assert not [t for t in tokens if t[1] in Token.Error], text
        kinds = [kind for at, kind, _ in tokens if at == len(row["prompt"])]
        assert len(kinds) == 1, text
        assert any(kinds[0] in group for group in (Token.Name, Token.Keyword)), (text, kinds)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_function_is_named_once_after_code_and_no_other_is(language: str) -> None:
    functions = {name for row in TABLE for name in row.get(language, ())}
    for row in ROWS:
        if row["language"] != language:
            continue
        text = row["prompt"] + row["completion"]
        named = [(m[0], m.start()) for m in WORD.finditer(text) if m[0] in functions]
        assert named == [(name_of(row), len(row["prompt"]))], text
        assert WORD.search(row["prompt"]), "code comes before"
        spans = comments_and_strings(text, language)
        assert not any(start <= len(row["prompt"]) < end for start, end in spans), text


def test_the_table_covers_exactly_the_functions_of_the_prompts() -> None:
    for language in LANGUAGES:
        called = {(r["concept"], name_of(r)) for r in ROWS if r["language"] == language}
        listed = {(row["concept"], name) for row in TABLE for name in row.get(language, ())}
        assert called == listed


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer of whole words and single other characters."""
    rows = "\n".join(row["prompt"] + row["completion"] for row in ROWS)
    pieces = dict.fromkeys(re.findall(r" ?\w+| ?[^\w\s]|\s", rows))
    names = dict.fromkeys(n for row in TABLE for c in row if c != "concept" for n in row[c])
    alone = dict.fromkeys([*pieces, *names, *(f" {name}" for name in names), "\n", "(", "?"])
    vocabulary = {piece: i for i, piece in enumerate(alone)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]|\s"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.mark.parametrize("primary", ["python", "php"])
def test_the_one_position_of_every_document_is_the_end_of_its_prompt(
    words: Any, primary: str
) -> None:
    documents = from_prompts().documents
    settings = TextSettings(10**6, equal_tokens=False)
    text = build_text(documents, words, LANGUAGES, settings)
    index = index_concepts(text, from_prompts().concepts, words, primary)
    by_text = {row["prompt"] + row["completion"]: row for row in ROWS}
    assert index.positions.row.tolist() == list(range(len(documents)))
    assert (index.quoted == 0).all()
    for row, token, concept in zip(text.rows, index.positions.token, index.concept, strict=True):
        source = by_text[text.documents[row.document].text]
        assert index.names[concept] == source["concept"]
        first, last = row.offsets[token + 1]
        assert last == len(source["prompt"]) + len(name_of(source))
        assert row.offsets[token, 1] == first
        assert not source["prompt"][first:].strip(), "the name, with a space before it at most"
    for pair in index.pairs.values():
        assert len(pair.concepts) >= 5
        positions = np.isin(index.concept, pair.concepts) & (index.language == pair.language)
        assert positions.sum() >= 6 * len(pair.concepts)


def test_the_text_is_chosen_by_name() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        source, settings = find_text(compose("config", ["text=prompts"]))
    assert len(source.documents) == len(ROWS)
    assert list(source.concepts) == TABLE
    assert not settings.equal_tokens
