"""Edits: what they change inside, and that nothing is left of them outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import LlamaConfig, LlamaForCausalLM, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from subjects import fingerprint, silence

from tracker.interventions.edits import (
    parameters_set,
    random_places,
    random_units,
    units_held,
    weights_kept,
)
from tracker.model import LanguageModel
from tracker.neurons import NeuronSet

IDS = torch.arange(1, 25).view(2, 12)


def some_units(parts: LanguageModel) -> NeuronSet:
    return NeuronSet(np.random.default_rng(1).random((parts.layers, parts.units)) < 0.3)


def some_places(parts: LanguageModel) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    return {n: draw.choice(w.numel(), 20, replace=False) for n, w in parts.matrices.items()}


def held_at_zero(parts: LanguageModel) -> AbstractContextManager[None]:
    return units_held(parts, some_units(parts))


def held_at_values(parts: LanguageModel) -> AbstractContextManager[None]:
    values = np.random.default_rng(3).normal(size=(parts.layers, parts.units))
    return units_held(parts, some_units(parts), values)


def set_to_zero(parts: LanguageModel) -> AbstractContextManager[None]:
    return parameters_set(parts, some_places(parts))


def set_to_values(parts: LanguageModel) -> AbstractContextManager[None]:
    places = some_places(parts)
    return parameters_set(parts, places, {n: np.full(20, 0.5) for n in places})


def train(parts: LanguageModel) -> None:
    """What training does to a model, and more than it should."""
    module = parts.model
    module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(2):
        module(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    for buffer in module.buffers():
        buffer.add_(1)


EDITS: list[Callable[[LanguageModel], AbstractContextManager[None]]] = [
    held_at_zero, held_at_values, set_to_zero, set_to_values, weights_kept,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("fails", [False, True])
def test_every_edit_changes_the_model_and_gives_it_back_bit_for_bit(
    model: Any, edit: Callable[[LanguageModel], AbstractContextManager[None]], fails: bool
) -> None:
    parts = LanguageModel.of(model)
    before, logits = fingerprint(model), model(input_ids=IDS).logits

    def inside() -> None:
        with edit(parts):
            if edit is weights_kept:
                train(parts)
                model.eval()
            with torch.no_grad():
                assert not torch.equal(model(input_ids=IDS).logits, logits)
            if fails:
                raise RuntimeError("inside")

    if fails:
        with pytest.raises(RuntimeError, match="inside"):
            inside()
    else:
        inside()
    assert fingerprint(model) == before
    assert torch.equal(model(input_ids=IDS).logits, logits)


def test_edits_within_edits_are_undone_one_by_one(model: Any) -> None:
    parts = LanguageModel.of(model)
    seen = [fingerprint(model)]
    with set_to_zero(parts):
        seen.append(fingerprint(model))
        with set_to_values(parts), held_at_zero(parts):
            assert fingerprint(model) not in seen
        assert fingerprint(model) == seen[1]
    assert fingerprint(model) == seen[0]


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_stay_tied(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    before = fingerprint(model)
    with weights_kept(LanguageModel.of(model)):
        train(LanguageModel.of(model))
    assert fingerprint(model) == before
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_weights_kept_gives_back_a_model_that_was_in_training() -> None:
    model = tiny_model("gpt2", 40)
    model.train()
    model.transformer.h[0].requires_grad_(True)
    before = fingerprint(model)
    with weights_kept(LanguageModel.of(model)):
        train(LanguageModel.of(model))
        model.eval().requires_grad_(False)
    assert fingerprint(model) == before


def test_a_matrix_that_is_not_there_changes_nothing() -> None:
    model = tiny_model("gpt_neox", 40)
    parts, before = LanguageModel.of(model), fingerprint(model)
    places = {**some_places(parts), "nowhere": np.array([0])}
    with pytest.raises(KeyError, match="nowhere"), parameters_set(parts, places):
        pass
    assert fingerprint(model) == before


def test_units_at_zero_are_units_that_write_nothing(model: Any) -> None:
    parts = LanguageModel.of(model)
    units = some_units(parts)
    silent = silence(copy.deepcopy(model), units.mask)
    with units_held(parts, units):
        held = model(input_ids=IDS).logits
    torch.testing.assert_close(held, silent(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)


def test_units_are_held_at_their_values_at_every_position(model: Any) -> None:
    parts = LanguageModel.of(model)
    units = some_units(parts)
    values = np.random.default_rng(3).normal(size=units.mask.shape)
    free: list[Any] = []
    seen: list[Any] = []
    handles = []
    with torch.no_grad():
        for into in (free, seen):
            with units_held(parts, units if into is seen else units - units, values):
                for part in (*parts.activations, *parts.downs, *parts.ups):
                    handles.append(
                        part.register_forward_hook(
                            lambda _m, i, o, into=into, down=part in parts.downs: into.append(
                                i[0] if down else o
                            )
                        )
                    )
                model(input_ids=IDS)
            while handles:
                handles.pop().remove()
    by_layer = 3 if parts.gated else 2
    for layer in range(parts.layers):
        # A gated MLP computes its activation, then its up-projection, then their product.
        activation, *up, unit = seen[by_layer * layer : by_layer * (layer + 1)]
        mask = torch.from_numpy(units.mask[layer])
        value = torch.from_numpy(values[layer]).float()
        assert (activation[..., mask] == value[mask]).all()
        expected = activation * up[0] if up else activation
        torch.testing.assert_close(unit, expected)
    # What comes before the first change is what it was without.
    first = torch.from_numpy(units.mask[0])
    assert torch.equal(seen[0][..., ~first], free[0][..., ~first])


def test_parameters_hold_the_given_values_and_no_other_changes(model: Any) -> None:
    parts = LanguageModel.of(model)
    before = {n: p.clone() for n, p in model.named_parameters()}
    places = some_places(parts)
    values = {n: np.random.default_rng(4).normal(size=20) for n in places}
    with parameters_set(parts, places, values):
        for name, parameter in model.named_parameters():
            expected = before[name].clone()
            if name in places:
                for place, value in zip(places[name], values[name], strict=True):
                    expected.view(-1)[place] = float(value)
            assert torch.equal(parameter, expected), name


SHAPE = (3, 9)
masks = st.lists(st.booleans(), min_size=27, max_size=27).map(
    lambda flags: NeuronSet(np.array(flags).reshape(SHAPE))
)


@given(like=masks, among=st.none() | masks, seed=st.integers(0, 99))
def test_random_units_are_others_of_the_same_layers(
    like: NeuronSet, among: NeuronSet | None, seed: int
) -> None:
    found = random_units(like, np.random.default_rng(seed), among)
    pool = (~like if among is None else among) - like
    assert len(found & like) == 0
    assert len(found - pool) == 0
    expected = np.minimum(like.per_layer(), pool.per_layer())
    assert found.per_layer().tolist() == expected.tolist()
    assert found == random_units(like, np.random.default_rng(seed), among)


@given(
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_random_places_are_others_of_the_same_matrices(sizes: list[int], seed: int) -> None:
    matrices = {"a": torch.zeros(3, 4), "b": torch.zeros(4, 5)}
    model = cast(Any, SimpleNamespace(matrices=matrices))
    draw = np.random.default_rng(seed)
    like = {
        n: draw.choice(w.numel(), size, replace=False)
        for (n, w), size in zip(matrices.items(), sizes, strict=True)
    }
    found = random_places(model, like, np.random.default_rng(seed + 1))
    assert found.keys() == like.keys()
    for name, places in found.items():
        total, taken = matrices[name].numel(), len(like[name])
        assert len(set(places.tolist())) == len(places) == min(taken, total - taken)
        assert not set(places.tolist()) & set(like[name].tolist())
        assert all(0 <= p < total for p in places)


def test_every_free_place_is_as_likely_as_any_other() -> None:
    model = cast(Any, SimpleNamespace(matrices={"a": torch.zeros(4, 5)}))
    like = {"a": np.array([0, 3, 4, 11, 19])}
    count = np.zeros(20)
    for seed in range(3000):
        count[random_places(model, like, np.random.default_rng(seed))["a"]] += 1
    free = np.delete(count, like["a"])
    # 3,000 draws of 5 out of 15 places: each is drawn with probability 1/3.
    assert np.abs(free - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)
