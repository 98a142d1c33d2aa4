"""Abstract programs rendered in five languages: one table row per construct.

A program is a tree of small nodes. An expression is a string (a literal, the same in every
language) or a tuple `(construct, part, ...)`; a statement is a `Statement`. `TABLE` says how each
construct is spelled in each of `LANGUAGES`. A rendering is a whole program: it compiles and runs
beside the one-function library of `support_file`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

LANGUAGES = ("python", "php", "java", "go", "csharp")
"""Languages of the built-in series; the order of the columns of `TABLE`."""

Expression = Any
"""`str` or `tuple[str, Expression, ...]`; a recursive type would say no more."""


class Statement(NamedTuple):
    """One line of an abstract program, or a line that opens a block."""

    op: str
    """Row of `TABLE`."""
    args: tuple[Expression, ...]
    """What fills the row's places."""
    body: tuple[Statement, ...] = ()
    """Statements of the block that the line opens."""
    result: str = ""
    """What the line prints when the program runs; it becomes the line's comment."""
    kind: str = ""
    """Kind of the graded answer that the comment holds; empty where it is not graded."""


class Program(NamedTuple):
    """One abstract program."""

    functions: tuple[Statement, ...]
    main: tuple[Statement, ...]


@dataclass(frozen=True)
class Rendering:
    """A program in one language."""

    text: str
    """The source of a whole program, ending in a line break."""
    graded: tuple[tuple[int, int, str], ...]
    """(first character, character after the last, kind) of every graded answer."""
    printed: tuple[str, ...]
    """The lines that the program prints, in order; each is the comment of its line."""


_ALIKE = ("{0} = {1}", "{0} = {1};", "int {0} = {1};", "{0} := {1}", "int {0} = {1};")

TABLE: dict[str, tuple[str, str, str, str, str]] = {
    # Statements.
    "print": (
        "print({0})",
        "echo {0}, PHP_EOL;",
        "System.out.println({0});",
        "fmt.Println({0})",
        "Console.WriteLine({0});",
    ),
    "number": _ALIKE,
    "text": (*_ALIKE[:2], "String {0} = {1};", _ALIKE[3], "string {0} = {1};"),
    "flag": (*_ALIKE[:2], "boolean {0} = {1};", _ALIKE[3], "bool {0} = {1};"),
    "nothing": (
        "{0} = None",
        "{0} = null;",
        "String {0} = null;",
        "var {0} *string = nil",
        "string {0} = null;",
    ),
    "list": (
        "{0} = [{1}]",
        "{0} = [{1}];",
        "List<Integer> {0} = new ArrayList<>(List.of({1}));",
        "{0} := []int{{{1}}}",
        "var {0} = new List<int> {{ {1} }};",
    ),
    "append": (
        "{0}.append({1})",
        "array_push({0}, {1});",
        "{0}.add({1});",
        "{0} = append({0}, {1})",
        "{0}.Add({1});",
    ),
    "sorted": (
        "{0} = sorted([{1}])",
        "{0} = [{1}];\nsort({0});",
        "int[] {0} = {{{1}}};\nArrays.sort({0});",
        "{0} := []int{{{1}}}\nsort.Ints({0})",
        "int[] {0} = {{ {1} }};\nArray.Sort({0});",
    ),
    "increase": ("{0} += {1}", "{0} += {1};", "{0} += {1};", "{0} += {1}", "{0} += {1};"),
    "return": ("return {0}", "return {0};", "return {0};", "return {0}", "return {0};"),
    "raise": (
        "raise ValueError({0})",
        "throw new InvalidArgumentException({0});",
        "throw new IllegalArgumentException({0});",
        "panic({0})",
        "throw new ArgumentException({0});",
    ),
    # Lines that open a block.
    "if": ("if {0}:", "if ({0}) {{", "if ({0}) {{", "if {0} {{", "if ({0}) {{"),
    "elif": (
        "elif {0}:",
        "}} elseif ({0}) {{",
        "}} else if ({0}) {{",
        "}} else if {0} {{",
        "}} else if ({0}) {{",
    ),
    "else": ("else:", "}} else {{", "}} else {{", "}} else {{", "}} else {{"),
    "foreach": (
        "for {0} in [{1}]:",
        "foreach ([{1}] as {0}) {{",
        "for (int {0} : List.of({1})) {{",
        "for _, {0} := range []int{{{1}}} {{",
        "foreach (int {0} in new[] {{ {1} }}) {{",
    ),
    "function": (
        "def {0}({1}):",
        "function {0}({1}) {{",
        "private static int {0}({1}) {{",
        "func {0}({1}) int {{",
        "private static int {0}({1}) {{",
    ),
    # Expressions.
    "parameter": ("{0}", "{0}", "int {0}", "{0} int", "int {0}"),
    "color": (
        "color({0})",
        "color({0})",
        "Facts.color({0})",
        "color({0})",
        "Facts.Color({0})",
    ),
    "call": ("{0}({1})",) * 5,
    "at": ("{0}[{1}]",) * 5,
    "plus": ("{0} + {1}",) * 5,
    "minus": ("{0} - {1}",) * 5,
    "times": ("{0} * {1}",) * 5,
    "greater": ("{0} > {1}",) * 5,
    "true": ("True", "true", "true", "true", "true"),
    "false": ("False", "false", "false", "false", "false"),
    "not": ("not {0}", "!{0}", "!{0}", "!{0}", "!{0}"),
    "and": ("{0} and {1}", *("{0} && {1}",) * 4),
    "is nothing": (
        "{0} is None",
        "{0} === null",
        "{0} == null",
        "{0} == nil",
        "{0} == null",
    ),
    "concat": ("{0} + {1}", "{0} . {1}", *("{0} + {1}",) * 3),
    "text of": (
        "str({0})",
        "strval({0})",
        "String.valueOf({0})",
        "strconv.Itoa({0})",
        "{0}.ToString()",
    ),
    "length": ("len({0})", "strlen({0})", "{0}.length()", "len({0})", "{0}.Length"),
    "size": ("len({0})", "count({0})", "{0}.size()", "len({0})", "{0}.Count"),
    "upper": (
        "{0}.upper()",
        "strtoupper({0})",
        "{0}.toUpperCase()",
        "strings.ToUpper({0})",
        "{0}.ToUpper()",
    ),
    "lower": (
        "{0}.lower()",
        "strtolower({0})",
        "{0}.toLowerCase()",
        "strings.ToLower({0})",
        "{0}.ToLower()",
    ),
    "strip": (
        "{0}.strip()",
        "trim({0})",
        "{0}.trim()",
        "strings.TrimSpace({0})",
        "{0}.Trim()",
    ),
    "find": (
        "{0}.find({1})",
        "strpos({0}, {1})",
        "{0}.indexOf({1})",
        "strings.Index({0}, {1})",
        "{0}.IndexOf({1})",
    ),
    "starts": (
        "{0}.startswith({1})",
        "str_starts_with({0}, {1})",
        "{0}.startsWith({1})",
        "strings.HasPrefix({0}, {1})",
        "{0}.StartsWith({1})",
    ),
    "replace": (
        "{0}.replace({1}, {2})",
        "str_replace({1}, {2}, {0})",
        "{0}.replace({1}, {2})",
        "strings.ReplaceAll({0}, {1}, {2})",
        "{0}.Replace({1}, {2})",
    ),
    "join": (
        "{0}.join([{1}])",
        "implode({0}, [{1}])",
        "String.join({0}, {1})",
        "strings.Join([]string{{{1}}}, {0})",
        "string.Join({0}, {1})",
    ),
    "split": (
        '{0}.split(" ")[{1}]',
        'explode(" ", {0})[{1}]',
        '{0}.split(" ")[{1}]',
        'strings.Split({0}, " ")[{1}]',
        "{0}.Split(' ')[{1}]",
    ),
}
"""Construct -> its spelling in each of `LANGUAGES`; `{n}` is the n-th part."""

_FORMAT: tuple[dict[str, Callable[..., str]], ...] = tuple(
    {op: row[i].format for op, row in TABLE.items()} for i in range(len(LANGUAGES))
)
_COMMENT = ("  # ", "  // ", "  // ", " // ", "  // ")
_INDENT = ("    ", "    ", "    ", "\t", "    ")
_CLASS = {"java": "class Main {", "csharp": "class Program {"}
_MAIN = {
    "java": "public static void main(String[] args) {",
    "go": "func main() {",
    "csharp": "static void Main() {",
}


def spell(expression: Expression, language: int) -> str:
    """An expression in the language of index `language`."""
    if isinstance(expression, str):
        return expression
    op = expression[0]
    if op == "name":
        return f"${expression[1]}" if language == 1 else str(expression[1])
    if op == "function name":
        return str(expression[1].capitalize() if language == 4 else expression[1])
    parts = [spell(part, language) for part in expression[1:]]
    return ", ".join(parts) if op == "series" else _FORMAT[language][op](*parts)


class _Line(NamedTuple):
    text: str
    result: str = ""
    kind: str = ""


def _lines(statements: Sequence[Statement], language: int, depth: int) -> Iterator[_Line]:
    indent = _INDENT[language] * depth
    for index, (op, args, body, result, kind) in enumerate(statements):
        spelled = _FORMAT[language][op](*[spell(a, language) for a in args])
        for line in spelled.split("\n"):
            yield _Line(indent + line, result, kind)
        if body:
            yield from _lines(body, language, depth + 1)
            follows = statements[index + 1].op if index + 1 < len(statements) else ""
            # `elif` and `else` close the block before them in their own line.
            if language and follows not in ("elif", "else"):
                yield _Line(indent + "}")


def _main(program: Program, language: int) -> Iterator[_Line]:
    """Functions, each followed by an empty line, then the main part in its wrapper."""
    in_class = LANGUAGES[language] in _CLASS
    for function in program.functions:
        yield from _lines([function], language, int(in_class))
        yield _Line("")
    opening = _MAIN.get(LANGUAGES[language])
    if opening is None:
        yield from _lines(program.main, language, 0)
        return
    indent = _INDENT[language] * in_class
    yield _Line(indent + opening)
    yield from _lines(program.main, language, in_class + 1)
    yield _Line(indent + "}")


_GO_PACKAGES = ("sort", "strconv", "strings")


def _header(source: str, language: int) -> Iterator[str]:
    """What stands before the program: package, and imports of exactly what `source` uses."""
    name = LANGUAGES[language]
    if name == "python" and "color(" in source:
        yield "from facts import color\n"
    elif name == "php":
        yield "<?php\n"
        if "color(" in source:
            yield 'require "facts.php";\n'
    elif name == "java" and ("List" in source or "Arrays" in source):
        yield "import java.util.*;\n"
    elif name == "go":
        yield "package main\n"
        used = ["fmt", *(p for p in _GO_PACKAGES if f"{p}." in source)]
        several = "".join(f'\n\t"{package}"' for package in used)
        yield f"import ({several}\n)\n" if len(used) > 1 else 'import "fmt"\n'
    elif name == "csharp":
        generic = "using System.Collections.Generic;\n" if "List<" in source else ""
        yield f"using System;\n{generic}"


def render(program: Program, language: str) -> Rendering:
    """The whole program in `language`, with its graded answers and what it prints."""
    index = LANGUAGES.index(language)
    lines = list(_main(program, index))
    if language in _CLASS:
        lines = [_Line(_CLASS[language]), *lines, _Line("}")]
    text = "".join(part + "\n" for part in _header("\n".join(ln.text for ln in lines), index))
    graded, printed = [], []
    for line, result, kind in lines:
        text += line
        if result:
            text += _COMMENT[index]
            printed.append(result)
            if kind:
                graded.append((len(text), len(text) + len(result), kind))
            text += result
        text += "\n"
    return Rendering(text, tuple(graded), tuple(printed))
