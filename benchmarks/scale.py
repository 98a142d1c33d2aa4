"""What a sweep over a public series costs on 1, 8 and 64 workers, and what limits it: arithmetic.

    python benchmarks/scale.py                       # the tables of docs/scale.md
    python benchmarks/scale.py --rate 150 --line 10  # 150 TFLOP/s per worker, 10 Gbit/s for each

One worker downloads a checkpoint while it measures the one before: its time per checkpoint is the
longer of the two. Floating-point operations per token are counted, 2 per weight forward, 2 backward
to the activations and 2 to the weights; the rate at which a device does them is an assumption here
(`benchmarks/speed.py` measures yours).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from timing import table

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Run:
    """A public series."""

    name: str
    checkpoints: int
    parameters: float
    bytes_each: float
    record: float
    """Bytes of a record, about: as many per unit as for the pythia-160m shape."""


RUNS = (
    Run("pythia-410m", 154, 405e6, 0.81 * GB, 0.06 * GB),
    Run("pythia-6.9b", 154, 6857e6, 13.7 * GB, 0.32 * GB),
    Run("olmo-1b", 1446, 1177e6, 4.71 * GB, 0.08 * GB),
)


@dataclass(frozen=True)
class Worker:
    """What one worker does in a second."""

    rate: float
    """Floating-point operations, sustained."""
    line: float
    """Bytes from the Hub."""
    disk: float = 2 * GB
    """Bytes of weights from the disk to the device."""


@dataclass(frozen=True)
class Cost:
    """Of one checkpoint, in seconds."""

    download: float
    measure: float

    @property
    def each(self) -> float:
        """The longer one hides the other."""
        return max(self.download, self.measure)


def cost(run: Run, worker: Worker, tokens: float, regions: bool) -> Cost:
    """Of a checkpoint of a run."""
    work = (6 if regions else 4) * run.parameters * tokens
    return Cost(run.bytes_each / worker.line, work / worker.rate + run.bytes_each / worker.disk)


def wall(run: Run, each: float, workers: int, shared: float | None) -> float:
    """Hours: full rounds of checkpoints, and never faster than a line that all share (bytes/s)."""
    own = ceil(run.checkpoints / workers) * each
    together = 0.0 if shared is None else run.checkpoints * run.bytes_each / shared
    return max(own, together) / 3600


def rows(given: argparse.Namespace) -> list[list[str]]:
    """A row per run."""
    worker = Worker(given.rate * TERA, given.line / 8 * GB)
    found = []
    for run in RUNS:
        one = cost(run, worker, given.tokens, not given.without_regions)
        limit = "download" if one.download > one.measure else "measuring"
        found.append([
            run.name, str(run.checkpoints), f"{run.checkpoints * run.bytes_each / TERA:.2f} TB",
            f"{one.download:.0f} s", f"{one.measure:.0f} s", limit,
            f"{run.checkpoints * one.measure / 3600:.1f} h",
            *(
                f"{wall(run, one.each, n, given.shared / 8 * GB):.1f} h"
                for n in (1, 8, 64)
            ),
            f"{2 * run.bytes_each / GB:.0f} GB", f"{run.checkpoints * run.record / GB:.0f} GB",
        ])  # fmt: skip
    return found


HEADS = (
    "series", "checkpoints", "download", "download each", "measuring each", "limit", "GPU hours",
    "1 worker", "8 workers", "64 workers", "disk per worker", "records",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=200, help="TFLOP/s that a worker sustains")
    parser.add_argument("--line", type=float, default=1, help="Gbit/s of each worker")
    parser.add_argument("--shared", type=float, default=10, help="Gbit/s of all workers together")
    parser.add_argument("--tokens", type=float, default=140_000, help="of probe text")
    parser.add_argument("--without-regions", action="store_true")
    print(table(HEADS, rows(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
