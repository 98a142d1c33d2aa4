"""A batch is read without waiting for the device: what it finds is looked at afterwards."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from conftest import tiny_model
from pretend import FIRST, counted_waits, put, several_devices
from test_several_devices import PROBES

from tracker.late import Arrivals
from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Context


def waits(parts: LanguageModel, context: Context, batch_tokens: int) -> Counter[str]:
    with counted_waits() as found:
        one_pass(parts, context, PROBES, batch_tokens)
        return Counter(found)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama", "olmo2"])
def test_no_batch_waits(context: Context, kind: str) -> None:
    """What is waited for belongs to the checkpoint and its languages, however many batches."""
    model = tiny_model(kind, context.text.vocabulary)
    model.set_attn_implementation("eager")  # as checkpoints are loaded
    parts = LanguageModel.of(model)
    few, many = (len(list(context.text.batches(size))) for size in (3000, 300))
    assert many > few
    with several_devices():
        put(model, FIRST)
        assert waits(parts, context, 300) == waits(parts, context, 3000)


def test_waits_are_seen() -> None:
    with several_devices():
        host = torch.arange(3)
        device = host.to(FIRST, non_blocking=True)
        with counted_waits() as found:
            assert int(device.sum()) == 3
            _ = device[device > 0], device[host], device.nonzero(), device.cpu(), host.to(FIRST)
            _ = device[torch.tensor([0]).to(FIRST, non_blocking=True)], device + 1
        assert Counter(found) == {
            "aten._local_scalar_dense.default": 1, "aten.index.Tensor": 2,
            "aten.nonzero.default": 1, "cpu": 1, "aten._to_copy.default": 1,
        }  # fmt: skip


def test_arrivals_are_looked_at_in_order_once_they_are_here() -> None:
    seen: list[int] = []
    with several_devices():
        arrivals = Arrivals()
        for number in range(5):
            sent = torch.full((2,), number).to(FIRST, non_blocking=True)
            arrivals.add(sent, lambda here: seen.append(int(here[1])))
        assert seen == [0, 1, 2]
        arrivals.finish()
        assert seen == [0, 1, 2, 3, 4]
        arrivals.add(torch.tensor([5, 6]), lambda here: seen.append(int(here[1])))
        assert seen[-1] == 6
