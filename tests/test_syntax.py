"""Comments and strings, against pygments' lexers on code of every language."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name
from pygments.token import Token

from tracker.concepts import load
from tracker.syntax import comments_and_strings, programming

CODE = {
    "python": r"""
'Sort the words; print them.'
import re  # len of all
def label(names, width=len("x'")):
    '''Return len("of") 'the' names.'''
    tail = f"{len(names)} of {{len}} {names[0]!r:>{width}} in {'a' + str(width)}"
    path = r"\len(\"" + b'print' + rf'{str(width)}\d{{2}}'
    note = f'''for {sorted(names)} not {
        max(width, 3)
    } append'''
    return [n.upper() for n in names if n != "it's \"len\" # no comment"] + [tail, path, note]
""",
    "java": r"""
/* size * / of */ package demo;
/** {@link String} length. */
class Main { // class sort
    static final char QUOTE = '"', SLASH = '\\', TICK = '\'';
    String text() { return "size() // \" length" + names.size() + QUOTE + '\u0041'; }
}
""",
    "cpp": r"""
#include <string>  // size
#define JOIN(a) a  /* push_back */
auto big = 1'000'000; char quote = '\'', other = '"';
std::string raw = R"x(size " )" // length)x" + names.size(), wide = L"length \
and size" + to_string(big / 2 / 3);
""",
    "csharp": r"""
#region it's
/// <summary>Length of x</summary>
var path = @"C:\Length\" + "\"Count" + name.Length + 'c' + '\'' + @"a ""Sort"" b".Trim();
#endregion
""",
    "go": r"""
package main // import
import "fmt" /* len */
type T struct { Name string `json:"len"` }
func main() {
    r := '\''; q := '"'
    fmt.Println("len(\"x\")", len(names), `raw \`, append(a, r, q))
}
""",
    "php": r"""
#[Attribute]
class A { # count
    // strlen */
    private $it = 'it\'s "count"';
    function b($x) { return "count {$this->strlen($x)} of $x {count} " . count($x); }
    public $doc = <<<EOT
strlen "of" it's
EOT;
    function c() { return strlen($this->doc); }
}
""",
    "javascript": r"""
/* length */ const half = a.length / 2 / b.length; // push
const found = text.replace(/["'`/]length/g, "'length'").match(/[/"]push/) || x / 2;
const label = `push ${names.map((n) => `${n.length} of`).join("length")} length`;
function named() { return /'sort/.test(label) ? label.length : '\'sort'; }
""",
    "typescript": r"""
interface Named { readonly name: string; } // length of
const label = (names: Named[]): string => `${names.length} sort ${names.map((n) => n.name)}`;
const odd: RegExp = /it's [/"] length/i, size: number = label.length / 2; /* sort */
""",
    "rust": r"""
/* outer /* len */ inner push */ use std::fs; /// len of
fn first<'a>(names: &'a [String]) -> &'a str { let c = 'a'; let q = '\''; let d = '"'; &names[0] }
let raw = r#"len "of" push"# .len(); let text = "push \" // len
over lines".len(); let bytes = b"len"; println!("len {}", names.len());
""",
    "kotlin": r"""
/* size * add */ package demo // size
val text = "size ${names.size} of ${if (ok) names.first() else size} \"add\""
val raw = '''add ${names.size} of''' + 'c' + '\'' + '"' + names.add("add")
""".replace("'" * 3, '"' * 3),
    "ruby": r"""
=begin
length of
=end
names = %w[length puts] # size
text = "length #{names.length} #{names.map { |n| "puts #{n.size}" }.join('length')} size"
doc = <<~TEXT
  puts it's
TEXT
puts text.gsub(/["'#]size/, 'it\'s length').split(/,/).length if text =~ /it's/
""",
}

BEYOND_THE_LEXERS = {
    "python": r"""yes(f'{yes}no' + f'''{yes # no
    }no''' + f"{yes['no']:{yes}} {{no}}")  # no""",
    "java": "yes(yes, '''no \"no\" \\''' no''', yes); //no".replace("'''", '"' * 3),
    "csharp": r"""yes($"{yes.yes} no {{no}} {(yes ? "no" : yes($"no{yes}"))}", $'''{yes} "no"''',
        $@"no ""no"" {yes} \", @$"{yes}no", '''no "no" ''', yes); // no""".replace("'''", '"' * 3),
    "php": "yes(<<<'NO'\nno 'no\n  NO, yes); # no ?> yes",
    "javascript": r"""yes(`no${yes({ yes: `no}${yes}no` })}no}`, yes / yes, yes);""",
    "rust": "/* no /* no */ no */ yes::<'_, yes>(yes)",
    "kotlin": r"""/* no /* no */ no */ yes("no ${if (yes) "no" else yes("no")} no", yes)""",
    "ruby": "yes(%i{no no}, `no #{yes}`, :yes, yes % yes)",
}
"""What the lexers do not take apart: every `no` is in a comment or string, every `yes` is not."""


def lexed(language: str, text: str) -> list[tuple[str, bool]]:
    """(word, whether a lexer takes it for a part of a comment or string)."""
    options = {"startinline": True} if language == "php" else {}
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False, **options)
    inside = [False] * len(text)
    for start, kind, piece in lexer.get_tokens_unprocessed(text):
        # What a preprocessor reads and symbols such as :size are words of the program.
        comment = kind in Token.Comment and "Preproc" not in str(kind)
        string = kind in Token.String and kind != Token.String.Symbol
        inside[start : start + len(piece)] = [comment or string] * len(piece)
    return [(m[0], inside[m.start()]) for m in re.finditer(r"\b[A-Za-z_]\w+", text)]


def words(language: str, text: str) -> list[tuple[str, bool]]:
    """The same by our own scanner."""
    inside = [False] * len(text)
    for start, end in comments_and_strings(text, language):
        inside[start:end] = [True] * (end - start)
    return [(m[0], inside[m.start()]) for m in re.finditer(r"\b[A-Za-z_]\w+", text)]


@pytest.mark.parametrize("language", sorted(CODE))
def test_words_in_comments_and_strings_are_those_of_a_lexer(language: str) -> None:
    found = words(language, CODE[language])
    assert found == lexed(language, CODE[language])
    assert 4 < sum(hidden for _, hidden in found) < len(found)


@pytest.mark.parametrize("language", sorted(BEYOND_THE_LEXERS))
def test_code_in_strings_and_nested_comments(language: str) -> None:
    marked = [w for w in words(language, BEYOND_THE_LEXERS[language]) if w[0] in ("yes", "no")]
    assert [hidden for _, hidden in marked] == [word == "no" for word, _ in marked]
    assert len(marked) > 3


def test_every_language_of_the_code_table_is_known_by_all_its_names() -> None:
    columns = {column for row in load("code") for column in row} - {"concept"}
    assert set(programming(columns)) == columns == set(CODE)
    assert programming(["py", "C++", "lua"]) == {"py": "python", "C++": "cpp"}


def test_in_company_of_natural_languages_nothing_is_code() -> None:
    """`cs` is C# by its file extension, and Czech."""
    assert programming(["cs", "java"]) == {"cs": "csharp", "java": "java"}
    assert programming(["cs", "de"]) == programming(["en", "xx"]) == {}


@given(
    st.sampled_from(sorted(CODE)),
    st.lists(st.sampled_from([*"\"'`#/*\\{}$@\n rf=<x", "//", '"""', "${", "<<~A"]), max_size=40),
)
def test_spans_are_in_order_whatever_the_text(language: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    flat = [place for span in comments_and_strings(text, language) for place in span]
    assert flat == sorted(flat)
    assert all(0 <= place <= len(text) for place in flat)


def test_depth_and_length_are_no_limit() -> None:
    assert len(comments_and_strings('f"{' * 5000, "python")) == 5000
    assert comments_and_strings("/* " * 1000, "rust") == [(0, 3000)]
    assert comments_and_strings('"' + "\\a" * 50000, "java") == [(0, 100001)]
