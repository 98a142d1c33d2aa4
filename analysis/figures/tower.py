"""The tower: the working language floor by floor, while the model trains."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import columns
from analysis.figures.tables import Floats, common_unit, distinct, numbers, rows, x_units

NEAR_CHANCE = 1.5
"""A layer whose specificity is below this many times chance names no concept."""
MIDDLE = (0.25, 0.9)
"""Depths of the layers that the working-language share averages over."""

# Blue gets much darker than orange does, so grey copies keep the two sides apart.
SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#003B63", style.BLUE, "#F7F7F7", "#F2C766", "#DE9200"]
).with_extremes(bad="#DADADA")
"""Diverging around chance: blue below (own language), orange above (primary)."""

UNCLEAR: dict[str, Any] = {
    "facecolor": "#DADADA",
    "edgecolor": "#9A9A9A",
    "hatch": "////",
    "linewidth": 0.0,
}
MISSING: dict[str, Any] = {
    "facecolor": "#FFFFFF",
    "edgecolor": "#C8C8C8",
    "hatch": "xxxx",
    "linewidth": 0.0,
}


@dataclass(frozen=True)
class Floors:
    """One language's tower as arrays."""

    layer: NDArray[np.int64]
    """Hidden layers, bottom first [h]."""
    depth: Floats
    """l/n [h]."""
    share: Floats
    """Primary's share [h, s]; NaN where not measured."""
    unclear: NDArray[np.bool_]
    """Where specificity is near chance [h, s]."""
    chance_known: bool
    """Whether the chance level of the specificity is known; if not, nothing is unclear."""
    labels: list[str]
    """What each checkpoint has seen [s]."""


@canvas.drawn
def tower(layers: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """Working language by hidden layer (bottom to top) and checkpoint, a panel per language.

    `curves` gives the unit of x and the chance level of the specificity (1/K); without them
    checkpoints are named by step, and only layers that were not measured are marked.
    """
    languages = distinct(layers, "language")
    if not languages:
        return canvas.blank("The working language was not measured by layer.")
    units = x_units(curves, languages)
    towers = [_floors(rows(layers, language=name), curves, name in units) for name in languages]
    tallest = max(len(each.layer) for each in towers)
    height = float(np.clip(0.17 * tallest, 1.1, 2.2)) * (1.4 if len(towers) == 1 else 1) + 0.5
    figure, panels = canvas.panels(len(languages), height, extra=0.75)
    for axes, language, floors in zip(panels, languages, towers, strict=True):
        axes.set_title(style.short(language), loc="left", fontweight="bold")
        image = _heat(axes, floors)
    figure.supylabel("hidden layer (0: embeddings)")
    figure.supxlabel(f"{common_unit(units)}, one column per checkpoint")
    _color_bar(figure, image, panels)
    canvas.legend(figure, *_legend(towers))
    canvas.place(figure)
    for axes, floors in zip(panels, towers, strict=True):
        _sparse_numbers(axes, floors)
    return figure


def _floors(layers: pd.DataFrame, curves: pd.DataFrame | None, has_unit: bool) -> Floors:
    """The rows of one language as arrays."""
    share = layers.pivot_table(
        index="hidden_layer", columns="step", values="share", dropna=False, aggfunc="first"
    ).sort_index()
    specificity = layers.pivot_table(
        index="hidden_layer", columns="step", values="specificity", dropna=False, aggfunc="first"
    ).sort_index()
    first = layers.drop_duplicates("step").sort_values("step")
    labels = [style.si(x) for x in numbers(first, "x" if has_unit else "step")]
    depth = layers.drop_duplicates("hidden_layer").sort_values("hidden_layer")
    bar = NEAR_CHANCE * _chance(curves, str(layers["language"].iloc[0]))
    values = share.to_numpy(dtype=np.float64)
    unclear = (specificity.to_numpy(dtype=np.float64) < bar) & np.isfinite(values)
    layer = share.index.to_numpy(dtype=np.int64)
    known = bool(np.isfinite(bar))
    return Floors(layer, numbers(depth, "depth"), values, unclear, known, labels)


def _chance(curves: pd.DataFrame | None, language: str) -> float:
    """Specificity of an untrained model; NaN (nothing is below it) where it is not known."""
    if curves is None:
        return float("nan")
    chance = numbers(rows(curves, measure="specificity", language=language), "chance")
    known = chance[np.isfinite(chance)]
    return float(known[0]) if known.size else float("nan")


def _heat(axes: Axes, floors: Floors) -> AxesImage:
    """Cells, what they cannot say, the boundary at chance, and the layers averaged over."""
    count, steps = floors.share.shape
    image = axes.imshow(
        np.ma.masked_where(floors.unclear, floors.share), origin="lower", aspect="auto",
        interpolation="none", cmap=SHARES, vmin=0, vmax=1, gid="share",
    )  # fmt: skip
    _cover(axes, floors.unclear, UNCLEAR)
    _cover(axes, ~np.isfinite(floors.share), MISSING)
    readable = np.where(floors.unclear, np.nan, floors.share)
    axes.add_collection(
        LineCollection(_boundary(readable), colors="black", linewidths=1.3, gid="chance")
    )
    columns(axes, floors.labels)
    every = -(-count // 12)
    axes.set_yticks(np.arange(0, count, every), [str(n) for n in floors.layer[::every]])
    axes.set_ylim(-0.5, count - 0.5)
    middle = np.flatnonzero((floors.depth >= MIDDLE[0]) & (floors.depth <= MIDDLE[1]))
    if middle.size:
        axes.plot(
            [1.012, 1.012], [middle[0] - 0.45, middle[-1] + 0.45], color="black", linewidth=2.2,
            transform=axes.get_yaxis_transform(), clip_on=False, solid_capstyle="butt",
        )  # fmt: skip
    axes.spines[["left", "bottom"]].set_visible(False)
    assert steps == len(floors.labels), (steps, floors.labels)
    return image


def _cover(axes: Axes, where: NDArray[np.bool_], look: dict[str, Any]) -> None:
    """Lay a hatch over the cells whose value says nothing."""
    cells = [Rectangle((s - 0.5, h - 0.5), 1, 1) for h, s in zip(*np.nonzero(where), strict=True)]
    axes.add_collection(PatchCollection(cells, zorder=1.5, **look))


def _boundary(share: Floats) -> list[list[tuple[float, float]]]:
    """Edges between a cell at or above one half and a neighbour below; NaN has no side."""
    high, known = share >= 0.5, np.isfinite(share)
    upright = (high[:, 1:] != high[:, :-1]) & known[:, 1:] & known[:, :-1]
    level = (high[1:] != high[:-1]) & known[1:] & known[:-1]
    edges = [
        [(s + 0.5, h - 0.5), (s + 0.5, h + 0.5)] for h, s in zip(*np.nonzero(upright), strict=True)
    ]
    return edges + [
        [(s - 0.5, h + 0.5), (s + 0.5, h + 0.5)] for h, s in zip(*np.nonzero(level), strict=True)
    ]


def _sparse_numbers(axes: Axes, floors: Floors) -> None:
    """Print the share in as many columns and rows as there is room for."""
    count, steps = floors.share.shape
    box = axes.get_window_extent()
    across = max(1, round(np.ceil(0.27 * steps / canvas.inches(axes))))
    up = max(1, round(np.ceil(0.15 * count * axes.figure.dpi / box.height)))
    side = np.where(floors.unclear, np.nan, np.sign(floors.share - 0.5))
    for h in range(up // 2, count, up):
        for s in range(across // 2, steps, across):
            value = float(floors.share[h, s])
            # The letters cover neighbouring cells: none of these may lie beyond the boundary.
            around = side[max(0, h - up // 2) : h + up // 2 + 1,
                          max(0, s - across // 2) : s + across // 2 + 1]  # fmt: skip
            if np.isfinite(value) and (around == side[h, s]).all():
                axes.text(
                    s, h, share_text(value), ha="center", va="center", gid="number",
                    color=readable_on(SHARES, value), in_layout=False,
                )  # fmt: skip


def share_text(value: float) -> str:
    """.07, .50, 1: a share in at most three letters."""
    return "1" if value >= 0.995 else f"{value:.2f}"[1:]


def readable_on(colors: Colormap, value: float) -> str:
    """Black or white, whichever stands out more on the colour of `value` (0 to 1)."""
    red, green, blue, _ = matplotlib.colors.to_rgba(colors(value))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else "white"


def _color_bar(figure: Figure, image: AxesImage, panels: list[Axes]) -> None:
    """One scale for all panels."""
    bar = figure.colorbar(image, ax=panels, fraction=0.035, pad=0.02, aspect=30)
    words = ["0 (own)", ".25", ".5 (chance)", ".75", "1 (primary)"]
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=words)
    bar.set_label("share of the primary")
    bar.ax.tick_params(labelsize=style.SIZE, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    bar.ax.axhline(0.5, color="black", linewidth=1.3)


def _legend(towers: list[Floors]) -> tuple[list[Artist], list[str]]:
    """What the marks besides colour mean."""
    handles: list[Artist] = [
        Line2D([], [], color="black", linewidth=1.3),
        Line2D([], [], color="black", linewidth=0, marker="|", markersize=7, markeredgewidth=2.2),
    ]
    labels = ["boundary at .5 (chance)", "middle layers, averaged in the headline"]
    if any(each.unclear.any() for each in towers):
        handles.append(Patch(**UNCLEAR))
        labels.append(f"names no concept (specificity < {NEAR_CHANCE:g} × chance)")
    if not all(each.chance_known for each in towers):
        handles.append(Line2D([], [], linestyle="none"))
        labels.append("no layer is marked as unclear: its chance level is unknown")
    if not all(np.isfinite(each.share).all() for each in towers):
        handles.append(Patch(**MISSING))
        labels.append("not measured")
    return handles, labels
