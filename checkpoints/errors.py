"""Errors that are the user's to mend, and skips that are one checkpoint's own fault."""


class UserError(Exception):
    """Wrong use: one clear line saying what was wrong, where, and what to do (exit code 2)."""


class CheckpointError(Exception):
    """One checkpoint cannot be measured; the others go on (exit code 3 at the end)."""


class DownloadError(CheckpointError):
    """A checkpoint's weights cannot be had now; nothing is wrong with the checkpoint."""


def first_line(error: BaseException) -> str:
    """What another's error says, short enough for our line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
