"""Which weights a record is of."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_sweep import measurement

from checkpoints.errors import CheckpointError
from checkpoints.local import check_weights
from tracker import provenance
from tracker.provenance import DigestsAhead
from tracker.sweep import Sweep


def test_hashes_are_taken_ahead_and_again_where_the_weights_changed(
    series_folder: Path, tmp_path: Path
) -> None:
    series = Path(shutil.copytree(series_folder, tmp_path / "series"))
    folder = sorted(series.glob("step*"))[0]
    digests = DigestsAhead()
    for each in (folder, series / "absent", folder):
        digests.ask(each)
    files = check_weights(folder)
    ahead = digests.of(files)
    assert ahead == digests.of(files) == hashlib.sha256(sha256_of(files[0])).hexdigest()
    digests.ask(folder)
    digests._asked[folder].result()
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = digests.of(files)
    assert changed != ahead
    assert changed == digests.of(files)


def test_a_thread_that_fails_is_not_waited_for(
    series_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sorted(series_folder.glob("step*"))[0]
    digests = DigestsAhead()
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "check_weights", lambda _: 1 / 0)
        digests.ask(folder)
        digests._asked[folder].result(timeout=10)
    files = check_weights(folder)
    assert digests.of(files) == hashlib.sha256(sha256_of(files[0])).hexdigest()


def replaced(file: Path) -> None:
    new = file.with_suffix(".new")
    shutil.copy(file, new)
    new.replace(file)


@pytest.mark.parametrize(
    ("change", "message"), [(replaced, "changed while"), (Path.unlink, "went away")]
)
def test_a_record_never_tells_of_other_weights(
    change: Callable[[Path], object], message: str, series_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A training run that writes a checkpoint again, or removes it, while it is measured."""
    series = Path(shutil.copytree(series_folder, tmp_path / "series"))
    m = measurement(series)
    (first,) = m.series.checkpoints[:1]
    measure = Sweep.measure

    def meanwhile(self: Sweep, *args: Any) -> Any:
        found = measure(self, *args)
        change(check_weights(first.path)[0])
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "measure", meanwhile)
        with pytest.raises(CheckpointError, match=message):
            Sweep(m, tmp_path / "out").visit(first)
    assert not list((tmp_path / "out").glob("step-*"))
    if message == "changed while":
        assert Sweep(m, tmp_path / "out").visit(first)


def sha256_of(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
