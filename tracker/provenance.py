"""Where a record comes from: which weights, read by which programs."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from checkpoints.errors import CheckpointError, first_line
from checkpoints.files import joint_digest, sha256
from checkpoints.local import check_weights
from checkpoints.series import Checkpoint
from tracker import store


def tool_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("babel-tracker")
    except PackageNotFoundError:
        return "unknown"


def software() -> str:
    """Versions of what computed the numbers."""
    import transformers

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def is_of(record: Path, checkpoint: Checkpoint, digest: str | None) -> bool:
    """Whether a record is there and of a checkpoint's weights.

    Args:
        record: Its path.
        checkpoint: The checkpoint.
        digest: Of its weights, where that is known without having them.
    """
    if not record.exists():
        return False
    try:
        if digest is not None:
            return bool(store.read_attributes(record).get("weights_sha256") == digest)
        return same_weights(record, check_weights(checkpoint.path))
    except (CheckpointError, OSError):  # no weights, or a record that is damaged
        return False


def same_weights(record: Path, files: Sequence[Path]) -> bool:
    """Whether the record is of these weights; they are read only where size or date differ."""
    attributes = store.read_attributes(record)
    if attributes.get("weights_stat") == stat_of(files):
        return True
    return bool(attributes.get("weights_sha256") == digest_of_files(files))


@dataclass(frozen=True)
class Weights:
    """The files of a checkpoint's weights, as they were before anything was read of them."""

    files: tuple[Path, ...] = ()
    """None where a state was never written."""
    stat: str = "[]"

    @classmethod
    def of(cls, folder: Path) -> Weights:
        """Of a folder.

        Raises:
            CheckpointError: A file is absent or not whole.
        """
        files = tuple(check_weights(folder))
        try:
            return cls(files, stat_of(files))
        except OSError as error:
            raise CheckpointError(f"the weights went away ({first_line(error)})") from None

    def require_same(self) -> None:
        """What was measured must be what is there.

        Raises:
            CheckpointError: It is not: a record would tell of other weights.
        """
        try:
            changed = stat_of(self.files) != self.stat
        except OSError:
            raise CheckpointError("its weights went away while they were measured") from None
        if changed:
            raise CheckpointError("its weights changed while they were measured")


class DigestsAhead:
    """Hashes of weights, taken by a thread beside the measuring.

    What was read for its hash lies in the system's memory when it is loaded next.
    """

    def __init__(self) -> None:
        self._asked: dict[Path, Future[tuple[str, str]]] = {}
        self._thread: threading.Thread | None = None

    def ask(self, folder: Path) -> None:
        """Start with the weights of a checkpoint, after those that were asked for before."""
        if folder in self._asked:
            return
        before, done = self._thread, Future[tuple[str, str]]()

        def work() -> None:
            if before is not None:
                before.join()
            try:
                files = check_weights(folder)
                done.set_result((stat_of(files), digest_of_files(files)))
            except Exception:  # the sweep meets it, too, and says so; it must not wait for ever
                done.set_result(("", ""))

        self._asked[folder] = done
        self._thread = threading.Thread(target=work, name="digest", daemon=True)
        self._thread.start()

    def of(self, files: Sequence[Path]) -> str:
        """Hash of weights as they are now; of no files where they were never written."""
        asked = self._asked.pop(files[0].parent, None) if files else None
        known = asked.result() if asked is not None else ("", "")
        return known[1] if known[0] == stat_of(files) else digest_of_files(files)


def stat_of(files: Sequence[Path]) -> str:
    """Names, sizes and dates of files."""
    return json.dumps([[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files])


def digest_of_files(files: Sequence[Path]) -> str:
    """Hash of the files' hashes, in their order."""
    return joint_digest(map(sha256, files))
