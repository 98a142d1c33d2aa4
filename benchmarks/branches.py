"""When does a donor language stop paying? Truth by branching runs, and what foretells it.

    python benchmarks/branches.py run OUT SERIES [--worker I --workers N]
    python benchmarks/branches.py store OUT     # -> docs/findings/branches/*.csv
    python benchmarks/branches.py table         # what the stored results say, as markdown

SERIES is the folder of the built-in series (its tokenizer is used). Every small run is kept and
found again, so the command can be stopped and repeated; seeds come one after the other, and
workers take whole seeds.

A *main run* trains on 60% Python and 40% of a target language at a constant learning rate, from
scratch or after a stretch of Python only, with scarce or ample target text. At four *branch
points* it is measured by the tracker's probes, and from each it goes on for 60 steps with another
share of Python (or the same: staying); in the last 20 of them the learning rate falls to 0, in
every branch alike. The *gain* of a share is the target's held-out loss when staying minus that of
the branch, at its end.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from donors import DONOR_TOKENS, stream
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from analysis import load_run
from analysis.measured import ratio
from analysis.run import Run
from checkpoints.batches import Phase
from checkpoints.programs import LANGUAGES
from tracker.config import measurement, run_settings
from tracker.probes.performance import Performance
from tracker.sweep import Measurement
from tracker.trials import STATE, Lab, Training, Trial, finished

STORED = Path(__file__).parent.parent / "docs" / "findings" / "branches"
DONOR, TARGETS, SEEDS = "python", ("php", "csharp"), (0, 1, 2)
STAY = 0.6
SHARES = (0.0, 0.3, STAY, 0.9)
"""Shares of the donor in the branches."""
POINTS = (30, 70, 110, 150)
"""Steps of the mix at which the main run branches."""
BRANCH, DECAY = 60, 20
"""Steps of a branch, and its last ones, in which the learning rate falls. `BRANCH - DECAY` is the
distance of the points: the branch that stays is the main run but for its last steps."""
LEAD = {"scratch": 0, "after": 100}
"""Steps of the donor only before the mix."""
UNIQUE = {"scarcest": 3_000, "scarce": 6_000, "ample": 200_000}
"""Unique tokens of the target. A branch without the donor ends at 49 to 82, at 25 to 41, or at
about 1 pass over them: the worth of the donor must change within a run to be foretold at all."""
CONDITIONS = (
    ("scratch", "scarcest"), ("after", "scarcest"), ("scratch", "scarce"), ("scratch", "ample"),
)  # fmt: skip
"""Starts and supplies of the main runs."""
RATE = 2e-3
READ_EVERY, SLOPE_STEPS = 10, 20
TRAINING = Training()
STEP_TOKENS = TRAINING.step_tokens
PROBES = ("performance", "working_language", "vocabulary_mass", "transferring", "regions")


@dataclass(frozen=True)
class MainRun:
    """A run that is branched."""

    target: str
    start: str
    supply: str
    seed: int

    @property
    def name(self) -> str:
        """Part of its trials' names."""
        return f"{self.target}-{self.start}-{self.supply}"

    @property
    def lead(self) -> tuple[Phase, ...]:
        """What comes before the mix."""
        steps = LEAD[self.start]
        return (Phase(steps, {DONOR: 1.0}),) if steps else ()

    def mix(self, steps: int, share: float = STAY) -> Phase:
        """A stretch with a share of the donor."""
        shares = {DONOR: share, self.target: 1 - share}
        return Phase(steps, {c: s for c, s in shares.items() if s > 0})

    def trial(self, name: str, phases: tuple[Phase, ...], **settings: object) -> Trial:
        """A trial of this run's text and seed, at a constant learning rate."""
        unique = {DONOR: DONOR_TOKENS, self.target: UNIQUE[self.supply]}
        made = Trial(
            f"{self.name}-{name}", "mix", (*self.lead, *phases), unique, self.seed, RATE, 0.0,
            READ_EVERY, (DONOR, self.target),
        )  # fmt: skip
        return replace(made, **settings)  # type: ignore[arg-type]

    def until(self, point: int) -> Trial:
        """The main run up to a branch point."""
        return self.trial(f"main-{point}", (self.mix(point),))

    def branch(self, point: int, share: float) -> Trial:
        """The run that goes on from a branch point with another share, read at its end."""
        stays = share == STAY
        whole = (self.mix(point + BRANCH),)
        phases = whole if stays else (self.mix(point), self.mix(BRANCH, share))
        steps = LEAD[self.start] + point + BRANCH
        return self.trial(
            f"branch-{point}-{share:g}", phases, decay_share=DECAY / steps, evaluate_every=steps
        )


def main_runs() -> Iterator[MainRun]:
    """Seed by seed, so that what is there at any time is balanced."""
    for seed in SEEDS:
        for start, supply in CONDITIONS:
            for target in TARGETS:
                yield MainRun(target, start, supply, seed)


def lead_trial(seed: int) -> Trial:
    """The donor only: what several main runs begin with."""
    steps = LEAD["after"]
    phase = Phase(steps, {DONOR: 1.0})
    unique = {DONOR: DONOR_TOKENS}
    return Trial(f"{DONOR}-only", "donor", (phase,), unique, seed, RATE, 0.0, steps, (DONOR,))


@dataclass(frozen=True)
class Labs:
    """Where trials are trained, and where their states are measured."""

    plain: Lab
    """Reads the loss only."""
    inner: Mapping[str, Lab]
    """Target -> a lab that reads the internal states, the text being the pair's."""


def make_labs(series: Path) -> Labs:
    """Probe text and training text of the built-in series."""
    whole = probe_text(series, LANGUAGES)
    streams = {c: stream(whole.tokenizer, c) for c in (DONOR, *TARGETS)}
    plain = replace(whole, probes={"performance": Performance()}, concept_table=())
    inner = {c: Lab(probe_text(series, (DONOR, c)), streams, TRAINING) for c in TARGETS}
    return Labs(Lab(plain, streams, TRAINING), inner)


def probe_text(series: Path, languages: tuple[str, ...]) -> Measurement:
    """The probe text of the built-in series with its tokenizer and the probes that are asked."""
    chosen = [f"languages=[{','.join(languages)}]", f"probe=[{','.join(PROBES)}]"]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["series=local", f"series.path={series}", *chosen])
    return measurement(config, replace(run_settings(config), primary=DONOR))[0]


def run(out: Path, labs: Labs, worker: int = 0, workers: int = 1) -> None:
    """Train what is not there yet."""
    for main in main_runs():
        if main.seed % workers == worker:
            follow(main, out, labs)
            print(main.name, main.seed, flush=True)


def follow(main: MainRun, out: Path, labs: Labs) -> None:
    """One main run, the internal states at its branch points, and its branches."""
    states: dict[int, Path] = {}
    last = None
    if LEAD[main.start]:
        last = labs.plain.run(lead_trial(main.seed), out / "trials", keep=True) / STATE
    for point in POINTS:
        trial = main.until(point)
        last = states[point] = labs.plain.run(trial, out / "trials", last, keep=True) / STATE
        labs.inner[main.target].run(
            replace(trial, evaluate_every=trial.steps), out / "states", last
        )
    for point in POINTS:
        for share in SHARES:
            # The one that stays is the main run until its learning rate falls.
            begun = states.get(point + BRANCH - DECAY) if share == STAY else None
            labs.plain.run(main.branch(point, share), out / "trials", begun or states[point])


# --- what is kept -------------------------------------------------------------------------------

STATES = (
    "working_language_share", "specificity", "vocabulary_mass", "neuron_mass_share",
    "transferring", "bilingual", "own",
)  # fmt: skip
"""Curves of the tracker, as they are named there."""
KEYS = ["target", "start", "supply", "seed"]


def place(folder: Path, trial: Trial) -> Path:
    """Where a lab keeps a trial."""
    return folder / trial.name / f"seed-{trial.seed}"


def is_done(main: MainRun, out: Path) -> bool:
    """Whether all of a main run is there: its states and every branch."""
    needed = [place(out / "states", main.until(point)) for point in POINTS]
    needed += [place(out / "trials", main.branch(p, s)) for p in POINTS for s in SHARES]
    return all(finished(each) is not None for each in needed)


def store(out: Path, folder: Path = STORED) -> None:
    """Keep the truth of every branch, and what was read at every branch point, of whole runs."""
    done = [main for main in main_runs() if is_done(main, out)]
    truth = [row for main in done for row in truths(main, out)]
    points = [asdict(main) | readings(main, point, out) for main in done for point in POINTS]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(truth).round(5).to_csv(folder / "truth.csv", index=False)
    pd.DataFrame(points).round(5).to_csv(folder / "points.csv", index=False)
    settings = {
        "step_tokens": STEP_TOKENS, "learning_rate": RATE, "lead_steps": LEAD, "unique": UNIQUE,
        "branch_steps": BRANCH, "decay_steps": DECAY, "training": repr(TRAINING),
    }  # fmt: skip
    text = json.dumps(settings, indent=1) + "\n"
    (folder / "about.json").write_text(text, encoding="utf-8")


def truths(main: MainRun, out: Path) -> Iterator[dict[str, object]]:
    """Where every branch of a main run ends."""
    for point in POINTS:
        for share in SHARES:
            found = load_run(place(out / "trials", main.branch(point, share)), replicates=1)
            at = {"point": point, "share": share}
            ends = {
                "loss": last(found, "loss", main.target),
                "donor_loss": last(found, "loss", DONOR),
            }
            yield asdict(main) | at | ends


def readings(main: MainRun, point: int, out: Path) -> dict[str, float]:
    """What is known at a branch point: losses of the main run so far, and internal states."""
    trial, target = main.until(point), main.target
    along = load_run(place(out / "trials", trial), replicates=1)
    state = load_run(place(out / "states", trial), replicates=1)
    loss = along.curve("loss", target)
    recent = loss.step >= loss.step[-1] - SLOPE_STEPS
    slope = float(np.polyfit(loss.step[recent], loss.value[recent], 1)[0])
    donor, own = state.records[-1]["neurons/mass"][state.languages.index(target)]
    cosine = state.records[-1]["regions/gradient_cosine_corrected"]
    return {
        "point": point,
        "loss": float(loss.value[-1]),
        "gap": float(loss.value[-1]) - last(along, "train_loss", target),
        "slope": 100 * slope,
        **{name: last(state, name, target) for name in STATES},
        "evidence_donor": float(donor),
        "evidence_own": float(own),
        "gradient_cosine": float(cosine[0, 1]),
    }


def last(found: Run, measure: str, language: str) -> float:
    """A measure at the end of a run."""
    return float(found.curve(measure, language).value[-1])


# --- what foretells the gain --------------------------------------------------------------------

Floats = NDArray[np.float64]
DRAWS = 1000
"""Bootstrap draws over runs."""
PASSES = 16
"""Of the cap on passes over unique text (methods 9)."""
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Of ridge regression on standardised predictors; chosen on the runs that are learnt from."""
DROP, MORE = "dropping the donor", "more donor"
BEST = "the best share"


@dataclass(frozen=True)
class Predictor:
    """Something that is known at a branch point."""

    label: str
    kind: str
    """`counts` (of tokens: no model is needed), `losses` (of the run so far) or `states`."""
    scale: Callable[[Floats], Floats] = np.asarray
    """Before it enters a regression."""


PREDICTORS: Mapping[str, Predictor] = {
    "passes": Predictor("passes over the unique text so far", "counts", np.log1p),
    "passes_dropped": Predictor("passes at the end if the donor is dropped", "counts", np.log1p),
    "cap_share": Predictor(f"donor share that a cap of {PASSES} passes leaves", "counts"),
    "tokens": Predictor("target tokens read so far", "counts", np.log),
    "after": Predictor("the donor came first", "counts"),
    "loss": Predictor("held-out loss", "losses"),
    "gap": Predictor("held-out minus train loss", "losses"),
    "slope": Predictor(f"slope of the held-out loss, last {SLOPE_STEPS} steps", "losses"),
    "working_language_share": Predictor("S_wl", "states"),
    "specificity": Predictor("specificity of S_wl", "states"),
    "vocabulary_mass": Predictor("vocabulary mass", "states"),
    "neuron_mass_share": Predictor("S_nn", "states"),
    "transferring": Predictor("transferring units", "states", np.log1p),
    "bilingual": Predictor("bilingual units", "states", np.log1p),
    "own": Predictor("own units", "states", np.log1p),
    "evidence_donor": Predictor("evidence mass, donor's word", "states", np.log1p),
    "evidence_own": Predictor("evidence mass, own word", "states", np.log1p),
    "gradient_cosine": Predictor("cosine of the two languages' gradients", "states"),
}
READ = tuple(name for name, each in PREDICTORS.items() if each.kind != "counts")
"""Those that are stored; counts follow from the plan."""
CHANGES = tuple(share for share in SHARES if share != STAY)


@dataclass(frozen=True)
class Grid:
    """Stored results as arrays: whole runs only.

    A run is a target in a condition with a seed. Branch points of one are not independent, runs
    are taken to be: those of one seed share the first weights and the donor's text.
    """

    condition: NDArray[np.int64]
    """[run] which of `names`."""
    names: tuple[str, ...]
    target: NDArray[np.int64]
    """[run] which target."""
    loss: Floats
    """[run, point, share] the target's at the end of a branch."""
    donor_loss: Floats
    """[run, point, share] the donor's."""
    known: Mapping[str, Floats]
    """Predictor -> [run, point]."""

    @property
    def gain(self) -> Floats:
        """[run, point, share] loss of staying minus loss of the branch."""
        return self.loss[..., SHARES.index(STAY), None] - self.loss

    @cached_property
    def outcomes(self) -> Mapping[str, Floats]:
        """What is to be foretold -> [run, point]."""
        best = np.array(SHARES)[self.loss.argmin(-1)]
        return {DROP: self.gain[..., 0], MORE: self.gain[..., -1], BEST: best}

    @cached_property
    def drawn(self) -> NDArray[np.int64]:
        """[draw, run] runs drawn again within their conditions; columns keep their condition."""
        rng = np.random.default_rng(0)
        found = np.empty((DRAWS, len(self.condition)), np.int64)
        for mine in self.members:
            found[:, mine] = mine[rng.integers(len(mine), size=(DRAWS, len(mine)))]
        return found

    @property
    def itself(self) -> NDArray[np.int64]:
        """[1, run] every run once."""
        return np.arange(len(self.condition))[None]

    @cached_property
    def ranked_outcomes(self) -> Mapping[str, tuple[Ranked, Ranked]]:
        """Outcome -> ranks of what was found, and of the draws."""
        both = self.itself, self.drawn
        return {
            n: (ranked(self, y, both[0]), ranked(self, y, both[1]))
            for n, y in self.outcomes.items()
        }

    @property
    def members(self) -> list[NDArray[np.int64]]:
        """Runs of each condition."""
        return [np.flatnonzero(self.condition == k) for k in range(len(self.names))]


def read(folder: Path) -> Grid:
    """Stored results; runs that are not whole are left out.

    A reading that is missing (a mass share with too little evidence) counts as the median of all.
    """
    truth = pd.read_csv(folder / "truth.csv")
    points = pd.read_csv(folder / "points.csv").pivot(index=KEYS, columns="point")
    tables = {
        name: truth.pivot(index=KEYS, columns=["point", "share"], values=name).dropna()
        for name in ("loss", "donor_loss")
    }
    index = tables["loss"].index.intersection(points.index).sort_values()
    wanted = [(point, share) for point in POINTS for share in SHARES]
    shape = (len(index), len(POINTS), len(SHARES))
    ends = {n: v.loc[index, wanted].to_numpy().reshape(shape) for n, v in tables.items()}
    stored = {n: points.loc[index, n][list(POINTS)].to_numpy(float) for n in READ}
    runs = index.to_frame()
    labels = [
        f"{a}, {UNIQUE[b]:,} unique" for a, b in zip(runs["start"], runs["supply"], strict=True)
    ]
    names = tuple(dict.fromkeys(labels))
    assert min(map(labels.count, names), default=0) > 1, "two whole runs of a condition are needed"
    condition = np.array([names.index(label) for label in labels], np.int64)
    filled = {n: filled_up(v) for n, v in stored.items()}
    target = np.unique(runs["target"], return_inverse=True)[1]
    known = counts(runs) | filled
    return Grid(condition, names, target, ends["loss"], ends["donor_loss"], known)


def filled_up(values: Floats) -> Floats:
    """What is missing is taken to be the median; 0 where nothing is known."""
    known = values[np.isfinite(values)]
    return np.where(np.isfinite(values), values, np.median(known) if len(known) else 0.0)


def counts(runs: pd.DataFrame) -> dict[str, Floats]:
    """[run, point] what follows from the plan alone."""
    unique = np.array([UNIQUE[supply] for supply in runs["supply"]])[:, None]
    seen = (1 - STAY) * STEP_TOKENS * np.array(POINTS, float) + 0 * unique
    rest = BRANCH * STEP_TOKENS
    after = np.array([LEAD[start] > 0 for start in runs["start"]], float)
    return {
        "passes": seen / unique,
        "passes_dropped": (seen + rest) / unique,
        "cap_share": 1 - np.clip((PASSES * unique - seen) / rest, 0, 1),
        "tokens": seen,
        "after": after[:, None] + 0 * seen,
    }


def ranks(x: Floats) -> Floats:
    """Ranks along the last axis (ties at their mean), centred, of length 1; 0 where all tie."""
    found: Floats = rankdata(x, axis=-1)
    found -= found.mean(-1, keepdims=True)
    length = np.sqrt((found**2).sum(-1, keepdims=True))
    found /= np.where(length > 0, length, 1.0)
    return found


def spearman(a: Floats, b: Floats) -> Floats:
    """Rank correlation along the last axis, of `ranks`; NaN where one of them does not vary."""
    varies = a.any(-1) & b.any(-1)
    return np.where(varies, (a * b).sum(-1), np.nan)


def mean_of_known(parts: Sequence[Floats]) -> Floats:
    """Mean over the first axis of what is finite; NaN where nothing is."""
    stacked = np.stack(parts)
    known = np.isfinite(stacked)
    n = known.sum(0)
    total: Floats = np.where(known, stacked, 0.0).sum(0)
    return ratio(total, n.astype(float))


Ranked = tuple[list[Floats], list[Floats], list[Floats]]
"""`ranks` [draw, points] over all, in every condition, at every step of every condition."""


def ranked(grid: Grid, x: Floats, drawn: NDArray[np.int64]) -> Ranked:
    """A predictor or an outcome [run, point] in every draw of the runs."""
    again = x[drawn]
    flat = (len(drawn), -1)
    within = [ranks(again[:, mine].reshape(flat)) for mine in grid.members]
    same = [ranks(again[:, mine, p]) for mine in grid.members for p in range(x.shape[1])]
    return [ranks(again.reshape(flat))], within, same


def associations(x: Ranked, y: Ranked) -> list[Floats]:
    """[draw] rank correlation over all, mean within conditions, mean within condition and step."""
    return [
        mean_of_known([spearman(a, b) for a, b in zip(*parts, strict=True)])
        for parts in zip(x, y, strict=True)
    ]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over runs."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, grid: Grid, value: float, drawn: Floats, tests: int = 1) -> Estimate:
        """95% for all of `tests` together (Bonferroni); unknown where a draw is often unknown.

        Student's t with the bootstrap's standard deviation, which is made larger by `n / (n - 1)`,
        `n` the runs of the smallest condition: percentiles of so few runs are too narrow.
        """
        known = drawn[np.isfinite(drawn)]
        if not np.isfinite(value) or len(known) < 0.9 * len(drawn):
            return cls(float("nan"), float("nan"), float("nan"))
        least = min(map(len, grid.members))
        free = len(grid.condition) - len(grid.names)
        wide = float(t.ppf(1 - 0.025 / tests, free) * known.std() * (least / (least - 1)) ** 0.5)
        return cls(value, value - wide, value + wide)

    def on(self, back: Callable[[float], float]) -> Estimate:
        """On another scale."""
        return Estimate(back(self.value), back(self.low), back(self.high))

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int = 2) -> str:
        """`+.31 [+.10, +.48]`."""
        if not np.isfinite(self.value):
            return "–"
        first, *ends = (f"{v:+.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{first} [{', '.join(ends)}]"


def correlations(grid: Grid, name: str) -> dict[str, list[Estimate]]:
    """Of a predictor with every outcome: over all, within conditions, at the same step."""
    given, drawn = (ranked(grid, grid.known[name], d) for d in (grid.itself, grid.drawn))
    found = {}
    for outcome, (known, again) in grid.ranked_outcomes.items():
        both = zip(associations(given, known), associations(drawn, again), strict=True)
        found[outcome] = [
            Estimate.of(grid, float(fisher(v)[0]), fisher(d), len(PREDICTORS)).on(math.tanh)
            for v, d in both
        ]
    return found


def fisher(rho: Floats) -> Floats:
    """The scale on which a correlation's error does not depend on it."""
    scaled: Floats = np.arctanh(np.clip(rho, -0.999, 0.999))
    return scaled


# --- foretelling runs that were not learnt from -------------------------------------------------

SETS: Mapping[str, tuple[str, ...]] = {
    "counts": ("counts",),
    "counts and losses": ("counts", "losses"),
    "counts and states": ("counts", "states"),
    "counts, losses and states": ("counts", "losses", "states"),
}
"""Nested sets of predictors."""
NOTHING = "nothing (the mean)"
FIXED = "best fixed share of the condition"
LEAST = 4
"""Runs of every condition without which nothing is decided."""
MATTERS = 0.01
"""A change of the regret, nats/token, that is worth acting on; the sd of one run is larger."""


def features(grid: Grid, kinds: Sequence[str]) -> Floats:
    """[run, point, feature] predictors of some kinds, each on its scale; counts also squared."""
    chosen = [n for n, each in PREDICTORS.items() if each.kind in kinds]
    values = {n: PREDICTORS[n].scale(grid.known[n]) for n in chosen}
    squares = [v**2 for n, v in values.items() if PREDICTORS[n].kind == "counts"]
    return np.stack([*values.values(), *squares], -1)


def plan(grid: Grid) -> Floats:
    """[run, point, feature] which step of which condition, and which target.

    Whoever has seen other runs of the condition knows as much; and a state is not preferred for
    telling the time, or the target, on a better scale.
    """
    runs, points = grid.loss.shape[:2]
    steps = (
        np.eye(len(grid.names))[grid.condition][:, None, :, None] * np.eye(points)[None, :, None]
    )
    targets = np.repeat(np.eye(grid.target.max() + 1)[grid.target][:, None], points, 1)
    return np.concatenate([steps.reshape(runs, points, -1), targets], -1)


def left_out(x: Floats, y: Floats, part: NDArray[np.int64]) -> Floats:
    """[run, point, share] ridge predictions of each part of the runs, learnt from the others.

    Args:
        x: [run, point, feature].
        y: [run, point, share].
        part: [run] what is left out together; the penalty is chosen by leaving parts out, too.
    """
    found = np.empty(y.shape)
    for left in np.unique(part):
        rest = part != left
        errors = np.zeros((len(PENALTIES), y.shape[-1]))
        for inner in np.unique(part[rest]):
            others, new = rest & (part != inner), part == inner
            tried = ridge(x[others], y[others], x[new])
            errors += ((tried - y[new]) ** 2).sum((1, 2))
        chosen = errors.argmin(0)[None, None, None]
        tried = ridge(x[rest], y[rest], x[~rest])
        found[~rest] = np.take_along_axis(tried, chosen, 0)[0]
    return found


def ridge(x: Floats, y: Floats, new: Floats) -> Floats:
    """[penalty, ..., share] predictions at `new` [..., feature]; the mean is not penalised."""
    rows, gains = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    middle, spread = rows.mean(0), rows.std(0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    rows, new = (rows - middle) / spread, (new - middle) / spread
    left, size, right = np.linalg.svd(rows, full_matrices=False)
    onto = left.T @ (gains - gains.mean(0))
    shrunk = [(size / (size**2 + penalty))[:, None] * onto for penalty in PENALTIES]
    return np.stack([gains.mean(0) + new @ (right.T @ s) for s in shrunk])


def others_mean(grid: Grid, y: Floats) -> Floats:
    """Mean over the other runs of the same condition, at the same step: the clock."""
    found = np.empty(y.shape)
    for mine in grid.members:
        for each in mine:
            found[each] = y[mine[mine != each]].mean(0)
    return found


@dataclass(frozen=True)
class Foretold:
    """Predictions of every gain by one set of predictors, for runs that were left out."""

    gain: Floats
    """[run, point, share] 0 where the share stays."""

    def squared_error(self, grid: Grid, share: float) -> Floats:
        """[run] mean over its points."""
        at = SHARES.index(share)
        error: Floats = ((self.gain[..., at] - grid.gain[..., at]) ** 2).mean(-1)
        return error

    @property
    def choice(self) -> NDArray[np.int64]:
        """[run, point] index of the share that is foretold to be the best."""
        best: NDArray[np.int64] = self.gain.argmax(-1)
        return best


NEW = ("run", "condition")


def foretell(grid: Grid, new: str = "run") -> dict[str, Foretold]:
    """By every set of predictors, and by none.

    Args:
        grid: Stored results.
        new: `run`: every run is foretold from all others, and its plan is known from them;
            `condition`: from the runs of the other conditions.
    """
    part, known = (grid.itself[0], plan(grid)) if new == "run" else (grid.condition, None)
    given = {NOTHING: np.zeros((*grid.gain.shape[:2], 1))}
    for name, kinds in SETS.items():
        mine = features(grid, kinds)
        given[name] = mine if known is None else np.concatenate([mine, known], -1)
    return {name: Foretold(left_out(x, grid.gain, part)) for name, x in given.items()}


def regret(grid: Grid, choice: NDArray[np.int64]) -> Floats:
    """[run] loss of the chosen shares above that of the best, mean over points."""
    chosen = np.take_along_axis(grid.loss, choice[..., None], -1)[..., 0]
    lost: Floats = (chosen - grid.loss.min(-1)).mean(-1)
    return lost


def rules(grid: Grid, foretold: Mapping[str, Foretold]) -> dict[str, NDArray[np.int64]]:
    """[run, point] which share every rule takes."""
    same = np.zeros(grid.loss.shape[:2], np.int64)
    fixed = {"stay" if s == STAY else f"always {s:g}": same + i for i, s in enumerate(SHARES)}
    others = others_mean(grid, grid.loss)
    fixed[FIXED] = same + others.mean(1).argmin(-1)[:, None]
    distance = np.abs(grid.known["cap_share"][..., None] - np.array(SHARES))
    cap = {f"cap of {PASSES} passes": distance.argmin(-1)}
    learnt = {f"learnt from {n}": each.choice for n, each in foretold.items() if n != NOTHING}
    return fixed | cap | learnt | {"the clock": others.argmin(-1)}


def over_runs(grid: Grid, each: Floats, tests: int = 1) -> Estimate:
    """Mean of a number per run."""
    return Estimate.of(grid, float(each.mean()), each[grid.drawn].mean(-1), tests)


# --- what is said -------------------------------------------------------------------------------


def table(folder: Path = STORED) -> list[str]:
    """Lines of markdown: truth, correlations, errors, choices, and the verdict by rule."""
    grid = read(folder)
    foretold = {new: foretell(grid, new) for new in NEW}
    return [
        *_design(grid),
        *_truths(grid),
        *_correlations(grid),
        *_errors(grid, foretold),
        *_choices(grid, foretold),
        *_verdict(grid, foretold),
    ]


def _design(grid: Grid) -> Iterator[str]:
    runs, points = grid.loss.shape[:2]
    yield (
        f"{runs} main runs ({', '.join(TARGETS)}; from scratch, or after {LEAD['after']} steps of "
        f"{DONOR} only; seeds: {runs // len(TARGETS) // len(grid.names)}) on {STAY:.0%} {DONOR}, "
        f"each branched at {points} points (steps {', '.join(map(str, POINTS))} of the mix, "
        f"{STEP_TOKENS:,} tokens each) into {len(SHARES)} shares for {BRANCH} steps: "
        f"{grid.loss.size} branches. Gain: held-out loss of the target when staying minus that of "
        "the branch, nats/token. Intervals are over runs, drawn again within their conditions.\n"
    )


def _truths(grid: Grid) -> Iterator[str]:
    yield (
        "**Truth.** Mean gain over runs (standard deviation), how often each share is the best, "
        "and what dropping the donor costs in its own loss. Passes: over the unique text, at the "
        "end of the branch that drops the donor.\n"
    )
    head = ["condition", "step", "passes", *(f"gain of {s:g}" for s in CHANGES)]
    best = grid.loss.argmin(-1)
    cost = grid.donor_loss[..., 0] - grid.donor_loss[..., SHARES.index(STAY)]
    rows = []
    for name, mine in zip(grid.names, grid.members, strict=True):
        for p, step in enumerate(POINTS):
            gains = [grid.gain[mine, p, SHARES.index(s)] for s in CHANGES]
            counted = np.bincount(best[mine, p], minlength=len(SHARES))
            often = [f"{s:g} ×{n}" for s, n in zip(SHARES, counted, strict=True) if n]
            passes = grid.known["passes_dropped"][mine[0], p]
            rows.append([
                name, str(step), f"{passes:.1f}",
                *(f"{g.mean():+.3f} ({g.std(ddof=1):.3f})" for g in gains),
                ", ".join(often), f"{cost[mine, p].mean():+.2f}",
            ])  # fmt: skip
    yield from _lines([*head, "best share", "donor's loss"], rows)


def _correlations(grid: Grid) -> Iterator[str]:
    yield (
        f"\n**What goes with it.** Spearman's ρ, 95% intervals that hold for all {len(PREDICTORS)} "
        "predictors together: over all; within conditions (mean of them); within the same step of "
        "the same condition (mean of them), where a clock knows nothing. In bold: 0 lies outside.\n"
    )
    head = ["over all", "within conditions", "at the same step"]
    found = {name: correlations(grid, name) for name in PREDICTORS}
    for outcome in grid.outcomes:
        rows = [
            [f"{each.label} ({each.kind})", *map(_bold, found[name][outcome])]
            for name, each in PREDICTORS.items()
        ]
        yield from _lines([f"{outcome}: predictor", *head], rows)
        yield ""


def _bold(found: Estimate) -> str:
    return f"**{found.text()}**" if found.clear else found.text()


TOGETHER = 2
"""Two gains are judged: an interval holds for both."""
ALL, PLAIN = "counts, losses and states", "counts and losses"
JUDGED = {DROP: SHARES[0], MORE: SHARES[-1]}


def error_change(
    grid: Grid, foretold: Mapping[str, Foretold], name: str, than: str, share: float
) -> Estimate:
    """By how much the squared error of one set of predictors is above another's."""
    mine, other = (foretold[n].squared_error(grid, share) for n in (name, than))
    return over_runs(grid, mine - other, TOGETHER)


def regret_change(
    grid: Grid, taken: Mapping[str, NDArray[np.int64]], name: str, than: str
) -> Estimate:
    """By how much the regret of one rule is above another's."""
    return over_runs(grid, regret(grid, taken[name]) - regret(grid, taken[than]))


Both = Mapping[str, Mapping[str, Foretold]]
"""New run or new condition -> set of predictors -> predictions."""


def _errors(grid: Grid, foretold: Both) -> Iterator[str]:
    yield (
        "**Foretelling what was not learnt from.** Ridge regression (penalty chosen among the runs "
        "learnt from): error of the gain, nats/token, and how much of its variance is foretold. A "
        "new run: all other runs are known, so that every set also knows condition, step and "
        "target; a new condition: none of its runs is. The clock: mean of the condition's other "
        "runs at the same step.\n"
    )
    clock = {"the clock": Foretold(others_mean(grid, grid.gain))}
    rows = []
    for name in (*foretold["run"], *clock):
        row = [name]
        for each in ({**foretold["run"], **clock}, foretold["condition"]):
            for share in JUDGED.values():
                row.append("")
                if name in each:
                    error = each[name].squared_error(grid, share).mean()
                    whole = each[NOTHING].squared_error(grid, share).mean()
                    row[-1] = f"{np.sqrt(error):.3f} ({1 - error / whole:.0%})"
        rows.append(row)
    heads = [f"{gain}, new {new}" for new in foretold for gain in JUDGED]
    yield from _lines(["predictors", *heads], rows)
    yield ""


def _choices(grid: Grid, foretold: Both) -> Iterator[str]:
    yield (
        "**Choosing the share.** Regret: loss at the share that a rule takes above the loss at the "
        "best of the four, mean over branch points. The best fixed share and the clock have seen "
        f"the condition's other runs only. The cap of {PASSES} passes is a rule for whole runs: "
        "asked here, it leaves a target that has had its passes nothing of what is left, and "
        "forgetting costs more than reading once more.\n"
    )
    taken = {name: (name, rules(grid, foretold["run"])) for name in rules(grid, {})}
    for new, each in foretold.items():
        chosen = rules(grid, each)
        taken |= {f"{n}, new {new}": (n, chosen) for n in chosen if n not in taken}
    rows = []
    for told, (name, chosen) in taken.items():
        lost = regret(grid, chosen[name])
        parts = [f"{lost[mine].mean():.3f}" for mine in grid.members]
        against = "" if name == FIXED else regret_change(grid, chosen, name, FIXED).text(3)
        rows.append([told, f"{lost.mean():.3f}", against, *parts])
    yield from _lines(["rule", "regret", f"against {FIXED}", *grid.names], rows)
    yield ""


def _verdict(grid: Grid, foretold: Both) -> Iterator[str]:
    yield (
        "**What is added.** Change of the squared error (intervals hold for both gains together) "
        "and of the regret; the conditions are these, a new one may differ more.\n"
    )
    for new, each in foretold.items():
        taken = rules(grid, each)
        for name, than in ((ALL, PLAIN), ("counts and states", "counts"), (PLAIN, "counts")):
            errors = [
                f"{outcome} {error_change(grid, each, name, than, share).text(4)}"
                for outcome, share in JUDGED.items()
            ]
            lost = regret_change(grid, taken, f"learnt from {name}", f"learnt from {than}")
            yield (
                f"- new {new}: {name}, against {than}: error on {', '.join(errors)}; regret "
                f"{lost.text(4)}"
            )
    said = "; ".join(f"new {new}: {states_verdict(grid, each)}" for new, each in foretold.items())
    yield (
        f"\nInternal states: {said}. Rule: added to counts and losses, they prescribe if the error "
        "on a gain falls (upper end of the interval below 0) and the regret of the choice, too, by "
        f"{MATTERS} nats/token and more; they foretell if only the error falls; else stages "
        "describe, they do not prescribe.\n"
    )
    yield (
        f"Phases: {phases_verdict(grid, foretold['run'])}. Rule: a choice at every branch point by "
        f"counts or losses has clearly less regret than the {FIXED}, by {MATTERS} nats/token and "
        "more."
    )


def states_verdict(grid: Grid, foretold: Mapping[str, Foretold]) -> str:
    """Do internal states tell what counts and losses do not?"""
    if min(map(len, grid.members)) < LEAST:
        return "**not resolved** (too few runs)"
    changes = [error_change(grid, foretold, ALL, PLAIN, share) for share in JUDGED.values()]
    taken = rules(grid, foretold)
    lost = regret_change(grid, taken, f"learnt from {ALL}", f"learnt from {PLAIN}")
    if not any(change.high < 0 for change in changes):
        return "**stages describe, they do not prescribe**"
    if lost.high < 0 and lost.value <= -MATTERS:
        return "**internal states prescribe**"
    return "**internal states foretell the gain, but choose no better**"


def phases_verdict(grid: Grid, foretold: Mapping[str, Foretold]) -> str:
    """Does changing the share along the run by a rule beat the best share that never changes?"""
    if min(map(len, grid.members)) < LEAST:
        return "**not resolved** (too few runs)"
    taken = rules(grid, foretold)
    simple = ("learnt from counts", f"learnt from {PLAIN}", f"cap of {PASSES} passes")
    found = {name: regret_change(grid, taken, name, FIXED) for name in simple}
    told = "; ".join(f"{name} {change.text(3)}" for name, change in found.items())
    clear = [change.value for change in found.values() if change.high < 0]
    word = "are not shown to pay"
    if clear:
        word = "pay" if min(clear) <= -MATTERS else f"pay less than {MATTERS} nats/token"
    return f"**phases {word}** ({told})"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for line in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(line)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "store", "table"))
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("series", type=Path, nargs="?")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    if given.what == "run":
        torch.set_num_threads(1)
        run(given.out, make_labs(given.series), given.worker, given.workers)
    elif given.what == "store":
        store(given.out)
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
