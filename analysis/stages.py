"""Stages of a fitted curve: translation, transition, stabilization; and lags between curves.

Translation lasts until 10% of the fall is done, the transition until 90%, stabilization follows:
for the logistic the boundaries are `u_mid -+ w ln 9` (our choice). A performance curve that rises,
declines and levels off, the curve on which the Babel Tower paper defines its stages, has its peak
and its plateau as boundaries instead. What the data do not reach is said, not extrapolated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.curves import (
    UNKNOWN,
    Fit,
    Interval,
    Outcome,
    as_logistic,
    quantile_interval,
)
from analysis.noise import Array

OVER_BEFORE = "translation over before the first checkpoint"
NOT_REACHED = "stabilization not reached"
GRID = 200
"""Points of a fitted curve in the table"""


@dataclass(frozen=True, eq=False)
class Stages:
    """When the stages of one curve end, in x; NaN where nothing was announced."""

    fit: Fit
    translation_end: Interval
    """10% of the fall; NaN before the first checkpoint, its lower end then too"""
    transition_end: Interval
    """90% of the fall; NaN beyond the last checkpoint, as is an upper end out there"""
    notes: tuple[str, ...]
    """`translation over before the first checkpoint`, `stabilization not reached`"""

    def sentence(self) -> str:
        """One plain line: `php: split at 1.9e5 tokens [1.2e5, 2.6e5]`."""
        fit = self.fit
        if not fit.announced:
            return f"{fit.curve.language}: no split found ({fit.reason})"
        what = "split"
        if fit.outcome is Outcome.TRANSITION:
            what = f"transition of {fit.curve.measure.replace('_', ' ')}"
        mid = fit.x_mid
        unit = fit.curve.x_label.split()[0]
        found = f"{what} at {number(mid.value)} {unit} [{number(mid.low)}, {number(mid.high)}]"
        return "; ".join([f"{fit.curve.language}: {found}", *self.notes])


def stages(fit: Fit) -> Stages:
    """Boundaries of a fit with their 95% intervals."""
    if not fit.announced:
        return Stages(fit, UNKNOWN, UNKNOWN, ())
    u = fit.axis.u(fit.curve.x[fit.curve.usable])
    first, last = float(u[0]), float(u[-1])
    early, late = _boundaries(fit, fit.parameters[None])
    before, after = _boundaries(fit, fit.replicates)
    begin = quantile_interval(float(early[0]), before)
    end = quantile_interval(float(late[0]), after)
    notes = [OVER_BEFORE] * (begin.value < first) + [NOT_REACHED] * (end.value > last)
    return Stages(
        fit, _inside(fit, begin, first, last), _inside(fit, end, first, last), tuple(notes)
    )


def _boundaries(fit: Fit, parameters: Array) -> tuple[Array, Array]:
    """u of 10% and 90% of the fall, each [r]."""
    _, _, u_mid, w = as_logistic(fit.model, parameters).T
    return u_mid - w * np.log(9), u_mid + w * np.log(9)


def _inside(fit: Fit, u: Interval, first: float, last: float) -> Interval:
    """An interval of u in x, with NaN for what lies outside the data."""
    ends = [v if first - 1e-12 <= v <= last + 1e-12 else np.nan for v in (u.value, u.low, u.high)]
    return Interval(*(float(x) for x in np.maximum(fit.axis.x(np.array(ends)), 0.0)))


def lag(a: Fit, b: Fit) -> Interval:
    """How much later the midpoint of `b` is than that of `a`, in octaves of x: log2(x_b / x_a).

    The interval pairs refits by their row: the same documents were drawn for both, so what the
    documents have in common cancels; checkpoint noise of the two counts as independent. NaN where
    either midpoint is not announced. A midpoint is taken to be at least half the smallest positive
    x, before which an octave has no meaning.
    """
    assert a.curve.x_label == b.curve.x_label, f"{a.curve.x_label} against {b.curve.x_label}"
    if not (a.announced and b.announced):
        return UNKNOWN
    rows = min(len(a.replicates), len(b.replicates))
    spread = _octaves(b, b.replicates[:rows]) - _octaves(a, a.replicates[:rows])
    value = _octaves(b, b.parameters[None]) - _octaves(a, a.parameters[None])
    return quantile_interval(float(value[0]), spread)


def _octaves(fit: Fit, parameters: Array) -> Array:
    """log2 of the midpoints in x, [r]."""
    x = fit.axis.x(as_logistic(fit.model, parameters)[:, 2])
    return np.asarray(np.log2(np.maximum(x, fit.axis.x1 / 2)))


def rows(fit: Fit, stages: Stages) -> list[dict[str, Any]]:
    """Rows of the table of stages: one per statistic, or a single one where nothing splits."""
    curve = fit.curve
    head = {
        "measure": curve.measure,
        "language": curve.language,
        "outcome": str(fit.outcome),
        "reason": str(fit.reason),
    }
    if not fit.announced:
        return [{**head, **_row("", UNKNOWN, "")}]
    statistics = [
        _row("start_level", fit.start_level, curve.unit),
        _row("end_level", fit.end_level, curve.unit),
        _row("translation_end", stages.translation_end, curve.x_label),
        _row("midpoint", fit.x_mid, curve.x_label),
        _row("transition_end", stages.transition_end, curve.x_label),
        _row("width", fit.u_width, "decades"),
        _row("transition_width", fit.x_width, curve.x_label),
        _row("r_squared", _alone(fit.r_squared), ""),
        _row("p_value", _alone(fit.p_value), ""),
        *[_row(f"aicc_{model}", _alone(value), "") for model, value in fit.aicc.items()],
        _row("checkpoint_noise", _alone(fit.tau), curve.unit),
        _row("checkpoint_autocorrelation", _alone(fit.rho), ""),
        _row("checkpoints_fitted", _alone(fit.used), "count"),
        _row("checkpoints_unformed", _alone(fit.unformed), "count"),
        _row("checkpoints_undefined", _alone(fit.undefined), "count"),
    ]
    return [{**head, **row} for row in statistics]


def _row(statistic: str, found: Interval, unit: str) -> dict[str, Any]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {"statistic": statistic, **ends, "unit": unit}


def _alone(value: float) -> Interval:
    return Interval(float(value), np.nan, np.nan)


def fit_rows(fit: Fit) -> list[dict[str, Any]]:
    """Rows of the table of fitted curves: a fine grid over the fitted points, even in u."""
    if not fit.announced:
        return []
    u = fit.axis.u(fit.curve.x[fit.curve.usable])
    x = np.maximum(fit.axis.x(np.linspace(u[0], u[-1], GRID)), 0.0)
    low, high = fit.band(x)
    head = {"measure": fit.curve.measure, "language": fit.curve.language, "model": fit.model}
    names = ("x", "value", "low", "high")
    columns = zip(x, fit.predict(x), low, high, strict=True)
    return [{**head, **dict(zip(names, map(float, row), strict=True))} for row in columns]


def number(value: float) -> str:
    """Two digits as a person writes them: `1.9e5`, below ten thousand `440`, `2.3`."""
    if not np.isfinite(value):
        return "?"
    if abs(value) < 1e4:
        rounded = float(f"{value:.2g}")
        return f"{rounded:.0f}" if abs(rounded) >= 10 else f"{rounded:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
