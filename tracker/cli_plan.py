"""`task=plan`: what a series holds and what tracking it takes, before any weights are read.

Part of the command line, so it composes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from checkpoints.errors import CheckpointError
from checkpoints.hub import page
from checkpoints.local import weight_files as files_of
from checkpoints.remote import hub_series
from checkpoints.series import Series, shortened
from checkpoints.shelf import HubShelf, weight_files
from tracker.config import HubSettings, demo_folder, demo_settings, find_series, hub_settings
from tracker.console import Console
from tracker.ends import DONE

LINES = {"100 Mbit/s": 100e6 / 8, "1 Gbit/s": 1e9 / 8}
"""Name of a line to the Hub -> bytes per second."""
UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


def plan(config: DictConfig, console: Console) -> int:
    """Say it; the exit code."""
    demo = demo_settings(config)
    if demo is not None and not demo_folder(config, demo).exists():
        console.result(
            f"{config.series.name}: trained here when it is tracked first; nothing is downloaded"
        )
        return DONE
    public = hub_settings(config)
    with console.progress("listing the series") as progress:
        if public is None:
            series = find_series(config, progress)[0]
        else:
            series = hub_series(public.run(), listed_only=True)
    console.result(
        f"{series.name}: {_many(len(series.checkpoints), 'checkpoint')} to track, steps "
        f"{shortened(series.steps)}"
    )
    for line in (*_said_of(public), *_weights(series), *series.remarks):
        console.result(line)
    left_out = sorted(series.suspects)
    if left_out:
        console.result(
            f"left out: steps {shortened(left_out)}; series.suspects=keep tracks them nevertheless"
        )
    return DONE


def _said_of(public: HubSettings | None) -> Iterator[str]:
    """What its settings tell that no listing does."""
    if public is not None and public.gated and public.repo is not None:
        yield f"gated: accept the terms at {page(public.repo)} and set HF_TOKEN before you track it"


def _weights(series: Series) -> Iterator[str]:
    """Bytes, requests, time and disk."""
    shelf = series.shelf
    if not isinstance(shelf, HubShelf):
        size = sum(map(_bytes, (c.path for c in series.checkpoints)))
        yield f"weights: {_size(size)}, read from the disk"
        return
    files = [weight_files(shelf.revisions[step].files) for step in series.steps]
    sizes = [sum(file.size for file in each) for each in files]
    total, requests = sum(sizes), sum(map(len, files))
    times = ", ".join(f"{_duration(total / speed)} at {name}" for name, speed in LINES.items())
    yield f"download: {_size(total)} in {_many(requests, 'file')}, a request each; {times}"
    kept = total if shelf.keep else sum(sorted(sizes)[-2:])
    why = "series.keep=true" if shelf.keep else "two checkpoints at a time"
    yield f"disk: {_size(kept)} ({why})"


def _bytes(folder: Path) -> int:
    """Of a checkpoint's weights; 0 where the sweep will say what is wrong with them."""
    try:
        return sum(file.stat().st_size for file in files_of(folder))
    except (CheckpointError, OSError):
        return 0


def _size(count: float) -> str:
    """`1,540 GB`, `0.81 GB`, `87 kB`."""
    name = next((unit for unit, least in UNITS.items() if count >= least / 10), "kB")
    value = count / UNITS[name]
    return f"{value:,.0f} {name}" if value >= 100 else f"{value:.2g} {name}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
