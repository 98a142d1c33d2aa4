"""One checkpoint after another in the same model: weights are exchanged, nothing is built anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from checkpoints.errors import CheckpointError, first_line
from checkpoints.local import check_weights
from tracker.loading import ModelSettings, load_model, refuse_infinite
from tracker.model import LanguageModel

_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
"""What of a config changes no model."""
_FEW = 64
"""Numbers of a tensor that tell most others apart from it."""


class Loader:
    """Loads checkpoints of one run.

    The first one goes through transformers, which also knows old names of weights. Which tensor of
    the files became which weight is read off it, and the following ones are copied into the same
    model. Where that cannot be read off (weights that are put together of several), or where a
    config, the names in the files or what is tied differs, transformers loads it.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self._model: LanguageModel | None = None
        self._config: Mapping[str, Any] = {}
        self._sources: _Sources | None = None

    def load(self, folder: Path) -> LanguageModel:
        """The checkpoint of a folder; the one loaded before is gone.

        Raises:
            CheckpointError: As `load_model`.
            UserError: As `load_model`.
        """
        config = _config(folder)
        if self._model is not None and self._sources is not None and config == self._config:
            stored = _Stored.of(folder)
            if self._sources.fit(stored):
                _fill(self._model.model, stored, self._sources)
                return self._model
        self._model = None  # before the next one comes: there is never room for two
        model = LanguageModel.of(load_model(folder, self.settings))
        self._sources = _sources(model.model, folder)
        if self._sources is not None:
            _own(model.model, folder, self._sources)
        self._model, self._config = model, config
        return model


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {k: v for k, v in content.items() if k not in _VOLATILE}
    except (OSError, ValueError, AttributeError):
        return {}  # transformers says what is wrong


@dataclass(frozen=True)
class _Stored:
    """The tensors of a checkpoint by their names in the files, none read before it is asked for.

    A safetensors file is mapped anew for each tensor, so that what was read of it can go: a second
    copy of the model is never in memory.
    """

    file: Mapping[str, Path]
    shape: Mapping[str, tuple[int, ...]]
    pickled: Mapping[str, Tensor]

    @classmethod
    def of(cls, folder: Path) -> _Stored:
        """Of a folder.

        Raises:
            CheckpointError: The files are not whole, or not readable.
        """
        file: dict[str, Path] = {}
        shape: dict[str, tuple[int, ...]] = {}
        pickled: dict[str, Tensor] = {}
        for path in check_weights(folder):
            with _readable():
                if path.suffix == ".safetensors":
                    with safe_open(path, framework="pt", device="cpu") as weights:
                        for name in weights.keys():  # noqa: SIM118  # not iterable itself
                            shape[name] = tuple(weights.get_slice(name).get_shape())
                            file[name] = path
                else:
                    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                    pickled |= {n: t for n, t in content.items() if isinstance(t, Tensor)}
        shape |= {name: tuple(tensor.shape) for name, tensor in pickled.items()}
        return cls(file, shape, pickled)

    def __getitem__(self, name: str) -> Tensor:
        if name in self.pickled:
            return self.pickled[name]
        with safe_open(self.file[name], framework="pt", device="cpu") as weights:
            found: Tensor = weights.get_tensor(name)
            return found


@contextmanager
def _readable() -> Iterator[None]:
    """Damage shows as any of a dozen types."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"the weights cannot be loaded ({first_line(error)})") from error


@dataclass(frozen=True)
class _Sources:
    """Which tensors of the files became which weights."""

    of: Mapping[str, str]
    """Weight -> tensor. Of tied weights, which have several names, the first stands here."""
    twins: Mapping[str, Sequence[str]]
    """Tensor of a tied weight -> others of the files that say the same."""
    names: frozenset[str]
    """Of all tensors in the files."""

    def fit(self, stored: _Stored) -> bool:
        """Whether another checkpoint's tensors become weights in the same way.

        Raises:
            CheckpointError: They cannot be read.
        """
        with _readable():
            return stored.shape.keys() == self.names and all(
                torch.equal(stored[name], stored[twin])
                for name, twins in self.twins.items()
                for twin in twins
            )


def _weights(model: Any) -> list[tuple[list[str], Tensor]]:
    """Every weight and kept buffer with all its names: tied ones have several."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(found.values())


def _sources(model: Any, folder: Path) -> _Sources | None:
    """Told by name, else by content.

    None where some weight is no tensor of the files, or could be one of several.
    """
    weights = _weights(model)
    known = {name for names, _ in weights for name in names}
    of: dict[str, str] = {}
    twins: dict[str, Sequence[str]] = {}
    try:
        stored = _Stored.of(folder)
        others = [name for name in stored.shape if name not in known]
        for names, weight in weights:
            value = weight.detach().cpu()
            source = _source(names, value, stored, others)
            if source is None:
                return None
            of[names[0]] = source
            if len(names) > 1:
                same = [n for n in (*names, *others) if n != source and _is(value, stored, n)]
                twins[source] = same
    except Exception:  # transformers reads it, and we do not
        return None
    if len(set(of.values())) < len(of):
        return None
    return _Sources(of, twins, frozenset(stored.shape))


def _source(
    names: Sequence[str], value: Tensor, stored: _Stored, others: Sequence[str]
) -> str | None:
    """The tensor that a weight was made of, by name, by name but for a prefix, or by content."""
    direct = [name for name in names if name in stored.shape][:1]
    shorter = [o for o in others for n in names if n.endswith(f".{o}") or o.endswith(f".{n}")]
    candidates = direct or (shorter if len(shorter) == 1 else others)
    same = [name for name in candidates if _is(value, stored, name)]
    return same[0] if len(same) == 1 else None


def _is(value: Tensor, stored: _Stored, name: str) -> bool:
    """Whether a weight holds what a tensor of the files does."""
    if stored.shape.get(name) != tuple(value.shape):
        return False
    other = stored[name]
    few = (t.flatten()[:_FEW].to(value.dtype) for t in (value, other))
    return torch.equal(*few) and torch.equal(value, other.to(value.dtype))


def _own(model: Any, folder: Path, sources: _Sources) -> None:
    """Have the weights in memory of their own: transformers maps those that it need not convert.

    They would change with the file, keep a deleted one on the disk, and may share one storage.
    """
    weights = [weight for _, weight in _weights(model) if weight.device.type == "cpu"]
    if weights:
        for weight in weights:
            weight.data = torch.empty(weight.shape, dtype=weight.dtype)
        _fill(model, _Stored.of(folder), sources)


def _fill(model: Any, stored: _Stored, sources: _Sources) -> None:
    """Copy a checkpoint's weights over those that are there, converted and moved on the way."""
    state = model.state_dict(keep_vars=True)
    with _readable():
        for mine, theirs in sources.of.items():
            _copy(mine, state[mine], stored[theirs])


def _copy(name: str, weight: Tensor, stored: Tensor) -> None:
    if weight.shape != stored.shape:
        raise CheckpointError(
            f"the weights have another shape: {name} is {list(stored.shape)}, "
            f"in the rest of the series {list(weight.shape)}"
        )
    weight.detach().copy_(stored)
    refuse_infinite(name, weight)
