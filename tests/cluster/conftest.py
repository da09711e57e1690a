from collections.abc import Iterator

import pytest

from tests.support.services import Client, service


@pytest.fixture(scope="session")
def demo() -> Iterator[Client]:
    """The demo model on two stages, shared by the tests that do not hurt it."""
    # A quota that nothing reaches: what is left of it is told in every answer.
    quota = ("--set", "quotas.requests_per_minute=1000000")
    with service("--model", "demo", "--stages", "2", *quota) as (client, _):
        yield client
