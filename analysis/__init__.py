"""Records in; curves, stages, figures, mixtures and a report out."""

from analysis.effects import Intervened, load_interventions
from analysis.run import Run, load_run

__all__ = ["Intervened", "Run", "load_interventions", "load_run"]
