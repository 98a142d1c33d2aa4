"""A causal language model taken apart: where its residual stream, MLP units and head are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import CheckpointError, UserError
from tracker.norms import Norm


@dataclass(frozen=True)
class Anatomy:
    """Module paths of one architecture (`model_type` of transformers)."""

    blocks: str
    """The list of transformer blocks; each block's output is the residual stream."""
    final_norm: str
    activation: str
    """Within a block: the module whose output is the activation that is counted."""
    down: str
    """Within a block: the MLP's output projection; its input is the unit's contribution."""
    up: str | None = None
    """Within a block, gated MLPs only: the projection that the activation is multiplied with.

    Where it is one matrix with the gate's (Phi-3), the last outputs, as many as there are units.
    """
    after: str | None = None
    """Within a block: the norm that the MLP's output passes before it is added to the stream."""
    norm_added: float = 0.0
    """What the architecture's norms add to their stored weights."""
    only: Mapping[str, object] = field(default_factory=dict)
    """Settings of the config for which alone the row holds."""


_GPT2 = Anatomy("transformer.h", "transformer.ln_f", "mlp.act", "mlp.c_proj")
_LLAMA = Anatomy("model.layers", "model.norm", "mlp.act_fn", "mlp.down_proj", "mlp.up_proj")
_AFTER = replace(_LLAMA, after="post_feedforward_layernorm")

ANATOMY: dict[str, Anatomy] = {
    "apertus": replace(_LLAMA, up=None),
    "bloom": Anatomy(
        "transformer.h", "transformer.ln_f", "mlp.gelu_impl", "mlp.dense_4h_to_h",
        # With the first, the stream is not a sum; the second goes around the output projection.
        only={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
    ),
    "falcon": Anatomy("transformer.h", "transformer.ln_f", "mlp.act", "mlp.dense_4h_to_h"),
    "gemma": replace(_LLAMA, norm_added=1.0),
    "gemma2": replace(_AFTER, norm_added=1.0),
    "gemma3_text": replace(_AFTER, norm_added=1.0),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neox": Anatomy(
        "gpt_neox.layers", "gpt_neox.final_layer_norm", "mlp.act", "mlp.dense_4h_to_h"
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _AFTER,
    "olmo3": _AFTER,
    "opt": Anatomy(
        "model.decoder.layers", "model.decoder.final_layer_norm", "activation_fn", "fc2",
        # Otherwise (350m) every block normalises the stream itself, and there is no final norm.
        only={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
    "phi": Anatomy("model.layers", "model.final_layernorm", "mlp.activation_fn", "mlp.fc2"),
    "phi3": Anatomy(
        "model.layers", "model.norm", "mlp.activation_fn", "mlp.down_proj", "mlp.gate_up_proj"
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": Anatomy("model.layers", "model.norm", "mlp.act", "mlp.c_proj"),
}  # fmt: skip
"""One row per architecture; `LanguageModel.self_test` tells whether a new row is right."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded checkpoint with handles on the parts that are measured."""

    model: Any
    blocks: tuple[nn.Module, ...]
    norm: Norm
    """The final norm, taken apart."""
    activations: tuple[nn.Module, ...]
    downs: tuple[Any, ...]
    ups: tuple[nn.Module, ...]
    """Empty where the MLP is not gated."""
    after: tuple[Norm, ...]
    """The norms between the MLPs and the residual stream; empty where there are none."""

    @classmethod
    def of(cls, model: Any) -> LanguageModel:
        """Take a transformers causal language model apart.

        Raises:
            UserError: No row of `ANATOMY` for this architecture, or the row does not fit.
        """
        row = anatomy_of(model.config.to_dict())
        try:
            blocks = tuple(model.get_submodule(row.blocks))
            after = [b.get_submodule(row.after) for b in blocks] if row.after else []
            return cls(
                model=model,
                blocks=blocks,
                norm=Norm(model.get_submodule(row.final_norm), row.norm_added),
                activations=tuple(b.get_submodule(row.activation) for b in blocks),
                downs=tuple(b.get_submodule(row.down) for b in blocks),
                ups=tuple(b.get_submodule(row.up) for b in blocks) if row.up else (),
                after=tuple(Norm(module, row.norm_added) for module in after),
            )
        except AttributeError as error:
            raise UserError(
                f"architecture {model.config.model_type}: its row in tracker/model.py ANATOMY "
                f"does not fit ({error})"
            ) from None

    @property
    def layers(self) -> int:
        """Number of blocks, n."""
        return len(self.blocks)

    @property
    def units(self) -> int:
        """MLP units per layer, U."""
        weight = self.downs[0].weight
        return int(weight.shape[0] if self._input_first(self.downs[0]) else weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where inputs must be, and where all that is measured is, over however many it runs."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def gated(self) -> bool:
        """Whether the activation is multiplied with a second projection."""
        return bool(self.ups)

    @property
    def unembedding(self) -> Tensor:
        """[vocabulary, d] weight of the output head."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def unembedding_bias(self) -> Tensor | None:
        """[vocabulary] bias of the output head, if it has one."""
        bias: Tensor | None = self.model.get_output_embeddings().bias
        return bias

    @staticmethod
    def _input_first(down: Any) -> bool:
        """GPT-2's Conv1D stores [input, output]; a Linear stores [output, input]."""
        return not isinstance(down, nn.Linear)

    def writing(self, layer: int) -> Tensor:
        """[units, d] the MLP's output per unit of layer index `layer`: a view of the weights."""
        weight: Tensor = self.downs[layer].weight
        return weight if self._input_first(self.downs[layer]) else weight.T

    def stream_writing(self, layer: int) -> Tensor:
        """[units, d] float32, what each unit adds to the residual stream, times `written_scale`."""
        rows = self.writing(layer).to(self.device).float()
        return self.after[layer].writing(rows) if self.after else rows

    def written_scale(self, layer: int, unit: Tensor) -> Tensor | float:
        """[...] what the MLP's output is divided by on its way to the stream; 1 without a norm.

        `unit` [..., U] are the inputs of the output projection.
        """
        if not self.after:
            return 1.0
        down = self.downs[layer]
        written = down(unit.to(down.weight.device)).to(unit.device)
        return self.after[layer].scale(written)

    @cached_property
    def matrices(self) -> dict[str, Tensor]:
        """Weight matrices inside the blocks by name, as the model stores them."""
        inside = {id(p) for block in self.blocks for p in block.parameters()}
        named = self.model.named_parameters()
        return {name: p for name, p in named if id(p) in inside and p.ndim == 2}

    @cached_property
    def input_first(self) -> frozenset[str]:
        """Names of the matrices that are stored [input, output] (GPT-2), not [output, input]."""
        conv = [n for n, m in self.model.named_modules() if isinstance(m, Conv1D)]
        return frozenset(f"{name}.weight" for name in conv)

    @property
    def final_norm(self) -> Any:
        """The module between the last block and the head."""
        return self.norm.module

    @property
    def norm_centres(self) -> bool:
        """LayerNorm subtracts the mean over the model dimension, RMSNorm does not."""
        return self.norm.centres

    def norm_scale(self, residual: Tensor) -> Tensor:
        """[...] the denominator of the final norm at each position of `residual` [..., d]."""
        return self.norm.scale(residual)

    @property
    def soft_cap(self) -> float | None:
        """`c` where logits are `c · tanh(z / c)` (Gemma 2)."""
        cap: float | None = getattr(self.model.config, "final_logit_softcapping", None)
        return cap

    def trunk(self, ids: Tensor, attention: Tensor) -> Tensor:
        """[rows, tokens, d] the normalised output of the last block, without the head."""
        out = self.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Scores of `tokens` (all by default) at normalised states [..., d], in float32."""
        weight, bias = self.unembedding, self.unembedding_bias
        if tokens is not None:
            tokens = tokens.to(weight.device)
            weight = weight[tokens]
            bias = None if bias is None else bias[tokens]
        scores = nn.functional.linear(hidden.to(weight.device), weight, bias)
        scores = scores.to(hidden.device).float()
        return scores if self.soft_cap is None else (scores / self.soft_cap).tanh() * self.soft_cap

    def logits_slope(self, slope: Tensor, logits: Tensor) -> Tensor:
        """Gradient at the normalised states, given the one (`slope`) at their `logits`."""
        if self.soft_cap is not None:
            slope = slope * (1 - (logits / self.soft_cap).square())
        return (slope.to(self.unembedding) @ self.unembedding).to(slope.device)

    def lens(self, residual: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logit lens: scores of `tokens` (all by default) at `residual` [..., d], in float32.

        `W_U · FinalNorm(h)`, the norm applied once: `residual` is the un-normalised stream at any
        layer, the last included (nostalgebraist 2020; methods 2). Soft-capped where the model's
        own logits are.
        """
        return self.logits(self.norm.of(residual), tokens)

    def self_test(self, ids: Tensor) -> None:
        """Check on `ids` [rows, tokens] that the parts are what they are taken for.

        The lens at the last layer must equal the model's own logits, the activation that is
        counted must be the one that is multiplied into the MLP's output, norms must be what their
        parts say, and without its MLP the last block must write exactly that much less.

        Raises:
            UserError: They are not: the row of `ANATOMY` is wrong for this model.
            CheckpointError: These weights give outputs that are not finite.
        """
        seen: dict[str, Any] = {}
        attention = torch.ones_like(ids)
        with torch.no_grad(), capture(self, seen):
            logits = self.model(input_ids=ids, attention_mask=attention, use_cache=False).logits
        if not bool(torch.isfinite(logits).all()):
            raise CheckpointError("its outputs are not finite")
        mine = self.lens(seen["residual"][-1]).to(logits.device)
        tolerance = 1e-3 if logits.dtype == torch.float32 else 5e-2
        theirs = logits.float()
        # Where logits are capped, theirs are rounded once more.
        rounding = 2 * torch.finfo(logits.dtype).eps * theirs.abs().max()
        allowed = tolerance * theirs.std().clamp_min(1e-6) + rounding
        if not bool((mine - theirs).abs().max() < allowed):
            raise UserError(self._unfit("the lens at the last layer is not the model's output"))
        for a, x, up in zip(seen["activation"], seen["unit"], self._up_outputs(seen), strict=True):
            product = a if up is None else a * up[..., -self.units :]
            if not torch.allclose(product.float(), x.float(), rtol=1e-2, atol=1e-5):
                raise UserError(
                    self._unfit("the counted activation is not what the MLP multiplies")
                )
        self._test_last_mlp(ids, seen["unit"][-1], seen["residual"][-1], tolerance)

    def _test_last_mlp(self, ids: Tensor, unit: Tensor, residual: Tensor, tolerance: float) -> None:
        """What the last MLP writes, and the norms it goes through."""
        without: dict[str, Any] = {}
        silent = self.downs[-1].register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
        try:
            with torch.no_grad(), capture(self, without):
                self.trunk(ids, torch.ones_like(ids))
        finally:
            silent.remove()
        written = self.downs[-1](unit).view_as(residual)
        norms = [(self.norm, residual), *((norm, written) for norm in self.after[-1:])]
        if not all(norm.fits(h) for norm, h in norms):
            raise UserError(self._unfit("a norm is not what it is taken for"))
        if self.after:
            written = self.after[-1].of(written)
        difference = residual.float() - without["residual"][-1].float() - written.float()
        size = torch.linalg.vector_norm
        rounding = 4 * torch.finfo(residual.dtype).eps * size(residual.float())
        if not bool(size(difference) <= tolerance * size(written.float()) + rounding):
            raise UserError(self._unfit("the MLP's output is not what is added to the stream"))

    def _up_outputs(self, seen: dict[str, Any]) -> Sequence[Tensor | None]:
        return seen["up"] if self.gated else [None] * self.layers

    def _unfit(self, what: str) -> str:
        return (
            f"architecture {self.model.config.model_type}: {what}; "
            "its row in tracker/model.py ANATOMY does not fit this version of transformers"
        )


def anatomy_of(config: Mapping[str, Any]) -> Anatomy:
    """The row for a model of this config (as `config.json` has it).

    Raises:
        UserError: There is none, or it does not hold for these settings.
    """
    kind = config.get("model_type")
    if kind not in ANATOMY and _has_experts(config):
        raise UserError(
            f"architecture {kind!r} is a mixture of experts, which is not supported: a token "
            "passes a few experts only, so a unit that it did not reach cannot be told from one "
            "that is off, and activation counts would measure the routing"
        )
    if kind not in ANATOMY:
        raise UserError(
            f"architecture {kind!r} is not supported; supported are {', '.join(sorted(ANATOMY))}. "
            "To add it: one row in tracker/model.py ANATOMY (blocks, final norm, MLP activation, "
            "output projection); the self-test at load tells whether the row is right"
        )
    row = ANATOMY[kind]
    for key, value in row.only.items():
        if config.get(key, value) != value:
            raise UserError(
                f"architecture {kind!r} with {key}={config[key]} is not supported, only with "
                f"{value}: what a unit adds to the residual stream would not be known"
            )
    return row


def _has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config, or one inside it, has a number of experts above 1, under whatever name."""
    return any(
        _has_experts(value)
        if isinstance(value, Mapping)
        else "expert" in str(key) and isinstance(value, int) and value > 1
        for key, value in config.items()
    )


class Enough(Exception):  # noqa: N818  # nothing went wrong
    """Everything that was asked for has been seen: the rest of the forward is not needed."""


@contextmanager
def capture(
    model: LanguageModel,
    seen: dict[str, Any],
    start_gradient: bool = False,
    end: str | None = None,
) -> Iterator[None]:
    """Collect, during one forward inside: `residual` [n+1], `activation`, `unit` (and `up`) [n].

    `unit` is the input of the MLP's output projection. Tensors are the model's own, not copies,
    so gradients flow through them where they are asked for. All hooks are removed on the way out.
    With `end` (`residual` or `unit`) the forward stops by raising `Enough` after the last of these.
    """
    seen.update(residual=[], activation=[], unit=[], up=[])
    handles: list[Any] = []

    def into(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name].append(output[0] if isinstance(output, tuple) else output)
            stop(name)

        return hook

    def residual_in(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["residual"].append(args[0] if args else kwargs["hidden_states"])

    def unit_in(_module: nn.Module, args: Any) -> None:
        if start_gradient and not seen["unit"]:
            # The graph need not reach below the first activation whose gradient is wanted.
            args[0].requires_grad_(True)
        seen["unit"].append(args[0])
        stop("unit")

    def stop(name: str) -> None:
        if name == end and len(seen[name]) == model.layers + (name == "residual"):
            raise Enough

    try:
        handles.append(model.blocks[0].register_forward_pre_hook(residual_in, with_kwargs=True))
        handles += [b.register_forward_hook(into("residual")) for b in model.blocks]
        handles += [a.register_forward_hook(into("activation")) for a in model.activations]
        handles += [d.register_forward_pre_hook(unit_in) for d in model.downs]
        handles += [u.register_forward_hook(into("up")) for u in model.ups]
        yield
    finally:
        for handle in handles:
            handle.remove()
