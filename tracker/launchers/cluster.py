"""Jobs on a cluster (Slurm) or in processes of this machine, through submitit.

Whether a job is over is asked of `squeue`, which every Slurm has; `sacct`, which submitit asks,
answers only where accounting is set up. Every job writes what it says to a log of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import (
    BaseSubmititLauncher,
    LocalLauncher,
    SlurmLauncher,
)

from checkpoints.errors import first_line
from tracker.console import Console
from tracker.ends import FAILED, WRONG_USE, Ended
from tracker.launchers import Report, ReportsEnds, end_of, returned

_FIRST_PAUSE, _LAST_PAUSE = 0.5, 10.0
"""Seconds between two looks at the jobs, at first and in the end."""
_LATE = 10.0
"""Seconds that a network's file system may take to show a file that is written elsewhere."""

_OVER = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT",
)  # fmt: skip
"""States from which no job of Slurm comes back by itself."""


class _Patient(ReportsEnds, BaseSubmititLauncher):  # type: ignore[misc]
    """Submits all jobs at once and waits for every one, whatever becomes of the others."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the jobs; wait for all of them."""
        report = Report(Console(), job_overrides)
        try:
            jobs = self._submit(job_overrides, initial_job_idx)
        except (RuntimeError, ValueError, OSError) as error:  # no Slurm, or it refuses what it got
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return report.lost(WRONG_USE, f"not submitted: {last}")
        ends = self._watched(jobs, report)
        report.close()
        return [returned(end) for end in ends]

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        import submitit

        cluster, generic = self._EXECUTOR, BaseQueueConf.__dataclass_fields__
        named = {n if n in generic else f"{cluster}_{n}": v for n, v in self.params.items()}
        folder = named.pop("submitit_folder")
        tries = f"{cluster}_max_num_timeout"
        made = {tries: named.pop(tries)} if tries in named else {}
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **made)
        executor.update_parameters(**named)
        state = Singleton.get_state()
        numbers = range(first, first + len(job_overrides))
        jobs: list[Any] = executor.map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir" for _ in numbers],
            list(numbers),
            [f"job_id_for_{number}" for number in numbers],
            [state for _ in numbers],
        )
        return jobs

    def _watched(self, jobs: Sequence[Any], report: Report) -> list[Ended]:
        """How each job ended, once all have; a failure is said when it happens."""
        import submitit

        whole = str(jobs[0].job_id).partition("_")[0]
        folder = submitit.core.utils.JobPaths.get_first_id_independent_folder(
            self.params["submitit_folder"]
        )
        report.console.say(f"{len(jobs)} jobs {self._told(whole)}, logs in {folder}")
        ends: dict[int, Ended] = {}
        pause = _FIRST_PAUSE
        try:
            while len(ends) < len(jobs):
                waiting = [n for n in range(len(jobs)) if n not in ends]
                over = self._over({n: jobs[n] for n in waiting})
                latest = time.monotonic() + _LATE
                for number, state in over.items():
                    ends[number] = _end(jobs[number], state, latest)
                    log = str(jobs[number].paths.stderr)
                    report.ended(number, ends[number], log=log)
                if len(ends) < len(jobs):
                    time.sleep(pause)
                    pause = min(1.2 * pause, _LAST_PAUSE)
        except KeyboardInterrupt:
            left = self._left(whole, [job for n, job in enumerate(jobs) if n not in ends])
            report.console.error(f"interrupted: {left}; the same command continues")
            raise
        return [ends[number] for number in range(len(jobs))]

    def _over(self, jobs: Mapping[int, Any]) -> dict[int, str]:
        """Number -> state of the jobs that are over."""
        return {number: str(job.state) for number, job in jobs.items() if job.done()}

    def _told(self, whole: str) -> str:
        """What was done with the jobs."""
        return "started"

    def _left(self, whole: str, jobs: Sequence[Any]) -> str:
        """What becomes of the jobs that run when this process is interrupted."""
        raise NotImplementedError


_DEFAULT_LIMIT, _NO_LIMIT = 60, 10**6
"""Minutes: what the launcher sets where nobody did, and two years."""
_DEVICES = "CUDA_VISIBLE_DEVICES"
_PATIENCE = 5.0
"""Seconds in which a job that was interrupted ends by itself."""


class SubmititLocal(_Patient, LocalLauncher):  # type: ignore[misc]
    """Processes of this machine, all at once, which see the GPUs that this one sees."""

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        # A number of a process comes again; what an earlier one left must not be taken for its.
        unique = f"{time.time_ns():x}"
        self.params["submitit_folder"] = self.params["submitit_folder"].replace(
            "%j", f"{unique}_%j"
        )
        if self.params["timeout_min"] == _DEFAULT_LIMIT:
            self.params["timeout_min"] = _NO_LIMIT
        self.visible = os.environ.get(_DEVICES)
        return super()._submit(job_overrides, first)

    def __call__(self, *given: Any) -> Any:
        """Run jobs, in their process; submitit has taken the GPUs from it that nobody asked for."""
        if self.visible is None:
            os.environ.pop(_DEVICES, None)
        else:
            os.environ[_DEVICES] = self.visible
        signal.signal(signal.SIGTERM, _interrupt)  # submitit would go on
        return super().__call__(*given)

    def _left(self, whole: str, jobs: Sequence[Any]) -> str:
        for job in jobs:
            job._process.terminate()  # which its watcher hands on
        for job in jobs:
            try:
                job._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                job.cancel()
        return "the jobs were ended"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class SubmititSlurm(_Patient, SlurmLauncher):  # type: ignore[misc]
    """An array of jobs."""

    def _over(self, jobs: Mapping[int, Any]) -> dict[int, str]:
        """By the results that are there and by what Slurm knows of the others."""
        over = {n: "COMPLETED" for n, job in jobs.items() if job.paths.result_pickle.exists()}
        rest = {n: job for n, job in jobs.items() if n not in over}
        states = _states(sorted({str(job.job_id).partition("_")[0] for job in rest.values()}))
        if states is None:  # Slurm does not answer: it may later
            return over
        for number, job in rest.items():
            state = states.get(str(job.job_id), "forgotten by Slurm")
            if state in (*_OVER, "forgotten by Slurm"):
                over[number] = state
        return over

    def _told(self, whole: str) -> str:
        return f"submitted (Slurm job {whole})"

    def _left(self, whole: str, jobs: Sequence[Any]) -> str:
        return f"the jobs go on, `scancel {whole}` ends them"


def _states(arrays: Sequence[str]) -> dict[str, str] | None:
    """Job -> state of all that Slurm remembers of some arrays; None where it does not answer."""
    if not arrays:
        return {}
    asked = [
        "squeue", "--noheader", "--array", "--states=all", "--format=%i %T",
        f"--jobs={','.join(arrays)}",
    ]  # fmt: skip
    found = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    if found.returncode:
        return {} if "Invalid job id" in found.stderr else None
    return dict(line.split() for line in found.stdout.splitlines() if line.strip())


def _end(job: Any, state: str, latest: float) -> Ended:
    """How a job that is over ended; one without a result at some time was killed."""
    result, folder = job.paths.result_pickle, job.paths.folder
    while not result.exists() and time.monotonic() < latest:
        with suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # a network's file system looks anew
        time.sleep(0.2)
    if not result.exists():
        return Ended(FAILED, f"killed before its end ({state})")
    try:
        return end_of(job.results()[0])
    except Exception as error:
        return Ended(FAILED, first_line(error))
