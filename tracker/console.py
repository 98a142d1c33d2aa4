"""What a person sees while it runs: bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import rich.console
import rich.progress
from rich.table import Table

if TYPE_CHECKING:
    from analysis.mixture import Mixture

Progress = Callable[[int, int, str], None]


class Console:
    """Results go to stdout, everything else to stderr.

    Args:
        who: Stands before every line about the run.
        bars: Whether progress is drawn: bars of several processes would overwrite each other.
    """

    def __init__(self, who: str = "", bars: bool = True) -> None:
        self.who, self.bars = who, bars
        self.out = rich.console.Console(file=sys.stdout, soft_wrap=True, highlight=False)
        self.err = rich.console.Console(
            file=sys.stderr, soft_wrap=True, highlight=False, markup=False
        )

    def result(self, text: str) -> None:
        """One line of a result, never wrapped."""
        self.out.print(text, markup=False)

    def say(self, text: str) -> None:
        """One line about the run."""
        self.err.print(f"{self.who}{text}")

    def error(self, text: str) -> None:
        """One line saying what was wrong."""
        self.err.print(f"tracker: {self.who}{text}")

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar with the time left on a terminal; without one, nothing is drawn."""
        bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=self.err,
            disable=not (self.bars and self.err.is_terminal),
        )
        with bar:
            task: rich.progress.TaskID | None = None

            def update(done: int, total: int, what: str) -> None:
                nonlocal task
                if task is None:
                    task = bar.add_task(title, total=total)
                bar.update(task, completed=done, total=total, description=f"{title}: {what}")

            yield update

    def stages(self, sentences: Sequence[str], stages: pd.DataFrame) -> None:
        """Has it split, and when: a table on a terminal, one plain line per language elsewhere."""
        if self.out.is_terminal:
            self.out.print(self._stage_table(stages))
        else:
            for sentence in sentences:
                self.result(sentence)

    def _stage_table(self, stages: pd.DataFrame) -> Table:
        table = Table(title="Stages, in what was seen of the language (95% intervals)")
        table.add_column("language")
        table.add_column("measure")
        for name in ("translation until", "midpoint", "stabilization from"):
            table.add_column(name, justify="right")
        splits = stages[stages["outcome"].isin(["split", "no_split"])]
        for (language, measure), rows in splits.groupby(["language", "measure"], sort=False):
            cells = [_boundary(rows, s) for s in ("translation_end", "midpoint", "transition_end")]
            if rows["outcome"].iloc[0] == "no_split":
                cells = ["no split found", str(rows["reason"].iloc[0]), ""]
            title = str(measure).removesuffix("_share").replace("_", " ")
            table.add_row(str(language), title, *cells)
        return table

    def mixture(self, proposed: Mixture) -> None:
        """The proposed shares beside the natural ones."""
        if proposed.curves:
            self.result(f"curves: not applicable to a mixture: {proposed.curves}")
        default, natural = proposed.proposal(), proposed.proposal("natural")
        if not default.applies:
            self.result(f"mixture ({default.proposer}): not applicable ({default.reason})")
            self._baselines(proposed)
        elif self.out.is_terminal:
            self._mixture_table(proposed)
        else:
            for language, weight in default.weights.items():
                self.result(
                    f"mixture: {language} {weight.token_share:.3f} "
                    f"[{weight.low:.3f}, {weight.high:.3f}] "
                    f"natural {natural.weights[language].token_share:.3f} ({weight.reason})"
                )

    def _baselines(self, proposed: Mixture) -> None:
        """What there is where the proposer has nothing to say."""
        for proposal in proposed.proposals:
            if proposal.applies:
                shares = ", ".join(f"{c} {share:.3f}" for c, share in proposal.shares.items())
                self.result(f"mixture ({proposal.proposer}): {shares}")

    def _mixture_table(self, proposed: Mixture) -> None:
        default, natural = proposed.proposal(), proposed.proposal("natural")
        table = Table(title=f"Proposed mixture ({default.proposer}), shares of training tokens")
        for name in ("language", "proposed", "interval", "natural", "epochs", "why"):
            table.add_column(name, justify="left" if name in ("language", "why") else "right")
        for language, weight in default.weights.items():
            table.add_row(
                language,
                f"{weight.token_share:.1%}",
                f"{weight.low:.1%} - {weight.high:.1%}",
                f"{natural.weights[language].token_share:.1%}",
                f"{weight.epochs:.1f}",
                weight.reason,
            )
        self.out.print(table)


def _boundary(rows: pd.DataFrame, statistic: str) -> str:
    """One statistic with its interval; what lies outside the data is a question mark."""
    found = rows[rows["statistic"] == statistic]
    if found.empty:
        return ""
    from analysis.mixture import count_text

    value, low, high = (
        "?" if pd.isna(v) else count_text(float(v)) for v in found[["value", "low", "high"]].iloc[0]
    )
    return f"{value} [{low}, {high}]"
