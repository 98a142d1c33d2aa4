"""Linguistic regions: single parameters that a language's loss rests on (methods 5).

Zhang et al. 2024, "Unveiling Linguistic Regions in Large Language Models" (arXiv 2402.14700). With
`θ` a weight matrix inside the blocks and `L` the NLL summed over scored tokens:

    G_c = sum over the rows of language c of dL/dθ,    I_c = |θ ⊙ G_c|

`I_c` is the first-order change of the loss when a parameter is set to 0. The gradient is **signed**
and summed over all rows before the absolute value is taken: rows that pull a parameter in opposite
directions cancel. (The sum of per-row absolute values is another score, and not this one.)

Per matrix, `k = max(1, round(top_fraction · numel))`:

- region of `c`: the top `k` of `I_c`; **core** region: the top `k` of `sum_c I_c`;
- monolingual region of `c`: its region minus the regions of all other languages;
- bottom region, a control: the lowest of `sum_c I_c`, as many as the core has.

**Choices**: ties go to the lower flat index; a parameter without any effect is in no region, so a
region may be smaller than `k` (a language that was not read has empty regions, and so has one whose
gradient is not finite).

Batches come grouped by language, so two extra copies of the parameters are enough for any number
of languages: the gradient of the language that is being read, in the matrices' `.grad`, and the
running sum of importance, in float32. Of a language that is done only indices stay. A model in
bfloat16 has its gradients summed in float32, too, beside the batch's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from checkpoints.errors import UserError
from tracker.gradients import GradientSample, corrected_cosines, cosines
from tracker.model import LanguageModel
from tracker.probes import Context, require_fraction
from tracker.regions import (
    NOWHERE,
    Floats,
    Ints,
    Places,
    RegionIndices,
    at,
    gini,
    highest,
    in_no_other,
    lowest,
    overlaps,
    share_of,
    top_share,
)
from tracker.store import array
from tracker.trace import Need, Trace

RANDOM_DRAWS = 16
"""Random regions behind the chance level of concentration."""


@dataclass(frozen=True)
class RegionsResult:
    """What overlaps, and how concentrated it is; rows are output dimensions, columns inputs."""

    matrix: NDArray[Any] = array("matrix", doc="weight matrices inside the blocks")
    region: NDArray[Any] = array("region", doc="core, then the languages' regions")
    other_language: NDArray[Any] = array("other_language")
    matrix_row: Ints = array(
        "matrix_row", doc="output dimensions of all matrices, one after another"
    )
    matrix_column: Ints = array("matrix_column", doc="the same for input dimensions")
    row_matrix: NDArray[np.int32] = array("matrix_row", doc="index of the row's matrix")
    row_index: NDArray[np.int32] = array("matrix_row", doc="output dimension in its matrix")
    column_matrix: NDArray[np.int32] = array("matrix_column", doc="index of the column's matrix")
    column_index: NDArray[np.int32] = array("matrix_column", doc="input dimension in its matrix")
    region_size: Ints = array("matrix", unit="parameters", doc="k: a region's size at most")
    matrix_size: Ints = array("matrix", unit="parameters")
    overlap: Ints = array(
        "matrix", "language", "other_language", unit="parameters", doc="in both regions"
    )
    overlap_share: Floats = array(
        "language", "other_language", unit="share", doc="of the first's region, inside the second's"
    )
    overlap_chance: Floats = array(
        unit="share", doc="overlap_share of random regions: k/numel, mean over parameters"
    )
    region_overlap_primary: Floats = array(
        "language", unit="share", doc="of a region, inside the primary's; NaN for it", curve=True
    )
    monolingual_count: Ints = array("language", "matrix", unit="parameters")
    monolingual_share: Floats = array(
        "language", unit="share", doc="of a region, in no other language's", curve=True
    )
    core_share: Floats = array("language", unit="share", doc="of a region, inside the core")
    core_importance_share: Floats = array(
        "matrix", unit="share", doc="of importance summed over languages, inside the core"
    )
    half: Ints = array("half", doc="batches of a language in turn")
    other_half: Ints = array("other_half")
    gradient_product: NDArray[np.float64] = array(
        "language",
        "half",
        "other_language",
        "other_half",
        unit="nats^2",
        doc="inner products of the languages' gradients, batches in two halves (a sample of "
        "parameters where there are many)",
    )
    gradient_cosine: NDArray[np.float64] = array(
        "language", "other_language", unit="cosine", doc="of the gradients, noise included"
    )
    gradient_cosine_corrected: NDArray[np.float64] = array(
        "language", "other_language", unit="cosine", doc="between halves, over their reliability"
    )
    row_count: NDArray[np.int32] = array("region", "matrix_row", unit="parameters")
    column_count: NDArray[np.int32] = array("region", "matrix_column", unit="parameters")
    row_gini: Floats = array("region", "matrix", doc="of a region's parameters over rows")
    column_gini: Floats = array("region", "matrix", doc="of a region's parameters over columns")
    row_top_share: Floats = array(
        "region", "matrix", unit="share", doc="of a region, in its fullest 1% rows (at least one)"
    )
    column_top_share: Floats = array(
        "region", "matrix", unit="share", doc="of a region, in its fullest 1% columns"
    )
    row_gini_random: Floats = array("matrix", doc="row_gini of k random parameters (mean of draws)")
    column_gini_random: Floats = array("matrix", doc="column_gini of k random parameters")
    row_top_share_random: Floats = array(
        "matrix", unit="share", doc="row_top_share of k random parameters"
    )
    column_top_share_random: Floats = array(
        "matrix", unit="share", doc="column_top_share of k random parameters"
    )


@dataclass(frozen=True)
class MaskedRegionsResult(RegionsResult):
    """The same with the regions themselves, one bit per parameter.

    Matrix `m` of a region is `np.unpackbits(region_mask[region, start:], count=matrix_size[m])`,
    `start = mask_offset[m]`, in the order of the flat indices of the matrix as it is stored.
    """

    mask_byte: NDArray[np.int32] = array("mask_byte", doc="bytes of all matrices")
    mask_offset: Ints = array("matrix", unit="bytes", doc="first byte of the matrix")
    region_mask: NDArray[np.uint8] = array("region", "mask_byte", doc="packed bits, highest first")


@dataclass(frozen=True)
class Regions:
    """Settings: which share of a matrix is a region, and whether records hold the regions."""

    top_fraction: float = 0.01
    keep_masks: bool = False
    group: str = "regions"
    needs: Need = Need.PARAMETER

    def __post_init__(self) -> None:
        """Refuse what is no fraction, or neither true nor false."""
        require_fraction("regions", top_fraction=self.top_fraction)
        if not isinstance(self.keep_masks, bool):
            raise UserError(f"probes.regions.keep_masks={self.keep_masks}: choose true or false")

    def start(self, context: Context, model: LanguageModel) -> RegionSums:
        """Empty sums; gradients that somebody left in the model are dropped."""
        return RegionSums(self, context, model)


class RegionSums:
    """Importance summed over the languages read so far, and each one's top indices."""

    def __init__(self, settings: Regions, context: Context, model: LanguageModel) -> None:
        self.settings, self.context, self.model = settings, context, model
        self.size = {
            name: max(1, round(settings.top_fraction * matrix.numel()))
            for name, matrix in model.matrices.items()
        }
        for matrix in model.matrices.values():
            matrix.grad = None
        languages = len(context.text.languages)
        self._sample = GradientSample(model.matrices, languages, context.seed)
        self._total: dict[str, Tensor] = {}
        self._gradient: dict[str, Tensor] = {}
        self._top: dict[int, Places] = {}
        self._reading: int | None = None
        self._regions: RegionIndices | None = None

    def update(self, trace: Trace) -> None:
        """Note whose gradient is being summed; `trace.run` has added the batch's already."""
        batch = trace.batch
        if batch.graded_only:
            return
        assert self._regions is None, "the running sum was released"
        assert self._reading in (None, batch.language), (self._reading, batch.language)
        assert batch.language not in self._top, f"language {batch.language} was read twice"
        self._reading = batch.language
        self._in_float32()
        self._sample.add(batch.language, self._gradients())
        # Not when the language changes: by then the next one's first batch is in the same `.grad`.
        if batch.last:
            self._close(batch.language)

    def _gradients(self) -> dict[str, Tensor]:
        """The gradient of the language that is being read, summed over its batches so far."""
        found = {}
        for name, matrix in self.model.matrices.items():
            gradient = self._gradient.get(name, matrix.grad)
            assert gradient is not None, f"{name} has no gradient"
            found[name] = gradient
        return found

    def _in_float32(self) -> None:
        """Sum over batches in float32 whatever the model's type: in bfloat16 small terms vanish."""
        for name, matrix in self.model.matrices.items():
            if matrix.dtype != torch.float32 and matrix.grad is not None:
                if name in self._gradient:
                    self._gradient[name].add_(matrix.grad)
                else:
                    self._gradient[name] = matrix.grad.float()
                matrix.grad = None

    def _close(self, language: int) -> None:
        """Turn a language's gradient into its importance, where it lies, and let go of it."""
        top = {}
        gradients = self._gradients()
        self._gradient.clear()
        for name, matrix in self.model.matrices.items():
            gradient, matrix.grad = gradients.pop(name), None
            importance = gradient.mul_(matrix.detach()).abs_()
            top[name] = highest(importance, self.size[name])
            if name in self._total:
                self._total[name].add_(importance)
            else:
                self._total[name] = importance.float()
        self._top[language] = top
        self._reading = None
        self._sample.close()

    def regions(self) -> RegionIndices:
        """All regions, made once; nothing can be added afterwards."""
        if self._regions is None:
            if self._reading is not None:
                self._close(self._reading)
            self._regions = self._make_regions()
        return self._regions

    def _make_regions(self) -> RegionIndices:
        matrices, count = self.model.matrices, len(self.context.text.languages)
        language: list[dict[str, Ints]] = [{} for _ in range(count)]
        alone: list[dict[str, Ints]] = [{} for _ in range(count)]
        core, bottom, of_core, importance = {}, {}, {}, {}
        for name, matrix in matrices.items():
            # Nothing read: nothing has an effect.
            total = self._total.pop(name) if self._total else torch.zeros(matrix.shape)
            core[name] = highest(total, self.size[name])
            bottom[name] = lowest(total, len(core[name]))
            of_core[name] = at(total, core[name])
            importance[name] = float(total.sum(dtype=torch.float64))
            tops = [self._top[c][name] if c in self._top else NOWHERE for c in range(count)]
            for c, (top, apart) in enumerate(zip(tops, in_no_other(tops), strict=True)):
                language[c][name], alone[c][name] = top, apart
        return RegionIndices(
            core=core,
            bottom=bottom,
            language=tuple(language),
            monolingual=tuple(alone),
            importance_of_core=of_core,
            importance=importance,
            size=self.size,
            shape={name: (m.shape[0], m.shape[1]) for name, m in matrices.items()},
            input_first=self.model.input_first & set(matrices),
        )

    def result(self) -> RegionsResult:
        """Overlaps and concentration; with `keep_masks` the regions as bits, too."""
        regions = self.regions()
        fields = {
            **_names(regions, self.context),
            **_overlaps(regions, self.context),
            **_concentration(regions),
            **_random_concentration(regions, self.context.seed),
            **_similarities(self._sample.products()),
        }
        if self.settings.keep_masks:
            return MaskedRegionsResult(**fields, **_masks(regions))
        return RegionsResult(**fields)


def _names(regions: RegionIndices, context: Context) -> dict[str, NDArray[Any]]:
    """Coordinates and sizes."""
    languages = np.array(context.text.languages, dtype=object)
    outputs, inputs = zip(*map(regions.outputs_and_inputs, regions.shape), strict=True)
    return {
        "matrix": np.array(list(regions.shape), dtype=object),
        "region": np.concatenate([np.array(["core"], dtype=object), languages]),
        "other_language": languages,
        "matrix_row": np.arange(sum(outputs)),
        "matrix_column": np.arange(sum(inputs)),
        "row_matrix": np.repeat(np.arange(len(outputs), dtype=np.int32), outputs),
        "row_index": np.concatenate([np.arange(n, dtype=np.int32) for n in outputs]),
        "column_matrix": np.repeat(np.arange(len(inputs), dtype=np.int32), inputs),
        "column_index": np.concatenate([np.arange(n, dtype=np.int32) for n in inputs]),
        "region_size": np.array(list(regions.size.values()), np.int64),
        "matrix_size": np.array([a * b for a, b in regions.shape.values()], np.int64),
    }


def _similarities(products: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """How alike the languages' gradients are."""
    return {
        "half": np.arange(2),
        "other_half": np.arange(2),
        "gradient_product": products,
        "gradient_cosine": cosines(products),
        "gradient_cosine_corrected": corrected_cosines(products),
    }


def _overlaps(regions: RegionIndices, context: Context) -> dict[str, NDArray[Any]]:
    """What the languages' regions have in common with one another and with the core."""
    names = list(regions.shape)
    common = np.stack([overlaps(_all(regions, name)) for name in names])
    whole = common.sum(0)
    size = np.diagonal(whole)
    share = share_of(whole, size[:, None])
    inside_primary = share[1:, 1 + context.primary_index].copy()
    inside_primary[context.primary_index] = np.nan
    alone = np.array([[len(own[name]) for name in names] for own in regions.monolingual], np.int64)
    k, numel = (
        np.array(list(values), np.float64)
        for values in (regions.size.values(), (a * b for a, b in regions.shape.values()))
    )
    of_core = np.array([regions.importance_of_core[n].sum(dtype=np.float64) for n in names])
    return {
        "overlap": common[:, 1:, 1:],
        "overlap_share": share[1:, 1:],
        "overlap_chance": np.asarray((k * k / numel).sum() / k.sum()),
        "region_overlap_primary": inside_primary,
        "core_share": share[1:, 0],
        "monolingual_count": alone,
        "monolingual_share": share_of(alone.sum(1), size[1:]),
        "core_importance_share": share_of(of_core, np.array(list(regions.importance.values()))),
    }


def _all(regions: RegionIndices, name: str) -> list[Ints]:
    """The core and the languages' regions in one matrix, as the `region` dimension has them."""
    return [regions.core[name], *(own[name] for own in regions.language)]


def _concentration(regions: RegionIndices) -> dict[str, NDArray[Any]]:
    """How many parameters of a region each row and column holds (dimensional dependence)."""
    rows, columns = [], []
    for name in regions.shape:
        outputs, inputs = regions.outputs_and_inputs(name)
        placed = [regions.dimensions(name, places) for places in _all(regions, name)]
        rows.append(np.stack([np.bincount(row, minlength=outputs) for row, _ in placed]))
        columns.append(np.stack([np.bincount(column, minlength=inputs) for _, column in placed]))
    return {
        "row_count": np.concatenate(rows, 1).astype(np.int32),
        "column_count": np.concatenate(columns, 1).astype(np.int32),
        "row_gini": np.stack([gini(counts) for counts in rows], 1),
        "column_gini": np.stack([gini(counts) for counts in columns], 1),
        "row_top_share": np.stack([top_share(counts) for counts in rows], 1),
        "column_top_share": np.stack([top_share(counts) for counts in columns], 1),
    }


def _random_concentration(regions: RegionIndices, seed: int) -> dict[str, NDArray[Any]]:
    """The same for `k` parameters drawn at random, without replacement, mean of several draws.

    A small region is concentrated by chance: one parameter fills one row.
    """
    shapes = ((*regions.outputs_and_inputs(name), k) for name, k in regions.size.items())
    return _drawn_concentration(tuple(shapes), seed)


@lru_cache(maxsize=4)  # the same for every checkpoint of a series
def _drawn_concentration(
    shapes: tuple[tuple[int, int, int], ...], seed: int
) -> dict[str, NDArray[Any]]:
    """From (outputs, inputs, k) of every matrix."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for outputs, inputs, k in shapes:
        for axis, lines, each in (("row", outputs, inputs), ("column", inputs, outputs)):
            counts = generator.multivariate_hypergeometric(
                np.full(lines, each), k, size=RANDOM_DRAWS, method="marginals"
            )
            found.setdefault(f"{axis}_gini_random", []).append(float(gini(counts).mean()))
            found.setdefault(f"{axis}_top_share_random", []).append(float(top_share(counts).mean()))
    return {name: np.array(values) for name, values in found.items()}


def _masks(regions: RegionIndices) -> dict[str, NDArray[Any]]:
    """One bit per parameter; every matrix starts a byte of its own."""
    packed = []
    for name, (first, second) in regions.shape.items():
        mask = np.zeros((1 + len(regions.language), first * second), np.bool_)
        for row, places in zip(mask, _all(regions, name), strict=True):
            row[places] = True
        packed.append(np.packbits(mask, axis=1))
    whole = np.concatenate(packed, axis=1)
    return {
        "mask_byte": np.arange(whole.shape[1], dtype=np.int32),
        "mask_offset": np.cumsum([0, *(p.shape[1] for p in packed[:-1])]).astype(np.int64),
        "region_mask": whole,
    }
