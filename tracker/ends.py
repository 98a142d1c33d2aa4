"""How a job of the command line ends: its exit code, and what it said last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DONE, FAILED, WRONG_USE, SKIPPED, INTERRUPTED = 0, 1, 2, 3, 130

_WORSE = (DONE, SKIPPED, WRONG_USE, FAILED, INTERRUPTED)
"""Exit codes from the best to the worst: one crash outweighs any number of skipped checkpoints."""

MEANING = {
    DONE: "done",
    SKIPPED: "with skipped checkpoints",
    WRONG_USE: "refused",
    FAILED: "failed",
    INTERRUPTED: "interrupted",
}


@dataclass(frozen=True)
class Ended:
    """The end of one job."""

    code: int
    said: str = ""
    """One line that says why, where it is not done."""


def worst(codes: Iterable[int]) -> int:
    """The exit code of several jobs; that of none is `DONE`."""
    return max(codes, key=_WORSE.index, default=DONE)
