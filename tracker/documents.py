"""Documents of probe text: read, checked, chosen by language."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoints import programs
from checkpoints.errors import UserError
from tracker import concepts


@dataclass(frozen=True)
class Span:
    """Characters of a document that hold a graded answer."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Document:
    """One document; documents of several languages that share an id are translations."""

    id: str
    language: str
    text: str
    graded: tuple[Span, ...] = ()
    graded_only: bool = False
    """Read for its graded answers alone: it may hold what not every language's corpus has."""


@dataclass(frozen=True)
class Source:
    """Documents and the concept table that goes with them."""

    documents: tuple[Document, ...]
    concepts: tuple[Mapping[str, Any], ...] = ()
    """Empty where the text brings none of its own: the shipped tables serve then."""


def from_programs(documents: int = 160, seed: int = 1000) -> Source:
    """The built-in parallel programs and their concept table."""
    rows = programs.probe_rows(documents, seed)
    return Source(
        tuple(_document(row, "built-in programs", _NAMES) for row in rows),
        tuple(programs.concept_rows()),
    )


def from_starter() -> Source:
    """The built-in parallel sentences (en, de, fr, es, zh, ja, ru) and their concept table."""
    rows = concepts.starter_rows()
    return Source(
        tuple(_document(row, "built-in sentences", _NAMES) for row in rows),
        tuple(concepts.load("natural")),
    )


def from_prompts() -> Source:
    """The built-in prompts, each with its completion, and their concept table.

    The procedure of the Babel Tower paper (methods 2): in each of 11 programming languages, short
    pieces of code after which the name of a built-in function comes next. The counterpart position
    is the end of the prompt.
    """
    documents = tuple(
        Document(row["id"], row["language"], row["prompt"] + row["completion"])
        for row in concepts.prompt_rows()
    )
    return Source(documents, tuple(concepts.prompt_concepts()))


_NAMES = {"language": "language", "text": "text", "id": "id"}


def from_jsonl(
    path: str | None,
    language_field: str = "language",
    text_field: str = "text",
    id_field: str = "id",
    encoding: str = "utf-8",
) -> Source:
    """JSON lines with a language, a text and, optionally, an id (see `Document`).

    Raises:
        UserError: No such file, not JSON, a field missing, another encoding.
    """
    if path is None:
        raise UserError("text.path: name the JSON-lines file (fields language, text, optional id)")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"text.path={path}: no such file")
    names = {"language": language_field, "text": text_field, "id": id_field}
    found = [_document(row, where, names) for row, where in _json_lines(file, encoding)]
    if not found:
        raise UserError(f"text.path={path}: the file holds no documents")
    return Source(tuple(found))


def from_dataset(
    path: str | None,
    name: str | None = None,
    split: str = "train",
    data_files: Any = None,
    language_field: str | None = "language",
    text_field: str = "text",
    id_field: str | None = "id",
    text_fields: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> Source:
    """Anything that `datasets.load_dataset` reads: local parquet, JSON or CSV, or a Hub id.

    Args:
        path: Hub id, or `parquet`, `json`, `csv` with `data_files`, or a folder.
        name: Configuration of the data set.
        split: Split to read.
        data_files: Passed on to `load_dataset`.
        language_field: Column of the language. Unused where `text_fields` is given.
        text_field: Column of the text.
        id_field: Column that parallel documents share; None or absent: row number.
        text_fields: Language -> column, for one row per meaning with a column per language.
        limit: Read at most so many rows.
    """
    if path is None:
        raise UserError(
            "text.path: name a data set (a Hub id, or json/csv/parquet with data_files)"
        )
    rows = _dataset_rows(path, name, split, data_files, limit)
    where = f"data set {path}"
    if text_fields:
        wide = [_spread_row(row, i, text_fields, id_field, where) for i, row in enumerate(rows)]
        found = [document for group in wide for document in group]
    else:
        names = {"language": language_field or "", "text": text_field, "id": id_field or ""}
        found = [_document(row, f"{where}, row {i}", names) for i, row in enumerate(rows)]
    if not found:
        raise UserError(f"{where}: split {split} holds no documents")
    return Source(tuple(found))


def _dataset_rows(
    path: str, name: str | None, split: str, data_files: Any, limit: int | None
) -> list[dict[str, Any]]:
    from datasets import load_dataset  # heavy; other texts do without it

    try:
        data = load_dataset(path, name, split=split, data_files=data_files)
    except Exception as error:  # a malformed file shows as any of several types
        first = str(error).strip().splitlines()
        raise UserError(f"text.path={path}: {first[0] if first else error!r}") from None
    return list(data if limit is None else data.select(range(min(limit, len(data)))))


def _spread_row(
    row: Mapping[str, Any],
    index: int,
    text_fields: Mapping[str, str],
    id_field: str | None,
    where: str,
) -> list[Document]:
    lacking = [f for f in text_fields.values() if f not in row]
    if lacking:
        raise UserError(f"{where}: no column {lacking[0]!r}; it has {', '.join(row)}")
    key = row.get(id_field or "")
    return [
        Document(str(index if key is None else key), language, str(row[f]))
        for language, f in text_fields.items()
        if row[f] is not None
    ]


def _json_lines(file: Path, encoding: str) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        # Not splitlines(): JSON strings may hold other line separators than the newline.
        text = file.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
        lines = text.split("\n")
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(
            f"{file}: not {encoding} ({error}); set text.encoding or convert the file"
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parse(line, f"{file}, line {number}"), f"{file}, line {number}"


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with language and text")
    return row


def _document(row: Mapping[str, Any], where: str, names: Mapping[str, str]) -> Document:
    for role in ("language", "text"):
        value = row.get(names[role])
        if not isinstance(value, str):
            have = ", ".join(map(str, row)) or "nothing"
            raise UserError(
                f"{where}: field {names[role]!r} is {'missing' if value is None else 'not text'} "
                f"(the line has {have}; text.{role}_field names another)"
            )
    try:
        row[names["text"]].encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair; clean it") from None
    key = row.get(names["id"])
    identity = hashlib.sha256(row[names["text"]].encode()).hexdigest()[:12] if key is None else key
    return Document(
        id=str(identity),
        language=row[names["language"]],
        text=row[names["text"]],
        graded=tuple(_span(s, row[names["text"]], where) for s in row.get("graded") or ()),
        graded_only=bool(row.get("graded_only", False)),
    )


def _span(span: Mapping[str, Any], text: str, where: str) -> Span:
    try:
        found = Span(int(span["start"]), int(span["end"]), str(span["kind"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: `graded` takes spans with start, end and kind") from None
    if not 0 <= found.start < found.end <= len(text):
        raise UserError(f"{where}: the graded span {found.start}-{found.end} is outside the text")
    return found


def read_concepts(path: str) -> tuple[Mapping[str, Any], ...]:
    """A concept table from JSON lines: `{"concept": "length", "python": ["len"], ...}`.

    Raises:
        UserError: No such file, not JSON, spellings that are not lists of text.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"text.pairs={path}: no such file")
    rows = []
    for row, where in _json_lines(file, "utf-8"):
        for language, spellings in row.items():
            if language == "concept":
                continue
            if not isinstance(spellings, list) or not all(isinstance(s, str) for s in spellings):
                raise UserError(f"{where}: {language} takes a list of spellings")
        if not isinstance(row.get("concept"), str):
            raise UserError(f"{where}: field 'concept' is missing")
        rows.append(row)
    if not rows:
        raise UserError(f"text.pairs={path}: the file holds no concepts")
    return tuple(rows)


def shipped_concepts(languages: Iterable[str]) -> tuple[Mapping[str, Any], ...]:
    """The rows of the shipped tables for the given languages, under the names the text uses.

    A text whose languages are called `eng` or `c++` finds the columns `en` and `cpp`.
    """
    names = {language: concepts.canonical(language) for language in set(languages)}
    rows = []
    for table in ("code", "natural"):
        for row in concepts.load(table):
            known = {n: row[c] for n, c in sorted(names.items()) if c in row}
            if len(known) > 1:
                rows.append({"concept": row["concept"], **known})
    return tuple(rows)


def choose_languages(
    documents: Sequence[Document], languages: Sequence[str] | None
) -> tuple[str, ...]:
    """The languages to measure, each known to have text.

    Raises:
        UserError: An unknown language, one without text, or fewer than two.
    """
    present = dict.fromkeys(d.language for d in documents)
    chosen = tuple(dict.fromkeys(languages if languages is not None else present))
    for language in chosen:
        if language not in present:
            raise UserError(
                f"languages: the text has no {language!r}; it has {', '.join(sorted(present))}"
            )
        if not any(
            d.text.strip() for d in documents if d.language == language and not d.graded_only
        ):
            raise UserError(f"languages: every document of {language!r} is empty")
    if len(chosen) < 2:
        only = chosen[0] if chosen else "none"
        raise UserError(
            f"one language only ({only}): a shared system needs at least two; "
            "add text of another language"
        )
    return chosen


def text_digest(documents: Iterable[Document]) -> str:
    """SHA-256 over the documents in their order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(asdict(document), sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()
