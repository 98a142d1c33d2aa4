"""Multiruns: exit codes and messages of jobs in other processes, shards that meet, presets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
import torch
from conftest import write_series
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from test_cli import Tracker, tracker  # noqa: F401  (a fixture)

from checkpoints.errors import UserError
from tracker import launchers, store
from tracker.ends import DONE, FAILED, INTERRUPTED, SKIPPED, WRONG_USE, Ended, worst
from tracker.launchers import cluster
from tracker.loading import ModelSettings

ROOT = Path(__file__).parent.parent
COMMAND = "from tracker.cli import main; main()"


def arguments(series: Path, text: Path) -> list[str]:
    return [
        "series=local", f"series.path={series}", "text=jsonl", f"text.path={text}", "primary=xx",
        "probe=[performance]", "analysis.replicates=10",
    ]  # fmt: skip


def start(given: Sequence[str], folder: Path, code: str = COMMAND) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *given], cwd=folder, text=True, stdin=subprocess.DEVNULL,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said."""
    _, said = process.communicate(timeout=240)
    return process.returncode, said


def shards(count: int, launcher: str) -> list[str]:
    return ["-m", f"shard=range(0,{count})", f"shards={count}", f"hydra/launcher={launcher}"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "records").glob("step-*.h5"))}


@pytest.mark.slow
def test_two_processes_of_joblib(
    series_folder: Path,
    text_file: Path,
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    series = Path(shutil.copytree(series_folder, tmp_path / "series"))
    weights = series / "step-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    given = arguments(series, text_file)
    parted = start([*shards(2, "joblib"), *given, "run_dir=parted"], tmp_path)
    assert tracker([*given, "task=track", "run_dir=whole"]).returncode == SKIPPED
    code, said = finished(parted)
    assert code == SKIPPED, said
    assert "2 jobs: 1 done, 1 with skipped checkpoints" in said
    assert "shard 1: step 1: skipped (model.safetensors is truncated" in said
    assert bytes_of(tmp_path / "parted") == bytes_of(tmp_path / "whole")
    assert len(bytes_of(tmp_path / "parted")) == 4
    plans = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("parted", "whole")]
    assert plans[0] == plans[1]
    for name in ("parted", "whole"):
        with h5py.File(tmp_path / name / "index.h5") as index:
            assert index["step"][()].tolist() == [0, 2, 4, 8]
            assert index["missing/step"][()].tolist() == [1]
    merged = tracker([*given, "task=analyze", "run_dir=parted"])
    assert merged.returncode == SKIPPED
    assert "step 1: no record (model.safetensors is truncated" in merged.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_the_worst_code_of_the_jobs_and_one_line_of_why(
    series_folder: Path, text_file: Path, tmp_path: Path, launcher: str
) -> None:
    given = [*arguments(series_folder, text_file), "run_dir=out"]
    wrong = start(["-m", *given, "primary=xx,klingon", f"hydra/launcher={launcher}"], tmp_path)
    code, said = finished(wrong)
    assert code == WRONG_USE, said
    assert said.count("primary=klingon: not among the languages xx, yy, zz") == 1
    assert "Traceback" not in said
    assert "2 jobs: 1 done, 1 refused" in said
    assert len(bytes_of(tmp_path / "out")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_killed_job_is_said_and_the_same_command_continues(
    series_folder: Path,
    text_file: Path,
    tokenizer: Any,
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
    launcher: str,
) -> None:
    write_series(tmp_path / "series", tokenizer, steps=tuple(range(12)))
    given = [*arguments(tmp_path / "series", text_file), "model.batch_tokens=64"]
    given += ["probe=[performance,importance,alignment]"]
    again = [*shards(2, launcher), *given, "run_dir=parted"]
    process = start(again, tmp_path)
    records = tmp_path / "parted" / "records"
    while not list(records.glob("step-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    _kill_a_job(process.pid)
    code, said = finished(process)
    assert code == FAILED, said
    assert "killed" in said
    assert "Traceback" not in said
    assert "the same command continues" in said
    merged = tracker([*given, "task=analyze", "run_dir=parted"])
    assert merged.returncode == SKIPPED, merged.stderr
    assert "no record (not measured yet)" in merged.stderr
    code, said = finished(start(again, tmp_path))
    assert code == DONE, said
    assert tracker([*given, "task=track", "run_dir=whole"]).returncode == DONE
    assert bytes_of(tmp_path / "parted") == bytes_of(tmp_path / "whole")
    assert not list(records.glob(".*.unfinished"))


def _kill_a_job(parent: int) -> None:
    """SIGKILL one process below `parent` that measures."""
    below = {parent}
    found: list[int] = []
    for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            above = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if above in below:
            below.add(int(place.name))
            if "core._submit" in command or "popen_loky" in command:
                found.append(int(place.name))
    os.kill(found[-1], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_an_interrupted_multirun_ends_with_all_its_jobs(
    series_folder: Path, text_file: Path, tokenizer: Any, tmp_path: Path, launcher: str
) -> None:
    """Also where only the process that waits is told."""
    write_series(tmp_path / "series", tokenizer, steps=tuple(range(24)))
    given = [*arguments(tmp_path / "series", text_file), "model.batch_tokens=64"]
    given += ["probe=[performance,importance,alignment]", "run_dir=out"]
    process = start([*shards(3, launcher), *given], tmp_path)
    records = tmp_path / "out" / "records"
    while not list(records.glob("step-*.h5")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, said = finished(process)
    assert code == INTERRUPTED, said
    assert "Traceback" not in said
    if launcher == "submitit_local":
        assert "interrupted: the jobs were ended; the same command continues" in said
        left = [p.name for p in (tmp_path / "runs" / ".submitit").iterdir()]
        assert all(re.fullmatch(r"[0-9a-f]{10,}_(\d+|%j)", name) for name in left)
    time.sleep(2)  # a job that has begun to write a record may end it
    there = len(list(records.glob("step-*.h5")))
    assert there < 24
    time.sleep(2)
    assert len(list(records.glob("step-*.h5"))) == there


@pytest.mark.parametrize("visible", [None, "2,3"])
def test_jobs_of_this_machine_see_the_gpus_that_it_sees(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cluster.BaseSubmititLauncher, "__call__", lambda *_: os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    launcher = cluster.SubmititLocal.__new__(cluster.SubmititLocal)
    launcher.visible = visible
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as submitit leaves it
    assert launcher([]) == visible


def test_only_tracking_is_dealt_out(tracker: Tracker) -> None:  # noqa: F811
    done = tracker(["shards=2", "shard=1", "task=intervene", "intervention=remove"])
    assert done.returncode == WRONG_USE
    assert "task=intervene shards=2: only tracking is dealt out" in done.stderr


def test_an_experiment_sets_what_the_main_file_sets_too() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        assert compose("config", ["experiment=smoke"]).analysis.replicates == 50


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hydra.launcher.n_jobs=0", "tracker: joblib: n_jobs == 0 in Parallel has no meaning"),
        ("hydra.launcher.n_jobs=x", "tracker: hydra.launcher.n_jobs: Value 'x' of type 'str'"),
    ],
)
def test_wrong_settings_of_a_launcher_are_one_line(
    setting: str,
    message: str,
    tracker: Tracker,  # noqa: F811
) -> None:
    done = tracker([*shards(2, "joblib"), setting, "series=local", "series.path=nowhere"])
    assert done.returncode == WRONG_USE
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)


MEETING = """
import os, sys, time
from pathlib import Path
from tracker import store
write, room = store.write_record, Path("room")
def meet(path, *rest):
    (room / f"{path.name}.{os.getpid()}").touch()
    deadline = time.monotonic() + 60
    while len(list(room.glob(f"{path.name}.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    write(path, *rest)
store.write_record = meet
from tracker.cli import main; main()
"""


@pytest.mark.slow
def test_two_workers_dealt_the_same_checkpoints_leave_one_record_of_each(
    series_folder: Path,
    text_file: Path,
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Both write every record at the same moment."""
    (tmp_path / "room").mkdir()
    given = [*arguments(series_folder, text_file), "task=track"]
    both = [start([*given, "run_dir=both"], tmp_path, MEETING) for _ in range(2)]
    for process in both:
        code, said = finished(process)
        assert code == DONE, said
        assert "5 measured, 0 kept" in said
    assert len(list((tmp_path / "room").iterdir())) == 10
    assert tracker([*given, "run_dir=one"]).returncode == DONE
    assert bytes_of(tmp_path / "both") == bytes_of(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [
        "index.h5", "records", "run.json",
    ]  # fmt: skip
    left = sorted(p.name for p in (tmp_path / "both" / "records").iterdir())
    assert left[0] == "precision.json"
    assert [name.endswith(".h5") for name in left[1:]] == [True] * 5


def test_an_index_that_another_shard_made_older_is_written_again(
    series_folder: Path,
    text_file: Path,
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record of another shard arrives between the listing and the writing."""
    given = [*arguments(series_folder, text_file), "task=track", "run_dir=out", "shards=2"]
    assert tracker([*given, "shard=1"]).returncode == DONE
    late = tmp_path / "late"
    shutil.move(tmp_path / "out" / "records" / store.record_name(1), late)
    write = store.write_index

    def slow(*listed: Any) -> None:
        if late.exists():
            shutil.move(late, tmp_path / "out" / "records" / store.record_name(1))
        write(*listed)

    monkeypatch.setattr(store, "write_index", slow)
    assert tracker([*given, "shard=0"]).returncode == DONE
    with h5py.File(tmp_path / "out" / "index.h5") as index:
        assert index["step"][()].tolist() == [0, 1, 2, 4, 8]
        assert index["missing/step"][()].tolist() == []


def test_what_a_killed_shard_leaves_can_be_analyzed(
    series_folder: Path,
    text_file: Path,
    tracker: Tracker,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is gone after its second checkpoint, before it writes what stands at the end."""
    write = store.write_record
    monkeypatch.setattr(store, "write_record", _gone_after(2, write))
    given = [*arguments(series_folder, text_file), "run_dir=out"]
    with pytest.raises(_GoneError):
        tracker([*given, "task=track", "shard=0", "shards=2"])
    merged = tracker([*given, "task=analyze"])
    assert merged.returncode == SKIPPED, merged.stderr
    assert "steps 1, 4, 8: no record (not measured yet)" in merged.stderr


class _GoneError(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def _gone_after(count: int, write: Callable[..., None]) -> Callable[..., None]:
    done = 0

    def maybe(*content: Any) -> None:
        nonlocal done
        if done == count:
            raise _GoneError
        done += 1
        write(*content)

    return maybe


def test_one_crash_is_worse_than_any_number_of_skips() -> None:
    assert worst([]) == DONE
    assert worst([DONE, SKIPPED, DONE]) == SKIPPED
    assert worst([SKIPPED, WRONG_USE]) == WRONG_USE
    assert worst([WRONG_USE, FAILED, SKIPPED]) == FAILED
    assert worst([INTERRUPTED, FAILED]) == INTERRUPTED


def test_jobs_are_named_by_what_sets_them_apart() -> None:
    given = [["shards=2", f"shard={s}", "hydra.launcher.n_jobs=2"] for s in range(2)]
    assert launchers.names(given) == ["shard=0", "shard=1"]
    assert launchers.names([["shards=1"]]) == ["job 0"]


def test_a_report_says_every_reason_once_and_counts() -> None:
    said: list[str] = []
    codes: list[int] = []
    launchers.watch(codes.append)
    report = launchers.Report(
        SimpleNamespace(say=said.append),  # type: ignore[arg-type]
        [[f"shard={s}"] for s in range(5)],
    )
    report.ended(1, Ended(DONE))
    report.ended(0, Ended(WRONG_USE, "no such file"), log="a.err")
    report.ended(2, Ended(WRONG_USE, "no such file"), log="b.err")
    report.ended(4, Ended(SKIPPED), log="c.err")
    report.ended(3, Ended(FAILED, "seen already"), seen=True)
    report.close()
    assert said[:3] == [
        "shard=0: no such file (log: a.err)",
        "shard=4: with skipped checkpoints (log: c.err)",
        "5 jobs: 1 done, 1 failed, 2 refused, 1 with skipped checkpoints",
    ]
    assert "the same command continues" in said[3]
    assert codes == [DONE, WRONG_USE, WRONG_USE, SKIPPED, FAILED]


def test_an_error_of_ours_is_a_line_here_and_a_traceback_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_: Any) -> Ended:
        raise KeyError("units")

    end = launchers.Reported(broken)(OmegaConf.create())
    assert end == Ended(FAILED, "KeyError: 'units'")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "package"),
    [("joblib", "joblib"), ("local_gpus", "joblib"), ("submitit_local", "submitit"),
     ("submitit_slurm", "submitit"), ("slurm_gpu", "submitit")],
)  # fmt: skip
def test_a_missing_launcher_is_one_line_that_says_what_to_install(
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: str,
    package: str,
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    done = tracker(["-m", "shard=range(0,2)", "shards=2", f"hydra/launcher={launcher}"])
    assert done.returncode == WRONG_USE
    assert done.stderr.splitlines() == [
        f"tracker: hydra/launcher={launcher} needs the package hydra-{package}-launcher: "
        f"pip install hydra-{package}-launcher"
    ]
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError):
        launchers.require_launcher([f"+hydra/launcher={launcher}"])
    launchers.require_launcher(["hydra/launcher=basic"])


def test_ours_stand_in_for_the_launchers_that_are_installed() -> None:
    launchers.watch([].append)
    registry = Plugins.instance().class_name_to_class
    ours = {c.__name__ for c in registry.values() if c.__module__.startswith("tracker.")}
    assert ours == {"Joblib", "SubmititLocal", "SubmititSlurm"}


def test_presets() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        made = {
            name: compose(
                "config", ["shards=4", f"hydra/launcher={name}"], return_hydra_config=True
            ).hydra.launcher
            for name in ("local_gpus", "slurm_gpu")
        }
        assert made["local_gpus"].n_jobs == 4
    assert made["slurm_gpu"].gpus_per_node == made["slurm_gpu"].tasks_per_node == 1
    assert made["slurm_gpu"].max_num_timeout > 0


@pytest.mark.parametrize(("visible", "expected"), [(0, "auto"), (1, "auto"), (3, "cuda:1")])
def test_a_shard_takes_its_own_gpu_of_several(
    monkeypatch: pytest.MonkeyPatch, visible: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert ModelSettings().placed(4).device == expected
    assert ModelSettings(device="cuda:0").placed(4).device == "cuda:0"
    assert ModelSettings(device_map="auto").placed(4).device == "auto"


SQUEUE = """#!/bin/sh
echo "$@" >> asked
cat answer
cat error >&2
exit $(cat code)
"""


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A `squeue` that answers what it is told to."""
    program = tmp_path / "squeue"
    program.write_text(SQUEUE)
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def says(answer: str, error: str = "", code: int = 0) -> None:
        for name, content in (("answer", answer), ("error", error), ("code", str(code))):
            (tmp_path / name).write_text(content)

    return says


def test_what_slurm_knows_of_jobs(squeue: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    jobs = {
        n: SimpleNamespace(
            job_id=f"7_{n}",
            paths=SimpleNamespace(result_pickle=tmp_path / ("there" if n == 3 else "absent")),
        )
        for n in range(7)
    }
    launcher = cluster.SubmititSlurm.__new__(cluster.SubmititSlurm)
    squeue(
        "7_0 RUNNING\n7_1 CANCELLED\n7_2 PENDING\n7_3 RUNNING\n7_4 OUT_OF_MEMORY\n7_6 PREEMPTED\n"
    )
    over = {
        1: "CANCELLED", 3: "COMPLETED", 4: "OUT_OF_MEMORY", 5: "forgotten by Slurm",
    }  # fmt: skip
    assert launcher._over(jobs) == over
    assert (tmp_path / "asked").read_text().strip().endswith("--jobs=7")
    squeue("", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert launcher._over(jobs) == {3: "COMPLETED"}
    squeue("", "slurm_load_jobs error: Invalid job id specified", 1)
    assert len(launcher._over(jobs)) == 7


def test_a_job_that_left_no_result_was_killed(
    tmp_path: Path,
) -> None:
    paths = SimpleNamespace(result_pickle=tmp_path / "none", folder=tmp_path)
    end = cluster._end(SimpleNamespace(paths=paths), "TIMEOUT", time.monotonic())
    assert end == Ended(FAILED, "killed before its end (TIMEOUT)")


def test_without_slurm_one_line_says_so(
    series_folder: Path,
    text_file: Path,
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = tracker([*shards(2, "submitit_slurm"), *arguments(series_folder, text_file)])
    assert done.returncode == WRONG_USE
    (line,) = done.stderr.splitlines()
    assert line.startswith('tracker: not submitted: Could not detect "srun"')
