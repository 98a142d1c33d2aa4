"""Probe text from data sets on the Hub that have one configuration or one file per language.

What a data set looks like stands in its YAML, conf/text/{flores,ntrex,humaneval-x}.yaml; only the
languages that are asked for are downloaded. Environment as everywhere else: `HF_ENDPOINT`,
`HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from checkpoints.errors import UserError, first_line
from checkpoints.hub import told
from tracker.concepts import canonical
from tracker.documents import Document, Source

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
"""How a file is read, by the end of its name."""


def from_preset(
    path: str,
    codes: Mapping[str, str],
    split: str,
    text_fields: str | Sequence[str],
    config: str | None = None,
    file: str | None = None,
    id_field: str | None = None,
    id_after: str | None = None,
    languages: Sequence[str] | None = None,
    default: Sequence[str] | None = None,
) -> Source:
    """Parallel documents of a data set with one configuration or one file per language.

    Args:
        path: The data set, ORG/NAME.
        codes: Language -> what the data set calls it.
        split: Split to read.
        text_fields: Columns that make up the text, joined without anything between them.
        config: Configuration of a language, with `{code}` in it.
        file: File of a language, with `{code}` in it: for data sets whose configurations are made
            by a script, which is never run.
        id_field: Column that translations share; None: they share the row's number, and every
            language must have equally many rows.
        id_after: An id is what stands behind the last of these; None: the whole column.
        languages: Those to load, under the names that documents then have; None: `default`.
        default: None: all of `codes`.

    Raises:
        UserError: An unknown language, a data set that cannot be had, a column that is missing.
    """
    if (config is None) == (file is None):
        raise UserError("text: a preset takes one of text.config and text.file")
    chosen = _codes(codes, languages or default or list(codes), path)
    rows = {language: _rows(path, code, split, config, file) for language, code in chosen.items()}
    if id_field is None:
        _equally_many(rows, path)
    columns = [text_fields] if isinstance(text_fields, str) else text_fields
    found = []
    for language, of_language in rows.items():
        where = f"{path} ({chosen[language]}, {split})"
        found += [
            Document(
                _identity(row, number, id_field, id_after, where),
                language,
                "".join(_value(row, column, "text_fields", where) for column in columns),
            )
            for number, row in enumerate(of_language)
        ]
    if not found:
        raise UserError(f"{path}: split {split} holds no documents")
    return Source(tuple(found))


def _codes(codes: Mapping[str, str], languages: Sequence[str], path: str) -> dict[str, str]:
    """Language, as it was asked for -> the data set's name of it."""
    found = {}
    for language in languages:
        # The mapping's own names go first: cs is Czech here, and C# elsewhere.
        code = codes.get(language) or codes.get(canonical(language))
        if code is None:
            raise UserError(
                f"languages: {path} is not known to have {language!r}, but {', '.join(codes)}; "
                f"+text.codes.{language}=CODE adds one"
            )
        found[language] = code
    return found


def _rows(
    path: str, code: str, split: str, config: str | None, file: str | None
) -> list[dict[str, Any]]:
    place = str(file or config).replace("{code}", code)
    try:
        return _configuration(path, place, split) if file is None else _file(path, place, split)
    except UserError:
        raise
    except Exception as error:  # what cannot be reached or read shows as any of several types
        _explain(path)
        why = "no such file" if isinstance(error, EntryNotFoundError) else first_line(error)
        raise UserError(f"text.path={path}: {place}, split {split}: {why}") from None


def _configuration(path: str, config: str, split: str) -> list[dict[str, Any]]:
    from datasets import load_dataset  # heavy; other texts do without it

    return list(load_dataset(path, config, split=split))


def _file(path: str, file: str, split: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    reader = BUILDERS.get(Path(file).suffix)
    if reader is None:
        raise UserError(f"text.file: {file} does not end in one of {', '.join(BUILDERS)}")
    fetched = hf_hub_download(path, file, repo_type="dataset")
    return list(load_dataset(reader, data_files={split: fetched}, split=split))


def _explain(path: str) -> None:
    """Say why a data set cannot be had, if that is it.

    Asked only after a failure: what was downloaded before is read without a request, and
    `datasets` does not tell a gated data set from one that it cannot reach.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{path}: not downloaded before, and HF_HUB_OFFLINE is set; unset it once")
    with told(f"datasets/{path}", "text.path"):
        HfApi(endpoint=constants.ENDPOINT).auth_check(path, repo_type="dataset")


def _equally_many(rows: Mapping[str, Sequence[Any]], path: str) -> None:
    if len({len(of_language) for of_language in rows.values()}) > 1:
        counts = ", ".join(f"{language} {len(found)}" for language, found in rows.items())
        raise UserError(
            f"{path}: row numbers make translations, but languages have unequal rows ({counts}); "
            "text.id_field names a column that translations share"
        )


def _identity(
    row: Mapping[str, Any], number: int, id_field: str | None, id_after: str | None, where: str
) -> str:
    if id_field is None:
        return str(number)
    whole = str(_value(row, id_field, "id_field", where, kind=object))
    return whole if id_after is None else whole.rpartition(id_after)[2]


def _value(
    row: Mapping[str, Any], column: str, setting: str, where: str, kind: type[Any] = str
) -> Any:
    if column not in row:
        raise UserError(
            f"{where}: no column {column!r}; it has {', '.join(row)} (text.{setting} names another)"
        )
    value = row[column]
    if value is None or not isinstance(value, kind):
        what = "empty" if value is None else "not text"
        raise UserError(f"{where}: column {column!r} is {what} in a row (text.{setting})")
    return value
