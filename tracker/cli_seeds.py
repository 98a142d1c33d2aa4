"""`series.seeds`: one run per seed of the built-in series, and the runs of `analysis.seeds`.

Every seed's series, records and analysis are those of a run of that seed alone, in folders of their
own; which other seeds there are is no part of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from checkpoints.errors import UserError
from tracker import store
from tracker.config import RunSettings

TASKS = ("all", "track", "analyze", "remix")
"""What can be done with several seeds; the others work on one run."""


@dataclass(frozen=True)
class OneSeed:
    """The configuration of one of several seeds."""

    seed: int
    config: DictConfig
    settings: RunSettings


def every_seed(config: DictConfig, settings: RunSettings) -> list[OneSeed]:
    """One configuration per seed of `series.seeds`; none where it is not set.

    Where a folder is given (`run_dir`, `series.path`), each seed has `seed-N` below it.

    Raises:
        UserError: Not a list of different seeds, not the built-in series, or a task for one run.
    """
    given = config.series.get("seeds")
    if given is None:
        return []
    seeds = _checked(OmegaConf.to_object(given) if OmegaConf.is_config(given) else given)
    if config.series.kind != "demo":
        raise UserError(
            "series.seeds: only the built-in series is trained here; of another one, name the runs "
            "of the other seeds: analysis.seeds=[DIR, DIR]"
        )
    if settings.task not in TASKS:
        raise UserError(
            f"series.seeds with task={settings.task}: it works on one run; choose series.seed=N"
        )
    return [_one(config, settings, seed) for seed in seeds]


def _checked(given: object) -> list[int]:
    """At least two different whole numbers from 0 on."""
    wanted = "give two or more different whole numbers, such as [0,1,2]; of one, set series.seed"
    fits = isinstance(given, list) and all(type(s) is int and s >= 0 for s in given)
    if not (isinstance(given, list) and fits and len(set(given)) == len(given) >= 2):
        raise UserError(f"series.seeds={given}: {wanted}")
    return given


def _one(config: DictConfig, settings: RunSettings, seed: int) -> OneSeed:
    mine = config.copy()
    mine.series.seed, mine.series.seeds = seed, None
    if mine.series.path is not None:
        mine.series.path = str(Path(mine.series.path) / f"seed-{seed}")
    if settings.run_dir is not None:
        settings = replace(settings, run_dir=str(Path(settings.run_dir) / f"seed-{seed}"))
        mine.run_dir = settings.run_dir
    return OneSeed(seed, mine, settings)


def require_runs(folders: Sequence[str]) -> None:
    """Look at the folders of `analysis.seeds` before anything is measured.

    Raises:
        UserError: One of them holds no records.
    """
    for folder in folders:
        if not any((Path(folder) / store.RECORDS).glob("step-*.h5")):
            raise UserError(f"analysis.seeds: {folder}: no records in it; give the folder of a run")


def require_others(folder: Path, others: Sequence[str]) -> None:
    """Refuse the run itself among the runs of the other seeds.

    Raises:
        UserError: It is there.
    """
    if folder.resolve() in [Path(other).resolve() for other in others]:
        raise UserError(f"analysis.seeds: {folder} is this run itself; name those of other seeds")
