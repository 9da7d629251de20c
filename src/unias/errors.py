"""Every error a user can meet, each with the exit code its command ends with.

A message names three things: what it is about (a file, a folder, an option), what is wrong with it, and what to do
next. The command line prints the message and nothing else; Python callers catch :class:`UniasError`.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_MISSING = 4
EXIT_INTERRUPTED = 130


class UniasError(Exception):
    """Base of every error raised on purpose (exit code 1 where no kind below fits)."""

    exit_code: int = EXIT_FAILURE


class UsageError(UniasError):
    """An option, setting or argument that cannot be used (exit code 2)."""

    exit_code = EXIT_USAGE


class DataError(UniasError):
    """An image, a mask, a folder or a model on disk that cannot be used (exit code 3)."""

    exit_code = EXIT_DATA


class MissingError(UniasError):
    """Weights or an optional package that are not installed (exit code 4)."""

    exit_code = EXIT_MISSING


class TrainingError(UniasError):
    """Training that cannot go on, such as a loss that is not finite (exit code 1)."""


class ExportError(UniasError):
    """An export that is not the trained model, by more than is allowed: it is not kept (exit code 1)."""


class Interrupted(UniasError):
    """Ctrl-C: what was finished is kept, and the message says how to go on (exit code 130)."""

    exit_code = EXIT_INTERRUPTED
