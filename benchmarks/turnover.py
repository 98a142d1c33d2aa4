"""What a sweep costs beside its measuring: weights read, hashed and put in, records written.

    python benchmarks/turnover.py                       # 6 checkpoints of the pythia-70m shape
    python benchmarks/turnover.py --checkpoints 20 --tokens 2048

The files are dropped from the system's memory first, so that they come from the disk. The base is
the time of measuring alone, taken in the same process before and after on weights that are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from shapes import BUT_REGIONS, LANGUAGES, SHAPES, context, make, tokenizer
from timing import CLOCKS, machine, table

from checkpoints.local import local_series
from tracker.documents import Document, from_programs
from tracker.loading import ModelSettings
from tracker.probes import Context
from tracker.sweep import Measurement, Sweep, series_tokenizer, track
from tracker.text import TextSettings


def write_series(folder: Path, shape: str, checkpoints: int) -> None:
    """Checkpoints that drift, stored in half precision as Pythia's are."""
    model, reader = make(shape), tokenizer(documents(len(LANGUAGES)))
    for step in range(1, checkpoints + 1):
        place = folder / f"step{step}"
        with torch.no_grad():
            for weight in model.parameters():
                weight += 1e-3 * torch.randn_like(weight)
        weights = {name: w.half() for name, w in model.state_dict().items()}
        model.save_pretrained(place, state_dict=weights)
        reader.save_pretrained(place)


def documents(languages: int) -> tuple[Document, ...]:
    """The text of `shapes.context`."""
    chosen = LANGUAGES[:languages]
    return tuple(d for d in from_programs().documents if d.language in chosen and not d.graded_only)


def drop(folder: Path) -> None:
    """Have the next reader of the files go to the disk."""
    os.sync()
    for file in folder.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def of(folder: Path, tokens: int, languages: int, dtype: str) -> Measurement:
    """What is measured of a folder of checkpoints."""
    series = local_series(folder)
    reader, digest = series_tokenizer(series, None)
    return Measurement(
        series=series, tokenizer=reader, tokenizer_digest=digest,
        documents=documents(languages), concept_table=(), languages=LANGUAGES[:languages],
        primary=LANGUAGES[0], text_settings=TextSettings(tokens_per_language=tokens),
        probes={type(probe).__name__: probe for probe in BUT_REGIONS},
        model_settings=ModelSettings(dtype=dtype, device="cpu"), seed=0, config="", longest=2048,
    )  # fmt: skip


def measured(measurement: Measurement, text: Context, clock: Callable[[], float]) -> list[float]:
    """Seconds of measuring one checkpoint, again and again, after a first time."""
    sweep = Sweep(measurement, Path(), text)
    model = sweep.load(measurement.series.checkpoints[0])
    times = []
    for _ in range(4):
        start = clock()
        sweep.measure(model)
        times.append(clock() - start)
    return times[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and write the numbers where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="pythia-70m")
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=1024, help="per language")
    parser.add_argument("--languages", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    clock = CLOCKS[given.clock]
    text = context(given.tokens, given.languages)
    with tempfile.TemporaryDirectory(prefix="turnover-") as scratch:
        folder = Path(scratch)
        write_series(folder / "series", given.shape, given.checkpoints)
        m = of(folder / "series", given.tokens, given.languages, given.dtype)
        alone = measured(m, text, clock)
        drop(folder)
        start = clock()
        track(m, folder / "records", context=text)
        whole = clock() - start
        alone += measured(m, text, clock)  # a machine's speed drifts within minutes
    measuring = median(alone)
    ratio = whole / (given.checkpoints * measuring)
    print(table(
        ("shape", "checkpoints", "measuring one", "sweep", "sweep / sum of measuring", "at most"),
        [[given.shape, str(given.checkpoints), f"{measuring:.2f} s", f"{whole:.1f} s",
          f"{ratio:.3f}", "1.05"]],
    ))  # fmt: skip
    if given.out is not None:
        facts = {
            "machine": machine(), "shape": given.shape, "checkpoints": given.checkpoints,
            "tokens": given.tokens, "languages": given.languages, "dtype": given.dtype,
            "measuring": alone, "sweep": whole, "ratio": ratio,
        }  # fmt: skip
        given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
