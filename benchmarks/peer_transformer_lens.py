"""TransformerLens doing the jobs of `peers.py`: at its best, and as documented."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from peer_plain import Job, OneForward, See, Setting
from peer_sums import Found, Place, PlainSums, Sums
from torch import Tensor


def bridge(setting: Setting) -> Any:
    """`TransformerBridge` of TransformerLens 4 (which has no `HookedTransformer` any more).

    Not in compatibility mode, which would centre what is written to the residual stream.
    """
    made: Any = import_module("transformer_lens.model_bridge").TransformerBridge
    return made.boot_transformers(str(setting.folder), device="cpu")


def counted(setting: Setting) -> str:
    """Hook in a block where activations are counted; a SiLU is positive where its input is."""
    return "mlp.gate.hook_out" if setting.row.up is not None else "mlp.hook_post"


class TransformerLens(OneForward):
    """TransformerLens at its best: one forward, and hooks that hand tensors to `Sums`."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.model = setting, bridge(setting)
        self.model.requires_grad_(False)
        self.layers = range(self.model.cfg.n_layers)
        self.act = counted(setting)
        self.ends = setting.ends(self.model.ln_final, self.model.W_U.T)

    @torch.no_grad()
    def _counts(self, sums: Sums, place: Place) -> None:
        self.model.run_with_hooks(
            place.batch.ids,
            attention_mask=place.batch.attention,
            logits_to_keep=1,
            fwd_hooks=[self._hook(i, self.act, sums.see_active) for i in self.layers],
        )

    def _whole(self, sums: Sums, place: Place) -> None:
        units: list[Tensor] = []

        def hidden(layer: int, h: Tensor) -> None:
            sums.see_means(layer, h)
            sums.see_positions(h)

        def unit(_layer: int, u: Tensor) -> None:
            if not units:
                u.requires_grad_(True)
            units.append(u)
            sums.see_units(u)

        hooks = [self._hook(0, "hook_in", hidden)]
        for i in self.layers:
            hooks.append(self._hook(i, self.act, sums.see_active))
            hooks.append(self._hook(i, "mlp.hook_post", unit))
            hooks.append((f"blocks.{i}.hook_out", lambda h, hook, i=i: hidden(i + 1, h)))
        logits = self.model.run_with_hooks(
            place.batch.ids, attention_mask=place.batch.attention, fwd_hooks=hooks
        )
        loss = sums.see_logits(logits)
        for i, slope in enumerate(torch.autograd.grad(loss, units)):
            sums.see_slope(i, units[i], slope)
        sums.lens(self.ends)
        sums.divide(self.ends)

    @staticmethod
    def _hook(layer: int, name: str, see: See) -> tuple[str, Any]:
        return f"blocks.{layer}.{name}", lambda tensor, hook: see(layer, tensor)


class TransformerLensAsDocumented:
    """TransformerLens as its pages have it, a forward per page, on all that the page computes.

    - Loss: demo "Main Demo" (`return_type="loss"`), with `loss_per_token`.
    - Active units, means, evidence, logit lens: demo "Exploratory Analysis", one `run_with_cache`
      that several analyses read (`names_filter` of the page "Hook System"); `accumulated_resid` as
      its docstring has it: final norm on all of the stack, then `W_U` at the positions asked for.
    - Importance: demo "Attribution Patching", hooks on the way back and `.backward()`. The
      parameters keep their gradients, as there.
    - Counts alone: "Main Demo", `run_with_cache` with `names_filter` and `stop_at_layer`, which
      after the last block stops nothing (the unembedding is computed).
    """

    def __init__(self, setting: Setting) -> None:
        self.setting, self.model = setting, bridge(setting)
        self.layers = range(self.model.cfg.n_layers)
        self.acts = [f"blocks.{i}.{counted(setting)}" for i in self.layers]
        self.units = [f"blocks.{i}.mlp.hook_post" for i in self.layers]
        self.resid = [f"blocks.{i}.hook_resid_pre" for i in self.layers]
        self.resid.append(f"blocks.{len(self.layers) - 1}.hook_resid_post")

    def __call__(self, job: Job) -> Found:
        """Measure."""
        sums = self.setting.plain_sums()
        for place in self.setting.work.places:
            sums.begin(place)
            if job.name == "whole":
                self._loss(sums, place)
                self._cache(sums, place)
                self._attribution(sums, place)
            else:
                self._counts(sums, place)
        return sums.found()

    @torch.no_grad()
    def _counts(self, sums: PlainSums, place: Place) -> None:
        _, cache = self.model.run_with_cache(
            place.batch.ids, attention_mask=place.batch.attention,
            names_filter=self.acts, stop_at_layer=len(self.layers),
        )  # fmt: skip
        for i, name in enumerate(self.acts):
            sums.add_active(i, cache[name])

    @torch.no_grad()
    def _loss(self, sums: PlainSums, place: Place) -> None:
        nll = self.model(
            place.batch.ids, attention_mask=place.batch.attention,
            return_type="loss", loss_per_token=True,
        )  # fmt: skip
        sums.add_loss(nll)

    @torch.no_grad()
    def _cache(self, sums: PlainSums, place: Place) -> None:
        names = {*self.acts, *self.units, *self.resid, "ln_final.hook_scale"}
        _, cache = self.model.run_with_cache(
            place.batch.ids, attention_mask=place.batch.attention, names_filter=sorted(names)
        )
        scale = cache["ln_final.hook_scale"].flatten(2)[..., 0]
        for i in self.layers:
            sums.add_active(i, cache[self.acts[i]])
            sums.add_evidence(i, cache[self.units[i]], scale)
        for i, h in enumerate(cache.accumulated_resid()):
            sums.add_means(i, h)
        accumulated = cache.accumulated_resid(apply_ln=True)
        for i, h in enumerate(accumulated[:, place.rows, place.tokens]):
            sums.add_lens(i, (h @ self.model.W_U).log_softmax(-1)[:, sums.work.tokens])

    def _attribution(self, sums: PlainSums, place: Place) -> None:
        slopes: dict[int, Tensor] = {}

        def keep(slope: Tensor, hook: Any, layer: int) -> None:
            slopes[layer] = slope.detach()

        self.model.reset_hooks()
        for i, name in enumerate(self.units):
            self.model.add_hook(name, partial(keep, layer=i), "bwd")
        nll, cache = self.model.run_with_cache(
            place.batch.ids, attention_mask=place.batch.attention,
            return_type="loss", loss_per_token=True, names_filter=self.units,
        )  # fmt: skip
        nll[place.batch.scored[:, :-1]].sum().backward()
        self.model.reset_hooks()
        self.model.zero_grad()
        for i, name in enumerate(self.units):
            sums.add_slope(i, cache[name].detach(), slopes[i])
