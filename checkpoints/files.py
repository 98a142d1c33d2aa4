"""Files and folders that exist are complete: written under another name, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_MARK = ".unfinished"


def here() -> str:
    """This machine, and the container: where a process' number means one process."""
    try:
        numbers = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not on Linux
        numbers = 0
    return f"{socket.gethostname()}-{numbers}"


def draft_of(path: Path) -> Path:
    """A name beside `path` that no other process, here or on another machine, uses."""
    return path.with_name(f".{path.name}.{here()}.{os.getpid()}{_MARK}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; at the end it is synced and renamed to `path`.

    An interruption leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        yield draft
        _sync(draft)
        draft.replace(path)
    finally:
        with suppress(OSError):  # of a disk that is full or gone, which was said already
            draft.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; at the end it is synced and renamed to `path`."""
    draft = draft_of(path)
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


POLL = 0.1
"""Seconds between two tries for a lock."""


@contextmanager
def locked(folder: Path, while_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `folder` alone: another process that asks waits. The lock dies with its process.

    Args:
        folder: It is there.
        while_waiting: Called again and again; what it raises ends the waiting.
    """
    with (folder / ".lock").open("w") as handle:
        # Asked for again and again: a thread that sleeps in the system cannot be interrupted.
        while not _taken(handle.fileno()):
            if while_waiting is not None:
                while_waiting()
            time.sleep(POLL)
        yield


class ClaimedError(Exception):
    """Another process uses it for something else."""


@contextmanager
def claimed(path: Path, content: str) -> Iterator[None]:
    """Use what `path` stands for beside processes that say the same, and beside no others.

    Locks die with their processes.

    Args:
        path: A file for this alone, there as long as it is used.
        content: What all must agree on.

    Raises:
        ClaimedError: A process that says something else, which is the message, uses it now.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with _shared(path, content) as handle:
        handle.seek(0)
        other = handle.read()
        if other not in (content, ""):  # a disk without locks leaves nothing to read
            raise ClaimedError(other)
        try:
            yield
        finally:
            with suppress(OSError):
                if not other or _taken(handle.fileno()):  # the last one
                    path.unlink()
                    for folder in made:
                        folder.rmdir()  # unless there is something in it


@contextmanager
def _shared(path: Path, content: str) -> Iterator[TextIO]:
    """The file at `path`, held with others; `content` is written by the first."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # the last one removed the folder
            continue
        with handle:
            with suppress(OSError):  # a disk without locks
                if _taken(handle.fileno()):
                    handle.truncate(0)
                    handle.write(content)
                    handle.flush()
                fcntl.flock(handle, fcntl.LOCK_SH)
            if _is_at(path, handle.fileno()):
                yield handle
                return


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is still the one at `path`: the last one removes it."""
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clear_unfinished(folder: Path) -> None:
    """Remove what writers on this machine that are gone left in `folder` and below it."""
    for rest in list(folder.rglob(f".*.{here()}.*{_MARK}")):
        writer = int(rest.name.removesuffix(_MARK).rpartition(".")[2])
        if writer != os.getpid() and _runs(writer):
            continue
        if rest.is_dir():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            rest.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def joint_digest(digests: Iterable[str]) -> str:
    """Hash of several files by the hashes of their contents, in this order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _sync(path: Path) -> None:
    """Have the system write the content to the disk, so that a rename never precedes it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
