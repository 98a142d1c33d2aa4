"""Comments and strings of source code, where a word is not the identifier that it spells.

Enough of the lexical syntax of the languages of `concepts/code.jsonl` to tell comments, strings,
characters and regular expressions from code, and no more: a scanner that is either in code or in a
string. Code inside a string (`f"{len(x)}"`, `` `${a.length}` ``) is code. Left out, because rare:
the text around `<?php ... ?>`, JSX, Perl-style literals with other brackets than `(`, `[`, `{`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tracker.concepts import canonical, natural

_LINE = r"//[^\n]*"
_HASH = r"\#[^\n]*"
_BLOCK = r"/\*.*?(?:\*/|\Z)"
_NESTED = r"/\*(?:/\*.*?\*/|.)*?(?:\*/|\Z)"
_DOUBLE = r'"(?:\\.|[^"\\\n])*(?:"|(?=\n)|\Z)'
_SINGLE = r"'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)"
_LONG_DOUBLE = r'"(?:\\.|[^"\\])*(?:"|\Z)'
_LONG_SINGLE = r"'(?:\\.|[^'\\])*(?:'|\Z)"
_TRIPLE = r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
_TRIPLE_SINGLE = _TRIPLE.replace('"', "'")
_CHARACTER = r"'(?:\\.[^'\n]*|[^'\\\n])'"
"""Closed on its line: Rust's lifetimes and the digit separators of C++ are no characters."""
_SLASHED = r"[ \t]*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/\w*"
"""A regular expression, where what stands before it rules out a division."""

_ESCAPE, _LINE_END = r"\\.", r"|(?=\n)"


@dataclass(frozen=True)
class _Quote:
    """A string that may hold code."""

    opening: str
    closing: str
    hole: str
    """What opens the code inside; a closing brace ends it."""
    skipped: str = _ESCAPE
    """What only looks like the closing or a hole."""

    @cached_property
    def inside(self) -> re.Pattern[str]:
        return re.compile(
            rf"(?P<skipped>{self.skipped})|(?P<closing>{self.closing})|(?P<hole>{self.hole})", re.S
        )


@dataclass(frozen=True)
class _Syntax:
    literals: tuple[str, ...]
    """Comments, and strings without code in them; the first that matches at a place counts."""
    quotes: tuple[_Quote, ...] = ()

    @cached_property
    def code(self) -> re.Pattern[str]:
        quotes = [f"(?P<q{i}>{quote.opening})" for i, quote in enumerate(self.quotes)]
        literal = f"(?P<literal>{'|'.join(self.literals)})"
        return re.compile("|".join([*quotes, literal, r"(?P<left>\{)", r"(?P<right>\})"]), re.S)


_PREFIX = r"(?:(?<!\w)(?i:r|b|u|br|rb))?"
_PYTHON = tuple(
    _Quote(rf"(?<!\w)(?i:f|fr|rf){q}", q + end, r"\{", r"\\.|\{\{")
    for q, end in (('"""', ""), ("'''", ""), ('"', _LINE_END), ("'", _LINE_END))
)
_JAVASCRIPT = _Syntax(
    (_LINE, _BLOCK, _DOUBLE, _SINGLE, rf"(?:(?<=[(,=:\[!&|?{{;])|(?<=\breturn)){_SLASHED}"),
    (_Quote("`", "`", r"\$\{"),),
)
_SYNTAX: Mapping[str, _Syntax] = {
    "python": _Syntax(
        (_HASH, f"{_PREFIX}(?:{_TRIPLE}|{_TRIPLE_SINGLE}|{_DOUBLE}|{_SINGLE})"), _PYTHON
    ),
    "java": _Syntax((_LINE, _BLOCK, _TRIPLE, _DOUBLE, _CHARACTER)),
    "cpp": _Syntax(
        (_LINE, _BLOCK, r'R"(?P<tag>[^()\\\s]*)\(.*?(?:\)(?P=tag)"|\Z)', _DOUBLE, _CHARACTER)
    ),
    "csharp": _Syntax(
        (_LINE, _BLOCK, r'"""(?:.*?"""|.*)', r'@"(?:""|[^"])*"?', _DOUBLE, _CHARACTER),
        (
            _Quote(r'\$+"""', '"""', r"\{", r"\{\{"),
            _Quote(r'(?:\$@|@\$)"', '"', r"\{", r'""|\{\{'),
            _Quote(r'\$"', '"' + _LINE_END, r"\{", r"\\.|\{\{"),
        ),
    ),
    "go": _Syntax((_LINE, _BLOCK, "`[^`]*`?", _DOUBLE, _CHARACTER)),
    "php": _Syntax(
        (
            r"(?://|\#(?!\[))(?:(?!\?>)[^\n])*",
            _BLOCK,
            r"""<<<[ ]*["']?(?P<tag>\w+)["']?\n.*?(?:\n\s*(?P=tag)\b|\Z)""",
            _LONG_SINGLE,
        ),
        (_Quote('"', '"', r"\{(?=\$)"),),
    ),
    "javascript": _JAVASCRIPT,
    "typescript": _JAVASCRIPT,
    "rust": _Syntax(
        (
            _LINE,
            _NESTED,
            r'(?<!\w)(?:b|c)?r(?P<tag>\#*)".*?(?:"(?P=tag)|\Z)',
            _LONG_DOUBLE,
            _CHARACTER,
        )
    ),
    "kotlin": _Syntax(
        (_LINE, _NESTED, _CHARACTER),
        (
            _Quote('"""', '"""', r"\$\{", r"(?!)"),
            _Quote('"', '"' + _LINE_END, r"\$\{"),
        ),
    ),
    "ruby": _Syntax(
        (
            r"(?:(?<=\n)|\A)=begin\b.*?(?:\n=end\b|\Z)",
            _HASH,
            r"""<<[~-](?P<mark>["'`]?)(?P<tag>[A-Za-z_]\w*)(?P=mark).*?(?:\n\s*(?P=tag)\b|\Z)""",
            r"(?<![\w)\]])%[wWiIqQ](?:\([^)]*\)|\[[^\]]*\]|\{[^}]*\})",
            rf"(?:(?<=[(,=~!|&])|(?<=\bwhen)){_SLASHED}",
            _LONG_SINGLE,
        ),
        (_Quote('"', '"', r"\#\{"), _Quote("`", "`", r"\#\{")),
    ),
}


def programming(languages: Iterable[str]) -> dict[str, str]:
    """Name in the text -> column, of those languages whose comments and strings are known.

    None where a natural language is among them: `cs` and `ts` are file extensions, and they are
    Czech and Tsonga.
    """
    columns = {language: canonical(language) for language in languages}
    if any(column in natural() for column in columns.values()):
        return {}
    return {language: column for language, column in columns.items() if column in _SYNTAX}


def comments_and_strings(text: str, column: str) -> list[tuple[int, int]]:
    """(first character, character after the last) of every comment and string, in order.

    A string with code inside is several spans. What is not closed ends with the text, or with the
    line where the language asks for that.

    Args:
        text: Source code.
        column: Its language, as the shipped table calls it (`tracker.concepts.canonical`).
    """
    syntax = _SYNTAX[column]
    found: list[tuple[int, int]] = []
    around: list[tuple[_Quote, int]] = []  # strings whose code we are in, and braces open there
    quote: _Quote | None = None
    at = start = depth = 0
    while match := (syntax.code if quote is None else quote.inside).search(text, at):
        at, kind = match.end(), str(match.lastgroup)
        if kind == "literal":
            found.append(match.span())
        elif kind == "left":
            depth += 1
        elif kind == "right" and around and not depth:
            quote, depth = around.pop()
            start = match.start()
        elif kind == "right":
            depth -= 1
        elif kind == "closing":
            found.append((start, at))
            quote = None
        elif kind == "hole":
            assert quote is not None
            found.append((start, at))
            around.append((quote, depth))
            quote, depth = None, 0
        elif kind != "skipped":
            quote, start = syntax.quotes[int(kind[1:])], match.start()
    if quote is not None:
        found.append((start, len(text)))
    return found
