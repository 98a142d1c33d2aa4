"""What Hydra cannot make of a command line, in one line that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.resources import files

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ValidationError

from checkpoints.errors import UserError, first_line
from tracker.launchers import PACKAGES, needs_package

_WHOLE = "HYDRA_FULL_ERROR"


@contextmanager
def told() -> Iterator[None]:
    """Errors of composition as user errors; Hydra would print several lines of its own and exit.

    Raises:
        UserError: A setting, a name of a group or the grammar of an override is wrong.
    """
    before = os.environ.get(_WHOLE)
    os.environ[_WHOLE] = "1"  # have Hydra raise them
    try:
        yield
    except HydraException as error:
        raise UserError(_line(error)) from error
    finally:
        if before is None:
            del os.environ[_WHOLE]
        else:
            os.environ[_WHOLE] = before


def _line(error: HydraException) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and name in PACKAGES:
            return needs_package(f"{group}={name}", PACKAGES[name])
        return f"{group}={name}: there is none; {_nearest(name, error.options or _shipped(group))}"
    cause = error.__cause__
    key, parent = getattr(cause, "full_key", None), getattr(cause, "parent_node", None)
    if key and isinstance(cause, ValidationError):
        return f"{key}: {first_line(cause)}"
    if key and isinstance(parent, DictConfig):
        above, _, name = str(key).rpartition(".")
        known = [f"{above}.{k}" if above else k for k in map(str, parent) if k != "hydra"]
        return f"{key}: no such setting; {_nearest(str(key), known)}"
    lines = [line for line in str(error).splitlines() if line and not line.startswith("See http")]
    if isinstance(error, OverrideParseException):
        return f"{error.override or ''}: not understood ({lines[-1]}); settings are NAME=VALUE"
    return ": ".join(lines[:2])


def _shipped(group: str) -> list[str]:
    folder = files("conf").joinpath(group)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.7)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose {', '.join(names)}" if names else "see tracker --help"
