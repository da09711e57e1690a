"""The command's clock: the one place in this package that knows what time it is.

Everything else takes a clock as an argument; only `scheduling.command` composes with this one.
"""

from time import monotonic

__all__ = ["monotonic"]
