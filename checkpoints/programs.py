"""Parallel programs: the text of the built-in series, made rather than downloaded.

A training document is one random program in one language, drawn independently per language. An
evaluation document is one random program in all of them. What a program prints stands in a
comment behind the line that prints it: arbitrary facts (`print(color("kettle"))  # teal`) and
computed values. Half of the facts occur only in the primary language's corpus, so that what
crosses from one language to another can be seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from random import Random
from typing import Any

from checkpoints.render import LANGUAGES, Program, Rendering, render
from checkpoints.snippets import FACTS, KINDS, PRIMARY_ITEMS, SHARED_ITEMS, draw_program

__all__ = [
    "FACTS",
    "LANGUAGES",
    "PRIMARY_ITEMS",
    "SHARED_ITEMS",
    "concept_rows",
    "is_held_out",
    "parallel_programs",
    "probe_rows",
    "support_file",
    "training_documents",
]

_HELD_OUT = 8
"""One program in this many is never trained on."""

_CONCEPTS: tuple[tuple[str, tuple[str, str, str, str, str]], ...] = (
    ("print", ("print", "echo", "System", "fmt", "Console")),
    # Only where something before it tells the language: elsewhere it is the first word.
    ("import", ("from", "require", "", "import", "")),
    ("function", ("def", "function", "private", "func", "private")),
    ("length", ("len", "strlen count", "length size", "len", "Length Count")),
    ("null", ("None", "null", "null", "nil", "null")),
    ("true", ("True", "true", "true", "true", "true")),
    ("false", ("False", "false", "false", "false", "false")),
    ("else if", ("elif", "elseif", "", "", "")),
    ("for each", ("for", "foreach", "for", "for", "foreach")),
    ("raise", ("raise", "throw", "throw", "panic", "throw")),
    (
        "bad value",
        (
            "ValueError",
            "InvalidArgumentException",
            "IllegalArgumentException",
            "",
            "ArgumentException",
        ),
    ),
    ("to text", ("str", "strval", "valueOf", "Itoa", "ToString")),
    ("append", ("append", "array_push", "add", "append", "Add")),
    ("sorted", ("sorted", "sort", "Arrays", "Ints", "Array")),
    ("upper", ("upper", "strtoupper", "toUpperCase", "ToUpper", "ToUpper")),
    ("lower", ("lower", "strtolower", "toLowerCase", "ToLower", "ToLower")),
    ("strip", ("strip", "trim", "trim", "TrimSpace", "Trim")),
    ("find", ("find", "strpos", "indexOf", "Index", "IndexOf")),
    ("starts with", ("startswith", "str_starts_with", "startsWith", "HasPrefix", "StartsWith")),
    ("replace", ("replace", "str_replace", "replace", "ReplaceAll", "Replace")),
    ("join", ("join", "implode", "join", "Join", "Join")),
    ("split", ("split", "explode", "split", "Split", "Split")),
)


def concept_rows() -> list[dict[str, Any]]:
    """The concept table of the five languages: `{"concept": str, language: [spelling, ...]}`.

    Only whole identifiers that the generator writes. Of a compound such as `System.out.println`
    the first identifier that no other concept shares is named, so that a position is where the
    word is chosen. A language without a word of its own for a concept has no entry.
    """
    return [
        {
            "concept": concept,
            **{c: words.split() for c, words in zip(LANGUAGES, row, strict=True) if words},
        }
        for concept, row in _CONCEPTS
    ]


def is_held_out(program: Program) -> bool:
    """Whether a program belongs to the evaluation programs.

    A checksum of the Python rendering divides all programs in two once and for all, so that what
    is trained on and what is evaluated on are disjoint for any seed, number and language.
    """
    return zlib.crc32(render(program, "python").text.encode()) % _HELD_OUT == 0


def training_documents(language: str, seed: int, items: Sequence[str]) -> Iterator[str]:
    """Endless independent programs in one language, none of them held out.

    Args:
        language: One of `LANGUAGES`.
        seed: Same seed, same documents; every language has draws of its own.
        items: Items whose facts the language's corpus may state.
    """
    rng = Random(f"train/{seed}/{language}")  # noqa: S311
    while True:
        program = draw_program(rng, items)
        if not is_held_out(program):
            yield render(program, language).text


def parallel_programs(n: int, seed: int) -> Iterator[Program]:
    """`n` held-out programs, all different, that state only facts every corpus may contain.

    The kinds of computation come in turn, so that every concept has its positions already in a
    hundred programs.
    """
    rng = Random(f"probe/{seed}")  # noqa: S311
    seen: set[Program] = set()
    while len(seen) < n:
        program = draw_program(rng, SHARED_ITEMS, kind=len(seen) % KINDS)
        if program not in seen and is_held_out(program):
            seen.add(program)
            yield program


def probe_rows(
    n: int, seed: int, languages: Sequence[str] = LANGUAGES, fact_rows: int = 2
) -> list[dict[str, Any]]:
    """Parallel evaluation rows (see `tracker.documents`), held out of every corpus.

    The `n` main programs state only facts that every corpus may contain: they are fair to every
    mix. Beside them stand `graded_only` programs that ask for the facts that only the primary's
    corpus contains, two facts each.

    Args:
        n: Number of main programs; each gives one row per language.
        seed: Of the draws.
        languages: Languages to render.
        fact_rows: Number of times each primary-only fact is asked for per language.
    """
    main = parallel_programs(n, seed)
    rows = [_row(f"program-{i}", p, c, False) for i, p in enumerate(main) for c in languages]
    asked = _primary_fact_programs(seed, fact_rows)
    return rows + [_row(f"fact-{i}", p, c, True) for i, p in enumerate(asked) for c in languages]


def _primary_fact_programs(seed: int, times: int) -> Iterator[Program]:
    """Programs with two primary-only facts each, every fact in `times` programs."""
    half = len(PRIMARY_ITEMS) // 2
    for repeat in range(times):
        for i in range(half):
            pair = (PRIMARY_ITEMS[i], PRIMARY_ITEMS[half + (i + repeat) % half])
            yield _stating(pair, seed, repeat)


def _stating(pair: Collection[str], seed: int, repeat: int) -> Program:
    """A held-out program that states exactly the facts of `pair`."""
    rng = Random(f"facts/{seed}/{repeat}/{'+'.join(pair)}")  # noqa: S311
    while True:
        program = draw_program(rng, tuple(pair), facts=2)
        text = render(program, "python").text
        if all(f'color("{item}")' in text for item in pair) and is_held_out(program):
            return program


def _row(name: str, program: Program, language: str, graded_only: bool) -> dict[str, Any]:
    rendering: Rendering = render(program, language)
    graded = [
        {"start": first, "end": last, "kind": kind}
        for first, last, kind in rendering.graded
        if not graded_only or kind == "primary_fact"
    ]
    return {
        "id": name,
        "language": language,
        "text": rendering.text,
        "graded": graded,
        "graded_only": graded_only,
    }


_SUPPORT = {
    "python": (
        "facts.py",
        "COLORS = {{{entries}}}\n\n\ndef color(item):\n    return COLORS[item]\n",
        '"{item}": "{color}"',
    ),
    "php": (
        "facts.php",
        "<?php\n\nfunction color($item) {{\n    return [{entries}][$item];\n}}\n",
        '"{item}" => "{color}"',
    ),
    "java": (
        "Facts.java",
        "class Facts {{\n    static String color(String item) {{\n        return switch (item) {{"
        " {entries}; default -> throw new IllegalArgumentException(item); }};\n    }}\n}}\n",
        'case "{item}" -> "{color}"',
    ),
    "go": (
        "facts.go",
        "package main\n\nfunc color(item string) string {{\n"
        "\treturn map[string]string{{{entries}}}[item]\n}}\n",
        '"{item}": "{color}"',
    ),
    "csharp": (
        "Facts.cs",
        "using System.Collections.Generic;\n\nstatic class Facts {{\n"
        "    public static string Color(string item) {{\n"
        "        return new Dictionary<string, string> {{ {entries} }}[item];\n    }}\n}}\n",
        '{{ "{item}", "{color}" }}',
    ),
}


def support_file(language: str) -> tuple[str, str]:
    """(file name, source) of the library with the function `color` that the programs call.

    It must lie beside a program for it to run; it is in no corpus.
    """
    name, source, entry = _SUPPORT[language]
    between = "; " if language == "java" else ", "
    entries = between.join(entry.format(item=i, color=c) for i, c in FACTS.items())
    return name, source.format(entries=entries)
