"""Records in; curves, stages, figures, mixtures and a report out."""

from analysis.run import Run, load_run

__all__ = ["Run", "load_run"]
