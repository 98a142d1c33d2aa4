"""Batches for training on a mixture: packed documents, token shares, phases."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_GOLDEN = (5**0.5 - 1) / 2


def pack(documents: Iterable[Sequence[int]]) -> Ints:
    """Documents, each with its separator, as one stream of tokens."""
    return np.fromiter(chain.from_iterable(documents), np.int64)


@dataclass(frozen=True)
class Phase:
    """A stretch of training on one mixture."""

    steps: int
    shares: Mapping[str, float]
    """Language -> share of the tokens; positive shares, summing to 1."""


@dataclass(frozen=True)
class Batch:
    """What one optimizer step sees."""

    ids: torch.Tensor
    """[batch, sequence] int64."""
    languages: tuple[str, ...]
    """[batch] language of each row."""


class MixedBatches:
    """`batches(step)`: a function of the settings and the step alone, so a run can resume.

    Every row is one language's. Row `r` of a phase has the language in whose interval of the
    cumulated shares the number `frac(o + r·(√5-1)/2)` falls (a low-discrepancy sequence): after
    any number of rows the shares hold within about one row. A language's stream is cut into rows
    of `sequence_length`; each pass over it (epoch) has its own random order and its own offset of
    the cuts, so that repeated text is not repeated in the same frame. Draws use
    `numpy.random.RandomState`, whose streams are frozen.
    """

    def __init__(
        self,
        streams: Mapping[str, Ints],
        phases: Sequence[Phase],
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
    ) -> None:
        """Plan all rows; every language of a phase needs two rows' worth of tokens."""
        self._streams = streams
        self._length = sequence_length
        self._languages, self._starts = _plan(streams, phases, batch_size, sequence_length, seed)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._languages)

    def __call__(self, step: int) -> Batch:
        """The batch from which step number `step` (from 0) learns."""
        languages = tuple(self._languages[step].tolist())
        rows = [
            self._streams[c][start : start + self._length]
            for c, start in zip(languages, self._starts[step], strict=True)
        ]
        return Batch(torch.from_numpy(np.stack(rows)), languages)


def _plan(
    streams: Mapping[str, Ints], phases: Sequence[Phase], batch: int, length: int, seed: int
) -> tuple[NDArray[np.str_], Ints]:
    """[step, row] language and first token of every row."""
    offset = np.random.RandomState([seed, 0]).random_sample()
    drawn = [_languages(phase, batch, offset) for phase in phases]
    languages = np.concatenate(drawn)
    starts = np.zeros(len(languages), np.int64)
    for language in np.unique(languages):
        mine = languages == language
        starts[mine] = _row_starts(
            len(streams[str(language)]), int(mine.sum()), length, seed, str(language)
        )
    return languages.reshape(-1, batch), starts.reshape(-1, batch)


def _languages(phase: Phase, batch: int, offset: float) -> NDArray[np.str_]:
    names = np.array(list(phase.shares))
    upper = np.cumsum(list(phase.shares.values()))
    place = (offset + _GOLDEN * np.arange(phase.steps * batch)) % 1.0
    return names[np.searchsorted(upper / upper[-1], place, side="right")]


def _row_starts(tokens: int, rows: int, length: int, seed: int, language: str) -> Ints:
    """First token of each of `rows` rows from a stream of `tokens` tokens, epoch by epoch."""
    per_epoch = tokens // length - 1
    assert per_epoch > 0, f"{language}: {tokens} tokens, rows of {length}"
    parts = []
    for epoch in range(-(-rows // per_epoch)):
        draws = np.random.RandomState([seed, zlib.crc32(language.encode()), epoch])
        parts.append(draws.permutation(per_epoch) * length + draws.randint(length))
    return np.concatenate(parts)[:rows]
