"""One checkpoint after another in the same model: weights are exchanged, nothing is built anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from checkpoints.errors import CheckpointError, first_line
from checkpoints.local import check_weights
from tracker.loading import ModelSettings, load_model, refuse_infinite
from tracker.model import LanguageModel

Stored = Mapping[str, Callable[[], Tensor]]
"""Name of a tensor in a checkpoint's files -> the tensor, mapped."""

_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
"""What of a config changes no model."""


class Loader:
    """Loads checkpoints of one run.

    The first one goes through transformers, which also knows old names of weights. Which tensor of
    the files became which weight is read off it, and the following ones are copied into the same
    model. Where that cannot be read off (weights that are put together of several), or where a
    config differs, transformers loads every one.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._model: LanguageModel | None = None
        self._config: Mapping[str, Any] = {}
        self._names: Mapping[str, str] | None = None

    def load(self, folder: Path) -> LanguageModel:
        """The checkpoint of a folder; the one loaded before is gone.

        Raises:
            CheckpointError: As `load_model`.
            UserError: As `load_model`.
        """
        config = _config(folder)
        if self._model is not None and self._names is not None and config == self._config:
            _fill(self._model.model, folder, self._names)
            return self._model
        self._model = None  # before the next one comes: there is never room for two
        model = LanguageModel.of(load_model(folder, self.settings))
        self._names = _names_in_files(model.model, folder)
        self._model, self._config = model, config
        return model


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {k: v for k, v in content.items() if k not in _VOLATILE}
    except (OSError, ValueError, AttributeError):
        return {}  # transformers says what is wrong


def _stored(files: Sequence[Path]) -> Stored:
    """The tensors of a checkpoint by their names in the files, none read before it is asked for.

    A safetensors file is mapped anew for each tensor, so that what was read of it can go: a second
    copy of the model is never in memory.
    """
    stored: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt", device="cpu") as weights:
                for name in weights.keys():  # noqa: SIM118  # not iterable itself
                    stored[name] = partial(_tensor, file, name)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            for name, tensor in content.items():
                stored[name] = partial(_same, tensor)
    return stored


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt", device="cpu") as weights:
        found: Tensor = weights.get_tensor(name)
        return found


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _groups(model: Any) -> list[tuple[list[str], Tensor]]:
    """Every weight and kept buffer with all its names: tied ones have several."""
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(tensor.data_ptr(), ([], tensor))[0].append(name)
    return list(groups.values())


def _names_in_files(model: Any, folder: Path) -> dict[str, str] | None:
    """Name of a weight -> name of the tensor in the files that it was made of, told by content.

    None where some weight is no tensor of the files, or could be one of several.
    """
    found: dict[str, str] = {}
    groups = _groups(model)
    known = {name for names, _ in groups for name in names}
    try:
        stored = _stored(check_weights(folder))
        others = [name for name in stored if name not in known]
        for names, tensor in groups:
            direct = [name for name in names if name in stored][:1]
            same = [name for name in direct or others if _is(tensor, stored[name]())]
            if len(same) != 1:
                return None
            found[names[0]] = same[0]
    except (OSError, RuntimeError, SafetensorError):  # transformers reads it, and we do not
        return None
    return found if len(set(found.values())) == len(found) else None


def _is(tensor: Tensor, stored: Tensor) -> bool:
    return tensor.shape == stored.shape and torch.equal(
        tensor.detach().cpu(), stored.to(tensor.dtype)
    )


def _fill(model: Any, folder: Path, names: Mapping[str, str]) -> None:
    """Copy a checkpoint's weights over those that are there, converted and moved on the way."""
    state = model.state_dict(keep_vars=True)
    try:
        stored = _stored(check_weights(folder))
        lacking = [mine for mine, theirs in names.items() if theirs not in stored]
        if lacking:
            raise CheckpointError(f"the weights lack {lacking[0]} ({len(lacking)} missing)")
        for mine, theirs in names.items():
            _copy(mine, state[mine], stored[theirs]())
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"the weights cannot be loaded ({first_line(error)})") from error


def _copy(name: str, weight: Tensor, stored: Tensor) -> None:
    if weight.shape != stored.shape:
        raise CheckpointError(
            f"the weights have another shape: {name} is {list(stored.shape)}, "
            f"in the rest of the series {list(weight.shape)}"
        )
    weight.detach().copy_(stored)
    refuse_infinite(name, weight)
