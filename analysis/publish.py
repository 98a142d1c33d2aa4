"""What a person reads of a run: tables, figures, mixture, report, index, each written whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import effects, exporters, mixture
from analysis.figures import FIGURES, Tables, interventions, save
from analysis.mixture import Budget, Evidence, Mixture, Trajectory
from analysis.report import ReportContext, write_report
from analysis.run import Run, load_run
from checkpoints.errors import UserError
from tracker import store

Progress = Callable[[int, int, str], None]

MIXTURE_COLUMNS = (
    "proposer", "language", "token_share", "low", "high", "epochs", "tokens", "applies", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What was written and what to say about it."""

    sentences: tuple[str, ...]
    """One line per language."""
    stages: pd.DataFrame
    """Outcome and statistics of every fit (`stages.csv`)."""
    mixture: Mixture | None
    no_mixture: str
    """Why there is none, where there is none."""
    report: Path
    interventions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Intervention -> a line per change that it made."""


def tables(run: Run, proposed: Mixture | None) -> Tables:
    """Everything that figures and report draw from."""
    empty = pd.DataFrame(columns=list(MIXTURE_COLUMNS))
    return Tables(
        curves=run.curves(),
        fits=run.fit_curves(),
        stages=run.stages(),
        layers=run.layers(),
        sets=run.sets(),
        mixture=empty if proposed is None else mixture.table(proposed.proposals),
        proposed="" if proposed is None else proposed.default,
    )


def evidence(run: Run) -> Evidence:
    """What was measured along the run, as the proposers take it."""

    def trajectories(measure: str) -> dict[str, Trajectory]:
        curves = {c: run.curve(measure, c) for c in run.languages}
        return {
            c: Trajectory(c, k.step, run.tokens_seen[i], k.value, k.replicates)
            for i, (c, k) in enumerate(curves.items())
        }

    seen = run.tokens_seen[:, -1]
    known = bool(np.isfinite(seen).all())
    return Evidence(
        primary=run.primary,
        languages=run.languages,
        loss=trajectories("loss"),
        accuracy=trajectories("accuracy"),
        primary_share=_primary_shares(run),
        starts_on_primary_only=_starts_on_primary(run),
        tokens_seen=dict(zip(run.languages, map(float, seen), strict=True)) if known else None,
    )


def _primary_shares(run: Run) -> dict[str, Trajectory]:
    """The first fitted measure of every language but the primary."""
    found = {}
    for i, language in enumerate(run.languages):
        measures = [] if language == run.primary else run.fitted_measures(language)
        if measures:
            k = run.curve(measures[0], language)
            found[language] = Trajectory(
                language, k.step, run.tokens_seen[i], k.value, k.replicates
            )
    return found


def _starts_on_primary(run: Run) -> bool:
    """Whether some checkpoint had seen the primary language and nothing else."""
    p = run.languages.index(run.primary)
    seen = run.tokens_seen
    others = np.delete(seen, p, axis=0)
    return bool(((seen[p] > 0) & (others == 0).all(0)).any())


@dataclass(frozen=True)
class Request:
    """What is asked of an analysis, beside the records."""

    replicates: int = 1000
    seed: int = 0
    corpus: Path | None = None
    """The corpus table, where a mixture is wanted."""
    budget: float | None = None
    """Tokens of the next run; None: as many as this one has seen."""
    proposer: str = "epoch_cap"
    """Whose mixture is the one proposed."""
    temperature: float = 0.3
    """Exponent of the proposer of that name."""
    notes: tuple[str, ...] = ()
    """What the tracker said about the text, for the report."""


def propose(
    run: Run,
    request: Request,
) -> tuple[Mixture | None, str]:
    """The mixture of every proposer, or why there is none."""
    if request.corpus is None:
        return None, (
            "no corpus table: mixture.corpus=FILE (language, tokens, mean_tokens_per_example, "
            "path) tells what there is to train on"
        )
    table = mixture.read_corpus(request.corpus, run.languages)
    tokens = request.budget if request.budget is not None else run.tokens[-1]
    if not np.isfinite(tokens):
        return None, "the tokens seen are unknown: mixture.budget=TOKENS tells the next run's size"
    proposers = mixture.PROPOSERS | {
        "temperature": partial(mixture.temperature, exponent=request.temperature)
    }
    found = mixture.propose(
        evidence(run), table, Budget(float(tokens)), proposers, default=request.proposer
    )
    return found, ""


def publish(folder: Path, request: Request, progress: Progress | None = None) -> Published:
    """Write curves.csv, stages.csv, figures/, mixture.json, mixture/, report.html and index.h5.

    Where all of that stands already, made of the same records by the same code on the same
    request, nothing is computed: `analysis.json`, written last, tells.

    Args:
        folder: The run's folder.
        request: What is asked.
        progress: Told after each part.
    """
    inputs = _inputs(folder, request)
    stamp = folder / STAMP
    if stamp.exists():
        written = json.loads(stamp.read_text(encoding="utf-8"))
        whole = all((folder / name).exists() for name in written["outputs"])
        if written["inputs"] == inputs and whole:
            return _published(folder, written)
    stamp.unlink(missing_ok=True)
    run = load_run(folder, request.replicates, request.seed)
    proposed, why_not, said = _publish(run, request, progress)
    written = {
        "inputs": inputs,
        "sentences": run.sentences(),
        "no_mixture": why_not,
        "interventions": said,
        "outputs": _outputs(folder, proposed),
    }
    store.write_text(stamp, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return Published(tuple(run.sentences()), run.stages(), proposed, why_not, folder / REPORT, said)


STAMP, REPORT, MIXTURE = "analysis.json", "report.html", "mixture.json"


def _published(folder: Path, written: Mapping[str, Any]) -> Published:
    proposed = folder / MIXTURE
    found = mixture.from_json(proposed.read_text(encoding="utf-8")) if proposed.exists() else None
    stages = pd.read_csv(folder / "stages.csv", keep_default_na=False, na_values=[""])
    said = tuple(written["sentences"])
    return Published(
        said, stages, found, written["no_mixture"], folder / REPORT, written["interventions"]
    )


def _outputs(folder: Path, proposed: Mixture | None) -> list[str]:
    names = ["curves.csv", "stages.csv", "lineage.csv", "angles.csv", "index.h5", REPORT]
    names += [] if proposed is None else [MIXTURE]
    parts = [p for part in ("figures", "mixture") for p in sorted((folder / part).rglob("*.*"))]
    parts += sorted((folder / store.INTERVENTIONS).glob("*.csv"))
    return names + [str(p.relative_to(folder)) for p in parts]


def _inputs(folder: Path, request: Request) -> str:
    """Hash of the records (by size and date), the request, the corpus table and this code."""
    records = sorted((folder / "records").glob("step-*"))
    records += sorted((folder / store.INTERVENTIONS).glob("*/step-*.h5"))
    content = [
        repr(request),
        *(f"{r.name} {r.stat().st_size} {r.stat().st_mtime_ns}" for r in records),
    ]
    digest = hashlib.sha256("\n".join(content).encode())
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    for file in (folder / "run.json", request.corpus, *sources):
        if file is not None and file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _publish(
    run: Run, request: Request, progress: Progress | None
) -> tuple[Mixture | None, str, dict[str, list[str]]]:
    total = 2 * (len(run.languages) - 1) + len(FIGURES) + 3
    count = _Counter(progress, total)
    for _ in run.each_fit():
        count.step("fitting curves")
    proposed, why_not = propose(run, request)
    found = tables(run, proposed)
    count.step("tables")
    _write_tables(run, found)
    _write_mixture(run.folder, proposed)
    drawn = {}
    for name, draw in FIGURES.items():
        count.step(f"figure {name}")
        if name != "mixture" or proposed is not None:
            drawn[name] = draw(found)
            save(drawn[name], run.folder / "figures", name)
    count.step("interventions")
    changed, said = _write_interventions(run.folder, request, found.curves)
    drawn |= changed
    context = _context(run, proposed, why_not, request.notes)
    write_report(run.folder / REPORT, found, context, figures=drawn)
    count.step("done")
    return proposed, why_not, said


def publish_interventions(folder: Path, request: Request) -> dict[str, list[str]]:
    """Tables and figures of the interventions in the folder of a run without records of its own.

    Returns:
        Intervention -> a line per change that it made.
    """
    return _write_interventions(folder, request, None)[1]


def _write_interventions(
    folder: Path, request: Request, curves: pd.DataFrame | None
) -> tuple[dict[str, Figure], dict[str, list[str]]]:
    """A table beside the records of every intervention, its figures, and what it says."""
    drawn: dict[str, Figure] = {}
    said: dict[str, list[str]] = {}
    found = effects.load_interventions(folder, request.replicates, request.seed)
    for label, each in zip(effects.labels(found), found, strict=True):
        path = each.folder.with_name(f"{each.folder.name}.csv")
        store.write_text(path, each.table.to_csv(index=False))
        lines = said.setdefault(each.name, [])
        lines += [f"{label}: {line}" for line in effects.sentences(each.table)]
        for name, draw in interventions.draw(label, each.table, curves, each.paths):
            drawn[name] = draw()
            save(drawn[name], folder / "figures" / store.INTERVENTIONS, name)
    return drawn, said


class _Counter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def step(self, what: str) -> None:
        if self.progress:
            self.progress(self.done, self.total, what)
        self.done += 1


def _write_tables(run: Run, found: Tables) -> None:
    tidy = {"curves": found.curves, "stages": found.stages, "lineage": run.lineage()}
    tidy["angles"] = run.angles()
    for name, table in tidy.items():
        store.write_text(run.folder / f"{name}.csv", table.to_csv(index=False))
    columns = {
        str(name): np.asarray(column.astype(object) if column.dtype.kind not in "iufb" else column)
        for name, column in found.curves.items()
    }
    store.write_index(
        run.folder / "index.h5", [r.path for r in run.records], run.missing(), columns
    )


def _write_mixture(folder: Path, proposed: Mixture | None) -> None:
    """Write the proposal and its exports; those of an earlier analysis do not outlive it."""
    for stale in (folder / MIXTURE, *(folder / "mixture").glob("*")):
        stale.unlink(missing_ok=True)
    if proposed is None:
        return
    store.write_text(folder / MIXTURE, mixture.to_json(proposed))
    if proposed.proposal().applies:
        files, refused = exporters.export_all(proposed)
        for name, text in files.items():
            store.write_text(folder / "mixture" / name, text)
        for name, why in refused.items():
            store.write_text(folder / "mixture" / f"{name}.refused.txt", f"{why}\n")


def _context(
    run: Run, proposed: Mixture | None, why_not: str, notes: Sequence[str]
) -> ReportContext:
    first, last = run.records[0], run.records[-1]
    facts: Mapping[str, Any] = last.attributes
    provenance = {
        "Series": str(facts["series"]),
        "Architecture": f"{facts['architecture']}, {int(facts['parameters']):,} parameters",
        "Checkpoints": f"{len(run.records)} (steps {first.step} to {last.step})",
        "Last revision": str(facts["revision"]),
        "Last weights (SHA-256)": str(facts["weights_sha256"]),
        "Configuration (SHA-256)": str(facts["config_sha256"]),
        "Probe text (SHA-256)": str(facts["text_sha256"]),
        "Tokenizer (SHA-256)": str(facts["tokenizer_sha256"]),
        "Arithmetic": f"{facts['dtype']} on {facts['device']}",
        "Seed": str(facts["seed"]),
        "Tool": f"babel-tracker {facts['tool_version']}",
        "Measured with": str(facts["software"]),
        "Record schema": str(facts["schema_version"]),
    }
    said = [*notes]
    if proposed is None:
        said.append(f"No mixture was proposed: {why_not}.")
    return ReportContext(
        title=f"How {facts['series']} came to know its languages",
        series=str(facts["series"]),
        primary=run.primary,
        languages=list(run.languages),
        sentences=run.sentences(),
        provenance=provenance,
        skipped=list(run.missing().items()),
        notes=said,
        config=last.config,
    )


def require_proposer(name: str) -> None:
    """Refuse an unknown proposer before anything is computed."""
    if name not in mixture.PROPOSERS:
        known = ", ".join(mixture.PROPOSERS)
        raise UserError(f"mixture.proposer={name}: choose one of {known}")
