"""Neuron sets over time: how many units translate, and when they come and go."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import columns
from analysis.figures.tables import Floats, common_unit, distinct, numbers, rows, x_units

LOOKS = {
    "transferring": style.Mark(style.VERMILLION, "s", style.DASHED),
    "bilingual": style.Mark(style.SKY, "D", style.DASH_DOT),
    "own": style.Mark(style.BLUE, "o", style.SOLID),
    "lape": style.Mark(style.BLACK, "x", style.DOTTED),
}
"""The look of the sets that are known by name; others take the looks that are left."""

TITLES = {"lape": "LAPE (published)", "lape_absolute": "LAPE (absolute)"}
"""Sets whose name is not their title."""

HATCHES = {"transferring": "/////", "bilingual": "", "own": "....."}
"""Sets that exclude each other, so that their births and deaths may be stacked."""


def look_of(name: str, names: list[str]) -> style.Mark:
    """How a set is drawn."""
    if name in LOOKS:
        return LOOKS[name]
    others = [each for each in names if each not in LOOKS]
    return style.CYCLE[3 + others.index(name) % (len(style.CYCLE) - 3)]


@canvas.drawn
def neuron_sets(sets: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Units in each set over checkpoints, and below them births (up) and deaths (down).

    Counts are summed over layers. `curves` gives the unit of x and the count expected by chance
    (`transferring_chance`); without it checkpoints are named by step.
    """
    languages, names = distinct(sets, "language"), distinct(sets, "set")
    if not languages:
        return canvas.blank("No neuron sets were measured.")
    units = x_units(curves, languages)
    down = -(-len(languages) // (1 if len(languages) == 1 else 2))
    across = 1 if len(languages) == 1 else 2
    figure = canvas.new(down * 2.05 + 0.85)
    grid = figure.add_gridspec(2 * down, across, height_ratios=[1.75, 1] * down)
    upper: list[Axes] = []
    lower: list[Axes] = []
    for index, language in enumerate(languages):
        row, column = divmod(index, across)
        top = figure.add_subplot(grid[2 * row, column])
        bottom = figure.add_subplot(grid[2 * row + 1, column], sharex=top)
        shown = rows(sets, language=language)
        totals = {name: _totals(rows(shown, set=name)) for name in names}
        _counts(top, totals, names, language)
        _chance(top, curves, language, totals)
        _turnover(bottom, totals, names)
        first = shown.drop_duplicates("step").sort_values("step")
        columns(bottom, [style.si(x) for x in numbers(first, "x" if units else "step")])
        top.tick_params(labelbottom=False, labelsize=style.SIZE, width=0.6, length=2.5, pad=2)
        bottom.tick_params(labelsize=style.SIZE, width=0.6, length=2.5, pad=2)
        upper, lower = [*upper, top], [*lower, bottom]
        if column == 0:
            top.set_ylabel("units")
            bottom.set_ylabel("units per\ncheckpoint")
    for row_of in (upper, lower):
        low, high = np.array([each.get_ylim() for each in row_of]).T
        for each in row_of:
            each.set_ylim(low.min(), high.max())
    figure.supxlabel(f"{common_unit(units)}, one column per checkpoint")
    canvas.legend(figure, *_legend(names, curves))
    return figure


def _totals(layers: pd.DataFrame) -> pd.DataFrame:
    """Counts, births and deaths over all layers, per step; NaN stays NaN."""
    summed = layers.groupby("step")[["count", "births", "deaths"]].sum(min_count=1)
    return summed.sort_index()


def _counts(axes: Axes, totals: dict[str, pd.DataFrame], names: list[str], language: str) -> None:
    """One line per set."""
    steps = sorted({step for each in totals.values() for step in each.index})
    for name in names:
        look, total = look_of(name, names), totals[name].reindex(steps)
        axes.plot(
            range(len(steps)), numbers(total, "count"), color=look.color, linestyle=look.dash,
            marker=look.marker, markersize=3.2 if len(steps) <= 20 else 2.4, markeredgewidth=0.9,
            gid=f"count:{name}:{language}",
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_ylim(0, 1.08 * max(1.0, axes.dataLim.y1))
    axes.set_title(style.short(language), loc="left", fontweight="bold")


def _chance(
    axes: Axes, curves: pd.DataFrame | None, language: str, totals: dict[str, pd.DataFrame]
) -> None:
    """The number of transferring units expected by chance."""
    if curves is None or "transferring" not in totals:
        return
    chance = rows(curves, measure="transferring_chance", language=language).set_index("step")
    value = numbers(chance[~chance.index.duplicated()].reindex(totals["transferring"].index),
                    "value")  # fmt: skip
    if np.isfinite(value).any():
        axes.plot(
            range(len(value)), value, color=style.GREY, linestyle=style.DOTTED, linewidth=1,
            zorder=1.5, gid="chance",
        )  # fmt: skip


def _turnover(axes: Axes, totals: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Births upwards and deaths downwards; disjoint sets stacked, others beside them."""
    steps = sorted({step for each in totals.values() for step in each.index})
    base: dict[str, Floats] = {way: np.zeros(len(steps)) for way in ("births", "deaths")}
    beside = [name for name in names if name not in HATCHES]
    thin = 0.28 / max(1, len(beside))
    wide = len(steps) <= canvas.MARKS  # in narrow columns hatches only blur
    for name in names:
        total, is_stacked = totals[name].reindex(steps), name in HATCHES
        at = -0.16 if is_stacked else 0.16 + thin * (beside.index(name) + 0.5)
        for way, sign in (("births", 1.0), ("deaths", -1.0)):
            value = sign * np.nan_to_num(numbers(total, way))
            bars = axes.bar(
                np.arange(len(steps)) + at, value, 0.56 if is_stacked else thin,
                bottom=base[way] if is_stacked else 0, color=look_of(name, names).color,
                hatch=HATCHES.get(name, "") * wide, edgecolor="white", linewidth=0,
                label=f"{way}:{name}",
            )  # fmt: skip
            for bar in bars:
                bar.set_in_layout(False)
            base[way] = base[way] + value * is_stacked
    axes.axhline(0, color="black", linewidth=0.6)
    tallest = max(1.0, *(abs(edge) for edge in axes.dataLim.intervaly))
    # Room for the two words above and below the bars.
    axes.set_ylim(-1.5 * tallest, 1.5 * tallest)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True, symmetric=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.text(0.01, 0.97, "births", transform=axes.transAxes, ha="left", va="top")
    axes.text(0.01, 0.03, "deaths", transform=axes.transAxes, ha="left", va="bottom")


def _legend(
    names: list[str], curves: pd.DataFrame | None
) -> tuple[list[Artist | tuple[Artist, ...]], list[str]]:
    """Per set its line and the bar of its births and deaths."""
    handles: list[Artist | tuple[Artist, ...]] = []
    for name in names:
        look, hatch = look_of(name, names), HATCHES.get(name, "")
        line = Line2D([], [], color=look.color, linestyle=look.dash, marker=look.marker)
        handles.append((line, Patch(facecolor=look.color, hatch=hatch, edgecolor="white")))
    labels = [f"{style.short(TITLES.get(name, name))}: count, births and deaths" for name in names]
    if curves is not None and not rows(curves, measure="transferring_chance").empty:
        handles.append(Line2D([], [], color=style.GREY, linestyle=style.DOTTED, linewidth=1))
        labels.append("transferring: count expected by chance")
    return handles, labels
