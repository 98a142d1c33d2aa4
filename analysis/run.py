"""A run's records as tidy tables: `load_run(path)` and what can be asked of it.

from analysis import load_run
run = load_run("runs/demo/3f2a...")
run.curves()            # one row per measure, language and checkpoint
run.stages()            # has it split, when, how sure
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.angles import turns
from analysis.curves import Curve, Fit, fit
from analysis.knowledge import PRIMARY_ONLY, SHARED
from analysis.lags import Lag, lags
from analysis.lineage import Step, lineage
from analysis.measured import Fitted, Measure, Measured, Weights
from analysis.measures import AGAINST_PRIMARY, SETS, measures_of
from analysis.stages import Stages, fit_rows, stages
from analysis.stages import rows as stage_rows
from analysis.transfer import table as transfer_table
from checkpoints.errors import UserError
from tracker import store
from tracker.neurons import NeuronSet, change
from tracker.store import Record

Floats = NDArray[np.float64]

HEAVY = (
    *(
        f"neurons/{name}"
        for name in (
            "activation_count", "activation_sum", "activation_count_fold", "activation_sum_fold",
            "importance", "importance_fold", "evidence", "evidence_primary", "lape",
        )
    ),
    *(
        f"regions/{name}"
        for name in ("region_mask", "mask_byte", "row_count", "column_count")
    ),
    "subspaces/language_mean",
)  # fmt: skip
"""What curves and figures do not read: left on disk."""

CURVE_COLUMNS = (
    "measure", "language", "step", "tokens", "x", "x_unit", "value", "low", "high", "unit",
    "formed", "chance", "ceiling", "note",
)  # fmt: skip
STAGE_COLUMNS = (
    "measure", "reference", "language", "outcome", "reason", "statistic", "value", "low", "high",
    "unit",
)  # fmt: skip
"""`reference` is empty but for lags: how much later the measure is than the reference."""
FIT_COLUMNS = ("measure", "language", "model", "x", "value", "low", "high")
LAYER_COLUMNS = (
    "language", "step", "tokens", "x", "hidden_layer", "depth", "share", "specificity",
)  # fmt: skip
ANGLE_COLUMNS = (
    "step_before", "step", "hidden_layer", "largest_angle", "overlap", "random_overlap",
)  # fmt: skip
SET_COLUMNS = ("set", "language", "layer", "step", "tokens", "x", "count", "births", "deaths")


def load_run(path: str | Path, replicates: int = 1000, seed: int = 0) -> Run:
    """Read the records of a run's folder, without those of steps that are left out as suspects.

    Such records are there where the steps were tracked before they were known to be suspects, or
    with `series.suspects=keep`; the last tracking of the run says what holds (`run.json`).

    Args:
        path: The folder with `records/`.
        replicates: Bootstrap replicates over documents.
        seed: Of the bootstrap.

    Raises:
        UserError: No such folder, or no record in it.
    """
    folder = Path(path)
    found = (folder / store.RECORDS).glob("step-*.h5")
    left_out = {int(step) for step in store.read_plan(folder).get("suspects", ())}
    kept = [file for file in found if store.record_step(file) not in left_out]
    files = sorted(kept, key=store.record_step)
    if not files:
        raise UserError(f"{folder}: no records in it (records/step-*.h5); run task=track first")
    records = tuple(store.read_record(file, skip=HEAVY) for file in files)
    digests = {str(r.attributes["config_sha256"]) for r in records}
    if len(digests) > 1:
        raise UserError(
            f"{folder}: its records come from {len(digests)} different configurations; "
            "point run_dir at a folder of its own"
        )
    return Run(folder, records, replicates, seed)


@dataclass(frozen=True)
class Run:
    """The records of one run, ascending by step, and the tables made of them."""

    folder: Path
    records: tuple[Record, ...]
    replicates: int
    seed: int

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in the order of the records."""
        return tuple(map(str, self.records[0]["performance/language"]))

    @property
    def primary(self) -> str:
        """The primary language."""
        return str(self.records[0].attributes["primary"])

    @property
    def steps(self) -> NDArray[np.int64]:
        """[s] steps."""
        return np.array([r.step for r in self.records], np.int64)

    @property
    def tokens(self) -> Floats:
        """[s] tokens seen, NaN where unknown."""
        known = [np.nan if r.tokens is None else r.tokens for r in self.records]
        return np.array(known, np.float64)

    @cached_property
    def tokens_seen(self) -> Floats:
        """[language, s] tokens of each language seen, NaN where unknown."""
        seen = np.stack([r["performance/tokens_seen"] for r in self.records], 1).astype(float)
        seen[seen < 0] = np.nan
        return seen

    @property
    def measures(self) -> list[str]:
        """Names of the measures that all records hold."""
        return list(self._measured)

    def axis(self, language: str) -> tuple[Floats, str]:
        """`x` [s] and its unit: tokens of the language, else all tokens, else steps (methods 8)."""
        seen = self.tokens_seen[self.languages.index(language)]
        if np.isfinite(seen).all():
            return seen, f"tokens of {language} seen"
        if np.isfinite(self.tokens).all():
            return self.tokens, "tokens seen"
        return self.steps.astype(np.float64), "steps"

    @cached_property
    def weights(self) -> Weights:
        """The bootstrap's draw."""
        return Weights.draw(self.records[0], self.replicates, self.seed)

    @cached_property
    def _measures(self) -> dict[str, Measure]:
        return measures_of(self.records[0])

    @cached_property
    def _measured(self) -> dict[str, tuple[Measured, ...]]:
        found = {}
        for name, measure in self._measures.items():
            values = [measure.read(record, self.weights) for record in self.records]
            known = tuple(v for v in values if v is not None)
            if len(known) == len(values):
                found[name] = known
        return found

    @cached_property
    def formed(self) -> NDArray[np.bool_]:
        """[language, s] false where the checkpoint knows neither the language nor the primary.

        Unformed: the loss on the language is above its unigram entropy and so is the primary's.
        """
        loss = np.stack([m.value for m in self._measured["loss"]], 1)
        entropy = self.records[0]["performance/unigram_entropy"].astype(float)
        above = ~(loss <= entropy[:, None])
        formed: NDArray[np.bool_] = ~(above & above[self.languages.index(self.primary)])
        return formed

    def curve(self, measure: str, language: str) -> Curve:
        """One measure of one language along the checkpoints."""
        c = self.languages.index(language)
        points = self._measured[measure]
        x, unit = self.axis(language)
        ceiling = [p.ceiling[c] for p in points if p.ceiling is not None]
        chance = self._measures[measure].chance
        if points[0].chance is not None and np.isfinite(points[0].chance[c]):
            chance = float(points[0].chance[c])
        return Curve(
            measure=measure,
            language=language,
            unit=self._measures[measure].unit,
            step=self.steps,
            x=x,
            x_label=unit,
            value=np.array([p.value[c] for p in points], np.float64),
            replicates=np.stack([p.replicates[:, c] for p in points], 1).astype(np.float64),
            formed=self.formed[c],
            chance=chance,
            ceiling=np.array(ceiling, np.float64) if ceiling else None,
            performance=self._measures[measure].fitted == "performance",
        )

    def curves(self) -> pd.DataFrame:
        """Every measure: one row per measure, language and checkpoint; 95% over documents."""
        parts = []
        for measure, points in self._measured.items():
            for c, language in enumerate(self.languages):
                if any(np.isfinite(p.value[c]) for p in points):
                    reasons = ["" if p.reason is None else str(p.reason[c]) for p in points]
                    parts.append(_curve_rows(self.curve(measure, language), self.tokens, reasons))
        return pd.concat(parts, ignore_index=True)[list(CURVE_COLUMNS)]

    def fitted_measures(self, language: str) -> list[str]:
        """The measures of whose words the model uses that curves of a language are fitted to.

        The headline ones; where the language has no working-language share at any checkpoint (no
        concept table fits), vocabulary mass takes its place.
        """
        head = self._fitted("state", language)
        if "working_language_share" not in head and "vocabulary_mass" in self._measured:
            head.insert(0, "vocabulary_mass")
        return head

    def performance_measures(self, language: str) -> list[str]:
        """The measures of how well the model does in a language, the headline first.

        The headline is next-token accuracy (**choice**: every text has it, on thousands of tokens;
        larger is better, as in the paper, and it does not follow the confidence of single tokens
        as the loss does); graded answers follow.
        """
        return self._fitted("performance", language)

    def _fitted(self, role: Fitted, language: str) -> list[str]:
        c = self.languages.index(language)
        return [
            m
            for m, points in self._measured.items()
            if self._measures[m].fitted == role and any(np.isfinite(p.value[c]) for p in points)
        ]

    def fit_keys(self) -> list[tuple[str, str]]:
        """(measure, language) of everything that is fitted: all languages but the primary."""
        return [
            (measure, language)
            for language in self.languages
            if language != self.primary
            for measure in self.fitted_measures(language) + self.performance_measures(language)
        ]

    @cached_property
    def _fits(self) -> dict[tuple[str, str], tuple[Fit, Stages]]:
        return {}

    def each_fit(self) -> Iterator[tuple[str, str]]:
        """Fit curve after curve; (measure, language) of each as it is done."""
        for measure, language in self.fit_keys():
            self.fit_of(measure, language)
            yield measure, language

    def fit_of(self, measure: str, language: str) -> tuple[Fit, Stages]:
        """The fit and the stages of one measure of one language, made once."""
        if (measure, language) not in self._fits:
            curve = self.curve(measure, language)
            result = fit(curve, replicates=self.replicates, seed=self._fit_seed)
            self._fits[measure, language] = result, stages(result)
        return self._fits[measure, language]

    @cached_property
    def _fit_seed(self) -> int:
        """Of the checkpoint noise in refits: another one in every run, of the same documents.

        Else the refits of several seeds of a series would share their noise, too.
        """
        loss = np.ascontiguousarray(self.records[-1]["performance/nll"])
        return zlib.crc32(loss.tobytes(), self.seed)

    @property
    def fits(self) -> dict[tuple[str, str], tuple[Fit, Stages]]:
        """(measure, language) -> fit and stages, for every language but the primary."""
        return {key: self._fits[key] for key in self.each_fit()}

    def stages(self) -> pd.DataFrame:
        """Outcome and statistics of every fit, one row per statistic; then the lags."""
        rows = [row for f, s in self.fits.values() for row in stage_rows(f, s)]
        rows += [each.row() for each in self.each_lag()]
        return pd.DataFrame(rows, columns=list(STAGE_COLUMNS))

    def each_lag(self) -> list[Lag]:
        """Lags between the curves of each language, see `_pairs`."""
        fits = self.fits
        found = []
        for language in self.languages:
            mine = {m: f for (m, c), (f, _) in fits.items() if c == language}
            if mine:
                states = self.fitted_measures(language)
                found += lags(mine, _pairs(states, self.performance_measures(language)))
        return found

    def lags(self) -> pd.DataFrame:
        """Which curve of a language comes first and by how many octaves of x, as in `stages()`."""
        return pd.DataFrame([each.row() for each in self.each_lag()], columns=list(STAGE_COLUMNS))

    def fit_curves(self) -> pd.DataFrame:
        """The fitted curves on a fine grid of x, where a split is announced."""
        rows = [row for f, _ in self.fits.values() for row in fit_rows(f)]
        return pd.DataFrame(rows, columns=list(FIT_COLUMNS))

    def sentences(self) -> list[str]:
        """One line per language on its first fitted measure, e.g. `php: split at 1.9e5 tokens`."""
        return [
            s.sentence()
            for (measure, language), (_, s) in self.fits.items()
            if measure in self.fitted_measures(language)[:1]
        ]

    def layers(self) -> pd.DataFrame:
        """Working language by layer and checkpoint."""
        rows = []
        for i, record in enumerate(self.records):
            share = record.get("working_language/share")
            if share is None:
                continue
            specificity = record["working_language/specificity"]
            last = max(share.shape[1] - 1, 1)
            for c, language in enumerate(self.languages):
                if language == self.primary:
                    continue
                x = self.axis(language)[0][i]
                rows += [
                    (language, record.step, self.tokens[i], x, layer, layer / last,
                     float(share[c, layer]), float(specificity[c, layer]))
                    for layer in range(share.shape[1])
                ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(LAYER_COLUMNS))

    def sets(self) -> pd.DataFrame:
        """Neuron sets by layer and checkpoint, with births and deaths."""
        parts = [
            row
            for name, variable in SETS.items()
            if all(r.get(f"neurons/{variable}") is not None for r in self.records)
            for c, language in enumerate(self.languages)
            if language != self.primary or name not in AGAINST_PRIMARY
            for row in self._set_rows(name, variable, c, language)
        ]
        return pd.DataFrame(parts, columns=list(SET_COLUMNS))

    def lineage(self) -> pd.DataFrame:
        """Births, deaths and survival of every set, against random sets of the same size."""
        rows = []
        for name, variable in SETS.items():
            if any(r.get(f"neurons/{variable}") is None for r in self.records):
                continue
            for c, language in enumerate(self.languages):
                sets = [NeuronSet(r[f"neurons/{variable}"][c]) for r in self.records]
                rows += [
                    {"set": name, "language": language, "step": int(step), **asdict(found)}
                    for step, found in zip(self.steps[1:], lineage(sets), strict=True)
                    if language != self.primary or name not in AGAINST_PRIMARY
                ]
        return pd.DataFrame(rows, columns=["set", "language", "step", *Step.__dataclass_fields__])

    def transfer(self) -> pd.DataFrame:
        """Which language may help which: readings of every ordered pair, at every checkpoint.

        One row per reading, donor and target (`analysis.transfer`); 95% over documents where a
        reading has it.
        """
        return transfer_table(self.records, self.weights)

    def angles(self) -> pd.DataFrame:
        """How the specific subspaces turn between consecutive checkpoints, by hidden layer.

        The largest principal angle (radians), the mean squared cosine of all of them, and what it
        is between random subspaces (methods 6).
        """
        rows = [
            (turn.before, turn.after, layer, float(largest), float(turn.overlap[layer]),
             float(turn.random_overlap[layer]))
            for turn in turns(self.records)
            for layer, largest in enumerate(_largest(turn.angle))
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(ANGLE_COLUMNS))

    def _set_rows(self, name: str, variable: str, c: int, language: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        before: NeuronSet | None = None
        x = self.axis(language)[0]
        for i, record in enumerate(self.records):
            after = NeuronSet(record[f"neurons/{variable}"][c])
            nothing = np.full(len(after.mask), np.nan)
            moved = None if before is None else change(before, after)
            births = nothing if moved is None else moved.births
            deaths = nothing if moved is None else moved.deaths
            rows += [
                (name, language, layer + 1, record.step, self.tokens[i], x[i],
                 int(count), float(births[layer]), float(deaths[layer]))
                for layer, count in enumerate(after.per_layer())
            ]  # fmt: skip
            before = after
        return rows

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """What the tracker wrote about the run (`run.json`); empty for a folder without one."""
        return store.read_plan(self.folder)

    def _repr_html_(self) -> str:
        """What a notebook shows: what the run is, without fitting anything."""
        about = {
            "folder": str(self.folder),
            "series": str(self.records[-1].attributes.get("series", "")),
            "primary": self.primary,
            "languages": ", ".join(self.languages),
            "checkpoints": f"{len(self.records)} (steps {self.steps[0]} to {self.steps[-1]})",
            "tables": "curves(), stages(), lags(), fit_curves(), layers(), sets(), lineage(), "
            "angles(), transfer()",
        }
        return str(pd.Series(about).to_frame().to_html(header=False))

    def missing(self) -> dict[int, str]:
        """Step -> why there is no record."""
        return store.missing_of(self.folder, self.plan)


def _pairs(states: Sequence[str], performance: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(reference, measure) of the lags of one language.

    The working language after the neurons; the headline performance after each of them, graded
    answers after the first; and what only the primary's corpus holds after what all hold.
    """
    pairs = [(other, states[0]) for other in states[1:]]
    pairs += [(state, performance[0]) for state in states if performance]
    pairs += [(state, other) for state in states[:1] for other in performance[1:]]
    facts = (f"graded_accuracy:{SHARED}", f"graded_accuracy:{PRIMARY_ONLY}")
    return (*pairs, *([facts] if set(facts) <= set(performance) else []))


def _largest(angles: Floats) -> Floats:
    """Along the last axis, NaN where nothing is known."""
    known = np.isfinite(angles).any(-1)
    return np.where(known, np.where(np.isfinite(angles), angles, -np.inf).max(-1), np.nan)


def _curve_rows(curve: Curve, tokens: Floats, reasons: Sequence[str]) -> pd.DataFrame:
    undefined = [why or "undefined" for why in reasons]
    note = np.where(np.isnan(curve.value), undefined, np.where(curve.formed, "", "unformed"))
    low, high = _interval(curve.replicates, curve.value)
    return pd.DataFrame(
        {
            "measure": curve.measure,
            "language": curve.language,
            "step": curve.step,
            "tokens": tokens,
            "x": curve.x,
            "x_unit": curve.x_label,
            "value": curve.value,
            "low": low,
            "high": high,
            "unit": curve.unit,
            "formed": curve.formed,
            "chance": np.nan if curve.chance is None else curve.chance,
            "ceiling": np.nan if curve.ceiling is None else curve.ceiling,
            "note": note,
        }
    )


def _interval(replicates: Floats, value: Floats) -> tuple[Floats, Floats]:
    """[s] 2.5% and 97.5% quantiles; NaN where there are no replicates."""
    low, high = np.full(len(value), np.nan), np.full(len(value), np.nan)
    if len(replicates):
        known = np.isfinite(replicates).any(0) & np.isfinite(value)
        if known.any():
            low[known], high[known] = np.nanquantile(replicates[:, known], [0.025, 0.975], axis=0)
    return low, high
