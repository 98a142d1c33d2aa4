"""What interventions that train have in common."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.corpus_table import texts
from checkpoints.errors import UserError
from tracker.model import LanguageModel

Ints = NDArray[np.int64]

CHUNK = 200
"""Documents that are tokenised at once."""


def require_trainable(name: str, model: LanguageModel) -> None:
    """Refuse weights in which small updates are rounded away, and a model on several devices.

    Raises:
        UserError: Weights in another type than float32, or not all in one place.
    """
    if len({p.device for p in model.model.parameters()}) > 1:
        raise UserError(
            f"intervention={name}: it trains, which a model on several devices cannot here; "
            "leave out model.device_map"
        )
    kind = next(model.model.parameters()).dtype
    if kind != torch.float32:
        raise UserError(
            f"intervention={name}: it trains, and updates vanish in {str(kind)[6:]} weights; "
            "choose model.dtype=float32"
        )


def read_stream(path: Path, tokenizer: Any, tokens: int, text_field: str = "text") -> Ints:
    """The first documents of a corpus file as one packed stream of at least `tokens` tokens.

    No more of the file is read than that, all of it where it holds less. Documents are kept apart
    by what the tokenizer itself puts around a text, else by an end-of-text token in front.

    Raises:
        UserError: A file that cannot be read (`checkpoints.corpus_table.texts`).
    """
    parts: list[Ints] = []
    found = 0
    documents = texts(path, text_field)
    while found < tokens and (chunk := list(islice(documents, CHUNK))):
        for ids in tokenizer(chunk, verbose=False)["input_ids"]:
            parts.append(np.array([*_separator(tokenizer, ids), *ids], np.int64))
            found += len(parts[-1])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _separator(tokenizer: Any, ids: list[int]) -> list[int]:
    known = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    end = tokenizer.eos_token_id
    return [] if end is None or not known.isdisjoint(chain(ids[:1], ids[-1:])) else [end]
