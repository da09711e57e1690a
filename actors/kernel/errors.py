"""What can go wrong between two actors.

ActorError
├── ActorStopped          the actor was never there, has ended, or ended before it answered
├── ActorFailed           an actor's failure that nobody below the root took care of
├── RestartLimitReached   an actor failed more often than its supervision allows
├── NameTaken             a living actor has that name already
├── MailboxFull           a mailbox on this process takes no more for now
├── AskTimeout            no reply by the deadline; the actor may or may not have run it
├── Rejected              not run, and worth trying again: the actor is full
│   └── Draining          not run: the actor finishes what it has and takes no more
└── RemoteFault           the actor failed while it handled the ask

A process that cannot be reached is `transport.errors.Unreachable`, which an ask raises as well; if
the process was lost after the ask was sent, the actor may have run it.
"""


class ActorError(Exception):
    """Base of every error this package raises."""


class ActorStopped(ActorError):
    """The actor was never there, has ended, or ended before it answered."""


class ActorFailed(ActorError):
    """An actor failed and its failure reached the root; `__cause__` is the failure itself."""


class RestartLimitReached(ActorError):
    """An actor failed more often than its supervision allows."""


class NameTaken(ActorError):
    """A living actor has that name already."""


class MailboxFull(ActorError):
    """A mailbox on this process takes no more messages for now."""


class AskTimeout(ActorError):
    """No reply came by the deadline; the actor may or may not have run the ask."""


class Rejected(ActorError):
    """The ask was not run; the same ask may be taken later."""


class Draining(Rejected):
    """The ask was not run: the actor finishes what it has and takes no more."""


class RemoteFault(ActorError):
    """The actor failed while it handled the ask; the failure came as text.

    Attributes:
        type_name: the failure's class name.
        text: what it said.
        traceback: where it happened, as the other process printed it.
    """

    def __init__(self, type_name: str, text: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {text}")
        self.type_name = type_name
        self.text = text
        self.traceback = traceback
