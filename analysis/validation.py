"""What small models say about the proposals: which mixture was better, by how much, how sure.

`task=validate` trains every proposal, the baselines and two controls with the same budget and the
same seeds. The outcome was fixed in the configuration before the runs. An arm is compared with the
default proposal seed by seed (initialisation and order of the text are the same), and the interval
is Student's over seeds: another seed is what a repetition would change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.mixture import SmallRun, percent_text
from analysis.run import Run, load_run

VALIDATION, PLAN, TRIALS = "validation", "plan.json", "trials"
MATERIAL = {"loss": 0.01, "accuracy": 0.002}
"""Differences that are noise whatever an interval says (nats/token; share)."""
SWEEP = "sweep_"
"""How the names of arms of the truth curve begin."""
EARLY = "target_only"
"""How the names of arms begin that are read at their best step: without the primary they overfit
before the end."""
COLUMNS = ("arm", "seed", "language", "measure", "value", "unit")
COMPARED = (
    "arm", "against", "measure", "language", "seeds", "difference", "low", "high", "unit",
    "verdict",
)  # fmt: skip
ALL, TARGETS = "mean", "mean of targets"
"""In place of a language: the mean over all, which decides, and over all but the primary."""
OVER = {ALL: "over all languages", TARGETS: "over the targets"}
PILOTS = {
    "scratch": "targets alone, for transfer_cap and gap",
    "donor": "targets after the primary, for transfer_cap",
    "mix": "mixes, for law, proxy and gap",
}
"""Role of a small run -> what it is, and whose proposals are made of it."""
SAME_PART = 0.01
"""Parts of the budget that differ by less are the same."""
KNOWLEDGE = "graded_accuracy:"
"""Measures of graded answers, by kind."""


@dataclass(frozen=True)
class Plan:
    """What was decided before the arms were trained."""

    primary: str
    default: str
    """Arm of the default proposer."""
    outcome: str
    """`loss` or `accuracy`: held-out, mean over all languages."""
    seeds: int
    budget: float
    """Tokens of the planned run."""
    tokens: int
    """Tokens of a small one."""
    unique: Mapping[str, int]
    """Language -> tokens that a small run may read."""
    arms: Mapping[str, Mapping[str, float]]
    """Arm -> token shares of its streams."""
    trials: Mapping[str, str]
    """Arm -> name of its trials."""
    proposers: Mapping[str, Sequence[str]]
    """Arm -> proposers whose mixture it is; none for controls and the sweep."""
    lab: str
    """Digest of text, model, recipe and scale."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Proposer that proposed nothing -> why; nothing was trained for it."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What a target counts in the mean over the targets; empty: all the same."""

    def to_json(self) -> str:
        """The text of `plan.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def place_of(folder: Path, lab: str) -> Path:
    """Where the trials of a run's folder are kept; other settings, `Plan.lab`, have another one."""
    return folder / VALIDATION / lab[:8]


def arms_of(
    proposals: Mapping[str, Mapping[str, float]],
    default: str,
    parts: Mapping[str, float] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """Different mixtures once, under the name of the first proposer (the default one first).

    Args:
        proposals: Proposer -> shares.
        default: The default proposer.
        parts: Proposer -> part of the budget after which it stops; not named: all of it. Equal
            shares for unequal times are different mixtures.

    Returns:
        Arm -> shares, and arm -> the proposers whose mixture it is.
    """
    parts = parts or {}
    arms: dict[str, dict[str, float]] = {}
    proposers: dict[str, list[str]] = {}
    for name in sorted(proposals, key=lambda n: n != default):
        shares = dict(proposals[name])
        part = parts.get(name, 1.0)
        alike = (
            arm
            for arm, known in arms.items()
            if _equal(known, shares) and abs(parts.get(arm, 1.0) - part) < SAME_PART
        )
        same = next(alike, None)
        if same is None:
            arms[name], proposers[name] = shares, [name]
        else:
            proposers[same].append(name)
    return arms, proposers


def _equal(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Shares that differ by less than a small run can tell (half a percent of the tokens)."""
    return all(abs(a.get(c, 0.0) - b.get(c, 0.0)) < 0.005 for c in {*a, *b})


def small_runs(place: Path) -> tuple[SmallRun, ...]:
    """The finished trials of a folder, as the proposers take them."""
    return tuple(map(_small_run, _trials(place)))


def _trials(place: Path) -> list[Path]:
    """What the finished trials of a folder say of themselves."""
    return sorted(place.glob(f"{TRIALS}/*/seed-*/trial.json"))


def _small_run(path: Path) -> SmallRun:
    content = json.loads(path.read_text(encoding="utf-8"))
    run = load_run(path.parent, replicates=1)

    def curves(measure: str) -> dict[str, Any]:
        return {c: run.curve(measure, c).value for c in run.languages}

    phases = tuple(
        (float(p["steps"] * content["step_tokens"]), p["shares"]) for p in content["phases"]
    )
    return SmallRun(
        name=content["name"],
        seed=content["seed"],
        role=content["role"],
        phases=phases,
        unique=content["unique"],
        tokens=run.tokens,
        tokens_by_language=dict(zip(run.languages, run.tokens_seen, strict=True)),
        loss=curves("loss"),
        train_loss=curves("train_loss"),
        accuracy=curves("accuracy"),
    )


@dataclass(frozen=True)
class Validation:
    """The arms of a run's validation, as far as they are trained."""

    plan: Plan
    place: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per arm, seed, language (means too) and measure, at the arm's reading."""
        rows = [row for arm, name in self.plan.trials.items() for row in self._arm(arm, name)]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _arm(self, arm: str, name: str) -> Iterator[tuple[Any, ...]]:
        for seed in range(self.plan.seeds):
            folder = self.place / TRIALS / name / f"seed-{seed}"
            if (folder / "trial.json").exists():
                run = load_run(folder, replicates=1)
                last = len(run.records) - 1
                at = {ALL: last, TARGETS: last}
                if arm.startswith(EARLY):
                    at = {over: _best(run, self.plan, over) for over in at}
                yield from _readings(run, arm, seed, at, self.plan.weights)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """Every arm against the default one: mean difference over seeds with its interval.

        By measure and language (and means over languages); positive: the arm is higher.
        """
        rows = []
        for (arm, measure, language), mine in self.table.groupby(
            ["arm", "measure", "language"], sort=False
        ):
            base = self.table[
                (self.table["arm"] == self.plan.default)
                & (self.table["measure"] == measure)
                & (self.table["language"] == language)
            ]
            if arm != self.plan.default and len(base):
                pairs = mine.merge(base, on="seed")
                found = difference((pairs["value_x"] - pairs["value_y"]).to_numpy(np.float64))
                said = verdict(str(measure), *found)
                unit = mine["unit"].iloc[0]
                rows.append(
                    (arm, self.plan.default, measure, language, len(pairs), *found, unit, said)
                )
        return pd.DataFrame(rows, columns=list(COMPARED))

    @cached_property
    def arms(self) -> pd.DataFrame:
        """One row per arm: `arm`, `label`, `kind` (proposal, control, sweep), `primary_share`."""
        plan = self.plan
        rows = [
            (arm, self.label(arm), _kind(arm, plan), shares.get(plan.primary, 0.0))
            for arm, shares in plan.arms.items()
        ]
        return pd.DataFrame(rows, columns=["arm", "label", "kind", "primary_share"])

    @property
    def outcome(self) -> pd.DataFrame:
        """The rows of `compared` that decide, worst for the default proposal first."""
        found = self.compared
        kept = found[(found["measure"] == self.plan.outcome) & (found["language"] == ALL)]
        return kept.sort_values("difference", ascending=self.plan.outcome == "loss")

    def sentences(self) -> list[str]:
        """One line per arm: is the default proposal better, by how much, how sure."""
        found = self.table[
            (self.table["arm"] == self.plan.default) & (self.table["measure"] == self.plan.outcome)
        ]
        mine = found[found["language"] == ALL]
        if mine.empty:
            return ["validation: not trained yet"]
        unit = mine["unit"].iloc[0]
        targets = found[found["language"] == TARGETS]["value"].mean()
        first = (
            f"validation: {self.label(self.plan.default)} has a held-out {self.plan.outcome} of "
            f"{mine['value'].mean():.3f} {unit}, mean of {len(self.plan.unique)} languages and "
            f"{len(mine)} seeds, and of {targets:.3f} over the targets ({self.plan.tokens:,} "
            "tokens a run)"
        )
        lines = [self.sentence(str(arm), self._means(str(arm))) for arm in self.outcome["arm"]]
        lines += self.costs()
        silent = [
            f"validation: {name} was not trained: {why}" for name, why in self.plan.silent.items()
        ]
        return [first, *lines, *silent]

    def costs(self) -> list[str]:
        """What the proposers learnt from, in runs and tokens; the others cost nothing."""
        trained: dict[str, list[int]] = {}
        for path in _trials(self.place):
            trial = json.loads(path.read_text(encoding="utf-8"))
            steps = sum(phase["steps"] for phase in trial["phases"])
            trained.setdefault(trial["role"], []).append(steps * trial["step_tokens"])
        rows = [
            f"{len(trained[role])} {what} ({sum(trained[role]):,} tokens)"
            for role, what in PILOTS.items()
            if role in trained
        ]
        return [f"validation: beside the arms, pilots were trained: {', '.join(rows)}"] * bool(rows)

    def _means(self, arm: str) -> dict[str, dict[Any, Any]]:
        """ALL and TARGETS -> an arm's row of `compared` for the outcome."""
        found = self.compared
        kept = found[(found["arm"] == arm) & (found["measure"] == self.plan.outcome)]
        return {str(r["language"]): r for r in kept.to_dict("records") if r["language"] in OVER}

    def sentence(self, arm: str, rows: Mapping[str, Mapping[Any, Any]]) -> str:
        """A verdict in words with both means; gains of the default proposal are positive.

        The mean over all languages decides; for controls the one over the targets, because they do
        without the primary: that they do not learn it is no news.
        """
        decides = TARGETS if _kind(arm, self.plan) == "control" and TARGETS in rows else ALL
        mine, other = self.label(self.plan.default), self.label(arm)
        words = {
            "worse": f"{mine} is better than {other}",
            "better": f"{mine} is worse than {other}",
            "no difference": f"no difference between {mine} and {other}",
            "not resolved": f"{mine} and {other} are not told apart",
        }
        deciding = rows[decides]
        means = ", ".join(
            f"{self._gain(rows[over])} {OVER[over]}"
            for over in sorted(rows, key=lambda over: over != decides)
        )
        seeds = f"{deciding['seeds']} seed{'s' if deciding['seeds'] > 1 else ''}"
        return f"validation: {words[deciding['verdict']]}: {means} ({seeds})"

    def _gain(self, row: Mapping[Any, Any]) -> str:
        """`+0.031 nats/token [-0.063, +0.126]`: how much better the default proposal is."""
        sign = 1 if self.plan.outcome == "loss" else -1
        gain, ends = sign * row["difference"], sorted((sign * row["low"], sign * row["high"]))
        interval = f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if np.isfinite(ends[0]) else ", no interval"
        return f"{gain:+.3f} {row['unit']}{interval}"

    def label(self, arm: str) -> str:
        """The arm with all proposers that propose the same."""
        return " = ".join(self.plan.proposers.get(arm) or [arm])


def _kind(arm: str, plan: Plan) -> str:
    if arm in plan.proposers:
        return "proposal"
    return "sweep" if arm.startswith(SWEEP) else "control"


def difference(values: Any) -> tuple[float, float, float]:
    """Mean of differences over seeds and its 95% interval (Student's t); NaN ends for one seed."""
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def verdict(measure: str, mean: float, low: float, high: float) -> str:
    """Whether an arm is better or worse than the default one in a measure.

    `no difference`: the interval lies within twice what is noise; `not resolved`: it holds 0 and
    more than that.
    """
    material = MATERIAL["loss" if measure == "loss" else "accuracy"]
    sign = -1.0 if measure == "loss" else 1.0
    if np.isnan(low):
        return "not resolved"
    if min(abs(low), abs(high)) > 0 and low * high > 0 and abs(mean) >= material:
        return "better" if sign * mean > 0 else "worse"
    return "no difference" if max(abs(low), abs(high)) <= 2 * material else "not resolved"


def _best(run: Run, plan: Plan, over: str) -> int:
    """The record at which the outcome's mean is best."""
    languages = [c for c in run.languages if over == ALL or c != run.primary]
    curves = [run.curve(plan.outcome, c).value for c in languages]
    weights = [plan.weights.get(c, 1.0) if over == TARGETS else 1.0 for c in languages]
    mean = np.average(curves, axis=0, weights=weights)
    return int(np.nanargmin(mean) if plan.outcome == "loss" else np.nanargmax(mean))


def _readings(
    run: Run, arm: str, seed: int, at: Mapping[str, int], weights: Mapping[str, float]
) -> Iterator[tuple[Any, ...]]:
    """Every measure; the mean over all languages where that is best, the rest where targets are."""
    for measure in run.measures:
        if measure in MATERIAL or measure.startswith(KNOWLEDGE):
            # What only the primary's text tells is asked of the others.
            asked = [c for c in run.languages if measure in MATERIAL or c != run.primary]
            curves = {c: run.curve(measure, c) for c in asked}
            unit = next(iter(curves.values())).unit
            values = {c: float(k.value[at[TARGETS]]) for c, k in curves.items()}
            targets = {c: v for c, v in values.items() if c != run.primary}
            means = {
                ALL: _mean({c: float(k.value[at[ALL]]) for c, k in curves.items()}),
                TARGETS: _mean(targets, weights),
            }
            for language, value in {**values, **means}.items():
                if np.isfinite(value):
                    yield arm, seed, language, measure, value, unit


def _mean(values: Mapping[str, float], weights: Mapping[str, float] | None = None) -> float:
    known = {c: v for c, v in values.items() if np.isfinite(v)}
    counts = [(weights or {}).get(c, 1.0) for c in known]
    return float(np.average([*known.values()], weights=counts)) if sum(counts) else float("nan")


def load_validation(folder: Path) -> Validation | None:
    """The validation of a run's folder; None where none was planned."""
    path = folder / VALIDATION / PLAN
    if not path.exists():
        return None
    plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
    return Validation(plan, place_of(folder, plan.lab))


def share_text(shares: Mapping[str, float]) -> str:
    """Shares as a person writes them: `python 62%, php 38%`."""
    return ", ".join(f"{c} {percent_text(s)}" for c, s in shares.items() if s > 0)
