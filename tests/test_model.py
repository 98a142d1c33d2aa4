"""Anatomy, capture, lens and head, against transformers' own outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model
from probing import batch_of
from transformers import BertConfig, BertLMHeadModel

from checkpoints.errors import CheckpointError, UserError
from tracker.model import ANATOMY, Anatomy, LanguageModel, capture
from tracker.text import Batch
from tracker.trace import Need, run

ALL = Need.LOSS | Need.RESIDUAL | Need.ACTIVATION | Need.GRADIENT


def test_residual_stream_equals_hidden_states(any_model: Any) -> None:
    batch = batch_of(any_model)
    trace = run(LanguageModel.of(any_model), batch, ALL)
    out = any_model(input_ids=batch.ids, attention_mask=batch.attention, output_hidden_states=True)
    assert len(trace.residual) == len(out.hidden_states)
    for mine, theirs in zip(trace.residual[:-1], out.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, theirs)
    # The last of theirs is after the final norm; ours is before it.
    normed = LanguageModel.of(any_model).final_norm(trace.residual[-1])
    torch.testing.assert_close(normed, out.hidden_states[-1])


def test_lens_at_the_last_layer_is_the_output_and_the_norm_scale_is_the_norms(
    any_model: Any,
) -> None:
    parts, batch = LanguageModel.of(any_model), batch_of(any_model)
    parts.self_test(batch.ids[:1])
    trace = run(parts, batch, ALL)
    logits = any_model(input_ids=batch.ids, attention_mask=batch.attention).logits
    torch.testing.assert_close(parts.lens(trace.residual[-1]), logits, rtol=1e-4, atol=1e-4)
    some = torch.tensor([3, 1, 4])
    torch.testing.assert_close(
        parts.lens(trace.residual[-1], some), logits[..., some], rtol=1e-4, atol=1e-4
    )
    h = trace.residual[-1]
    centred = h - h.mean(-1, keepdim=True) if parts.norm_centres else h
    bias = parts.final_norm.bias if parts.norm_centres else 0
    by_hand = centred / parts.norm_scale(h)[..., None] * parts.final_norm.weight + bias
    torch.testing.assert_close(by_hand, parts.final_norm(h), rtol=1e-4, atol=1e-5)


def test_loss_correctness_and_gradients_equal_autograd(any_model: Any) -> None:
    parts, batch = LanguageModel.of(any_model), batch_of(any_model)
    trace = run(parts, batch, ALL)
    seen: dict[str, Any] = {}
    with capture(parts, seen, start_gradient=True):
        logits = any_model(input_ids=batch.ids, attention_mask=batch.attention).logits
    loss = torch.nn.functional.cross_entropy(
        logits[batch.scored], batch.target[batch.scored], reduction="none"
    )
    expected = torch.zeros_like(trace.nll)
    expected[batch.scored] = loss.detach()
    torch.testing.assert_close(trace.nll, expected, rtol=1e-4, atol=1e-5)
    right = logits.argmax(-1) == batch.target
    assert torch.equal(trace.correct, right & batch.scored)
    slopes = torch.autograd.grad(loss.sum(), seen["unit"])
    for mine, theirs in zip(trace.gradient, slopes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_unit_is_what_is_multiplied_into_the_output(any_model: Any) -> None:
    """Adding to one unit by hand moves the residual stream by its writing row."""
    parts, batch = LanguageModel.of(any_model), batch_of(any_model)
    assert parts.writing(1).shape == (parts.units, any_model.config.hidden_size)
    outputs: list[torch.Tensor] = []
    down = parts.downs[1]
    handle = down.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    trace = run(parts, batch, ALL)
    handle.remove()
    bias = 0 if down.bias is None else down.bias
    torch.testing.assert_close(
        trace.unit[1] @ parts.writing(1) + bias, outputs[0], rtol=1e-4, atol=1e-5
    )
    if parts.gated:
        assert not torch.allclose(trace.unit[1], trace.activation[1])
    else:
        torch.testing.assert_close(trace.unit[1], trace.activation[1])


def test_padding_and_batching_do_not_change_the_numbers(any_model: Any) -> None:
    parts, batch = LanguageModel.of(any_model), batch_of(any_model)
    whole = run(parts, batch, ALL)
    for i in range(len(batch.rows)):
        n = int(batch.attention[i].sum())
        alone = Batch(
            (i,), 0, False, *(getattr(batch, k)[i : i + 1, :n] for k in
            ("ids", "attention", "real", "scored", "target")), batch.document[i : i + 1],
            batch.fold[i : i + 1],
        )  # fmt: skip
        single = run(parts, alone, ALL)
        torch.testing.assert_close(single.nll[0], whole.nll[i, :n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            single.gradient[0][0], whole.gradient[0][i, :n], rtol=1e-3, atol=1e-5
        )


def test_hooks_are_gone_afterwards_even_after_an_error(any_model: Any) -> None:
    parts = LanguageModel.of(any_model)
    with pytest.raises(RuntimeError, match="stop"), capture(parts, {}):
        raise RuntimeError("stop")
    for module in any_model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_only_what_is_needed_is_kept(any_model: Any) -> None:
    trace = run(LanguageModel.of(any_model), batch_of(any_model), Need.LOSS)
    assert not trace.residual
    assert not trace.activation
    assert not trace.unit
    assert not trace.gradient


def test_an_unknown_architecture_says_which_are_known_and_what_to_add() -> None:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, is_decoder=True,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'bert' is not supported; supported are apertus.*one row"):
        LanguageModel.of(BertLMHeadModel(config))


def test_outputs_that_are_not_finite_are_the_checkpoints_fault() -> None:
    model = tiny_model("gpt_neox", 100)
    with torch.no_grad():
        LanguageModel.of(model).writing(0).mul_(1e38)
    with pytest.raises(CheckpointError, match="its outputs are not finite"):
        LanguageModel.of(model).self_test(torch.arange(8)[None])


def test_a_wrong_row_is_caught_by_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", 50)
    ids = torch.arange(1, 9)[None]
    right = ANATOMY["llama"]
    wrong = Anatomy(right.blocks, right.final_norm, "mlp.up_proj", right.down, right.up)
    monkeypatch.setitem(ANATOMY, "llama", wrong)
    with pytest.raises(UserError, match="not what the MLP multiplies"):
        LanguageModel.of(model).self_test(ids)
    wrong = Anatomy(
        right.blocks, "model.layers.0.input_layernorm", right.activation, right.down, right.up
    )
    monkeypatch.setitem(ANATOMY, "llama", wrong)
    with pytest.raises(UserError, match="lens at the last layer is not the model's output"):
        LanguageModel.of(model).self_test(ids)
    monkeypatch.setitem(ANATOMY, "llama", Anatomy("model.blocks", "model.norm", "a", "b"))
    with pytest.raises(UserError, match="does not fit"):
        LanguageModel.of(model)
