"""The supervision tree of one process: who is there, under whom, and how it all stops.

The root is a supervisor that looks after nobody's restart: what comes up to it ends the system.
"""

import asyncio
import random
from collections.abc import Callable

from actors.kernel.actor import Actor, ActorSource
from actors.kernel.cell import Cell, State
from actors.kernel.child import Child, Supervisor
from actors.kernel.errors import ActorStopped, NameTaken
from actors.kernel.mailbox import Mailbox, MailboxLimits
from actors.kernel.ref import MAX_NAME, Ref
from actors.kernel.statistics import ActorStatistics
from actors.kernel.supervision import ESCALATE, Restart, Strategy, Supervision
from actors.kernel.switchboard import Switchboard


class Tree:
    """All actors of a process; itself the root.

    `prepare` is given every actor before its start, and `on_failure` the failure that ends the
    system.
    """

    def __init__(
        self,
        board: Switchboard,
        tasks: asyncio.TaskGroup,
        rng: random.Random,
        limits: MailboxLimits,
        prepare: Callable[[Actor, Cell], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.rng = rng
        self.children: dict[str, Child] = {}
        self.is_stopping = False
        self._board = board
        self._tasks = tasks
        self._limits = limits
        self._prepare = prepare
        self._on_failure = on_failure
        self._by_name: dict[str, Child] = {}

    def fail(self, error: Exception) -> None:
        """Take a failure that nobody below took care of."""
        self._on_failure(error)

    def spawn(
        self, supervisor: Supervisor, actor: ActorSource, name: str, supervision: Supervision | None
    ) -> Ref:
        """Start an actor under a supervisor; raises as `ActorSystem.spawn` does."""
        supervision = supervision or ESCALATE
        if self.is_stopping or (isinstance(supervisor, Cell) and supervisor.state is State.STOPPED):
            raise ActorStopped(f"actor {name!r} was not started: its supervisor is stopping")
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"expected a name of 1 to {MAX_NAME} characters, got {len(name)}")
        if name in self._by_name:
            raise NameTaken(f"an actor named {name!r} is alive in this process")
        if isinstance(actor, Actor):
            _check_lives_once(name, supervision)
        child = Child(name, supervisor, supervision, lambda: self._new_cell(name, actor), self)
        self._by_name[name] = child
        return child.cell.ref

    def _new_cell(self, name: str, source: ActorSource) -> Cell:
        def make(cell: Cell) -> Actor:
            actor = source if isinstance(source, Actor) else source()
            self._prepare(actor, cell)
            return actor

        return Cell(self._board.registry.new_ref(name), make, Mailbox(self._limits), self._board)

    def child(self, name: str) -> Child:
        """The place of an actor in the tree.

        Raises:
            ActorStopped: there is no such actor.
        """
        if name not in self._by_name:
            raise ActorStopped(f"no actor {name!r} in this process")
        return self._by_name[name]

    async def stop(self) -> None:
        """Stop all actors, the last one started first."""
        self.is_stopping = True
        for child in list(reversed(self.children.values())):
            await child.stop()

    # --- what children need: a `Nursery`

    def start_task(self, child: Child) -> "asyncio.Task[None]":
        """Run a child in a task of its own."""
        return self._tasks.create_task(child.live(), name=f"actor {child.name}")

    def started(self, cell: Cell) -> None:
        """Let a new start of an actor be found by its name."""
        self._board.registry.add(cell)

    def given_up(self, child: Child) -> None:
        """A child's place is free, and its name."""
        del self._by_name[child.name]

    def statistics(self) -> tuple[ActorStatistics, ...]:
        """How all actors stand now."""
        return tuple(_statistics(child) for child in self._by_name.values())


def _check_lives_once(name: str, supervision: Supervision) -> None:
    is_escalating = supervision.strategy is Strategy.ESCALATE
    restarts = supervision.restart is Restart.PERMANENT or not is_escalating
    if restarts and supervision.restart is not Restart.TEMPORARY:
        raise ValueError(f"actor {name!r} is to be restarted: spawn what makes it, not an actor")


def _statistics(child: Child) -> ActorStatistics:
    cell = child.cell
    return ActorStatistics(
        name=child.name,
        generation=cell.ref.generation,
        state=cell.state,
        num_waiting=len(cell.mailbox),
        num_waiting_bytes=cell.mailbox.num_bytes,
        num_handled=cell.num_handled,
        num_restarts=child.num_restarts,
    )
