"""What interventions did, from their records alone: tables with intervals and controls.

A record is read by what it holds, not by the name of the intervention: whatever keeps the loss per
arm and document (`tracker.interventions.arms.Effects`) gets the table of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from analysis.curves import bootstrap_weights
from tracker import store
from tracker.store import Record

Floats = NDArray[np.float64]

CHANGE_COLUMNS = (
    "step", "tokens", "edit", "target", "number", "size", "language", "written", "place",
    "statistic", "value", "low", "high", "unit",
)  # fmt: skip

LEVEL = (0.025, 0.975)


@dataclass(frozen=True)
class Intervened:
    """The records of one intervention with one set of settings, ascending by step."""

    folder: Path
    name: str
    records: tuple[Record, ...]
    replicates: int = 1000
    seed: int = 0

    @property
    def digest(self) -> str:
        """What tells these settings from others, as the folder's name has it."""
        return self.folder.name.rpartition("-")[2]

    @property
    def settings(self) -> str:
        """The intervention with its settings."""
        return str(self.records[-1].attributes["intervention"])

    def has(self, variable: str) -> bool:
        """Whether every record holds a variable."""
        return all(r.get(f"{self.name}/{variable}") is not None for r in self.records)

    @property
    def paths(self) -> pd.DataFrame | None:
        """Gain and forgetting along the training runs of `freeze`; None for what trains none."""
        return freezing_paths(self) if self.has("freeze_arm") else None

    @cached_property
    def losses(self) -> tuple[dict[str, _Losses], ...]:
        """Language -> loss under every arm, per record."""
        return tuple(dict(_losses(record, self)) for record in self.records)

    @cached_property
    def table(self) -> pd.DataFrame:
        """What was found, one row per statistic; empty where no table reads such a record."""
        parts = [t(self) for needed, t in TABLES.items() if self.has(needed)]
        full = [part for part in parts if len(part)]
        return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def load_interventions(
    folder: str | Path, replicates: int = 1000, seed: int = 0
) -> list[Intervened]:
    """Every intervention in a run's folder, by name."""
    found = []
    for place in sorted((Path(folder) / store.INTERVENTIONS).glob("*-*")):
        files = sorted(place.glob("step-*.h5"), key=store.record_step)
        if files:
            name = place.name.rpartition("-")[0]
            records = tuple(store.read_record(file) for file in files)
            found.append(Intervened(place, name, records, replicates, seed))
    return found


def labels(found: Sequence[Intervened]) -> list[str]:
    """A name for each: its own, with the settings' digest where there are several of one name."""
    names = [each.name for each in found]
    return [
        each.name if names.count(each.name) == 1 else f"{each.name}-{each.digest}" for each in found
    ]


SAID = ("excess", "evidence_excess", "ratio", "share_steered", "forgetting_excess")
"""Statistics that are said in words."""


def sentences(table: pd.DataFrame) -> list[str]:
    """The last step's findings, one line per change: its excess over the random controls."""
    if table.empty:
        return []
    last = table[table["step"] == table["step"].max()]
    said = []
    for row in last[last["statistic"].isin(SAID)].itertuples():
        if row.target in ("", row.language) and row.place != "middle":
            said.append(_sentence(row))
    return said


def _sentence(row: Any) -> str:
    number = f" #{row.number}" if row.number else ""
    what = f"step {row.step}, {row.edit}{number}"
    value = f"{row.value:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"
    if row.statistic == "ratio":
        return f"{what} of {row.language}: {value} of the rise without all important units"
    if row.statistic == "evidence_excess":
        word = "the primary's" if row.written == "primary" else "its own"
        return f"{what} of {row.language}: {value} logits for {word} right word, over random"
    if row.statistic == "share_steered":
        return f"{what}: {row.value:.2f} [{row.low:.2f}, {row.high:.2f}] written in {row.language}"
    if row.statistic == "forgetting_excess":
        return f"{what} frozen: {value} nats/token of {row.language} forgotten, against free"
    whose = f" of {row.target}" if row.target else ""
    return f"{what}{whose}: {value} nats/token on {row.language}, over random"


def _facts(record: Record) -> dict[str, Any]:
    tokens = np.nan if record.tokens is None else record.tokens
    return {"step": record.step, "tokens": tokens}


@dataclass(frozen=True)
class _Arm:
    """One change with its random controls, as rows of the record's arrays."""

    edit: str
    target: str
    number: int
    size: float
    row: int
    controls: tuple[int, ...]

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "edit": self.edit,
            "target": self.target,
            "number": self.number,
            "size": self.size,
        }


def _arms(record: Record, group: str) -> Iterator[_Arm]:
    """Every change, in the order of the record."""
    names = ("arm_edit", "arm_target", "arm_number", "arm_control")
    edit, target, number, control = (record[f"{group}/{n}"].tolist() for n in names)
    keys = list(zip(edit, target, number, strict=True))
    for row, key in enumerate(keys):
        if control[row] < 0 and edit[row] != "none":
            others = [i for i, k in enumerate(keys) if k == key and control[i] >= 0]
            size = float(record[f"{group}/arm_size"][row])
            yield _Arm(*key, size=size, row=row, controls=tuple(others))


def changes(found: Intervened) -> pd.DataFrame:
    """Change of the loss (nats/token) per arm and language, against no change and against controls.

    `perplexity_before`, `perplexity`: `exp` of the loss, without and under the change.

    `before`: the loss without any change. `change`: loss under the change minus before. `control`:
    mean of the random controls' changes; its range runs from the smallest to the largest control.
    `excess`: change minus mean control. Intervals resample documents (95%), the same ones under
    every arm; which random sets were drawn is not in them, which is what the controls' range shows.
    """
    rows = []
    for record, by_language in zip(found.records, found.losses, strict=True):
        for language, losses in by_language.items():
            for arm in _arms(record, found.name):
                known = [*losses.of(arm)]
                rows += [
                    _facts(record) | arm.facts | {"language": language, "unit": "nats/token"} | k
                    for k in known
                ]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


@dataclass(frozen=True)
class _Losses:
    """Loss of one language under every arm: the estimate and its replicates."""

    value: Floats
    """[arm] nats/token; NaN where not read."""
    drawn: Floats
    """[replicate, arm]."""

    def of(self, arm: _Arm) -> Iterator[dict[str, Any]]:
        """The statistics of one arm; none where it was not read on this language."""
        if not np.isfinite(self.value[arm.row]):
            return
        before = self.value[0], self.drawn[:, 0]
        change = self.value[arm.row] - before[0], self.drawn[:, arm.row] - before[1]
        yield _statistic("before", *before)
        for name, row in (("perplexity_before", 0), ("perplexity", arm.row)):
            found = _statistic(name, np.exp(self.value[row]), np.exp(self.drawn[:, row]))
            yield found | {"unit": "perplexity"}
        yield _statistic("change", *change)
        if not arm.controls:
            return
        columns = list(arm.controls)
        each = self.value[columns] - before[0]
        drawn = self.drawn[:, columns].mean(1) - before[1]
        low, high = float(each.min()), float(each.max())
        yield {"statistic": "control", "value": float(each.mean()), "low": low, "high": high}
        yield _statistic("excess", change[0] - float(each.mean()), change[1] - drawn)


def _statistic(name: str, value: float, drawn: Floats) -> dict[str, Any]:
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, LEVEL) if known.size else (np.nan, np.nan)
    return {"statistic": name, "value": float(value), "low": float(low), "high": float(high)}


def _losses(record: Record, found: Intervened) -> Iterator[tuple[str, _Losses]]:
    """Loss per arm of every language, over the same resampled documents."""
    nll = record[f"{found.name}/nll"].astype(np.float64)
    tokens = record[f"{found.name}/token_count"].astype(np.float64)
    label = record[f"{found.name}/document_language"]
    for c, language in enumerate(dict.fromkeys(map(str, label))):
        mine = (label == language) & (tokens > 0)
        if not mine.any():
            continue
        weights = bootstrap_weights(int(mine.sum()), found.replicates, found.seed + 2 * c)
        total = weights @ tokens[mine]
        value = nll[:, mine].sum(1) / tokens[mine].sum()
        drawn = weights @ nll[:, mine].T / total[:, None]
        yield language, _Losses(value, drawn)


def evidence_changes(found: Intervened) -> pd.DataFrame:
    """Change of the evidence for the right word (logits), like `changes`.

    Read where an arm's own target language is read. Intervals: jackknife over the folds of
    documents, Student's t.
    """
    rows = []
    for record in found.records:
        group = found.name
        languages = record[f"{group}/language"].tolist()
        value = record[f"{group}/evidence"].astype(np.float64)
        without = record[f"{group}/evidence_without"].astype(np.float64)
        whole = np.concatenate([value[..., None], without], axis=-1)
        for arm in _arms(record, group):
            if arm.target not in languages:
                continue
            c = languages.index(arm.target)
            for x, written in enumerate(record[f"{group}/written_language"]):
                for p, place in enumerate(record[f"{group}/lens_place"]):
                    facts = _facts(record) | arm.facts | {
                        "language": arm.target, "written": written, "place": place,
                        "unit": "logits",
                    }  # fmt: skip
                    rows += [facts | k for k in _evidence(whole[:, c, x, p], arm)]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _evidence(whole: Floats, arm: _Arm) -> Iterator[dict[str, Any]]:
    """Statistics of one arm from [arm, whole and without each fold]."""
    if not np.isfinite(whole[[0, arm.row]]).all():
        return
    before, change = whole[0], whole[arm.row] - whole[0]
    yield _jackknife("evidence_before", before)
    yield _jackknife("evidence_change", change)
    if arm.controls:
        each = whole[list(arm.controls)] - whole[0]
        middle = float(each[:, 0].mean())
        low, high = float(each[:, 0].min()), float(each[:, 0].max())
        yield {"statistic": "evidence_control", "value": middle, "low": low, "high": high}
        yield _jackknife("evidence_excess", change - each.mean(0))


def _jackknife(name: str, whole: Floats) -> dict[str, Any]:
    """Interval of an estimate [0] from its leave-one-fold-out values [1:]."""
    value, without = float(whole[0]), whole[1:]
    n = len(without)
    spread = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = float(student.ppf(LEVEL[1], n - 1) * spread)
    return {"statistic": name, "value": value, "low": value - half, "high": value + half}


def shared_ratios(found: Intervened) -> pd.DataFrame:
    """`ΔNLL_c(edit off) / ΔNLL_c(N_c off)` for every edit of `ablate_shared`.

    NaN, with its interval, where a ratio of noise would say nothing: where taking all of `N_c` away
    does not clearly raise the loss of `c` (its interval reaches 0), or random units, as many as are
    shared, move the loss more than half as far. `ratio_difference`: the shared units that have an
    equally important partner minus these partners, which are the language's own.
    """
    rows = []
    for record, losses in zip(found.records, found.losses, strict=True):
        arms = {(a.edit, a.target): a for a in _arms(record, found.name)}
        for (edit, target), arm in arms.items():
            if edit == "language" or ("language", target) not in arms:
                continue
            loss, base = losses[target], arms["language", target].row
            drawn = loss.drawn - loss.drawn[:, [0]]
            value = loss.value - loss.value[0]
            columns = {"ratio": [arm.row]}
            if arm.controls:
                columns["ratio_control"] = list(arm.controls)
            random = list(arms["shared", target].controls) if ("shared", target) in arms else []
            noise = abs(float(value[random].mean())) if random else 0.0
            clear = np.quantile(drawn[:, base], LEVEL[0]) > 0 and noise < 0.5 * value[base]
            for name, column in columns.items():
                found_here = _statistic(
                    name,
                    float(value[column].mean() / value[base]) if clear else np.nan,
                    drawn[:, column].mean(1) / (drawn[:, base] if clear else np.nan),
                )
                facts = _facts(record) | arm.facts | {"language": target, "unit": "share"}
                rows.append(facts | found_here)
            own = arms.get(("unshared_matched", target))
            if edit == "shared_matched" and own is not None and clear:
                apart = drawn[:, arm.row] - drawn[:, own.row]
                apart_here = (value[arm.row] - value[own.row]) / value[base]
                difference = _statistic("ratio_difference", apart_here, apart / drawn[:, base])
                rows.append(facts | difference)
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def steered(found: Intervened) -> pd.DataFrame:
    """Language of what is written (share of the distinctive tokens) before and under steering.

    `edit` is the direction, `language` the language of the tokens; `share_control` runs from the
    smallest to the largest random control, the other intervals resample prompts (95%).
    """
    rows = []
    for record in found.records:
        group = found.name
        names = ("arm_source", "arm_target", "arm_control", "arm_size", "distinctive_count")
        source, target, control, size, count = (record[f"{group}/{n}"] for n in names)
        weights = bootstrap_weights(count.shape[1], found.replicates, found.seed)
        value = _shares(count.sum(1).astype(np.float64))
        drawn = _shares(np.einsum("bp,apl->bal", weights, count).astype(np.float64))
        for row in np.flatnonzero((target != "") & (control < 0)):
            plain = int(np.flatnonzero((source == source[row]) & (target == ""))[0])
            pair = (source == source[row]) & (target == target[row])
            random = np.flatnonzero(pair & (control >= 0))
            facts = _facts(record) | {
                "edit": f"{source[row]} to {target[row]}", "target": target[row], "number": 0,
                "size": float(size[row]), "unit": "share",
            }  # fmt: skip
            for c, language in enumerate(record[f"{group}/decoded_language"]):
                here = [
                    _statistic("share_before", value[plain, c], drawn[:, plain, c]),
                    _statistic("share_steered", value[row, c], drawn[:, row, c]),
                ]
                if len(random):
                    here.append(_range("share_control", value[random, c]))
                rows += [facts | {"language": language} | one for one in here]
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _range(name: str, each: Floats) -> dict[str, Any]:
    """Mean of several controls, and the smallest and largest of them."""
    found = {"value": float(each.mean()), "low": float(each.min()), "high": float(each.max())}
    return {"statistic": name} | found


def _shares(count: Floats) -> Floats:
    """Counts [..., language] as shares; NaN where nothing distinctive was written."""
    total = count.sum(-1, keepdims=True)
    share: Floats = np.divide(count, total, out=np.full(count.shape, np.nan), where=total > 0)
    return share


PATH_COLUMNS = ("step", "arm", "seed", "training_step", "language", "gain", "forgetting")


def freezing_paths(found: Intervened) -> pd.DataFrame:
    """Gain on the new language and forgetting of each other one along every training run.

    Both in nats/token against the start: a gain is a fall of the loss, forgetting a rise.
    """
    rows = []
    for record in found.records:
        names = ("nll", "token_count", "document_language", "freeze_arm", "seed", "training_step")
        nll, tokens, label, arms, seeds, steps = (record[f"{found.name}/{n}"] for n in names)
        new = str(record[f"{found.name}/new_language"])
        change = {}
        for language in dict.fromkeys(map(str, label)):
            mine = (label == language) & (tokens > 0)
            loss = nll[..., mine].sum(-1, dtype=np.float64) / tokens[mine].sum()
            change[language] = loss - loss[..., :1]
        for a, s, t in np.ndindex(len(arms), len(seeds), len(steps)):
            rows += [
                (record.step, str(arms[a]), int(seeds[s]), int(steps[t]), language,
                 -change[new][a, s, t], change[language][a, s, t])
                for language in change if language != new
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(PATH_COLUMNS))


def frozen(found: Intervened) -> pd.DataFrame:
    """Forgetting at equal gain: nats/token by which each old language's loss has risen.

    Read, by linear interpolation between evaluations, where every arm of a seed has gained as much
    on the new language as the arm that gained least did at its best. `forgetting`: mean over
    seeds; `forgetting_excess`: minus that of free training. Intervals: Student's t over seeds.
    """
    paths = freezing_paths(found)
    rows = []
    for record in found.records:
        arms = [str(arm) for arm in record[f"{found.name}/freeze_arm"]]
        sizes = record[f"{found.name}/frozen_count"].sum(1)
        mine = paths[paths["step"] == record.step]
        for language, here in mine.groupby("language", sort=False):
            at = _at_equal_gain(here, arms)
            for arm, size in zip(arms, sizes, strict=True):
                facts = _facts(record) | {
                    "edit": arm, "target": "", "number": 0, "size": float(size),
                    "language": language, "unit": "nats/token",
                }  # fmt: skip
                rows.append(facts | _over_seeds("forgetting", at[arm]))
                if arm != "free":
                    rows.append(facts | _over_seeds("forgetting_excess", at[arm] - at["free"]))
    return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS))


def _at_equal_gain(here: pd.DataFrame, arms: Sequence[str]) -> dict[str, Floats]:
    """Arm -> [seed] forgetting of one language, where all arms of a seed have gained as much."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for _, seed in here.groupby("seed"):
        common = float(seed.groupby("arm")["gain"].max().min())
        for arm in arms:
            found[arm].append(_forgotten(seed[seed["arm"] == arm], common))
    return {arm: np.array(values) for arm, values in found.items()}


def _forgotten(path: pd.DataFrame, gain: float) -> float:
    """Forgetting where the path first has that gain."""
    ordered = path.sort_values("training_step")
    best = np.maximum.accumulate(ordered["gain"].to_numpy(dtype=np.float64))
    first = np.concatenate([[True], np.diff(best) > 0])
    return float(np.interp(gain, best[first], ordered["forgetting"].to_numpy()[first]))


def _over_seeds(name: str, values: Floats) -> dict[str, Any]:
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return {"statistic": name, "value": mean, "low": np.nan, "high": np.nan}
    half = float(student.ppf(LEVEL[1], n - 1) * values.std(ddof=1) / np.sqrt(n))
    return {"statistic": name, "value": mean, "low": mean - half, "high": mean + half}


TABLES: Mapping[str, Callable[[Intervened], pd.DataFrame]] = {
    "arm_number": changes,
    "evidence": evidence_changes,
    "arm_importance": shared_ratios,
    "distinctive_count": steered,
    "freeze_arm": frozen,
}
"""A variable that a record holds -> the table that reads it."""
