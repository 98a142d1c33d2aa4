"""The type that a run's weights are read in: bfloat16 where it is fast and changes nothing.

With `model.dtype=auto` the first checkpoint is read in both types, on a part of the text, and
bfloat16 is taken where what is measured agrees within the bounds below. What was decided stands in
the folder of the records and holds for all of them, whichever machine measures the rest.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import CheckpointError, UserError
from checkpoints.files import draft_of
from tracker import store
from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Context, Probe

FILE = "precision.json"
LEAST_WIDTH = 256
"""Model dimension below which overhead takes the time, and float32 costs nothing."""
PART = frozenset({0})
"""Folds of the text that are read in both types."""

LOSS, ACTIVITY, OVERLAP, SHARE = 0.01, 0.005, 0.95, 0.02
"""Bounds: nats per token of every language; mean difference of a unit's activation probability;
share of the most important units that are the same; working language of every layer."""


@dataclass(frozen=True)
class Precision:
    """What was decided."""

    dtype: str
    why: str = ""
    """Empty where there is nothing to say."""

    def sentence(self) -> str:
        """For the console and the report."""
        return f"weights are read in {self.dtype}: {self.why}"


def decided(records: Path) -> Precision | None:
    """What holds for a folder of records; None where nothing was decided yet."""
    written = _written(records)
    if written is not None:
        return written
    for record in sorted(records.glob("step-*.h5")):
        with suppress(OSError, KeyError):  # a damaged one is measured again
            return Precision(str(store.read_attributes(record)["dtype"]))
    return None


def _written(records: Path) -> Precision | None:
    try:
        found = json.loads((records / FILE).read_text(encoding="utf-8"))
        return Precision(str(found["dtype"]), str(found["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def decide(records: Path, found: Precision) -> Precision:
    """Write it down, unless another process was faster: then its decision holds."""
    records.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(found)) + "\n"
    draft = draft_of(records / FILE)
    draft.write_text(text, encoding="utf-8")
    try:
        with suppress(FileExistsError):
            _put(draft, records / FILE)
        if not _soon(records):  # damaged: nobody can go by it
            draft.replace(records / FILE)
    finally:
        draft.unlink(missing_ok=True)
    return decided(records) or found


def _put(draft: Path, path: Path) -> None:
    """Have a file at `path`, but never over another's."""
    try:
        os.link(draft, path)  # whole at once
    except FileExistsError:
        raise
    except OSError:  # a disk that cannot link
        with path.open("x", encoding="utf-8") as out:
            out.write(draft.read_text(encoding="utf-8"))


def _soon(records: Path) -> bool:
    """Whether a decision can be read; another process may be in the middle of writing it."""
    for _ in range(PATIENCE):
        if _written(records) is not None:
            return True
        time.sleep(0.1)
    return False


def hindrance(model: LanguageModel) -> str | None:
    """Why bfloat16 is not tried, empty where nobody would expect it; None where it is."""
    if model.unembedding.shape[1] < LEAST_WIDTH:
        return ""
    if model.device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # a new function
        fast = bool(told.get("avx512_bf16") or told.get("amx_bf16"))
    return None if fast else "this machine is not faster in bfloat16"


def choose(
    load: Callable[[str], LanguageModel],
    context: Context,
    probes: Mapping[str, Probe],
    batch_tokens: int,
) -> Precision:
    """Measure a part of the text in float32 and, where it would be faster, in bfloat16.

    Args:
        load: Gives the first checkpoint in a type. A model that is converted would be another than
            one that is loaded: transformers keeps the frequencies of positions in float32.
        context: The text.
        probes: Those of the run by name; what they would find is compared.
        batch_tokens: Tokens per batch.
    """
    model = load("float32")
    why_not = hindrance(model)
    if why_not is not None:
        return Precision("float32", why_not)
    full = _measure(model, context, probes, batch_tokens)
    del model  # before the next one comes: there is never room for two
    try:
        half = _measure(load("bfloat16"), context, probes, batch_tokens)
    except (CheckpointError, UserError) as error:  # beyond its range, or too coarse to be tested
        return Precision("float32", f"in bfloat16 {error}")
    told, beyond = [], []
    for what, difference, bound in _differences(full, half):
        told.append(f"{what} {difference:.4f}")
        if not difference <= bound:
            beyond.append(f"{what} differs by {difference:.4f}, more than {bound:g}")
    if beyond:
        return Precision("float32", f"in bfloat16 {'; '.join(beyond)}")
    agreement = ", ".join(told)
    return Precision("bfloat16", f"on the first checkpoint it agrees with float32 ({agreement})")


PATIENCE = 20
"""Tenths of a second that writing a decision may take."""
_COMPARED = ("performance", "lape", "importance", "working_language")


def _measure(
    model: LanguageModel, context: Context, probes: Mapping[str, Probe], batch_tokens: int
) -> dict[str, Any]:
    chosen = {name: probes[name] for name in _COMPARED if name in probes}
    found = one_pass(model, context, list(chosen.values()), batch_tokens, folds=PART)
    return {name: sums.result() for name, sums in zip(chosen, found, strict=True)}


def _differences(
    full: Mapping[str, Any], half: Mapping[str, Any]
) -> Iterator[tuple[str, float, float]]:
    """(what, how much the two differ at most, bound)."""
    yield "loss", _most(_loss(full["performance"]), _loss(half["performance"])), LOSS
    if "lape" in full:
        change = _activity(full["lape"]) - _activity(half["lape"])
        yield "activation probability", float(np.abs(change).mean()), ACTIVITY
    if "importance" in full:
        important = full["importance"].important
        same = important & half["importance"].important
        known = important.any((1, 2))  # a language may have no text in this part
        share = same[known].sum((1, 2)) / important[known].sum((1, 2))
        yield "important units", float(1 - share.min(initial=1)), 1 - OVERLAP
    if "working_language" in full:
        shares = full["working_language"].share, half["working_language"].share
        if np.isfinite(shares[0]).any():
            yield "working language", _most(*shares), SHARE


def _loss(found: Any) -> NDArray[np.float64]:
    """[language] nats per token."""
    languages = dict.fromkeys(found.document_language)
    rows = [found.document_language == language for language in languages]
    return np.array([found.nll[r].sum() / max(found.token_count[r].sum(), 1) for r in rows])


def _activity(found: Any) -> NDArray[np.float64]:
    """[layer, unit, language] activation probability."""
    probability: NDArray[np.float64] = found.activation_count / np.maximum(found.tokens, 1)
    return probability


def _most(full: NDArray[np.float64], half: NDArray[np.float64]) -> float:
    """Largest difference, of what is a number in float32; infinite where it is one only there."""
    known = np.isfinite(full)
    change = np.abs(full[known] - half[known])
    return float(np.where(np.isfinite(change), change, np.inf).max(initial=0.0))
