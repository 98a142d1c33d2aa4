"""Checkpoints read into memory: whole, once, in the type that was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from hydra import compose, initialize_config_module
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints.errors import CheckpointError, UserError
from checkpoints.local import check_weights, local_series
from tracker import config
from tracker.loading import ModelSettings, load_model, refuse_offloaded

HOST = ModelSettings(device="cpu")


def test_loading_refuses_what_is_not_whole(tmp_path: Path) -> None:
    model = tiny_model("gpt_neox", 50)
    model.save_pretrained(tmp_path / "good")
    loaded = load_model(tmp_path / "good", HOST)
    assert not any(p.requires_grad for p in loaded.parameters())
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)

    poisoned = tiny_model("gpt_neox", 50)
    with torch.no_grad():
        poisoned.gpt_neox.layers[1].mlp.dense_h_to_4h.weight[3, 3] = float("nan")
    poisoned.save_pretrained(tmp_path / "nan")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp.*NaN"):
        load_model(tmp_path / "nan", HOST)

    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "good" / "model.safetensors")
    model.save_pretrained(tmp_path / "lacking")
    lacking = {k: v for k, v in weights.items() if "layers.2.mlp.dense_4h_to_h.weight" not in k}
    save_file(lacking, tmp_path / "lacking" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack .*layers\.2\.mlp\.dense_4h_to_h\.weight"):
        load_model(tmp_path / "lacking", HOST)


def test_a_config_that_cannot_be_read_is_the_checkpoints_fault(tmp_path: Path) -> None:
    tiny_model("gpt_neox", 50).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "absent.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config cannot be read \(.*absent\.py"):
        load_model(tmp_path, replace(HOST, trust_remote_code=True))


def test_a_bin_checkpoint_in_shards_loads(tmp_path: Path) -> None:
    model = tiny_model("gpt2", 50)
    model.config.save_pretrained(tmp_path)
    weights = list(model.state_dict().items())
    files = {"pytorch_model-00001-of-00002.bin": dict(weights[:9])}
    files["pytorch_model-00002-of-00002.bin"] = dict(weights[9:])
    for name, part in files.items():
        torch.save(part, tmp_path / name)
    index = {"metadata": {}, "weight_map": {key: n for n, part in files.items() for key in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert [file.name for file in check_weights(tmp_path)] == list(files)
    for mine, theirs in zip(
        load_model(tmp_path, HOST).parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    model = tiny_model("gpt_neox", 50)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "executed"
    torch.save({"x": Evil(str(marker))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(tmp_path, HOST)
    assert not marker.exists()


class Evil:
    """Creates a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path(self.path).touch, ())


def test_a_bin_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    model = tiny_model("gpt2", 50)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_model(tmp_path, HOST)
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_type_is_the_series_own_unless_another_is_asked_for(tmp_path: Path) -> None:
    assert ModelSettings().of_series(None).dtype == "auto"
    assert ModelSettings().of_series(None).exact().dtype == "float32"
    assert ModelSettings().of_series("bfloat16").dtype == "bfloat16"
    assert ModelSettings(dtype="float32").of_series("bfloat16").dtype == "float32"
    with pytest.raises(UserError, match=r"series\.dtype=float16: choose float32 or bfloat16"):
        ModelSettings().of_series("float16")
    tiny_model("llama", 50).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, replace(HOST, dtype="bfloat16"))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_a_map_shares_a_model_out(tmp_path: Path) -> None:
    model = tiny_model("llama", 50)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, ModelSettings(device_map="auto"))
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.cpu(), theirs)


def test_wrong_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.dtype=float8: choose auto, float32 or bfloat16"):
        ModelSettings(dtype="float8")
    with pytest.raises(UserError, match=r"model\.batch_tokens=0"):
        ModelSettings(batch_tokens=0)
    with pytest.raises(UserError, match=r"model\.device=nowhere"):
        ModelSettings(device="nowhere").where()
    with pytest.raises(UserError, match=r"model\.device_map=halves: choose auto, balanced"):
        ModelSettings(device_map="halves")
    with pytest.raises(UserError, match="the map chooses the devices; leave out one"):
        ModelSettings(device_map="auto", device="cuda:0")
    tiny_model("llama", 50).save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match="needs the package accelerate: install it"):
        load_model(tmp_path, ModelSettings(device_map="auto"))


def test_weights_left_on_the_disk_are_refused() -> None:
    model: Any = tiny_model("llama", 50)
    refuse_offloaded(model, ModelSettings(device_map="auto"))
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "disk"}
    model.model.layers[1].to("meta")
    with pytest.raises(UserError, match=r"parts are left on disk.*more devices, or model.dtype="):
        refuse_offloaded(model, ModelSettings(device_map="auto"))


PEAK = """
import json, sys
from pathlib import Path
import torch
import transformers.models.llama.modeling_llama
from checkpoints.local import local_series
from tracker import config
from tracker.loading import ModelSettings
from tracker.refill import Loader
def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024
before = memory("VmRSS:")
loader = Loader(ModelSettings(device="cpu", dtype=sys.argv[2]))
for _ in range(2):
    model = loader.load(Path(sys.argv[1])).model
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([memory("VmHWM:") - before, size]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "read", "most"),
    # A mapped file counts while it is read, though the system can drop it.
    [("float32", "float32", 1.3), ("float16", "float32", 1.8)],
)
def test_there_is_one_copy_in_memory(tmp_path: Path, stored: str, read: str, most: float) -> None:
    """Of the first checkpoint, and of one that is put in its place."""
    config = LlamaConfig(
        vocab_size=4000, hidden_size=768, intermediate_size=3072, num_hidden_layers=6,
        num_attention_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, stored)).save_pretrained(tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), read],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, size = json.loads(told.stdout)
    assert peak < most * size, peak / size


@pytest.mark.parametrize(
    ("series", "asked", "dtype"),
    [
        ("bfloat16", "auto", "bfloat16"),
        (None, "auto", "auto"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_what_is_measured_is_in_the_series_type(
    series: str | None, asked: str, dtype: str, series_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replace(local_series(series_folder), dtype=series)
    monkeypatch.setattr(config, "find_series", lambda *_: (found, None))
    with initialize_config_module("conf", version_base="1.3"):
        composed = compose(
            "config",
            ["series=local", "text=starter", "primary=en", "languages=[en,de]",
             f"model.dtype={asked}"],
        )  # fmt: skip
    measured, _ = config.measurement(composed, config.run_settings(composed))
    assert measured.model_settings.dtype == dtype
