"""The loop over checkpoints: resume, skips, digests, the primary language."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import concept_rows, tiny_model
from conftest import documents as parallel_rows

from checkpoints.errors import UserError
from checkpoints.files import claimed
from checkpoints.local import local_series
from tracker import store
from tracker.documents import Document
from tracker.loading import ModelSettings
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.working_language import WorkingLanguage
from tracker.sweep import (
    Measurement,
    make_context,
    series_tokenizer,
    track,
    usable_probes,
)
from tracker.text import TextSettings

LANGUAGES = ("xx", "yy", "zz")


def measurement(folder: Path, **changes: Any) -> Measurement:
    series = local_series(folder)
    tokenizer, digest = series_tokenizer(series, None)
    rows = parallel_rows(per_language=8)
    found = Measurement(
        series=series,
        tokenizer=tokenizer,
        tokenizer_digest=digest,
        documents=[Document(r["id"], r["language"], r["text"]) for r in rows],
        concept_table=concept_rows(),
        languages=LANGUAGES,
        primary="xx",
        text_settings=TextSettings(300),
        probes={"performance": Performance(), "lape": Lape(), "wl": WorkingLanguage()},
        model_settings=ModelSettings(),
        seed=0,
        config="seed: 0\n",
    )
    return replace(found, **changes)


@pytest.fixture
def series(series_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(series_folder, tmp_path / "series"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.h5"))}


def test_every_checkpoint_gets_a_record_once(series: Path, tmp_path: Path) -> None:
    m = measurement(series)
    first = track(m, tmp_path / "records")
    assert first.measured == (0, 1, 2, 4, 8)
    before = bytes_of(tmp_path / "records")
    second = track(m, tmp_path / "records")
    assert (second.measured, second.kept) == ((), (0, 1, 2, 4, 8))
    assert bytes_of(tmp_path / "records") == before
    record = store.read_record(tmp_path / "records" / store.record_name(8))
    assert record.tokens == 8000
    assert record["performance/tokens_seen"].tolist() == [5600, 1600, 800]
    for name in (
        "schema_version", "tool_version", "series", "step", "tokens", "revision",
        "weights_sha256", "config_sha256", "text_sha256", "tokenizer_sha256", "dtype",
        "device", "seed",
    ):  # fmt: skip
        assert name in record.attributes


def test_shards_and_one_process_write_the_same_records(series: Path, tmp_path: Path) -> None:
    m = measurement(series)
    track(m, tmp_path / "whole")
    for shard in (1, 0):
        track(m, tmp_path / "parts", shard=shard, shards=2)
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_lost_record_is_measured_again_to_the_same_bytes(series: Path, tmp_path: Path) -> None:
    m = measurement(series)
    track(m, tmp_path / "records")
    before = bytes_of(tmp_path / "records")
    (tmp_path / "records" / store.record_name(2)).unlink()
    assert track(m, tmp_path / "records").measured == (2,)
    assert bytes_of(tmp_path / "records") == before


def test_new_weights_in_an_old_folder_are_measured_again(series: Path, tmp_path: Path) -> None:
    m = measurement(series)
    track(m, tmp_path / "records")
    weights = series / "step-2" / "model.safetensors"
    shutil.copyfile(series / "step-8" / "model.safetensors", weights)
    assert track(m, tmp_path / "records").measured == (2,)
    weights.touch()  # another date alone is no other checkpoint
    assert track(m, tmp_path / "records").measured == ()


def test_tokens_told_later_are_added_to_the_record_without_measuring(
    series: Path, tmp_path: Path
) -> None:
    sidecars = {p: p.read_text() for p in series.glob("*/tracker.json")}
    for sidecar in sidecars:
        sidecar.unlink()
    track(measurement(series), tmp_path / "records")
    name = tmp_path / "records" / store.record_name(8)
    before = store.read_record(name)
    assert before.tokens is None
    assert before["performance/tokens_seen"].tolist() == [-1, -1, -1]
    for sidecar, content in sidecars.items():
        sidecar.write_text(content)
    assert track(measurement(series), tmp_path / "records").measured == ()
    after = store.read_record(name)
    assert after.tokens == 8000
    assert after["performance/tokens_seen"].tolist() == [5600, 1600, 800]
    np.testing.assert_array_equal(after["performance/nll"], before["performance/nll"])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"XX": 5, "zz": 1}, [5, 0, 1]),
        ({"klingon": 5}, [-1, -1, -1]),
        ({}, [-1, -1, -1]),
    ],
)
def test_sidecar_names_of_languages(
    series: Path, tmp_path: Path, counts: dict[str, int], expected: list[int]
) -> None:
    content = {"step": 8, "tokens": 9000, "tokens_by_language": counts}
    (series / "step-8" / "tracker.json").write_text(json.dumps(content))
    m = measurement(series)
    track(replace(m, series=m.series.take([8])), tmp_path / "records")
    record = store.read_record(tmp_path / "records" / store.record_name(8))
    assert record["performance/tokens_seen"].tolist() == expected


def damage(series: Path, kind: str, tokenizer: Any) -> str:
    """Spoil step 2; what the reason must say."""
    place = series / "step-2"
    weights = place / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return "model.safetensors is truncated"
    if kind == "vocabulary":
        tiny_model("gpt_neox", len(tokenizer) + 5).save_pretrained(place)
        return f"vocab_size is {len(tokenizer) + 5}, in the rest of the series {len(tokenizer)}"
    if kind == "nan":
        model = tiny_model("gpt_neox", len(tokenizer))
        with torch.no_grad():
            next(model.parameters())[0, 0] = float("nan")
        model.save_pretrained(place)
        return "holds NaN or infinite values"
    if kind == "tokenizer":
        content = json.loads((place / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        a, b = list(vocabulary)[-2:]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        (place / "tokenizer.json").write_text(json.dumps(content))
        return "tokenizer differs"
    (place / "config.json").write_text("{")
    return "config.json is damaged"


@pytest.mark.parametrize("kind", ["truncated", "nan", "vocabulary", "tokenizer", "config"])
def test_a_damaged_checkpoint_is_skipped_with_its_reason_and_tried_again(
    series: Path, series_folder: Path, tmp_path: Path, tokenizer: Any, kind: str
) -> None:
    reason = damage(series, kind, tokenizer)
    m = measurement(series)
    outcome = track(m, tmp_path / "records")
    assert outcome.measured == (0, 1, 4, 8)
    assert reason in outcome.skipped[2]
    assert reason in store.read_skips(tmp_path / "records")[2]
    shutil.rmtree(series / "step-2")
    shutil.copytree(series_folder / "step-2", series / "step-2")
    assert track(measurement(series), tmp_path / "records").measured == (2,)
    assert store.read_skips(tmp_path / "records") == {}


def test_the_digest_follows_what_changes_a_record_and_nothing_else(series: Path) -> None:
    m = measurement(series)
    same = [
        replace(m, model_settings=ModelSettings(batch_tokens=7)),
        replace(m, config="other: 1\n"),
        replace(m, series=m.series.take([0, 8])),
    ]
    assert {x.digest() for x in same} == {m.digest()}
    different = [
        replace(m, seed=1),
        replace(m, primary="yy"),
        replace(m, probes={"lape": Lape(top_fraction=0.02)}),
        replace(m, text_settings=TextSettings(299)),
        replace(m, model_settings=ModelSettings(dtype="bfloat16")),
        replace(m, documents=m.documents[:-1]),
        replace(m, concept_table=m.concept_table[:-1]),
    ]
    digests = {x.digest() for x in different} | {m.digest()}
    assert len(digests) == len(different) + 1


def test_without_concepts_the_fallback_is_said(series: Path) -> None:
    m = measurement(series, concept_table=())
    context = make_context(m)
    assert context.concepts is None
    assert any("no concept table fits" in note for note in context.text.notes)
    assert set(usable_probes(m.probes, context)) == {"performance", "lape"}


def test_spellings_in_comments_and_strings_are_left_out_and_counted(series_folder: Path) -> None:
    text = {"python": 'a = dax  # dax\nb = "dax"\n', "java": 'a = oro; // oro\nb = "c";\n'}
    context = make_context(
        measurement(
            series_folder,
            documents=[Document(str(i), c, text[c]) for c in text for i in range(6)],
            concept_table=[{"concept": "word", "python": ["dax"], "java": ["oro"]}],
            languages=("python", "java"),
            primary="python",
            text_settings=TextSettings(1000, equal_tokens=False),
        )
    )
    notes = [note for note in context.text.notes if "not counted" in note]
    assert notes == [
        "python: 12 spellings in comments and strings are not counted",
        "java: 6 spellings in comments and strings are not counted",
    ]


def test_user_errors(series: Path, tmp_path: Path) -> None:
    found = local_series(series)
    with pytest.raises(UserError, match=r"series\.tokenizer=.*no such folder"):
        series_tokenizer(found, str(tmp_path / "absent"))
    for file in series.glob("*/tokenizer.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"no tokenizer in .*step.*a folder with a tokenizer.json$"):
        series_tokenizer(found, None)
    with pytest.raises(UserError, match=r"no tokenizer in hub/A/b; .*, or to ORG/NAME@REVISION"):
        series_tokenizer(replace(found, origin="hub/A/b"), None)


def test_another_configuration_is_refused_before_it_measures(
    series_folder: Path, tmp_path: Path
) -> None:
    """Also where both start at once, before there is any record."""
    mine, theirs = measurement(series_folder), replace(measurement(series_folder), seed=7)
    refused = r"holds records of another configuration \(\w{12}, this one is \w{12}\)"
    with (
        claimed(tmp_path / "records" / ".configuration", theirs.digest()),
        pytest.raises(UserError, match=refused),
    ):
        track(mine, tmp_path / "records")
    assert not list((tmp_path / "records").glob("step-*"))
    track(mine, tmp_path / "records", shard=0, shards=2)  # the other is gone
    with pytest.raises(UserError, match=refused):
        track(theirs, tmp_path / "records")
    with claimed(tmp_path / "records" / ".configuration", mine.digest()):
        assert track(mine, tmp_path / "records", shard=1, shards=2).measured


def test_a_damaged_record_is_measured_again(series_folder: Path, tmp_path: Path) -> None:
    m = measurement(series_folder)
    track(m, tmp_path / "records")
    before = bytes_of(tmp_path / "records")
    (record, note) = (
        tmp_path / "records" / n for n in (store.record_name(8), "step-3.skipped.json")
    )
    record.write_bytes(record.read_bytes()[:1000])
    note.write_text("{")
    with pytest.raises(UserError, match=r"step-000000008\.h5: it is damaged .*measures it again"):
        store.read_record(record)
    assert store.read_skips(tmp_path / "records") == {}
    note.unlink()
    assert track(m, tmp_path / "records").measured == (8,)
    assert bytes_of(tmp_path / "records") == before


def test_a_damaged_index_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "index.h5").write_text("no index")
    store.write_index(tmp_path / "index.h5", [tmp_path / store.record_name(8)], {4: "gone"})
    with h5py.File(tmp_path / "index.h5") as index:
        assert index["step"][()].tolist() == [8]


def test_a_disk_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.h5py, "File", full)
    with pytest.raises(
        UserError, match=r"step-000000001\.h5: it cannot be written .*No space left"
    ):
        store.write_record(tmp_path / store.record_name(1), {}, {}, {}, "")
    assert not list(tmp_path.iterdir())
