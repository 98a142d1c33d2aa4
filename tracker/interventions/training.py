"""What interventions that train have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.model import LanguageModel

Ints = NDArray[np.int64]

CHUNK = 200
"""Documents that are tokenised at once."""


def require_float32(name: str, model: LanguageModel) -> None:
    """Refuse weights in which small updates are rounded away.

    Raises:
        UserError: Weights in another type than float32.
    """
    kind = next(model.model.parameters()).dtype
    if kind != torch.float32:
        raise UserError(
            f"intervention={name}: it trains, and updates vanish in {str(kind)[6:]} weights; "
            "choose model.dtype=float32"
        )


def read_stream(path: Path, tokenizer: Any, tokens: int) -> Ints:
    """The first documents of a corpus file as one packed stream of at least `tokens` tokens.

    No more of the file is read than that, all of it where it holds less. Documents are kept apart
    by what the tokenizer itself puts around a text, else by an end-of-text token in front.

    Raises:
        UserError: A line that is not JSON with a `text`, or a file that cannot be read.
    """
    parts: list[Ints] = []
    found = 0
    texts = _texts(path)
    while found < tokens and (chunk := list(islice(texts, CHUNK))):
        for ids in tokenizer(chunk, verbose=False)["input_ids"]:
            parts.append(np.array([*_separator(tokenizer, ids), *ids], np.int64))
            found += len(parts[-1])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _separator(tokenizer: Any, ids: list[int]) -> list[int]:
    known = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    end = tokenizer.eos_token_id
    return [] if end is None or not known.isdisjoint(chain(ids[:1], ids[-1:])) else [end]


def _texts(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the corpus cannot be read ({error})") from None


def _text(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{where}: not a JSON object with `text`") from None
    if not isinstance(text, str):
        raise UserError(f"{where}: `text` is not a string")
    return text
