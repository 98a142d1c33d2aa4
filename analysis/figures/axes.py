"""Two horizontal axes: tokens on a broken logarithmic scale, and checkpoints as equal columns."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.figures.canvas import label_ticks
from analysis.figures.tables import Floats
from analysis.style import si

BREAK = (0.6, 0.74)
"""The break, as a share of the way from 0 to the first positive x."""
ZEROS = 0.34
"""Half-width of the strip for x = 0, as a share of the same way."""


class TokenAxis:
    """Logarithmic from the smallest positive x on; x = 0 stands left of a break.

    The scale is matplotlib's `symlog`, linear below `first`, so artists hold real x values. Several
    checkpoints at x = 0 (before any token of the language) are set side by side in step order.
    """

    def __init__(self, x: Floats) -> None:
        """`x`: every x that will be drawn, NaN allowed."""
        positive = x[np.isfinite(x) & (x > 0)]
        self.first = float(positive.min()) if positive.size else 1.0
        self.last = float(positive.max()) if positive.size else 1.0
        self.has_positive = bool(positive.size)
        self.has_zero = bool((x == 0).any())

    @property
    def decades(self) -> float:
        """Length of the logarithmic part, in powers of ten."""
        return math.log10(self.last / self.first)

    @property
    def left(self) -> float:
        """Left end of the axis."""
        if self.has_zero:
            return -0.5 * self.first
        return self.first * 10 ** -max(0.04 * self.decades, 0.05)

    @property
    def right(self) -> float:
        """Right end of the axis."""
        if not self.has_positive:
            return 0.5 * self.first
        return self.last * 10 ** max(0.04 * self.decades, 0.05)

    def place(self, x: Floats) -> Floats:
        """Where each x of one series is drawn: itself, and zeros side by side around 0."""
        placed = x.copy()
        zero = np.flatnonzero(x == 0)
        if zero.size > 1:
            placed[zero] = np.linspace(-ZEROS, ZEROS, zero.size) * self.first
        return placed

    def apply(self, axes: Axes) -> None:
        """Set scale, limits, ticks and, where both sides exist, the break."""
        gap = max(0.19 * self.decades, 0.1)
        # linscale counts decades of the linear part; symlog divides it by 1 - 1/10.
        axes.set_xscale("symlog", linthresh=self.first, linscale=0.9 * gap)
        axes.set_xlim(self.left, self.right)
        axes.minorticks_off()
        ticks = ([0.0] if self.has_zero else []) + (self._ticks() if self.has_positive else [])
        label_ticks(axes.xaxis, ticks, [si(tick) for tick in ticks])
        if self.has_zero and self.has_positive:
            self._cut(axes)

    def _ticks(self) -> list[float]:
        """Powers of ten and, as far as six ticks suffice, multiples of them between."""
        low, high = math.floor(math.log10(self.left_log)), math.ceil(math.log10(self.right))
        choices = [
            [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
            for factors in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,))
        ]
        inside = [[t for t in choice if self.left_log <= t <= self.right] for choice in choices]
        fitting = [choice for choice in inside if 2 <= len(choice) <= 6]
        # A series within one decade may hold none of them: then its ends are the ticks.
        many = len(inside[-1]) > 1
        return fitting[0] if fitting else inside[-1] if many else sorted({self.first, self.last})

    @property
    def left_log(self) -> float:
        """Left end of the logarithmic part."""
        return self.first if self.has_zero else self.left

    def _cut(self, axes: Axes) -> None:
        """Two slashes on a white gap: the axis does not run from 0 to the first token."""
        low, high = BREAK[0] * self.first, BREAK[1] * self.first
        across = axes.get_xaxis_transform()
        gap = Rectangle(
            (low, -0.02), high - low, 1.04, transform=across, facecolor="white", zorder=6,
            clip_on=False, gid="break",
        )  # fmt: skip
        gap.set_in_layout(False)
        axes.add_patch(gap)
        for x in (low, high):
            axes.plot(
                [x], [0], marker=[(-0.5, -1), (0.5, 1)], markersize=7, color="black", zorder=7,
                transform=across, clip_on=False, linestyle="none", markeredgewidth=0.8,
            )  # fmt: skip


def columns(axes: Axes, labels: Sequence[str]) -> None:
    """Checkpoints in order, one column each, labelled with what each has seen."""
    axes.set_xlim(-0.5, len(labels) - 0.5)
    label_ticks(axes.xaxis, list(range(len(labels))), labels)
