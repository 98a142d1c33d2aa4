"""Repositories on the Hugging Face Hub: revisions, and files with hashes, before any download.

What is listed is kept: the refs of a repository for work without a network, the files of a commit
because they never change. Environment as everywhere else: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`,
`HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # lazily, under TYPE_CHECKING too
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
    validate_repo_id,
)

from checkpoints.errors import UserError, first_line
from checkpoints.files import new_file

LISTERS = 8
"""Requests for listings at a time."""
HOME = "training-dynamics"
"""Folder under `HF_HOME` in which listings and downloads are kept."""


@dataclass(frozen=True)
class HubFile:
    """A file of a revision."""

    name: str
    size: int
    """Bytes."""
    digest: str
    """`sha256:...` of the content; of small files the `git:` hash, which is a hash of it, too."""

    @property
    def sha256(self) -> str | None:
        """Of the content, where the Hub tells it: of every large file."""
        kind, _, digest = self.digest.partition(":")
        return digest if kind == "sha256" else None


@dataclass(frozen=True)
class Revision:
    """A branch or tag with what is in it."""

    repo: str
    name: str
    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """Lists repositories."""

    def __init__(self, home: Path | None = None) -> None:
        """Take the settings from the environment; `home` is where listings are kept."""
        self.api = HfApi()
        self.home = Path(constants.HF_HOME) / HOME if home is None else home
        self._listed: dict[str, dict[str, dict[str, str]]] = {}

    def refs(self, repo: str, which: str = "branches") -> dict[str, str]:
        """Name -> commit of a repository's branches, tags or both; branches go first.

        Raises:
            UserError: No such repository, no right to read it, or no answer.
        """
        if repo not in self._listed:  # once: the answer must not change while it is used
            self._listed[repo] = self._refs(repo)
        listed = self._listed[repo]
        kinds = ("branches", "tags") if which == "both" else (which,)
        return {n: c for kind in reversed(kinds) for n, c in listed[kind].items()}

    def _refs(self, repo: str) -> dict[str, dict[str, str]]:
        kept = self.folder(repo) / "refs.json"
        if constants.HF_HUB_OFFLINE:
            if not kept.exists():
                raise UserError(
                    f"{repo}: not listed before, and HF_HUB_OFFLINE is set; unset it once"
                )
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        with told(repo):
            found = _asked(f"{constants.ENDPOINT}/api/models/{repo}/refs", repo)
        listed = {
            kind: {ref["name"]: ref["targetCommit"] for ref in found.get(kind, ())}
            for kind in ("branches", "tags")
        }
        _keep(kept, listed)
        return listed

    def files(self, repo: str, commit: str) -> tuple[HubFile, ...]:
        """All files of a commit.

        Raises:
            UserError: They cannot be listed.
        """
        kept = self.folder(repo) / "trees" / f"{commit}.json"
        if kept.exists():
            return tuple(HubFile(**row) for row in json.loads(kept.read_text(encoding="utf-8")))
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{repo}: {commit[:8]} not listed before, and HF_HUB_OFFLINE is set")
        with told(repo):
            tree = list(self.api.list_repo_tree(repo, recursive=True, revision=commit))
        found = tuple(_file(entry) for entry in tree if isinstance(entry, RepoFile))
        _keep(kept, [asdict(each) for each in found])
        return found

    def revisions(self, repo: str, refs: Sequence[tuple[str, str]]) -> list[Revision]:
        """Files of several (name, commit), listed side by side, every commit once."""
        commits = list(dict.fromkeys(commit for _, commit in refs))
        with ThreadPoolExecutor(LISTERS) as pool:
            files = dict(zip(commits, pool.map(partial(self.files, repo), commits), strict=True))
        return [Revision(repo, name, commit, files[commit]) for name, commit in refs]

    def folder(self, repo: str) -> Path:
        """Where everything of a repository is kept; another endpoint's is another one."""
        host = constants.ENDPOINT.split("://")[-1].replace("/", "_").replace(":", "_")
        return self.home / host / repo.replace("/", "--")


def _asked(url: str, repo: str) -> dict[str, Any]:
    """An answer in JSON. The client's own call for refs neither waits nor tries again."""
    validate_repo_id(repo)
    headers = build_hf_headers()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    response = http_backoff("GET", url, headers=headers, timeout=timeout, follow_redirects=True)
    hf_raise_for_status(response)
    return dict(response.json())


def _file(entry: RepoFile) -> HubFile:
    lfs = entry.lfs
    digest = f"git:{entry.blob_id}" if lfs is None else f"sha256:{lfs.sha256}"
    return HubFile(entry.path, entry.size, digest)


def _keep(path: Path, content: Any) -> None:
    with new_file(path) as unfinished:
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def page(repo: str) -> str:
    """Where a repository's terms are read and accepted."""
    return f"{constants.ENDPOINT}/{repo}"


REFUSALS = {
    401: ("HF_TOKEN is not valid", "set another one, or unset it"),
    403: ("no right to read it", "set an HF_TOKEN that may"),
    429: ("too many requests", "try again later"),
}
"""What an answer means, and what to do."""


@contextmanager
def told(repo: str, setting: str = "series.repo") -> Iterator[None]:
    """Errors of the client as one line that says what to do; `setting` names the repository."""
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{repo}: gated; accept its terms at {page(repo)} and set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repo}: no such repository at {constants.ENDPOINT}, or it is private: "
            f"check {setting}, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repo}: a revision went away while it was read; try again") from None
    except HFValidationError:
        raise UserError(f"{setting}={repo}: not ORG/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{repo}: HF_HUB_OFFLINE is set; unset it to download") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        what, then = REFUSALS.get(status, ("an error of the server", "try again later"))
        raise UserError(f"{repo}: {constants.ENDPOINT} answers {status} ({what}); {then}") from None
    except OSError as error:
        raise UserError(f"{repo}: {error}") from None
    except Exception as error:  # the client's transport has exceptions of its own
        said = first_line(error)
        raise UserError(f"{repo}: {constants.ENDPOINT} cannot be reached ({said})") from None
