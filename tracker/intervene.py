"""Interventions on the checkpoints of a series: one record per intervention and checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.errors import CheckpointError, UserError
from checkpoints.files import clear_unfinished
from checkpoints.series import Checkpoint, Series
from checkpoints.shelf import BusyError
from tracker import store
from tracker.interventions import FOLDS, Intervention, Subject
from tracker.precision import decided
from tracker.probes import Context
from tracker.provenance import Weights, is_of
from tracker.sweep import (
    Measurement,
    Outcome,
    Sweep,
    make_context,
    require_one,
    usable_probes,
)


@dataclass(frozen=True)
class Plan:
    """What is to be done to which checkpoints."""

    interventions: Mapping[str, Intervention]
    """By the name under which the record keeps the result."""
    steps: tuple[int, ...]
    corpus: Mapping[str, Path] = field(default_factory=dict)
    """Language -> JSON lines to train on."""


def choose_steps(series: Series, wanted: Any) -> tuple[int, ...]:
    """The steps to intervene on: a given one or a list, `all`, or, by default, the last.

    Raises:
        UserError: A step that the series does not have.
    """
    if wanted == "all":
        return tuple(series.steps)
    if wanted is None:
        return (series.steps[-1],)
    chosen = wanted if isinstance(wanted, list | tuple) else [wanted]
    if not chosen or not all(isinstance(s, int) for s in chosen):
        raise UserError(f"steps={wanted}: choose all, or a list such as steps=[0,512]")
    unknown = [s for s in chosen if s not in series.steps]
    if unknown:
        near = min(series.steps, key=lambda s: abs(s - unknown[0]))
        raise UserError(
            f"steps: the series has no step {unknown[0]} (the nearest is {near}; "
            f"it has {len(series.steps)} steps from {series.steps[0]} to {series.steps[-1]})"
        )
    return tuple(sorted(set(chosen)))


def record_path(folder: Path, name: str, digest: str, step: int) -> Path:
    """Where the record of an intervention on a checkpoint is kept in a run's folder.

    Records of other settings stand beside it, in a folder of their own.
    """
    return folder / store.INTERVENTIONS / f"{name}-{digest[:8]}" / store.record_name(step)


def intervene(
    measurement: Measurement,
    plan: Plan,
    folder: Path,
    progress: Callable[[int, int, str], None] | None = None,
) -> Outcome:
    """Do every intervention to every chosen checkpoint that has no record of it yet.

    A checkpoint that cannot be loaded is skipped, and the others go on.

    Args:
        measurement: The run: series, text, probes.
        plan: Interventions, steps, corpus.
        folder: The run's folder.
        progress: Told after each intervention.

    Raises:
        UserError: An intervention cannot be done on this text or without a corpus; none of the
            checkpoints can be downloaded.
    """
    m = replace(
        measurement,
        # More folds than a record of a large model keeps: halves need them.
        text_settings=replace(measurement.text_settings, folds=FOLDS),
        documents=tuple(d for d in measurement.documents if not d.graded_only),
    )
    context = make_context(m)
    for name, intervention in plan.interventions.items():
        _refuse_unable(name, intervention, context, plan)
    sweep = _Interventions(m, plan, folder, context)
    clear_unfinished(folder / store.INTERVENTIONS)
    chosen = {c.step: c for c in m.series.checkpoints if c.step in plan.steps}
    due = [step for step, checkpoint in chosen.items() if sweep.due(checkpoint)]
    number, total = len(chosen) - len(due), len(chosen) * len(plan.interventions)
    done: set[int] = set()
    failed: dict[int, CheckpointError] = {}
    with closing(m.series.shelf) as shelf:
        for step, weights in shelf.turns(due, lambda step: bool(sweep.due(chosen[step]))):
            told = _Told(progress, number * len(plan.interventions), total, step)
            try:
                with weights:
                    if sweep.visit(chosen[step], told):
                        done.add(step)
            except BusyError:
                continue
            except CheckpointError as error:
                failed[step] = error
            number += 1
    if len(failed) == len(chosen):
        require_one(list(failed.values()))
    if progress:
        progress(total, total, "done")
    skipped = {step: str(error) for step, error in failed.items()}
    kept = tuple(step for step in chosen if step not in done and step not in skipped)
    return Outcome(tuple(sorted(done)), kept, skipped, dict(m.series.pending))


@dataclass(frozen=True)
class _Told:
    """Progress within one checkpoint."""

    progress: Callable[[int, int, str], None] | None
    done: int
    """Interventions before this checkpoint."""
    total: int
    step: int

    def __call__(self, place: int, name: str, what: str) -> None:
        """Say what intervention number `place` does."""
        if self.progress:
            self.progress(self.done + place, self.total, f"step {self.step}, {name}: {what}")


def _refuse_unable(name: str, intervention: Intervention, context: Context, plan: Plan) -> None:
    if getattr(intervention, "needs_concepts", False) and context.concepts is None:
        raise UserError(
            f"intervention={name}: it rests on a concept table, and none fits the text; "
            "text.pairs=FILE adds one"
        )
    if getattr(intervention, "needs_corpus", False) and not plan.corpus:
        raise UserError(
            f"intervention={name}: it trains, and there is nothing to train on; "
            "mixture.corpus=FILE names a table with language and path"
        )


class _Interventions:
    """State shared by the checkpoints."""

    def __init__(
        self, measurement: Measurement, plan: Plan, folder: Path, context: Context
    ) -> None:
        self.plan, self.folder, self.context = plan, folder, context
        found, settings = decided(folder / store.RECORDS), measurement.model_settings
        # As the records are; without any nothing is decided for them.
        settings = settings.of_series(found.dtype) if found else settings.exact()
        self.sweep = Sweep(measurement, folder, context, settings)
        self.measurement = measurement
        run = measurement.digest()
        self.digests = {n: self._digest(run, i) for n, i in plan.interventions.items()}

    def due(self, checkpoint: Checkpoint) -> dict[str, tuple[int, Path]]:
        """Interventions that have no record: their place in the plan, and the record's path."""
        weights = self.measurement.series.shelf.digest(checkpoint.step)
        due = {}
        for place, (name, digest) in enumerate(self.digests.items()):
            path = record_path(self.folder, name, digest, checkpoint.step)
            if not is_of(path, checkpoint, weights):
                due[name] = place, path
        return due

    def visit(self, checkpoint: Checkpoint, told: _Told) -> bool:
        """Do what is not done yet; whether anything was done."""
        due = self.due(checkpoint)
        if due:
            self._run(checkpoint, due, told)
        return bool(due)

    def _run(
        self, checkpoint: Checkpoint, due: Mapping[str, tuple[int, Path]], told: _Told
    ) -> None:
        """The interventions that are due, and their records."""
        weights = Weights.of(checkpoint.path)
        model = self.sweep.load(checkpoint)
        probes = usable_probes(self.measurement.probes, self.context)
        for name, (place, path) in due.items():
            intervention = self.plan.interventions[name]
            subject = Subject(
                model=model,
                context=self.context,
                tokenizer=self.measurement.tokenizer,
                step=checkpoint.step,
                batch_tokens=self.measurement.model_settings.batch_tokens,
                probes=probes,
                corpus=self.plan.corpus,
                progress=partial(told, place, name),
            )
            groups = {name: store.variables(intervention.run(subject))}
            described = {
                "intervention": repr(intervention),
                "intervention_sha256": self.digests[name],
            }
            self.sweep.write(path, checkpoint, model, groups, weights, described)

    def _digest(self, run: str, intervention: Intervention) -> str:
        """Hash of everything that changes an intervention's record."""
        corpus = {}
        if getattr(intervention, "needs_corpus", False):
            corpus = {c: str(p.resolve()) for c, p in sorted(self.plan.corpus.items())}
        content = [run, repr(intervention), corpus]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
