"""The address of an actor: which process, which life of it, which name, which start of that name.

A ref is a plain value that travels in messages. It does nothing by itself, and holding one keeps
nothing alive.
"""

from typing import Annotated

import msgspec

ANY = 0
"""As an incarnation or a generation: whichever there is now."""

MAX_ID = (1 << 63) - 1

MAX_NAME = 256


class Ref(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where an actor is.

    A stale ref fails fast: a process's incarnation and an actor's generation never come twice.
    `generation=ANY` follows the name through restarts, `incarnation=ANY` the address.
    """

    address: Annotated[str, msgspec.Meta(max_length=1024)]
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] = ANY

    def whichever(self) -> "Ref":
        """The same name at the same address, in whichever life there is."""
        return msgspec.structs.replace(self, incarnation=ANY, generation=ANY)

    def __str__(self) -> str:
        return f"{self.name}#{self.generation}@{self.address}#{self.incarnation}"
