"""Every architecture of the table, as its real class, against MLPs and norms written out here."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MAKERS, tiny_model
from probing import batch_of, measure
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from checkpoints.errors import UserError
from tracker.generation import continued
from tracker.interventions.edits import units_held
from tracker.loading import ModelSettings, load_model
from tracker.model import ANATOMY, LanguageModel, anatomy_of
from tracker.neurons import NeuronSet
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
from tracker.store import variables
from tracker.text import Batch
from tracker.trace import Need, Trace, run

LAYER = 1
"""Whose unit is deactivated: one layer below it, one above."""


def gelu(z: Tensor) -> Tensor:
    return z / 2 * (1 + torch.erf(z / math.sqrt(2)))


def gelu_tanh(z: Tensor) -> Tensor:
    return z / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def silu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z))


def relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, 0.0)


def xielu(z: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Integral of `2 a z + b` above 0 and of `a' (e^z - 1) + b` below (arXiv 2411.13010)."""
    b = 0.5
    a, c = torch.log1p(torch.exp(above)), b + torch.log1p(torch.exp(below))
    return torch.where(z > 0, a * z**2 + b * z, c * (torch.exp(z) - 1 - z) + b * z)


LLAMA = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", silu)
GEMMA = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", gelu_tanh)
FOUR = ("mlp.dense_h_to_4h", None, "mlp.dense_4h_to_h")
GPT2 = ("mlp.c_fc", None, "mlp.c_proj", gelu_tanh)

MLPS: dict[str, tuple[str, str | None, str, Any]] = {
    "apertus": ("mlp.up_proj", None, "mlp.down_proj", xielu),
    "bloom": (*FOUR, gelu_tanh),
    "falcon": (*FOUR, gelu),
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neox": (*FOUR, gelu),
    "llama": LLAMA,
    "mistral": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "olmo3": LLAMA,
    "opt": ("fc1", None, "fc2", relu),
    "phi": ("mlp.fc1", None, "mlp.fc2", gelu_tanh),
    "phi3": ("mlp.gate_up_proj", "mlp.gate_up_proj", "mlp.down_proj", silu),
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "starcoder2": GPT2,
}
"""First projection, what its activation is multiplied with, output projection, activation."""

AFTER = {"gemma2": 1.0, "gemma3_text": 1.0, "olmo2": 0.0, "olmo3": 0.0}
"""Architectures that normalise the MLP's output, and what they add to that norm's weight."""


class HandMLP(torch.nn.Module):
    """An MLP from its definition; no module of the model and no hook has a part in it."""

    def __init__(self, block: Any, kind: str) -> None:
        super().__init__()
        first, second, out, act = MLPS[kind]
        (gate, gate_bias), (self.out, self.bias) = affine(block, first), affine(block, out)
        self.second = affine(block, second)[0] if second else None
        if first == second:
            gate, self.second = gate.chunk(2)
        self.gate, self.gate_bias = gate, gate_bias
        if act is xielu:
            act = partial(xielu, above=block.mlp.act_fn.alpha_p, below=block.mlp.act_fn.alpha_n)
        self.act: Callable[[Tensor], Tensor] = act
        self.keep = torch.ones(len(gate))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`residual`: Bloom's MLP adds it itself."""
        self.activation = self.act(x @ self.gate.T + self.gate_bias)
        product = self.activation if self.second is None else self.activation * (x @ self.second.T)
        # Where nothing below needs a gradient, gradients start here.
        self.unit = product if product.requires_grad else product.requires_grad_(True)
        self.written = (self.unit * self.keep) @ self.out.T + self.bias
        # Falcon adds to what it gets in place.
        return self.written.clone() if residual is None else self.written + residual


def affine(block: Any, path: str) -> tuple[Tensor, Tensor | float]:
    """Weight [output, input] and bias; GPT-2 stores the weight the other way round."""
    module = block.get_submodule(path)
    bias = getattr(module, "bias", None)
    weight = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight, 0.0 if bias is None else bias


def by_hand(model: Any) -> tuple[Any, list[HandMLP]]:
    """A copy of the model whose MLPs are ours."""
    model = copy.deepcopy(model)
    kind, hands = model.config.model_type, []
    for block in model.get_submodule(ANATOMY[kind].blocks):
        hand = HandMLP(block, kind)
        if kind == "opt":
            block.fc1 = block.activation_fn = torch.nn.Identity()
            block.fc2 = hand
        else:
            block.mlp = hand
        hands.append(hand)
    return model, hands


@dataclass
class Case:
    """A model, what the tracker saw of a batch, and what the copy written by hand did."""

    model: Any
    parts: LanguageModel = field(init=False)
    batch: Batch = field(init=False)
    trace: Trace = field(init=False)
    hand: Any = field(init=False)
    hands: list[HandMLP] = field(init=False)
    out: Any = field(init=False)

    def __post_init__(self) -> None:
        self.parts, self.batch = LanguageModel.of(self.model), batch_of(self.model)
        needs = Need.LOSS | Need.RESIDUAL | Need.ACTIVATION | Need.GRADIENT
        self.trace = run(self.parts, self.batch, needs)
        self.hand, self.hands = by_hand(self.model)
        self.out = self.read(self.hand)

    def read(self, model: Any) -> Any:
        """Logits and hidden states, as transformers gives them."""
        return model(
            input_ids=self.batch.ids, attention_mask=self.batch.attention,
            output_hidden_states=True,
        )  # fmt: skip

    @property
    def kind(self) -> str:
        found: str = self.model.config.model_type
        return found


@pytest.fixture(scope="module", params=sorted(MAKERS))
def case(request: pytest.FixtureRequest, tokenizer: Any) -> Case:
    """Every architecture and variant."""
    return Case(tiny_model(request.param, len(tokenizer)))


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


def test_the_stream_is_the_hidden_states_and_the_lens_at_its_end_the_logits(case: Case) -> None:
    case.parts.self_test(case.batch.ids[:1])
    out = case.read(case.model)
    for mine, theirs in zip(case.trace.residual[:-1], out.hidden_states[:-1], strict=True):
        close(mine, theirs)
    last = case.trace.residual[-1]
    close(case.parts.final_norm(last), out.hidden_states[-1])
    close(case.parts.lens(last), out.logits)
    some = torch.tensor([3, 1, 4])
    close(case.parts.lens(last, some), out.logits[..., some])
    # Norms in parts: what transformers calls the last hidden state is after the final one.
    bias = getattr(case.parts.final_norm, "bias", None)
    normed = case.parts.norm.writing(last) / case.parts.norm_scale(last)[..., None]
    close(normed + (0.0 if bias is None else bias), out.hidden_states[-1])


def test_counted_activations_and_units_are_those_of_an_mlp_by_hand(case: Case) -> None:
    close(case.read(case.model).logits, case.out.logits)
    shape = (*case.batch.ids.shape, case.parts.units)
    for layer, hand in enumerate(case.hands):
        assert case.trace.activation[layer].shape == shape
        close(case.trace.activation[layer], hand.activation.view(shape))
        close(case.trace.unit[layer], hand.unit.view(shape))
        out = case.parts.writing(layer)
        assert out.shape == (case.parts.units, case.model.config.hidden_size)
        close(case.trace.unit[layer] @ out + hand.bias, hand.written.view(*shape[:2], -1))
    assert case.parts.gated == (MLPS[case.kind][1] is not None)


def test_losses_and_gradients_are_those_of_the_model_by_hand(case: Case) -> None:
    batch = case.batch
    losses = torch.nn.functional.cross_entropy(
        case.out.logits[batch.scored], batch.target[batch.scored], reduction="none"
    )
    expected = torch.zeros_like(case.trace.nll)
    expected[batch.scored] = losses.detach()
    close(case.trace.nll, expected)
    right = case.out.logits.argmax(-1) == batch.target
    assert torch.equal(case.trace.correct, right & batch.scored)
    slopes = torch.autograd.grad(losses.sum(), [h.unit for h in case.hands], retain_graph=True)
    for mine, theirs in zip(case.trace.gradient, slopes, strict=True):
        torch.testing.assert_close(mine, theirs.view_as(mine), rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing(case: Case) -> None:
    for row, length in enumerate(case.batch.attention.sum(1).tolist()):
        alone = case.parts.trunk(case.batch.ids[row : row + 1, :length], torch.ones(1, length))
        close(case.parts.logits(alone)[0], case.out.logits[row, :length].detach())


def after_by_hand(case: Case, written: Tensor) -> Tensor:
    """What reaches the stream of what the MLP of `LAYER` wrote."""
    if case.kind not in AFTER:
        return written
    norm: Any = case.parts.blocks[LAYER].post_feedforward_layernorm
    weight = norm.weight + AFTER[case.kind]
    eps: float = case.model.config.rms_norm_eps
    return weight * written / (written.square().mean(-1, keepdim=True) + eps).sqrt()


def test_deactivating_a_unit_changes_what_it_should_and_nothing_else(case: Case) -> None:
    strength = case.trace.unit[LAYER].abs() * case.batch.real[..., None]
    unit = int(strength.sum((0, 1)).argmax())
    silent, hands = by_hand(case.model)
    hands[LAYER].keep[unit] = 0.0
    expected = case.read(silent)
    assert not torch.allclose(expected.logits, case.out.logits, atol=1e-3)

    zeroed = copy.deepcopy(case.model)
    LanguageModel.of(zeroed).writing(LAYER)[unit] = 0.0
    mask = np.zeros((case.parts.layers, case.parts.units), np.bool_)
    mask[LAYER, unit] = True
    needs = Need.RESIDUAL | Need.ACTIVATION
    with units_held(case.parts, NeuronSet(mask)):
        held = run(case.parts, case.batch, needs)
    for model, trace in ((zeroed, run(LanguageModel.of(zeroed), case.batch, needs)), (None, held)):
        close(case.parts.lens(trace.residual[-1]), expected.logits)
        for layer in range(LAYER + 1):
            assert torch.equal(trace.residual[layer], case.trace.residual[layer])
        others = np.flatnonzero(~mask[LAYER])
        assert torch.equal(trace.unit[LAYER][..., others], case.trace.unit[LAYER][..., others])
        same = torch.equal(trace.activation[LAYER], case.trace.activation[LAYER])
        assert same == (model is not None)
        assert not trace.activation[LAYER][..., unit].any() or model is not None
        with_it, without = (
            after_by_hand(case, h[LAYER].written.view_as(trace.residual[0]))
            for h in (case.hands, hands)
        )
        change = case.trace.residual[LAYER + 1] - trace.residual[LAYER + 1]
        close(change, with_it - without)


def test_units_contribute_to_logit_differences_what_their_mlp_does(case: Case) -> None:
    """What neurons are said to write, summed over them, is what their MLP writes."""
    parts, shape = case.parts, case.trace.residual[0].shape
    unit = case.trace.unit[LAYER]
    scale = parts.norm_scale(case.trace.residual[-1]) * parts.written_scale(LAYER, unit)
    contrast = parts.unembedding[5] - parts.unembedding[9]
    direction = parts.stream_writing(LAYER) @ parts.norm.reading(contrast)
    mine = (unit / scale[..., None] * direction).sum(-1)
    hand = case.hands[LAYER]
    # The output projection's bias is no unit's; where a norm follows, there is none.
    added = after_by_hand(case, (hand.written - hand.bias).view(shape))
    by_norm = parts.norm.writing(added) / parts.norm_scale(case.trace.residual[-1])[..., None]
    close(mine, by_norm @ contrast)


PROBES = (
    Alignment(),
    Importance(),
    Lape(),
    Performance(),
    Regions(),
    LanguageSubspaces(),
    Transferring(least_mass=0.0),
    VocabularyMass(),
    WorkingLanguage(),
)
MAY_LACK = {
    "lape", "mass_share", "split_half", "gradient_cosine_corrected", "graded_chance",
    "agnostic_document_distance", "specific_document_distance",
}  # fmt: skip
"""What is not defined where no unit is specific, the evidence is weak, nothing is compared."""


def test_all_probes_run_in_one_pass_and_find_numbers(case: Case, context: Context) -> None:
    sums = one_pass(case.parts, context, PROBES, 600)
    sizes = {
        "language": 3, "layer": case.parts.layers, "hidden_layer": case.parts.layers + 1,
        "unit": case.parts.units, "fold": 4, "document": len(context.text.documents),
        "matrix": len(case.parts.matrices), "model_dim": case.model.config.hidden_size,
    }  # fmt: skip
    seen = 0
    for accumulator in sums:
        for name, found in variables(accumulator.result()).items():
            for dim, size in zip(found.dims, found.data.shape, strict=True):
                assert sizes.setdefault(dim, size) == size, (name, dim)
            if found.data.dtype.kind == "f" and name not in MAY_LACK:
                # The primary is not compared with itself.
                rest = found.data[1:] if "language" in found.dims[:1] else found.data
                assert np.isfinite(rest).all(), name
                seen += 1
    assert seen > 50
    assert not any(p.requires_grad or p.grad is not None for p in case.model.parameters())


def test_active_tokens_are_counted_where_the_activation_by_hand_is_positive(
    case: Case, context: Context
) -> None:
    """Also where xIELU is: at strongly negative inputs its output is positive again."""
    found = measure(Lape(), context, case.model)
    model, hands = by_hand(case.model)
    count = np.zeros((case.parts.layers, case.parts.units, 3), int)
    negative = 0
    with torch.no_grad():
        for row in context.text.rows:
            if row.graded_only:
                continue
            model(input_ids=torch.from_numpy(row.ids)[None])
            active = torch.stack([h.activation.view(len(row.ids), -1) for h in hands])
            count[..., row.language] += (active[:, row.prefix :] > 0).sum(1).numpy()
            negative += int((active < 0).sum())
    assert (count > 0).any()
    assert negative or case.kind == "opt"
    np.testing.assert_allclose(found.activation_count, count, atol=1)
    assert (found.activation_count != count).mean() < 1e-3


def test_continuations_are_the_most_likely_tokens(case: Case) -> None:
    prompts = case.batch.ids[:2, :4]
    ids = prompts
    for _ in range(3):
        ids = torch.cat([ids, case.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    np.testing.assert_array_equal(continued(case.parts, prompts.numpy(), 3, 100), ids[:, 4:])


def test_saved_weights_load_whole_in_half_precision_too(case: Case, tmp_path: Path) -> None:
    case.model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, ModelSettings())
    assert type(loaded) is type(case.model)
    for mine, theirs in zip(loaded.parameters(), case.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    half = LanguageModel.of(load_model(tmp_path, ModelSettings(dtype="bfloat16")))
    half.self_test(case.batch.ids[:1])


def test_every_architecture_of_the_table_is_tested() -> None:
    kinds = {name.partition("-")[0] for name in MAKERS}
    assert kinds == set(ANATOMY) == set(MLPS)


def test_xielu_is_positive_far_below_zero() -> None:
    """Why activity is read off the output and not off the sign of the input."""
    block = tiny_model("apertus", 50).model.layers[0]
    z = torch.tensor([-30.0, -1.0, 1.0])
    found = block.mlp.act_fn(z)
    torch.testing.assert_close(found, xielu(z, block.mlp.act_fn.alpha_p, block.mlp.act_fn.alpha_n))
    assert (found > 0).tolist() == [True, False, True]


def test_a_row_without_the_norm_after_the_mlp_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(1, 9)[None]
    for kind, row, problem in (
        ("olmo2", ANATOMY["llama"], "the MLP's output is not what is added to the stream"),
        ("gemma", ANATOMY["llama"], "a norm is not what it is taken for"),
        ("gemma2", ANATOMY["olmo2"], "a norm is not what it is taken for"),
        ("phi3", ANATOMY["llama"], "does not fit"),
    ):
        model = tiny_model(kind, 50)
        monkeypatch.setitem(ANATOMY, kind, row)
        with pytest.raises(UserError, match=problem):
            LanguageModel.of(model).self_test(ids)


@pytest.mark.parametrize(
    "kind",
    ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe", "deepseek_v3", "dbrx"],
)
def test_mixtures_of_experts_are_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(
        UserError, match=f"^architecture '{kind}' is a mixture of experts.*routing$"
    ):
        anatomy_of(AutoConfig.for_model(kind).to_dict())


def test_other_unknown_architectures_are_no_mixtures() -> None:
    for kind in ("bert", "gpt_neo", "mamba", "stablelm", "cohere"):
        with pytest.raises(UserError, match=f"^architecture '{kind}' is not supported; supported"):
            anatomy_of(AutoConfig.for_model(kind).to_dict())


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}, "do_layer_norm_before"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
        (
            "bloom",
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm",
        ),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact"),
    ],
)
def test_variants_without_a_stream_that_is_a_sum_are_refused(
    kind: str, settings: Mapping[str, Any], told: str, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    }  # fmt: skip
    config: Any = AutoConfig.for_model(kind, **sizes, **settings)
    create: Any = AutoModelForCausalLM.from_config
    model = create(config)
    problem = f"^architecture '{kind}' with {told}={settings[told]} is not supported, only with"
    with pytest.raises(UserError, match=problem):
        LanguageModel.of(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=problem):
        load_model(tmp_path, ModelSettings(device="cpu"))
