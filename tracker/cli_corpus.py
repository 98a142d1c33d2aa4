"""The corpus table of a command: given whole, or counted from the files that it names.

Part of the command line, so it composes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.mixture.rows import Row, read_rows
from checkpoints.corpus_table import count, is_current, write
from checkpoints.errors import UserError
from tracker import store
from tracker.console import Console

TABLE = "corpus.jsonl"
_COUNTS = ("tokens", "mean_tokens_per_example")


def corpus_table(
    given: Any,
    text_field: str,
    folder: Path,
    tokenizer: Callable[[], tuple[Any, str]],
    console: Console,
) -> Path:
    """The table that `mixture.corpus` gives, or the one counted from the files it names.

    Counted are a mapping language -> file, and a table without any numbers. The counts go to
    `corpus.jsonl` in the run's folder and stay while files (by size and date), tokenizer and text
    field are the same.

    Args:
        given: A path, or a mapping.
        text_field: Where the files' rows keep their text.
        folder: The run's folder.
        tokenizer: Loads the series' tokenizer and its digest; called only to count.
        console: Told what is counted.

    Raises:
        UserError: Something else is given, a file cannot be counted, or the series is not the one
            that was tracked here.
    """
    files = _named(given)
    if files is None:
        return Path(given).resolve()
    table = folder / TABLE
    known = _tokenizer_of(folder)
    if known is not None and is_current(table, files, tokenizer=known, text_field=text_field):
        return table
    made, digest = tokenizer()
    if known not in (None, digest):
        raise UserError(
            "mixture.corpus: its files would be counted with another tokenizer than the run's: "
            "name the series that was tracked"
        )
    if not is_current(table, files, tokenizer=digest, text_field=text_field):
        console.say(f"counting the tokens of {', '.join(map(str, files.values()))}")
        rows = count(files, made, text_field)
        write(table, rows, tokenizer=digest, text_field=text_field)
    return table


def _named(given: Any) -> dict[str, Path] | None:
    """Language -> file to count; None where a table comes with its numbers."""
    if isinstance(given, Mapping):
        return {str(c): _local(p, Path(), f"mixture.corpus, {c}") for c, p in given.items()}
    if not isinstance(given, str):
        raise UserError(f"mixture.corpus={given}: give a table or {{language: file, ...}}")
    rows = read_rows(Path(given), "corpus table")
    if any(row.get(name) not in (None, "") for _, row in rows for name in _COUNTS):
        return None
    files: dict[str, Path] = {}
    for where, row in rows:
        language = _language((where, row))
        if language in files:
            raise UserError(f"{where}: language {language!r} is given twice: merge its rows")
        files[language] = _local(row.get("path"), Path(given).parent, where)
    return files


def _language(row: Row) -> str:
    where, cells = row
    if not isinstance(cells.get("language"), str) or not cells["language"]:
        raise UserError(f"{where}: no language: every row needs language and path")
    return str(cells["language"])


def _local(path: Any, folder: Path, where: str) -> Path:
    if not isinstance(path, str) or not path:
        raise UserError(f"{where}: {path!r} is no path: give the file of the language")
    if "://" in path:
        raise UserError(f"{where}: {path} is not on this machine: give its tokens, or a copy")
    return (folder / path).absolute()


def _tokenizer_of(folder: Path) -> str | None:
    """Digest of the tokenizer that the run's records were read with; None without records."""
    for record in sorted((folder / store.RECORDS).glob("step-*.h5"))[:1]:
        return str(store.read_attributes(record)["tokenizer_sha256"])
    return None
