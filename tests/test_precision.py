"""The type of the weights: bfloat16 where it changes nothing, once for all records of a folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import tiny_model
from test_sweep import measurement

from checkpoints.errors import CheckpointError, UserError
from tracker import precision, store, sweep
from tracker.loading import ModelSettings
from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.precision import FILE, Precision, choose, decide, decided, hindrance
from tracker.probes import Context, Probe
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.working_language import WorkingLanguage
from tracker.sweep import track

PROBES: dict[str, Probe] = {
    "performance": Performance(), "lape": Lape(), "importance": Importance(),
    "working_language": WorkingLanguage(),
}  # fmt: skip


class Loads:
    """Gives a model in a type, as a loader does, and remembers which was asked for."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.dtypes: list[str] = []

    def __call__(self, dtype: str) -> LanguageModel:
        self.dtypes.append(dtype)
        return LanguageModel.of(copy.deepcopy(self.model).to(getattr(torch, dtype)))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that multiplies in bfloat16, with models of any size."""
    monkeypatch.setattr(precision, "LEAST_WIDTH", 1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.mark.usefixtures("fast")
def test_bfloat16_is_taken_where_it_agrees(context: Context) -> None:
    load = Loads(tiny_model("gpt_neox", context.text.vocabulary, scale=1.0))
    found = choose(load, context, PROBES, 300)
    assert found.dtype == "bfloat16"
    assert "agrees with float32 (loss 0.0" in found.why
    assert "important units" in found.why
    assert "working language" in found.why
    assert load.dtypes == ["float32", "bfloat16"]


def offset(model: Any) -> None:
    """A part of the stream that the norms take away, and beside which bfloat16 sees nothing."""
    model.gpt_neox.embed_in.weight += 300.0


def dead(model: Any) -> None:
    """The activations of one layer lie around 0, by rounding only."""
    first = model.gpt_neox.layers[0].mlp.dense_h_to_4h
    first.bias.copy_(-100.0 * first.weight.sum(1))
    model.gpt_neox.layers[0].post_attention_layernorm.bias += 100.0


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(("plant", "what"), [(offset, "loss"), (dead, "activation probability")])
def test_a_difference_is_said_and_float32_stays(
    plant: Callable[[Any], None], what: str, context: Context
) -> None:
    model = tiny_model("gpt_neox", context.text.vocabulary)
    with torch.no_grad():
        plant(model)
    found = choose(Loads(model), context, PROBES, 300)
    assert found.dtype == "float32"
    assert f"{what} differs by" in found.why


def test_bfloat16_is_not_tried_without_gain(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loads(tiny_model("llama", context.text.vocabulary))
    model = load("float32")
    assert hindrance(model) == ""  # so small a model gains nothing
    monkeypatch.setattr(precision, "LEAST_WIDTH", 1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert hindrance(model) == "this machine is not faster in bfloat16"
    load.dtypes.clear()
    assert choose(load, context, PROBES, 300).dtype == "float32"
    assert load.dtypes == ["float32"]


@pytest.mark.parametrize("links", [True, False])
def test_the_first_decision_holds(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(precision.os, "link", no_link)
    first, second = Precision("bfloat16", "first"), Precision("float32", "second")
    assert decided(tmp_path / "records") is None
    assert decide(tmp_path / "records", first) == first
    assert decide(tmp_path / "records", second) == first
    assert decided(tmp_path / "records") == first
    assert [p.name for p in (tmp_path / "records").iterdir()] == [FILE]


def test_a_damaged_decision_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PATIENCE", 1)
    (tmp_path / FILE).write_text('{"dtype":')
    (tmp_path / "step-000000001.h5").write_text("no record")
    assert decided(tmp_path) is None
    assert decide(tmp_path, Precision("bfloat16", "mine")) == Precision("bfloat16", "mine")
    assert decide(tmp_path, Precision("float32", "late")) == Precision("bfloat16", "mine")


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("error", [UserError("no row fits"), CheckpointError("not finite")])
def test_a_model_that_cannot_be_read_in_bfloat16_is_read_in_float32(
    error: Exception, context: Context
) -> None:
    load = Loads(tiny_model("llama", context.text.vocabulary))

    def coarse(dtype: str) -> LanguageModel:
        if dtype == "bfloat16":
            raise error
        return load(dtype)

    assert choose(coarse, context, PROBES, 300) == Precision("float32", f"in bfloat16 {error}")


@pytest.mark.usefixtures("fast")
def test_a_language_without_text_in_the_part_does_not_decide(context: Context) -> None:
    rows = tuple(r for r in context.text.rows if r.fold != 0 or r.language != 2)
    fewer = replace(context, text=replace(context.text, rows=rows))
    load = Loads(tiny_model("gpt_neox", context.text.vocabulary, scale=1.0))
    assert choose(load, fewer, PROBES, 300).dtype == "bfloat16"


def test_a_number_that_is_lost_is_a_difference() -> None:
    full = np.array([1.0, np.nan, 2.0])
    assert precision._most(full, np.array([1.5, 0.0, 2.0])) == 0.5
    assert precision._most(full, np.array([1.0, np.nan, np.nan])) == np.inf


def no_link(*_: Any) -> None:
    raise PermissionError


@pytest.mark.usefixtures("fast")
def test_all_records_of_a_folder_have_one_type(
    series_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = Path(shutil.copytree(series_folder, tmp_path / "series"))
    m = measurement(series)
    assert m.model_settings == ModelSettings()
    track(m, tmp_path / "out", shard=0, shards=2)
    kept = decided(tmp_path / "out")
    assert kept is not None
    monkeypatch.setattr(precision, "LEAST_WIDTH", 10**6)  # as another machine, which would not
    track(m, tmp_path / "out", shard=1, shards=2)
    assert decided(tmp_path / "out") == kept
    types = {store.read_attributes(p)["dtype"] for p in (tmp_path / "out").glob("step-*.h5")}
    assert types == {kept.dtype} == {"bfloat16"}
    (tmp_path / "out" / FILE).write_text("{")
    assert decided(tmp_path / "out") == Precision("bfloat16")


def test_a_given_type_is_taken_as_it_is(series_folder: Path, tmp_path: Path) -> None:
    left_open, exact = (
        replace(measurement(series_folder), model_settings=ModelSettings(dtype=dtype))
        for dtype in ("auto", "float32")
    )
    assert exact.digest() != left_open.digest()
    track(left_open, tmp_path / "open")
    track(exact, tmp_path / "exact")
    assert not (tmp_path / "exact" / FILE).exists()
    assert json.loads((tmp_path / "open" / FILE).read_text())["dtype"] == "float32"
    records = sorted((tmp_path / "open").glob("step-*.h5"))
    assert records
    for record in records:
        with h5py.File(record) as mine, h5py.File(tmp_path / "exact" / record.name) as known:
            assert mine.attrs["dtype"] == known.attrs["dtype"] == "float32"
            np.testing.assert_array_equal(mine["performance/nll"], known["performance/nll"])


@pytest.mark.usefixtures("fast")
def test_the_model_compared_is_the_one_that_is_used(
    series_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted from float32 it would have other frequencies of positions."""
    seen: list[tuple[torch.dtype, set[torch.dtype]]] = []

    def remember(model: LanguageModel, *args: Any, **options: Any) -> Any:
        buffers = {b.dtype for n, b in model.model.named_buffers() if n.endswith("inv_freq")}
        seen.append((model.unembedding.dtype, buffers))
        return one_pass(model, *args, **options)

    monkeypatch.setattr(precision, "one_pass", remember)
    monkeypatch.setattr(sweep, "one_pass", remember)
    track(measurement(series_folder), tmp_path / "out", shard=0, shards=2)
    assert [dtype for dtype, _ in seen[:3]] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert [buffers for _, buffers in seen[:3]] == [{torch.float32}] * 3
