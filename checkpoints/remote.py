"""A public run on the Hugging Face Hub as a series: listed and checked before any weights move."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.download import download
from checkpoints.errors import CheckpointError, UserError
from checkpoints.files import locked
from checkpoints.hub import Hub, HubFile, Revision
from checkpoints.integrity import (
    SUSPECTS,
    Group,
    Weights,
    equal_groups,
    missing_steps,
    suspects,
)
from checkpoints.names import Place, compiled, in_order, places, stages_of
from checkpoints.series import Checkpoint, Series, shortened
from checkpoints.shelf import TOKENIZER, HubShelf, formats, lacks, lay_out, weight_files

REFS = ("branches", "tags", "both")


@dataclass(frozen=True)
class HubRun:
    """Which run it is: `series=hub`, or a named one; see conf/series/hub.yaml."""

    repo: str
    name: str | None = None
    more_repos: Sequence[str] = ()
    pattern: str | None = None
    refs: str = "branches"
    tokens_per_step: int | None = None
    stages: Any = None
    final: str = "main"
    dtype: str | None = None
    keep: bool = False
    suspects: str = "exclude"
    steps: Sequence[int] | None = None
    select: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        """Refuse what is not one of the choices."""
        for key, value, choices in (
            ("refs", self.refs, REFS),
            ("suspects", self.suspects, SUSPECTS),
        ):
            if value not in choices:
                raise UserError(f"series.{key}={value}: choose {', '.join(choices)}")
        if self.tokens_per_step is not None and self.tokens_per_step < 1:
            raise UserError(f"series.tokens_per_step={self.tokens_per_step}: choose at least 1")


@dataclass(frozen=True)
class Listing:
    """What the repositories hold, without a byte of weights."""

    revisions: Mapping[int, Revision]
    """Step -> revision, ascending."""
    places: Mapping[int, Place]
    groups: tuple[Group, ...]
    lacking: Mapping[int, str] = field(default_factory=dict)
    """Steps whose revision holds no checkpoint, with what is lacking."""
    no_final: str | None = None
    """The revision that the run should end on, where it is not there or has no weights."""

    @property
    def missing(self) -> tuple[int, ...]:
        """Steps that a regular grid lacks."""
        return missing_steps([*self.revisions, *self.lacking])

    @property
    def pickled(self) -> list[int]:
        """Steps whose weights are in pickle files only."""
        return [
            step
            for step, revision in self.revisions.items()
            if weight_files(revision.files)[0].name.endswith(".bin")
        ]

    def remarks(self) -> tuple[str, ...]:
        """What a reader has to know of the series, a line each."""
        found = [group.sentence() for group in self.groups]
        if self.no_final is not None:
            found.append(
                f"no weights at {self.no_final}, so no step can be told to be the final model "
                "(series.final names another revision)"
            )
        if self.missing:
            found.append(f"steps missing from the grid: {shortened(self.missing)}")
        if self.pickled:
            found.append(
                f"weights in pickle files only (read without executing any code): steps "
                f"{shortened(self.pickled)}"
            )
        found += [f"step {step}: {why}" for step, why in self.lacking.items()]
        return tuple(found)


def list_run(run: HubRun, hub: Hub) -> Listing:
    """All checkpoints of a run with the hashes of their files.

    Raises:
        UserError: A repository that cannot be listed, names that are not understood.
    """
    regex, stages = compiled(run.pattern), stages_of(run.stages)
    commits: dict[tuple[str, str], str] = {}
    found: dict[tuple[str, str], Place] = {}
    for repo in (run.repo, *run.more_repos):
        refs = hub.refs(repo, run.refs)
        for name, place in places(refs, regex, repo).items():
            found[repo, name], commits[repo, name] = place, refs[name]
    ordered = in_order(found, stages, run.tokens_per_step)
    listed = _revisions(hub, {key: commits[key] for key in ordered})
    revisions, at = {}, {}
    lacking: dict[int, str] = {}
    for key, place in sorted(ordered.items(), key=lambda item: item[1].step):
        at[place.step] = place
        why = lacks(listed[key].files)
        if why:
            lacking[place.step] = f"{key[1]}: {why}"
        else:
            revisions[place.step] = listed[key]
    weights = {step: _weights(weight_files(each.files)) for step, each in revisions.items()}
    finals = _finals(hub, run)
    groups = equal_groups(weights, *finals, name=run.final)
    return Listing(revisions, at, groups, lacking, None if finals else run.final)


def _revisions(hub: Hub, commits: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], Revision]:
    by_repo: dict[str, list[tuple[str, str]]] = {}
    for (repo, name), commit in commits.items():
        by_repo.setdefault(repo, []).append((name, commit))
    return {
        (repo, each.name): each
        for repo, refs in by_repo.items()
        for each in hub.revisions(repo, refs)
    }


def _finals(hub: Hub, run: HubRun) -> list[Weights]:
    """The weights that the run ended with, in every format; none where the revision has none."""
    commit = hub.refs(run.repo, "both").get(run.final)
    stored = [] if commit is None else formats(hub.files(run.repo, commit))
    return [_weights(files) for files in stored]


def _weights(files: Sequence[HubFile]) -> Weights:
    return Weights({file.name: file.digest for file in files})


def hub_series(run: HubRun, hub: Hub | None = None, listed_only: bool = False) -> Series:
    """The run as a series; weights come one checkpoint at a time, when they are needed.

    Args:
        run: Which run.
        hub: Lists it.
        listed_only: Not a file is downloaded, the folders stay empty.

    Raises:
        UserError: As `list_run`; nothing in it; steps that are not there.
    """
    hub = Hub() if hub is None else hub
    listing = list_run(run, hub)
    wrong = suspects(listing.groups) if run.suspects == "exclude" else {}
    folders = {step: _folder(hub, revision) for step, revision in listing.revisions.items()}
    checkpoints = tuple(
        Checkpoint(
            step,
            folders[step],
            f"{revision.name}@{revision.commit}",
            tokens=listing.places[step].tokens,
        )
        for step, revision in listing.revisions.items()
        if step not in wrong
    )
    refused: dict[int, str] = {}
    series = Series(
        name=run.name or run.repo.rpartition("/")[2],
        checkpoints=checkpoints,
        suspects=wrong,
        pending={
            step: f"its revision holds no checkpoint: {why}"
            for step, why in listing.lacking.items()
        },
        remarks=listing.remarks(),
        dtype=run.dtype,
        origin=f"{hub.folder(run.repo).parent.name}/{run.repo}",
        shelf=HubShelf(listing.revisions, folders, run.keep, refused),
    )
    if run.steps is not None:
        series = series.take(run.steps)
    if run.select is not None:
        series = series.select(*run.select)
    if not series.checkpoints:
        raise UserError(_nothing_left(run.repo, listing, wrong))
    for checkpoint in () if listed_only else series.checkpoints:
        try:
            lay_out(listing.revisions[checkpoint.step], checkpoint.path, _store(hub, run.repo))
        except CheckpointError as error:  # its own fault: the sweep skips it and says why
            refused[checkpoint.step] = str(error)
    return series


def _nothing_left(repo: str, listing: Listing, wrong: Mapping[int, str]) -> str:
    if not listing.revisions:
        return (
            f"{repo}: none of its {len(listing.lacking)} revisions holds a checkpoint "
            f"({next(iter(listing.lacking.values()))})"
        )
    return (
        f"{repo}: no checkpoint is left ({len(wrong)} hold another step's weights); "
        "series.suspects=keep tracks them nevertheless"
    )


def hub_tokenizer(given: str, hub: Hub | None = None) -> Path:
    """The folder of a tokenizer that lies in another repository, `ORG/NAME` or `ORG/NAME@REVISION`.

    Raises:
        UserError: No such revision, or no tokenizer in it.
    """
    hub = Hub() if hub is None else hub
    repo, _, name = given.partition("@")
    refs = hub.refs(repo, "both")
    commit = name if name in refs.values() else refs.get(name or "main")
    if commit is None:
        raise UserError(f"series.tokenizer={given}: {repo} has no revision {name or 'main'}")
    folder = hub.folder(repo) / "tokenizers" / commit
    wanted = [file for file in hub.files(repo, commit) if file.name in TOKENIZER]
    if not wanted:
        raise UserError(f"series.tokenizer={given}: no tokenizer.json in it")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for file in wanted:
            download(repo, commit, file, folder)
    return folder


def _folder(hub: Hub, revision: Revision) -> Path:
    """Its own; a branch may have a name that is no folder's, such as `run/step10`."""
    name = re.sub(r"[^\w.-]+", "--", revision.name)
    return hub.folder(revision.repo) / "checkpoints" / f"{name}-{revision.commit[:12]}"


def _store(hub: Hub, repo: str) -> Path:
    return hub.folder(repo) / "files"
