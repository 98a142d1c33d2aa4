"""The command line: composes series, tracker and analysis, and turns what happened into a code.

Exit codes: 0 done; 2 wrong use (one clear line, nothing written); 3 finished, but some checkpoints
were skipped or are missing; 130 interrupted. Of a multirun, the worst of its jobs.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from checkpoints.errors import UserError
from tracker import store
from tracker.composing import told
from tracker.console import Console
from tracker.ends import DONE, FAILED, INTERRUPTED, SKIPPED, WRONG_USE, Ended, worst
from tracker.launchers import require_launcher, watch

if TYPE_CHECKING:
    from analysis.publish import Published, Request
    from tracker.cli_seeds import OneSeed
    from tracker.config import RunSettings
    from tracker.primary import Choice
    from tracker.probes import Context
    from tracker.sweep import Measurement, Outcome

_codes: list[int] = []
"""Exit code of every job, in this process or in another; Hydra drops what a job returns."""

_asked_to_end: list[int] = []
"""Signals that came. A list, because jobs travel to other processes with the globals they read."""


def main() -> None:
    """Entry point of the console script `tracker`."""
    _codes.clear()
    try:
        require_launcher(sys.argv[1:])
        watch(_codes.append)
        with told(), _interruptible():
            _job()
    except UserError as error:
        Console().error(str(error))
        sys.exit(WRONG_USE)
    except OSError as error:
        Console().error(_of_the_disk(error))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(worst(_codes))


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, by which a machine or a cluster asks politely, is as Ctrl-C."""
    _asked_to_end.clear()
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Not where it is ignored, as in the background of a shell, or is not Python's.
    before = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    _asked_to_end.append(number)
    raise KeyboardInterrupt


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def _of_the_disk(error: OSError) -> str:
    """What the disk refuses; any other error is ours and raised again."""
    if error.errno not in _DISK:
        raise error
    kept = "what is finished is kept, the same command continues"
    return f"{error.filename or 'the disk'}: {error.strerror}; {kept}"


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _job(config: DictConfig) -> Ended:
    if INTERRUPTED in _codes or _asked_to_end:
        raise KeyboardInterrupt  # not only this job of a multirun
    many = str(config.shards) != "1" and config.task in ("all", "track")
    console = Console(
        who=f"shard {config.shard}: " if many else "",
        bars=not (many and HydraConfig.get().mode is RunMode.MULTIRUN),
    )
    ended = Ended(FAILED)  # stands where an error that is ours leaves the job
    try:
        ended = Ended(run(config, console))
    except UserError as error:
        console.error(str(error))
        ended = Ended(WRONG_USE, str(error))
    except OSError as error:
        ended = Ended(FAILED, _of_the_disk(error))
        console.error(ended.said)
    except KeyboardInterrupt:
        console.error("interrupted: what is finished is kept, the same command continues")
        ended = Ended(INTERRUPTED)
    finally:
        _codes.append(ended.code)
    return ended


def run(config: DictConfig, console: Console) -> int:
    """One job: track, analyze and propose, as the task asks; the exit code."""
    from analysis.publish import require_constraints, require_proposer
    from tracker.cli_plan import plan
    from tracker.cli_seeds import every_seed, require_runs
    from tracker.config import run_settings

    settings = run_settings(config)
    require_proposer(settings.mixture.proposer)
    require_constraints(_request(settings, None, {}))
    if settings.task == "plan":
        return plan(config, console)
    if settings.shards > 1 and settings.task in ("intervene", "validate"):
        raise UserError(
            f"task={settings.task} shards={settings.shards}: only tracking is dealt out; "
            "leave out shard and shards"
        )
    task = "track" if settings.shards > 1 and settings.task == "all" else settings.task
    several = every_seed(config, settings)
    if task != "track":
        require_runs(settings.analysis.seeds)
    if task == "intervene":
        return _intervene(config, settings, console)
    if task == "validate":
        return _validate(config, settings, console)
    if several:
        return _run_seeds(several, task, console)
    ready = _ready(config, settings, task, console)
    if ready.measured and task != "track":
        _show(_publish(settings, ready.folder, ready.corpus, ready.plan, console), console)
    return ready.code


@dataclass(frozen=True)
class Ready:
    """A run whose records are there."""

    folder: Path
    corpus: Path | None
    plan: Mapping[str, Any]
    code: int = DONE
    measured: bool = True
    """There is a record to analyze."""


def _ready(config: DictConfig, settings: RunSettings, task: str, console: Console) -> Ready:
    """The run of a task, tracked first if the task says so."""
    from tracker.cli_seeds import require_others

    if task not in ("analyze", "remix"):
        return _tracked(config, settings, console)
    folder = _tracked_folder(config, settings)
    require_others(folder, settings.analysis.seeds)
    plan = store.read_plan(folder)
    is_listed = task == "analyze" and any((folder / store.RECORDS).glob("step-*.h5"))
    missing = store.missing_of(folder, plan) if is_listed else {}
    _say_reasons(missing, "no record", console)
    code = SKIPPED if missing.keys() & set(plan.get("steps", ())) else DONE
    return Ready(folder, _corpus(config, settings, folder, console), plan, code)


def _run_seeds(several: Sequence[OneSeed], task: str, console: Console) -> int:
    """Every seed as a run of its own; then the first one beside all others."""
    made = []
    for one in several:
        if task in ("all", "track"):
            console.say(f"seed {one.seed}")
        made.append((one, _ready(one.config, one.settings, task, console)))
    code = max(ready.code for _, ready in made)
    if task == "track":
        console.say(
            "only tracked: task=analyze with the same settings compares the seeds when all are"
        )
        return code
    known = [(one, ready) for one, ready in made if ready.measured]
    for one, ready in known[1:]:
        alone = _with_seeds(one.settings, ())
        said = _publish(alone, ready.folder, ready.corpus, ready.plan, console)
        for line in (*said.sentences, f"report: {said.report}"):
            console.result(f"seed {one.seed}: {line}")
    for one, ready in known[:1]:
        others = [str(other.folder) for _, other in known[1:]]
        all_seeds = _with_seeds(one.settings, (*others, *one.settings.analysis.seeds))
        _show(_publish(all_seeds, ready.folder, ready.corpus, ready.plan, console), console)
    return code


def _with_seeds(settings: RunSettings, folders: Sequence[str]) -> RunSettings:
    return replace(settings, analysis=replace(settings.analysis, seeds=list(folders)))


def _tracked_folder(config: DictConfig, settings: RunSettings) -> Path:
    """The run's folder; nothing is trained or measured to find it."""
    from tracker.config import demo_folder, demo_settings, measurement, run_folder

    if settings.run_dir is not None:
        return Path(settings.run_dir)
    demo = demo_settings(config)
    if demo is not None and not demo_folder(config, demo).exists():
        raise UserError("nothing is tracked yet: run `tracker` first, or name run_dir=FOLDER")
    found, _ = measurement(config, settings)
    return run_folder(settings, found)


def _tracked(config: DictConfig, settings: RunSettings, console: Console) -> Ready:
    """Measure what has no record yet."""
    from analysis.publish import require_mixture
    from tracker.cli_seeds import require_others
    from tracker.config import measurement, run_folder
    from tracker.sweep import make_context, refuse_foreign

    given = settings.mixture.corpus
    if isinstance(given, str) and not Path(given).is_file():
        raise UserError(f"mixture.corpus={given}: no such file")
    with console.progress("training the built-in series") as progress:
        found, chosen = measurement(config, settings, progress)
    folder = run_folder(settings, found)
    refuse_foreign(folder / store.RECORDS, found.digest())
    require_others(folder, settings.analysis.seeds)
    is_new = not folder.exists()
    corpus = _corpus(config, settings, folder, console)
    try:  # refused before anything is measured
        require_mixture(_request(settings, corpus, {}), found.languages, found.primary)
    except UserError:
        if is_new and folder.exists():  # files were counted into it
            shutil.rmtree(folder)
        raise
    context = make_context(found)
    console.say(f"{found.series.name}: {len(found.series.checkpoints)} checkpoints, "
                f"primary language {found.primary} ({chosen.why})")  # fmt: skip
    for note in (*found.series.remarks, *context.text.notes):
        console.say(note)
    plan = _plan_of(found, chosen, context, corpus)
    outcome = _track(found, context, folder, plan, settings, console)
    plan = _with_precision(plan, folder)
    measured = bool(outcome.measured or outcome.kept)
    if not measured and settings.shards > 1 and not outcome.skipped:
        console.say("no checkpoint falls to this shard")
    elif not measured:
        console.say("no checkpoint could be measured: nothing to analyze")
    elif settings.shards > 1 and settings.task == "all":
        console.say("only tracked: task=analyze with the same settings makes the report")
    return Ready(folder, corpus, plan, SKIPPED if outcome.skipped else DONE, measured)


def _intervene(config: DictConfig, settings: RunSettings, console: Console) -> int:
    """Change checkpoints, measure what follows, draw it."""
    from analysis.mixture import read_corpus
    from analysis.publish import Request, publish_interventions
    from tracker.cli_seeds import require_others
    from tracker.config import find_interventions, measurement, run_folder
    from tracker.intervene import Plan, choose_steps, intervene
    from tracker.sweep import refuse_foreign

    chosen = find_interventions(config)
    with console.progress("training the built-in series") as progress:
        found, _ = measurement(config, settings, progress)
    folder = run_folder(settings, found)
    refuse_foreign(folder / store.RECORDS, found.digest())
    require_others(folder, settings.analysis.seeds)
    steps = choose_steps(found.series, settings.steps)
    table = _corpus(config, settings, folder, console)
    sources = () if table is None else read_corpus(table).sources
    corpus = {s.language: Path(s.path) for s in sources}
    with console.progress("intervening") as progress:
        outcome = intervene(found, Plan(chosen, steps, corpus), folder, progress)
    _say_left_out(outcome, console)
    console.say(
        f"interventions ({', '.join(chosen)}): {len(outcome.measured)} checkpoints done, "
        f"{len(outcome.kept)} kept -> {folder / store.INTERVENTIONS}"
    )
    if any((folder / store.RECORDS).glob("step-*.h5")):
        published = _publish(settings, folder, table, store.read_plan(folder), console)
        _show(published, console)
        said = published.interventions
    else:
        a = settings.analysis
        said = publish_interventions(folder, Request(replicates=a.replicates, seed=a.seed))
    for line in chain.from_iterable(said.get(name, ()) for name in chosen):
        console.result(line)
    console.result(f"figures: {folder / 'figures' / store.INTERVENTIONS}")
    return SKIPPED if outcome.skipped else DONE


def _validate(config: DictConfig, settings: RunSettings, console: Console) -> int:
    """Train small models on the proposals and the baselines, and say which is better."""
    from analysis.run import load_run
    from tracker.cli_seeds import require_others
    from tracker.cli_validate import validate
    from tracker.config import measurement
    from tracker.sweep import refuse_foreign

    settings.validate.training()  # wrong settings are refused before anything is read
    folder = _tracked_folder(config, settings)
    require_others(folder, settings.analysis.seeds)
    corpus = _corpus(config, settings, folder, console)
    request = _request(settings, corpus, store.read_plan(folder))
    run = load_run(folder, request.replicates, request.seed)
    found, _ = measurement(config, settings)
    refuse_foreign(folder / store.RECORDS, found.digest())
    validate(found, settings, run, request, console)
    _show(_publish(settings, folder, request.corpus, store.read_plan(folder), console), console)
    return DONE


def _track(
    found: Measurement,
    context: Context,
    folder: Path,
    plan: Mapping[str, Any],
    settings: RunSettings,
    console: Console,
) -> Outcome:
    from tracker.sweep import track

    is_told = False
    with console.progress("tracking") as bar:

        def progress(done: int, total: int, what: str) -> None:
            nonlocal is_told
            if _asked_to_end:  # an interrupt within torch may come out as an error of its
                raise KeyboardInterrupt
            # Early: a killed process leaves records that can be analyzed.
            if not is_told and any((folder / store.RECORDS).glob("step-*")):
                known = _with_precision(plan, folder)
                text = json.dumps(known, indent=1, ensure_ascii=False)
                store.write_text(folder / store.RUN, text + "\n")
                for note in known["notes"][len(plan["notes"]) :]:
                    console.say(note)
                is_told = True
            bar(done, total, what)

        outcome = track(
            found, folder / store.RECORDS, context=context,
            shard=settings.shard, shards=settings.shards, progress=progress,
        )  # fmt: skip
    _write_index(folder, found)
    _report_tracking(outcome, folder, console)
    return outcome


def _plan_of(
    found: Measurement, chosen: Choice, context: Context, corpus: Path | None
) -> dict[str, Any]:
    """What `run.json` holds: what analysis needs to know that no record tells.

    It is the same for every shard, so it does not matter which one writes it last.
    """
    from tracker.primary import CHOICE

    return {
        "series": found.series.name,
        "primary": found.primary,
        CHOICE: chosen.to_json(),
        "languages": list(found.languages),
        "config_sha256": found.digest(),
        "steps": found.series.steps,
        "pending": {str(s): w for s, w in found.series.pending.items()},
        "suspects": {str(s): w for s, w in found.series.suspects.items()},
        "notes": [*found.series.remarks, *context.text.notes],
        "corpus": None if corpus is None else str(corpus),
    }


def _with_precision(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same with a note on the type of the weights, where tracking chose it."""
    from tracker.precision import decided

    found = decided(folder / store.RECORDS)
    notes = [] if found is None or not found.why else [found.sentence()]
    return {**plan, "notes": [*plan["notes"], *notes]}


def _write_index(folder: Path, found: Measurement) -> None:
    place, steps, pending = folder / store.RECORDS, found.series.steps, found.series.pending
    written: tuple[list[Path], dict[int, str]] | None = None
    while True:
        records = sorted(place.glob("step-*.h5"), key=store.record_step)
        listed = records, store.missing_steps(place, steps, pending)
        if listed == written:
            return
        # Again until nothing changed meanwhile: another shard may have replaced the index with
        # one that knows more, and this one must not have the last word.
        store.write_index(folder / "index.h5", *listed)
        written = listed


def _report_tracking(outcome: Outcome, folder: Path, console: Console) -> None:
    _say_left_out(outcome, console)
    console.say(
        f"records: {len(outcome.measured)} measured, {len(outcome.kept)} kept, "
        f"{len(outcome.skipped)} skipped -> {folder / store.RECORDS}"
    )


def _say_left_out(outcome: Outcome, console: Console) -> None:
    """Checkpoints without a result, and why."""
    for step, why in outcome.pending.items():
        console.say(f"step {step}: {why}; left for the next run")
    _say_reasons(outcome.skipped, "skipped", console)


def _say_reasons(steps: Mapping[int, str], what: str, console: Console) -> None:
    """One line per reason, with the steps that share it."""
    from checkpoints.series import shortened

    reasons: dict[str, list[int]] = {}
    for step, why in steps.items():
        reasons.setdefault(why, []).append(step)
    for why, same in reasons.items():
        label = "step" if len(same) == 1 else "steps"
        console.say(f"{label} {shortened(same)}: {what} ({why})")


def _corpus(
    config: DictConfig, settings: RunSettings, folder: Path, console: Console
) -> Path | None:
    """The corpus table: the given one, else the run's, else the built-in series' own."""
    from tracker.cli_corpus import corpus_table
    from tracker.config import demo_folder, demo_settings, tokenizer_of

    mixture = settings.mixture
    if mixture.corpus is not None:
        load = partial(tokenizer_of, config)
        return corpus_table(mixture.corpus, mixture.text_field, folder, load, console)
    known = store.read_plan(folder).get("corpus")
    if known is not None and Path(known).is_file():
        return Path(known)
    demo = demo_settings(config)
    table = None if demo is None else demo_folder(config, demo).resolve() / "corpus.jsonl"
    return table if table is not None and settings.task not in ("analyze", "remix") else None


def _request(settings: RunSettings, corpus: Path | None, plan: Mapping[str, Any]) -> Request:
    """What is asked of an analysis."""
    from analysis.publish import Request

    return Request(
        replicates=settings.analysis.replicates,
        seed=settings.analysis.seed,
        corpus=corpus,
        budget=settings.mixture.budget,
        proposer=settings.mixture.proposer,
        temperature=settings.mixture.temperature,
        outcome=settings.mixture.outcome,
        weights=dict(settings.mixture.weights or {}),
        fixed=dict(settings.mixture.fixed or {}),
        max_passes=settings.mixture.max_passes,
        scores=None if settings.mixture.scores is None else Path(settings.mixture.scores),
        runs=None if settings.mixture.runs is None else Path(settings.mixture.runs),
        notes=tuple(plan.get("notes", ())),
        seeds=tuple(map(Path, settings.analysis.seeds)),
    )


def _publish(
    settings: RunSettings,
    folder: Path,
    corpus: Path | None,
    plan: Mapping[str, Any],
    console: Console,
) -> Published:
    from analysis.publish import publish

    request = _request(settings, corpus, plan)
    with console.progress("analysing") as progress:
        return publish(folder, request, progress)


def _show(published: Published, console: Console) -> None:
    console.stages(published.sentences, published.stages)
    for sentence in published.seeds:
        console.result(sentence)
    if published.mixture is None:
        console.result(f"no mixture proposed: {published.no_mixture}")
    else:
        console.mixture(published.mixture)
    for verdict in published.verdicts:
        console.result(verdict)
    console.result(f"report: {published.report}")
