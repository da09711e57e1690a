"""A launcher that waits for nodes, and the launchers that join it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.services import Client, Launched, launched

TOKEN = "a-token-for-the-tests"


@dataclass
class Cluster:
    """Launchers on this machine that play machines of their own."""

    main: Launched
    address: str
    joined: dict[str, Launched] = field(default_factory=dict)

    def client(self) -> Client:
        """A client, once every stage is ready."""
        return Client(self.main.wait_line(r"^ready (http://\S+) ")[1])

    def join_arguments(self, node: str, token: str = TOKEN) -> list[str]:
        return ["--join", self.address, "--token", token, "--node-id", node]

    @contextlib.contextmanager
    def joining(self, *nodes: str) -> Iterator[None]:
        """Launchers of these nodes, for as long as the block lasts."""
        with contextlib.ExitStack() as ending:
            for node in nodes:
                self.joined[node] = ending.enter_context(launched(*self.join_arguments(node)))
            yield


@contextlib.contextmanager
def waiting_cluster(*arguments: str) -> Iterator[Cluster]:
    """A launcher whose cluster address is known and that waits for its nodes."""
    with launched("--port", "0", "--token", TOKEN, *arguments) as main:
        yield Cluster(main, main.wait_line(r"^cluster address (\S+)")[1])
