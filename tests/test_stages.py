"""Stages: boundaries from the formula, sentences word by word, tables, lags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.curves import Axis, Curve, Fit, Interval, Outcome, Reason, fit
from analysis.stages import fit_rows, lag, number, rows, stages

Array = NDArray[np.float64]

X = 1e4 * np.concatenate([[0.0], np.geomspace(1, 400, 15)])
COLUMNS = {"measure", "language", "outcome", "reason", "statistic", "value", "low", "high", "unit"}


def planted(u_mid: float, w: float, sd: float = 0.01, seed: int = 0, **change: Any) -> Fit:
    """A fit of 0.95 -> 0.1 with midpoint u_mid above the first u."""
    u = np.log10(X + 1e4) - 4
    value = 0.1 + 0.85 / (1 + np.exp((u - u_mid) / w))
    value = value + sd * np.random.default_rng(seed).standard_normal(len(X))
    given: dict[str, Any] = {
        "measure": "working_language_share", "language": "php", "unit": "share",
        "step": np.arange(len(X)), "x": X, "x_label": "tokens of php seen", "value": value,
        "replicates": np.empty((0, len(X))), "formed": np.ones(len(X), bool), "chance": 0.5,
        "ceiling": None,
    }  # fmt: skip
    return fit(Curve(**{**given, **change}), replicates=300)


@pytest.fixture(scope="module")
def split() -> Fit:
    return planted(1.3, 0.15)


@pytest.fixture(scope="module")
def flat() -> Fit:
    return planted(1.3, 0.15, value=0.9 + 0.01 * np.cos(7 * np.arange(len(X))))


def test_boundaries_are_a_tenth_and_nine_tenths_of_the_fall(split: Fit) -> None:
    found = stages(split)
    start, end, u_mid, w = split.parameters
    ends = np.array([found.translation_end.value, found.transition_end.value])
    assert split.predict(ends) == pytest.approx([start - f * (start - end) for f in (0.1, 0.9)])
    assert ends == pytest.approx(10 ** (u_mid + np.array([-1, 1]) * w * np.log(9)) - 1e4)
    truth = 1e4 * (10 ** (1.3 + np.array([-1, 1]) * 0.15 * np.log(9)) - 1)
    for boundary, x in zip((found.translation_end, found.transition_end), truth, strict=True):
        assert boundary.low <= x <= boundary.high
    assert found.notes == ()


def test_what_lies_outside_the_data_is_said() -> None:
    late = stages(planted(2.2, 0.25))
    assert late.notes == ("stabilization not reached",)
    assert np.isnan([late.transition_end.value, late.transition_end.high]).all()
    assert late.sentence().endswith("]; stabilization not reached")
    early = stages(planted(0.45, 0.22, sd=0.003))
    assert early.notes == ("translation over before the first checkpoint",)
    assert np.isnan(early.translation_end.value)
    assert early.transition_end.low <= early.transition_end.value <= early.transition_end.high


def test_sentences(split: Fit, flat: Fit) -> None:
    shown = replace(split, x_mid=Interval(1.92e5, 1.2e5, 2.6e5))
    assert stages(shown).sentence() == "php: split at 1.9e5 tokens [1.2e5, 2.6e5]"
    in_steps = replace(shown.curve, x_label="steps")
    shown = replace(shown, curve=in_steps, x_mid=Interval(44, 36.2, 53.7))
    assert stages(shown).sentence() == "php: split at 44 steps [36, 54]"
    assert stages(flat).sentence() == "php: no split found (constant preferred)"
    loss = replace(shown, outcome=Outcome.TRANSITION, curve=replace(in_steps, measure="loss"))
    assert stages(loss).sentence() == "php: transition of loss at 44 steps [36, 54]"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.456, "0.46"), (2.31, "2.3"), (9.96, "10"), (440.4, "440"), (9999, "10000"),
     (12345, "1.2e4"), (1.96e9, "2.0e9"), (np.nan, "?")],
)  # fmt: skip
def test_numbers_as_people_write_them(value: float, text: str) -> None:
    assert number(value) == text


def test_rows(split: Fit, flat: Fit) -> None:
    table = rows(split, stages(split))
    assert all(set(row) == COLUMNS for row in table)
    by_name = {row["statistic"]: row for row in table}
    assert set(by_name) >= {
        "start_level", "end_level", "translation_end", "midpoint", "transition_end", "width",
        "r_squared", "p_value", "aicc_constant", "aicc_line", "aicc_logistic",
    }  # fmt: skip
    middle = by_name["midpoint"]
    assert (middle["outcome"], middle["reason"]) == ("split", "")
    assert (middle["value"], middle["low"], middle["high"]) == (
        split.x_mid.value, split.x_mid.low, split.x_mid.high,
    )  # fmt: skip
    assert middle["unit"] == "tokens of php seen"
    assert by_name["width"]["value"] == split.parameters[3]
    (only,) = rows(flat, stages(flat))
    assert set(only) == COLUMNS
    assert (only["outcome"], only["reason"]) == ("no_split", "constant preferred")
    assert only["statistic"] == ""


def test_fit_rows(split: Fit, flat: Fit) -> None:
    table = fit_rows(split)
    assert set(table[0]) == {"measure", "language", "model", "x", "value", "low", "high"}
    x = np.array([row["x"] for row in table])
    assert (x[0], x[-1]) == (0, pytest.approx(X[-1]))
    assert (np.diff(x) > 0).all()
    assert [row["value"] for row in table] == pytest.approx(split.predict(x))
    assert all(row["low"] <= row["high"] for row in table)
    assert fit_rows(flat) == []


def test_lag_in_octaves(split: Fit, flat: Fit) -> None:
    later = planted(1.3 + np.log10(2), 0.15, seed=1, measure="neuron_mass_share")
    truth = np.log2((10 ** (1.3 + np.log10(2)) - 1) / (10**1.3 - 1))
    found = lag(split, later)
    assert found.low <= truth <= found.high
    assert found.value == pytest.approx(np.log2(later.x_mid.value / split.x_mid.value))
    back = lag(later, split)
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high))
    assert np.isnan(lag(split, flat).value)


def test_lag_pairs_documents() -> None:
    """Documents that move both midpoints alike cancel from the lag."""
    moved = np.random.default_rng(2).normal(0, 0.1, (300, 1))
    u = np.log10(X + 1e4) - 4
    pair = []
    for measure, middle in (("working_language_share", 1.3), ("neuron_mass_share", 1.1)):
        replicates = 0.1 + 0.85 / (1 + np.exp((u - middle - moved) / 0.2))
        pair.append(planted(middle, 0.2, sd=0.004, measure=measure, replicates=replicates))
    together = lag(*pair)
    shuffled = replace(pair[1], replicates=pair[1].replicates[::-1])
    apart = lag(pair[0], shuffled)
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_a_performance_curve_that_declines_has_its_peak_and_plateau() -> None:
    u = np.log10(X + 1e4) - 4
    value = np.interp(u, [0, 1, 2, 2.6], [0.2, 0.8, 0.5, 0.5])
    value = value + 0.01 * np.random.default_rng(3).standard_normal(len(X))
    found = planted(1.3, 0.15, measure="accuracy", chance=None, value=value)
    assert (found.outcome, found.reason) == (Outcome.TRANSITION, Reason.HUMP)
    bounds = stages(found)
    axis = Axis.of(X)
    assert bounds.translation_end.value == pytest.approx(float(axis.x(found.parameters[3])))
    assert bounds.transition_end.value == pytest.approx(float(axis.x(found.parameters[4])))
    assert bounds.translation_end.low <= 9e4 <= bounds.translation_end.high
    assert bounds.sentence().startswith("php: transition of accuracy at ")
