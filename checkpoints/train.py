"""Small causal-LM training: a plain loop that can be stopped anywhere and goes on exactly.

Bit for bit reproducible: the batches (a function of step and seed), and, with the same number of
threads on the same type of CPU with the same torch, the weights; so also an interrupted run that
goes on equals an uninterrupted one. Not bit-stable: another number of threads or another type of
CPU (sums run in another order, and bfloat16 is used only where the CPU has it), another torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from checkpoints.batches import Batch
from checkpoints.files import new_file


@dataclass(frozen=True)
class Recipe:
    """How the weights are changed. AdamW; warm-up, constant, linear decay to 0."""

    steps: int
    """Optimizer steps of the whole run."""
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    decay_share: float = 0.2
    """Last part of the run in which the learning rate falls linearly to 0."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    """On matrices only: biases and norms are left alone."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "auto"
    """bfloat16 | float32 (of the matrix products; weights stay float32), or auto: bfloat16 where
    the device has instructions for it."""
    seed: int = 0
    """Of dropout, where the model has any."""

    def rate(self, step: int) -> float:
        """Learning rate of step number `step` (from 0)."""
        decay = self.decay_share * self.steps
        warm = (step + 1) / self.warmup_steps if step < self.warmup_steps else 1.0
        left = (self.steps - step) / decay if decay and self.steps - step < decay else 1.0
        return self.learning_rate * min(warm, left)


@dataclass(frozen=True)
class Seen:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    tokens_by_language: Mapping[str, int] = field(default_factory=dict)
    """Tokens read, separators included."""

    @property
    def tokens(self) -> int:
        """Tokens read in all languages."""
        return sum(self.tokens_by_language.values())

    def after(self, batch: Batch) -> Seen:
        """One step further."""
        length = batch.ids.shape[1]
        counts = Counter(self.tokens_by_language)
        counts.update({c: n * length for c, n in Counter(batch.languages).items()})
        return Seen(self.step + 1, dict(counts))


def train(
    model: torch.nn.Module,
    batches: Callable[[int], Batch],
    recipe: Recipe,
    *,
    save_at: Collection[int] = (),
    save: Callable[[Seen], None] | None = None,
    state: Path | None = None,
    state_every: int = 50,
    on_step: Callable[[int, float], None] | None = None,
) -> Seen:
    """Train `model` in place, from step 0 or from the saved `state`.

    Args:
        model: A transformers causal LM; on a CPU `attn_implementation="eager"` is the fastest for
            small models.
        batches: What step number `step` learns from; it must depend on the step alone.
        recipe: Optimizer and schedule.
        save_at: Numbers of steps done at which `save` is called; 0 is the untrained model. It may
            be called again for the same step after an interruption.
        save: Keeps a checkpoint of `model`.
        state: File in which weights, optimizer and progress are kept; None: no resuming.
        state_every: Steps between two states (one is also kept after every `save`).
        on_step: Called after every step with the number of steps done and the batch's loss
            (nats/token). It may change the weights (to hold some of them at their values).

    Returns:
        What was seen in the whole run, interrupted parts included.
    """
    optimizer = _optimizer(model, recipe)
    seen = _load(state, model, optimizer) if state and state.exists() else Seen()
    model.train()
    while True:
        due = seen.step in save_at
        if due and save is not None:
            save(seen)
            model.train()
        if state and (due or seen.step % state_every == 0):
            _store(state, model, optimizer, seen)
        if seen.step >= recipe.steps:
            return seen
        batch = batches(seen.step)
        loss = _update(model, optimizer, batch, recipe, seen.step)
        seen = seen.after(batch)
        if on_step is not None:
            on_step(seen.step, loss)


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def _update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    step: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    device = next(model.parameters()).device
    loss = _loss(model, batch.ids.to(device), recipe, step)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _loss(model: torch.nn.Module, ids: torch.Tensor, recipe: Recipe, step: int) -> torch.Tensor:
    """Mean negative log-likelihood of the next token, nats/token."""
    low = uses_bfloat16(recipe.precision, ids.device.type)
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        # Dropout of a step must not depend on how often the run was interrupted before it.
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=low):
            logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()
    )


def uses_bfloat16(precision: str, device: str) -> bool:
    """Whether matrix products are computed in bfloat16; `auto` asks the device."""
    if precision != "auto":
        return precision == "bfloat16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        # Older torch cannot tell; float32 is never wrong, only slower.
        can: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use `n` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _store(path: Path, model: torch.nn.Module, optimizer: Any, seen: Seen) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": seen.step,
        "tokens_by_language": dict(seen.tokens_by_language),
    }
    with new_file(path) as draft:
        torch.save(content, draft)


def _load(path: Path, model: torch.nn.Module, optimizer: Any) -> Seen:
    content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return Seen(content["step"], content["tokens_by_language"])
