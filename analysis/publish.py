"""What a person reads of a run: tables, figures, mixture, report, index, each written whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import effects, exporters, mixture
from analysis.answers import answers
from analysis.figures import FIGURES, Tables, drawable, interventions, save, validation
from analysis.mixture import Evidence, Mixture, Proposal
from analysis.outliers import outliers
from analysis.proposing import (
    Request,
    evidence,
    propose,
    require_constraints,
    require_mixture,
    require_proposer,
)
from analysis.report import ReportContext, write_report
from analysis.run import Run, load_run
from analysis.seeds import Seeds, seeds_of
from analysis.validation import VALIDATION, Validation, load_validation
from tracker import store

__all__ = [
    "Published",
    "Request",
    "evidence",
    "propose",
    "publish",
    "publish_interventions",
    "require_constraints",
    "require_mixture",
    "require_proposer",
    "tables",
]

Progress = Callable[[int, int, str], None]

MIXTURE_COLUMNS = (
    "proposer", "language", "token_share", "low", "high", "epochs", "tokens", "applies", "reason",
    "kl_to_natural",
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
    verdicts: tuple[str, ...] = ()
    """What small models that were trained on the proposals say."""
    seeds: tuple[str, ...] = ()
    """One line per language about all seeds, where several were given."""


def tables(
    run: Run,
    proposed: Mixture | None,
    seeds: Seeds | None = None,
    known: Evidence | None = None,
) -> Tables:
    """Everything that figures and report draw from; `known` saves reading the evidence again."""
    empty = pd.DataFrame(columns=list(MIXTURE_COLUMNS))
    known = known or evidence(run)
    return Tables(
        curves=run.curves(),
        fits=run.fit_curves(),
        stages=run.stages(),
        layers=run.layers(),
        sets=run.sets(),
        mixture=empty if proposed is None else mixture.table(proposed.proposals),
        proposed="" if proposed is None else proposed.default,
        readings=mixture.calibration(known),
        agreement=mixture.agreement(known),
        transfer=run.transfer(),
        seeds=pd.DataFrame() if seeds is None else seeds.table(),
    )


def publish(folder: Path, request: Request, progress: Progress | None = None) -> Published:
    """Write curves.csv, stages.csv, figures/, mixture.json, mixture/, report.html and index.h5.

    Where all of that stands already, made of the same records by the same code on the same
    request, nothing is computed: `analysis.json`, written last, tells.

    Args:
        folder: The run's folder.
        request: What is asked.
        progress: Told after each part.

    Raises:
        UserError: There are no records, or the other seeds' runs cannot stand beside this one;
            then nothing is written.
    """
    inputs = _inputs(folder, request)
    stamp = folder / STAMP
    if stamp.exists():
        written = json.loads(stamp.read_text(encoding="utf-8"))
        whole = all((folder / name).exists() for name in written["outputs"])
        if written["inputs"] == inputs and whole:
            return _published(folder, written)
    run = load_run(folder, request.replicates, request.seed)
    seeds = _seeds(run, request)
    require_mixture(request, run.languages, run.primary, run.tokens[-1], run.steps.tolist())
    stamp.unlink(missing_ok=True)
    said = _publish(run, seeds, request, progress)
    written = {
        "inputs": inputs,
        "sentences": said.sentences,
        "seeds": said.seeds,
        "no_mixture": said.no_mixture,
        "interventions": said.interventions,
        "verdicts": said.verdicts,
        "outputs": _outputs(folder, said.mixture),
    }
    store.write_text(stamp, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return said


def _seeds(run: Run, request: Request) -> Seeds | None:
    """The run with those of other seeds, if any are given."""
    if not request.seeds:
        return None
    others = (load_run(path, request.replicates, request.seed) for path in request.seeds)
    return seeds_of((run, *others))


STAMP, REPORT, MIXTURE = "analysis.json", "report.html", "mixture.json"
SEEDS = "seeds.csv"


def _published(folder: Path, written: Mapping[str, Any]) -> Published:
    proposed = folder / MIXTURE
    found = mixture.from_json(proposed.read_text(encoding="utf-8")) if proposed.exists() else None
    stages = pd.read_csv(folder / "stages.csv", keep_default_na=False, na_values=[""])
    return Published(
        sentences=tuple(written["sentences"]),
        stages=stages,
        mixture=found,
        no_mixture=written["no_mixture"],
        report=folder / REPORT,
        interventions=written["interventions"],
        verdicts=tuple(written["verdicts"]),
        seeds=tuple(written["seeds"]),
    )


def _outputs(folder: Path, proposed: Mixture | None) -> list[str]:
    names = ["curves.csv", "stages.csv", "lineage.csv", "angles.csv", "index.h5", REPORT]
    names += ["calibration.csv", "agreement.csv", "transfer.csv"]
    names += [] if proposed is None else [MIXTURE]
    names += [SEEDS] if (folder / SEEDS).exists() else []
    parts = [p for part in ("figures", "mixture") for p in sorted((folder / part).rglob("*.*"))]
    parts += sorted((folder / store.INTERVENTIONS).glob("*.csv"))
    parts += sorted(folder.glob(f"{VALIDATION}*.csv"))
    return names + [str(p.relative_to(folder)) for p in parts]


def _inputs(folder: Path, request: Request) -> str:
    """Hash of the records (by size and date), the request, the corpus table and this code."""
    records = sorted((folder / store.RECORDS).glob("step-*"))
    records += sorted((folder / store.INTERVENTIONS).glob("*/step-*.h5"))
    records += sorted((folder / VALIDATION).rglob("*.json"))
    for other in request.seeds:
        records += sorted((other / store.RECORDS).glob("step-*"))
    content = [
        repr(request),
        *(f"{r.name} {r.stat().st_size} {r.stat().st_mtime_ns}" for r in records),
    ]
    digest = hashlib.sha256("\n".join(content).encode())
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    given = [request.corpus, request.scores, *_tables(request.runs)]
    for file in (folder / store.RUN, *given, *sources):
        if file is not None and file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _tables(runs: Path | None) -> list[Path]:
    """The files of a table of runs, which may be a folder."""
    if runs is None:
        return []
    return sorted(runs.glob("*.csv")) if runs.is_dir() else [runs]


def _publish(
    run: Run, seeds: Seeds | None, request: Request, progress: Progress | None
) -> Published:
    runs = (run,) if seeds is None else seeds.runs
    total = sum(len(each.fit_keys()) for each in runs) + len(FIGURES) + 3
    count = _Counter(progress, total)
    for each in runs:
        for _ in each.each_fit():
            count.step("fitting curves")
    proposed, why_not = propose(run, request)
    known = evidence(run)
    found = tables(run, proposed, seeds, known)
    count.step("tables")
    _write_tables(run, found)
    _write_mixture(run.folder, proposed)
    gallery = Gallery(run.folder / "figures")
    for name, draw in drawable(found).items():
        count.step(f"figure {name}")
        gallery.add(name, draw(found))
    validated = load_validation(run.folder)
    verdicts = _write_validation(validated, run.folder, gallery)
    gallery.forget(set(FIGURES) | set(VALIDATION_FIGURES))
    count.step("interventions")
    said = _write_interventions(run.folder, request, found.curves, gallery)
    context = _context(run, proposed, why_not, request.notes)
    context = replace(
        context,
        answers=answers(run, proposed, why_not, seeds, validated),
        seeds=_about(seeds),
        about={p.proposer: _notes(p) for p in proposed.proposals} if proposed else {},
        calibration=[pair.sentence() for pair in mixture.pairs(known)],
        verdicts=verdicts,
        curves=proposed.curves if proposed else "",
    )
    write_report(run.folder / REPORT, found, context, gallery.shown)
    count.step("done")
    return Published(
        sentences=tuple(run.sentences()),
        stages=found.stages,
        mixture=proposed,
        no_mixture=why_not,
        report=run.folder / REPORT,
        interventions=said,
        verdicts=tuple(verdicts),
        seeds=() if seeds is None else tuple(seeds.sentences()),
    )


def _notes(proposal: Proposal) -> list[str]:
    """What a proposal's intervals span, and what to mind about it."""
    spans = [] if proposal.interval.startswith("none") else [f"interval: {proposal.interval}"]
    return spans + [f"mind: {warning}" for warning in proposal.warnings]


def _about(seeds: Seeds | None) -> list[str]:
    """Which runs the intervals over seeds are made of, and what differs between them."""
    if seeds is None:
        return []
    return [f"{len(seeds.runs)} seeds: {', '.join(seeds.names)}", *seeds.notes]


class Gallery:
    """Figures that are saved as they are drawn, and shown in the report as they were saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: dict[str, bytes] = {}
        """Name -> SVG, in the order of the report."""

    def add(self, name: str, figure: Figure, part: str = "") -> None:
        """Save a figure in the folder, or in a part of it."""
        _, svg = save(figure, self.folder / part, name)
        self.shown[name] = svg.read_bytes()

    def forget(self, names: set[str]) -> None:
        """Remove those of these figures that an earlier analysis drew and this one did not."""
        for name in sorted(names - set(self.shown)):
            for kind in ("png", "svg"):
                (self.folder / f"{name}.{kind}").unlink(missing_ok=True)


def publish_interventions(folder: Path, request: Request) -> dict[str, list[str]]:
    """Tables and figures of the interventions in the folder of a run without records of its own.

    Returns:
        Intervention -> a line per change that it made.
    """
    return _write_interventions(folder, request, None, Gallery(folder / "figures"))


def _write_interventions(
    folder: Path, request: Request, curves: pd.DataFrame | None, gallery: Gallery
) -> dict[str, list[str]]:
    """A table beside the records of every intervention, its figures, and what it says."""
    said: dict[str, list[str]] = {}
    found = effects.load_interventions(folder, request.replicates, request.seed)
    for label, each in zip(effects.labels(found), found, strict=True):
        path = each.folder.with_name(f"{each.folder.name}.csv")
        store.write_text(path, each.table.to_csv(index=False))
        lines = said.setdefault(each.name, [])
        lines += [f"{label}: {line}" for line in effects.sentences(each.table)]
        for name, draw in interventions.draw(label, each.table, curves, each.paths):
            gallery.add(name, draw(), store.INTERVENTIONS)
    return said


VALIDATION_FIGURES = ("truth", "validation")


def _write_validation(found: Validation | None, folder: Path, gallery: Gallery) -> list[str]:
    """Tables and figures of what small models said, and the verdicts in words."""
    if found is None or found.table.empty:
        return []
    store.write_text(folder / f"{VALIDATION}.csv", found.table.to_csv(index=False))
    compared = found.compared.to_csv(index=False)
    store.write_text(folder / f"{VALIDATION}_compared.csv", compared)
    outcome = found.plan.outcome
    gallery.add("truth", validation.truth(found.table, found.arms, outcome))
    gallery.add("validation", validation.forest(found.compared, found.table, found.arms))
    return found.sentences()


class _Counter:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def step(self, what: str) -> None:
        if self.progress:
            self.progress(self.done, self.total, what)
        self.done += 1


def _write_tables(run: Run, found: Tables) -> None:
    tidy = {"curves": found.curves, "stages": found.stages, "lineage": run.lineage()}
    tidy |= {"angles": run.angles(), "calibration": found.readings, "agreement": found.agreement}
    tidy |= {"transfer": found.transfer} | ({} if found.seeds.empty else {"seeds": found.seeds})
    (run.folder / SEEDS).unlink(missing_ok=True)
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
    left_out = [int(step) for step in run.plan.get("suspects", ())]
    said = [*notes, *(each.sentence() for each in outliers(run))]
    if left_out:
        said.insert(0, f"left out as suspects: steps {', '.join(map(str, left_out))}")
    if proposed is None:
        said.append(f"No mixture was proposed: {why_not}.")
    return ReportContext(
        title=f"How {facts['series']} came to know its languages",
        series=str(facts["series"]),
        primary=run.primary,
        languages=list(run.languages),
        provenance=provenance,
        skipped=list(run.missing().items()),
        notes=said,
        config=last.config,
    )
