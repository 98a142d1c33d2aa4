"""Corpus mixtures: a corpus table and measured curves in, token shares to train on out.

A proposer is a small function of (evidence, corpus, budget) that returns a `Proposal`; the table
`PROPOSERS` names them and `propose` runs them all, so that the default (`epoch_cap`) always
stands beside the source paper's Algorithm 1 (`babel_tower`: Chen et al. 2024, arXiv 2412.07298)
and the plain baselines. The canonical unit is the *token share*: the fraction of the training
tokens that is a language's. Every proposal obeys the same limits (`Budget`) and says how many
passes over each language's unique tokens it implies.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import rel_entr

from checkpoints.errors import UserError

Floats = NDArray[np.float64]

SCHEMA_VERSION = 1
COLUMNS = ("language", "tokens", "mean_tokens_per_example", "path")
TOLERANCE = 1e-9
"""How far shares may be from summing to one, and a share from its limit (rounding only)."""
LEAST_PRIMARY = 0.05
"""Below this share of the primary at the best checkpoint, Algorithm 1 says nothing."""
LOSS_NOISE = 0.05
"""nats/token; two runs of one recipe differ by less (sd .017 a run, two of them, 2 sigma)."""
UNITS = {
    "token_share": "fraction of the training tokens; sums to 1 over languages",
    "low": "lower end of the interval of token_share (what it spans: proposals[].interval)",
    "high": "upper end of the interval of token_share",
    "epochs": "passes over the language's unique tokens within the budget",
    "tokens": "training tokens of the language within the budget",
    "kl_to_natural": "nats, sum of share * ln(share / natural share)",
    "budget.tokens": "training tokens",
    "corpus.tokens": "unique tokens available",
}


@dataclass(frozen=True)
class Source:
    """One language's corpus, a row of the corpus table."""

    language: str
    tokens: float
    """Unique (deduplicated) tokens available."""
    mean_tokens_per_example: float
    """As the trainer sees an example: after truncation, where it truncates."""
    path: str
    """Absolute, or with a scheme such as s3://."""


@dataclass(frozen=True)
class Corpus:
    """The corpus table: one source per language."""

    sources: tuple[Source, ...]

    def __getitem__(self, language: str) -> Source:
        """Return the source of `language`; KeyError where the table has none."""
        return {source.language: source for source in self.sources}[language]

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages in the order of the table."""
        return tuple(source.language for source in self.sources)


@dataclass(frozen=True)
class Trajectory:
    """One measure of one language along the checkpoints."""

    language: str
    step: NDArray[np.int64]
    """[s], ascending."""
    tokens: Floats
    """[s], tokens of the language seen; 0 before its first token, NaN where unknown."""
    value: Floats
    """[s], NaN where undefined."""
    replicates: Floats
    """[B, s], bootstrap over documents; row b of every measure has drawn the same documents."""


@dataclass(frozen=True)
class Evidence:
    """What was measured along a series, as far as a proposer may use it."""

    primary: str
    languages: tuple[str, ...]
    """Every language of the mixture, the primary among them."""
    loss: Mapping[str, Trajectory] = field(default_factory=dict)
    """Held-out loss, nats/token."""
    accuracy: Mapping[str, Trajectory] = field(default_factory=dict)
    """Next-token accuracy."""
    metric: Mapping[str, Trajectory] = field(default_factory=dict)
    """An external score, larger is better; stands in for accuracy where a language has it."""
    primary_share: Mapping[str, Trajectory] = field(default_factory=dict)
    """Measured share of the primary in the language's working language (S_wl)."""
    starts_on_primary_only: bool = True
    """Whether the run was trained on the primary alone before the mix."""
    tokens_seen: Mapping[str, float] | None = None
    """Training tokens per language, where known: the prior mix; else the available tokens are."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The languages that are not the primary."""
        return tuple(language for language in self.languages if language != self.primary)


@dataclass(frozen=True)
class Budget:
    """What a mixture has to satisfy."""

    tokens: float
    """Training tokens of the run that is planned."""
    max_passes: float = 40.0
    """Most passes over any language's unique tokens. The default is where repeating stopped
    paying at all in Muennighoff et al. 2023 (arXiv 2305.16264)."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Token shares that are not up for proposal."""


@dataclass(frozen=True)
class Weight:
    """One language's part of a proposal; numbers are NaN where the proposal does not apply."""

    token_share: float
    low: float
    high: float
    epochs: float
    """Passes over the unique tokens."""
    tokens: float
    """Training tokens."""
    reason: str


@dataclass(frozen=True)
class Proposal:
    """A mixture, or a named reason why there is none."""

    proposer: str
    applies: bool
    reason: str
    """One sentence about the whole: how the shares came about, or why there are none."""
    interval: str
    """What `low` and `high` of the weights span."""
    weights: Mapping[str, Weight]
    kl_to_natural: float
    """nats; infinite where a language of the proposal has no share in the natural mix."""
    warnings: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Token share of every language."""
        return {language: weight.token_share for language, weight in self.weights.items()}


@dataclass(frozen=True)
class Mixture:
    """Everything that mixture.json holds."""

    primary: str
    default: str
    """Proposer whose mixture is the one to train on."""
    budget: Budget
    corpus: Corpus
    proposals: tuple[Proposal, ...]

    def proposal(self, proposer: str | None = None) -> Proposal:
        """Return the proposal of `proposer` (None: the default one); UserError if there is none."""
        wanted = proposer or self.default
        for proposal in self.proposals:
            if proposal.proposer == wanted:
                return proposal
        known = ", ".join(p.proposer for p in self.proposals)
        raise UserError(f"no mixture was proposed by {wanted!r}: choose one of {known}")


Proposer = Callable[[Evidence, Corpus, Budget], Proposal]


def count_text(number: float) -> str:
    """Three significant digits with a unit: 24k, 1.6M."""
    for unit in ("", "k", "M", "B"):
        if float(f"{number:.3g}") < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def percent_text(share: float) -> str:
    """A share as a percentage, with a decimal only below 10%."""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}"


def read_corpus(path: str | Path, languages: Sequence[str] = ()) -> Corpus:
    """Read a corpus table: CSV where the name ends in .csv, else JSON lines.

    Relative paths in the table start at its own folder. UserError, with the line, for a missing or
    unreadable file, missing columns, numbers that are not positive, a language given twice, and
    one of `languages` lacking.
    """
    file = Path(path)
    rows = _rows(file)
    if not rows:
        raise UserError(f"corpus table {file} is empty: give one row per language")
    sources = tuple(_source(row, f"{file}, line {line}", file.parent) for line, row in rows)
    for index, source in enumerate(sources):
        if source.language in {earlier.language for earlier in sources[:index]}:
            raise UserError(
                f"{file}, line {rows[index][0]}: language {source.language!r} is given twice: "
                "merge its rows"
            )
    _all_present(sources, languages, f"corpus table {file}")
    return Corpus(sources)


def _rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        why = error.strerror or "unreadable"
        raise UserError(f"cannot read the corpus table {file} ({why}): check its path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"corpus table {file} is not UTF-8 text: save it as UTF-8") from error
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
        return [(reader.line_num, dict(row)) for row in reader]
    lines = enumerate(text.split("\n"), start=1)
    return [(line, _object(raw, f"{file}, line {line}")) for line, raw in lines if raw.strip()]


def _object(raw: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}): give one object per line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object: give one object per line")
    return row


def _source(row: Mapping[str, Any], where: str, folder: Path) -> Source:
    missing = [name for name in COLUMNS if row.get(name) in (None, "")]
    if missing:
        raise UserError(f"{where}: no {', '.join(missing)}: every row needs {', '.join(COLUMNS)}")
    for name in ("language", "path"):
        if not isinstance(row[name], str):
            raise UserError(f"{where}: {name} is {row[name]!r}: give a text")
    return Source(
        language=row["language"],
        tokens=_positive(row["tokens"], f"{where}: tokens"),
        mean_tokens_per_example=_positive(
            row["mean_tokens_per_example"], f"{where}: mean_tokens_per_example"
        ),
        path=row["path"] if "://" in row["path"] else str((folder / row["path"]).absolute()),
    )


def _positive(raw: object, what: str) -> float:
    try:
        number = float(raw) if isinstance(raw, (str, int, float)) else math.nan
    except ValueError:
        number = math.nan
    if isinstance(raw, bool) or not (math.isfinite(number) and number > 0):
        raise UserError(f"{what} is {raw!r}: give a positive number")
    return number


def _all_present(sources: Sequence[Source], languages: Sequence[str], table: str) -> None:
    lacking = [name for name in languages if name not in {s.language for s in sources}]
    if lacking:
        raise UserError(f"{table} has no row for {', '.join(lacking)}: add one row per language")


@dataclass(frozen=True)
class _Limits:
    """Evidence, corpus and budget as checked arrays over the languages [L]."""

    languages: tuple[str, ...]
    budget: float
    max_passes: float
    available: Floats
    """Unique tokens."""
    caps: Floats
    """Largest share that `max_passes` passes can fill."""
    fixed: Floats
    """Fixed shares; NaN where free."""
    prior: Floats
    """Natural shares."""

    def fit(self, wanted: Floats) -> Floats:
        """Shares within the limits that are nearest to `wanted` [L].

        argmin KL(s || wanted) under s <= caps, s = fixed where fixed and sum(s) = 1. By the
        optimality conditions the free shares are min(cap, c * wanted) with one c that spends
        what the fixed ones leave. Languages wanted at 0 stay there unless all others are at their
        caps; then they share what is left in proportion to their caps.
        """
        free = np.isnan(self.fixed)
        shares: Floats = np.where(free, 0.0, self.fixed)
        shares[free] = _fill(wanted[free], self.caps[free], 1.0 - float(shares.sum()))
        return shares


def _fill(wanted: Floats, caps: Floats, mass: float) -> Floats:
    shares: Floats = np.zeros(len(wanted))
    below = wanted > 0
    while below.any():
        # A language at its cap leaves more for the others, so c only grows: none comes back.
        scaled = max(0.0, mass - shares.sum()) * (wanted / wanted[below].sum())
        over = below & (scaled >= caps)
        if not over.any():
            shares[below] = scaled[below]
            return shares
        shares[over] = caps[over]
        below &= ~over
    rest, spare = max(0.0, mass - shares.sum()), wanted <= 0
    if spare.any():
        shares[spare] = rest * caps[spare] / caps[spare].sum()
    return shares


def _limits(evidence: Evidence, corpus: Corpus, budget: Budget) -> _Limits:
    """Check everything a user can get wrong, once for all proposers (UserError)."""
    languages = evidence.languages
    if len(languages) < 2:
        only = ", ".join(languages) or "none"
        raise UserError(f"a mixture needs at least two languages (tracked: {only}): track another")
    if evidence.primary not in languages:
        raise UserError(
            f"primary language {evidence.primary!r} is not among {', '.join(languages)}: "
            "choose one of them"
        )
    _all_present(corpus.sources, languages, "the corpus table")
    tokens = _positive(budget.tokens, "the mixture's budget in tokens")
    passes = _positive(budget.max_passes, "the mixture's largest number of passes")
    available = np.array([corpus[language].tokens for language in languages])
    fixed = np.array([budget.fixed.get(language, math.nan) for language in languages])
    limits = _Limits(
        languages=languages,
        budget=tokens,
        max_passes=passes,
        available=available,
        caps=np.minimum(1.0, passes * available / tokens),
        fixed=fixed,
        prior=_prior(evidence, available),
    )
    _check_budget(limits)
    _check_fixed(limits, budget.fixed)
    return limits


def _prior(evidence: Evidence, available: Floats) -> Floats:
    tokens = available
    if evidence.tokens_seen is not None:
        tokens = np.array([evidence.tokens_seen.get(name, 0.0) for name in evidence.languages])
    if not (np.isfinite(tokens).all() and (tokens >= 0).all() and tokens.sum() > 0):
        raise UserError(
            f"tokens seen per language are {tokens.tolist()}: give non-negative numbers, at least "
            "one above 0"
        )
    shares: Floats = tokens / tokens.sum()
    return shares


def _check_budget(limits: _Limits) -> None:
    unique = float(limits.available.sum())
    if limits.max_passes * unique < limits.budget * (1 - TOLERANCE):
        raise UserError(
            f"a budget of {count_text(limits.budget)} tokens is more than {limits.max_passes:g} "
            f"passes over the corpus's {count_text(unique)} unique tokens: lower the budget, add "
            "text or allow more passes"
        )


def _check_fixed(limits: _Limits, fixed: Mapping[str, float]) -> None:
    unknown = [language for language in fixed if language not in limits.languages]
    if unknown:
        known = ", ".join(limits.languages)
        raise UserError(f"fixed share for {', '.join(unknown)}: not among the languages {known}")
    for language, share, cap in zip(limits.languages, limits.fixed, limits.caps, strict=True):
        if language in fixed and not 0 <= share <= 1:
            raise UserError(f"fixed share of {language} is {share:g}: give a fraction of 1")
        if share > cap + TOLERANCE:
            raise UserError(
                f"fixed share of {language} is {percent_text(share)}, but "
                f"{limits.max_passes:g} passes over its unique tokens fill only "
                f"{percent_text(cap)} of the budget: lower one or allow more passes"
            )
    free = np.isnan(limits.fixed)
    rest = 1.0 - float(np.nansum(limits.fixed))
    if rest < -TOLERANCE or (rest > TOLERANCE and not free.any()):
        raise UserError(
            f"fixed shares sum to {1 - rest:.4g}: they must not exceed 1, and equal 1 where every "
            "language is fixed"
        )
    if rest > limits.caps[free].sum() + TOLERANCE:
        raise UserError(
            f"fixed shares leave {percent_text(rest)} of the budget to "
            f"{', '.join(np.array(limits.languages)[free])}, more than {limits.max_passes:g} "
            "passes over their unique tokens: raise the fixed shares or allow more passes"
        )


@dataclass(frozen=True)
class Passes:
    """How often unique text may be read before another pass costs more than it brings."""

    best: float
    low: float
    high: float


PASSES = {"loss": Passes(16, 8, 24), "accuracy": Passes(24, 20, 30)}
"""By outcome. Measured on small models (optima from 8 to 20 passes for the loss, 20 to 30 for
accuracy); 16 is about 1 + R* ln(1/k), R* = 15.4 (Muennighoff et al. 2023) and k = .38, the worth
of a primary token in target tokens: a prior to validate, not a law."""


def _proposal(
    proposer: str,
    limits: _Limits,
    wanted: Floats,
    reasons: Sequence[str],
    about: str,
    *,
    spread: Floats | None = None,
    interval: str = "none: the shares follow from the corpus table alone",
    warnings: Sequence[str] = (),
) -> Proposal:
    """Bring `wanted` [L] within the limits and say everything about it; `spread` is [n, L]."""
    shares = limits.fit(wanted)
    rows = shares[None] if spread is None else np.vstack([shares, spread])
    epochs = shares * limits.budget / limits.available
    weights = {
        language: Weight(
            token_share=float(shares[i]),
            low=float(rows[:, i].min()),
            high=float(rows[:, i].max()),
            epochs=float(epochs[i]),
            tokens=float(shares[i] * limits.budget),
            reason=_bounded(reasons[i], i, shares, wanted, limits),
        )
        for i, language in enumerate(limits.languages)
    }
    often = PASSES["loss"].high
    repeated = [
        f"{language} is read {epoch:.0f} times: above {often:g} passes loss rose in experiments"
        for language, epoch in zip(limits.languages, epochs, strict=True)
        if epoch > often + TOLERANCE
    ]
    return Proposal(
        proposer=proposer,
        applies=True,
        reason=about,
        interval=interval,
        weights=weights,
        # Rounding can bring the sum of a mix with itself a hair below 0.
        kl_to_natural=max(0.0, float(rel_entr(shares, limits.prior).sum())),
        warnings=(*warnings, *repeated),
    )


def _bounded(reason: str, i: int, shares: Floats, wanted: Floats, limits: _Limits) -> str:
    if not math.isnan(limits.fixed[i]):
        return f"fixed at {percent_text(shares[i])} by the settings"
    if abs(shares[i] - wanted[i] / wanted.sum()) <= TOLERANCE:
        return reason
    if shares[i] >= limits.caps[i] - TOLERANCE:
        return f"{reason}; held at the limit of {limits.max_passes:g} passes"
    return f"{reason}; {percent_text(shares[i])} after the limits on other languages"


def _not_applicable(
    proposer: str,
    limits: _Limits,
    evidence: Evidence,
    reasons: Sequence[str],
    warnings: Sequence[str],
) -> Proposal:
    words = dict(zip(limits.languages, reasons, strict=True))
    why = "does not apply: " + "; ".join(words[language] for language in evidence.targets)
    words[evidence.primary] = "no target language has an answer"
    blank = (math.nan,) * 5
    weights = {language: Weight(*blank, reason) for language, reason in words.items()}
    return Proposal(proposer, False, why, "none", weights, math.nan, tuple(warnings))


def epoch_cap(
    evidence: Evidence, corpus: Corpus, budget: Budget, outcome: str = "loss"
) -> Proposal:
    """As much of every other language as `e*` passes over its unique tokens; the rest primary.

    `s_c = min(1, e* U_c / B)` with `U_c` unique tokens and the budget `B`. Where these sum to more
    than one they are divided by their sum and the primary gets none. `e*` is `PASSES[outcome]`;
    the interval is what the shares span over its range. Assumes that the primary helps at all,
    which nothing here tests. UserError: an unknown outcome, and what `_limits` refuses.
    """
    if outcome not in PASSES:
        raise UserError(f"unknown outcome {outcome!r}: choose one of {', '.join(PASSES)}")
    limits, passes = _limits(evidence, corpus, budget), PASSES[outcome]
    primary = evidence.languages.index(evidence.primary)
    wanted = _cap_shares(limits, primary, passes.best)
    # The primary's share need not be monotone in e* once limits bind, hence a grid.
    grid = np.linspace(passes.low, passes.high, 33)
    caution = (
        f"assumes that {evidence.primary} helps the other languages: not tested here"
        if wanted[primary]
        else f"{evidence.primary} gets no tokens: fix its share if the model must keep it"
    )
    return _proposal(
        "epoch_cap",
        limits,
        wanted,
        [_cap_reason(limits, i, primary, passes.best) for i in range(len(limits.languages))],
        f"at most {passes.best:g} passes over the unique tokens of every language but "
        f"{evidence.primary}, which takes the rest",
        spread=np.stack([limits.fit(_cap_shares(limits, primary, e)) for e in grid]),
        interval=f"shares over {passes.low:g} to {passes.high:g} passes",
        warnings=(caution,),
    )


def _cap_shares(limits: _Limits, primary: int, passes: float) -> Floats:
    """Shares [L] of the formula of `epoch_cap`, in what fixed shares leave of the budget."""
    free = np.isnan(limits.fixed)
    fixed: Floats = np.where(free, 0.0, limits.fixed)
    fill: Floats = np.where(free, np.minimum(1.0, passes * limits.available / limits.budget), 0.0)
    fill[primary] = 0.0
    left, total = 1.0 - float(fixed.sum()), float(fill.sum())
    if total >= left or not free[primary]:
        return fixed + fill * (left / total if total else 0.0)
    fixed[primary] = left - total
    return fixed + fill


def _cap_reason(limits: _Limits, i: int, primary: int, passes: float) -> str:
    language, budget = limits.languages[i], count_text(limits.budget)
    share = _cap_shares(limits, primary, passes)
    if i != primary:
        fills = passes * limits.available[i] / limits.budget
        reason = (
            f"{count_text(limits.available[i])} unique {language} tokens: {passes:g} passes fill "
            f"{percent_text(fills)} of the {budget}-token budget"
        )
        return reason if share[primary] else f"{reason}; it gets {percent_text(share[i])}"
    if not share[primary]:
        return (
            f"the other languages fill the {budget}-token budget within {passes:g} passes: add no "
            f"{language} data"
        )
    epochs = share[primary] * limits.budget / limits.available[primary]
    return (
        f"{language} takes the other {percent_text(share[primary])} of the {budget}-token budget: "
        f"{epochs:.2g} passes over its {count_text(limits.available[primary])} unique tokens"
    )


def natural(evidence: Evidence, corpus: Corpus, budget: Budget) -> Proposal:
    """Shares proportional to the tokens the run has seen, else to the tokens available."""
    limits = _limits(evidence, corpus, budget)
    what = "available tokens" if evidence.tokens_seen is None else "tokens the run has seen"
    reasons = [f"{percent_text(share)} of the {what}" for share in limits.prior]
    return _proposal("natural", limits, limits.prior, reasons, f"in proportion to the {what}")


def uniform(evidence: Evidence, corpus: Corpus, budget: Budget) -> Proposal:
    """Equal token shares."""
    limits = _limits(evidence, corpus, budget)
    number = len(limits.languages)
    reasons = [f"one of {number} languages with equal shares"] * number
    return _proposal("uniform", limits, np.full(number, 1 / number), reasons, "equal token shares")


def temperature(
    evidence: Evidence, corpus: Corpus, budget: Budget, exponent: float = 0.3
) -> Proposal:
    """Natural shares to a power, normalised: `s ∝ natural^τ`, between uniform (0) and natural (1).

    UserError: an exponent outside [0, 1], and what `_limits` refuses.
    """
    if not 0 <= exponent <= 1:
        raise UserError(f"temperature exponent is {exponent:g}: give a number from 0 to 1")
    limits = _limits(evidence, corpus, budget)
    wanted = np.where(limits.prior > 0, limits.prior**exponent, 0.0)
    reasons = [f"natural share {percent_text(p)} to the power {exponent:g}" for p in limits.prior]
    about = f"natural shares to the power {exponent:g}"
    return _proposal("temperature", limits, wanted / wanted.sum(), reasons, about)


@dataclass(frozen=True)
class Reading:
    """What Algorithm 1 reads for one language at its best checkpoint."""

    share: Floats
    """[1 + B] primary's share P at j*, of the curves and of each replicate; NaN: no answer."""
    reason: str
    """In words: where P was read, or why there is no answer."""


def babel_tower(
    evidence: Evidence, corpus: Corpus, budget: Budget, measured: bool | None = None
) -> Proposal:
    """Algorithm 1 of Chen et al. 2024 (arXiv 2412.07298), for several targets at once.

    For each target c: `P_j = 1 - (α - l_j) / (α - β)` with `α` the loss where the run leaves the
    primary-only model, `β` the lowest one after that (so `P = 1` at the start and 0 at the lowest
    loss); `j*` maximises the external metric if given, else accuracy; the new tokens are
    `η_c = η_p (1 - P_j*) / P_j*`, the other languages keep theirs, and all are normalised to the
    budget. **Choices**: `η` before the change are the natural tokens; P is clipped to [0, 1] (a
    loss above its start has no share); ties of `j*` go to the earliest checkpoint.

    It says nothing for a language where the fall of the loss is within noise, the best checkpoint
    is the first or the last one, or `P_j* < 0.05`; that language keeps its natural tokens. Where
    it says nothing for any, the proposal does not apply. `measured=True` (None: where the series
    did not start on the primary alone) reads P from the measured working language instead.
    Interval: 2.5% to 97.5% of the same computation on bootstrap replicates of the documents.
    """
    limits = _limits(evidence, corpus, budget)
    internal = not evidence.starts_on_primary_only if measured is None else measured
    readings = [
        Reading(np.array([math.nan]), f"{language} is the primary and keeps its tokens")
        if language == evidence.primary
        else _read(evidence, language, internal)
        for language in evidence.languages
    ]
    reasons = [reading.reason for reading in readings]
    answered = [i for i, reading in enumerate(readings) if not math.isnan(reading.share[0])]
    basis = "the measured working language" if internal else "the loss"
    warnings = [f"P is read from {basis}"] if internal else []
    if not answered:
        return _not_applicable("babel_tower", limits, evidence, reasons, warnings)
    draws = _tower_shares(limits, readings, evidence.languages.index(evidence.primary))
    spread = np.stack([limits.fit(row) for row in draws[1:]]) if len(draws) > 1 else None
    return _proposal(
        "babel_tower",
        limits,
        draws[0],
        reasons,
        f"token shares that equal the shares of the internal system, read from {basis}",
        spread=None if spread is None else np.quantile(spread, (0.025, 0.975), axis=0),
        interval="none: no replicates"
        if spread is None
        else "95% of bootstrap replicates over documents",
        warnings=(*warnings, *_tower_warnings(evidence, readings, answered)),
    )


def _tower_shares(limits: _Limits, readings: Sequence[Reading], primary: int) -> Floats:
    """Shares [1 + B, L] of Algorithm 1 before limits; a language without answer is natural."""
    sizes = [len(reading.share) for reading in readings if len(reading.share) > 1]
    number = min(sizes, default=1)
    tokens: Floats = np.tile(limits.prior, (number, 1))
    for i, reading in enumerate(readings):
        single = len(reading.share) == 1
        share = np.repeat(reading.share, number) if single else reading.share[:number]
        found = ~np.isnan(share)
        tokens[found, i] = limits.prior[primary] * (1 - share[found]) / share[found]
    tokens /= tokens.sum(axis=1, keepdims=True)
    return tokens


def _tower_warnings(
    evidence: Evidence, readings: Sequence[Reading], answered: Sequence[int]
) -> list[str]:
    warnings = ["Algorithm 1 does not look at how much text there is to repeat"]
    for i, language in enumerate(evidence.languages):
        if language == evidence.primary:
            continue
        if i not in answered:
            warnings.append(f"no answer for {language}, which keeps its natural tokens")
        elif len(readings[i].share) > 1:
            held = float(np.mean(~np.isnan(readings[i].share[1:])))
            if held < 0.9:
                warnings.append(
                    f"for {language} it applies in only {percent_text(held)} of the replicates"
                )
    return warnings


def _read(evidence: Evidence, language: str, internal: bool) -> Reading:
    """P at the best checkpoint of `language`, with its replicates, or the reason for none."""
    what = "the external metric" if language in evidence.metric else "accuracy"
    score = evidence.metric.get(language) or evidence.accuracy.get(language)
    state = (evidence.primary_share if internal else evidence.loss).get(language)
    if state is None or score is None:
        return _silent(_unmeasured(evidence, language, internal, state is None))
    number = min((len(c.replicates) for c in (state, score) if len(c.replicates)), default=0)
    start = 0 if internal else _switch(state)
    steps, states = _draws(state, number, start)
    scored, scores = _draws(score, number)
    common, here, there = np.intersect1d(steps, scored, return_indices=True)
    if len(common) < 3:
        return _silent(f"fewer than 3 checkpoints of {language} to read a best one from")
    if not internal and _within_noise(states):
        return _silent(f"the loss of {language} falls by no more than noise")
    shares = (np.clip(states, 0.0, 1.0) if internal else _loss_shares(states))[:, here]
    best = scores[:, there].argmax(axis=1)
    share = shares[np.arange(len(best)), best]
    point = float(share[0])
    refusal = _refusal(language, evidence.primary, what, common, int(best[0]), point)
    if refusal:
        return _silent(refusal)
    reason = (
        f"{what} in {language} peaks at step {common[best[0]]}, where {evidence.primary} carries "
        f"{percent_text(point)} of the system: {(1 - point) / point:.2g} {language} tokens per "
        f"{evidence.primary} token"
    )
    if not internal and state.tokens[start] > 0:
        reason += f"; no checkpoint precedes the first {language} token, so the first is the start"
    whole = ~(np.isnan(states).any(axis=1) | np.isnan(scores[:, there]).any(axis=1))
    inside = whole & (best > 0) & (best < len(common) - 1) & (share >= LEAST_PRIMARY)
    return Reading(np.where(inside, share, math.nan), reason)


def _unmeasured(evidence: Evidence, language: str, internal: bool, state: bool) -> str:
    if not state:
        return f"no accuracy was measured for {language}"
    if not internal:
        return f"no loss was measured for {language}"
    lacking = f"no working-language share was measured for {language}"
    if evidence.starts_on_primary_only:
        return lacking
    return f"the run did not start on {evidence.primary} alone and {lacking}"


def _silent(reason: str) -> Reading:
    return Reading(np.array([math.nan]), reason)


def _refusal(
    language: str, primary: str, what: str, steps: NDArray[np.int64], best: int, share: float
) -> str:
    if best == len(steps) - 1:
        return f"{what} in {language} still rises at the last checkpoint (step {steps[-1]})"
    if best == 0:
        return f"{what} in {language} is never above its start (step {steps[0]})"
    if share < LEAST_PRIMARY:
        return (
            f"at the best checkpoint of {language} (step {steps[best]}) {primary} carries only "
            f"{percent_text(share)} of the system, below {percent_text(LEAST_PRIMARY)}"
        )
    return ""


def _switch(curve: Trajectory) -> int:
    """Index of the last checkpoint before the language's first token, else of the first one."""
    before = np.flatnonzero(curve.tokens <= 0)
    return int(before[-1]) if before.size else 0


def _draws(curve: Trajectory, number: int, start: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Steps [k] where the curve is defined, and the curve above its replicates, [1 + B, k]."""
    # A measure without replicates (an external metric) is the same in every draw of the others.
    rows = curve.replicates[:number] if len(curve.replicates) else np.tile(curve.value, (number, 1))
    kept = start + np.flatnonzero(~np.isnan(curve.value[start:]))
    return curve.step[kept], np.vstack([curve.value, rows])[:, kept]


def _loss_shares(loss: Floats) -> Floats:
    """P [1 + B, k] from the loss: 1 at the start, 0 at the lowest; see `babel_tower`."""
    start, lowest = loss[:, :1], loss.min(axis=1, keepdims=True)
    # A replicate without any fall has learnt nothing: its system is the primary's.
    fall = np.where(start > lowest, start - lowest, np.inf)
    shares: Floats = np.clip(1.0 - (start - loss) / fall, 0.0, 1.0)
    return shares


def _within_noise(loss: Floats) -> bool:
    # The same two checkpoints in every draw: a minimum per draw would always lie below its start.
    fall = loss[:, 0] - loss[:, loss[0].argmin()]
    drawn = fall[1:][~np.isnan(fall[1:])]
    least = float(np.quantile(drawn, 0.025)) if drawn.size else float(fall[0])
    return bool(fall[0] < LOSS_NOISE or least <= 0)


PROPOSERS: dict[str, Proposer] = {
    "epoch_cap": epoch_cap,
    "babel_tower": babel_tower,
    "natural": natural,
    "uniform": uniform,
    "temperature": temperature,
}


def propose(
    evidence: Evidence,
    corpus: Corpus,
    budget: Budget,
    proposers: Mapping[str, Proposer] = PROPOSERS,
    default: str = "epoch_cap",
) -> Mixture:
    """Run every proposer. UserError for an unknown default and for limits that cannot be met."""
    if default not in proposers:
        raise UserError(f"unknown proposer {default!r}: choose one of {', '.join(proposers)}")
    extra = [name for name in corpus.languages if name not in evidence.languages]
    left_out = (f"not tracked, so left out: {', '.join(extra)}",) if extra else ()
    made = (proposer(evidence, corpus, budget) for proposer in proposers.values())
    return Mixture(
        primary=evidence.primary,
        default=default,
        budget=budget,
        corpus=Corpus(tuple(s for s in corpus.sources if s.language in evidence.languages)),
        proposals=tuple(replace(p, warnings=(*p.warnings, *left_out)) for p in made),
    )


def table(proposals: Sequence[Proposal]) -> pd.DataFrame:
    """One row per proposer and language."""
    rows = [
        (
            p.proposer,
            language,
            w.token_share,
            w.low,
            w.high,
            w.epochs,
            w.tokens,
            p.applies,
            w.reason,
        )
        for p in proposals
        for language, w in p.weights.items()
    ]
    columns = ["proposer", "language", "token_share", "low", "high", "epochs", "tokens"]
    return pd.DataFrame(rows, columns=[*columns, "applies", "reason"])


def to_json(mixture: Mixture) -> str:
    """Return the text of mixture.json; numbers that do not exist are null."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "units": UNITS,
        "primary": mixture.primary,
        "default": mixture.default,
        "budget": asdict(mixture.budget),
        "corpus": [asdict(source) for source in mixture.corpus.sources],
        "proposals": [_nulls(asdict(proposal)) for proposal in mixture.proposals],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str) -> Mixture:
    """Re-read the text of mixture.json.

    UserError: not JSON, another schema version, missing or unknown fields, or shares that do not
    sum to one.
    """
    try:
        content = json.loads(text)
        version = content["schema_version"]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError("not a mixture file: no JSON object with a schema_version") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"mixture file has schema version {version!r}, this version reads {SCHEMA_VERSION}: "
            "propose the mixture again"
        )
    try:
        mixture = _mixture(content)
        totals = {p.proposer: sum(p.shares.values()) for p in mixture.proposals if p.applies}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"mixture file is damaged ({error}): propose the mixture again") from error
    for proposer, total in totals.items():
        if not abs(total - 1) <= TOLERANCE:
            raise UserError(
                f"shares of {proposer} in the mixture file sum to {total:.6g}, not to 1: propose "
                "the mixture again"
            )
    return mixture


def _mixture(content: Mapping[str, Any]) -> Mixture:
    return Mixture(
        primary=content["primary"],
        default=content["default"],
        budget=Budget(**content["budget"]),
        corpus=Corpus(tuple(Source(**source) for source in content["corpus"])),
        proposals=tuple(_read_proposal(proposal) for proposal in content["proposals"]),
    )


def _read_proposal(row: Mapping[str, Any]) -> Proposal:
    # An applicable proposal without a distance is one with a language the natural mix lacks.
    absent = math.inf if row["applies"] else math.nan
    numbers = {"kl_to_natural": absent if row["kl_to_natural"] is None else row["kl_to_natural"]}
    weights = {language: _read_weight(weight) for language, weight in row["weights"].items()}
    return Proposal(**{**row, **numbers, "weights": weights, "warnings": tuple(row["warnings"])})


def _read_weight(row: Mapping[str, Any]) -> Weight:
    values: dict[str, Any] = {name: math.nan if v is None else v for name, v in row.items()}
    return Weight(**values)
