"""Which weights a record is of."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from checkpoints.local import check_weights
from tracker.provenance import DigestsAhead


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


def sha256_of(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
