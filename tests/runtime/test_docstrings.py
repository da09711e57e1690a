import doctest
from types import ModuleType

import pytest

from runtime import join_token, network
from transport import security


@pytest.mark.parametrize("module", [join_token, network, security], ids=lambda m: m.__name__)
def test_the_examples_in_the_docstrings_are_right(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
