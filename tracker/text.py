"""Probe text as token batches: equal tokens per language, windows, folds, what was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.documents import Document, Span

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TextSettings:
    """How probe text becomes rows."""

    tokens_per_language: int = 20000
    """Budget; every language gets as many tokens as the one with the least, at most this."""
    equal_tokens: bool = True
    """Off: every language gets its own text up to the budget."""
    window: int = 512
    """Tokens per row at most, special tokens not counted."""
    folds: int = 8
    """Disjoint groups of documents in which unit-level sums are kept."""

    def __post_init__(self) -> None:
        """Refuse settings that leave nothing to read."""
        for name in ("tokens_per_language", "window"):
            if getattr(self, name) < 2:
                raise UserError(f"text.{name}={getattr(self, name)}: choose at least 2")
        if self.folds < 2:
            raise UserError(f"text.folds={self.folds}: choose at least 2")


@dataclass(frozen=True)
class Row:
    """One document, or a window of one, as tokens."""

    document: int
    """Index into `ProbeText.documents`."""
    language: int
    """Index into `ProbeText.languages`."""
    fold: int
    ids: Ints
    """Token ids with the special prefix, if any."""
    offsets: Ints
    """[tokens, 2] characters of each token; the prefix has (0, 0)."""
    prefix: int
    """Number of special tokens in front."""
    graded_only: bool
    continued: bool = False
    """A later window of its document."""

    @property
    def first_scored(self) -> int:
        """Index of the first token that is predicted.

        The first token of a text has a predecessor only where there is a prefix; the first token
        of a later window is context only, since what truly came before it is not in the row.
        """
        return self.prefix + 1 if self.continued else max(self.prefix, 1)


@dataclass(frozen=True)
class Batch:
    """Rows of one language, padded on the right."""

    rows: tuple[int, ...]
    """Indices into `ProbeText.rows`."""
    language: int
    graded_only: bool
    ids: torch.Tensor
    """[rows, tokens] int64."""
    attention: torch.Tensor
    """[rows, tokens] int64, 1 where there is a token."""
    real: torch.Tensor
    """[rows, tokens] bool, tokens of the text: neither special nor padding."""
    scored: torch.Tensor
    """[rows, tokens] bool, positions whose next token is text (and is predicted)."""
    target: torch.Tensor
    """[rows, tokens] int64, the next token; 0 where `scored` is false."""
    document: torch.Tensor
    """[rows] int64."""
    fold: torch.Tensor
    """[rows] int64."""
    last: bool = False
    """No later batch of the same reading has rows of this language and kind."""
    origin: Batch | None = None
    """What it was copied from."""

    @property
    def on_host(self) -> Batch:
        """The same where the program runs: what is read there does not wait for a device."""
        return self.origin or self

    @cached_property
    def scored_at(self) -> torch.Tensor:
        """[positions] int64, where `scored` [rows · tokens] is true."""
        places = torch.nonzero(self.on_host.scored.flatten())[:, 0]
        return places.to(self.scored.device, non_blocking=True)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids", "attention", "real", "scored", "target", "document", "fold")
        }
        origin = self.on_host
        return Batch(
            self.rows, self.language, self.graded_only, **moved, last=self.last, origin=origin
        )


@dataclass(frozen=True)
class ProbeText:
    """Tokenised probe text, the same for every checkpoint of a series."""

    languages: tuple[str, ...]
    documents: tuple[Document, ...]
    """As read: cut where the budget ended."""
    rows: tuple[Row, ...]
    vocabulary: int
    """Size of the tokenizer's vocabulary, added tokens included."""
    folds: int
    notes: tuple[str, ...]
    """What was cut or dropped, in words."""

    @property
    def document_language(self) -> Ints:
        """[document] index of each document's language."""
        return np.array([self.languages.index(d.language) for d in self.documents])

    @property
    def document_fold(self) -> Ints:
        """[document] fold of each document."""
        fold = np.zeros(len(self.documents), np.int64)
        for row in self.rows:
            fold[row.document] = row.fold
        return fold

    def tokens(self) -> Ints:
        """[language] tokens of text (graded-only documents apart)."""
        counts = np.zeros(len(self.languages), dtype=np.int64)
        for row in self.rows:
            if not row.graded_only:
                counts[row.language] += len(row.ids) - row.prefix
        return counts

    def token_counts(self) -> Ints:
        """[language, vocabulary] occurrences of each token (graded-only documents apart)."""
        counts = np.zeros((len(self.languages), self.vocabulary), dtype=np.int64)
        for row in self.rows:
            if not row.graded_only:
                np.add.at(counts[row.language], row.ids[row.prefix :], 1)
        return counts

    def unigram_entropy(self) -> NDArray[np.float64]:
        """[language] entropy of the unigram distribution, nats/token: `H_c` of methods 1."""
        share = self.token_counts() / self.tokens()[:, None]
        entropy: NDArray[np.float64] = -np.sum(
            share * np.log(np.where(share > 0, share, 1)), axis=1
        )
        return entropy

    def batches(
        self,
        batch_tokens: int,
        folds: Container[int] | None = None,
        languages: Container[int] | None = None,
    ) -> Iterator[Batch]:
        """Rows of one language and similar length together, `batch_tokens` with padding at most.

        Languages come one after another, graded-only rows last.

        Args:
            batch_tokens: Tokens of a batch, padding included.
            folds: Only rows of these folds; None: all.
            languages: Only rows of these languages; None: all.
        """
        order = sorted(
            (
                r
                for r, row in enumerate(self.rows)
                if (folds is None or row.fold in folds)
                and (languages is None or row.language in languages)
            ),
            key=lambda r: (self.rows[r].graded_only, self.rows[r].language, -len(self.rows[r].ids)),
        )
        group: list[int] = []
        for index in order:
            if group and not self._fits(group, index, batch_tokens):
                yield self._batch(group, last=not self._same_kind(group[0], index))
                group = []
            group.append(index)
        if group:
            yield self._batch(group, last=True)

    def _same_kind(self, first: int, second: int) -> bool:
        a, b = self.rows[first], self.rows[second]
        return (a.language, a.graded_only) == (b.language, b.graded_only)

    def _fits(self, group: list[int], index: int, batch_tokens: int) -> bool:
        size = (len(group) + 1) * len(self.rows[group[0]].ids)
        return self._same_kind(group[0], index) and size <= batch_tokens

    def _batch(self, group: list[int], last: bool) -> Batch:
        rows = [self.rows[i] for i in group]
        shape = (len(rows), max(len(r.ids) for r in rows))
        ids, target = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        attention = np.zeros(shape, np.int64)
        real, scored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for i, row in enumerate(rows):
            n, first = len(row.ids), row.first_scored
            ids[i, :n], attention[i, :n] = row.ids, 1
            real[i, row.prefix : n] = True
            scored[i, first - 1 : n - 1] = True
            target[i, first - 1 : n - 1] = row.ids[first:]
        return Batch(
            rows=tuple(group),
            language=rows[0].language,
            graded_only=rows[0].graded_only,
            ids=torch.from_numpy(ids),
            attention=torch.from_numpy(attention),
            real=torch.from_numpy(real),
            scored=torch.from_numpy(scored),
            target=torch.from_numpy(target),
            document=torch.tensor([r.document for r in rows]),
            fold=torch.tensor([r.fold for r in rows]),
            last=last,
        )


def build_text(
    documents: Sequence[Document],
    tokenizer: Any,
    languages: Sequence[str],
    settings: TextSettings,
    longest: int | None = None,
) -> ProbeText:
    """Tokenise, cut to the budget, deal into folds and windows.

    Documents are read in their order; the last one of each language is cut at a token, so that
    equal tokens are exactly equal. Documents that share an id share a fold, so that folds stay
    disjoint in content. A row is one document or a window of one; windows do not overlap, and the
    first token of a later window is context only.

    Args:
        documents: Of all languages, in the order in which the budget is to be filled.
        tokenizer: A fast `transformers` tokenizer (offsets are needed).
        languages: In the order of the records' `language` dimension.
        settings: Budget, window, folds.
        longest: The model's maximum length, if it has one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the tokenizer has no offsets (it is not a fast tokenizer): save the series with a "
            "tokenizer.json, or point series.tokenizer at one"
        )
    prefix = _prefix(tokenizer)
    window = settings.window if longest is None else min(settings.window, longest - len(prefix))
    tokenised = {
        c: [(d, *_tokenise(tokenizer, d.text)) for d in documents if d.language == c and d.text]
        for c in languages
    }
    kept, notes = _cut(tokenised, settings)
    fold_of: dict[tuple[str, int], int] = {}
    chosen: list[Document] = []
    rows: list[Row] = []
    for index, language in enumerate(languages):
        seen: Counter[str] = Counter()
        for document, ids, offsets in kept[language]:
            # The n-th document of an id goes with the n-th of that id in other languages.
            key = document.id, seen[document.id]
            seen[document.id] += 1
            fold = fold_of.setdefault(key, len(fold_of) % settings.folds)
            for start in range(0, len(ids), window):
                piece = slice(start, start + window)
                rows.append(
                    Row(
                        document=len(chosen),
                        language=index,
                        fold=fold,
                        ids=np.concatenate([prefix, ids[piece]]),
                        offsets=np.concatenate(
                            [np.zeros((len(prefix), 2), np.int64), offsets[piece]]
                        ),
                        prefix=len(prefix),
                        graded_only=document.graded_only,
                        continued=start > 0,
                    )
                )
            chosen.append(document)
    return ProbeText(
        tuple(languages), tuple(chosen), tuple(rows), len(tokenizer), settings.folds, tuple(notes)
    )


def _prefix(tokenizer: Any) -> Ints:
    """Special tokens that the tokenizer itself puts in front (BOS of the Llama family)."""
    special = tokenizer("", add_special_tokens=True)["input_ids"]
    return np.array(special[:1] if special[:1] == [tokenizer.bos_token_id] else [], np.int64)


def _tokenise(tokenizer: Any, text: str) -> tuple[Ints, Ints]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.array(encoded["input_ids"], np.int64)
    return ids, np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)


_Tokenised = tuple[Document, Ints, Ints]


def _cut(
    tokenised: dict[str, list[_Tokenised]], settings: TextSettings
) -> tuple[dict[str, list[_Tokenised]], list[str]]:
    available = {
        c: sum(len(ids) for d, ids, _ in group if not d.graded_only)
        for c, group in tokenised.items()
    }
    for language, tokens in available.items():
        if tokens < 2:
            raise UserError(f"languages: the text of {language!r} has no tokens")
    budget, notes = settings.tokens_per_language, []
    short = {c: n for c, n in available.items() if n < budget}
    for language, tokens in short.items():
        notes.append(
            f"{language}: {tokens} tokens of text, fewer than the budget of {budget} per language"
        )
    level = min(budget, *available.values()) if settings.equal_tokens else budget
    if short and settings.equal_tokens:
        notes.append(f"every language was cut to {level} tokens (text.equal_tokens=true)")
    kept = {}
    for language, group in tokenised.items():
        main = _take([g for g in group if not g[0].graded_only], level)
        kept[language] = main + [g for g in group if g[0].graded_only]
        whole = sum(not g[0].graded_only for g in group)
        if len(main) < whole:
            notes.append(f"{language}: {len(main)} of {whole} documents fill the budget")
    return kept, notes


def _take(group: Sequence[_Tokenised], level: int) -> list[_Tokenised]:
    kept: list[_Tokenised] = []
    left = level
    for document, ids, offsets in group:
        if left <= 0:
            break
        if len(ids) > left:
            document, ids, offsets = _shorten(document, ids[:left], offsets[:left])
        if len(ids):
            kept.append((document, ids, offsets))
        left -= len(ids)
    return kept


def _shorten(document: Document, ids: Ints, offsets: Ints) -> _Tokenised:
    end = int(offsets[-1, 1])
    graded = tuple(s for s in document.graded if s.end <= end)
    shortened = Document(document.id, document.language, document.text[:end], graded)
    return shortened, ids, offsets


def scored_bytes(text: ProbeText) -> Ints:
    """[document] UTF-8 bytes of the tokens that are predicted."""
    counts = np.zeros(len(text.documents), np.int64)
    for row in text.rows:
        if len(row.ids) > row.first_scored:
            start, end = row.offsets[row.first_scored, 0], row.offsets[-1, 1]
            piece = text.documents[row.document].text[start:end]
            counts[row.document] += len(piece.encode())
    return counts


def graded_positions(text: ProbeText) -> list[tuple[int, Span, Ints]]:
    """(row, span, positions that predict the span's tokens) of every graded answer.

    An answer counts as right where every one of its tokens is predicted; an answer that is cut by
    a window's edge is left out.
    """
    found = []
    for index, row in enumerate(text.rows):
        for span in text.documents[row.document].graded:
            start, end = row.offsets[:, 0], row.offsets[:, 1]
            tokens = np.flatnonzero((end > span.start) & (start < span.end))
            tokens = tokens[tokens >= row.first_scored]
            if len(tokens) and start[tokens[0]] <= span.start and end[tokens[-1]] >= span.end:
                found.append((index, span, tokens - 1))
    return found
