from collections.abc import Iterator

import pytest

from tests.support.services import Client, service


@pytest.fixture(scope="session")
def demo() -> Iterator[Client]:
    """The demo model on two stages, shared by the tests that do not hurt it."""
    with service("--model", "demo", "--stages", "2") as (client, _):
        yield client
