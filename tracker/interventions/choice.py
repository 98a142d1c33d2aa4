"""The regions that interventions on single parameters start from, found on a part of the text."""

from __future__ import annotations

from dataclasses import replace

from checkpoints.errors import UserError
from tracker.interventions import Subject
from tracker.interventions.arms import Folds
from tracker.probes import require_fraction
from tracker.probes.regions import Regions, RegionSums
from tracker.regions import RegionIndices

MOST = 0.5
"""Largest fraction: a random set of the same size must fit beside a region."""


def require_region(where: str, top_fraction: float | None) -> None:
    """Refuse a fraction that is none, or that leaves no room for random controls."""
    if top_fraction is not None:
        require_fraction(where, top_fraction=top_fraction)
        if top_fraction > MOST:
            raise UserError(
                f"{where}.top_fraction={top_fraction}: choose at most {MOST}, so that random "
                "parameters fit beside the region"
            )


def region_probe(subject: Subject, where: str, top_fraction: float | None) -> Regions:
    """The run's regions probe, with another fraction where one is given.

    Raises:
        UserError: The run's own regions are too large for an intervention.
    """
    probe = subject.probe(Regions)
    fraction = probe.top_fraction if top_fraction is None else top_fraction
    require_region(where, fraction)
    return replace(probe, top_fraction=fraction)


def find_regions(subject: Subject, probe: Regions, folds: Folds) -> RegionIndices:
    """Regions of the text of these folds: one pass, forward and backward."""
    subject.progress("regions")
    (sums,) = subject.measure([probe], folds)
    assert isinstance(sums, RegionSums)
    return sums.regions()
