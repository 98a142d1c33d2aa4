"""Perturbation: change single parameters on the core region's top dimensions (methods 5).

Zhang et al. 2024, "Unveiling Linguistic Regions in Large Language Models" (arXiv 2402.14700): the
core region lies on few rows and columns of the weight matrices, and to perturb even one parameter
there can cost the model its language. A row is an output dimension, a column an input dimension,
however the matrix is stored.

**Choices.** All of it is made on one half of the text, and the loss is read on the other.

- The *top dimension* of a matrix is the row or the column that holds most parameters of its core
  region (a tie: the row before the column, the lower index).
- A trial (`top`, numbered from 1) is the core parameter of highest importance on the top dimension
  of its matrix. One trial per matrix, the highest importance first, so that the claim is tested
  where it should hold best; once every matrix has been tried, its next parameters follow.
- The change: `θ - sign(θ) · scale · max|W|`, the maximum over the matrix `W`. It goes through 0 to
  the other side, because importance is the effect of going to 0; a negative `scale` goes away
  from 0 instead. All parameters of a trial's matrix move equally far, large or small as they are.
- Controls of a trial: the same change of a random parameter of the same matrix, outside the core
  region and off the top dimension.
- `elsewhere`, another comparison of every trial: the core parameter of the same matrix that has the
  highest importance off the top dimension. If it does as much harm, the harm comes with importance
  and not with the dimension. It shares the trial's random controls, which are read once.
- `dimensions`: all core parameters on the top dimensions of all matrices set to 0 at once, against
  as many random ones of every matrix, outside the core and off the top dimension; 0 and not a
  large value, because hundreds of those destroy any model.

Where a half of the text shows too few parameters for a trial, nothing is changed: size 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.interventions import HALVES, Subject
from tracker.interventions.arms import Arm, Effects, Folds, Reading, Trial, cross_fitted, effects
from tracker.interventions.choice import find_regions, region_probe, require_region
from tracker.interventions.edits import parameters_set
from tracker.model import LanguageModel
from tracker.probes import require_whole
from tracker.probes.regions import Regions
from tracker.regions import Floats, Ints, Places, RegionIndices, share_of
from tracker.store import array
from tracker.text import ProbeText

TOP, ELSEWHERE, DIMENSIONS = "top", "elsewhere", "dimensions"
AXES = ("row", "column")


@dataclass(frozen=True)
class PerturbResult(Effects):
    """Losses under every arm, and where the changed parameters are."""

    half: NDArray[Any] = array("half", doc="half of the text on which parameters were chosen")
    matrix: NDArray[Any] = array("matrix", doc="weight matrices inside the blocks")
    document_half: Ints = array(
        "document", doc="index of the half whose choice the document was read under"
    )
    arm_matrix: NDArray[Any] = array(
        "arm", "half", doc="matrix of the parameter; empty: none, or several parameters"
    )
    arm_row: Ints = array("arm", "half", doc="its output dimension; -1: none, or several")
    arm_column: Ints = array("arm", "half", doc="its input dimension; -1: none, or several")
    arm_before: Floats = array("arm", "half", unit="weight", doc="its value; NaN: none, or several")
    arm_after: Floats = array("arm", "half", unit="weight", doc="the value that it is set to")
    top_axis: NDArray[Any] = array(
        "half", "matrix", doc="row (output) or column (input): the top dimension; empty: no core"
    )
    top_index: Ints = array("half", "matrix", doc="index of the top dimension; -1: no core")
    top_share: Floats = array(
        "half", "matrix", unit="share", doc="of the matrix's core region, on its top dimension"
    )


@dataclass(frozen=True)
class Dimension:
    """A row or a column of one matrix."""

    axis: str
    """`row` (an output) or `column` (an input)."""
    index: int
    count: int
    """Core parameters on it."""

    def holds(self, regions: RegionIndices, name: str, flat: Ints) -> NDArray[np.bool_]:
        """Which of these parameters of the matrix `name` lie on it."""
        row, column = regions.dimensions(name, flat)
        on: NDArray[np.bool_] = (row if self.axis == "row" else column) == self.index
        return on


@dataclass(frozen=True)
class Change:
    """Parameters, and the values that they are set to."""

    places: Places
    values: Mapping[str, Floats]

    @property
    def size(self) -> int:
        """Parameters that change."""
        return sum(len(flat) for flat in self.places.values())


@dataclass(frozen=True)
class Perturb:
    """Settings: how many parameters, how far, against how many random ones."""

    trials: int = 8
    scale: float = 10.0
    """Times the largest absolute weight of the matrix; negative: away from 0."""
    dimension: bool = True
    """Whether the top dimensions of all matrices are set to 0 at once, too."""
    controls: int = 3
    top_fraction: float | None = None
    """Of every weight matrix, the core region; None: as the run's regions probe has it."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be."""
        where = "interventions.perturb"
        require_whole(where, 1, trials=self.trials, controls=self.controls)
        require_region(where, self.top_fraction)
        number = isinstance(self.scale, int | float) and math.isfinite(self.scale)
        if not number or not self.scale:
            raise UserError(
                f"{where}.scale={self.scale}: choose a number above 0, or below 0 to go away from 0"
            )
        if not isinstance(self.dimension, bool):
            raise UserError(f"{where}.dimension={self.dimension}: choose true or false")

    def run(self, subject: Subject) -> PerturbResult:
        """Change one parameter after another, then the top dimensions at once."""
        probe = region_probe(subject, "interventions.perturb", self.top_fraction)
        halves = {half: self._choose(subject, probe, half) for half in HALVES}

        def trials(folds: Folds) -> Iterator[Trial]:
            for arm, change in halves[folds].changes.items():
                edit = partial(parameters_set, subject.model, change.places, change.values)
                yield Trial(arm, change.size, edit)

        found = cross_fitted(subject, trials)
        for arm in [a for a in found if a.edit == TOP and a.control >= 0]:
            found[replace(arm, edit=ELSEWHERE)] = found[arm]
        return PerturbResult(
            **effects(found),
            half=np.array(["first", "second"], dtype=object),
            matrix=np.array(list(subject.model.matrices), dtype=object),
            document_half=_document_half(subject.context.text),
            **_located(found, list(halves.values()), subject.model),
            **_dimensions(list(halves.values())),
        )

    def _choose(self, subject: Subject, probe: Regions, folds: Folds) -> Half:
        half = Half(find_regions(subject, probe, folds))
        for number, (name, rank) in enumerate(half.order(self.trials), 1):
            push = partial(pushed, subject.model, name, scale=self.scale)
            arm = Arm(TOP, number=number)
            flat = half.ranked(name, on_top=True)[rank : rank + 1]
            half.changes[arm] = push(flat)
            for r in range(self.controls):
                drawn = half.random(name, len(flat), subject.generator("perturb", number, r))
                half.changes[replace(arm, control=r)] = push(drawn)
            other = half.ranked(name, on_top=False)[rank : rank + 1]
            half.changes[Arm(ELSEWHERE, number=number)] = push(other)
        if self.dimension:
            half.changes |= self._at_once(subject, half)
        return half

    def _at_once(self, subject: Subject, half: Half) -> Iterator[tuple[Arm, Change]]:
        on_top = {name: half.ranked(name, on_top=True) for name in half.top}
        yield Arm(DIMENSIONS), zeroed(on_top)
        for r in range(self.controls):
            generator = subject.generator("perturb", DIMENSIONS, r)
            drawn = {n: half.random(n, len(flat), generator) for n, flat in on_top.items()}
            yield Arm(DIMENSIONS, control=r), zeroed(drawn)


class Half:
    """What one half of the text shows, and what is to be changed by it."""

    def __init__(self, regions: RegionIndices) -> None:
        self.regions = regions
        self.top = {name: top_dimension(regions, name) for name in regions.core}
        self.changes: dict[Arm, Change] = {}

    def ranked(self, name: str, on_top: bool) -> Ints:
        """Core parameters of a matrix on its top dimension, or off it, the most important first."""
        core = self.regions.core[name]
        inside = np.flatnonzero(self.top[name].holds(self.regions, name, core) == on_top)
        importance = self.regions.importance_of_core[name][inside]
        found: Ints = core[inside[np.argsort(-importance, kind="stable")]]
        return found

    def order(self, trials: int) -> list[tuple[str, int]]:
        """(matrix, rank on its top dimension) of every trial; a rank too high: none is left."""
        found = []
        for name, core in self.regions.core.items():
            best = self.ranked(name, on_top=True)[:trials]
            importance = self.regions.importance_of_core[name][np.searchsorted(core, best)]
            found += [(rank, -value, name) for rank, value in enumerate(importance)]
        chosen = [(name, rank) for rank, _, name in sorted(found)[:trials]]
        nothing = next(iter(self.regions.core)), trials
        return chosen + [nothing] * (trials - len(chosen))

    def random(self, name: str, count: int, generator: np.random.Generator) -> Ints:
        """Random parameters of a matrix, none in the core region or on the top dimension."""
        core, top = self.regions.core[name], self.top[name]
        rows, columns = self.regions.outputs_and_inputs(name)
        taken = len(core) + (columns if top.axis == "row" else rows)
        # Drawn with as many to spare as can be taken, then thinned: no array of all parameters.
        drawn = generator.choice(rows * columns, min(rows * columns, count + taken), replace=False)
        free = drawn[~np.isin(drawn, core) & ~top.holds(self.regions, name, drawn)]
        return np.sort(free[:count])


def top_dimension(regions: RegionIndices, name: str) -> Dimension:
    """The row or the column that holds most parameters of the core region of a matrix."""
    placed = regions.dimensions(name, regions.core[name])
    if not len(placed[0]):
        return Dimension("", -1, 0)
    counts = [np.bincount(index) for index in placed]
    axis = 0 if counts[0].max() >= counts[1].max() else 1
    index = int(counts[axis].argmax())
    return Dimension(AXES[axis], index, int(counts[axis][index]))


def pushed(model: LanguageModel, name: str, flat: Ints, scale: float) -> Change:
    """Parameters of one matrix pushed through 0 by `scale` times its largest absolute weight."""
    low, high = torch.aminmax(model.matrices[name].detach())
    before = weights(model, name, flat)
    sign = np.where(before < 0, -1.0, 1.0)
    distance = scale * max(-float(low), float(high))
    return Change({name: flat}, {name: before - sign * distance})


def zeroed(places: Places) -> Change:
    """Parameters set to 0."""
    return Change(places, {name: np.zeros(len(flat)) for name, flat in places.items()})


def weights(model: LanguageModel, name: str, flat: Ints) -> Floats:
    """Values of single parameters."""
    matrix = model.matrices[name].detach()
    index = torch.from_numpy(flat).to(matrix.device)
    values: Floats = matrix.view(-1)[index].double().cpu().numpy()
    return values


def _document_half(text: ProbeText) -> Ints:
    """[document] 0: read under what the first half chose, 1: the second."""
    return np.isin(text.document_fold, list(HALVES[0])).astype(np.int64)


def _located(
    found: dict[Arm, Reading], halves: list[Half], model: LanguageModel
) -> dict[str, NDArray[Any]]:
    """[arm, half] the single parameters that were changed."""
    shape = len(found), len(halves)
    fields: dict[str, NDArray[Any]] = {
        "arm_matrix": np.full(shape, "", dtype=object),
        "arm_row": np.full(shape, -1, np.int64),
        "arm_column": np.full(shape, -1, np.int64),
        "arm_before": np.full(shape, np.nan),
        "arm_after": np.full(shape, np.nan),
    }
    for a, arm in enumerate(found):
        shared = arm.edit == ELSEWHERE and arm.control >= 0
        for h, half in enumerate(halves):
            change = half.changes.get(replace(arm, edit=TOP) if shared else arm)
            if change is None or change.size != 1:
                continue
            (name,) = (n for n, flat in change.places.items() if len(flat))
            flat = change.places[name]
            (row,), (column,) = half.regions.dimensions(name, flat)
            value = weights(model, name, flat)[0], change.values[name][0]
            for field, known in zip(fields, (name, row, column, *value), strict=True):
                fields[field][a, h] = known
    return fields


def _dimensions(halves: list[Half]) -> dict[str, NDArray[Any]]:
    """[half, matrix] the top dimensions."""
    tops = [list(half.top.values()) for half in halves]
    sizes = [[len(flat) for flat in half.regions.core.values()] for half in halves]
    count = np.array([[top.count for top in each] for each in tops])
    return {
        "top_axis": np.array([[top.axis for top in each] for each in tops], dtype=object),
        "top_index": np.array([[top.index for top in each] for each in tops], np.int64),
        "top_share": share_of(count, np.array(sizes)),
    }
