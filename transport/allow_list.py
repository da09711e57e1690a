"""The list of keys that an encrypted door admits, and of those that it does not.

Pure but for the clock it is given; who asks it, and how it is told who proved itself, stands in
`transport.zmq_curve`.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterable

FORGIVEN_AFTER_S = 60.0
"""A key that was refused may try again after this: its owner may have been given another token."""


class Verdict(enum.Enum):
    """What is said to a key that comes."""

    ADMITTED = enum.auto()
    REFUSED = enum.auto()
    FULL = enum.auto()


class AllowList:
    """Which keys a door admits: its members', and for a while a stranger's that may become one.

    A stranger's key is admitted so that its owner can prove that it knows the cluster's token; if
    it fails it is refused from then on, and if it does not try in time its place is given away.
    Members are admitted however many strangers there are. All three lists are bounded: of members
    the one that was not seen for longest is forgotten first, and is a stranger again.

    Args:
        now: the time, seconds.
        trusted: keys that are members for ever.
        max_members: other members remembered.
        max_strangers: keys that may be about to prove themselves.
        patience_s: how long a stranger may take.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        trusted: Iterable[bytes] = (),
        max_members: int = 4096,
        max_strangers: int = 256,
        patience_s: float = 5.0,
    ) -> None:
        self._now = now
        self._trusted = frozenset(trusted)
        self._members: OrderedDict[bytes, None] = OrderedDict()
        self._strangers: OrderedDict[bytes, float] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._max_members, self._max_strangers = max_members, max_strangers
        self._patience_s = patience_s

    def judge(self, key: bytes) -> Verdict:
        """What is to be said to a key that comes; a new stranger takes a place."""
        self._forget_the_late()
        if self.is_member(key):
            if key in self._members:
                self._members.move_to_end(key)
            return Verdict.ADMITTED
        if key in self._refused:
            return Verdict.REFUSED
        if key not in self._strangers and len(self._strangers) >= self._max_strangers:
            return Verdict.FULL
        self._strangers.setdefault(key, self._now() + self._patience_s)
        return Verdict.ADMITTED

    def is_member(self, key: bytes) -> bool:
        """Whether a key was admitted for good."""
        return key in self._trusted or key in self._members

    def admit(self, key: bytes) -> None:
        """Make a key a member: it proved itself, or we were given its address."""
        self._strangers.pop(key, None)
        self._refused.pop(key, None)
        if key not in self._trusted:
            self._members[key] = None
            self._members.move_to_end(key)
        if len(self._members) > self._max_members:
            self._members.popitem(last=False)

    def refuse(self, key: bytes) -> None:
        """Admit a stranger's key no more, for it misbehaved; a member's stays as it is."""
        if self.is_member(key):
            return
        self._strangers.pop(key, None)
        self._refused[key] = self._now() + FORGIVEN_AFTER_S
        self._refused.move_to_end(key)
        if len(self._refused) > self._max_members:
            self._refused.popitem(last=False)

    def _forget_the_late(self) -> None:
        for keys in (self._strangers, self._refused):
            while keys and next(iter(keys.values())) <= self._now():
                keys.popitem(last=False)
