"""A sweep over a real Slurm: shards as an array, one cancelled, submitted again, merged."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import write_series
from test_cli import Tracker, tracker  # noqa: F401  (a fixture)
from test_launchers import arguments, bytes_of, finished, shards, start

from tracker.ends import DONE, FAILED, SKIPPED, WRONG_USE

pytestmark = pytest.mark.slurm

STEPS = tuple(range(16))
PRESET = ["hydra.launcher.cpus_per_task=1"]


@pytest.fixture(scope="module", autouse=True)
def slurm() -> None:
    """Tests are skipped where no Slurm is; beside one that was started for them, never."""
    if "SLURM_CONF" in os.environ:
        return
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: `make test-slurm` starts one (Debian, root)")


@pytest.fixture
def given(tokenizer: Any, text_file: Path, tmp_path: Path) -> list[str]:
    """A run on sixteen checkpoints."""
    write_series(tmp_path / "series", tokenizer, steps=STEPS)
    return arguments(tmp_path / "series", text_file)


SLOW = """
import os, time
sync = os.fsync
os.fsync = lambda handle: (time.sleep(0.7), sync(handle))
"""
"""Writing takes its time in the first sweep, so that a shard is caught in the middle."""


def _states() -> dict[str, str]:
    asked = ["squeue", "--noheader", "--array", "--format=%i %T"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    return dict(line.split() for line in found.stdout.splitlines())


def test_a_sweep_with_one_shard_cancelled_and_submitted_again(
    given: list[str],
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = [*shards(4, "slurm_gpu"), *PRESET, *given, "run_dir=parted"]
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    with monkeypatch.context() as slow:
        slow.setenv("PYTHONPATH", str(tmp_path / "slow"))
        first = start(command, tmp_path)
    records = tmp_path / "parted" / "records"
    while not (records / "step-000000001.h5").exists():
        assert first.poll() is None, finished(first)
        time.sleep(0.05)
    (second,) = (job for job in _states() if job.endswith("_1"))
    subprocess.run(["scancel", second], check=True)
    code, said = finished(first)
    assert code == FAILED, said
    assert "shard=1: killed before its end (CANCELLED)" in said
    assert f"(log: {tmp_path}/runs/.submitit/{second}_0_log.err)" in said
    assert "4 jobs: 3 done, 1 failed" in said
    assert "Traceback" not in said
    (script,) = (tmp_path / "runs" / ".submitit").glob("*_submission.sh")
    assert "--gpus-per-node=1" in script.read_text()
    assert "--array=0-3%4" in script.read_text()

    merged = tracker([*given, "task=analyze", "run_dir=parted"])
    assert merged.returncode == SKIPPED, merged.stderr
    assert "no record (not measured yet)" in merged.stderr
    with h5py.File(tmp_path / "parted" / "index.h5") as index:
        missing = index["missing/step"][()].tolist()
    assert missing
    assert set(missing) < set(STEPS[1::4])

    kept = {name: (records / name).stat().st_mtime_ns for name in bytes_of(tmp_path / "parted")}
    code, said = finished(start(command, tmp_path))
    assert code == DONE, said
    assert all((records / name).stat().st_mtime_ns == when for name, when in kept.items())
    assert tracker([*given, "task=track", "run_dir=whole"]).returncode == DONE
    assert bytes_of(tmp_path / "parted") == bytes_of(tmp_path / "whole")
    assert not list(records.glob(".*"))
    again = tracker([*given, "task=analyze", "run_dir=parted"])
    assert again.returncode == DONE
    assert "no record" not in again.stderr


def test_what_a_job_refuses_is_said_here(given: list[str], tmp_path: Path) -> None:
    command = ["-m", *given, "primary=klingon,elvish", "hydra/launcher=submitit_slurm"]
    code, said = finished(start([*command, "run_dir=out"], tmp_path))
    assert code == WRONG_USE, said
    assert "primary=klingon: not among the languages xx, yy, zz (log: " in said
    assert "2 jobs: 2 refused" in said
    assert not (tmp_path / "out").exists()


def test_what_slurm_refuses_is_said_here(given: list[str], tmp_path: Path) -> None:
    partition = "hydra.launcher.partition=nowhere"
    command = [*shards(2, "slurm_gpu"), *PRESET, partition, *given, "run_dir=out"]
    code, said = finished(start(command, tmp_path))
    assert code == WRONG_USE, said
    ours = said.splitlines()[-1]  # sbatch has words of its own
    assert ours.startswith("tracker: not submitted: ")
    assert "Invalid partition name" in ours
    assert "Traceback" not in said
