import doctest

from runtime import network


def test_the_examples_in_the_docstrings_are_right() -> None:
    found = doctest.testmod(network)
    assert found.attempted > 0
    assert found.failed == 0
