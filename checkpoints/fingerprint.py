"""Which of many large files are equal, reading as little of them as that takes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from checkpoints.errors import CheckpointError, UserError
from checkpoints.files import sha256
from checkpoints.integrity import SUSPECTS, Weights, equal_groups, suspects
from checkpoints.local import weight_files
from checkpoints.series import Series

BLOCKS, BLOCK = 16, 4096
"""Blocks read of every file, and bytes of each, before whole files are compared."""


def checked(series: Series, wrong: str = "exclude") -> Series:
    """A local series without the steps whose weights are another step's.

    Args:
        series: All checkpoints of the folder.
        wrong: `exclude`, or `keep`: say it, and leave them in.

    Raises:
        UserError: Neither of the two, or nothing would be left.
    """
    if wrong not in SUSPECTS:
        raise UserError(f"series.suspects={wrong}: choose {', '.join(SUSPECTS)}")
    groups = equal_groups(weights_of({c.step: c.path for c in series.checkpoints}))
    found = suspects(groups) if wrong == "exclude" else {}
    left = tuple(c for c in series.checkpoints if c.step not in found)
    if not left and series.checkpoints:
        raise UserError(
            f"series {series.name}: every checkpoint holds another one's weights "
            f"({groups[0].sentence()}); series.suspects=keep tracks them nevertheless"
        )
    remarks = tuple(group.sentence() for group in groups)
    return replace(series, checkpoints=left, suspects=found, remarks=remarks)


def weights_of(folders: Mapping[int, Path]) -> dict[int, Weights]:
    """Step -> weight files with hashes that are equal if and only if the contents are.

    A file of which some blocks are unlike all others' is not read further. Folders without
    readable weights are left out: the sweep says what is wrong with them.
    """
    files: dict[int, list[Path]] = {}
    for step, folder in folders.items():
        try:
            found = weight_files(folder)
            if all(file.is_file() for file in found):
                files[step] = found
        except CheckpointError:
            continue
    digests = _told_apart([file for found in files.values() for file in found])
    return {step: Weights({f.name: digests[f] for f in found}) for step, found in files.items()}


def _told_apart(files: list[Path]) -> dict[Path, str]:
    alike: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        alike[_sample(file)].append(file)
    digests = {}
    for sample, same in alike.items():
        for file in same:
            digests[file] = sample if len(same) == 1 else f"sha256:{sha256(file)}"
    return digests


def _sample(file: Path) -> str:
    """Hash of the size and of blocks spread over the file, the last bytes among them."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for i in range(BLOCKS):
            stream.seek(max(0, size - BLOCK) * i // (BLOCKS - 1))
            digest.update(stream.read(BLOCK))
    return f"sample:{digest.hexdigest()}"
