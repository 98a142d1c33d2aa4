"""Files and folders that exist are complete: written under another name, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".unfinished"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; at the end it is synced and renamed to `path`.

    An interruption leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}{_MARK}")
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; at the end it is synced and renamed to `path`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}{_MARK}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            _sync(file)
        _sync(draft)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` alone: another process that asks waits. The lock dies with its process."""
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def clear_unfinished(folder: Path) -> None:
    """Remove what interrupted writers left in `folder` and below it."""
    for rest in list(folder.rglob(f".*{_MARK}")):
        if rest.is_dir():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            rest.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the system write the content to the disk, so that a rename never precedes it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
