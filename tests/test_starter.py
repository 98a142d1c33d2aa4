"""The built-in sentences are parallel, and their nouns stand where the concept table says."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest

from tracker.positions import _Finder

LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "ru")
UNSPACED = ("zh", "ja")
OPTIONAL = {"it", "pt", "nl", "pl"}
NOUNS = {
    *("house", "dog", "cat", "water", "book", "mother", "father", "child", "bread", "milk"),
    *("tree", "river", "city", "school", "teacher", "friend", "car", "train", "door", "window"),
    *("table", "night", "sun", "rain", "garden"),
}


def lines(name: str) -> list[dict[str, Any]]:
    text = files("tracker.concepts").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


SENTENCES = lines("starter.jsonl")
CONCEPTS = lines("natural.jsonl")


def owners(language: str) -> dict[str, str]:
    """Spelling -> concept."""
    return {s: row["concept"] for row in CONCEPTS for s in row.get(language, ())}


def found(text: str, language: str) -> set[str]:
    """Concepts in a sentence: whole words, or the longest spelling at each place of zh and ja."""
    concept_of = owners(language)
    if language not in UNSPACED:
        return {concept_of[w] for w in re.findall(r"\w+", text) if w in concept_of}
    concepts, place = set(), 0
    while place < len(text):
        here = [s for s in concept_of if text.startswith(s, place)]
        longest = max(here, key=len, default="")
        if longest:
            concepts.add(concept_of[longest])
        place += max(1, len(longest))
    return concepts


def sentences_with(language: str) -> Counter[str]:
    texts = [row["text"] for row in SENTENCES if row["language"] == language]
    return Counter(concept for text in texts for concept in found(text, language))


def test_every_sentence_exists_once_in_every_language() -> None:
    pairs = Counter((row["id"], row["language"]) for row in SENTENCES)
    ids = {row["id"] for row in SENTENCES}
    assert len(ids) >= 150
    assert pairs == Counter((i, language) for i in ids for language in LANGUAGES)


def test_the_translations_of_a_sentence_stand_together() -> None:
    n = len(LANGUAGES)
    for start in range(0, len(SENTENCES), n):
        group = SENTENCES[start : start + n]
        assert [row["language"] for row in group] == list(LANGUAGES)
        assert {row["id"] for row in group} == {f"starter-{start // n + 1:03d}"}


def test_texts_are_distinct_and_clean() -> None:
    texts = [row["text"] for row in SENTENCES]
    assert len(set(texts)) == len(texts)
    for row in SENTENCES:
        assert set(row) == {"id", "language", "text"}
        assert row["text"] == " ".join(row["text"].split())
        assert row["text"][-1] in ("。？" if row["language"] in UNSPACED else ".?")


@pytest.mark.parametrize(
    ("language", "script"),
    [("zh", "[\u4e00-\u9fff]"), ("ja", "[\u3041-\u30ff]"), ("ru", "[\u0400-\u04ff]")],
)
def test_every_sentence_is_in_the_script_of_its_language(language: str, script: str) -> None:
    for row in SENTENCES:
        if row["language"] == language:
            assert re.search(script, row["text"])
            assert not re.search("[A-Za-z]", row["text"])


def test_english_sentences_have_6_to_16_words() -> None:
    lengths = [len(row["text"].split()) for row in SENTENCES if row["language"] == "en"]
    assert min(lengths) >= 6
    assert max(lengths) <= 16


@pytest.mark.parametrize("language", LANGUAGES)
def test_recurring_words_recur_in_every_language(language: str) -> None:
    recurring = {concept for concept, n in sentences_with("en").items() if n >= 6}
    here = sentences_with(language)
    assert len(recurring) >= 22
    assert {concept: here[concept] for concept in recurring if here[concept] < 6} == {}


def test_a_sentence_holds_the_same_nouns_in_every_language() -> None:
    by_id: dict[str, dict[str, set[str]]] = {}
    for row in SENTENCES:
        nouns = found(row["text"], row["language"]) & NOUNS
        by_id.setdefault(row["id"], {})[row["language"]] = nouns
    assert {i: g for i, g in by_id.items() if any(nouns != g["en"] for nouns in g.values())} == {}
    assert sum(len(group["en"]) >= 2 for group in by_id.values()) > 0.9 * len(by_id)


def test_every_concept_has_every_language() -> None:
    names = [row["concept"] for row in CONCEPTS]
    assert len(set(names)) == len(names) >= 80
    assert set(names) >= NOUNS
    for row in CONCEPTS:
        assert set(row) - {"concept", *LANGUAGES} <= OPTIONAL
        assert all(row[language] for language in LANGUAGES)


@pytest.mark.parametrize("language", [*LANGUAGES, *sorted(OPTIONAL)])
def test_a_spelling_is_a_word_of_one_concept(language: str) -> None:
    spellings = Counter(s for row in CONCEPTS for s in row.get(language, ()))
    assert {s: n for s, n in spellings.items() if n > 1} == {}
    assert [s for s in spellings if not re.fullmatch(r"[^\W\d_]+", s)] == []


LETTERS = {
    "en": "",
    "de": "äöüß",
    "fr": "àâæçèéêëîïôœùûü",
    "es": "áéíñóúü",
    "it": "àèéìòù",
    "pt": "áâãàçéêíóôõú",
    "nl": "éëï",
    "pl": "ąćęłńóśźż",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
}
"""Of the alphabets that are no plain a to z: beside it, but for Russian."""

SCRIPTS = {"zh": ("gb2312", ["CJK"]), "ja": ("shift_jis", ["CJK", "HIRAGANA", "KATAKANA"])}
"""National character set (simplified signs are not in the Japanese one, nor the other way round),
and the scripts of it that words are written in."""

SENTENCE = {
    "en": "Then she said {} again.",
    "de": "Dann sagte sie „{}“, und zwar oft.",
    "fr": "Puis elle a dit « {} » encore.",
    "es": "Luego dijo «{}», otra vez.",
    "it": "Poi disse «{}», ancora.",
    "pt": "Depois disse «{}», outra vez.",
    "nl": "Toen zei ze ‘{}’, en nog eens.",
    "pl": "Potem rzekła: „{}” i tyle.",
    "ru": "Потом она сказала: «{}», и всё.",
    "zh": "然后她说了“{}”。",
    "ja": "それから「{}」とささやいた。",
}


@pytest.mark.parametrize("language", sorted(SENTENCE))
def test_a_spelling_is_written_in_the_script_of_its_language(language: str) -> None:
    for spelling in owners(language):
        if language in SCRIPTS:
            charset, scripts = SCRIPTS[language]
            spelling.encode(charset)
            assert {unicodedata.name(letter).split()[0].split("-")[0] for letter in spelling} <= {
                *scripts
            }, spelling
        else:
            plain = "" if language == "ru" else string.ascii_lowercase
            assert set(spelling.lower()) <= {*plain, *LETTERS[language]}, spelling
        assert unicodedata.is_normalized("NFC", spelling)


@pytest.mark.parametrize("language", sorted(SENTENCE))
def test_a_spelling_is_found_in_a_sentence_by_what_locates_positions(language: str) -> None:
    finder = _Finder({s: [row["concept"]] for row in CONCEPTS for s in row.get(language, ())})
    before = SENTENCE[language].index("{")
    for spelling, concept in owners(language).items():
        assert finder.find(SENTENCE[language].format(spelling)) == [(before, concept)]
    for row in SENTENCES:
        if row["language"] == language:
            concepts = {concept for _, concept in finder.find(row["text"])}
            assert concepts == found(row["text"], language), row["text"]


@pytest.mark.parametrize("language", UNSPACED)
def test_a_spelling_inside_another_starts_elsewhere_or_is_shorter(language: str) -> None:
    """Longest match, left to right, resolves every spelling to its own concept."""
    for spelling, concept in owners(language).items():
        assert found(spelling, language) == {concept}


@pytest.mark.parametrize("language", ["en", "fr", "es", "ru"])
def test_capitals_are_listed_only_where_a_sentence_starts_so(language: str) -> None:
    """German is left out: its nouns made of verbs (Arbeit, Schlafen) are capitals of their own."""
    first = {
        match[0]
        for row in SENTENCES
        if row["language"] == language and (match := re.search(r"\w+", row["text"]))
    }
    listed = owners(language)
    doubled = {s for s in listed if s[0].isupper() and s[0].lower() + s[1:] in listed}
    assert doubled <= first
