"""Reading documents and concept tables, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints.errors import UserError
from tracker.documents import (
    Document,
    Span,
    choose_languages,
    from_dataset,
    from_jsonl,
    from_programs,
    read_concepts,
    shipped_concepts,
    text_digest,
)


def lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(path)


def test_jsonl_with_ids_and_graded_spans(tmp_path: Path) -> None:
    row = {"language": "en", "text": "two is 2", "id": 7}
    graded = {**row, "graded": [{"start": 7, "end": 8, "kind": "sum"}], "graded_only": True}
    path = lines(tmp_path / "t.jsonl", row, "", graded)
    first, second = from_jsonl(path).documents
    assert first == Document("7", "en", "two is 2")
    assert second == Document("7", "en", "two is 2", (Span(7, 8, "sum"),), True)


def test_line_separators_inside_a_text_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    content = '{"language": "en", "text": "a\u2028b\x85c"}\r\n{"language": "en", "text": "d"}\r\n'
    (tmp_path / "t.jsonl").write_bytes(content.encode("utf-8-sig"))
    found = from_jsonl(str(tmp_path / "t.jsonl")).documents
    assert [d.text for d in found] == ["a\u2028b\x85c", "d"]


def test_field_names_are_settings_and_a_missing_id_is_made_of_the_text(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl", {"lang": "en", "content": "a"}, {"lang": "en", "content": "b"}
    )
    found = from_jsonl(path, language_field="lang", text_field="content").documents
    assert [d.text for d in found] == ["a", "b"]
    assert found[0].id != found[1].id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, r"line 1: field 'language' is missing \(the line has text"),
        ({"language": "en"}, r"field 'text' is missing"),
        ({"language": "en", "text": 3}, r"field 'text' is not text"),
        ("{", "line 1: not JSON"),
        ('{"language": "en", "text": "\\ud800"}', "half of a surrogate pair"),
        ("[1]", "expected an object"),
        (
            {"language": "en", "text": "a", "graded": [{"start": 0}]},
            "spans with start, end and kind",
        ),
        (
            {"language": "en", "text": "a", "graded": [{"start": 0, "end": 2, "kind": "k"}]},
            "graded span 0-2 is outside the text",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_jsonl(lines(tmp_path / "t.jsonl", row))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text\.path: name the JSON-lines file"):
        from_jsonl(None)
    with pytest.raises(UserError, match="no such file"):
        from_jsonl(str(tmp_path / "absent"))
    (tmp_path / "latin").write_bytes('{"language": "fr", "text": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"not utf-8 .*text\.encoding"):
        from_jsonl(str(tmp_path / "latin"))
    assert from_jsonl(str(tmp_path / "latin"), encoding="latin-1").documents[0].text == "é"
    with pytest.raises(UserError, match="not nonsense"):
        from_jsonl(str(tmp_path / "latin"), encoding="nonsense")
    with pytest.raises(UserError, match="holds no documents"):
        from_jsonl(lines(tmp_path / "empty", ""))


def test_languages_are_checked() -> None:
    documents = [Document("1", "en", "a"), Document("1", "de", "b"), Document("1", "fr", " ")]
    assert choose_languages(documents, ["de", "en"]) == ("de", "en")
    with pytest.raises(UserError, match=r"the text has no 'xx'; it has de, en, fr"):
        choose_languages(documents, ["en", "xx"])
    with pytest.raises(UserError, match=r"every document of 'fr' is empty"):
        choose_languages(documents, None)
    with pytest.raises(UserError, match=r"one language only \(en\)"):
        choose_languages(documents, ["en"])


def test_datasets_long_and_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    long = lines(
        tmp_path / "long.jsonl",
        {"language": "en", "text": "a", "id": "1"},
        {"language": "de", "text": "b", "id": "1"},
    )
    found = from_dataset("json", data_files=long).documents
    assert [(d.id, d.language, d.text) for d in found] == [("1", "en", "a"), ("1", "de", "b")]
    assert len(from_dataset("json", data_files=long, limit=1).documents) == 1
    wide = lines(tmp_path / "wide.jsonl", {"sentence_en": "a", "sentence_de": "b"})
    columns = {"en": "sentence_en", "de": "sentence_de"}
    found = from_dataset("json", data_files=wide, text_fields=columns).documents
    assert [(d.id, d.language, d.text) for d in found] == [("0", "en", "a"), ("0", "de", "b")]
    with pytest.raises(UserError, match="no column 'nope'; it has sentence_en, sentence_de"):
        from_dataset("json", data_files=wide, text_fields={"en": "nope"})
    with pytest.raises(UserError, match=r"text\.path=json: "):
        from_dataset("json", data_files=str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match=r"text\.path: name a data set"):
        from_dataset(None)


def test_concept_tables(tmp_path: Path) -> None:
    row = {"concept": "length", "python": ["len"], "php": ["strlen", "count"]}
    assert read_concepts(lines(tmp_path / "c.jsonl", row)) == (row,)
    with pytest.raises(UserError, match="no such file"):
        read_concepts(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="python takes a list of spellings"):
        read_concepts(lines(tmp_path / "c.jsonl", {"concept": "x", "python": "len"}))
    with pytest.raises(UserError, match="field 'concept' is missing"):
        read_concepts(lines(tmp_path / "c.jsonl", {"python": ["len"]}))
    with pytest.raises(UserError, match="holds no concepts"):
        read_concepts(lines(tmp_path / "c.jsonl", ""))


def test_shipped_tables_answer_to_other_names_of_a_language() -> None:
    rows = {row["concept"]: row for row in shipped_concepts(["c++", "python"])}
    assert any("c++" in row and "python" in row for row in rows.values())
    assert shipped_concepts(["klingon", "python"]) == ()


def test_built_in_programs_are_parallel_and_graded() -> None:
    source = from_programs(4, 1)
    main = [d for d in source.documents if not d.graded_only]
    assert {d.language for d in main} == {"python", "php", "java", "go", "csharp"}
    assert len(main) == 20
    assert len(source.concepts) >= 12
    assert any(d.graded for d in source.documents)
    assert text_digest(source.documents) == text_digest(from_programs(4, 1).documents)
    assert text_digest(source.documents) != text_digest(from_programs(4, 2).documents)
