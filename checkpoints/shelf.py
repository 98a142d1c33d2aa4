"""Where the weights of checkpoints are when they are needed: a folder, or the Hub one at a time."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from checkpoints.download import PART, Stopped, download, is_here
from checkpoints.errors import CheckpointError, DownloadError, UserError
from checkpoints.files import joint_digest, locked, new_file
from checkpoints.hub import HubFile, Revision

WEIGHTS = "model", "pytorch_model"
"""Names of the weight files, safetensors and pickle, without shard numbers and endings."""
KEPT = ".keep"
"""Empty file in the folder of a checkpoint whose weights are never removed."""
PATIENCE = 3
"""Checkpoints in a row that cannot be downloaded, after which no further one is tried."""
LAST_WORDS = 2.0
"""Seconds that an interrupted download has to end by itself."""


class BusyError(Exception):
    """Another process is at a checkpoint; its turn comes again after all others."""


Needed = Callable[[int], bool]
"""Whether a checkpoint's weights are still needed, once nobody else is at it."""


def _always(step: int) -> bool:
    return True


class Shelf:
    """Weights that are in the checkpoints' folders already."""

    def digest(self, step: int) -> str | None:
        """Hash of a checkpoint's weights, as far as it is known without reading them."""
        return None

    def turns(
        self, steps: Sequence[int], needed: Needed = _always
    ) -> Iterator[tuple[int, AbstractContextManager[None]]]:
        """Every checkpoint with what has its weights at hand; the next one is prepared meanwhile.

        Where another process is at a checkpoint, entering raises `BusyError`, and it comes once
        more after all others; then the other process is waited for.

        Args:
            steps: The checkpoints, in this order.
            needed: Asked in its turn; where it says no, the weights are not fetched.
        """
        for step in steps:
            yield step, self.at_hand(step)

    @contextmanager
    def at_hand(self, step: int) -> Iterator[None]:
        """Have a checkpoint's weights in its folder for a while."""
        yield

    def clear(self, steps: Iterable[int]) -> None:
        """Remove what a killed process left of checkpoints that are not needed any more."""

    def close(self) -> None:
        """Stop what goes on in the background."""


class HubShelf(Shelf):
    """Weights that are downloaded when they are needed, and removed afterwards.

    While one checkpoint is at hand the following one is downloaded: there are never more than two
    per process. A checkpoint's folder is locked from before its download until what is done with it
    is done, so what `needed` says under the lock holds: the same work is never done twice.
    """

    def __init__(
        self,
        revisions: Mapping[int, Revision],
        folders: Mapping[int, Path],
        keep: bool = False,
        refused: Mapping[int, str] | None = None,
    ) -> None:
        """Take over folders that hold everything but the weights.

        Args:
            revisions: Step -> revision.
            folders: Step -> folder.
            keep: Leave the weights where they are, this time and every later one.
            refused: Steps of which something else than the weights is wrong, and what.
        """
        self.revisions, self.folders, self.keep = revisions, folders, keep
        self.refused = {} if refused is None else refused
        self._worker: _Worker | None = None
        self._ahead: dict[int, Future[ExitStack]] = {}
        self._failures = 0

    def digest(self, step: int) -> str | None:
        """As a record keeps it: of the hashes of the files, in their order."""
        digests = [file.sha256 for file in weight_files(self.revisions[step].files)]
        known = [digest for digest in digests if digest is not None]
        return joint_digest(known) if len(known) == len(digests) else None

    def turns(
        self, steps: Sequence[int], needed: Needed = _always
    ) -> Iterator[tuple[int, AbstractContextManager[None]]]:
        """As `Shelf.turns`.

        Two processes cannot wait for each other: one that waits for a checkpoint holds no other
        that is not being worked on, because the one downloaded ahead is always the next.
        """
        for wait in (False, True):
            busy: list[int] = []
            for step, following in zip(steps, [*steps[1:], None], strict=False):
                yield step, _noted(self.at_hand(step, following, needed, wait), step, busy)
            steps = busy

    @contextmanager
    def at_hand(
        self,
        step: int,
        following: int | None = None,
        needed: Needed = _always,
        wait: bool = True,
    ) -> Iterator[None]:
        """Download the weights, or find them downloaded ahead; start with the following ones.

        An interruption leaves them for the next run, which begins with this checkpoint.

        Args:
            step: The checkpoint.
            following: The one that is asked for next.
            needed: Asked, in the background, just before a download; no: nothing is downloaded.
            wait: For another process that is at it.

        Raises:
            BusyError: Another process is at it, and is not waited for.
            CheckpointError: Their content is not what the repository lists.
            DownloadError: They cannot be had now.
        """
        worker = self._worker = self._worker or _Worker()
        ready = self._ahead.pop(step, None) or worker.ask(partial(self.fetch, step, needed, wait))
        if following is not None and following not in self._ahead:
            self._ahead[following] = worker.ask(partial(self.fetch, following, needed, wait))
        try:
            held = ready.result()
        except KeyboardInterrupt:
            self._ahead[step] = ready
            self.close()
            raise
        with held:
            try:
                yield
            except CheckpointError:
                self._remove(step)
                raise
            self._remove(step)

    def clear(self, steps: Iterable[int]) -> None:
        """Remove them, except where another process is at it."""
        for step in steps:
            with suppress(BusyError), locked(self.folders[step], _give_way):
                self._remove(step)

    def close(self) -> None:
        """Interrupt the download ahead; what has come stays for the next run."""
        if self._worker is None:
            return
        self._worker.end()
        for ahead in self._ahead.values():
            if ahead.done() and not ahead.cancelled() and ahead.exception() is None:
                ahead.result().close()
        self._ahead.clear()
        self._worker, self._failures = None, 0

    def fetch(self, step: int, needed: Needed, wait: bool, stop: threading.Event) -> ExitStack:
        """The weights in their folder, as `at_hand`.

        Returns:
            Holds the lock on the folder until it is closed.
        """
        if step in self.refused:
            raise CheckpointError(self.refused[step])
        revision, folder = self.revisions[step], self.folders[step]
        with ExitStack() as held:
            held.enter_context(locked(folder, partial(_heed, stop) if wait else _give_way))
            if not needed(step):
                return held.pop_all()
            if self.keep:
                (folder / KEPT).touch()
            lacking = [f for f in weight_files(revision.files) if not is_here(f, folder)]
            if lacking and self._failures >= PATIENCE:
                raise DownloadError("not tried: those before it could not be downloaded")
            try:
                for file in lacking:
                    download(revision.repo, revision.commit, file, folder, stop)
            except UserError as error:
                self._failures += 1
                raise DownloadError(str(error)) from error
            except CheckpointError:
                self._remove(step)
                raise
            self._failures = 0 if lacking else self._failures
            return held.pop_all()

    def _remove(self, step: int) -> None:
        if self.keep or (self.folders[step] / KEPT).exists():
            return
        for file in weight_files(self.revisions[step].files):
            (self.folders[step] / file.name).unlink(missing_ok=True)
            (self.folders[step] / (file.name + PART)).unlink(missing_ok=True)


@contextmanager
def _noted(weights: AbstractContextManager[None], step: int, busy: list[int]) -> Iterator[None]:
    """The same; a step that another process is at is noted."""
    try:
        with weights:
            yield
    except BusyError:
        busy.append(step)
        raise


_Fetch = Callable[[threading.Event], ExitStack]
"""Downloads a checkpoint until the event is set."""


class _Worker:
    """Downloads one checkpoint after another in a thread that no exit of the program waits for."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._due: SimpleQueue[tuple[_Fetch, Future[ExitStack]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def ask(self, fetch: _Fetch) -> Future[ExitStack]:
        """Download a checkpoint after those that were asked for before."""
        future: Future[ExitStack] = Future()
        self._due.put((fetch, future))
        return future

    def end(self) -> None:
        """Stop, and wait a little for the download that goes on."""
        self._stop.set()
        self._due.put(None)
        self._thread.join(LAST_WORDS)

    def _run(self) -> None:
        while (due := self._due.get()) is not None:
            fetch, future = due
            try:
                _heed(self._stop)
                held = fetch(self._stop)
                if self._stop.is_set():  # nobody will ask for it
                    held.close()
                    raise Stopped
                future.set_result(held)
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)


def _heed(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


def _give_way() -> None:
    raise BusyError


_SHARD = r"-\d+-of-(\d+)"


def weight_files(files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    """The files that hold the weights: safetensors where there are any, else `.bin`; never both."""
    return next(iter(formats(files)), ())


def formats(files: Sequence[HubFile]) -> list[tuple[HubFile, ...]]:
    """The files that hold the weights, in every format that they are stored in."""
    stored = []
    for ending, stem in ((".safetensors", WEIGHTS[0]), (".bin", WEIGHTS[1])):
        found = [
            file
            for file in files
            if re.fullmatch(f"{stem}({_SHARD})?{re.escape(ending)}", file.name)
        ]
        whole = [file for file in found if file.name == stem + ending]
        if found:
            stored.append(tuple(whole or sorted(found, key=lambda f: f.name)))
    return stored


def lacks(files: Sequence[HubFile]) -> str:
    """What a revision lacks of a checkpoint; empty where everything is there."""
    names = {file.name for file in files}
    if "config.json" not in names:
        return "no config.json"
    weights = weight_files(files)
    if not weights:
        return "no weights (model.safetensors or pytorch_model.bin)"
    shards = re.search(_SHARD, weights[0].name)
    if shards and len(weights) < int(shards[1]):
        return f"{len(weights)} of {int(shards[1])} weight files"
    index = index_of(weights)
    return f"no {index}" if shards and index not in names else ""


def index_of(weights: Sequence[HubFile]) -> str:
    """Name of the file that tells which shard holds what."""
    pickled = weights[0].name.endswith(".bin")
    return f"{WEIGHTS[1]}.bin.index.json" if pickled else f"{WEIGHTS[0]}.safetensors.index.json"


TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip
SMALL = ("config.json", "generation_config.json", *TOKENIZER)
"""What else a checkpoint's folder needs."""


def lay_out(revision: Revision, folder: Path, store: Path) -> None:
    """Have everything of a checkpoint but its weights in `folder`.

    Files that many checkpoints share are downloaded once, into `store`, and linked. Code of the
    repository comes with them, and is run only with `model.trust_remote_code=true`.

    Raises:
        CheckpointError: The content of a file is not what the repository lists.
        UserError: It cannot be downloaded.
    """
    names = (*SMALL, index_of(weight_files(revision.files)))
    wanted = [
        file for file in revision.files if file.name in names or re.fullmatch(r"\w+\.py", file.name)
    ]
    if all(is_here(file, folder) for file in wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    store.mkdir(parents=True, exist_ok=True)
    with locked(store):
        for file in wanted:
            if not is_here(file, folder):  # another process may have been faster
                place = store / file.digest.replace(":", "-")
                link(download(revision.repo, revision.commit, file, place), folder / file.name)


def link(file: Path, target: Path) -> None:
    """The same file under another name, copied where the disk cannot link."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        with new_file(target) as unfinished:
            shutil.copyfile(file, unfinished)
