"""Neuron sets by layer: where in the model the units of each set sit."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import columns
from analysis.figures.neuron_sets import TITLES
from analysis.figures.tables import common_unit, distinct, numbers, rows, x_units

COUNTS = LinearSegmentedColormap.from_list(
    "counts", ["#FFFFFF", style.SKY, style.BLUE, "#00263F"]
).with_extremes(bad="#DADADA")
"""Light to dark: the order of values survives a grey copy."""


@canvas.drawn
def neuron_layers(sets: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Units by MLP layer (bottom to top) and checkpoint: a row per language, a column per set.

    One colour scale for all panels, proportional to the square root of the count. `curves` gives
    the unit of x; without it checkpoints are named by step.
    """
    languages, names = distinct(sets, "language"), distinct(sets, "set")
    if not languages:
        return canvas.blank("No neuron sets were measured.")
    units = x_units(curves, languages)
    deep = int(sets["layer"].nunique())
    height = float(np.clip(0.09 * deep, 0.55, 1.1)) + 0.3
    count = len(languages) * len(names)
    figure, panels = canvas.panels(count, height, extra=0.55, columns=len(names))
    top = max(1.0, float(np.nanmax(numbers(sets, "count"), initial=1.0)))
    norm = PowerNorm(0.5, vmin=0, vmax=top)
    seen: dict[str, list[str]] = {}
    for index, axes in enumerate(panels):
        language, name = languages[index // len(names)], names[index % len(names)]
        shown = rows(sets, language=language)
        image = _strip(axes, shown, name, norm)
        first = shown.drop_duplicates("step").sort_values("step")
        seen[language] = [style.si(x) for x in numbers(first, "x" if units else "step")]
        columns(axes, seen[language])
        if index < len(names):
            axes.set_title(style.short(TITLES.get(name, name)), fontweight="bold")
    for axes, language in zip(canvas.leftmost(panels), languages, strict=True):
        axes.set_ylabel(f"{style.short(language, 14)}\nMLP layer")
    for axes in set(panels) - set(canvas.leftmost(panels)):
        axes.tick_params(labelleft=False)
    if len({tuple(labels) for labels in seen.values()}) == 1:
        for axes in set(panels) - set(canvas.lowest(panels)):
            axes.tick_params(labelbottom=False)
    figure.supxlabel(f"{common_unit(units)}, one column per checkpoint")
    bar = figure.colorbar(image, ax=panels, fraction=0.03, pad=0.02, aspect=30)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    bar.set_label("units in the set")
    bar.ax.tick_params(labelsize=style.SIZE, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    return figure


def _strip(axes: Axes, shown: pd.DataFrame, name: str, norm: PowerNorm) -> AxesImage:
    """The count of one set as layer x checkpoint; grey where there is none."""
    table = rows(shown, set=name).pivot_table(
        index="layer", columns="step", values="count", dropna=False, aggfunc="first"
    )
    layers = sorted(shown["layer"].unique())
    table = table.reindex(index=layers, columns=sorted(shown["step"].unique()))
    image = axes.imshow(
        table.to_numpy(dtype=np.float64), origin="lower", aspect="auto", interpolation="none",
        cmap=COUNTS, norm=norm, gid=f"layers:{name}",
    )  # fmt: skip
    every = -(-len(layers) // 4)
    axes.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    axes.spines[["left", "bottom"]].set_linewidth(0.4)
    axes.spines[["top", "right"]].set(visible=True, linewidth=0.4)
    return image
