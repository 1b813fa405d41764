"""Every error a user can meet, in one tree, so that callers catch what they mean and scripts read exit codes.

    EvopressError                 1   anything below
    +-- ConfigError               3   an option is wrong or options contradict each other
    |   +-- BudgetError           4   the budget cannot be met by the levels
    |   `-- ScheduleError         5   generations, offspring, survivors or tokens do not fit together
    +-- ModelError                6   the model cannot be found, read or is no causal language model
    |   +-- UnsupportedModel      7   the model's structure is not one that evopress understands
    |   `-- BadWeights            8   the model's weights hold NaN or infinity
    +-- DataError                 9   text is missing, empty or unreadable
    |   `-- NotEnoughTokens      10   fewer tokens exist than were asked for
    +-- RunError                 11   the run directory cannot be used
    |   +-- RunMismatch          12   it was made by another configuration
    |   +-- SchemaError          13   it was made by a newer evopress
    |   +-- RunLocked            14   a live process is using it
    |   `-- JournalError         15   its journal is damaged before the last line
    +-- DatabaseError            16   the database is incomplete
    |   `-- ChecksumError        17   a database file does not match its checksum
    +-- ResourceError            18   not enough disk or memory for the plan, or no access to a file
    +-- ProfileError             19   a profile does not fit the model or the database
    +-- MissingExtra             20   an optional dependency is not installed
    +-- VerificationError        21   an export is not the searched model, or not of the predicted size
    `-- TaskError                22   a task of the LM Evaluation Harness is unknown or cannot be run

Exit code 2 belongs to the command-line parser (unknown options) and 130 to Ctrl-C. Messages are one line: what was
wrong, the value, and what would be right.
"""


class EvopressError(Exception):
    """Base of all errors that evopress raises on purpose."""

    exit_code = 1


class ConfigError(EvopressError):
    """An option is wrong, or two options contradict each other."""

    exit_code = 3


class BudgetError(ConfigError):
    """The budget cannot be met by the levels that exist."""

    exit_code = 4


class ScheduleError(ConfigError):
    """Generations, offspring, survivors or tokens per stage do not fit together."""

    exit_code = 5


class ModelError(EvopressError):
    """The model cannot be found or read, or is not a causal language model."""

    exit_code = 6


class UnsupportedModel(ModelError):
    """The model's structure is not one that evopress understands; the message names what was not found."""

    exit_code = 7


class BadWeights(ModelError):
    """The model's weights hold NaN or infinity."""

    exit_code = 8


class DataError(EvopressError):
    """Text is missing, empty or unreadable."""

    exit_code = 9


class NotEnoughTokens(DataError):
    """Fewer tokens exist than were asked for."""

    exit_code = 10


class RunError(EvopressError):
    """The run directory cannot be used."""

    exit_code = 11


class RunMismatch(RunError):
    """The run directory was made by another configuration."""

    exit_code = 12


class SchemaError(RunError):
    """A file was written by a newer evopress."""

    exit_code = 13


class RunLocked(RunError):
    """A live process is using the run directory."""

    exit_code = 14


class JournalError(RunError):
    """The journal is damaged before its last line."""

    exit_code = 15


class DatabaseError(EvopressError):
    """The database is incomplete or does not hold what was asked for."""

    exit_code = 16


class ChecksumError(DatabaseError):
    """A database file does not match the checksum in the manifest."""

    exit_code = 17


class ResourceError(EvopressError):
    """Not enough disk or memory for the plan, or no access to a file."""

    exit_code = 18


class ProfileError(EvopressError):
    """A profile does not fit the model or the database."""

    exit_code = 19


class MissingExtra(EvopressError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = 20


class VerificationError(EvopressError):
    """What was exported does not load, is not the searched model, or has not the size that was predicted."""

    exit_code = 21


class TaskError(EvopressError):
    """A task of the LM Evaluation Harness is unknown, its file is wrong, or it cannot be run."""

    exit_code = 22


def first_line(error: Exception) -> str:
    r"""The first line of a library's error, or its class where it says nothing.

    >>> first_line(ValueError("no\nsuch thing"))
    'no'
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: Exception) -> str:
    r"""The last line of a library's error, where validators say what was wrong, or its class where it says nothing.

    >>> last_line(ValueError("validation error:\n  no such thing"))
    'no such thing'
    """
    return next(reversed(str(error).strip().splitlines()), type(error).__name__).strip()
