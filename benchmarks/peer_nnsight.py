"""nnsight doing the jobs of `peers.py`: at its best, and as documented."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import Any, cast

import torch
from peer_plain import Job, OneForward, Setting
from peer_sums import Found, Place, PlainSums, Sums
from torch import Tensor
from torch.nn import functional


class Envoys:
    """`TransformersModel` of nnsight 0.8, and its parts."""

    def __init__(self, setting: Setting) -> None:
        row = setting.row
        self.model: Any = import_module("nnsight").TransformersModel(
            str(setting.folder), task="text-generation", dtype=torch.float32, dispatch=True
        )
        self.inner = self.model._module
        self.blocks = list(self._part(self.model, row.blocks))
        self.acts = [self._part(b, row.activation) for b in self.blocks]
        self.downs = [self._part(b, row.down) for b in self.blocks]
        self.norm = self._part(self.model, row.final_norm)
        head = self.inner.get_output_embeddings()
        names = [name for name, module in self.inner.named_modules() if module is head]
        self.head = self._part(self.model, names[0])

    @staticmethod
    def _part(start: Any, path: str) -> Any:
        return reduce(getattr, path.split("."), start)


class NNsight(OneForward):
    """nnsight at its best: one trace per batch, in which tensors go to `Sums`."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.parts = setting, Envoys(setting)
        self.parts.model.requires_grad_(False)
        norm = self.parts.inner.get_submodule(setting.row.final_norm)
        self.ends = setting.ends(norm, self.parts.inner.get_output_embeddings().weight)

    @torch.no_grad()
    def _counts(self, sums: Sums, place: Place) -> None:
        inputs = {"input_ids": place.batch.ids, "attention_mask": place.batch.attention}
        acts = self.parts.acts
        with self.parts.model.trace(inputs, use_cache=False) as tracer:
            for i, act in enumerate(acts):
                sums.see_active(i, act.output)
            tracer.stop()

    def _whole(self, sums: Sums, place: Place) -> None:
        inputs = {"input_ids": place.batch.ids, "attention_mask": place.batch.attention}
        model, blocks = self.parts.model, self.parts.blocks
        acts, downs = self.parts.acts, self.parts.downs
        with model.trace(inputs, use_cache=False):
            units: list[Tensor] = []
            h = blocks[0].input
            sums.see_means(0, h)
            sums.see_positions(h)
            for i in range(len(blocks)):
                sums.see_active(i, acts[i].output)
                u = downs[i].input
                if i == 0:
                    u.requires_grad_(True)
                units.append(u)
                sums.see_units(u)
                h = blocks[i].output
                sums.see_means(i + 1, h)
                sums.see_positions(h)
            loss = sums.see_logits(model.output.logits)
            with loss.backward():  # type: ignore[no-untyped-call]
                for i in range(len(units) - 1, -1, -1):
                    sums.see_slope(i, units[i], cast(Tensor, units[i].grad))
        sums.lens(self.ends)
        sums.divide(self.ends)


class NNsightAsDocumented:
    """nnsight as its pages have it, a trace per page.

    - Loss, active units, means, evidence: "Access and Modify": `.output.save()` and `.input.save()`
      in the trace, sums after it.
    - Logit lens: "Logit Lens", the variation for a target's probability: final norm and head called
      on all of a layer's output within the trace, then positions, softmax, tokens.
    - Importance: "Attribution Patching", the trace with `requires_grad_` and
      `with metric.sum().backward()`. The parameters keep their gradients, as there.
    - Counts alone: "Stop and Early Exit".
    """

    def __init__(self, setting: Setting) -> None:
        self.setting, self.parts = setting, Envoys(setting)
        embeddings = self.parts.inner.get_output_embeddings()
        norm = self.parts.inner.get_submodule(setting.row.final_norm)
        self.ends = setting.ends(norm, embeddings.weight)

    def __call__(self, job: Job) -> Found:
        """Measure."""
        sums = self.setting.plain_sums()
        for place in self.setting.work.places:
            sums.begin(place)
            inputs = {"input_ids": place.batch.ids, "attention_mask": place.batch.attention}
            if job.name == "whole":
                self._values(sums, inputs)
                self._lens(sums, inputs)
                self._attribution(sums, inputs)
            else:
                self._counts(sums, inputs)
        return sums.found()

    @torch.no_grad()
    def _counts(self, sums: PlainSums, inputs: dict[str, Tensor]) -> None:
        seen: list[Any] = [None] * len(self.parts.acts)
        acts = self.parts.acts
        with self.parts.model.trace(inputs) as tracer:
            for i, act in enumerate(acts):
                seen[i] = act.output.save()
            tracer.stop()
        for i, a in enumerate(seen):
            sums.add_active(i, a)

    @torch.no_grad()
    def _values(self, sums: PlainSums, inputs: dict[str, Tensor]) -> None:
        model, blocks = self.parts.model, self.parts.blocks
        acts, downs = self.parts.acts, self.parts.downs
        count = len(blocks)
        seen: list[Any] = [None] * count
        units: list[Any] = [None] * count
        hidden: list[Any] = [None] * (count + 1)
        with model.trace(inputs):
            hidden[0] = blocks[0].input.save()
            for i in range(count):
                seen[i] = acts[i].output.save()
                units[i] = downs[i].input.save()
                hidden[i + 1] = blocks[i].output.save()
            logits = model.output.logits.save()
        scale = self.ends.scale(hidden[-1])
        for i in range(count):
            sums.add_active(i, seen[i])
            sums.add_evidence(i, units[i], scale)
        for i, h in enumerate(hidden):
            sums.add_means(i, h)
        sums.add_loss(self._nll(logits, inputs["input_ids"]))

    @torch.no_grad()
    def _lens(self, sums: PlainSums, inputs: dict[str, Tensor]) -> None:
        model, blocks, norm, head = (
            self.parts.model, self.parts.blocks, self.parts.norm, self.parts.head
        )  # fmt: skip
        rows, tokens, wanted = sums.place.rows, sums.place.tokens, sums.work.tokens
        found: list[Any] = [None] * (len(blocks) + 1)
        with model.trace(inputs):
            logits = head(norm(blocks[0].input))
            found[0] = logits[rows, tokens].log_softmax(-1)[:, wanted].save()
            for i in range(len(blocks)):
                logits = head(norm(blocks[i].output))
                found[i + 1] = logits[rows, tokens].log_softmax(-1)[:, wanted].save()
        for i, log_probs in enumerate(found):
            sums.add_lens(i, log_probs)

    def _attribution(self, sums: PlainSums, inputs: dict[str, Tensor]) -> None:
        model, downs, nll = self.parts.model, self.parts.downs, self._nll
        scored = sums.place.batch.scored[:, :-1]
        count = len(downs)
        units: list[Any] = [None] * count
        slopes: list[Any] = [None] * count
        with model.trace(inputs):
            refs = []
            for i in range(count):
                u = downs[i].input
                u.requires_grad_(True)
                refs.append(u)
                units[i] = u.save()
            metric = nll(model.output.logits, inputs["input_ids"])[scored]
            with metric.sum().backward():  # type: ignore[no-untyped-call]
                for i in reversed(range(count)):
                    slopes[i] = refs[i].grad.save()
        self.parts.inner.zero_grad()
        for i in range(count):
            sums.add_slope(i, units[i].detach(), slopes[i])

    @staticmethod
    def _nll(logits: Tensor, ids: Tensor) -> Tensor:
        """[rows, tokens - 1] negative log-likelihood of the next token."""
        flat = logits[:, :-1].flatten(0, 1)
        nll = functional.cross_entropy(flat, ids[:, 1:].flatten(), reduction="none")
        return nll.view(len(ids), -1)
