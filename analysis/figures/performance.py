"""Performance: loss, accuracy and graded answers per language."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import TokenAxis
from analysis.figures.babel_tower import draw_points
from analysis.figures.tables import distinct, formed, numbers, rows, x_label, x_units

GRADED = "graded_accuracy:"


def measures(curves: pd.DataFrame) -> dict[str, str]:
    """The measures drawn -> their titles: bits per byte (else loss), accuracy, graded answers."""
    present = distinct(curves, "measure")
    titles = {"bits_per_byte": "loss (lower is better)"}
    if "bits_per_byte" not in present:
        titles = {"loss": "loss (lower is better)"}
    titles["accuracy"] = "next-token accuracy"
    for name in present:
        if name.startswith(GRADED):
            kind = name.removeprefix(GRADED).replace("_", " ")
            titles[name] = f"graded answers: {style.short(kind)}"
    return {name: title for name, title in titles.items() if name in present}


@canvas.drawn
def performance(curves: pd.DataFrame) -> Figure:
    """One panel per measure, one line per language with 95% intervals over documents."""
    titles = measures(curves)
    if not titles:
        return canvas.blank("No performance was measured.")
    shown = curves[curves["measure"].isin(list(titles))]
    languages = distinct(shown, "language")
    looks = {name: style.mark(index) for index, name in enumerate(languages)}
    axis = TokenAxis(numbers(shown, "x"))
    figure, panels = canvas.panels(len(titles), 1.75 if len(titles) > 1 else 2.6, extra=0.9)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        axis.apply(axes)
        axes.set_title(title, loc="left", fontweight="bold")
        _panel(axes, axis, rows(shown, measure=name), looks)
    for axes in set(panels) - set(canvas.lowest(panels)):
        axes.tick_params(labelbottom=False)
    figure.supxlabel(x_label(x_units(shown), axis.has_zero))
    canvas.legend(figure, *_legend(shown, looks))
    return figure


def _panel(axes: Axes, axis: TokenAxis, curves: pd.DataFrame, looks: dict[str, style.Mark]) -> None:
    """All languages of one measure."""
    for language, look in looks.items():
        curve = rows(curves, language=language).sort_values("step")
        draw_points(axes, axis, curve, look, guide=True)
    chance = numbers(curves, "chance")
    for level in sorted(set(chance[np.isfinite(chance)])):
        axes.axhline(level, color=style.GREY, linestyle=style.DOTTED, linewidth=1, zorder=1.5)
    unit = distinct(curves, "unit")
    axes.set_ylabel("share (0 to 1)" if unit == ["share"] else " or ".join(unit))
    if unit == ["share"]:
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    else:
        axes.set_ylim(bottom=0)
    if not np.isfinite(numbers(curves, "value")).any():
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center")


def _legend(curves: pd.DataFrame, looks: dict[str, style.Mark]) -> tuple[list[Artist], list[str]]:
    """One entry per language, and what the other marks mean."""
    entries: list[tuple[Artist, str]] = []
    for language, look in looks.items():
        line = Line2D([], [], color=look.color, linestyle=look.dash, marker=look.marker)
        entries.append((line, style.short(language)))
    if not formed(curves).all():
        hollow = Line2D([], [], color="black", linestyle="none", marker="o", markerfacecolor="none")
        entries.append((hollow, "unformed checkpoint"))
    if np.isfinite(numbers(curves, "chance")).any():
        chance = Line2D([], [], color=style.GREY, linestyle=style.DOTTED)
        entries.append((chance, "chance"))
    return [artist for artist, _ in entries], [label for _, label in entries]
