"""Greedy continuation of prompts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.model import LanguageModel

Ints = NDArray[np.int64]


def continued(model: LanguageModel, prompts: Ints, new_tokens: int, batch_tokens: int) -> Ints:
    """The most likely token after the prompt, then after that, and so on.

    A loop of ours and not `generate`: that one takes penalties, samplers and lengths from whatever
    generation settings a checkpoint carries, and a continuation must depend on the weights alone.

    Args:
        model: What writes; as it is, so a change that is in force has its effect.
        prompts: [prompts, tokens], special tokens in front included; all of equal length, so that
            nothing is padded.
        new_tokens: How many tokens to write. An end-of-text token is written like any other.
        batch_tokens: Tokens that are held at once at most.

    Returns:
        [prompts, new_tokens] token ids.

    Raises:
        UserError: Prompt and continuation are longer than what the model can read.
    """
    assert prompts.ndim == 2, prompts.shape
    whole = prompts.shape[1] + new_tokens
    longest = getattr(model.model.config, "max_position_embeddings", None)
    if longest is not None and whole > longest:
        raise UserError(
            f"prompts of {prompts.shape[1]} tokens and {new_tokens} more do not fit into the "
            f"model's {longest}; lower prompt_tokens or new_tokens"
        )
    rows = max(batch_tokens // whole, 1)
    parts = [prompts[start : start + rows] for start in range(0, len(prompts), rows)]
    written = [_continued(model, torch.from_numpy(p).to(model.device), new_tokens) for p in parts]
    return np.concatenate(written)


@torch.no_grad()
def _continued(model: LanguageModel, ids: torch.Tensor, new_tokens: int) -> Ints:
    past, written = None, []
    for _ in range(new_tokens):
        out = model.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
        written.append(ids)
    found: Ints = torch.cat(written, 1).cpu().numpy()
    return found
