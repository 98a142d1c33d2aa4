"""Changes to a model that undo themselves, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.model import LanguageModel
from tracker.neurons import NeuronSet
from tracker.regions import Places


@contextmanager
def units_held(
    model: LanguageModel, units: NeuronSet, values: NDArray[np.floating[Any]] | None = None
) -> Iterator[None]:
    """Hold the activation of `units` at 0, or at `values` [layer, unit]; weights stay untouched.

    The activation is the output of the non-linearity; held at 0, a unit of a gated MLP contributes
    nothing either, since it multiplies.
    """
    assert units.mask.shape == (model.layers, model.units), units.mask.shape
    handles = []

    def hold(mask: Tensor, value: Tensor | None) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            if value is None:
                return output.masked_fill(mask, 0.0)
            return torch.where(mask, value.to(output.dtype), output)

        return hook

    try:
        for layer in np.flatnonzero(units.mask.any(1)):
            device = model.downs[layer].weight.device
            mask = torch.from_numpy(units.mask[layer]).to(device)
            value = None
            if values is not None:
                value = torch.from_numpy(np.asarray(values[layer])).to(device)
            handles.append(model.activations[layer].register_forward_hook(hold(mask, value)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def parameters_set(
    model: LanguageModel,
    places: Places,
    values: float | Mapping[str, NDArray[np.floating[Any]]] = 0.0,
) -> Iterator[None]:
    """Set single parameters of the blocks' matrices; their old values come back afterwards."""
    put_back = holder(model, places)
    try:
        for name, flat in places.items():
            weight, index = _flat(model, name, flat)
            new: Any = values if isinstance(values, float | int) else values[name]
            weight[index] = torch.as_tensor(new, dtype=weight.dtype, device=weight.device)
        yield
    finally:
        put_back()


def holder(model: LanguageModel, places: Places) -> Callable[[], None]:
    """A function that puts the parameters at `places` back to the values that they have now."""
    kept = []
    for name, flat in places.items():
        weight, index = _flat(model, name, flat)
        kept.append((weight, index, weight[index].clone()))

    def put_back() -> None:
        for weight, index, value in kept:
            weight[index] = value

    return put_back


def _flat(model: LanguageModel, name: str, flat: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """A matrix as one row, sharing its memory, and indices into it."""
    weight = model.matrices[name].detach().view(-1)
    return weight, torch.from_numpy(np.asarray(flat, np.int64)).to(weight.device)


@contextmanager
def weights_kept(model: LanguageModel) -> Iterator[None]:
    """Let the weights be trained inside; parameters, buffers and modes come back, gradients go.

    A copy of all weights is held meanwhile.
    """
    module = model.model
    state = {n: t.detach().clone() for n, t in _tensors(module)}
    asked = {n: p.requires_grad for n, p in module.named_parameters()}
    modes = {n: m.training for n, m in module.named_modules()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(module):
                tensor.copy_(state[name])
        for name, parameter in module.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(asked[name])
        for name, part in module.named_modules():
            part.training = modes[name]


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters (tied ones once) and buffers, those that no state dict holds included."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def random_units(
    like: NeuronSet, generator: np.random.Generator, among: NeuronSet | None = None
) -> NeuronSet:
    """Random units outside `like`, as many in each layer, drawn from `among` (default: all).

    Where a layer has too few candidates all of them are taken: compare sizes.
    """
    pool = ~like if among is None else among - like
    mask = np.zeros_like(like.mask)
    for layer, count in enumerate(like.per_layer()):
        candidates = np.flatnonzero(pool.mask[layer])
        chosen = generator.choice(candidates, min(int(count), len(candidates)), replace=False)
        mask[layer, chosen] = True
    return NeuronSet(mask)


def random_places(
    model: LanguageModel, like: Places, generator: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Random parameters outside `like`, as many in each matrix."""
    found = {}
    for name, flat in like.items():
        # Drawn with the region's own size to spare, then thinned: no array of all parameters.
        total = model.matrices[name].numel()
        count = min(len(flat), total - len(flat))
        drawn = generator.choice(total, min(total, count + len(flat)), replace=False)
        free = drawn[~np.isin(drawn, flat)]
        found[name] = np.sort(free[:count])
    return found
