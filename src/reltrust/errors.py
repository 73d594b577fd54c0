"""Errors that are for a person to read: one line that says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or its kind where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class UserError(Exception):
    """Base of the errors that the command line prints as one line, without a traceback."""


class SettingsError(UserError):
    """A setting that is not allowed: the line names the key, the value, and what is allowed."""


class DataError(UserError):
    """Data that cannot be had."""


class BusyError(UserError):
    """A run that another process is working on at this moment."""


class EndedError(UserError):
    """A run that another process has brought to its result in the meantime."""


class RecordError(UserError):
    """A record, a checkpoint or a table that cannot be read or written: the line names the file."""


class DamagedError(RecordError):
    """A file that is not what was written."""


class SweepError(UserError):
    """A sweep in which runs failed."""
