"""Checkpoint after checkpoint in one model: as a fresh load, and nothing of the one before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MAKERS, tiny_model
from safetensors.torch import load_file, save_file

from checkpoints.errors import CheckpointError
from tracker import refill
from tracker.loading import ModelSettings, load_model
from tracker.refill import Loader

HOST = ModelSettings(device="cpu")
Change = Callable[[dict[str, torch.Tensor]], None]


def as_fresh(loader: Loader, folder: Path, settings: ModelSettings = HOST) -> Any:
    """The model of a loader, compared with one that is loaded afresh."""
    model = loader.load(folder).model
    mine, theirs = model.state_dict(), load_model(folder, settings).state_dict()
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert weight.dtype == theirs[name].dtype
        assert torch.equal(weight, theirs[name]), name
    return model


def save(folder: Path, kind: str, seed: int, **options: Any) -> Path:
    tiny_model(kind, 50, seed).save_pretrained(folder / str(seed), **options)
    return folder / str(seed)


def no_fresh_load(*_: Any) -> Any:
    raise AssertionError("built anew")


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_every_architecture_is_filled(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = save(tmp_path, kind, 1), save(tmp_path, kind, 2)
    loader = Loader(HOST)
    made = as_fresh(loader, first)
    pointers = [p.data_ptr() for p in made.parameters()]
    monkeypatch.setattr(refill, "load_model", no_fresh_load)
    assert as_fresh(loader, second) is made
    assert [p.data_ptr() for p in made.parameters()] == pointers
    assert as_fresh(loader, first) is made


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "5KB"}])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_types_and_shards(options: dict[str, str], stored: torch.dtype, tmp_path: Path) -> None:
    settings = ModelSettings(device="cpu", dtype="bfloat16")
    folders = [tmp_path / str(seed) for seed in (1, 2)]
    for seed, folder in enumerate(folders):
        tiny_model("llama", 50, seed).to(stored).save_pretrained(folder, **options)
    loader = Loader(settings)
    assert as_fresh(loader, folders[0], settings) is as_fresh(loader, folders[1], settings)


def test_pickled_weights_are_filled(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = save(tmp_path, "gpt2", seed)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    loader = Loader(HOST)
    assert as_fresh(loader, tmp_path / "1") is as_fresh(loader, tmp_path / "2")


def test_another_config_is_another_model(tmp_path: Path) -> None:
    loader = Loader(HOST)
    first = as_fresh(loader, save(tmp_path / "a", "llama", 1))
    assert as_fresh(loader, save(tmp_path / "b", "qwen2", 2)) is not first


def test_weights_made_of_several_are_loaded_by_transformers(tmp_path: Path) -> None:
    """As where names of the files cannot be told apart: two are new, and equal."""
    folders = [save(tmp_path, "llama", seed) for seed in (1, 2)]
    loader = Loader(HOST)
    loader.load(folders[0])
    loader._names = None
    assert as_fresh(loader, folders[1]) is not None


def edited(folder: Path, change: Change) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NORM), rf"the weights lack {NORM} \(1 missing\)"),
        (lambda w: w.update({NORM: torch.ones(3)}), rf"another shape: {NORM} is \[3\]"),
        (lambda w: w[NORM].fill_(torch.nan), rf"{NORM} holds NaN"),
        (lambda w: w[NORM][3:].fill_(-torch.inf), rf"{NORM} holds NaN or infinite"),
    ],
)
def test_what_is_wrong_is_said_and_the_next_is_whole(
    change: Change, message: str, tmp_path: Path
) -> None:
    first, third = save(tmp_path, "llama", 1), save(tmp_path, "llama", 3)
    wrong = edited(save(tmp_path, "llama", 2), change)
    loader = Loader(HOST)
    made = loader.load(first).model
    with pytest.raises(CheckpointError, match=message):
        loader.load(wrong)
    assert as_fresh(loader, third) is made


def test_names_that_changed_are_told_by_content(tmp_path: Path) -> None:
    """GPT-NeoX' files say `embed_out`; its twin in content makes it ambiguous."""
    folder = save(tmp_path, "gpt_neox", 1)
    weights = load_file(folder / "model.safetensors")
    assert "embed_out.weight" in weights
    names = refill._names_in_files(load_model(folder, HOST), folder)
    assert names is not None
    assert names["lm_head.weight"] == "embed_out.weight"
    edited(folder, lambda w: w.update({"twin": w["embed_out.weight"].clone()}))
    assert refill._names_in_files(load_model(folder, HOST), folder) is None
    assert as_fresh(Loader(HOST), folder) is not None
