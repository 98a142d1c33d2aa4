"""A causal language model taken apart: where its residual stream, MLP units and head are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import CheckpointError, UserError


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
    """Within a block, gated MLPs only: the projection that the activation is multiplied with."""


_LLAMA = Anatomy("model.layers", "model.norm", "mlp.act_fn", "mlp.down_proj", "mlp.up_proj")

ANATOMY: dict[str, Anatomy] = {
    "gpt_neox": Anatomy(
        "gpt_neox.layers", "gpt_neox.final_layer_norm", "mlp.act", "mlp.dense_4h_to_h"
    ),
    "gpt2": Anatomy("transformer.h", "transformer.ln_f", "mlp.act", "mlp.c_proj"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""One row per architecture; `LanguageModel.self_test` tells whether a new row is right."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded checkpoint with handles on the parts that are measured."""

    model: Any
    blocks: tuple[nn.Module, ...]
    final_norm: Any
    activations: tuple[nn.Module, ...]
    downs: tuple[Any, ...]
    ups: tuple[nn.Module, ...]
    """Empty where the MLP is not gated."""

    @classmethod
    def of(cls, model: Any) -> LanguageModel:
        """Take a transformers causal language model apart.

        Raises:
            UserError: No row of `ANATOMY` for this architecture, or the row does not fit.
        """
        kind = model.config.model_type
        if kind not in ANATOMY:
            raise UserError(unsupported(kind))
        row = ANATOMY[kind]
        try:
            blocks = tuple(model.get_submodule(row.blocks))
            return cls(
                model=model,
                blocks=blocks,
                final_norm=model.get_submodule(row.final_norm),
                activations=tuple(b.get_submodule(row.activation) for b in blocks),
                downs=tuple(b.get_submodule(row.down) for b in blocks),
                ups=tuple(b.get_submodule(row.up) for b in blocks) if row.up else (),
            )
        except AttributeError as error:
            raise UserError(
                f"architecture {kind}: its row in tracker/model.py ANATOMY does not fit ({error})"
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
        """Where inputs must be."""
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
        """[units, d] what each unit of layer index `layer` adds to the residual stream."""
        weight: Tensor = self.downs[layer].weight
        return weight if self._input_first(self.downs[layer]) else weight.T

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
    def norm_centres(self) -> bool:
        """LayerNorm subtracts the mean over the model dimension, RMSNorm does not."""
        return isinstance(self.final_norm, nn.LayerNorm)

    def norm_scale(self, residual: Tensor) -> Tensor:
        """[...] the denominator of the final norm at each position of `residual` [..., d].

        `sqrt(variance + eps)`, about the mean for LayerNorm, about zero for RMSNorm; eps is the
        norm's own, so that dividing by the scale is exactly what the norm does.
        """
        h = residual.float()
        if self.norm_centres:
            h = h - h.mean(-1, keepdim=True)
        return (h.square().mean(-1) + self._norm_eps).sqrt()

    @property
    def _norm_eps(self) -> float:
        norm = self.final_norm
        return float(norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon)

    def trunk(self, ids: Tensor, attention: Tensor) -> Tensor:
        """[rows, tokens, d] the normalised output of the last block, without the head."""
        out = self.model.base_model(input_ids=ids, attention_mask=attention, use_cache=False)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def lens(self, residual: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logit lens: scores of `tokens` (all by default) at `residual` [..., d], in float32.

        `W_U · FinalNorm(h)`, the norm applied once: `residual` is the un-normalised stream at any
        layer, the last included (nostalgebraist 2020; methods 2).
        """
        weight, bias = self.unembedding, self.unembedding_bias
        if tokens is not None:
            weight = weight[tokens]
            bias = None if bias is None else bias[tokens]
        return nn.functional.linear(self.final_norm(residual), weight, bias).float()

    def self_test(self, ids: Tensor) -> None:
        """Check on `ids` [rows, tokens] that the parts are what they are taken for.

        The lens at the last layer must equal the model's own logits, and the activation that is
        counted must be the one that is multiplied into the MLP's output.

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
        mine = self.lens(seen["residual"][-1])
        tolerance = 1e-3 if logits.dtype == torch.float32 else 5e-2
        spread = logits.float().std().clamp_min(1e-6)
        if not bool(((mine - logits.float()).abs().max() / spread) < tolerance):
            raise UserError(self._unfit("the lens at the last layer is not the model's output"))
        for a, x, up in zip(seen["activation"], seen["unit"], self._up_outputs(seen), strict=True):
            product = a if up is None else a * up
            if not torch.allclose(product.float(), x.float(), rtol=1e-2, atol=1e-5):
                raise UserError(
                    self._unfit("the counted activation is not what the MLP multiplies")
                )

    def _up_outputs(self, seen: dict[str, Any]) -> Sequence[Tensor | None]:
        return seen["up"] if self.gated else [None] * self.layers

    def _unfit(self, what: str) -> str:
        return (
            f"architecture {self.model.config.model_type}: {what}; "
            "its row in tracker/model.py ANATOMY does not fit this version of transformers"
        )


def unsupported(kind: str) -> str:
    """The message for an architecture without a row."""
    return (
        f"architecture {kind!r} is not supported; supported are {', '.join(sorted(ANATOMY))}. "
        "To add it: one row in tracker/model.py ANATOMY (blocks, final norm, MLP activation, "
        "output projection); the self-test at load tells whether the row is right"
    )


@contextmanager
def capture(
    model: LanguageModel, seen: dict[str, Any], start_gradient: bool = False
) -> Iterator[None]:
    """Collect, during one forward inside: `residual` [n+1], `activation`, `unit` (and `up`) [n].

    `unit` is the input of the MLP's output projection. Tensors are the model's own, not copies,
    so gradients flow through them where they are asked for. All hooks are removed on the way out.
    """
    seen.update(residual=[], activation=[], unit=[], up=[])
    handles: list[Any] = []

    def into(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name].append(output[0] if isinstance(output, tuple) else output)

        return hook

    def residual_in(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen["residual"].append(args[0] if args else kwargs["hidden_states"])

    def unit_in(_module: nn.Module, args: Any) -> None:
        if start_gradient and not seen["unit"]:
            # The graph need not reach below the first activation whose gradient is wanted.
            args[0].requires_grad_(True)
        seen["unit"].append(args[0])

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


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, trust_remote_code: bool = False
) -> Any:
    """Load a checkpoint's weights from its folder; every weight must be there and finite.

    No pickle is executed: safetensors, or `.bin` read with `weights_only`.

    Raises:
        CheckpointError: Weights missing, of another shape, not finite, or not readable.
        UserError: The architecture is not supported.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours counts checkpoints
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # we refuse what it reports
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if config.model_type not in ANATOMY:
        raise UserError(unsupported(config.model_type))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:  # damage shows as any of a dozen types, all of them this one's fault
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the weights cannot be loaded ({first[:200]})") from error
    model, info = loaded
    _refuse_incomplete(info)
    _refuse_infinite(model)
    return model.to(device).eval().requires_grad_(False)


def count_parameters(folder: Path, trust_remote_code: bool = False) -> int:
    """Parameters of the model that a checkpoint's config describes, without reading weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, trust_remote_code=trust_remote_code)
    return sum(p.numel() for p in model.parameters())


def _refuse_incomplete(info: Any) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"the weights lack {missing[0]} ({len(missing)} missing)")
    mismatched = list(info.get("mismatched_keys", ()))
    if mismatched:
        raise CheckpointError(f"the weights have another shape: {mismatched[0]}")


def _refuse_infinite(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(f"{name} holds NaN or infinite values")
