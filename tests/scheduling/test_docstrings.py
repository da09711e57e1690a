import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name", ["blocks", "helix.files", "phases.wait", "plan", "shuntserve.estimator"]
)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"scheduling.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
