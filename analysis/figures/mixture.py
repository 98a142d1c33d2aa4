"""The proposed mixture beside the natural and the uniform one."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import style
from analysis.figures import canvas
from analysis.figures.tables import distinct, numbers, rows

BASELINES = ("babel_tower", "natural", "uniform", "temperature")
"""Proposers that stand beside the proposal, after all others."""
LOOKS: tuple[dict[str, Any], ...] = (
    {"facecolor": style.BLUE, "hatch": ""},
    {"facecolor": style.ORANGE, "hatch": "///"},
    {"facecolor": "#D0D0D0", "hatch": ""},
    {"facecolor": "#FFFFFF", "hatch": "....."},
    {"facecolor": style.SKY, "hatch": "xxxxx"},
    {"facecolor": style.GREEN, "hatch": "|||||"},
    {"facecolor": style.PURPLE, "hatch": "-----"},
    {"facecolor": style.GREY, "hatch": "+++++"},
)
PITCH = 0.165
"""Height of one bar with its annotation, in inches."""


def proposers(mixture: pd.DataFrame, proposed: str = "") -> list[str]:
    """All proposers: the proposed one, others, then the baselines."""
    names = distinct(mixture, "proposer")
    ordered = [n for n in names if n not in BASELINES] + [n for n in BASELINES if n in names]
    return sorted(ordered, key=lambda name: name != proposed)


def applies(mixture: pd.DataFrame, proposer: str) -> bool:
    """Whether a proposer has something to say about this series."""
    found = rows(mixture, proposer=proposer)
    return bool(found["applies"].astype(bool).all()) and not found.empty


def reasons(mixture: pd.DataFrame, proposer: str) -> list[str]:
    """What a proposer says, once per distinct reason, led by the languages it holds for."""
    found = rows(mixture, proposer=proposer)
    by_reason: dict[str, list[str]] = {}
    for language, reason in zip(found["language"], found["reason"], strict=True):
        if isinstance(reason, str) and reason:
            by_reason.setdefault(reason, []).append(style.short(str(language)))
    return [
        reason if len(names) == len(found) else f"{', '.join(names)}: {reason}"
        for reason, names in by_reason.items()
    ]


def share_text(value: float) -> str:
    """0.42; two digits where that would read 0.00; "–" where undefined."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.1g}"


@canvas.drawn
def mixture(mixture: pd.DataFrame, proposed: str = "") -> Figure:
    """Token share per language as grouped bars, one bar per proposer that applies.

    Each bar carries its 95% interval, its value and the number of passes over the available
    tokens. Proposers that do not apply are named below the bars, with the reason.
    """
    names = proposers(mixture, proposed)
    shown = [name for name in names if applies(mixture, name)]
    if not names:
        return canvas.blank("No mixture was proposed.")
    languages = distinct(mixture, "language")
    silent = _silent(mixture, [name for name in names if name not in shown])
    lines = sum(label.count("\n") + 1 for label in silent)
    group = max(1, len(shown)) + 0.7
    height = len(languages) * group * PITCH + 0.95 + style.LINE * lines
    figure, (axes,) = canvas.panels(1, height, extra=0)
    axes.set_ylim(len(languages) * group - 0.35, -0.85)
    for index, name in enumerate(shown):
        at = np.arange(len(languages)) * group + index
        _bars(axes, rows(mixture, proposer=name), languages, at, LOOKS[index % len(LOOKS)], name)
    middle = np.arange(len(languages)) * group + (max(1, len(shown)) - 1) / 2
    axes.set_yticks(middle, [style.short(name) for name in languages])
    axes.tick_params(axis="y", length=0)
    for edge in np.arange(1, len(languages)) * group - 0.85:
        axes.axhline(edge, color="#C8C8C8", linewidth=0.6)
    axes.set_xlim(0, 1.0 + 0.25 * bool(shown))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_xlabel("token share of the mixture (0 to 1)")
    handles: list[Artist] = [_patch(index) for index in range(len(shown))]
    canvas.legend(figure, handles, [_name(n, proposed or names[0]) for n in shown])
    none = Patch(facecolor="none", edgecolor="black", linestyle=":", linewidth=0.8)
    canvas.legend(figure, [none] * len(silent), silent, where="lower")
    return figure


def epochs_text(passes: float) -> str:
    """0.3, 2.5, 16, 1.2k epochs."""
    return f"{passes:.1f} epochs" if passes < 9.95 else f"{style.si(passes)} epochs"


def _name(name: str, proposed: str) -> str:
    return f"{style.short(name)} (proposed)" if name == proposed else style.short(name)


def _patch(index: int) -> Patch:
    return Patch(**LOOKS[index % len(LOOKS)], edgecolor="black", linewidth=0.5)


def _silent(mixture: pd.DataFrame, names: list[str]) -> list[str]:
    """Why each of these says nothing, wrapped to the width of the page."""
    texts = [
        f"{style.short(name)} does not apply: {'; '.join(reasons(mixture, name)) or 'no reason'}"
        for name in names
    ]
    return ["\n".join(style.wrap(text, style.WIDTH - 0.8)) for text in texts]


def _bars(
    axes: Axes,
    proposal: pd.DataFrame,
    languages: list[str],
    at: np.ndarray,
    look: dict[str, Any],
    name: str,
) -> None:
    """One proposer's bars, intervals and annotations."""
    by_language = proposal.drop_duplicates("language").set_index("language").reindex(languages)
    share, epochs = numbers(by_language, "token_share"), numbers(by_language, "epochs")
    low, high = numbers(by_language, "low"), numbers(by_language, "high")
    axes.barh(at, share, 0.82, edgecolor="black", linewidth=0.5, gid=f"share:{name}", **look)
    # A white rim keeps the interval visible on a dark bar.
    axes.hlines(at, low, high, color="white", linewidth=3.2)
    axes.hlines(at, low, high, color="black", linewidth=1.4, gid=f"interval:{name}")
    for y, value, top, passes in zip(at, share, high, epochs, strict=True):
        if np.isfinite(value):
            text = share_text(value) + (f", {epochs_text(passes)}" if np.isfinite(passes) else "")
            axes.text(
                np.nanmax([value, top]) + 0.01, y, text, va="center", ha="left", gid="annotation"
            )
