"""What is found does not depend on how the text is cut into batches, on padding or on threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from test_several_devices import PROBES

from tracker import store
from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Context
from tracker.text import Batch, ProbeText


def results(model: Any, context: Context, batch_tokens: int = 300) -> dict[str, np.ndarray]:
    running = one_pass(LanguageModel.of(model), context, PROBES, batch_tokens)
    found = [
        (f"{type(probe).__name__}.{name}", variable.data)
        for probe, sums in zip(PROBES, running, strict=True)
        for name, variable in store.variables(sums.result()).items()
    ]
    # Halves of the gradients are batches in turn: other batches are other halves.
    return {name: values for name, values in found if ".gradient_" not in name}


def same(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Numbers up to rounding; members of sets, but for what rounding moves over a bar."""
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(theirs[name], values, rtol=2e-3, atol=2e-5, err_msg=name)
        elif values.dtype.kind == "b":
            assert (theirs[name] != values).mean() < 2e-3, name
        elif values.dtype.kind == "i" and name.startswith("Regions."):
            assert np.abs(theirs[name] - values).mean() < 0.02, name
        else:
            np.testing.assert_array_equal(theirs[name], values, err_msg=name)


@pytest.fixture(params=["gpt_neox", "llama"])
def read(request: pytest.FixtureRequest, context: Context) -> Any:
    return tiny_model(request.param, context.text.vocabulary)


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_batches(read: Any, context: Context, batch_tokens: int) -> None:
    same(results(read, context), results(read, context, batch_tokens))


def test_padding(read: Any, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = results(read, context)
    batches = ProbeText.batches

    def padded(self: ProbeText, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        for batch in batches(self, *args, **kwargs):
            wider = {
                name: torch.nn.functional.pad(getattr(batch, name), (0, 7))
                for name in ("ids", "attention", "real", "scored", "target")
            }
            yield replace(batch, **wider)

    monkeypatch.setattr(ProbeText, "batches", padded)
    same(plain, results(read, context))


def test_threads(read: Any, context: Context) -> None:
    assert torch.get_num_threads() == 1
    alone = results(read, context)
    torch.set_num_threads(2)
    try:
        same(alone, results(read, context))
    finally:
        torch.set_num_threads(1)
