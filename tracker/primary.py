"""`primary=auto`: the dominant language of a series, found once and then taken from its run.

A choice by token shares costs nothing and is made anew in every run. One by bits per byte reads
checkpoints, which a public series would have to download again: a run keeps it in its `run.json`,
and a later run with the same settings takes it from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.errors import CheckpointError, DownloadError, UserError
from checkpoints.local import check_weights
from tracker import store
from tracker.probes.performance import Performance
from tracker.provenance import is_of
from tracker.store import Variable
from tracker.sweep import Measurement, Progress, Sweep

CHOICE = "primary_choice"
"""Where in `run.json` the choice is."""


@dataclass(frozen=True)
class Choice:
    """The primary language, and how it was found."""

    primary: str
    why: str
    looked_at: tuple[int, ...] = ()
    """Steps that were read until one was formed, which settled it. Empty: nothing was read, or
    nothing was settled."""

    def to_json(self) -> dict[str, Any]:
        """As `run.json` keeps it."""
        return asdict(self)


def auto_primary(
    measurement: Measurement, runs: Iterable[Path] = (), progress: Progress | None = None
) -> Choice:
    """The dominant language: by token share if known, else by bits per byte.

    Bits per byte are taken at the first formed checkpoint, the first at which some language's loss
    is below its unigram entropy; at the last one if there is none.

    Args:
        measurement: Its primary language is a placeholder.
        runs: Folders of earlier runs; what one of the same settings has settled is taken from it.
        progress: Told before each checkpoint.

    Raises:
        UserError: No checkpoint can be read.
    """
    last = measurement.series.checkpoints[-1]
    seen = {c: last.tokens_by_language.get(c, 0) for c in measurement.languages}
    if any(seen.values()):
        primary = max(seen, key=lambda c: seen[c])
        share = seen[primary] / sum(seen.values())
        return Choice(primary, f"{share:.0%} of the tokens at the last step")
    kept = (choice for folder in runs if (choice := _kept(folder, measurement)) is not None)
    return next(kept, None) or _measured(measurement, progress)


def _kept(folder: Path, measurement: Measurement) -> Choice | None:
    """What a run has settled that measuring would find again; None where it does not tell.

    That is a run of the same settings which looked at every checkpoint that would be looked at
    now, and whose record of the formed one is of the weights that are there now.
    """
    try:
        run = json.loads((folder / store.RUN).read_text(encoding="utf-8"))
        found, digest = run[CHOICE], run["config_sha256"]
        choice = Choice(
            str(found["primary"]), str(found["why"]), tuple(map(int, found["looked_at"]))
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, damaged, or of an earlier version
        return None
    if not choice.looked_at or choice.primary not in measurement.languages:
        return None
    formed = choice.looked_at[-1]
    due = [c for c in measurement.series.checkpoints if c.step <= formed]
    if not due or due[-1].step != formed or not {c.step for c in due} <= set(choice.looked_at):
        return None
    if replace(measurement, primary=choice.primary).digest() != digest:
        return None
    record = folder / store.RECORDS / store.record_name(formed)
    weights = measurement.series.shelf.digest(formed)
    return choice if is_of(record, due[-1], weights) else None


def _measured(measurement: Measurement, progress: Progress | None) -> Choice:
    """By bits per byte, checkpoint after checkpoint until one is formed."""
    plain = replace(
        measurement,
        probes={"performance": Performance()},
        concept_table=(),
    )
    sweep = Sweep(plain, Path(), settings=measurement.model_settings.exact())
    looked_at: list[int] = []
    readable: list[tuple[int, _Levels]] = []
    last_error = "the series is empty"
    total = len(measurement.series.checkpoints)
    with closing(measurement.series.shelf) as shelf:
        for number, checkpoint in enumerate(measurement.series.checkpoints):
            if progress:
                progress(number, total, "finding the primary")
            try:
                with shelf.at_hand(checkpoint.step):
                    check_weights(checkpoint.path)
                    levels = _levels(sweep.measure(sweep.load(checkpoint)))
            except CheckpointError as error:
                last_error = str(error)
                if not isinstance(error, DownloadError):
                    looked_at.append(checkpoint.step)
                continue
            looked_at.append(checkpoint.step)
            readable.append((checkpoint.step, levels))
            if levels.formed:
                break
    if not readable:
        raise UserError(
            f"primary=auto: no checkpoint can be read ({last_error}); name the primary language"
        )
    return _choice(measurement.languages, *readable[-1], tuple(looked_at))


@dataclass(frozen=True)
class _Levels:
    bits_per_byte: np.ndarray
    formed: bool


def _levels(groups: Mapping[str, Mapping[str, Variable]]) -> _Levels:
    found = {name: variable.data for name, variable in groups["performance"].items()}
    label = found["document_language"]
    names = list(dict.fromkeys(label))
    nll, tokens, size = (
        np.array([found[n][label == c].sum() for c in names], dtype=float)
        for n in ("nll", "token_count", "byte_count")
    )
    formed = bool((nll / tokens < found["unigram_entropy"]).any())
    return _Levels(nll / np.log(2) / size, formed)


def _choice(
    languages: tuple[str, ...], step: int, levels: _Levels, looked_at: tuple[int, ...]
) -> Choice:
    """The language with the lowest bits per byte at a step."""
    best = int(np.argmin(levels.bits_per_byte))
    formed = "the first formed one" if levels.formed else "the last one, none is formed"
    why = f"lowest bits per byte ({levels.bits_per_byte[best]:.2f}) at step {step}, {formed}"
    return Choice(languages[best], why, looked_at if levels.formed else ())
