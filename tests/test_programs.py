"""The programs run and print what their comments say; what is held out stays out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from pygments.lexers import get_lexer_by_name
from pygments.token import Token

from checkpoints.programs import (
    FACTS,
    LANGUAGES,
    PRIMARY_ITEMS,
    SHARED_ITEMS,
    concept_rows,
    is_held_out,
    parallel_programs,
    probe_rows,
    support_file,
    training_documents,
)
from checkpoints.render import Program, Rendering, render
from checkpoints.snippets import draw_program

COMMENT = {"python": "  # ", "php": "  // ", "java": "  // ", "go": " // ", "csharp": "  // "}


def programs(n: int) -> list[Program]:
    rng = Random("tests")
    return [draw_program(rng, tuple(FACTS)) for _ in range(n)]


def renderings(language: str, n: int) -> list[Rendering]:
    return [render(p, language) for p in programs(n)]


def documents(language: str, seed: int = 0) -> Iterator[str]:
    return training_documents(language, seed, SHARED_ITEMS)


def comments(text: str, language: str) -> tuple[str, ...]:
    lines = [line.partition(COMMENT[language]) for line in text.split("\n")]
    return tuple(result for _, mark, result in lines if mark)


def test_python_prints_what_its_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("facts")
    exec(support_file("python")[1], library.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "facts", library)
    for rendering in renderings("python", 3000):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(rendering.text, "program", "exec"), {})  # noqa: S102
        assert out.getvalue() == "".join(f"{line}\n" for line in rendering.printed), rendering.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_comments_are_what_is_printed(language: str) -> None:
    for rendering in renderings(language, 500):
        assert comments(rendering.text, language) == rendering.printed
        for first, last, kind in rendering.graded:
            answer = rendering.text[first:last]
            assert answer in rendering.printed
            assert kind in ("shared_fact", "primary_fact", "computed")
            assert rendering.text[:first].endswith(COMMENT[language])
            assert rendering.text[last] == "\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_grammar(language: str) -> None:
    """Whole programs: no lexical error, balanced brackets, every statement ended."""
    lexer = get_lexer_by_name(language)
    for rendering in renderings(language, 300):
        open_brackets: list[str] = []
        for kind, value in lexer.get_tokens(rendering.text):
            assert kind not in Token.Error, (value, rendering.text)
            if kind in Token.Literal or kind in Token.Comment:
                continue
            for mark in re.findall(r"[()\[\]{}]", value):
                if mark in "([{":
                    open_brackets.append(mark)
                else:
                    assert open_brackets.pop() + mark in ("()", "[]", "{}"), rendering.text
        assert not open_brackets, rendering.text
        if language in ("php", "java", "csharp"):
            for line in rendering.text.partition("class")[2].split("\n"):
                code = line.partition(COMMENT[language])[0].rstrip()
                assert code == "" or code[-1] in "{};" or code.startswith(" "), rendering.text


def _tool(*names: str) -> str:
    found = [shutil.which(name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return str(found[0])


def _run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _expected(chosen: list[Rendering]) -> str:
    return "".join(f"{line}\n" for r in chosen for line in r.printed)


def test_php_runs(tmp_path: Path) -> None:
    php = _tool("php")
    name, library = support_file("php")
    (tmp_path / name).write_text(library)
    for i, rendering in enumerate(renderings("php", 40)):
        (tmp_path / f"{i}.php").write_text(rendering.text)
        printed = _run([php, "-d", "error_reporting=-1", f"{i}.php"], tmp_path)
        assert printed == _expected([rendering]), rendering.text


_JAVA_DRIVER = """
class Driver {
    public static void main(String[] args) throws Exception {
        for (int i = 0; i < Integer.parseInt(args[0]); i++) {
            var main = Class.forName("p" + i + ".Main").getDeclaredMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) new String[0]);
        }
    }
}
"""


def test_java_compiles_and_runs(tmp_path: Path) -> None:
    """One compiler run: every program in a package of its own beside a copy of the library."""
    javac, java = _tool("javac", "java"), _tool("java")
    chosen = renderings("java", 60)
    name, library = support_file("java")
    for i, rendering in enumerate(chosen):
        folder = tmp_path / f"p{i}"
        folder.mkdir()
        (folder / "Main.java").write_text(f"package p{i};\n{rendering.text}")
        (folder / name).write_text(f"package p{i};\n{library}")
    (tmp_path / "Driver.java").write_text(_JAVA_DRIVER)
    sources = [str(p) for p in tmp_path.rglob("*.java")]
    _run([javac, "-Xlint:all", "-Werror", "-d", "out", *sources], tmp_path)
    assert _run([java, "-cp", "out", "Driver", str(len(chosen))], tmp_path) == _expected(chosen)


_CSHARP_DRIVER = """
using System;
using System.Reflection;
static class Driver {
    static void Main(string[] args) {
        for (int i = 0; i < int.Parse(args[0]); i++) {
            var program = Assembly.GetExecutingAssembly().GetType("P" + i + ".Program");
            var flags = BindingFlags.NonPublic | BindingFlags.Static;
            program.GetMethod("Main", flags).Invoke(null, null);
        }
    }
}
"""


def test_csharp_compiles_and_runs(tmp_path: Path) -> None:
    """One compiler run: every program in a namespace of its own."""
    mcs, mono = _tool("mcs", "mono"), _tool("mono")
    chosen = renderings("csharp", 60)
    name, library = support_file("csharp")
    (tmp_path / name).write_text(library)
    (tmp_path / "Driver.cs").write_text(_CSHARP_DRIVER)
    for i, rendering in enumerate(chosen):
        (tmp_path / f"p{i}.cs").write_text(f"namespace P{i} {{\n{rendering.text}}}\n")
    sources = [p.name for p in tmp_path.glob("*.cs")]
    _run([mcs, "-main:Driver", "-out:all.exe", *sources], tmp_path)
    assert _run([mono, "all.exe", str(len(chosen))], tmp_path) == _expected(chosen)


def test_go_compiles_and_runs(tmp_path: Path) -> None:
    """One module, every program a command of its own; `go vet` has no complaints."""
    go = _tool("go")
    chosen = renderings("go", 30)
    name, library = support_file("go")
    (tmp_path / "go.mod").write_text("module programs\n\ngo 1.18\n")
    for i, rendering in enumerate(chosen):
        folder = tmp_path / f"p{i}"
        folder.mkdir()
        (folder / "main.go").write_text(rendering.text)
        (folder / name).write_text(library)
    (tmp_path / "bin").mkdir()
    (tmp_path / "cache").mkdir()
    env = {
        "PATH": str(Path(go).parent) + ":/usr/bin:/bin",
        "HOME": str(tmp_path),
        "GOCACHE": str(tmp_path / "cache"),
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    _run([go, "vet", "./..."], tmp_path, env)
    _run([go, "build", "-o", "bin", "./..."], tmp_path, env)
    for i, rendering in enumerate(chosen):
        assert _run([str(tmp_path / "bin" / f"p{i}")], tmp_path) == _expected([rendering])


@pytest.mark.parametrize("language", LANGUAGES)
def test_same_seed_same_documents(language: str) -> None:
    def take(seed: int) -> list[str]:
        return list(itertools.islice(documents(language, seed), 50))

    assert take(3) == take(3)
    assert take(3) != take(4)


def test_documents_are_the_same_on_every_machine() -> None:
    """Pinned: a change of the draws would silently make another series."""
    digest = hashlib.sha256()
    for language in LANGUAGES:
        digest.update("".join(itertools.islice(documents(language), 200)).encode())
    digest.update(json.dumps(probe_rows(20, 0)).encode())
    assert digest.hexdigest()[:16] == "1c2f4deaf4dc337e"


def test_only_allowed_facts() -> None:
    texts = itertools.islice(documents("php"), 3000)
    stated = {item for text in texts for item in re.findall(r'color\("(\w+)"\)', text)}
    assert stated == set(SHARED_ITEMS)


def test_facts_are_balanced() -> None:
    assert len(FACTS) == 60
    assert set(Counter(FACTS.values()).values()) == {6}
    assert set(Counter(FACTS[item] for item in SHARED_ITEMS).values()) == {3}
    assert set(Counter(FACTS[item] for item in PRIMARY_ITEMS).values()) == {3}


def test_probe_programs_are_held_out() -> None:
    held_out = {render(p, "python").text for p in parallel_programs(300, 0)}
    trained = set(itertools.islice(training_documents("python", 0, tuple(FACTS)), 20000))
    assert len(held_out) == 300
    assert not held_out & trained
    assert not any(is_held_out(p) for p in programs(0))


def test_probe_rows_are_parallel_and_fair() -> None:
    rows = probe_rows(40, seed=1)
    main = [r for r in rows if not r["graded_only"]]
    asked = [r for r in rows if r["graded_only"]]
    assert len(main) == 40 * len(LANGUAGES)
    assert set(Counter(r["id"] for r in rows).values()) == {len(LANGUAGES)}
    for row in main:
        assert not set(re.findall(r'olor\("(\w+)"\)', row["text"])) & set(PRIMARY_ITEMS)
        assert {g["kind"] for g in row["graded"]} <= {"shared_fact", "computed"}
    for language in LANGUAGES:
        graded = [
            (re.findall(r'olor\("(\w+)"\)', r["text"]), g, r["text"])
            for r in asked
            if r["language"] == language
            for g in r["graded"]
        ]
        assert len(graded) == 2 * len(PRIMARY_ITEMS)
        assert {g["kind"] for _, g, _ in graded} == {"primary_fact"}
        asked_for = Counter(item for items, _, _ in graded for item in items)
        assert asked_for == dict.fromkeys(PRIMARY_ITEMS, 4)
    answers = {
        tuple(r["text"][g["start"] : g["end"]] for g in r["graded"])
        for r in main
        if r["id"] == "program-0"
    }
    assert len(answers) == 1


def test_concepts_are_whole_identifiers_with_positions() -> None:
    """At least 12 concepts per pair that differ in spelling, each often enough in 96 programs."""
    table = concept_rows()
    texts: dict[str, Counter[str]] = {c: Counter() for c in LANGUAGES}
    for row in probe_rows(96, seed=0):
        if not row["graded_only"]:
            texts[row["language"]].update(re.findall(r"\w+", row["text"]))
    for concept in table:
        for language in set(concept) - {"concept"}:
            for spelling in concept[language]:
                assert re.fullmatch(r"[A-Za-z_]\w*", spelling)
                assert texts[language][spelling] > 0, (language, spelling)
    for language in LANGUAGES[1:]:
        usable = [
            row["concept"]
            for row in table
            if language in row
            and not set(row["python"]) & set(row[language])
            and min(sum(texts[c][s] for s in row[c]) for c in ("python", language)) >= 5
        ]
        assert len(usable) >= 15, (language, usable)


def test_languages_without_a_spelling_are_absent() -> None:
    (row,) = [r for r in concept_rows() if r["concept"] == "else if"]
    assert row == {"concept": "else if", "python": ["elif"], "php": ["elseif"]}
