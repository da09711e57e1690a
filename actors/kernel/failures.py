"""An actor's failure as text: for its asker, for its watchers and for the log.

A failure is whatever an actor raised, so that even asking it what it says may fail. The standard
library's `TracebackException` copes with that; everything that needs the words comes here.
"""

from traceback import TracebackException, format_exception

from actors.kernel.errors import RemoteFault

MAX_LOGGED = 500
"""Characters of a failure in one line of the log; the traceback, at DEBUG, has all of it."""


def describe(error: Exception) -> str:
    """The failure's class and what it says."""
    return f"{type(error).__name__}: {_text(error)}"


def one_line(error: Exception) -> str:
    """The same without line breaks, for the log."""
    words = " ".join(describe(error).split())
    return words if len(words) <= MAX_LOGGED else words[: MAX_LOGGED - 1] + "…"


def fault(error: Exception) -> RemoteFault:
    """What the asker gets whose ask was being handled."""
    return RemoteFault(type(error).__name__, _text(error), "".join(format_exception(error)))


def _text(error: Exception) -> str:
    return str(TracebackException(type(error), error, None, compact=True))
