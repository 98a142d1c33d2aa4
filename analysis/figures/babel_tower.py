"""The Babel Tower plot: how far the primary's system still does the work, per language."""

from collections.abc import Set
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import TokenAxis
from analysis.figures.tables import (
    Outcome,
    distinct,
    fits_only,
    formed,
    numbers,
    outcome,
    rows,
    x_label,
    x_units,
)

MEASURES = {
    "working_language_share": ("working language", style.Mark(style.BLUE, "o", style.SOLID)),
    "vocabulary_mass": ("vocabulary mass", style.Mark(style.GREEN, "^", style.DASH_DOT)),
    "neuron_mass_share": ("neurons", style.Mark(style.VERMILLION, "s", style.DASHED)),
}
"""Measure -> what it is called, and its look. The first that splits gives the stages."""
FALLBACK = "vocabulary_mass"
"""Drawn only where there is no working-language share: it cannot tell translation from a prior."""

STAGES: dict[str, dict[str, Any]] = {
    "translation": {"facecolor": "#E4E4E4"},
    "transition": {"facecolor": "#FFFFFF", "edgecolor": "#B0B0B0", "hatch": "////"},
    "stabilization": {"facecolor": "#F1F1F1", "edgecolor": "#C4C4C4", "hatch": ".."},
}
"""Stage -> how it is shaded; the three differ in grey and in hatch."""

FLOOR = -0.2
"""Lower end of the share axis: the midpoints stand below 0."""
HEAD = 0.18
"""Room of one line of notes above 1, in units of share."""


@canvas.drawn
def babel_tower(curves: pd.DataFrame, fits: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    """Working-language share and neuron mass share over tokens, one panel per language.

    Points with 95% intervals over documents, fit with band where a split is announced, stages
    shaded, midpoints with intervals below 0, chance and ceiling; the reason where nothing splits.
    """
    measures = drawn_measures({*curves["measure"], *stages["measure"]})
    shown = curves[curves["measure"].isin(measures)]
    stages = fits_only(stages)
    stages = stages[stages["measure"].isin(measures)]
    # What was fitted is shown even where no value is left; the primary was not fitted.
    languages = distinct(stages, "language") or distinct(shown, "language")
    if not languages:
        return canvas.blank("No working-language or neuron share was measured.")
    shown = shown[shown["language"].isin(languages)]
    axis = TokenAxis(numbers(shown, "x"))
    notes = {name: _notes(stages, name, len(languages)) for name in languages}
    head = max(1, *(len(lines) for lines in notes.values()))
    tall = 0.9 if len(languages) == 1 else 0
    figure, panels = canvas.panels(len(languages), 1.35 + tall + head * style.LINE, extra=0.9)
    for axes, language in zip(panels, languages, strict=True):
        axis.apply(axes)
        axes.set_ylim(FLOOR, 1.06 + HEAD * head)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        axes.set_title(style.short(language), loc="left", fontweight="bold")
        _panel(axes, axis, rows(shown, language=language), rows(fits, language=language))
        for row, name in enumerate(measures):
            found = outcome(stages, name, language)
            draw_midpoint(axes, axis, found, MEASURES[name][1], -0.07 - 0.08 * row)
    for axes in set(panels) - set(canvas.lowest(panels)):
        axes.tick_params(labelbottom=False)
    figure.supxlabel(x_label(x_units(shown), axis.has_zero))
    figure.supylabel("share of the primary (0 to 1)")
    canvas.legend(figure, *_legend(shown, fits, stages))
    canvas.place(figure)
    for axes, language in zip(panels, languages, strict=True):
        _stages(axes, axis, stages, language)
        _write(axes, notes[language], language)
    return figure


def drawn_measures(known: Set[str]) -> list[str]:
    """The measures to draw, without the fallback where it is not needed."""
    present = [name for name in MEASURES if name in known]
    if "working_language_share" in present:
        return [name for name in present if name != FALLBACK]
    return present


def _notes(stages: pd.DataFrame, language: str, count: int) -> list[str]:
    """What did not split and why, in lines that fit a panel; equal reasons are said once."""
    found = {name: outcome(stages, name, language) for name in MEASURES}
    flat = {name: each for name, each in found.items() if each is not None and not each.split}
    room = style.WIDTH - 0.8 if count == 1 else style.WIDTH / (2 if count <= 8 else 3) - 0.6
    texts = [f"{MEASURES[name][0]}: {_no_split(each)}" for name, each in flat.items()]
    if (
        len(flat) > 1
        and not any(each.split for each in found.values() if each)
        and len({each.reason for each in flat.values()}) == 1
    ):
        texts = [_no_split(next(iter(flat.values())))]
    # Where something splits, the first line is kept for the names of the stages.
    lines = [""] if len(flat) < len([each for each in found.values() if each]) else []
    for text in texts:
        lines += style.wrap(text, room)
    return lines


def _write(axes: Axes, lines: list[str], language: str) -> None:
    """Put the notes at the top of the panel, below the names of the stages where there are any."""
    skipped = next((index for index, line in enumerate(lines) if line), 0)
    box = axes.get_window_extent()
    top = 0.985 - skipped * style.LINE * float(axes.figure.dpi) / box.height
    axes.text(
        0.01, top, "\n".join(lines[skipped:]), transform=axes.transAxes, ha="left", va="top",
        linespacing=1.15, zorder=8, gid=f"notes:{language}",
        bbox={"facecolor": "white", "linewidth": 0, "pad": 0.8} if any(lines) else None,
    )  # fmt: skip


def _no_split(found: Outcome) -> str:
    return f"no split found ({found.reason})" if found.reason else "no split found"


def _panel(axes: Axes, axis: TokenAxis, curves: pd.DataFrame, fits: pd.DataFrame) -> None:
    """All curves of one language."""
    draw_chance(axes, curves)
    for name, (_, look) in MEASURES.items():
        curve = rows(curves, measure=name).sort_values("step")
        fit = rows(fits, measure=name).sort_values("x")
        _fit(axes, fit, look)
        draw_points(axes, axis, curve, look, guide=fit.empty)
        draw_ceiling(axes, axis, curve, look)


def draw_chance(axes: Axes, curves: pd.DataFrame) -> None:
    """A dotted line wherever some curve's chance is."""
    levels = numbers(curves, "chance")
    for chance in sorted(set(levels[np.isfinite(levels)])):
        axes.axhline(chance, color=style.GREY, linestyle=style.DOTTED, linewidth=1, zorder=1.5)


def draw_ceiling(axes: Axes, axis: TokenAxis, curve: pd.DataFrame, look: style.Mark) -> None:
    """What one measure could be at most, where it is known."""
    ceiling = numbers(curve, "ceiling")
    if np.isfinite(ceiling).any():
        axes.plot(
            axis.place(numbers(curve, "x")), ceiling, color=look.color, linewidth=0.8,
            linestyle=style.DASH_DOT, zorder=1.6, gid=f"ceiling:{curve['measure'].iloc[0]}",
        )  # fmt: skip


def _fit(axes: Axes, fit: pd.DataFrame, look: style.Mark) -> None:
    """The fitted curve and its 95% band."""
    if fit.empty:
        return
    x, low, high = numbers(fit, "x"), numbers(fit, "low"), numbers(fit, "high")
    axes.fill_between(x, low, high, color=look.color, alpha=0.2, linewidth=0, zorder=2)
    axes.plot(
        x, numbers(fit, "value"), color=look.color, linestyle=look.dash, zorder=3,
        gid=f"fit:{fit['measure'].iloc[0]}:{fit['language'].iloc[0]}",
    )  # fmt: skip


def draw_points(
    axes: Axes,
    axis: TokenAxis,
    curve: pd.DataFrame,
    look: style.Mark,
    guide: bool,
) -> None:
    """Measured values with intervals; unformed checkpoints hollow; a thin guide where asked."""
    if curve.empty:
        return
    series = f"{curve['measure'].iloc[0]}:{curve['language'].iloc[0]}"
    x, value, known = axis.place(numbers(curve, "x")), numbers(curve, "value"), formed(curve)
    low, high = numbers(curve, "low"), numbers(curve, "high")
    if guide:
        axes.plot(
            x, value, color=look.color, linestyle=look.dash, linewidth=0.7, zorder=2.9,
            gid=f"guide:{series}",
        )  # fmt: skip
    axes.vlines(x, low, high, color=look.color, linewidth=0.8, zorder=3.5, gid=f"interval:{series}")
    for kind, chosen, face in (("points", known, look.color), ("unformed", ~known, "white")):
        axes.plot(
            x[chosen], value[chosen], linestyle="none", marker=look.marker, color=look.color,
            markerfacecolor=face, markeredgewidth=0.8, zorder=4, gid=f"{kind}:{series}",
            markersize=3.6 if len(x) <= 20 else 2.8,
        )  # fmt: skip


def draw_midpoint(
    axes: Axes, axis: TokenAxis, found: Outcome | None, look: style.Mark, height: float
) -> None:
    """Where half of the fall is done, with its interval, below the data."""
    if found is None or not found.announced or not np.isfinite(found.value.get("midpoint", np.nan)):
        return
    ends = [found.low.get("midpoint", np.nan), found.high.get("midpoint", np.nan)]
    if np.isfinite(ends).any():
        # An end that the data do not bound runs to the edge.
        ends = list(np.where(np.isfinite(ends), ends, [axis.left, axis.right]))
    axes.plot(
        np.clip(ends, axis.left, axis.right), [height, height], color=look.color,
        linewidth=1, solid_capstyle="butt", zorder=4,
    )  # fmt: skip
    axes.plot(
        [found.value["midpoint"]], [height], marker=look.marker, color=look.color, zorder=4.1,
        linestyle="none", markersize=4.5, gid="midpoint",
    )  # fmt: skip


def _stages(axes: Axes, axis: TokenAxis, stages: pd.DataFrame, language: str) -> None:
    """Shade the three stages, and name those whose name fits."""
    all_found = (outcome(stages, name, language) for name in MEASURES)
    found = next((each for each in all_found if each is not None and each.split), None)
    if found is None:
        return
    for (name, look), (start, end) in zip(STAGES.items(), _spans(found, axis), strict=True):
        if end <= start:
            continue
        axes.axvspan(start, end, linewidth=0, zorder=0, gid=f"stage:{name}", **look)
        (left, _), (cut, _), (right, _) = axes.transAxes.inverted().transform(
            axes.transData.transform([[start, 0], [axis.first, 0], [end, 0]])
        )
        need = (style.width(name) + 0.06) / canvas.inches(axes)
        # Beside the break rather than across it, where there is room.
        left = cut if left < cut and right - cut >= need else left
        if right - left >= need:
            axes.text(
                (left + right) / 2, 0.985, name, ha="center", va="top", zorder=8,
                transform=axes.transAxes, gid=f"name:{name}",
                bbox={"facecolor": look["facecolor"], "linewidth": 0, "pad": 0.8},
            )  # fmt: skip


def _spans(found: Outcome, axis: TokenAxis) -> list[tuple[float, float]]:
    """Start and end of each stage inside the data; what is not reached is empty."""
    first = found.value.get("translation_end", np.nan)
    last = found.value.get("transition_end", np.nan)
    # A boundary before the first token of the language cannot be placed: the stage is empty.
    first = float(np.clip(first, axis.left, axis.right)) if first > 0 else axis.left
    last = axis.right if not np.isfinite(last) or last > axis.last else max(last, first)
    return [(axis.left, first), (first, last), (last, axis.right)]


def _legend(
    curves: pd.DataFrame, fits: pd.DataFrame, stages: pd.DataFrame
) -> tuple[list[Artist], list[str]]:
    """One entry for everything that occurs."""
    entries: list[tuple[Artist, str]] = []
    for name, (label, look) in MEASURES.items():
        if not rows(curves, measure=name).empty:
            line = Line2D([], [], color=look.color, linestyle=look.dash, marker=look.marker)
            entries.append((line, label))
    if not formed(curves).all():
        hollow = Line2D([], [], color="black", linestyle="none", marker="o", markerfacecolor="none")
        entries.append((hollow, "unformed: left out of the fit"))
    if np.isfinite(numbers(curves, "chance")).any():
        chance = Line2D([], [], color=style.GREY, linestyle=style.DOTTED)
        entries.append((chance, "chance (untrained model)"))
    if np.isfinite(numbers(curves, "ceiling")).any():
        ceiling = Line2D([], [], color=style.BLUE, linestyle=style.DASH_DOT, linewidth=0.8)
        entries.append((ceiling, "ceiling (on primary text)"))
    if (stages["outcome"] == "split").any():
        mid = Line2D([], [], color="black", marker="o", linewidth=1, markersize=4.5)
        entries.append((mid, "below 0: midpoint, 95% interval"))
        entries += [(Patch(**look, linewidth=0.3), name) for name, look in STAGES.items()]
    return [artist for artist, _ in entries], [label for _, label in entries]
