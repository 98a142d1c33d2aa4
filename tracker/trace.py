"""One forward, and one backward if a probe asks, over a batch of probe text."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tracker.model import Enough, LanguageModel, capture
from tracker.text import Batch


class Need(enum.Flag):
    """What a probe reads of a trace."""

    NOTHING = 0
    LOSS = enum.auto()
    RESIDUAL = enum.auto()
    ACTIVATION = enum.auto()
    GRADIENT = enum.auto()
    """Gradient of the loss, summed over scored tokens, at each MLP unit."""
    PARAMETER = enum.auto()
    """Gradient of the same loss at the blocks' weight matrices, added to each matrix's `.grad`."""


@dataclass(frozen=True)
class Trace:
    """What one batch did in the model. Tensors are empty lists where no probe needs them."""

    model: LanguageModel
    batch: Batch
    nll: Tensor
    """[rows, tokens] float32 negative log-likelihood of the next token (nats); 0 if unscored."""
    correct: Tensor
    """[rows, tokens] bool, the next token is the most likely one."""
    residual: Sequence[Tensor]
    """[n+1] of [rows, tokens, d]: the residual stream, embeddings first, not normalised."""
    activation: Sequence[Tensor]
    """[n] of [rows, tokens, U]: output of the non-linearity."""
    unit: Sequence[Tensor]
    """[n] of [rows, tokens, U]: input of the MLP's output projection."""
    gradient: Sequence[Tensor]
    """[n] of [rows, tokens, U]: d(summed NLL)/d(unit)."""

    @cached_property
    def row_sum(self) -> Tensor:
        """[n+1, rows, d] float32, the residual stream summed over each row's tokens of text."""
        real = self.batch.real.float()[:, None]
        return torch.stack([torch.bmm(real, h.float())[:, 0] for h in self.residual])


def run(model: LanguageModel, batch: Batch, needs: Need) -> Trace:
    """One forward for all probes; one backward, down to the first thing asked for, if one asks.

    With `Need.PARAMETER` the gradients of the blocks' matrices stay in their `.grad`, summed over
    batches until somebody takes them: a second copy of the parameters, and never a third.
    """
    backward = bool(needs & (Need.GRADIENT | Need.PARAMETER))
    matrices = list(model.matrices.values()) if Need.PARAMETER in needs else []
    seen: dict[str, list[Tensor]] = {}
    # Without a loss there is nothing to do after the last block, or its MLP's first half.
    end = None
    if not backward and Need.LOSS not in needs:
        end = "residual" if Need.RESIDUAL in needs else "unit"
    nll = torch.zeros(batch.scored.shape)
    correct = torch.zeros(batch.scored.shape, dtype=torch.bool)
    units: list[Tensor] = []
    with (
        torch.set_grad_enabled(backward),
        _differentiable(matrices),
        capture(model, seen, start_gradient=Need.GRADIENT in needs, end=end),
        suppress(Enough),
    ):
        final = model.trunk(batch.ids, batch.attention)
        nll, correct, slope = head(model, final.detach(), batch.to(final.device), backward)
        units = seen["unit"] if Need.GRADIENT in needs else []
        if slope is not None:
            torch.autograd.backward(final, slope, inputs=[*units, *matrices])
    return Trace(
        model=model,
        batch=batch,
        nll=nll.to(model.device),
        correct=correct.to(model.device),
        residual=_kept(seen["residual"], batch, Need.RESIDUAL in needs),
        activation=_kept(seen["activation"], batch, Need.ACTIVATION in needs),
        unit=_kept(seen["unit"], batch, bool(needs & (Need.ACTIVATION | Need.GRADIENT))),
        gradient=_kept([_gradient(u) for u in units], batch, True),
    )


@contextmanager
def _differentiable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let gradients flow into `parameters`, and only while inside."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _kept(tensors: Sequence[Tensor], batch: Batch, wanted: bool) -> Sequence[Tensor]:
    """As [rows, tokens, ...], which an MLP may have flattened (OPT), all where the batch is."""
    shape, device = batch.ids.shape, batch.ids.device
    return [t.detach().view(*shape, -1).to(device) for t in tensors] if wanted else []


def head(
    model: LanguageModel, final: Tensor, batch: Batch, slope: bool, chunk: int = 1024
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss, correctness and, if asked, the gradient of the summed loss at `final`.

    The vocabulary's logits exist for `chunk` scored positions at a time only. The gradient of
    `sum(logsumexp(z) - z[target])` at `final` is `(softmax(z) - onehot(target)) · dz/dfinal`.
    """
    at = batch.scored_at  # a mask would have to be read before its positions are known
    flat = final.flatten(0, 1)[at]
    target = batch.target.flatten()[at]
    losses, hits, slopes = [], [], []
    for start in range(0, len(flat), chunk):
        piece = slice(start, start + chunk)
        logits = model.logits(flat[piece])
        normaliser = logits.logsumexp(-1)
        losses.append(normaliser - logits.gather(-1, target[piece, None])[:, 0])
        hits.append(logits.argmax(-1) == target[piece])
        if slope:
            error = (logits - normaliser[:, None]).exp_()
            error.scatter_add_(-1, target[piece, None], error.new_full((len(error), 1), -1.0))
            slopes.append(model.logits_slope(error, logits))
    nll = torch.zeros(batch.scored.shape, device=final.device)
    correct = torch.zeros_like(batch.scored)
    if losses:
        nll.view(-1)[at] = torch.cat(losses)
        correct.view(-1)[at] = torch.cat(hits)
    if not slope:
        return nll, correct, None
    gradient = final.new_zeros(final.shape)
    if slopes:
        gradient.flatten(0, 1)[at] = torch.cat(slopes).to(final.dtype)
    return nll, correct, gradient
