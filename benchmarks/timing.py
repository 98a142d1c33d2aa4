"""Times compared round by round, and what they were taken on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch

Arms = Mapping[str, Callable[[], object]]


def rounds(arms: Arms, count: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every arm in every round; a round runs each arm once, and the first is dropped."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(count + 1):
        for name, run in arms.items():
            start = clock()
            run()
            if number:
                found[name].append(clock() - start)
    return found


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Time of the processor is the one to believe where other jobs run."""


def against(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratios within the rounds: what slows a round slows both."""
    return [mine / theirs for mine, theirs in zip(times, base, strict=True)]


def spread(values: Sequence[float]) -> str:
    """`1.08 [1.05, 1.11]`: median and range."""
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def machine(*packages: str) -> dict[str, str]:
    """Processor, threads and versions."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", *packages)},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, value in facts.items()}
    extra = [f for f in ("amx_bf16", "avx512_bf16", "avx2") if f in found.get("flags", "").split()]
    return f"{found.get('model name', platform.machine())} ({', '.join(extra[:1]) or 'no bf16'})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
