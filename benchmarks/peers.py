"""Side by side with TransformerLens, nnsight and a reload per metric: the same numbers, timed.

    python benchmarks/peers.py --out peers.json     # a table on stdout
    pip install 'transformer-lens>=4.3' 'nnsight>=0.8'   # what is compared; never needed otherwise

Two jobs on the same text, in the same batches, with the same weights:

- `counts`: on how many tokens each MLP unit is active, per language (what LAPE starts from);
- `whole`: that, the loss of each document, mean hidden states of each language and each document
  at every layer, importance `|a · dL/da|` of each unit, the logit lens' scores of the concepts'
  first tokens at counterpart positions, and `a/σ` summed at those positions.

Each peer twice. *At its best*: one forward per batch for all of it, and the means of its own
documentation that make it fastest here: forward hooks rather than a cache, no unembedding where no
loss is asked for (`logits_to_keep=1`), no gradients of parameters, none below the first activation;
with the tensors it does what we found fastest (`Sums`), which is this project's own arithmetic.
*As documented*: the calls of the pages that its class names, a forward per page, and sums as a
notebook has them (`PlainSums`); the pages leave the parameters their gradients, and nnsight's
unembeds all positions at every layer. Both do less than this project: no sums per fold, no summed
activations. The reload loads the checkpoint and runs once
for each of seven metrics, at its best only what the metric needs, as documented all states of the
checkpoint, as pico-analyze gets them for each metric (`ReloadAsDocumented`); this project's time
beside it includes its own load. A peer's load is not counted.

The sums of all must agree (`agree`). Statistics that come after the sums are in nobody's time.
Arms take turns within a round; ratios are those of one round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

from peer_nnsight import NNsight, NNsightAsDocumented
from peer_plain import (
    JOBS,
    Alone,
    Job,
    Ours,
    ReloadAsDocumented,
    ReloadAtItsBest,
    Setting,
)
from peer_sums import Work, agree
from peer_transformer_lens import TransformerLens, TransformerLensAsDocumented
from shapes import SHAPES, context, make, tokenizer
from timing import CLOCKS, against, machine, rounds, spread, table

from tracker.documents import from_programs


class Arm:
    """One way of doing a job: notes its processor time, and its first result for comparison."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.cpu: list[float] = []
        self.first: Any = None

    def __call__(self) -> None:
        """Once."""
        start = time.process_time()
        result = self.work()
        self.cpu.append(time.process_time() - start)
        if len(self.cpu) == 1:
            self.first = result


@dataclass(frozen=True)
class Row:
    """One arm of one job. Ratios are within rounds, to the arm `beside`."""

    job: str
    arm: str
    beside: str
    wall: list[float]
    cpu: list[float]
    wall_ratio: list[float]
    cpu_ratio: list[float]
    target: float | None

    def cells(self) -> list[str]:
        """As the table has them."""
        own = self.arm == self.beside
        return [
            self.job,
            self.arm,
            f"{spread(self.wall)} s",
            "" if own else spread(self.wall_ratio),
            f"{spread(self.cpu)} s",
            "" if own else spread(self.cpu_ratio),
            "" if self.target is None else f"{self.target:g}",
        ]


OURS = "this project"
LOADED = f"{OURS}, with its load"
RELOADS: dict[str, Callable[[Setting], Any]] = {
    "reload per metric, at its best": ReloadAtItsBest,
    "reload per metric, as documented": ReloadAsDocumented,
}
RELOAD_TARGET = 10.0
PEERS: dict[str, tuple[str, Callable[[Setting], Any]]] = {
    "TransformerLens, at its best": ("transformer_lens", TransformerLens),
    "TransformerLens, as documented": ("transformer_lens", TransformerLensAsDocumented),
    "nnsight, at its best": ("nnsight", NNsight),
    "nnsight, as documented": ("nnsight", NNsightAsDocumented),
}
"""Name -> package, and what is made of a setting and called with a job."""
HEADS = ("job", "", "wall", "times ours", "CPU", "times ours", "target")


class Bench:
    """All arms, made once."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.ours = setting, Ours(setting)
        self.peers = {
            name: make(setting) for name, (package, make) in PEERS.items() if installed(package)
        }
        self.alone = Alone(setting)
        self.reloads = {name: make(setting) for name, make in RELOADS.items()}

    def arms(self, job: Job) -> dict[str, Arm]:
        """By name."""
        whole = job.name == "whole"
        found = {OURS: Arm(lambda: self.ours.run(job))}
        for name, peer in self.peers.items():
            found[name] = Arm(partial(peer, job))
        found["transformers alone"] = Arm(lambda: self.alone(job))
        if whole:
            found[LOADED] = Arm(lambda: self.ours.run(job, load=True))
            found |= {name: Arm(partial(reload, job)) for name, reload in self.reloads.items()}
        return found

    def run(self, job: Job, count: int) -> tuple[list[Row], dict[str, dict[str, float]]]:
        """A row per arm, and how far each peer's sums are from ours."""
        arms = self.arms(job)
        wall = rounds(arms, count, CLOCKS["wall"])
        cpu = {name: arm.cpu[1:] for name, arm in arms.items()}
        others = (*self.peers, *self.reloads)
        rows = []
        for name in arms:
            beside = LOADED if name in (LOADED, *self.reloads) else OURS
            target = RELOAD_TARGET if name in self.reloads else job.target
            rows.append(
                Row(
                    job.name, name, beside, wall[name], cpu[name],
                    against(wall[name], wall[beside]), against(cpu[name], cpu[beside]),
                    target if name in others else None,
                )
            )  # fmt: skip
        ours = self.ours.found(job, arms[OURS].first)
        error = {
            name: agree(ours, arm.first, self.setting.work)
            for name, arm in arms.items()
            if name in others
        }
        return rows, error


def installed(package: str) -> bool:
    """Whether a peer is there."""
    return util.find_spec(package) is not None


def save(shape: str, folder: Path) -> None:
    """A checkpoint with a tokenizer, which the peers load although none is used."""
    make(shape).save_pretrained(folder)
    documents = tuple(d for d in from_programs().documents if d.language == "python")[:100]
    tokenizer(documents).save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and write the numbers where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="pythia-70m")
    parser.add_argument("--tokens", type=int, default=800, help="per language")
    parser.add_argument("--languages", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    work = Work(context(given.tokens, given.languages))
    rows, error = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        save(given.shape, Path(scratch))
        for package in sorted({package for package, _ in PEERS.values() if not installed(package)}):
            print(f"{package} is not installed and left out\n")
        bench = Bench(Setting(Path(scratch), work, SHAPES[given.shape]))
        for job in JOBS:
            more, error[job.name] = bench.run(job, given.rounds)
            rows += more
    print(table(HEADS, [row.cells() for row in rows]))
    for name, errors in error.items():
        worst = {m: max(e[m] for e in errors.values()) for e in errors.values() for m in e}
        said = ", ".join(f"{m} {e:.0e}" for m, e in worst.items())
        if errors:
            print(f"\n{name}: largest relative difference of the sums: {said}")
    if given.out is not None:
        facts = {
            "machine": machine("transformer-lens", "nnsight"),
            "shape": given.shape,
            "tokens": int(work.text.tokens().sum()),
            "padded": sum(p.batch.ids.numel() for p in work.places),
            "positions": len(work.index.positions),
            "difference": error,
            "rows": [asdict(row) for row in rows],
        }
        given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
