"""What measuring costs beside the forward that it needs: ratios to plain passes of the same model.

    python benchmarks/speed.py                          # three shapes, a few minutes on two cores
    python benchmarks/speed.py --shape pythia-410m --tokens 4096 --rounds 5

Arms that are measured against:

- `F`: the model's own forward with `labels=`, nothing kept;
- `B`: the same, and the gradients at the inputs of the MLPs' output projections;
- `FB`: the same, and the gradients of all parameters (a training step without the step).

All read the same batches. Results (what is computed once per checkpoint after the last batch) are
timed apart: they do not grow with the text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import BUT_REGIONS, LENS, SHAPES, STATISTICS, context, make
from timing import CLOCKS, against, machine, rounds, spread, table

from tracker.model import LanguageModel
from tracker.one_pass import one_pass
from tracker.probes import Accumulator, Context, Probe
from tracker.probes.importance import Importance
from tracker.probes.performance import Performance
from tracker.probes.regions import Regions


@dataclass(frozen=True)
class Target:
    """A set of probes, and what it may cost."""

    name: str
    probes: tuple[Probe, ...]
    base: str
    most: float
    minus: str | None = None
    """Arm whose ratio is taken away: what the probes add."""


def targets(shape: str) -> tuple[Target, ...]:
    """What is aimed at; larger models leave less of a share to overhead."""
    small = SHAPES[shape].hidden_size <= 512
    return (
        Target("loss", (Performance(),), "F", 1.0),
        Target("loss, LAPE, subspaces, alignment", STATISTICS, "F", 1.10),
        Target("the same and importance", (*STATISTICS, Importance()), "B", 1.10),
        Target(
            "logit lens at every layer adds", (Performance(), *LENS), "F", 1.0 if small else 0.5,
            minus="loss",
        ),
        Target("everything but regions", BUT_REGIONS, "B", 1.6 if small else 1.3),
        Target("loss and regions", (Performance(), Regions()), "FB", 1.15),
        Target("everything", (*BUT_REGIONS, Regions()), "FB", 1.3),
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What came out for one target."""

    shape: str
    what: str
    ratio: list[float]
    base: str
    most: float
    seconds: float
    result_seconds: float

    def cells(self) -> list[str]:
        """As the table has them."""
        met = "yes" if median(self.ratio) <= self.most else "no"
        return [
            self.shape, self.what, f"{spread(self.ratio)} {self.base}",
            f"{self.most:.2f} {self.base}", met, f"{self.seconds:.1f} s",
            f"{self.result_seconds:.2f} s",
        ]  # fmt: skip


HEADS = ("shape", "what is measured", "ratio", "at most", "met", "median", "results")


class Bench:
    """One model and its text."""

    def __init__(self, shape: str, text: Context, batch_tokens: int, dtype: torch.dtype) -> None:
        self.shape, self.text, self.size = shape, text, batch_tokens
        self.model = make(shape, dtype)
        self.parts = LanguageModel.of(self.model)
        self.batches = list(text.text.batches(batch_tokens))
        self.made: dict[str, list[Accumulator]] = {}

    def _loss(self, batch: Any) -> torch.Tensor:
        labels = batch.ids.masked_fill(batch.attention == 0, -100)
        loss: torch.Tensor = self.model(
            input_ids=batch.ids, attention_mask=batch.attention, labels=labels, use_cache=False
        ).loss
        return loss

    def forward(self) -> None:
        """`F`."""
        with torch.no_grad():
            for batch in self.batches:
                self._loss(batch).item()

    def activation_gradients(self) -> None:
        """`B`: the graph begins at the first activation whose gradient is asked for."""
        for batch in self.batches:
            units: list[torch.Tensor] = []

            def seen(_module: Any, inputs: Any, units: list[torch.Tensor] = units) -> None:
                if not units:
                    inputs[0].requires_grad_(True)
                units.append(inputs[0])

            handles = [down.register_forward_pre_hook(seen) for down in self.parts.downs]
            torch.autograd.grad(self._loss(batch), units)
            for handle in handles:
                handle.remove()

    def parameter_gradients(self) -> None:
        """`FB`."""
        self.model.requires_grad_(True)
        for batch in self.batches:
            self._loss(batch).backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad()
        self.model.requires_grad_(False)

    def measure(self, target: Target) -> None:
        """Ours, up to the results."""
        self.made[target.name] = one_pass(self.parts, self.text, target.probes, self.size)

    def run(self, count: int, clock: str) -> list[Row]:
        """All arms; a row per target."""
        aims = targets(self.shape)
        arms: dict[str, Any] = {
            "F": self.forward, "B": self.activation_gradients, "FB": self.parameter_gradients,
        }  # fmt: skip
        for target in aims:
            arms[target.name] = lambda t=target: self.measure(t)
            arms[f"results {target.name}"] = lambda t=target: [
                a.result() for a in self.made.pop(t.name)
            ]
        times = rounds(arms, count, CLOCKS[clock])
        return [self._row(target, times) for target in aims]

    def _row(self, target: Target, times: dict[str, list[float]]) -> Row:
        ratio = against(times[target.name], times[target.base])
        if target.minus is not None:
            less = against(times[target.minus], times[target.base])
            ratio = [a - b for a, b in zip(ratio, less, strict=True)]
        mine, after = times[target.name], times[f"results {target.name}"]
        return Row(
            self.shape, target.name, ratio, target.base, target.most, median(mine), median(after)
        )


DEFAULTS = {"pythia-70m": (1024, 3), "llama-110m": (512, 1), "pythia-410m": (256, 1)}
"""Shape -> tokens per language, rounds: a few minutes on two cores."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and write the numbers where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--tokens", type=int, help="per language")
    parser.add_argument("--languages", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    rows = []
    for shape in given.shape or DEFAULTS:
        tokens, count = DEFAULTS.get(shape, (1024, 3))
        text = context(given.tokens or tokens, given.languages)
        bench = Bench(shape, text, given.batch_tokens, getattr(torch, given.dtype))
        rows += bench.run(given.rounds or count, given.clock)
    print(table(HEADS, [row.cells() for row in rows]))
    if given.out is not None:
        facts = {"machine": machine(), "dtype": given.dtype, "rows": [asdict(r) for r in rows]}
        given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
