"""Jobs of a multirun in processes of their own: how they end reaches the command line.

Hydra's launchers start the jobs of `tracker -m`. The basic one runs them in this process; those of
joblib and submitit run them elsewhere, drop what a job returns, and raise where one was killed, so
that nothing is said of the others. The classes here are those launchers, patient: they wait for
every job and say how each ended. They stand in Hydra's registry under the launchers' own names, so
`hydra/launcher=joblib|submitit_slurm|submitit_local` means what it always means.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig

from checkpoints.errors import UserError, first_line
from tracker.console import Console
from tracker.ends import DONE, FAILED, MEANING, WRONG_USE, Ended

PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "local_gpus": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "slurm_gpu": "hydra-submitit-launcher",
}
"""Launcher -> the package that has it."""

_SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
_OURS = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": (
        "tracker.launchers.local",
        "Joblib",
    ),
    f"{_SUBMITIT}.LocalLauncher": ("tracker.launchers.cluster", "SubmititLocal"),
    f"{_SUBMITIT}.SlurmLauncher": ("tracker.launchers.cluster", "SubmititSlurm"),
}
"""A launcher's name -> module and class that stand in for it."""

_listeners: list[Callable[[int], None]] = []


def require_launcher(arguments: Sequence[str]) -> None:
    """Refuse a launcher whose package is missing.

    Raises:
        UserError: It is named on the command line, and not installed.
    """
    for argument in arguments:
        found = re.fullmatch(r"\+*hydra/launcher=(\w+)", argument)
        package = PACKAGES.get(found[1]) if found else None
        if package and not _is_there(f"hydra_plugins.{package.replace('-', '_')}"):
            raise UserError(needs_package(argument, package))


def needs_package(argument: str, package: str) -> str:
    """What to do about a launcher that is not installed."""
    return f"{argument} needs the package {package}: pip install {package}"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def watch(listener: Callable[[int], None]) -> None:
    """Have the launchers that are installed tell the exit code of every job to `listener`."""
    registry = Plugins.instance().class_name_to_class
    for name, (module, ours) in _OURS.items():
        if name in registry:
            registry[name] = getattr(import_module(module), ours)
    _listeners[:] = [listener]


class Reported:
    """A job that always returns how it ended; it runs in the job's own process."""

    def __init__(self, job: Callable[[DictConfig], Ended]) -> None:
        self.job = job

    def __call__(self, config: DictConfig) -> Ended:
        """Run it."""
        try:
            return self.job(config)
        except Exception as error:
            traceback.print_exc()  # lost otherwise: an exception travels without it
            return Ended(FAILED, f"{type(error).__name__}: {first_line(error)}")


class ReportsEnds:
    """Mixed into a launcher: its jobs return how they ended."""

    def setup(self, *, task_function: Callable[[DictConfig], Ended], **context: Any) -> None:
        """As Hydra's launchers take it."""
        super().setup(task_function=Reported(task_function), **context)  # type: ignore[misc]


def returned(end: Ended) -> JobReturn:
    """`end` as Hydra hands it on."""
    result = JobReturn(status=JobStatus.COMPLETED)
    result.return_value = end
    return result


def end_of(result: Any) -> Ended:
    """How a job ended, by what Hydra hands on."""
    return result.return_value if isinstance(result.return_value, Ended) else Ended(DONE)


def names(overrides: Sequence[Sequence[str]]) -> list[str]:
    """What sets each job of a multirun apart, such as `shard=3`."""
    plain = [filter_overrides(each) for each in overrides]
    common = set.intersection(*map(set, plain))
    apart = [" ".join(o for o in each if o not in common) for each in plain]
    return [name or f"job {number}" for number, name in enumerate(apart)]


class Report:
    """Says how jobs end, each as it ends, and all of them in the last line."""

    def __init__(self, console: Console, overrides: Sequence[Sequence[str]]) -> None:
        self.console, self.names = console, names(overrides)
        self._codes: list[int] = []
        self._said: set[str] = set()

    def ended(self, number: int, end: Ended, *, log: str = "", seen: bool = False) -> None:
        """Job `number` ended.

        Args:
            number: Its place in the multirun.
            end: How it ended.
            log: Where the rest of what it said is.
            seen: Whether it has told the user itself.
        """
        self._codes.append(end.code)
        for listener in _listeners:
            listener(end.code)
        if seen or end.code == DONE or (end.code == WRONG_USE and end.said in self._said):
            return
        self._said.add(end.said)
        where = f" (log: {log})" if log else ""
        self.console.say(f"{self.names[number]}: {end.said or MEANING[end.code]}{where}")

    def lost(self, code: int, said: str) -> list[JobReturn]:
        """All have ended, and how each did is not known but for this."""
        self.console.error(said)
        for number in range(len(self.names)):
            self.ended(number, Ended(code, said), seen=True)
        self._say_what_next()
        return [returned(Ended(code, said)) for _ in self.names]

    def close(self) -> None:
        """All have ended."""
        counts = Counter(self._codes)
        parts = ", ".join(f"{n} {MEANING[code]}" for code, n in sorted(counts.items()))
        self.console.say(f"{len(self._codes)} jobs: {parts}")
        self._say_what_next()

    def _say_what_next(self) -> None:
        counts = set(self._codes)
        if counts - {DONE, WRONG_USE}:
            self.console.say(
                "what is finished is kept: the same command continues, task=analyze merges what "
                "is there and lists what is missing"
            )
