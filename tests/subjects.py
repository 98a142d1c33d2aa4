"""Subjects to intervene on, fingerprints of models, and a model whose units are written by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from conftest import LANGUAGES, WORDS, tiny_model
from probing import by_row

from tracker.documents import Document
from tracker.interventions import Subject
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.text import TextSettings, build_text


def subject_of(context: Context, model: Any, tokenizer: Any = None, **changes: Any) -> Subject:
    return Subject(LanguageModel.of(model), context, tokenizer, 0, 300, **changes)


def fingerprint(model: Any) -> str:
    """Hash of all that an intervention could leave behind."""
    found = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        content = tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        found.update(repr((name, tensor.dtype, tensor.requires_grad, tensor.grad)).encode())
        found.update(content)
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        found.update(repr((name, module.training, hooks)).encode())
    return found.hexdigest()


def silence(model: Any, units: np.ndarray[Any, Any]) -> Any:
    """The model with the writing rows of `units` [layer, unit] set to 0."""
    parts = LanguageModel.of(model)
    for layer, mask in enumerate(units):
        parts.writing(layer)[torch.from_numpy(mask)] = 0.0
    return model


def words_only(tokenizer: Any, documents: int = 16, words: int = 12) -> Context:
    """Parallel documents of words without filler: every token tells its language."""
    draw = np.random.default_rng(0)
    plan = draw.integers(8, size=(documents, words))
    found = [
        Document(f"d{i}", c, " ".join(WORDS[c][w] for w in row))
        for c in LANGUAGES
        for i, row in enumerate(plan)
    ]
    text = build_text(found, tokenizer, LANGUAGES, TextSettings(10**6, folds=8))
    return Context(text, "xx", None, seed=0)


def planted(context: Context, units: Mapping[tuple[int, int], tuple[Sequence[str], float]]) -> Any:
    """A GPT-NeoX in which each of `units` fires on some languages' words alone and writes for them.

    (layer, unit) -> (languages, strength). At a word of one of these languages the unit adds
    `strength` times a fixed amount to the score of all their words; everywhere else it is exactly
    0, as all other units are. Attention adds nothing, so only the units know the language.
    """
    counts = context.text.token_counts()
    model = tiny_model("gpt_neox", counts.shape[1])
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
    inward, outward = model.gpt_neox.embed_in.weight, model.get_output_embeddings().weight
    for c in range(len(LANGUAGES)):
        words = np.flatnonzero(counts[c])
        # The most frequent one is the most likely one, and no two are equally likely.
        for rank, token in enumerate(words[np.argsort(counts[c, words], kind="stable")]):
            inward[token, c] = 10.0
            outward[token, 3 + c] = 5.0 + 0.01 * rank
    parts = LanguageModel.of(model)
    for (layer, unit), (languages, strength) in units.items():
        mlp = model.gpt_neox.layers[layer].mlp
        for language in languages:
            c = LANGUAGES.index(language)
            mlp.dense_h_to_4h.weight[unit, c] = 10.0
            parts.writing(layer)[unit, 3 + c] = 0.1 * strength
        mlp.dense_h_to_4h.bias[unit] = -20.0
    return model


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
