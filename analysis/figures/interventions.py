"""What interventions did: matrices, dots with intervals, and their evolution over checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures import canvas
from analysis.figures.axes import columns
from analysis.figures.tables import distinct, numbers, rows

DIVERGING = LinearSegmentedColormap.from_list(
    "diverging", [style.BLUE, "#9CCBE8", "#FFFFFF", "#F4C77B", style.VERMILLION]
).with_extremes(bad="#DADADA")
"""Blue: the loss falls; orange to red: it rises. The numbers in the cells survive a grey copy."""

GREY_CONTROL = "#8C8C8C"
MOST_DOTS = 12
"""Most rows of a panel of dots, where a matrix shows the same."""
LEAST = 0.002
"""Least end of the colour scale (nats/token): noise is not to be stretched into a pattern."""


@canvas.drawn
def matrix(table: pd.DataFrame, edit: str, step: int) -> Figure:
    """Change of the loss [changed, read] at one step, beside that of the random controls.

    A row is a target language, or one of several changes of a kind by its number.

    A number is bold where the 95% interval of its excess over the controls leaves out 0 and none of
    them goes as far.
    """
    here = rows(table[table["step"] == step], edit=edit)
    numbered = here["number"].nunique() > 1
    if numbered:
        here = here.assign(target="#" + here["number"].astype(str))
    targets = distinct(here, "target")
    read = distinct(here, "language")
    panels = {"change": _words(edit), "control": "random, mean of the controls"}
    # Side by side as long as the names of the columns fit.
    across = 2 if len(read) <= 5 else 1
    figure, axes = canvas.panels(2, max(0.3 * len(targets) + 0.6, 1.8), extra=0.3, columns=across)
    tables = {name: _table(here, name, targets, read) for name in panels}
    top = max(float(np.nanmax(np.abs(np.stack(list(tables.values()))), initial=LEAST)), LEAST)
    clear = _clear(here, targets, read)
    image = None
    for each, (name, title) in zip(axes, panels.items(), strict=True):
        image = each.imshow(
            tables[name], cmap=DIVERGING, norm=TwoSlopeNorm(0, -top, top), aspect="auto"
        )
        each.set_title(title, loc="left", fontweight="bold")
        each.set_xticks(range(len(read)), [style.short(c, 10) for c in read])
        each.set_yticks(range(len(targets)), [style.short(c, 10) for c in targets])
        each.set_xlabel("language read")
        each.spines[["top", "right"]].set(visible=True)
        _write_cells(each, tables[name], top, clear if name == "change" else None)
    axes[0].set_ylabel("which" if numbered else "whose")
    assert image is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label("change of the loss (nats/token)")
    bar.outline.set_linewidth(0.6)
    return figure


def _table(
    here: pd.DataFrame, statistic: str, targets: list[str], read: list[str], column: str = "value"
) -> np.ndarray:
    """[target, language] one column of a statistic."""
    found = rows(here, statistic=statistic).pivot_table(
        index="target", columns="language", values=column, aggfunc="first"
    )
    return found.reindex(index=targets, columns=read).to_numpy(dtype=np.float64)


def _clear(here: pd.DataFrame, targets: list[str], read: list[str]) -> np.ndarray:
    """Where the interval of the excess leaves out 0 and no random control goes as far."""
    change = _table(here, "change", targets, read)
    excess, control = (
        [_table(here, statistic, targets, read, end) for end in ("low", "high")]
        for statistic in ("excess", "control")
    )
    above = (excess[0] > 0) & (change > control[1])
    below = (excess[1] < 0) & (change < control[0])
    return np.asarray(above | below)


def _write_cells(axes: Axes, values: np.ndarray, top: float, bold: np.ndarray | None) -> None:
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                j, i, _signed(value, top), ha="center", va="center",
                color="white" if abs(value) > 0.85 * top else "black",
                fontweight="bold" if bold is not None and bold[i, j] else "normal",
            )  # fmt: skip


def _signed(value: float, top: float) -> str:
    digits = 2 if top >= 0.1 else 3 if top >= 0.01 else 4
    if round(value, digits) == 0:
        return "0"
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


@dataclass(frozen=True)
class _Panel:
    """What one panel shows."""

    title: str
    table: pd.DataFrame
    """Rows of one change of one kind of reading."""
    prefix: str = ""
    """Of the statistics' names."""

    @property
    def followed(self) -> str:
        """What is followed over checkpoints: the excess over the controls where there are any."""
        return "excess" if len(rows(self.table, statistic=f"{self.prefix}excess")) else "change"


@canvas.drawn
def dots(table: pd.DataFrame, step: int, what: str = "loss") -> Figure:
    """Every change at one step with its 95% interval, beside the range of its random controls.

    One panel per change (and per word whose evidence is read), one row per language.
    """
    shown = [p for p in _panels(table[table["step"] == step], what) if len(p.table)]
    if not shown:
        return canvas.blank("Nothing was read under this change.")
    most = max(len(_labels(p.table)) for p in shown)
    across = 2 if what == "evidence" or len(shown) in (2, 4) else min(len(shown), 3)
    figure, axes = canvas.panels(len(shown), 0.2 * most + 0.55, extra=0.9, columns=across)
    for each, panel in zip(axes, shown, strict=True):
        _dot_panel(each, panel)
    for each in set(axes) - set(canvas.leftmost(axes)):
        if _labels(shown[axes.index(each)].table) == _labels(shown[0].table):
            each.tick_params(labelleft=False)
    figure.supxlabel(_unit(what))
    canvas.legend(figure, *_dot_legend(what))
    return figure


def _dot_panel(axes: Axes, panel: _Panel) -> None:
    labels = _labels(panel.table)
    change = _by_label(panel, "change", labels)
    control = _by_label(panel, "control", labels)
    at = np.arange(len(labels), dtype=np.float64)
    axes.axvline(0, color="black", linewidth=0.6, zorder=1)
    axes.hlines(at + 0.16, control[1], control[2], color=GREY_CONTROL, linewidth=2.5, zorder=2)
    axes.plot(control[0], at + 0.16, linestyle="none", marker="|", color=GREY_CONTROL, markersize=6)
    axes.hlines(at - 0.16, change[1], change[2], color=style.VERMILLION, linewidth=1, zorder=3)
    axes.plot(change[0], at - 0.16, linestyle="none", marker="o", color=style.VERMILLION)
    axes.set_yticks(at, [style.short(label, 16) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(panel.title, loc="left", fontweight="bold")


def _words(name: str) -> str:
    """The name of a set or region as words."""
    return style.short(name.replace("_", " "))


def _labels(table: pd.DataFrame) -> list[str]:
    return distinct(table, "label")


def _by_label(panel: _Panel, statistic: str, labels: list[str]) -> np.ndarray:
    """[value, low, high; label]."""
    found = rows(panel.table, statistic=panel.prefix + statistic).set_index("label")
    found = found[["value", "low", "high"]].reindex(labels)
    return found.to_numpy(dtype=np.float64).T


def _dot_legend(what: str) -> tuple[list[Artist], list[str]]:
    change = Line2D([], [], color=style.VERMILLION, marker="o", linewidth=1)
    control = Line2D([], [], color=GREY_CONTROL, marker="|", linewidth=2.5, markersize=6)
    return [change, control], [
        f"the change, 95% interval over {'folds of ' if what == 'evidence' else ''}documents",
        "random controls: mean, smallest to largest",
    ]


def _unit(what: str) -> str:
    if what == "evidence":
        return "change of the evidence for the right word at the output (logits)"
    return "change of the loss (nats/token)"


def _panels(table: pd.DataFrame, what: str) -> Iterator[_Panel]:
    """The panels of a kind of reading."""
    if what == "evidence":
        read = rows(table, place="output")
        for edit in distinct(read, "edit"):
            for written in distinct(read, "written"):
                part = rows(read, edit=edit, written=written)
                word = "primary's" if written == "primary" else "own"
                yield _Panel(
                    f"{_words(edit)} off:\nthe {word} right word",
                    part.assign(label=part["language"]), "evidence_",
                )  # fmt: skip
        return
    read = table[table["written"].isna()] if "written" in table.columns else table
    for edit in distinct(read, "edit"):
        part = rows(read, edit=edit)
        numbered = part["number"].nunique() > 1
        own = part["target"].fillna("") != ""
        mine = part[~own | (part["target"] == part["language"])]
        label = mine["language"].astype(str)
        if numbered:
            label = "#" + mine["number"].astype(str) + " " + label
        yield _Panel(_words(edit), mine.assign(label=label))


@canvas.drawn
def evolution(table: pd.DataFrame, what: str = "loss") -> Figure:
    """Excess of every change over its random controls, one column per checkpoint, 95% intervals.

    One panel per change (and per word whose evidence is read), one line per language.
    """
    shown = [p for p in _panels(table, what) if len(p.table)]
    steps = sorted(table["step"].unique())
    labels = distinct(pd.concat([p.table for p in shown]), "label")
    looks = {label: style.mark(index) for index, label in enumerate(labels)}
    figure, axes = canvas.panels(len(shown), 1.6, extra=0.9)
    for each, panel in zip(axes, shown, strict=True):
        each.axhline(0, color="black", linewidth=0.6, zorder=1)
        for index, (label, look) in enumerate(looks.items()):
            part = rows(panel.table, label=label, statistic=panel.prefix + panel.followed)
            _line(each, part, steps, look, (index - (len(looks) - 1) / 2) * 0.09)
        columns(each, _seen(table, steps))
        title = panel.title.replace("\n", " ")
        if panel.followed == "change":
            title += " (no random control)"
        each.set_title(title, loc="left", fontweight="bold")
    for each in set(axes) - set(canvas.lowest(axes)):
        each.tick_params(labelbottom=False)
    figure.supxlabel(f"{_x_unit(table)}, one column per checkpoint")
    figure.supylabel(f"excess over random: {_unit(what)}" if len(shown) > 2 else _unit(what))
    canvas.legend(figure, *_language_legend(looks))
    return figure


def _line(axes: Axes, part: pd.DataFrame, steps: list[int], look: style.Mark, shift: float) -> None:
    """One language's values over checkpoints; markers of several languages stand side by side."""
    found = part.set_index("step").reindex(steps)
    x = np.arange(len(steps)) + shift
    value = numbers(found, "value")
    axes.plot(x, value, color=look.color, linestyle=look.dash, linewidth=0.8, zorder=3)
    axes.plot(x, value, color=look.color, linestyle="none", marker=look.marker, zorder=4)
    axes.vlines(x, numbers(found, "low"), numbers(found, "high"), color=look.color, linewidth=0.8)


def _seen(table: pd.DataFrame, steps: list[int]) -> list[str]:
    """Tokens at every step, or the step where they are unknown."""
    first = table.drop_duplicates("step").set_index("step").reindex(steps)
    tokens = numbers(first, "tokens")
    known = bool(np.isfinite(tokens).all())
    return [style.si(float(v)) for v in (tokens if known else np.asarray(steps, np.float64))]


def _x_unit(table: pd.DataFrame) -> str:
    return "tokens seen" if np.isfinite(numbers(table, "tokens")).all() else "step"


def _language_legend(looks: Mapping[str, style.Mark]) -> tuple[list[Artist], list[str]]:
    handles: list[Artist] = [
        Line2D([], [], color=m.color, linestyle=m.dash, marker=m.marker) for m in looks.values()
    ]
    return handles, [style.short(name, 48) for name in looks]


RATIOS = {
    "shared": ("units shared with the primary", style.Mark(style.VERMILLION, "s", style.SOLID)),
    "shared_matched": ("shared, matched part", style.Mark(style.ORANGE, "D", style.DASHED)),
    "unshared_matched": ("own units, as important", style.Mark(style.GREEN, "^", style.DASH_DOT)),
}
"""Edit of `ablate_shared` -> what it is called, and its look."""

WORKING = style.Mark(style.BLUE, "o", style.DOTTED)


@canvas.drawn
def shared(table: pd.DataFrame, curves: pd.DataFrame | None = None) -> Figure:
    """How much of each language's competence runs on shared units, beside its shared-system curve.

    Ratio of the rise in loss without a part of the language's important units to the rise without
    all of them; `curves` adds the working-language share (dotted).
    """
    ratios = table[table["statistic"].isin(["ratio", "ratio_control"])]
    languages = distinct(ratios, "language")
    steps = sorted(ratios["step"].unique())
    figure, axes = canvas.panels(len(languages), 1.5, extra=1.1)
    low, top = (float(f(numbers(ratios, "value"), initial=0.0)) for f in (np.nanmin, np.nanmax))
    for each, language in zip(axes, languages, strict=True):
        mine = rows(ratios, language=language)
        for index, (edit, (_, look)) in enumerate(RATIOS.items()):
            part = rows(mine, edit=edit, statistic="ratio")
            _line(each, part, steps, look, (index - 1) * 0.12)
        random = rows(mine, edit="shared", statistic="ratio_control")
        control = style.Mark(GREY_CONTROL, "x", style.LOOSE)
        _line(each, random, steps, control, 0.24)
        if curves is not None:
            head = rows(curves, language=language, measure="working_language_share")
            _line(each, head, steps, WORKING, 0.0)
        each.axhline(0, color="black", linewidth=0.6, zorder=1)
        each.set_ylim(max(min(-0.1, 1.1 * low), -1.0), max(1.1, min(top * 1.15, 3.0)))
        each.set_title(style.short(language), loc="left", fontweight="bold")
        columns(each, _seen(ratios, steps))
    for each in set(axes) - set(canvas.lowest(axes)):
        each.tick_params(labelbottom=False)
    figure.supxlabel(f"{_x_unit(ratios)}, one column per checkpoint")
    figure.supylabel("share of the loss's rise (1: all important units)")
    looks = dict(RATIOS.values())
    looks["random units"] = style.Mark(GREY_CONTROL, "x", style.LOOSE)
    if curves is not None:
        looks["working language (share of the primary)"] = WORKING
    canvas.legend(figure, *_language_legend(looks))
    return figure


FROZEN = {
    "free": ("nothing frozen", style.Mark(style.BLACK, "o", style.SOLID)),
    "core": ("core region frozen", style.Mark(style.VERMILLION, "s", style.DASHED)),
    "random": ("random parameters frozen", style.Mark(GREY_CONTROL, "^", style.DOTTED)),
}
"""Arm of `freeze` -> what it is called, and its look."""


@canvas.drawn
def forgetting(paths: pd.DataFrame, step: int) -> Figure:
    """Forgetting of each old language against the gain on the new one, one line per seed."""
    here = paths[paths["step"] == step]
    languages = distinct(here, "language")
    figure, axes = canvas.panels(len(languages), 1.6, extra=0.9)
    for each, language in zip(axes, languages, strict=True):
        mine = rows(here, language=language)
        for arm, (_, look) in FROZEN.items():
            for _, path in rows(mine, arm=arm).groupby("seed"):
                ordered = path.sort_values("training_step")
                each.plot(
                    ordered["gain"], ordered["forgetting"], color=look.color, marker=look.marker,
                    linestyle=look.dash, linewidth=0.8, markersize=2.6,
                )  # fmt: skip
        each.axhline(0, color="black", linewidth=0.6, zorder=1)
        each.locator_params(nbins=5)
        each.set_title(style.short(language), loc="left", fontweight="bold")
    figure.supxlabel("gain on the new language (nats/token)")
    figure.supylabel("forgetting (nats/token)")
    canvas.legend(figure, *_language_legend(dict(FROZEN.values())))
    return figure


@canvas.drawn
def steering(table: pd.DataFrame, step: int) -> Figure:
    """Share of the target language in what is written: before, steered, under random controls."""
    here = table[(table["step"] == step) & (table["language"] == table["target"])]
    directions = distinct(here, "edit")
    figure, (axes,) = canvas.panels(1, 0.24 * len(directions) + 0.5, extra=0.9)
    at = np.arange(len(directions), dtype=np.float64)
    for index, (statistic, (_, look)) in enumerate(STEERED.items()):
        found = rows(here, statistic=statistic).set_index("edit").reindex(directions)
        place = at + (index - 1) * 0.22
        ends = numbers(found, "low"), numbers(found, "high")
        axes.hlines(place, *ends, color=look.color, linewidth=1)
        axes.plot(
            numbers(found, "value"), place, linestyle="none", marker=look.marker, color=look.color
        )
    axes.set_yticks(at, [style.short(d) for d in directions])
    axes.set_ylim(len(directions) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share of the target among the distinctive tokens that are written")
    canvas.legend(figure, *_language_legend(dict(STEERED.values())))
    return figure


STEERED = {
    "share_before": ("not steered", style.Mark(style.BLACK, "o", style.SOLID)),
    "share_steered": ("steered", style.Mark(style.VERMILLION, "s", style.SOLID)),
    "share_control": ("random units", style.Mark(GREY_CONTROL, "|", style.SOLID)),
}
"""Statistic of `steer` -> what it is called, and its look."""


def _crowded(table: pd.DataFrame) -> pd.Series:
    """Rows of edits that are made often and read on many languages: too many for dots."""
    by_edit = table.groupby("edit")
    count = by_edit["number"].transform("nunique") * by_edit["language"].transform("nunique")
    return (by_edit["number"].transform("nunique") > 1) & (count > MOST_DOTS)


def _as_matrix(table: pd.DataFrame) -> list[str]:
    """The edits with several rows (targets, or numbers), each read on several languages."""
    loss = rows(table, statistic="change")
    found = []
    for edit in distinct(loss, "edit"):
        part = rows(loss, edit=edit)
        many = max(part["target"].nunique(), part["number"].nunique())
        languages = part["language"].nunique()
        whole = len(part) == part["step"].nunique() * many * languages
        if min(many, languages) > 1 and whole:
            found.append(edit)
    return found


def draw(
    name: str,
    table: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    paths: pd.DataFrame | None = None,
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures of one intervention: file name -> how to draw it.

    Args:
        name: What the intervention is called.
        table: Its table (`analysis.effects`).
        curves: The run's curves, for the figures that stand beside one.
        paths: Gain and forgetting, of what trains.
    """
    if table.empty or "statistic" not in table.columns:
        return
    loss = table[table["statistic"].isin(["change", "control", "excess"])]
    evidence = table[table["statistic"].str.startswith("evidence_")]
    steps = sorted(table["step"].unique())
    last = int(steps[-1])
    ratio = (table["statistic"] == "ratio").any()
    for edit in _as_matrix(loss):
        yield f"{name}_{edit}_matrix", partial(matrix, loss, edit, last)
    if ratio:
        yield f"{name}_ratio", partial(shared, table, curves)
    if paths is not None:
        yield f"{name}_forgetting", partial(forgetting, paths, last)
    if (table["statistic"] == "share_steered").any():
        yield f"{name}_written", partial(steering, table, last)
    for what, part in (("loss", loss), ("evidence", evidence)):
        if part.empty:
            continue
        single = part[~_crowded(part)]
        if not len(single):
            continue
        yield f"{name}_{what}", partial(dots, single, last, what)
        if len(steps) > 1:
            yield f"{name}_{what}_evolution", partial(evolution, single, what)
