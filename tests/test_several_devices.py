"""Models shared out over several devices: every probe finds what it finds on one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from conftest import tiny_model
from pretend import FIRST, SECOND, Placed, put, several_devices

from checkpoints.errors import UserError
from tracker import store
from tracker.interventions import Intervention, Subject
from tracker.interventions.ablate_shared import AblateShared
from tracker.interventions.deactivate import Deactivate
from tracker.interventions.lens import Lens
from tracker.interventions.perturb import Perturb
from tracker.interventions.remove import Remove
from tracker.interventions.steer import Steer
from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Context
from tracker.probes.alignment import Alignment
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.regions import Regions
from tracker.probes.subspaces import LanguageSubspaces
from tracker.probes.transferring import Transferring
from tracker.probes.vocabulary_mass import VocabularyMass
from tracker.probes.working_language import WorkingLanguage

PROBES = (
    Performance(), WorkingLanguage(), VocabularyMass(), Lape(), Transferring(), Importance(),
    Regions(), LanguageSubspaces(), Alignment(),
)  # fmt: skip


@contextmanager
def shared_out(model: Any) -> Iterator[LanguageModel]:
    """The last block, the final norm and the head on a second device, as accelerate runs it."""
    parts = LanguageModel.of(model)
    second = [parts.blocks[-1], parts.final_norm, model.get_output_embeddings()]
    with several_devices():
        for module in second:
            put(module, SECOND)
        put(model, FIRST)
        for module in model.modules():
            if any(True for _ in module.parameters(recurse=False)):
                where = next(module.parameters(recurse=False)).device
                add_hook_to_module(module, AlignDevicesHook(execution_device=where))
        for module in (*parts.blocks, parts.final_norm):
            where = next(module.parameters()).device
            add_hook_to_module(module, AlignDevicesHook(execution_device=where), append=True)
        try:
            yield parts
        finally:
            remove_hook_from_submodules(model)


def results(parts: LanguageModel, context: Context) -> dict[str, np.ndarray]:
    found = {}
    for probe, accumulator in zip(PROBES, one_pass(parts, context, PROBES, 300), strict=True):
        for name, variable in store.variables(accumulator.result()).items():
            found[f"{type(probe).__name__}.{name}"] = variable.data
    return found


def same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        if values.dtype.kind in "fc":
            np.testing.assert_allclose(theirs[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(theirs[name], values, err_msg=name)


@pytest.fixture(params=["gpt_neox", "gpt2", "llama", "olmo2"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_probe_finds_the_same(context: Context, kind: str) -> None:
    model = tiny_model(kind, context.text.vocabulary)
    parts = LanguageModel.of(model)
    alone = results(parts, context)
    with shared_out(model) as parts:
        assert {p.device for p in model.parameters()} == {FIRST, SECOND}
        ids = torch.from_numpy(context.text.rows[0].ids)[None].to(FIRST)
        parts.self_test(ids)
        together = results(parts, context)
    same(alone, together)


@pytest.mark.parametrize(
    "intervention",
    [
        Deactivate(sets=["important"]), AblateShared(), Steer(prompts=2, new_tokens=3), Remove(),
        Perturb(trials=1),
    ],
    ids=lambda i: type(i).__name__,
)  # fmt: skip
def test_interventions_do_the_same(
    context: Context, tokenizer: Any, intervention: Intervention
) -> None:
    def result(parts: LanguageModel) -> dict[str, Any]:
        found = intervention.run(Subject(parts, context, tokenizer, 0, 300))
        return {name: variable.data for name, variable in store.variables(found).items()}

    model = tiny_model("gpt_neox", context.text.vocabulary)
    alone = result(LanguageModel.of(model))
    with shared_out(model) as parts:
        same(alone, result(parts))


def test_training_is_refused(context: Context, tokenizer: Any) -> None:
    with (
        shared_out(tiny_model("gpt_neox", context.text.vocabulary)) as parts,
        pytest.raises(UserError, match=r"intervention=lens: it trains, .* model\.device_map"),
    ):
        Lens().run(Subject(parts, context, tokenizer, 0, 300))


def test_the_pretended_devices_are_apart() -> None:
    with several_devices():
        first, second = torch.ones(3, device=FIRST), torch.ones(3, device=SECOND)
        with pytest.raises(RuntimeError, match="tensors are on xla:0, xla:1"):
            first + second
        assert isinstance(first + second.to(FIRST), Placed)
        np.testing.assert_array_equal((first + second.to(FIRST)).cpu().numpy(), [2.0, 2.0, 2.0])
        with pytest.raises(RuntimeError):
            first.numpy()
