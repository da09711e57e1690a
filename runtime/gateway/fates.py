"""The rows of the tables: a parameter that is honoured, off, not supported, or a label.

Of what is not honoured one test shows that for all of its kind.
"""

from typing import Any

from runtime.gateway.parameters import Parameter
from runtime.gateway.values import Reader


def honoured(reader: Reader, does: str, shown_by: str) -> Parameter:
    """One that does what it says, as its own test shows."""
    return Parameter(does=does, shown_by=shown_by, reader=reader)


def off(values: tuple[Any, ...], does: str) -> Parameter:
    """One that is taken only at the values that ask for nothing."""
    test = "test_parameters.py::test_what_is_not_supported_is_taken_only_where_it_asks_for_nothing"
    return Parameter(does=does, shown_by=test, off=values)


def unsupported(does: str) -> Parameter:
    """One that is known and always refused; `does` says why, or what to use."""
    test = "test_parameters.py::test_what_is_known_and_never_supported_is_refused_by_name"
    return Parameter(does=does, shown_by=test)


def label(does: str) -> Parameter:
    """One that is taken and changes nothing."""
    test = "test_parameters.py::test_labels_and_nulls_are_taken_and_change_nothing"
    return Parameter(does=does, shown_by=test, is_label=True)
