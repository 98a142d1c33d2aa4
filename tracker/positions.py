"""Where the concepts of a table stand in the probe text: counterpart positions (methods 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tracker.syntax import comments_and_strings, programming
from tracker.text import ProbeText, Row

Ints = NDArray[np.int64]

_CONTEXTS = ("", " ", "\n", "(")
"""What may stand before a spelling: its first token differs with a leading space or line."""

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Han: scripts without spaces, in which a word is found as a substring."""

_LETTER = rf"[^\W{_UNSPACED}]"
"""A character of an identifier or of a word between spaces."""


@dataclass(frozen=True)
class Positions:
    """Places in the probe text, each the position *before* the token it is about.

    Flat arrays of equal length, ascending by row.
    """

    row: Ints
    """Index into `ProbeText.rows`."""
    token: Ints
    """Index into the row's tokens; the next token is the one in question."""

    def __len__(self) -> int:
        """Number of places."""
        return len(self.row)

    def inside(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, Ints]:
        """The places within a batch of rows: (row in the batch, token, index of the place)."""
        parts = []
        for i, row in enumerate(rows):
            first, last = np.searchsorted(self.row, [row, row + 1])
            index = np.arange(first, last)
            parts.append(np.stack([np.full_like(index, i), self.token[index], index]))
        found = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1]), found[2]


@dataclass(frozen=True)
class Pair:
    """The concepts on which one language is compared with the primary one."""

    language: int
    """Index of the other language."""
    concepts: Ints
    """Indices into `ConceptIndex.names` of the concepts kept."""
    dropped: Mapping[str, str]
    """Concept -> why it was left out of this pair."""


@dataclass(frozen=True)
class ConceptIndex:
    """A concept table located in a probe text."""

    names: tuple[str, ...]
    """Concepts that any pair keeps."""
    first_tokens: tuple[tuple[tuple[int, ...], ...], ...]
    """[concept][language] first tokens of its spellings, with and without a leading space, of those
    that start it somewhere in the probe text."""
    pairs: Mapping[int, Pair]
    """Language index -> its pair with the primary language."""
    positions: Positions
    language: Ints
    """[position] language of the text."""
    concept: Ints
    """[position] index into `names`."""
    unused: int
    """Positions beyond the cap per concept and language."""
    quoted: Ints
    """[language] spellings in comments and strings of source code, which are no positions."""

    def token_sets(self, concepts: Ints, language: int) -> list[tuple[int, ...]]:
        """First tokens of the given concepts in one language."""
        return [self.first_tokens[k][language] for k in concepts]


def index_concepts(
    text: ProbeText,
    table: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    primary: str,
    *,
    least: int = 5,
    most: int = 64,
    seed: int = 0,
) -> ConceptIndex:
    """Find the counterpart positions of every concept and decide which concepts are compared.

    A position is one whose next token starts a whole identifier (or word) that spells the concept
    in the language of the text, outside comments and strings where that is a programming language
    (**choice**: there the word is prose or data). A pair (primary, other) drops a concept that
    either language lacks, that has fewer than `least` positions in either language's text, whose
    first tokens coincide in the two languages, or (**choice**) whose first tokens another, more
    frequent concept of the pair already uses: a shared token would be counted for both. First
    tokens that start the concept nowhere in the probe text do not count (**choice**): a word that a
    tokenizer breaks up without its leading space starts with a fragment there, which stands for
    anything.

    Args:
        text: Tokenised probe text.
        table: Rows `{"concept": ..., language: [spellings]}`.
        tokenizer: The series' tokenizer.
        primary: Name of the primary language.
        least: Positions that a concept needs in each language.
        most: Positions kept per concept and language, drawn at random.
        seed: Of that draw.
    """
    names = [str(row["concept"]) for row in table]
    spellings = [[_spellings(row, c) for c in text.languages] for row in table]
    possible = [[_first_tokens(s, tokenizer) for s in row] for row in spellings]
    raw, quoted = _locate(text, spellings, possible)
    seen = {(k, c, int(text.rows[row].ids[token + 1])) for c, k, row, token in raw}
    tokens = [
        [tuple(t for t in known if (k, c, t) in seen) for c, known in enumerate(row)]
        for k, row in enumerate(possible)
    ]
    counts = np.zeros((len(names), len(text.languages)), np.int64)
    for language, concept, _, _ in raw:
        counts[concept, language] += 1
    p = text.languages.index(primary)
    pairs = {
        c: _pair(names, possible, tokens, counts, p, c, least)
        for c in range(len(text.languages))
        if c != p
    }
    used = np.unique(np.concatenate([pair.concepts for pair in pairs.values()]))
    kept, unused = _cap([r for r in raw if r[1] in set(used.tolist())], most, seed)
    renumber = {int(old): new for new, old in enumerate(used)}
    return ConceptIndex(
        names=tuple(names[k] for k in used),
        first_tokens=tuple(tuple(tokens[k]) for k in used),
        pairs={
            c: Pair(c, np.array([renumber[int(k)] for k in q.concepts], np.int64), q.dropped)
            for c, q in pairs.items()
        },
        positions=Positions(_column(kept, 2), _column(kept, 3)),
        language=_column(kept, 0),
        concept=np.array([renumber[k] for _, k, _, _ in kept], np.int64),
        unused=unused,
        quoted=quoted,
    )


_Place = tuple[int, int, int, int]
"""Language, concept, row, token."""


def _column(places: Sequence[_Place], index: int) -> Ints:
    return np.array([p[index] for p in places], np.int64)


def _spellings(row: Mapping[str, Any], language: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.get(language, ())))


def _first_tokens(spellings: Iterable[str], tokenizer: Any) -> tuple[int, ...]:
    """First token of every spelling after each context, where that token starts at the spelling."""
    found: dict[int, None] = {}
    for spelling in spellings:
        for context in _CONTEXTS:
            encoded = tokenizer(
                context + spelling, add_special_tokens=False, return_offsets_mapping=True
            )
            token = _starting(encoded["offset_mapping"], context + spelling, len(context))
            if token is not None:
                found[encoded["input_ids"][token]] = None
    return tuple(found)


def _starting(offsets: Any, text: str, start: int) -> int | None:
    """Index of the token that begins at `start`, white space in front of it allowed."""
    for index, (first, last) in enumerate(offsets):
        if first <= start < last:
            return index if not text[first:start].strip() else None
    return None


def _locate(
    text: ProbeText,
    spellings: Sequence[Sequence[tuple[str, ...]]],
    tokens: Sequence[Sequence[tuple[int, ...]]],
) -> tuple[list[_Place], Ints]:
    """All places, and per language how many more lie in comments and strings."""
    found: list[_Place] = []
    quoted = np.zeros(len(text.languages), np.int64)
    finders = [_finder(spellings, c) for c in range(len(text.languages))]
    columns = programming(text.languages)
    places = [finders[text.languages.index(d.language)].find(d.text) for d in text.documents]
    hidden = [_quoted(d.text, columns.get(d.language)) for d in text.documents]
    for index, row in enumerate(text.rows):
        if not row.graded_only:
            content = text.documents[row.document].text
            for start, token, concept in _in_row(row, content, places[row.document]):
                if int(row.ids[token]) not in tokens[concept][row.language]:
                    continue
                if hidden[row.document][start]:
                    quoted[row.language] += 1
                else:
                    found.append((row.language, concept, index, token - 1))
    return found, quoted


def _quoted(text: str, column: str | None) -> NDArray[np.bool_]:
    """[character] whether it is in a comment or string of source code."""
    mask = np.zeros(len(text), np.bool_)
    for start, end in comments_and_strings(text, column) if column else ():
        mask[start:end] = True
    return mask


def _finder(spellings: Sequence[Sequence[tuple[str, ...]]], language: int) -> _Finder:
    concepts_of: dict[str, list[int]] = {}
    for concept, row in enumerate(spellings):
        for spelling in row[language]:
            concepts_of.setdefault(spelling, []).append(concept)
    return _Finder(concepts_of)


class _Finder:
    """Finds whole spellings: identifiers and words, or substrings where a script has no spaces."""

    def __init__(self, concepts_of: Mapping[str, Sequence[int]]) -> None:
        self.concepts_of = concepts_of
        unspaced = [s for s in concepts_of if re.search(f"[{_UNSPACED}]", s)]
        longest_first = sorted(unspaced, key=len, reverse=True)
        word = rf"(?<!{_LETTER})(?!\d){_LETTER}+"
        self.pattern = re.compile("|".join([*map(re.escape, longest_first), word]))

    def find(self, text: str) -> list[tuple[int, int]]:
        """(first character, concept) of every spelling in `text`."""
        return [
            (m.start(), concept)
            for m in self.pattern.finditer(text)
            for concept in self.concepts_of.get(m[0], ())
        ]


def _in_row(row: Row, text: str, places: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(character and token that start the spelling, concept) where the row has a token before."""
    found = []
    first, last = row.offsets[:, 0], row.offsets[:, 1]
    for start, concept in places:
        covering = np.flatnonzero((first <= start) & (start < last))
        if len(covering) and covering[0] >= row.first_scored:
            token = int(covering[0])
            if not text[first[token] : start].strip():
                found.append((start, token, concept))
    return found


def _pair(
    names: Sequence[str],
    possible: Sequence[Sequence[tuple[int, ...]]],
    tokens: Sequence[Sequence[tuple[int, ...]]],
    counts: Ints,
    p: int,
    c: int,
    least: int,
) -> Pair:
    dropped: dict[str, str] = {}
    kept: list[int] = []
    taken: set[int] = set()
    order = sorted(range(len(names)), key=lambda k: (-min(counts[k, p], counts[k, c]), k))
    for k in order:
        primary, own = set(tokens[k][p]), set(tokens[k][c])
        if not possible[k][p] or not possible[k][c]:
            dropped[names[k]] = "no spelling in one of the languages"
        elif min(counts[k, p], counts[k, c]) < least:
            dropped[names[k]] = f"fewer than {least} positions"
        elif primary & own:
            dropped[names[k]] = "same first token in both languages"
        elif (primary | own) & taken:
            dropped[names[k]] = "shares a first token with another concept"
        else:
            kept.append(k)
            taken |= primary | own
    return Pair(c, np.array(sorted(kept), np.int64), dropped)


def _cap(places: Sequence[_Place], most: int, seed: int) -> tuple[list[_Place], int]:
    """At most `most` places per (language, concept), ascending by row and token."""
    groups: dict[tuple[int, int], list[_Place]] = {}
    for place in places:
        groups.setdefault(place[:2], []).append(place)
    generator = np.random.default_rng(seed)
    kept: list[_Place] = []
    for key in sorted(groups):
        group = groups[key]
        if len(group) > most:
            chosen = generator.choice(len(group), most, replace=False)
            group = [group[i] for i in sorted(chosen)]
        kept += group
    kept.sort(key=lambda place: (place[2], place[3], place[1]))
    return kept, len(places) - len(kept)


def random_positions(text: ProbeText, per_language: int, seed: int) -> tuple[Positions, Ints]:
    """About `per_language` random predicted positions of each language, and their languages."""
    generator = np.random.default_rng(seed)
    chosen: list[_Place] = []
    for language in range(len(text.languages)):
        places = [
            (language, 0, index, token)
            for index, row in enumerate(text.rows)
            if row.language == language and not row.graded_only
            for token in range(row.first_scored - 1, len(row.ids) - 1)
        ]
        drawn = generator.choice(len(places), min(per_language, len(places)), replace=False)
        chosen += [places[i] for i in sorted(drawn)]
    chosen.sort(key=lambda place: (place[2], place[3]))
    return Positions(_column(chosen, 2), _column(chosen, 3)), _column(chosen, 0)
