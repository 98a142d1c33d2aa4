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
    loader._sources = None
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


def test_what_lacks_is_said_by_a_fresh_load(tmp_path: Path) -> None:
    first, third = save(tmp_path, "llama", 1), save(tmp_path, "llama", 3)
    wrong = edited(save(tmp_path, "llama", 2), lambda w: w.pop(NORM))
    loader = Loader(HOST)
    loader.load(first)
    with pytest.raises(CheckpointError, match=rf"the weights lack {NORM} \(1 missing\)"):
        loader.load(wrong)
    assert as_fresh(loader, third) is not None


HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


@pytest.mark.parametrize("first_stores_head", [True, False])
def test_a_tied_head_that_has_come_apart_is_a_head_of_its_own(
    first_stores_head: bool, tmp_path: Path
) -> None:
    folders = [save(tmp_path, "gpt2", seed) for seed in (1, 2, 3)]
    if first_stores_head:
        edited(folders[0], lambda w: w.update({HEAD: w[EMBEDDING].clone()}))
        edited(folders[2], lambda w: w.update({HEAD: w[EMBEDDING].clone()}))
    edited(folders[1], lambda w: w.update({HEAD: w[EMBEDDING] + 1}))
    loader = Loader(HOST)
    for folder in (*folders, *folders):
        as_fresh(loader, folder)


def without_prefix(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[name.removeprefix("transformer.")] = weights.pop(name)


def test_names_without_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many weights hold the same, as untrained norms and biases do."""
    folders = [edited(save(tmp_path, "gpt2", seed), without_prefix) for seed in (1, 2)]
    edited(folders[0], lambda w: [t.zero_() for n, t in w.items() if "bias" in n] and None)
    loader = Loader(HOST)
    made = as_fresh(loader, folders[0])
    assert as_fresh(loader, save(tmp_path, "gpt2", 3)) is not made  # with it
    made = as_fresh(loader, folders[0])
    assert as_fresh(loader, folders[1]) is made


def pickled(folder: Path, change: Callable[[dict[str, Any]], object] = lambda w: None) -> Path:
    weights: dict[str, Any] = dict(load_file(folder / "model.safetensors"))
    change(weights)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def one_storage(weights: dict[str, Any]) -> None:
    """All norms of a step 0 are ones: some converters store them once."""
    ones = torch.ones(16)
    weights.update({n: ones for n in weights if "norm" in n})
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.ones(1, 1).expand(16, 16)


def test_tensors_of_one_storage_are_weights_of_their_own(tmp_path: Path) -> None:
    first = pickled(save(tmp_path, "llama", 1), one_storage)
    second = pickled(save(tmp_path, "llama", 2))
    loader = Loader(HOST)
    assert as_fresh(loader, first) is as_fresh(loader, second)


def test_what_is_no_tensor_is_left_alone(tmp_path: Path) -> None:
    folders = [save(tmp_path, "llama", s) for s in (1, 2)]
    loader = Loader(HOST)
    made = as_fresh(loader, pickled(folders[0], lambda w: w.update(step=0, note="x")))
    assert as_fresh(loader, pickled(folders[1])) is made


def test_a_damaged_pickle_is_one_checkpoint_s_fault(tmp_path: Path) -> None:
    first, second, third = (pickled(save(tmp_path, "llama", seed)) for seed in (1, 2, 3))
    file = second / "pytorch_model.bin"
    content = bytearray(file.read_bytes())
    start = content.index(b"ctorch")
    content[start : start + 6] = b"c\xff\xfe\xfd\xfc\xfb"
    file.write_bytes(content)
    loader = Loader(HOST)
    made = loader.load(first).model
    with pytest.raises(CheckpointError, match="the weights cannot be loaded"):
        loader.load(second)
    assert as_fresh(loader, third) is made


def test_weights_do_not_change_with_the_file(tmp_path: Path) -> None:
    folder = save(tmp_path, "llama", 1)
    model = Loader(HOST).load(folder).model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    file = folder / "model.safetensors"
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        out.write(bytes(file.stat().st_size // 2))
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


def test_names_that_changed_are_told_by_content(tmp_path: Path) -> None:
    """GPT-NeoX' files say `embed_out`; its twin in content makes it ambiguous."""
    folder = save(tmp_path, "gpt_neox", 1)
    weights = load_file(folder / "model.safetensors")
    assert "embed_out.weight" in weights
    sources = refill._sources(load_model(folder, HOST), folder)
    assert sources is not None
    assert sources.of["lm_head.weight"] == "embed_out.weight"
    edited(folder, lambda w: w.update({"twin": w["embed_out.weight"].clone()}))
    assert refill._sources(load_model(folder, HOST), folder) is None
    assert as_fresh(Loader(HOST), folder) is not None
