"""Jobs in processes of this machine, through joblib."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

from checkpoints.errors import first_line
from tracker.console import Console
from tracker.ends import FAILED, WRONG_USE
from tracker.launchers import Report, ReportsEnds, end_of


class Joblib(ReportsEnds, JoblibLauncher):  # type: ignore[misc]
    """joblib's processes write to this terminal: what a job says is seen as it is said.

    Where a process is killed, joblib ends the others with it.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; wait for all of them."""
        report = Report(Console(), job_overrides)
        try:
            results: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
        except BrokenProcessPool:
            return report.lost(
                FAILED, "a job was killed (out of memory?), and joblib ended those that still ran"
            )
        except (ValueError, OSError, TimeoutError) as error:  # settings of joblib
            return report.lost(WRONG_USE, f"joblib: {first_line(error)}")
        for number, result in enumerate(results):
            report.ended(number, end_of(result), seen=True)
        report.close()
        return results
