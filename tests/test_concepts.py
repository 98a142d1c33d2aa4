"""The shipped table of programming concepts, against lexers, and the names of languages."""

from __future__ import annotations

import abc
import builtins
import collections
import copy
import functools
import heapq
import keyword
import math
import random
import re
import sys
import typing
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name
from pygments.token import Token

from checkpoints.errors import UserError
from tracker import concepts

LANGUAGES = (
    "python",
    "java",
    "cpp",
    "csharp",
    "go",
    "php",
    "javascript",
    "typescript",
    "rust",
    "kotlin",
    "ruby",
)
ROWS = concepts.load("code")


def spellings(language: str) -> list[str]:
    return [spelling for row in ROWS for spelling in row.get(language, [])]


def test_the_table_is_large_and_most_of_it_is_in_every_language() -> None:
    assert all(set(row) <= {"concept", *LANGUAGES} for row in ROWS)
    assert len({row["concept"] for row in ROWS}) == len(ROWS)
    assert sum(set(row) == {"concept", *LANGUAGES} for row in ROWS) >= 30
    for language in LANGUAGES:
        assert sum(language in row for row in ROWS) > 0.6 * len(ROWS), language


@pytest.mark.parametrize("language", LANGUAGES)
def test_spellings_are_identifiers_that_serve_one_concept(language: str) -> None:
    found = spellings(language)
    assert [s for s in found if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", s)] == []
    assert [s for s, times in Counter(found).items() if times > 1] == []
    assert [] not in [row.get(language) for row in ROWS]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_spelling_is_one_token_of_its_language(language: str) -> None:
    options = {"startinline": True} if language == "php" else {}
    lexer = get_lexer_by_name(language, **options)
    for spelling in spellings(language):
        kinds = [kind for kind, text in lexer.get_tokens(spelling) if text.strip()]
        assert len(kinds) == 1, (spelling, kinds)
        assert any(kinds[0] in group for group in (Token.Name, Token.Keyword, Token.Operator.Word))


@pytest.mark.parametrize("concept", ["function", "else if", "class", "switch", "try"])
def test_statements_are_keywords_of_their_language(concept: str) -> None:
    """A word of another language would be an ordinary name to the lexer."""
    row = next(row for row in ROWS if row["concept"] == concept)
    for language in set(row) - {"concept"}:
        lexer = get_lexer_by_name(language, **({"startinline": True} if language == "php" else {}))
        for spelling in row[language]:
            kind = next(kind for kind, text in lexer.get_tokens(spelling) if text == spelling)
            assert kind in Token.Keyword, (language, spelling, kind)


def test_python_has_every_word_listed_for_it() -> None:
    homes = [builtins, abc, collections, copy, functools, heapq, math, random, sys, typing]
    kinds = [str, list, dict, set, collections.deque, object]
    known = {name for home in [*homes, *kinds] for name in dir(home)}
    known |= {*keyword.kwlist, *sys.stdlib_module_names, "self"}
    assert set(spellings("python")) <= known


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_words_of_its_own_beside_each_other_one(language: str) -> None:
    """What the tool can compare: concepts that share no spelling within the pair."""
    for other in set(LANGUAGES) - {language}:
        both = [row for row in ROWS if language in row and other in row]
        assert any(set(row[language]).isdisjoint(row[other]) for row in both), other


def test_no_row_is_spelled_alike_in_every_language() -> None:
    alike = [
        row["concept"]
        for row in ROWS
        if len({tuple(words) for language, words in row.items() if language != "concept"}) < 2
    ]
    assert alike == []


def test_rows_that_are_handed_out_do_not_change_the_table() -> None:
    concepts.load("code")[0].clear()
    assert concepts.load("code") == ROWS


def test_an_unknown_table_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"'cobol'.*code, natural"):
        concepts.load("cobol")


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ("eng deu fra spa zho jpn rus ita por nld pol", "en de fr es zh ja ru it pt nl pl"),
        ("py js ts c++ c# cs golang", "python javascript typescript cpp csharp csharp go"),
        ("rs kt rb", "rust kotlin ruby"),
        ("en PYTHON Rust C++ ENG", "en python rust cpp en"),
        ("swh cobol Klingon", "swh cobol Klingon"),
    ],
)
def test_canonical_names(names: str, columns: str) -> None:
    assert [concepts.canonical(name) for name in names.split()] == columns.split()


@given(st.sampled_from(sorted(concepts.ALIASES)), st.booleans())
def test_canonical_is_idempotent_and_ignores_case(name: str, upper: bool) -> None:
    column = concepts.canonical(name.upper() if upper else name)
    assert column == concepts.ALIASES[name] == concepts.canonical(column)


def test_every_column_of_the_table_has_a_name() -> None:
    assert set(LANGUAGES) <= set(concepts.ALIASES.values())
