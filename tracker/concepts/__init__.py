"""Concept tables and texts that ship with the tool, and the names of their languages.

A table says what means the same (methods 2): one JSON line per concept, per language a list of
spellings, each one whole identifier or word: `{"concept": "length", "python": ["len"],
"php": ["count", "strlen"]}`. Operators and phrases cannot be listed; a language without a word of
its own for a concept has no entry.

**Choice**, in `code.jsonl`: where a language has several words for a concept and Python uses one
of them too, only the others are listed (`ArrayList.sort` beside `sorted`, `Integer` beside `int`),
because a pair of languages with a first token in common drops the whole concept. Of a compound
such as `System.out.println` the first identifier stands for it: there the word is chosen. Words
that mostly mean something else (`match` in Python, `find`, `all`, `in`) are left out.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from checkpoints.errors import UserError

__all__ = [
    "ALIASES",
    "TABLES",
    "canonical",
    "load",
    "natural",
    "prompt_concepts",
    "prompt_rows",
    "starter_rows",
]

TABLES = ("code", "natural")
"""Concept tables that ship: programming languages, natural languages."""

_ALSO_CALLED = {
    "python": "py python3",
    "java": "",
    "cpp": "c++ cxx cc",
    "csharp": "c# cs c-sharp",
    "go": "golang",
    "php": "",
    "javascript": "js",
    "typescript": "ts",
    "rust": "rs",
    "kotlin": "kt",
    "ruby": "rb",
    "en": "eng",
    "de": "deu ger",
    "fr": "fra fre",
    "es": "spa",
    "zh": "zho chi cmn",
    "ja": "jpn",
    "ru": "rus",
    "it": "ita",
    "pt": "por",
    "nl": "nld dut",
    "pl": "pol",
}

ALIASES = {
    name: column for column, also in _ALSO_CALLED.items() for name in (column, *also.split())
}
"""Name of a language, in lower case -> its column in the tables.

Natural languages by ISO 639-1 and 639-3 (and 639-2/B) code, programming languages by the names and
file extensions in common use.
"""


def canonical(language: str) -> str:
    """The column of the shipped tables that a language has, whatever its case or its code.

    An unknown name is returned unchanged.
    """
    return ALIASES.get(language.lower(), language)


def natural() -> frozenset[str]:
    """The columns of the natural languages."""
    return frozenset(c for row in _lines("natural.jsonl") for c in row if c != "concept")


def load(name: str) -> list[dict[str, Any]]:
    """The rows of a shipped concept table: `{"concept": str, language: [spelling, ...]}`.

    Raises:
        UserError: No such table.
    """
    if name not in TABLES:
        raise UserError(f"no concept table is called {name!r}: choose one of {', '.join(TABLES)}")
    return [dict(row) for row in _lines(f"{name}.jsonl")]


def starter_rows() -> list[dict[str, str]]:
    """The built-in parallel sentences: `{"id", "language", "text"}`, translations share an id."""
    return [dict(row) for row in _lines("starter.jsonl")]


def prompt_rows() -> list[dict[str, str]]:
    """The built-in prompts: `{"id", "concept", "language", "prompt", "completion"}`.

    A prompt is a piece of code after which a built-in function comes next; the completion is the
    call. Prompts for the same thing in several languages share an id.
    """
    return [dict(row) for row in _lines("prompts.jsonl")]


def prompt_concepts() -> list[dict[str, Any]]:
    """The concept table of the prompts: per language the functions that their completions call."""
    table: dict[str, dict[str, Any]] = {}
    for row in prompt_rows():
        name = re.match(r"\w+", row["completion"])
        assert name is not None, row
        concept = table.setdefault(row["concept"], {"concept": row["concept"]})
        spellings = concept.setdefault(row["language"], [])
        if name[0] not in spellings:
            spellings.append(name[0])
    return list(table.values())


@cache
def _lines(file: str) -> tuple[dict[str, Any], ...]:
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    # Not splitlines: it would also cut at separators that JSON strings may hold as they are.
    return tuple(json.loads(line) for line in text.split("\n") if line.strip())
