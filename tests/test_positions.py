"""Counterpart positions: whole identifiers, first tokens, what is dropped."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from conftest import WORDS, concept_rows
from conftest import documents as parallel_rows

from tracker.documents import Document
from tracker.positions import ConceptIndex, Positions, index_concepts, random_positions
from tracker.text import ProbeText, TextSettings, build_text

LANGUAGES = ("xx", "yy", "zz")


def text_of(tokenizer: Any, found: list[Document] | None = None) -> ProbeText:
    if found is None:
        found = [Document(r["id"], r["language"], r["text"]) for r in parallel_rows()]
    return build_text(found, tokenizer, LANGUAGES, TextSettings(10**6))


def test_every_position_is_followed_by_its_word_and_none_is_missed(tokenizer: Any) -> None:
    text = text_of(tokenizer)
    index = index_concepts(text, concept_rows(), tokenizer, "xx", most=10**6)
    for i in range(len(index.positions)):
        row = text.rows[index.positions.row[i]]
        following = tokenizer.decode(row.ids[index.positions.token[i] + 1 :])
        word = WORDS[LANGUAGES[index.language[i]]][int(index.names[index.concept[i]][4:])]
        assert following.strip().startswith(word)
    # Brute force: all words but those that open a document.
    expected = sum(
        w in WORDS[d.language] for d in text.documents for w in d.text.rstrip(".").split()[1:]
    )
    assert len(index.positions) == expected


def test_only_whole_identifiers_count(tokenizer: Any) -> None:
    content = {"xx": "a len (len) lens my_len len2 .len a", "yy": "a strlen b", "zz": "a x b"}
    found = [Document(str(i), c, content[c]) for c in LANGUAGES for i in range(3)]
    table = [{"concept": "length", "xx": ["len"], "yy": ["strlen"], "zz": ["x"]}]
    text = text_of(tokenizer, found)
    index = index_concepts(text, table, tokenizer, "xx", least=1)
    starts = sorted(
        {
            int(text.rows[r].offsets[t + 1, 0])
            + len(content["xx"][text.rows[r].offsets[t + 1, 0] :])
            - len(content["xx"][text.rows[r].offsets[t + 1, 0] :].lstrip())
            for r, t, c in zip(
                index.positions.row, index.positions.token, index.language, strict=True
            )
            if c == 0
        }
    )
    found_at = [content["xx"][s : s + 3] for s in starts]
    assert set(found_at) == {"len"}
    assert all(s in (2, 7, content["xx"].index(".len") + 1) for s in starts)
    assert len(starts) >= 2


def test_scripts_without_spaces_match_substrings_longest_first(tokenizer: Any) -> None:
    found = [Document(str(i), c, "あ猫と子猫あ猫") for c in LANGUAGES for i in range(6)]
    table = [
        {"concept": "cat", "xx": ["猫"], "yy": ["猫"], "zz": ["猫"]},
        {"concept": "kitten", "xx": ["子猫"], "yy": ["子猫"], "zz": ["子猫"]},
    ]
    from tracker.positions import _Finder

    places = _Finder({"猫": [0], "子猫": [1]}).find("あ猫と子猫あ猫")
    assert places == [(1, 0), (3, 1), (6, 0)]
    # The spellings coincide in all languages: nothing is left to compare, and it is said why.
    index = index_concepts(text_of(tokenizer, found), table, tokenizer, "xx")
    assert index.names == ()
    assert len(index.positions) == 0
    assert set(index.pairs[1].dropped.values()) == {"same first token in both languages"}


CODE = """a = dax  # dax wug
b = "dax" + wug + f"wug {dax} dax"
"""


def places_in(tokenizer: Any, languages: tuple[str, str]) -> tuple[list[int], list[int]]:
    """(first characters of the words found in the first document, words left out)."""
    found = [Document(str(i), c, CODE) for c in languages for i in range(6)]
    text = build_text(found, tokenizer, languages, TextSettings(10**6))
    table = [{"concept": "word", languages[0]: ["dax"], languages[1]: ["wug"]}]
    index = index_concepts(text, table, tokenizer, languages[0])
    tokens = index.positions.token[index.positions.row == 0]
    ends = [int(text.rows[0].offsets[token + 1, 1]) for token in tokens]
    return [end - len("dax") for end in ends], index.quoted.tolist()


def test_comments_and_strings_hold_no_positions_where_the_text_is_code(tokenizer: Any) -> None:
    words = [m.start() for m in re.finditer("dax", CODE)]
    assert places_in(tokenizer, ("python", "py")) == ([words[0], words[3]], [18, 12])
    for languages in (("python", "en"), ("xx", "yy")):
        assert places_in(tokenizer, languages) == (words, [0, 0])


def _index(tokenizer: Any, table: list[dict[str, Any]], **settings: Any) -> ConceptIndex:
    return index_concepts(text_of(tokenizer), table, tokenizer, "xx", **settings)


def test_what_is_dropped_is_said(tokenizer: Any) -> None:
    table = concept_rows()
    table += [
        {"concept": "filler", "xx": ["a"], "yy": ["a"], "zz": ["a"]},
        {"concept": "absent", "xx": ["dax"], "zz": ["schtok"]},
        {"concept": "rare", "xx": ["nowhere"], "yy": ["irgendwo"], "zz": ["niente"]},
        {"concept": "again", "xx": ["wug"], "yy": ["seti"], "zz": ["pflug"]},
    ]
    pair = _index(tokenizer, table).pairs[1]
    assert pair.dropped["filler"] == "same first token in both languages"
    assert pair.dropped["absent"] == "no spelling in one of the languages"
    assert pair.dropped["rare"] == "fewer than 5 positions"
    assert "shares a first token" in (pair.dropped.get("again") or pair.dropped["word1"])
    assert len(pair.concepts) >= 7


def test_the_cap_keeps_a_seeded_sample_per_concept_and_language(tokenizer: Any) -> None:
    full = _index(tokenizer, concept_rows(), most=10**6)
    capped = _index(tokenizer, concept_rows(), most=9)
    again = _index(tokenizer, concept_rows(), most=9)
    counts = np.zeros((3, 8), int)
    np.add.at(counts, (capped.language, capped.concept), 1)
    assert (counts == 9).all()
    assert capped.unused == len(full.positions) - len(capped.positions)
    np.testing.assert_array_equal(capped.positions.token, again.positions.token)
    every = set(zip(full.positions.row, full.positions.token, strict=True))
    assert set(zip(capped.positions.row, capped.positions.token, strict=True)) <= every


def test_inside_finds_the_places_of_a_batch() -> None:
    positions = Positions(np.array([0, 0, 2, 5]), np.array([1, 4, 0, 9]))
    rows, tokens, places = positions.inside((5, 1, 0))
    assert rows.tolist() == [0, 2, 2]
    assert tokens.tolist() == [9, 1, 4]
    assert places.tolist() == [3, 0, 1]
    assert len(positions.inside((7,))[2]) == 0


def test_random_positions_are_predicted_ones_of_every_language(tokenizer: Any) -> None:
    text = text_of(tokenizer)
    positions, language = random_positions(text, 50, seed=3)
    assert np.bincount(language).tolist() == [50, 50, 50]
    assert len(set(zip(positions.row, positions.token, strict=True))) == 150
    for row, token, c in zip(positions.row, positions.token, language, strict=True):
        assert text.rows[row].language == c
        assert token + 1 < len(text.rows[row].ids)
    again, _ = random_positions(text, 50, seed=3)
    np.testing.assert_array_equal(positions.token, again.token)
