"""A measure along training: does it fall like a logistic, when, and how sure.

Models in `u = log10(x + x1)`, `x1` the smallest positive x: constant, line (in u; as `drift` also
in x: a steady change per token looks like a late fall on a logarithmic axis), logistic

    S(u) = S_end + (S_start - S_end) / (1 + exp((u - u_mid) / w)),

and a hump (linear to a peak, linear to a plateau, flat), so that a curve that rises and falls is
recognised as one. AICc ranks them; a split is announced only if, besides, fewer than 5% of series
simulated from the best no-split model favour the logistic as clearly. An outcome without a split
is a result with a reason. The noise model is in `analysis.noise`.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from scipy.special import expit

from analysis.noise import (
    RHO_GRID,
    Array,
    Best,
    Family,
    Mean,
    Observed,
    aicc,
    best,
    crossed,
    noise_grid,
    p_value,
    simulate,
)

START = 0.75
"""A split starts on the primary's side: at least this share, where chance is 1/2"""
NEAR_CHANCE = 0.1
"""A start this close to chance is a start at chance"""
ALPHA = 0.05
"""Level of the bootstrap test"""
MIN_POINTS = 5
"""Formed and defined checkpoints below which nothing is fitted"""
MOVING = {True: ("logistic",), False: ("logistic", "hump")}
"""Models that are announced, by `Curve.is_primary_share`"""
MATERIAL = 0.25
"""A hump's smaller leg, as a fraction of its larger one, from which it counts as one"""
LEVELS = {"constant": 1, "line": 2, "drift": 2, "logistic": 2, "hump": 3}
"""Linear parameters of each model"""
SHAPES = {"constant": 0, "line": 0, "drift": 0, "logistic": 2, "hump": 2}
"""Non-linear parameters of each model"""


class Outcome(StrEnum):
    """What a fit found."""

    SPLIT = "split"
    TRANSITION = "transition"
    """the same shape in a measure that is not a share of the primary (a loss, a count)"""
    NO_SPLIT = "no_split"


class Reason(StrEnum):
    """Why no split is announced (or, for a transition, which shape it has)."""

    NONE = ""
    UNFORMED = "unformed throughout"
    TOO_FEW = "fewer than 5 formed checkpoints"
    TOO_FEW_FOR_LOGISTIC = "too few formed checkpoints for a logistic"
    AT_CHANCE = "starts at chance"
    NEVER_DOMINATES = "primary never dominates"
    THROUGHOUT = "primary dominates throughout"
    CONSTANT = "constant preferred"
    LINE = "line preferred"
    SPAN = "not enough span"
    HUMP = "rises and falls"
    TROUGH = "falls and rises"
    RISES = "rises"


@dataclass(frozen=True)
class Interval:
    """A value and its 95% interval; an end that the data do not bound is NaN."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True, eq=False)
class Curve:
    """One measure of one language along the checkpoints."""

    measure: str
    """e.g. `working_language_share`"""
    language: str
    unit: str
    """`share` (between 0 and 1), `nats/token`, `count`, ..."""
    step: NDArray[np.int64]
    """[s] checkpoint steps, ascending"""
    x: Array
    """[s] tokens of the language seen (or all tokens, or steps), not falling; 0 allowed"""
    x_label: str
    """what x is, its unit first: `tokens of php seen`"""
    value: Array
    """[s] NaN where undefined"""
    replicates: Array
    """[B, s] bootstrap over documents, the same documents at every checkpoint; B may be 0"""
    formed: NDArray[np.bool_]
    """[s] unformed checkpoints are left out of fits"""
    chance: float | None
    """value of an untrained model"""
    ceiling: Array | None
    """[s] the same measure on primary text"""

    def __post_init__(self) -> None:
        """Shapes, order and range; a violation is a bug of the caller, hence assertions."""
        s = self.step.shape
        assert len(s) == 1, f"step must be one-dimensional, not {s}"
        for name in ("x", "value", "formed"):
            assert getattr(self, name).shape == s, f"{name}: {getattr(self, name).shape}, not {s}"
        assert self.replicates.ndim == 2, f"replicates: {self.replicates.shape}, not [B, s]"
        assert self.replicates.shape[1:] == s, f"replicates: {self.replicates.shape}, not [B, {s}]"
        assert self.ceiling is None or self.ceiling.shape == s, "ceiling must have one value a step"
        assert (np.diff(self.step) > 0).all(), f"steps must ascend: {self.step}"
        assert np.isfinite(self.x).all(), f"x must be finite: {self.x}"
        assert (self.x >= 0).all(), f"x must not be negative: {self.x}"
        assert (np.diff(self.x) >= 0).all(), f"x must not fall: {self.x}"

    @property
    def usable(self) -> NDArray[np.bool_]:
        """[s] formed and defined: the points a fit uses."""
        return self.formed & np.isfinite(self.value)

    @property
    def is_primary_share(self) -> bool:
        """A share of the primary against another language: chance 1/2."""
        return self.unit == "share" and self.chance is not None and abs(self.chance - 0.5) < 0.05


@dataclass(frozen=True)
class Axis:
    """The logarithmic axis `u = log10(x + x1)` on which x = 0 has a place."""

    x1: float

    @classmethod
    def of(cls, x: Array) -> "Axis":
        """`x1` = the smallest positive x (1 where there is none)."""
        positive = x[x > 0]
        return cls(float(positive.min()) if len(positive) else 1.0)

    def u(self, x: Array) -> Array:
        """x to u."""
        return np.asarray(np.log10(np.asarray(x, float) + self.x1))

    def x(self, u: Array) -> Array:
        """u to x; below 0 for a u left of the data."""
        return np.asarray(10.0 ** np.asarray(u, float) - self.x1)


@dataclass(frozen=True, eq=False)
class Fit:
    """What is known about one curve; parameters are NaN where nothing is announced."""

    curve: Curve
    """what was fitted"""
    outcome: Outcome
    """split, transition, or none"""
    reason: Reason
    """why there is none; empty for a logistic"""
    model: str
    """the model of `parameters`: `logistic`, or `hump` for a transition that rises and falls"""
    aicc: Mapping[str, float]
    """model -> AICc; models with n <= k + 1 are absent"""
    p_value: float
    """parametric bootstrap of the best no-split model; NaN where nothing was left to test"""
    parameters: Array
    """logistic: S_start, S_end, u_mid, w; hump: start, peak, plateau, u_peak, u_plateau"""
    replicates: Array
    """[B, parameters] refits; row b resamples documents as row b of `Curve.replicates`"""
    start_level: Interval
    """in the curve's unit; of a hump: the peak"""
    end_level: Interval
    """in the curve's unit; of a hump: the plateau"""
    u_mid: Interval
    """log10(x + x1); of a hump: the middle of its second leg"""
    u_width: Interval
    """w in the same axis; the middle 80% of the fall spans 2 w ln 9"""
    x_mid: Interval
    """midpoint in x"""
    x_width: Interval
    """from 10% to 90% of the fall, in x"""
    r_squared: float
    """1 - residual / total sum of squares at the fitted points"""
    tau: float
    """standard deviation of checkpoint noise, in the curve's unit"""
    rho: float
    """its lag-one autocorrelation"""

    @property
    def announced(self) -> bool:
        """A midpoint is given."""
        return self.outcome is not Outcome.NO_SPLIT

    @property
    def axis(self) -> Axis:
        """The axis of u."""
        return Axis.of(self.curve.x)

    @property
    def used(self) -> int:
        """Points fitted."""
        return int(self.curve.usable.sum())

    @property
    def unformed(self) -> int:
        """Points left out as unformed."""
        return int((~self.curve.formed).sum())

    @property
    def undefined(self) -> int:
        """Formed points left out because the value is NaN."""
        return len(self.curve.formed) - self.unformed - self.used

    def predict(self, x: Array) -> Array:
        """Fitted curve at x [m]; NaN where nothing was announced."""
        return np.asarray(self._at(x, self.parameters[None])[0])

    def band(self, x: Array) -> tuple[Array, Array]:
        """Pointwise 95% limits of the fitted curve at x [m]; NaN where nothing was announced."""
        if not len(self.replicates):
            empty = np.full(np.shape(x), np.nan)
            return empty, empty
        low, high = np.nanquantile(self._at(x, self.replicates), [0.025, 0.975], axis=0)
        return low, high

    def _at(self, x: Array, parameters: Array) -> Array:
        if not self.announced:
            return np.full((len(parameters), *np.shape(x)), np.nan)
        u = self.axis.u(self.curve.x[self.curve.usable])
        span = float(u[0]), float(u[-1])
        return evaluate(self.model, self.axis.u(x), span, parameters)


def bootstrap_weights(n_units: int, replicates: int, seed: int) -> NDArray[np.int64]:
    """How often each of n documents is drawn, [B, n]; rows sum to n.

    Draw once per language and use for every measure and checkpoint, so that curves, and
    differences between curves, keep what the documents have in common.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=replicates)


# --- shapes ---------------------------------------------------------------------------------


def basis(model: str, u: Array, span: tuple[float, float], shapes: Array) -> Array:
    """Basis functions [g, m, p] at u [m] of the shapes [g, q]; `span` = first and last u fitted."""
    first, last = span
    if model == "constant":
        return np.ones((1, len(u), 1))
    if model in ("line", "drift"):
        t = (u - first) / (last - first)
        if model == "drift":
            t = (10 ** (u - last) - 10 ** (first - last)) / (1 - 10 ** (first - last))
        return np.stack([1 - t, t], axis=-1)[None]
    if model == "logistic":
        high = expit((shapes[:, :1] - u) / shapes[:, 1:])
        return np.stack([high, 1 - high], axis=-1)
    peak, plateau = shapes[:, :1], shapes[:, 1:]
    rise = np.clip((u - first) / (peak - first), 0, 1)
    fall = np.clip((u - peak) / np.maximum(plateau - peak, 1e-9), 0, 1)
    return np.stack([1 - rise, rise - fall, fall], axis=-1)


def evaluate(model: str, u: Array, span: tuple[float, float], parameters: Array) -> Array:
    """Curves [r, m] at u [m] of parameters [r, levels + shape]."""
    p = LEVELS[model]
    columns = basis(model, u, span, parameters[:, p:])
    return np.asarray((columns * parameters[:, None, :p]).sum(-1))


def _is_hump(levels: Array, bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Levels [g, 3, r] whose two legs go opposite ways and are both worth mentioning, [g, r].

    A peak at the bounds may overshoot them a little, or noise there would rule it out.
    """
    legs = np.stack([levels[:, 1] - levels[:, 0], levels[:, 1] - levels[:, 2]])
    small, large = np.abs(legs).min(axis=0), np.abs(legs).max(axis=0)
    slack = 0.05 * (bounds[1] - bounds[0])
    inside = (levels.min(axis=1) >= bounds[0] - slack) & (levels.max(axis=1) <= bounds[1] + slack)
    return np.asarray((legs[0] * legs[1] > 0) & (small >= MATERIAL * large) & inside)


@dataclass(frozen=True, eq=False)
class _Data:
    """The usable points of a curve, on the u axis."""

    u: Array
    observed: Observed
    bounds: tuple[float, float] | None
    """of the levels of a logistic or a hump"""

    @classmethod
    def of(cls, curve: Curve) -> "_Data":
        keep = curve.usable
        bounds = (0.0, 1.0) if curve.unit == "share" else None
        observed = Observed.of(curve.value[keep], curve.replicates[:, keep])
        return cls(Axis.of(curve.x).u(curve.x[keep]), observed, bounds)

    @property
    def span(self) -> tuple[float, float]:
        return float(self.u[0]), float(self.u[-1])

    def family(self, model: str, shapes: Array) -> Family:
        columns = basis(model, self.u, self.span, shapes)
        if model == "hump":
            limits = self.bounds or (-np.inf, np.inf)
            return Family(model, shapes, columns, None, lambda v: _is_hump(v, limits))
        return Family(model, shapes, columns, self.bounds if model == "logistic" else None)

    def limits(self, model: str) -> Array:
        """[q, 2] range of each shape parameter."""
        first, last = self.span
        gap = np.diff(np.unique(self.u))
        if model == "logistic":
            # Far narrower than the spacing: a step, see `_spread_unresolved`; wider: a line.
            return np.array([[first, last], [np.median(gap) / 20, (last - first) / 2]])
        return np.array([[first + gap[0] / 2, last - gap[-1] / 2], [first + gap[0], last]])

    def shapes(self, model: str, density: int = 1) -> Family:
        """A grid over the whole range of shapes, `density` times as fine in each parameter."""
        if SHAPES[model] == 0:
            return self.family(model, np.empty((1, 0)))
        (low, high), (low2, high2) = self.limits(model)
        if model == "logistic":
            axes = np.linspace(low, high, 20 * density), np.geomspace(low2, high2, 10 * density)
            return self.family(model, np.stack(crossed(*axes), axis=1))
        axes = np.linspace(low, high, 10 * density), np.linspace(low2, high2, 10 * density)
        pairs = np.stack(crossed(*axes), axis=1)
        return self.family(model, pairs[pairs[:, 1] - pairs[:, 0] > (high - low) / (20 * density)])

    def zoomed(self, found: "_Candidate", tau: float, rho: float) -> Family:
        """Shapes within 6 standard errors of the fitted one, and the whole grid for strays."""
        noise = noise_grid(self.observed.covariance, np.array([tau]), np.array([rho]))
        white = noise.whiten[0] @ found.mean.design
        p = LEVELS[found.model]
        error = np.sqrt(np.diag(np.linalg.pinv(white.T @ white)))[p:]
        axes = [
            np.clip(centre + np.linspace(-6, 6, 37) * se, low, high)
            for centre, se, (low, high) in zip(
                found.parameters[p:], error, self.limits(found.model), strict=True
            )
        ]
        near = np.stack(crossed(*axes), axis=1)
        if found.model == "hump":
            near = near[near[:, 1] > near[:, 0]]
        return self.family(found.model, np.concatenate([near, self.shapes(found.model).shapes]))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One fitted model."""

    model: str
    parameters: Array
    """levels, then shape"""
    log_likelihood: float
    aic: float
    aicc: float
    mean: Mean


def _at(data: _Data, theta: Array, family: Family) -> Best:
    """The best member of a family at the noise `theta` = log tau, rho, ..."""
    noise = noise_grid(data.observed.covariance, np.exp(theta[:1]), theta[1:2])
    return best(data.observed.y[None], family, noise)


def _fit_model(data: _Data, model: str) -> _Candidate:
    """Maximum likelihood over shape, levels, tau and rho."""
    theta = _search(data, model)
    family = data.family(model, theta[None, 2:])
    found = _at(data, theta, family)
    log_likelihood = float(found.log_likelihood[0])
    parameters = np.concatenate([found.levels[0], theta[2:]])
    mean = Mean(*_curve_and_design(data, model, parameters))
    score = float(aicc(found.log_likelihood, family.k, len(data.u))[0])
    return _Candidate(
        model, parameters, log_likelihood, 2 * family.k - 2 * log_likelihood, score, mean
    )


def _search(data: _Data, model: str) -> Array:
    """log tau, rho and shape of the maximum: best grid point, then scipy."""

    def loss(theta: Array) -> float:
        found = _at(data, theta, data.family(model, theta[None, 2:]))
        # A hump that is none has likelihood 0; the simplex needs a number.
        return min(-float(found.log_likelihood[0]), 1e10)

    scale = float(data.observed.y.std())
    shapes = data.limits(model).tolist() if SHAPES[model] else []
    bounds = [[np.log(1e-3 * scale), np.log(3 * scale)], [0.0, RHO_GRID[-1]], *shapes]
    grid, starts, finer = data.shapes(model, 2), data.observed.starts, data.shapes(model, 4)
    first = best(data.observed.y[None], grid, starts)
    cell = first.cell[0]
    theta = np.array([np.log(starts.tau[cell]), starts.rho[cell], *grid.shapes[first.shape[0]]])
    # Kinks and bounds trap the simplex: while a shape of a finer grid is better at the noise
    # found, start again from that one.
    for _ in range(5):
        theta = _polished(loss, theta, bounds)
        other = _at(data, theta, finer)
        if other.log_likelihood[0] <= -loss(theta) + 1e-3:
            break
        theta = np.array([*theta[:2], *finer.shapes[other.shape[0]]])
    return theta


def _polished(loss: Callable[[Array], float], theta: Array, bounds: list[list[float]]) -> Array:
    """The simplex' answer (Nelder and Mead 1965), or the start where it finds nothing better."""
    low, high = np.transpose(bounds)
    theta = np.clip(theta, low, high)
    found = minimize(
        loss, theta, method="Nelder-Mead", bounds=Bounds(low, high),
        options={"xatol": 1e-4, "fatol": 1e-5, "maxiter": 2000, "maxfev": 2000},
    )  # fmt: skip
    return np.asarray(found.x if found.fun < loss(theta) else theta)


def _curve_and_design(data: _Data, model: str, parameters: Array) -> tuple[Array, Array]:
    """A curve [n] and its derivatives [n, p] by its parameters (central differences)."""
    step = 1e-5
    moves = step * np.eye(len(parameters))
    points = np.concatenate([parameters[None], parameters + moves, parameters - moves])
    curves = evaluate(model, data.u, data.span, points)
    plus, minus = np.split(curves[1:], 2)
    return curves[0], (plus - minus).T / (2 * step)


def _refit(
    data: _Data, found: _Candidate, replicates: int, rng: np.random.Generator
) -> tuple[Array, float, float]:
    """Parameters [B, p + q] of resampled series, and tau, rho (posterior means)."""
    series, tau_draws, rho_draws = simulate(data.observed, found.mean, replicates, rng)
    tau, rho = float(np.exp(np.log(tau_draws).mean())), float(rho_draws.mean())
    family = data.zoomed(found, tau, rho)
    noise = noise_grid(data.observed.covariance, np.array([tau]), np.array([rho]))
    again = best(series, family, noise)
    shapes = family.shapes[again.shape]
    if found.model == "logistic":
        shapes = _spread_unresolved(data.u, shapes, rng)
    shapes[~np.isfinite(again.log_likelihood)] = np.nan
    return np.concatenate([again.levels, shapes], axis=1), tau, rho


def _spread_unresolved(u: Array, shapes: Array, rng: np.random.Generator) -> Array:
    """Shapes [r, 2] of logistics, made to vary as far as the checkpoints cannot resolve them.

    More than 2w from both neighbours these lie on the two plateaus (within 12%), wherever exactly
    the midpoint is: the best fit inside the gap would pretend to a precision nobody measured.
    Such a midpoint is anywhere in the gap, and w anything up to a quarter of it.
    """
    u_mid, w = shapes.T
    points = np.unique(u)
    left = np.clip(np.searchsorted(points, u_mid, side="right") - 1, 0, len(points) - 2)
    before, after = points[left], points[left + 1]
    unresolved = (u_mid - before > 2 * w) & (after - u_mid > 2 * w)
    anywhere = rng.random((2, len(left))) * (after - before)
    shape = np.stack([before + anywhere[0], np.maximum(anywhere[1] / 4, w.min())], axis=1)
    return np.where(unresolved[:, None], shape, shapes)


# --- verdict --------------------------------------------------------------------------------


def fit(curve: Curve, *, replicates: int = 1000, seed: int = 0) -> Fit:
    """Fit all models, test, and say what was found (module docstring).

    A share of the primary (chance 1/2) splits if the logistic ranks first, beats the best
    no-split model in the bootstrap test, and falls from .75 or more, both as a level and at the
    first point, to less, with at least two points on each side of the midpoint and half of the
    fall inside the data. Other measures may also rise, start anywhere, or be a hump (`transition`).
    `replicates` sets the size of the test and of the resampling behind the intervals.
    """
    early = _too_little(curve)
    if early is not None:
        return _unannounced(curve, early)
    rng = np.random.default_rng([seed, zlib.crc32(f"{curve.measure}/{curve.language}".encode())])
    return _fit(curve, _Data.of(curve), replicates, rng)


def _too_little(curve: Curve) -> Reason | None:
    """Why no model need be fitted at all."""
    if not curve.formed.any():
        return Reason.UNFORMED
    y, x = curve.value[curve.usable], curve.x[curve.usable]
    if len(y) < MIN_POINTS:
        return Reason.TOO_FEW
    # Three different x are the least on which a line and a bend can be told apart.
    if len(np.unique(x)) < 3:
        return Reason.SPAN
    if np.ptp(y) <= 1e-9 * np.abs(y).max():
        return _level_reason(curve, y[0], y[0]) or Reason.CONSTANT
    return None


def _fit(curve: Curve, data: _Data, replicates: int, rng: np.random.Generator) -> Fit:
    n = len(data.u)
    families = {m: data.shapes(m) for m in LEVELS if n > LEVELS[m] + SHAPES[m] + 3}
    fitted = {m: _fit_model(data, m) for m in families}
    scores = {m: c.aicc for m, c in fitted.items()}
    moving = [m for m in MOVING[curve.is_primary_share] if m in fitted]
    still = fitted[min(scores.keys() - set(moving), key=scores.__getitem__)]
    if not moving:
        level = _level_reason(curve, data.observed.y[0], data.observed.y.max())
        return _unannounced(curve, level or Reason.TOO_FEW_FOR_LOGISTIC, scores)
    mover = fitted[min(moving, key=scores.__getitem__)]
    reason, p = _reason(curve, data, still, mover), np.nan
    if reason is None and curve.is_primary_share and _rises_first(fitted.get("hump"), mover):
        reason = Reason.HUMP
    if reason is None:
        sides = [f for m, f in families.items() if m not in moving], [families[m] for m in moving]
        p = p_value(data.observed, still.mean, sides, replicates, rng)
        reason = _tested(still, mover, p)
    if reason is not None:
        return _unannounced(curve, reason, scores, p)
    return _announced(curve, data, mover, scores, p, replicates, rng)


def _tested(still: _Candidate, mover: _Candidate, p: float) -> Reason | None:
    """The reason, if any, that remains after the bootstrap test."""
    if p >= ALPHA:
        return _preferred(still)
    return Reason.TOO_FEW_FOR_LOGISTIC if still.aicc <= mover.aicc else None


def _preferred(found: _Candidate) -> Reason:
    """The reason that a no-split model won."""
    if found.model == "hump":
        start, peak = found.parameters[:2]
        return Reason.HUMP if peak > start else Reason.TROUGH
    return Reason.CONSTANT if found.model == "constant" else Reason.LINE


def _level_reason(curve: Curve, start: float, top: float) -> Reason | None:
    """A share of the primary that is never on the primary's side."""
    if not curve.is_primary_share or top >= START:
        return None
    assert curve.chance is not None
    near = abs(start - curve.chance) <= NEAR_CHANCE
    return Reason.AT_CHANCE if near else Reason.NEVER_DOMINATES


def _reason(curve: Curve, data: _Data, still: _Candidate, mover: _Candidate) -> Reason | None:
    """Why there is no split, or None where the bootstrap test has to decide."""
    first = min(still, mover, key=lambda c: c.aicc)
    likely = max(still, mover, key=lambda c: c.log_likelihood)
    start = float(likely.mean.curve[0])
    # A constant through a steep fall lies below the mark, too: the likeliest model must agree.
    level = _level_reason(curve, start, float(first.mean.curve.max()))
    if level is not None and start < START:
        return level
    # Plain AIC, without the correction for few points: below it the test need not be asked.
    if first is still and still.aic <= mover.aic:
        return _preferred(still)
    shape = _shape_reason(curve, data, mover) if mover.model == "logistic" else None
    return shape if shape is None or first is mover else _preferred(still)


def _shape_reason(curve: Curve, data: _Data, mover: _Candidate) -> Reason | None:
    """Why a well-fitting logistic is no split."""
    start, end, u_mid, _ = mover.parameters
    if curve.is_primary_share:
        if end >= start:
            return Reason.RISES
        if end >= START:
            return Reason.THROUGHOUT
        if mover.mean.curve[0] < START:
            return Reason.NEVER_DOMINATES
    sides = min((data.u < u_mid).sum(), (data.u > u_mid).sum())
    seen = np.ptp(mover.mean.curve) / max(abs(start - end), 1e-300)
    return None if sides >= 2 and seen >= 0.5 else Reason.SPAN


def _rises_first(hump: _Candidate | None, mover: _Candidate) -> bool:
    """A hump that starts below the mark is likelier than the logistic, though it ranks lower.

    A logistic passes over a low start as noise, and among a dozen points AICc lets it: the
    hump's one parameter more costs 4 nats. A start on the primary's side must not rest on that.
    """
    if hump is None or hump.log_likelihood <= mover.log_likelihood:
        return False
    return bool(hump.parameters[0] < START and hump.parameters[1] > hump.parameters[0])


# --- result ---------------------------------------------------------------------------------


def _unannounced(
    curve: Curve, reason: Reason, scores: Mapping[str, float] | None = None, p: float = np.nan
) -> Fit:
    return Fit(
        curve=curve, outcome=Outcome.NO_SPLIT, reason=reason, model="", aicc=dict(scores or {}),
        p_value=p, parameters=np.full(4, np.nan), replicates=np.empty((0, 4)),
        start_level=UNKNOWN, end_level=UNKNOWN, u_mid=UNKNOWN, u_width=UNKNOWN, x_mid=UNKNOWN,
        x_width=UNKNOWN, r_squared=np.nan, tau=np.nan, rho=np.nan,
    )  # fmt: skip


def _announced(
    curve: Curve,
    data: _Data,
    found: _Candidate,
    scores: Mapping[str, float],
    p: float,
    replicates: int,
    rng: np.random.Generator,
) -> Fit:
    refits, tau, rho = _refit(data, found, replicates, rng)
    axis = Axis.of(curve.x)
    values = _statistics(found.model, found.parameters[None], axis)
    spread = _statistics(found.model, refits, axis)
    start, end, u_mid, w, x_mid, x_width = (
        quantile_interval(float(v[0]), s) for v, s in zip(values, spread, strict=True)
    )
    y = data.observed.y
    r_squared = 1 - ((y - found.mean.curve) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    return Fit(
        curve=curve, outcome=Outcome.SPLIT if curve.is_primary_share else Outcome.TRANSITION,
        reason=_preferred(found) if found.model == "hump" else Reason.NONE, model=found.model,
        aicc=dict(scores), p_value=p, parameters=found.parameters, replicates=refits,
        start_level=start, end_level=end, u_mid=u_mid, u_width=w, x_mid=x_mid, x_width=x_width,
        r_squared=float(r_squared), tau=tau, rho=rho,
    )  # fmt: skip


def as_logistic(model: str, parameters: Array) -> Array:
    """Parameters [r, .] as start, end, u_mid, w [r, 4]; a hump's second leg runs from 10% to 90%.

    So `u_mid -+ w ln 9` are the peak and the plateau of a hump: the stages of a performance curve
    that rises, declines and levels off are read by the same formula.
    """
    if model == "logistic":
        return parameters
    peak, plateau = parameters[:, 3], parameters[:, 4]
    middle, width = (peak + plateau) / 2, (plateau - peak) / (2 * np.log(9))
    return np.stack([parameters[:, 1], parameters[:, 2], middle, width], axis=1)


def _statistics(model: str, parameters: Array, axis: Axis) -> tuple[Array, ...]:
    """Start, end, u_mid, w, midpoint and 10%-to-90% width in x, each [r]."""
    start, end, u_mid, w = as_logistic(model, parameters).T
    reach = w * np.log(9)
    return start, end, u_mid, w, axis.x(u_mid), axis.x(u_mid + reach) - axis.x(u_mid - reach)


def quantile_interval(value: float, spread: Array) -> Interval:
    """The 2.5% and 97.5% quantiles of the refits, widened to hold the value itself.

    Refits in which the model could not be fitted (NaN) are left out.
    """
    low, high = np.nanquantile(spread, [0.025, 0.975])
    return Interval(value, min(float(low), value), max(float(high), value))
