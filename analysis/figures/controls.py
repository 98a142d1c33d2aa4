"""Controls: what else the share of the primary could be, language by language."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import TokenAxis
from analysis.figures.babel_tower import draw_ceiling, draw_chance, draw_points
from analysis.figures.tables import common_unit, distinct, numbers, rows, x_units

Looks = Mapping[str, tuple[str, style.Mark]]

SHARES: Looks = {
    "working_language_share": ("working language", style.Mark(style.BLUE, "o", style.SOLID)),
    "neuron_mass_share": ("neurons", style.Mark(style.VERMILLION, "s", style.DASHED)),
    "raw_pair_share": ("raw share of the pair", style.Mark(style.ORANGE, "v", style.LONG)),
    "vocabulary_mass": ("vocabulary mass", style.Mark(style.GREEN, "^", style.DASH_DOT)),
    "vocabulary_mass_permuted": ("labels permuted", style.Mark(style.GREY, "X", style.SHORT)),
}
"""Measure -> what it is called, and its look: as in the Babel Tower plot where it is there."""

PARTS: Looks = {
    "static_part": ("static part", style.Mark(style.BLACK, "D", style.LONG)),
    "language_part": ("language part", style.Mark(style.SKY, "P", style.DASH_DOT_DOT)),
    "concept_part": ("concept part", style.Mark(style.PURPLE, "*", style.SOLID)),
}
"""The three parts of ln q(primary's word) / q(own word)."""

SPECIFICITY: Looks = {"specificity": ("specificity", style.Mark(style.BLUE, "o", style.SOLID))}

COLUMNS: tuple[tuple[str, Looks, str], ...] = (
    ("share of the primary", SHARES, "share"),
    ("parts of the raw log ratio (nats)", PARTS, "nats"),
    ("specificity (probability)", SPECIFICITY, "share"),
)
"""Title, measures and unit of each column of panels."""


@canvas.drawn
def controls(curves: pd.DataFrame) -> Figure:
    """A row per language: shares with controls, the parts of the raw score, specificity.

    Each with its chance; of an untrained model, the points of step 0 are crossed circles.
    """
    known = {name for _, looks, _ in COLUMNS for name in looks}
    shown = curves[curves["measure"].isin(list(known))]
    languages = [c for c in distinct(shown, "language") if _has(shown, c)]
    if not languages:
        return canvas.blank("No working-language share and no control of it was measured.")
    shown = shown[shown["language"].isin(languages)]
    axis = TokenAxis(numbers(shown, "x"))
    figure, panels = canvas.panels(
        len(COLUMNS) * len(languages), 1.35, extra=1.15, columns=len(COLUMNS)
    )
    for index, axes in enumerate(panels):
        row, column = divmod(index, len(COLUMNS))
        title, looks, unit = COLUMNS[column]
        axis.apply(axes)
        if row == 0:
            axes.set_title(title, fontweight="bold")
        _panel(axes, axis, rows(shown, language=languages[row]), looks)
        _scale(axes, unit)
    for axes, language in zip(canvas.leftmost(panels), languages, strict=True):
        axes.set_ylabel(style.short(language, 14), fontweight="bold")
    _one_scale(panels[1 :: len(COLUMNS)])
    for axes in set(panels) - set(canvas.lowest(panels)):
        axes.tick_params(labelbottom=False)
    label = common_unit(x_units(shown))
    figure.supxlabel(f"{label}  (0: before any)" if axis.has_zero else label)
    canvas.legend(figure, *_legend(shown))
    return figure


def _has(curves: pd.DataFrame, language: str) -> bool:
    """Something besides specificity is known of the language (the primary has only that)."""
    mine = rows(curves, language=language)
    return bool(set(mine["measure"][np.isfinite(numbers(mine, "value"))]) - set(SPECIFICITY))


def _panel(axes: Axes, axis: TokenAxis, curves: pd.DataFrame, looks: Looks) -> None:
    """One language's measures of one kind."""
    for name, (_, look) in looks.items():
        curve = rows(curves, measure=name).sort_values("step")
        draw_points(axes, axis, curve, look, guide=True)
        _untrained(axes, axis, curve, look)
        draw_ceiling(axes, axis, curve, look)
    draw_chance(axes, curves[curves["measure"].isin(list(looks))])


def _untrained(axes: Axes, axis: TokenAxis, curve: pd.DataFrame, look: style.Mark) -> None:
    """A circle around the model that has seen nothing."""
    first = (numbers(curve, "step") == 0) & ~(numbers(curve, "tokens") > 0)
    x = axis.place(numbers(curve, "x"))
    axes.plot(
        x[first], numbers(curve, "value")[first], linestyle="none", marker="o", markersize=7,
        markerfacecolor="none", markeredgewidth=0.7, color=look.color, zorder=4.2, gid="untrained",
    )  # fmt: skip


def _scale(axes: Axes, unit: str) -> None:
    if unit == "share":
        axes.set_ylim(-0.06, 1.06)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        return
    axes.axhline(0, color=style.GREY, linewidth=0.6, zorder=1.5)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _one_scale(panels: list[Axes]) -> None:
    """One scale for the nats of all languages, so that they can be compared."""
    low, high = np.array([each.get_ylim() for each in panels]).T
    for each in panels:
        each.set_ylim(low.min(), high.max())


def _legend(curves: pd.DataFrame) -> tuple[list[Artist], list[str]]:
    """One entry for everything that occurs."""
    present = set(distinct(curves, "measure"))
    entries: list[tuple[Artist, str]] = []
    for _, looks, _ in COLUMNS[:2]:
        for name, (label, look) in looks.items():
            if name in present:
                line = Line2D([], [], color=look.color, linestyle=look.dash, marker=look.marker)
                entries.append((line, label))
    if np.isfinite(numbers(curves, "ceiling")).any():
        ceiling = Line2D([], [], color=style.BLUE, linestyle=style.DASH_DOT, linewidth=0.8)
        entries.append((ceiling, "ceiling (on primary text)"))
    if np.isfinite(numbers(curves, "chance")).any():
        chance = Line2D([], [], color=style.GREY, linestyle=style.DOTTED)
        entries.append((chance, "chance"))
    if ((numbers(curves, "step") == 0) & ~(numbers(curves, "tokens") > 0)).any():
        circle = Line2D(
            [], [], color="black", linestyle="none", marker="o", markersize=7,
            markerfacecolor="none", markeredgewidth=0.7,
        )  # fmt: skip
        entries.append((circle, "circled: untrained model"))
    return [artist for artist, _ in entries], [label for _, label in entries]
