"""Figures: functions of tables that return matplotlib figures, and their saving.

A figure reads nothing but its tables and leaves no global state behind.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.figures.babel_tower import babel_tower
from analysis.figures.canvas import render, save
from analysis.figures.mixture import mixture
from analysis.figures.neuron_layers import neuron_layers
from analysis.figures.neuron_sets import neuron_sets
from analysis.figures.performance import performance
from analysis.figures.tables import Tables
from analysis.figures.tower import tower

FIGURES: dict[str, Callable[[Tables], Figure]] = {
    "babel_tower": lambda t: babel_tower(t.curves, t.fits, t.stages),
    "tower": lambda t: tower(t.layers, t.curves),
    "neuron_sets": lambda t: neuron_sets(t.sets, t.curves),
    "neuron_layers": lambda t: neuron_layers(t.sets, t.curves),
    "performance": lambda t: performance(t.curves),
    "mixture": lambda t: mixture(t.mixture, t.proposed),
}
"""File name -> figure, in the order of the report."""

__all__ = [
    "FIGURES",
    "Tables",
    "babel_tower",
    "mixture",
    "neuron_layers",
    "neuron_sets",
    "performance",
    "render",
    "save",
    "tower",
]
