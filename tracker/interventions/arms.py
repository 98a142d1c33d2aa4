"""Arms: the same text under one change after another, chosen on one half, read on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.interventions import HALVES, Subject
from tracker.probes import Accumulator, Probe
from tracker.probes.performance import Performance, PerformanceSums
from tracker.store import array

Folds = frozenset[int]

NONE = "none"
"""The edit that changes nothing."""


@dataclass(frozen=True)
class Arm:
    """One change."""

    edit: str
    """What is changed: the name of a set or region."""
    target: str = ""
    """Whose: a language, or nobody's."""
    control: int = -1
    """-1: the change itself; r: its r-th random control."""
    number: int = 0
    """Tells changes of one kind apart, where there are several."""

    @property
    def name(self) -> str:
        """`specific php`, `specific php (random 0)`, `top #3`."""
        number = f"#{self.number}" if self.number else ""
        whose = " ".join(part for part in (self.edit, self.target, number) if part)
        return whose if self.control < 0 else f"{whose} (random {self.control})"


@dataclass(frozen=True)
class Trial:
    """An arm made ready on one half of the text."""

    arm: Arm
    size: int
    """Units or parameters that are changed."""
    edit: Callable[[], AbstractContextManager[None]]
    languages: tuple[int, ...] | None = None
    """Languages whose text is read under the change; None: all."""


@dataclass(frozen=True)
class Effects:
    """Loss per document under every arm; the arm `none` comes first."""

    arm: NDArray[Any] = array("arm", doc="what was changed, whose, which control")
    arm_edit: NDArray[Any] = array("arm", doc="name of the set or region; none: nothing")
    arm_target: NDArray[Any] = array("arm", doc="language whose it is; empty: nobody's")
    arm_control: NDArray[np.int64] = array("arm", doc="-1: the change; r: its random control r")
    arm_number: NDArray[np.int64] = array("arm", doc="tells changes of one kind apart")
    arm_size: NDArray[np.float64] = array("arm", doc="units or parameters, mean of the halves")
    nll: NDArray[np.float64] = array(
        "arm", "document", unit="nats", doc="summed NLL of scored tokens; NaN where not read"
    )
    token_count: NDArray[np.int64] = array("document", unit="tokens", doc="scored tokens")
    document_language: NDArray[Any] = array("document", doc="language of the document")


@dataclass
class Reading:
    """What was read under one arm, on both halves."""

    sizes: list[int]
    accumulators: list[Accumulator] = field(default_factory=list)
    """The losses, then the read-outs."""

    @property
    def performance(self) -> PerformanceSums:
        """The losses."""
        assert isinstance(self.accumulators[0], PerformanceSums)
        return self.accumulators[0]


def cross_fitted(
    subject: Subject,
    trials: Callable[[Folds], Iterable[Trial]],
    readouts: Sequence[Probe] = (),
) -> dict[Arm, Reading]:
    """Read the text under every arm, the documents of each half under the other half's choice.

    Args:
        subject: The checkpoint.
        trials: Folds to choose on -> the trials; the same arms for either half.
        readouts: Read beside the loss (the first accumulator of every reading).

    Returns:
        Arm -> what was read, the arm `none` first.
    """
    probes = [Performance(), *readouts]
    found: dict[Arm, Reading] = {}
    for chosen_on, read_on in (HALVES, HALVES[::-1]):
        nothing = Trial(Arm(NONE), 0, nullcontext)
        for trial in chain([nothing], trials(chosen_on)):
            subject.progress(trial.arm.name)
            reading = found.setdefault(trial.arm, Reading([]))
            reading.sizes.append(trial.size)
            with trial.edit():
                reading.accumulators = subject.measure(
                    probes, read_on, trial.languages, reading.accumulators
                )
    return found


def effects(readings: dict[Arm, Reading]) -> dict[str, Any]:
    """The fields of `Effects`."""
    arms = list(readings)
    losses = [reading.performance.result() for reading in readings.values()]
    read = np.stack([loss.token_count > 0 for loss in losses])
    return {
        "arm": np.array([a.name for a in arms], dtype=object),
        "arm_edit": np.array([a.edit for a in arms], dtype=object),
        "arm_target": np.array([a.target for a in arms], dtype=object),
        "arm_control": np.array([a.control for a in arms], np.int64),
        "arm_number": np.array([a.number for a in arms], np.int64),
        "arm_size": np.array([np.mean(r.sizes) for r in readings.values()]),
        "nll": np.where(read, np.stack([loss.nll for loss in losses]), np.nan),
        "token_count": losses[0].token_count,
        "document_language": losses[0].document_language,
    }
