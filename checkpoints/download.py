"""One file of a commit into a folder: goes on where it was interrupted, refuses wrong content.

The Hub's client forgets a partial file when its process ends (since 1.0); a checkpoint of a large
model takes longer than many jobs live. So the bytes are appended to `<name>.part` with range
requests, through the client's own session, headers and back-off.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazily, under TYPE_CHECKING too
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from checkpoints.errors import CheckpointError, UserError
from checkpoints.files import sha256
from checkpoints.hub import HubFile, told

CHUNK = 1 << 20
ATTEMPTS = 5
"""Interruptions without a new byte after which a download is given up."""
WAIT = 1.0
"""Seconds after the first of them; twice as long after every further one."""
RETRIES = 6
"""Of a request that is answered 429 or 5xx; the client waits as long as the server asks."""
PART = ".part"


class Stopped(BaseException):
    """A download was interrupted by the program itself; what has come is kept."""


def download(
    repo: str, commit: str, file: HubFile, folder: Path, stop: threading.Event | None = None
) -> Path:
    """Have a file in `folder`; nothing is sent where it is there already.

    Args:
        repo: Its repository.
        commit: Its commit.
        file: As the commit lists it.
        folder: Where it goes.
        stop: Interrupts the download when it is set.

    Raises:
        Stopped: `stop` was set.
        CheckpointError: The content is not what the repository lists.
        UserError: No right to read it, no network, or the server keeps failing.
    """
    target = folder / file.name
    if is_here(file, folder):
        return target
    part = target.with_name(target.name + PART)
    part.parent.mkdir(parents=True, exist_ok=True)
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{repo}: {file.name} is not here, and HF_HUB_OFFLINE is set; unset it")
    part.touch()
    lost = 0
    with told(repo):
        while (have := part.stat().st_size) < file.size:
            try:
                _append(hf_hub_url(repo, file.name, revision=commit), part, have, stop)
            except (OSError, Stopped):  # an answer of the server, or of the disk
                raise
            except Exception:  # the connection broke off
                lost = 0 if part.stat().st_size > have else lost + 1
                if lost == ATTEMPTS:
                    raise
                _rest(WAIT * 2 ** (lost - 1) if lost else 0, stop)
    _verify(repo, commit, file, part)
    part.replace(target)
    return target


def is_here(file: HubFile, folder: Path) -> bool:
    """Whether it is there in full: a machine that loses power leaves names without content."""
    target = folder / file.name
    return target.is_file() and target.stat().st_size == file.size


def _rest(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped


def _append(url: str, part: Path, have: int, stop: threading.Event | None) -> None:
    """The rest of a file behind its first `have` bytes."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        follow_redirects=True,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        max_retries=RETRIES,
        retry_on_exceptions=(),
    ) as response:
        hf_raise_for_status(response)
        # A server that ignores the range sends all of it.
        with part.open("ab" if response.status_code == 206 else "wb") as out:
            # As it comes: a block that is waited for would be lost with the connection.
            for chunk in response.iter_raw():
                out.write(chunk)
                if stop is not None and stop.is_set():
                    raise Stopped


def _verify(repo: str, commit: str, file: HubFile, part: Path) -> None:
    """The content must have the hash that the repository lists; what has not is removed."""
    kind, _, expected = file.digest.partition(":")
    if digest_of(part, kind) != expected:
        part.unlink()
        raise CheckpointError(
            f"{file.name}: its content is not what {repo} lists for {commit[:8]} "
            f"({kind} differs); it was removed, the next run downloads it again"
        )


def digest_of(path: Path, kind: str) -> str:
    """Hash of a file's content: `sha256`, or `git`, the one of a git blob."""
    if kind == "sha256":
        return sha256(path)
    with path.open("rb") as stream:
        blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := stream.read(CHUNK):
            blob.update(chunk)
        return blob.hexdigest()
