"""What tests of interventions have in common: a model as it is, and losses one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from probing import by_row

from tracker.probes import Context


def state(model: Any) -> dict[str, Any]:
    found = {n: t.clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    assert all(p.grad is None for p in model.parameters())
    asked = [p.requires_grad for p in model.parameters()]
    return {"tensors": found, "asked": asked, "modes": [m.training for m in model.modules()]}


def assert_same(model: Any, before: dict[str, Any]) -> None:
    now = state(model)
    assert now["asked"] == before["asked"]
    assert now["modes"] == before["modes"]
    for name, tensor in before["tensors"].items():
        assert torch.equal(now["tensors"][name], tensor), name


def losses(context: Context, model: Any) -> np.ndarray[Any, Any]:
    """[document] summed NLL, one row at a time; NaN where nothing is scored."""
    found = np.full(len(context.text.documents), np.nan)
    with torch.no_grad():
        for row, logits, _ in by_row(context, model).values():
            target = torch.from_numpy(row.ids)[row.first_scored :]
            nll = torch.nn.functional.cross_entropy(
                logits[row.first_scored - 1 : -1], target, reduction="sum"
            )
            found[row.document] = np.nan_to_num(found[row.document]) + float(nll)
    return found
