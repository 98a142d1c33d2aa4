"""A folder of saved checkpoints as a series."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from checkpoints.errors import CheckpointError, UserError
from checkpoints.names import compiled, count
from checkpoints.series import Checkpoint, Series

STANDARD_NAMES = re.compile(r"(?:global_)?(?:step|checkpoint)[-_]?(?P<step>\d+)")
"""`step-N`, `stepN`, `checkpoint-N` (Hugging Face Trainer), `global_stepN` (Megatron)."""

SIDECAR = "tracker.json"
"""Optional file in a checkpoint's folder: `{step, tokens, tokens_by_language}`."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def local_series(
    path: str | Path,
    *,
    name: str | None = None,
    pattern: str | None = None,
    tokens_per_step: int | None = None,
    steps: Sequence[int] | None = None,
    select: tuple[int, str] | None = None,
    check: Callable[[Series], Series] | None = None,
) -> Series:
    """Find the checkpoints below `path`.

    Args:
        path: Folder whose sub-folders are checkpoints.
        name: The series' name; by default the folder's.
        pattern: Regular expression that a sub-folder's whole name must match, with a group
            `step` and optionally a group `tokens`.
        tokens_per_step: Where neither sidecar nor name tells the tokens seen.
        steps: Only these steps.
        select: `(n, spacing)`: n of the checkpoints, `log` or `linear` spacing.
        check: Looks at the whole series before any are chosen, and may leave some out.

    Raises:
        UserError: No such folder, nothing in it, a pattern that cannot be used, a bad sidecar.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"series.path={path}: no such folder")
    regex = compiled(pattern, STANDARD_NAMES)
    found: list[Checkpoint] = []
    pending: dict[int, str] = {}
    for child, match in _matches(folder, regex):
        lacking = what_is_lacking(child)
        if lacking:
            pending[int(match["step"])] = f"still being written: {lacking}"
        else:
            found.append(_read(child, match, tokens_per_step))
    if not found:
        raise UserError(_nothing_found(folder, pattern, pending))
    found.sort(key=lambda c: (c.step, c.path.name))
    series = Series(name or folder.resolve().name, tuple(found), pending)
    if check is not None:
        series = check(series)
    if steps is not None:
        series = series.take(steps)
    if select is not None:
        series = series.select(*select)
    if not series.checkpoints:
        raise UserError(_nothing_found(folder, pattern, pending))
    return series


def _matches(folder: Path, regex: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for child in sorted(folder.iterdir()):
        match = regex.fullmatch(child.name)
        if match and child.is_dir():
            yield child, match


def _nothing_found(folder: Path, pattern: str | None, pending: dict[int, str]) -> str:
    if pending:
        first = next(iter(pending.values()))
        return f"{folder}: no complete checkpoint in it yet (step {next(iter(pending))}: {first})"
    wanted = pattern or "step-N, stepN, checkpoint-N, global_stepN"
    return (
        f"{folder}: no checkpoint in it (no sub-folder is named like {wanted}; "
        "series.pattern takes a regular expression with a group `step`)"
    )


def _read(child: Path, match: re.Match[str], tokens_per_step: int | None) -> Checkpoint:
    sidecar = _sidecar(child / SIDECAR)
    step = int(match["step"] if sidecar.get("step") is None else sidecar["step"])
    tokens = sidecar.get("tokens")
    if tokens is None and "tokens" in match.re.groupindex and match["tokens"]:
        tokens = count(match["tokens"])
    if tokens is None and tokens_per_step is not None:
        tokens = step * tokens_per_step
    by_language = {str(k): int(v) for k, v in (sidecar.get("tokens_by_language") or {}).items()}
    return Checkpoint(step, child, child.name, None if tokens is None else int(tokens), by_language)


def _sidecar(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    numbers = [content.get("step"), content.get("tokens")] if isinstance(content, dict) else [""]
    by_language = content.get("tokens_by_language") if isinstance(content, dict) else None
    if isinstance(by_language, dict):
        numbers += list(by_language.values())
    elif by_language is not None:
        numbers.append("")
    if not all(n is None or (isinstance(n, int | float) and n == int(n)) for n in numbers):
        raise UserError(
            f"{path}: expected an object with the numbers step and tokens and an object "
            "tokens_by_language of numbers"
        )
    return dict(content)


def what_is_lacking(folder: Path) -> str:
    """What a checkpoint that is still being written lacks; empty where everything is there.

    Judged by names: the model's config, and the weights with every shard that their index lists;
    a sidecar that is there must be whole. Weights that are cut short are for `check_weights`.
    """
    if not (folder / "config.json").exists():
        return "no config.json"
    if (folder / SIDECAR).exists() and not _is_json(folder / SIDECAR):
        return f"{SIDECAR} is not whole"
    if any((folder / weights).exists() for weights in _WEIGHTS):
        return ""
    for weights in _WEIGHTS:
        index = folder / f"{weights}.index.json"
        if index.exists():
            missing = [s for s in _shards(index) if not (folder / s).exists()]
            return f"no {missing[0]}" if missing else ""
    return "no weights (model.safetensors or pytorch_model.bin)"


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError):
        return [index.name]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors where there are any, else `.bin`."""
    for weights in _WEIGHTS:
        if (folder / weights).exists():
            return [folder / weights]
        index = folder / f"{weights}.index.json"
        if index.exists():
            return [folder / shard for shard in _shards(index)]
    raise CheckpointError(f"{folder.name}: no weights")


def check_weights(folder: Path) -> list[Path]:
    """The weight files, each known to be whole.

    A safetensors file tells in its header how long it must be; a `.bin` file is a zip archive
    whose directory is written last.

    Raises:
        CheckpointError: A file is absent, cut short or not what its name says.
    """
    files = weight_files(folder)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"no {file.name}")
        if file.suffix == ".safetensors":
            _check_safetensors(file)
        elif not _is_zip(file):
            raise CheckpointError(f"{file.name} is truncated or not a PyTorch zip archive")
    return files


def _is_zip(file: Path) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except (zipfile.BadZipFile, ValueError):  # its last bytes say what cannot be
        return False


def _check_safetensors(file: Path) -> None:
    """Layout: 8 bytes little-endian header length, JSON header, data (safetensors format)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(f"{file.name} is truncated ({size} bytes)")
        try:
            header = json.loads(stream.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise CheckpointError(f"{file.name} has a damaged header") from None
    if size != expected:
        raise CheckpointError(f"{file.name} is truncated ({size} of {expected} bytes)")
