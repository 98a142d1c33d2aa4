"""Counts of corpus files against counts by hand, in every format, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from checkpoints.corpus_table import Counted, count, is_current, write
from checkpoints.errors import UserError


class Words:
    """A token per word, and a separator before each text."""

    def __call__(self, texts: list[str], verbose: bool = True) -> dict[str, list[list[int]]]:
        assert not verbose
        return {"input_ids": [[0, *range(len(text.split()))] for text in texts]}


TEXTS = ["one two", "one two three", "one two", " ", "vier"]


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(TEXTS)))


def as_txt(path: Path) -> None:
    path.write_text("\n".join(TEXTS) + "\n")


def as_gzip(path: Path) -> None:
    as_jsonl(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def as_zstandard(path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    half = [json.dumps({"text": t}) + "\n" for t in TEXTS]
    frames = ("".join(half[:2]), "".join(half[2:]))  # written by two writers, one after the other
    path.write_bytes(b"".join(zstandard.compress(frame.encode()) for frame in frames))


def as_parquet(path: Path) -> None:
    pd.DataFrame({"id": range(6), "text": [*TEXTS, None]}).to_parquet(path, row_group_size=2)


FORMATS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": as_jsonl,
    "a.txt": as_txt,
    "a.jsonl.gz": as_gzip,
    "a.jsonl.zst": as_zstandard,
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_counted_alike(tmp_path: Path, name: str) -> None:
    FORMATS[name](tmp_path / name)
    (row,) = count({"xx": tmp_path / name}, Words())
    # With separators 3, 4, 3 and 2 tokens; the third text is the first again; " " is no text.
    assert (row.tokens, row.examples, row.duplicates) == (3 + 4 + 2, 4, 1)
    assert row.mean_tokens_per_example == 12 / 4
    assert row.path == str(tmp_path / name)
    assert row.bytes == (tmp_path / name).stat().st_size


def test_a_folder_is_counted_as_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    as_jsonl(tmp_path / "a.jsonl")
    as_txt(tmp_path / "sub" / "b.txt")
    (tmp_path / "readme.md").write_text("not a corpus")
    (row,) = count({"xx": tmp_path}, Words())
    assert (row.tokens, row.examples, row.duplicates) == (9, 8, 5)


def test_the_field_of_the_text_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"code": "a b", "text": 3}\n')
    (row,) = count({"xx": tmp_path / "a.jsonl"}, Words(), text_field="code")
    assert row.tokens == 3


def test_more_texts_than_are_tokenized_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"w{i % 1700} w\n" for i in range(2500)))
    (row,) = count({"xx": tmp_path / "a.txt"}, Words())
    assert (row.examples, row.duplicates, row.tokens) == (2500, 800, 1700 * 3)


def test_a_real_tokenizer_counts_its_separators(tmp_path: Path, tokenizer: Any) -> None:
    as_jsonl(tmp_path / "a.jsonl")
    (row,) = count({"xx": tmp_path / "a.jsonl"}, tokenizer)
    lengths = {text: len(tokenizer(text)["input_ids"]) for text in TEXTS if text.strip()}
    assert row.tokens == sum(lengths.values())


REFUSED: dict[str, tuple[str, bytes | None, str]] = {
    "absent": ("a.jsonl", None, "a.jsonl: no such file: give a file that ends in .jsonl"),
    "another ending": ("a.doc", b"x", "a.doc: cannot be counted: give a file in .jsonl"),
    "not JSON": ("a.jsonl", b'{"text": "a"}\n{"text\n', "a.jsonl, line 2: not JSON"),
    "no text": ("a.jsonl", b'\n{"txt": "a"}\n', "a.jsonl, line 2: no 'text': set the field"),
    "a list": ("a.jsonl", b'["a"]\n', "a.jsonl, line 1: no 'text'"),
    "a number": ("a.jsonl", b'{"text": 3}\n', "a.jsonl, line 1: 'text' is 3: it must be a text"),
    "empty": ("a.txt", b" \n\n", "a.txt (xx): no text in it"),
    "latin-1": ("a.txt", "é\n".encode("latin-1"), "a.txt: not UTF-8 text"),
    "half a character": ("a.jsonl", b'{"text": "\\ud800"}', "half a character in '\\ud800'"),
    "cut off": ("a.txt.gz", gzip.compress(b"words " * 99)[:-9], "a.txt.gz: cannot be read"),
    "not gzip": ("a.txt.gz", b"words", "a.txt.gz: cannot be read"),
    "not parquet": ("a.parquet", b"words", "a.parquet: not a parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_counted(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        count({"xx": tmp_path / name}, Words())


def test_parquet_without_the_column_and_folders_without_files(tmp_path: Path) -> None:
    pd.DataFrame({"code": ["a"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no 'text': set the field"):
        count({"xx": tmp_path / "a.parquet"}, Words())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file to count in this folder"):
        count({"xx": tmp_path / "empty"}, Words())


def test_zstandard_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)  # as where it is not installed
    (tmp_path / "a.jsonl.zst").write_bytes(b"x")
    with pytest.raises(UserError, match="needs the package zstandard: install it, or unpack"):
        count({"xx": tmp_path / "a.jsonl.zst"}, Words())


def test_a_table_is_current_while_its_files_are_the_same(tmp_path: Path) -> None:
    files = {c: tmp_path / f"{c}.jsonl" for c in ("xx", "yy")}
    for file in files.values():
        as_jsonl(file)
    table = tmp_path / "out" / "corpus.jsonl"
    assert not is_current(table, files, tokenizer="t")
    rows = count(files, Words())
    write(table, rows, tokenizer="t")
    stored = [json.loads(line) for line in table.read_text().splitlines()]
    assert all(row.pop("tokenizer") == "t" for row in stored)
    assert [Counted(**row) for row in stored] == list(rows)
    assert is_current(table, files, tokenizer="t")
    assert not is_current(table, files, tokenizer="another")
    assert not is_current(table, {"xx": files["xx"]}, tokenizer="t")
    date = files["yy"].stat().st_mtime_ns
    os.utime(files["yy"], ns=(date, date + 1))
    assert not is_current(table, files, tokenizer="t")
    os.utime(files["yy"], ns=(date, date))
    assert is_current(table, files, tokenizer="t")
    files["yy"].unlink()
    assert not is_current(table, files, tokenizer="t")
    table.write_text("damaged")
    assert not is_current(table, files, tokenizer="t")
