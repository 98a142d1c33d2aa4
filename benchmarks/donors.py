"""Does a donor language help, and can it be told before? Truth by retraining, and the gate G.

    python benchmarks/donors.py run OUT SERIES [--part matrix|TARGET|states] [--unique N]
        [--worker I --workers N]
    python benchmarks/donors.py store OUT [RUN ...]      # -> docs/findings/donors/*.csv

SERIES is the folder of the built-in series (its tokenizer is used), RUN a tracked run of it, whose
transfer matrix is compared with the truth. Every small run is kept and found again, so the command
can be stopped and repeated, and workers may share the folder.

- `matrix`: every ordered pair of the five languages at 15k unique target tokens: the gain of the
  target when the donor's tokens fill the rest of the budget, over the target alone at its best.
- a target's gate: at 8k, 15k and 60k unique target tokens, real donors and donors that only look
  like one (token-shuffled, token-renamed, bigram-sampled, unigram noise, all of Python), with
  `G = min_t L_scratch(t) - min_t L_donor->target(t)` (methods 9).

- `states`: what a donor's model looks like inside, before the target's first tokens and shortly
  after them, and whether that foretells the truth.

Both sides are tuned: the target alone over several lengths (each with its own decay) and learning
rates, the mixture over learning rates, and of every run the best step counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_module
from scipy.stats import mannwhitneyu

from analysis import load_run
from analysis.transfer import READINGS, Correlation, rank_correlation
from checkpoints.batches import Ints, Phase, pack
from checkpoints.controls import CONTROLS
from checkpoints.programs import FACTS, LANGUAGES, SHARED_ITEMS, training_documents
from tracker.config import measurement, run_settings
from tracker.probes.performance import Performance
from tracker.sweep import Measurement
from tracker.trials import STATE, Lab, Training, Trial, finished

STORED = Path(__file__).parent.parent / "docs" / "findings" / "donors"
STEPS, DONOR_STEPS = 300, 150
UNIQUE = (8_000, 15_000, 60_000)
SEEDS = (0, 1, 2)
DONOR_TOKENS = 560_000
"""Unique tokens of a donor: it is never repeated."""
RATES = (2e-3, 4e-3)
"""Learning rates of the mixtures."""
ALONE = ((100, 2e-3), (160, 2e-3), (300, 2e-3), (100, 4e-3), (160, 4e-3), (300, 4e-3))
ALONE_AMPLE = ((300, 2e-3), (160, 4e-3), (300, 4e-3))
"""Steps and learning rates of the target alone, where it is scarce and where it is not."""
PASSES = 16
TRAINING = Training()
RATE = 4e-3
"""Of the gate: constant, the same on both sides."""
STEP_TOKENS = TRAINING.step_tokens
LEAST = 0.02
"""nats/token: a smaller gain is noise (one run's standard deviation is about .017)."""
LEAST_RHO = 0.3
"""Rank correlation of an untrained model that is worth a remark."""
SHOWN = (0, 250, 258, 282, 346, 442, 670)
"""Steps of the tracked runs that the document shows; 250 is the last before the mix."""
STATE_TARGETS = ("php", "csharp")
SHORTLY = 32
"""Steps on the target after which a donor's model is looked at again."""
ONLY, SHORTLY_AFTER = "donor only", "shortly after"
"""Roles of the trials that are looked inside."""
EARLY = 60
"""Step at which a mixture's loss is one of the weaker predictors."""
PROBES = (
    "performance", "working_language", "vocabulary_mass", "transferring", "regions", "alignment",
)  # fmt: skip
CURVES = (
    "semantic_alignment", "semantic_alignment_centred", "transferring", "bilingual",
    "working_language_share", "specificity", "vocabulary_mass", "loss",
)  # fmt: skip
"""Curves of the tracker that may foretell whether a donor helps; of the loss, less is more."""
FAKES = tuple(f"python~{name}" for name in CONTROLS)


def share_of_target(unique: int) -> float:
    """What 16 passes fill of the budget; with enough target text, three quarters of it."""
    return min(0.75, PASSES * unique / (STEPS * STEP_TOKENS))


def text(series: Path, *settings: str, donor: str = "python") -> Measurement:
    """The probe text of the built-in series and its tokenizer."""
    given = ["series=local", f"series.path={series}", "text.tokens_per_language=6000", *settings]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", given)
    found, _ = measurement(config, replace(run_settings(config), primary=donor))
    return found


def loss_only(found: Measurement) -> Measurement:
    """The performance probe alone."""
    return replace(found, probes={"performance": Performance()}, concept_table=())


def streams(tokenizer: object, seed: int = 77) -> dict[str, Ints]:
    """Training text of the five languages, and the fakes."""
    found = {c: stream(tokenizer, c, seed) for c in LANGUAGES}
    separator = int(found["python"][0])
    fakes = {f"python~{n}": make(found["python"], separator, seed) for n, make in CONTROLS.items()}
    return found | fakes


def stream(tokenizer: object, language: str, seed: int = 77) -> Ints:
    """A language's documents until there are enough tokens for any trial."""
    items = tuple(FACTS) if language == "python" else SHARED_ITEMS
    documents = training_documents(language, seed, items)
    parts: list[Ints] = []
    while sum(map(len, parts)) < DONOR_TOKENS:
        parts.append(pack(tokenizer(list(islice(documents, 500)))["input_ids"]))  # type: ignore[operator]
    return np.concatenate(parts)


def alone(target: str, unique: int, seed: int) -> Iterator[Trial]:
    """The target by itself, tuned."""
    for steps, rate in ALONE if unique < 60_000 else ALONE_AMPLE:
        name = f"{target}-{unique}-alone-{steps}-{rate:g}"
        phase = Phase(steps, {target: 1.0})
        yield Trial(name, "scratch", (phase,), {target: unique}, seed, rate, languages=(target,))


def mixed(target: str, donor: str, unique: int, seed: int, rate: float) -> Trial:
    """The target with a donor that fills the budget."""
    share = share_of_target(unique)
    phase = Phase(STEPS, {target: share, donor: 1 - share})
    unique_tokens = {target: unique, donor: DONOR_TOKENS}
    name = f"{target}-{unique}-with-{donor}-{rate:g}"
    return Trial(name, "mix", (phase,), unique_tokens, seed, rate, languages=(target,))


def gate(target: str, donor: str | None, unique: int, seed: int) -> Trial:
    """The target after a donor, or from scratch, at a constant learning rate."""
    steps = STEPS if donor is None else STEPS - DONOR_STEPS
    phases: tuple[Phase, ...] = (Phase(steps, {target: 1.0}),)
    unique_tokens, name, role = {target: unique}, f"{target}-{unique}-scratch", "scratch"
    if donor is not None:
        phases = (Phase(DONOR_STEPS, {donor: 1.0}), *phases)
        unique_tokens[donor] = DONOR_TOKENS
        name, role = f"{target}-{unique}-after-{donor}", "donor"
    return Trial(name, role, phases, unique_tokens, seed, RATE, 0.0, languages=(target,))


def matrix_trials() -> Iterator[Trial]:
    """Truth for every ordered pair."""
    for seed in SEEDS:
        for target in LANGUAGES:
            yield from alone(target, 15_000, seed)
            for donor in LANGUAGES:
                if donor != target:
                    for rate in RATES:
                        yield mixed(target, donor, 15_000, seed, rate)


def donors_of(target: str) -> list[str]:
    """Every other language, and text that only looks like one."""
    return [c for c in LANGUAGES if c != target] + list(FAKES)


def gate_trials(target: str, sizes: Iterable[int] = UNIQUE) -> Iterator[Trial]:
    """Truth and gate of every donor of one target, scarce before ample."""
    donors = donors_of(target)
    for seed in SEEDS:
        for unique in sizes:
            yield from alone(target, unique, seed)
            yield gate(target, None, unique, seed)
            for donor in donors:
                yield mixed(target, donor, unique, seed, RATE)
                yield gate(target, donor, unique, seed)


def run(out: Path, series: Path, part: str, worker: int, workers: int, unique: int | None) -> None:
    """Train what is not there yet."""
    torch.set_num_threads(1)
    found = loss_only(text(series))
    texts = streams(found.tokenizer)
    lab = Lab(found, texts, TRAINING)
    if part == "states":
        look_inside(out, series, lab)
        return
    sizes = UNIQUE if unique is None else (unique,)
    trials = matrix_trials() if part == "matrix" else gate_trials(part, sizes)
    for number, trial in enumerate(trials):
        if number % workers == worker:
            lab.run(trial, out / "trials")
            print(number, trial.name, trial.seed, flush=True)


def look_inside(out: Path, series: Path, plain: Lab) -> None:
    """Internal states of every donor's model, and after the first tokens of a target."""
    inner: dict[tuple[str, str], Lab] = {}
    for seed in SEEDS:
        for donor in (*LANGUAGES, *FAKES):
            before = donor_only(donor, seed)
            state = plain.run(before, out / "trials", keep=True) / STATE
            for target in STATE_TARGETS:
                if target == donor:
                    continue
                pair = donor.split("~")[0], target
                if pair not in inner:
                    inner[pair] = Lab(pair_text(series, *pair), plain.streams, TRAINING)
                for trial in (replace(before, name=f"{target}-before-{donor}"),
                              shortly_after(target, donor, seed)):  # fmt: skip
                    inner[pair].run(trial, out / "states", state)
            print("states", donor, seed, flush=True)


def donor_only(donor: str, seed: int) -> Trial:
    """The first half of a gate's run."""
    phase = Phase(DONOR_STEPS, {donor: 1.0})
    unique = {donor: DONOR_TOKENS}
    return Trial(f"{donor}-only", ONLY, (phase,), unique, seed, RATE, 0.0, DONOR_STEPS)


def shortly_after(target: str, donor: str, seed: int) -> Trial:
    """A donor's model after the target's first tokens."""
    phases = Phase(DONOR_STEPS, {donor: 1.0}), Phase(SHORTLY, {target: 1.0})
    unique = {donor: DONOR_TOKENS, target: UNIQUE[1]}
    steps, name = DONOR_STEPS + SHORTLY, f"{target}-shortly-after-{donor}"
    return Trial(name, SHORTLY_AFTER, phases, unique, seed, RATE, 0.0, steps)


def pair_text(series: Path, donor: str, target: str) -> Measurement:
    """The probe text of two languages, with the probes of internal states."""
    return text(series, f"languages=[{donor},{target}]", f"probe=[{','.join(PROBES)}]", donor=donor)


def store(out: Path) -> None:
    """One row per trial: what it was, the target's lowest loss, a mixture's early loss."""
    rows = []
    for place in sorted((out / "trials").glob("*/seed-*")):
        content = finished(place)
        if content is not None and content["role"] != ONLY:
            target = str(content["name"]).split("-")[0]
            loss = load_run(place, replicates=1).curve("loss", target)
            early = loss.value[loss.step == EARLY] if content["role"] == "mix" else ()
            rows.append({
                "trial": content["name"], "role": content["role"], "target": target,
                "unique_tokens": content["unique"][target], "seed": content["seed"],
                "donor": next((c for c in content["unique"] if c != target), ""),
                "loss": round(float(np.nanmin(loss.value)), 5),
                "early_loss": round(float(early[0]), 5) if len(early) else np.nan,
            })  # fmt: skip
    STORED.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(STORED / "trials.csv", index=False)
    settings = {"steps": STEPS, "step_tokens": STEP_TOKENS, "training": repr(TRAINING)}
    (STORED / "about.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    inside = [row for place in sorted((out / "states").glob("*/seed-*")) for row in states(place)]
    if inside:
        pd.DataFrame(inside).round(5).to_csv(STORED / "states.csv", index=False)


def states(place: Path) -> Iterator[dict[str, object]]:
    """Readings of the last checkpoint of a trial that was looked inside."""
    content = finished(place)
    if content is None:
        return
    target, donor = str(content["name"]).replace("-shortly", "").split("-")[::2]
    run = load_run(place, replicates=1)
    record, c = run.records[-1], run.languages.index(target)
    found = {name: float(run.curve(name, target).value[-1]) for name in CURVES}
    found["loss"] = -found["loss"]
    found["evidence, donor's word"] = float(record["neurons/mass"][c, 0])
    found["gradient cosine"] = float(record["regions/gradient_cosine_corrected"][c, 1 - c])
    moment = SHORTLY_AFTER if content["role"] == SHORTLY_AFTER else "before"
    for name, value in found.items():
        yield {
            "target": target, "donor": donor, "seed": content["seed"], "moment": moment,
            "reading": name, "value": value,
        }  # fmt: skip


def store_readings(runs: list[Path]) -> None:
    """The transfer matrices of tracked runs, mean over runs (seeds) per step."""
    parts = [load_run(run, replicates=1).transfer().assign(run=i) for i, run in enumerate(runs)]
    table = pd.concat(parts)
    keys = ["step", "reading", "donor", "target"]
    mean = table.groupby(keys)["value"].agg(["mean", "std", "count"]).reset_index()
    mean.round(5).to_csv(STORED / "readings.csv", index=False)


# --- what came out ---------------------------------------------------------------------------


def gains(trials: pd.DataFrame) -> pd.DataFrame:
    """What a donor brings over the target alone at its tuned best: a row per seed.

    Columns: target, unique_tokens, donor, seed, gain, and, where they were measured, G and the
    mixture's early loss. Both sides are tuned by their means over seeds: the best of every single
    seed would be luck.
    """
    rows = []
    for (target, unique), part in trials.groupby(["target", "unique_tokens"]):
        best = tuned(part[part["trial"].str.contains("-alone-")]).set_index("seed")["loss"]
        scratch = part[part["trial"].str.endswith("-scratch")].set_index("seed")["loss"]
        after = part[part["role"] == "donor"].set_index(["donor", "seed"])["loss"]
        for donor, mixtures in part[part["role"] == "mix"].groupby("donor"):
            for row in tuned(mixtures).to_dict("records"):
                seed = row["seed"]
                if seed in best.index:
                    g = np.nan
                    if (donor, seed) in after.index and seed in scratch.index:
                        g = scratch[seed] - after[donor, seed]
                    gain = best[seed] - row["loss"]
                    rows.append((target, unique, donor, seed, gain, g, row["early_loss"]))
    columns = ["target", "unique_tokens", "donor", "seed", "gain", "G", "early_loss"]
    return pd.DataFrame(rows, columns=columns)


def tuned(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of the setting with the lowest mean over the seeds that all settings have."""
    table = trials.pivot_table(index="seed", columns="trial", values="loss")
    common = table.dropna()
    best = (common if len(common) else table).mean().idxmin()
    return trials[trials["trial"] == best]


def matrix_gains(trials: pd.DataFrame) -> pd.DataFrame:
    """Gains of all ordered pairs, tuned over what was trained of every target with every donor."""
    known = trials[(trials["unique_tokens"] == UNIQUE[1]) & ~trials["donor"].isin(FAKES)]
    alone = known["trial"].str.contains("-alone-")
    setting = known["trial"].str.extract(r"-(alone-\d+-[\d.]+|[\d.]+)$")[0].fillna("")
    # One target must not be tuned over more settings than another, nor over more seeds.
    targets = known.groupby([setting, "seed"])["target"].transform("nunique")
    pairs = known.groupby([setting, "seed"])["trial"].transform("nunique")
    whole = targets == len(LANGUAGES)
    whole &= alone | (pairs == len(LANGUAGES) * (len(LANGUAGES) - 1))
    return gains(known[whole])


def matrix_lines(found: pd.DataFrame) -> list[str]:
    """Mean gain over seeds of every ordered pair, and their standard deviation."""
    mean = found.groupby(["target", "donor"])["gain"].agg(["mean", "std", "count"])
    donors = [c for c in LANGUAGES if c in set(found["donor"])]
    lines = [f"| target | {' | '.join(donors)} |", "|---" * (len(donors) + 1) + "|"]
    for target in LANGUAGES:
        if target in set(found["target"]):
            cells = [
                f"{mean.loc[(target, d), 'mean']:+.3f} ± {mean.loc[(target, d), 'std']:.3f}"
                if (target, d) in mean.index
                else ""
                for d in donors
            ]
            lines.append(f"| {target} | {' | '.join(cells)} |")
    return lines


def reading_lines(found: pd.DataFrame, readings: pd.DataFrame) -> list[str]:
    """Rank correlation of every reading with the truth, per step."""
    truth = {
        (str(donor), str(target)): part["gain"].to_numpy(np.float64)
        for (donor, target), part in found.groupby(["donor", "target"])
    }
    lines = [
        "| reading | step | rank correlation | p (languages relabelled) | within a target "
        "| pairs without python |",
        "|---" * 6 + "|",
    ]
    p_values: dict[tuple[str, int], Correlation] = {}
    for name in READINGS:
        for step in [s for s in SHOWN if s in set(readings["step"])]:
            part = readings[(readings["reading"] == name) & (readings["step"] == step)]
            if part.empty:
                continue
            pairs = zip(part["donor"], part["target"], part["mean"], strict=True)
            values = {(d, t): float(v) for d, t, v in pairs}
            c = p_values[name, step] = rank_correlation(values, truth)
            # The primary is the language that these checkpoints know best: apart from it, too.
            others = {pair: gain for pair, gain in truth.items() if "python" not in pair}
            e = rank_correlation(values, others)
            lines.append(
                f"| {name} | {step} | {_rho(c)} | {c.p_value:.2f} | {c.within:+.2f} | {_rho(e)} |"
            )
    return [*lines, *_conclusion(p_values)]


def _conclusion(found: Mapping[tuple[str, int], Correlation]) -> list[str]:
    """What is left of so many correlations, and what an untrained model gives away already."""
    level = 0.05 / len(found)
    least = min(c.p_value for c in found.values())
    best = max(found, key=lambda key: found[key].rho)
    lines = [
        f"\n- {len(found)} correlations were looked at; for all together p would have to be below "
        f"{level:.4f}, and the smallest is {least:.4f} (so few languages have few relabellings): "
        + ("that one stands." if least < level else "**none stands by itself**, as a test."),
        f"- The largest is {best[0]} at step {best[1]} ({found[best].rho:+.2f}).",
    ]
    untrained = {name: c for (name, step), c in found.items() if step == 0}
    first = max(untrained, key=lambda name: untrained[name].rho, default="")
    if first and untrained[first].rho > LEAST_RHO:
        lines.append(
            f"- {first} is at {untrained[first].rho:+.2f} before any training (step 0): as far as "
            "that it tells which vocabularies overlap, not what a model has learnt to transfer."
        )
    return lines


def _rho(c: Correlation) -> str:
    return f"{c.rho:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"


def resolvable(found: pd.DataFrame) -> pd.DataFrame:
    """The pairs of which the gate was measured with two seeds and more."""
    known = found.dropna(subset=["G"])
    seeds = known.groupby(["target", "unique_tokens", "donor"])["seed"].transform("nunique")
    return known[seeds > 1]


def gate_lines(found: pd.DataFrame) -> list[str]:
    """Per target and size: which donors help in truth, and what G says."""
    known = resolvable(found)
    lines = [
        "| target | unique tokens | donor | gain over target alone | G | helps | G says |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ["target", "unique_tokens", "donor"]
    for _, part in known.groupby(keys, sort=False):
        gain, g = part["gain"], part["G"]
        names = (str(part[key].iloc[0]) for key in keys)
        cells = [*names, _spread(gain), _spread(g), _answer(gain), _answer(g)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: pd.Series) -> str:
    return f"{values.mean():+.3f} ± {values.std(ddof=1):.3f}"


def _answer(values: pd.Series) -> str:
    """Above .02 and two standard errors: yes; below .02 with two standard errors added: no."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    if values.mean() > max(LEAST, 2 * error):
        return "yes"
    return "no" if values.mean() + 2 * error <= LEAST else "not resolved"


def right(found: pd.DataFrame) -> tuple[int, int, int]:
    """Pairs in which G's sign at .02 agrees with the truth's, those that disagree, and resolved."""
    known = resolvable(found).groupby(["target", "unique_tokens", "donor"])
    mean = known[["gain", "G"]].mean()
    agree = (mean["gain"] > LEAST) == (mean["G"] > LEAST)
    resolved = known["gain"].apply(lambda g: _answer(g) != "not resolved")
    return int(agree.sum()), int((~agree).sum()), int(resolved.sum())


def weaker_lines(found: pd.DataFrame, inside: pd.DataFrame) -> list[str]:
    """How well useful donors are told from useless ones by `G` and by what needs less training.

    Values are means over seeds, as the truth is. The area under the ROC curve is the share of
    (useful, useless) pairs of donors that stand in the right order, ties half.
    """
    keys = ["target", "unique_tokens"]
    truth = (
        resolvable(found)
        .groupby([*keys, "donor"])[["gain", "G", "early_loss"]]
        .mean()
        .reset_index()
    )
    read = inside.groupby(["reading", "moment", "target", "donor"])["value"].mean()
    whole = [part for _, part in truth.groupby(keys) if len(part["G"].dropna()) > len(FAKES)]
    cases = [(str(part[keys[0]].iloc[0]), int(part[keys[1]].iloc[0])) for part in whole]
    names = [f"{target}, {unique // 1000}k" for target, unique in cases]
    lines = [f"| read | when | {' | '.join(names)} | fooled by |", "|---" * (len(names) + 3) + "|"]
    parts = {key: part.set_index("donor") for key, part in zip(cases, whole, strict=True)}
    clean: list[str] = []
    kinds: list[tuple[str, str]] = [("G", ""), ("early_loss", f"step {EARLY} of the mixture")]
    for name, moment in kinds + list(dict.fromkeys(read.index.droplevel([2, 3]))):
        cells, fooled, areas = [], set(), []
        for target, unique in cases:
            part = parts[target, unique]
            if moment in ("before", SHORTLY_AFTER):
                value = read[name, moment, target].reindex(part.index)
            else:
                value = part[name] * (-1 if name == "early_loss" else 1)
            area, wrong = separated(value, part["gain"] > LEAST)
            areas += [area] * bool(np.isfinite(area))
            cells.append(f"{area:.2f}" if np.isfinite(area) else "–")
            fooled |= {str(donor).split("~")[1] for donor in wrong if "~" in str(donor)}
        if areas and min(areas) == 1:
            clean.append(f"{name.replace('_', ' ')} {moment}".strip())
        fakes = ", ".join(sorted(fooled)) or "none"
        lines.append(f"| {name.replace('_', ' ')} | {moment} | {' | '.join(cells)} | {fakes} |")
    told = "; ".join(clean) or "none"
    return [*lines, f"\n- Without a mistake wherever there is something to tell apart: {told}."]


def separated(value: pd.Series, useful: pd.Series) -> tuple[float, list[object]]:
    """Area under the ROC curve, and the useless donors above some useful one.

    NaN where all donors are useful, or none.
    """
    known = value.notna()
    high, low = value[known & useful], value[known & ~useful]
    if high.empty or low.empty:
        return float("nan"), []
    area = mannwhitneyu(high, low).statistic / (len(high) * len(low))
    return float(area), list(low.index[low >= high.min()])


def table(folder: Path = STORED) -> list[str]:
    """Markdown lines: the truth, the readings against it, the gate, weaker predictors."""
    trials = pd.read_csv(folder / "trials.csv")
    found = gains(trials)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    fair = matrix_gains(trials)
    lines = [
        f"{len(trials)} small runs ({about['steps']} steps of {about['step_tokens']} tokens, d=64, "
        "4 layers). Gain of a target (row, 15k unique tokens) when a donor's tokens (column) fill "
        "the budget beyond 16 passes, over the target alone at its tuned best; nats/token, mean "
        f"and standard deviation over {fair['seed'].nunique()} seeds:\n",
        *matrix_lines(fair),
    ]
    readings = folder / "readings.csv"
    if readings.exists():
        lines += [
            "\nReadings of tracked checkpoints of the built-in series against these gains "
            "(Spearman, [95%] over pairs and seeds; p over relabellings of the languages; mean "
            "over targets of the correlation among a target's donors):\n",
            *reading_lines(fair, pd.read_csv(readings)),
        ]
    if len(resolvable(found)):
        agree, disagree, resolved = right(found)
        lines += [
            "\nThe gate `G` against the truth, also for donors that only look like one (made of "
            f"python's text): G > {LEAST} says what the gain > {LEAST} says in {agree} of "
            f"{agree + disagree} cases ({resolved} of them resolved by the seeds).\n",
            *gate_lines(found),
        ]
        inside = folder / "states.csv"
        if inside.exists():
            lines += [
                f"\nWeaker predictors of a useful donor (gain > {LEAST}): area under the ROC "
                f"curve over the donors of a target. Read in the donor's model after {DONOR_STEPS} "
                f"steps (before the target) and {SHORTLY} steps into the target; `fooled by`: "
                "useless donors made of python's text that stand above a useful one.\n",
                *weaker_lines(found, pd.read_csv(inside)),
            ]
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "store"))
    parser.add_argument("out", type=Path)
    parser.add_argument("series", type=Path, nargs="*", help="run: the series; store: runs")
    parser.add_argument("--part", default="matrix", help="matrix, states, or a target")
    parser.add_argument("--unique", type=int, help="of a target: tokens of one gate, not all")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.what == "store":
        store(given.out)
        if given.series:
            store_readings(given.series)
    else:
        run(given.out, given.series[0], given.part, given.worker, given.workers, given.unique)


if __name__ == "__main__":
    main()
