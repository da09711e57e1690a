"""The living actors of one process by name, and the last words of those who are gone."""

from collections.abc import Iterator

from actors.kernel.cell import Cell, End
from actors.kernel.errors import ActorStopped
from actors.kernel.ref import ANY, Ref
from actors.kernel.supervision import DownReason

MAX_REMEMBERED_ENDS = 1024


class Registry:
    """Finds actors; a name belongs to one living actor at a time."""

    def __init__(self, address: str, incarnation: int) -> None:
        self._address = address
        self._incarnation = incarnation
        self._cells: dict[str, Cell] = {}
        self._ends: dict[str, tuple[int, DownReason, str]] = {}
        self._last_generation = 0

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._cells.values()))

    def is_here(self, ref: Ref) -> bool:
        """Whether a ref leads to this process, in this or an earlier life of it."""
        return ref.address == self._address

    def ref(self, name: str, generation: int = ANY) -> Ref:
        """The ref of an actor of this process."""
        return Ref(self._address, self._incarnation, name, generation)

    def new_ref(self, name: str) -> Ref:
        """The ref of the next start; its generation never comes twice in this process."""
        self._last_generation += 1
        return self.ref(name, self._last_generation)

    def add(self, cell: Cell) -> None:
        """Let a start of an actor be found."""
        self._cells[cell.ref.name] = cell

    def remove(self, cell: Cell, end: End) -> None:
        """Remember how a start of an actor ended, in words: its failure would keep its state."""
        name = cell.ref.name
        if self._cells.get(name) is cell:
            del self._cells[name]
        self._ends.pop(name, None)
        self._ends[name] = (cell.ref.generation, end.reason, end.text)
        if len(self._ends) > MAX_REMEMBERED_ENDS:
            del self._ends[next(iter(self._ends))]

    def find(self, ref: Ref) -> Cell:
        """The actor that a ref to this process leads to.

        Raises:
            ActorStopped: there is no such actor, or not that start of it.
        """
        if ref.incarnation not in (ANY, self._incarnation):
            raise ActorStopped(f"{ref} was of an earlier life of this process")
        return self.find_here(ref.name, ref.generation)

    def find_here(self, name: str, generation: int) -> Cell:
        """As `find`, without the process."""
        cell = self._cells.get(name)
        if cell is None or generation not in (ANY, cell.ref.generation):
            start = "" if generation == ANY else f" (start {generation})"
            raise ActorStopped(f"no actor {name!r}{start} at {self._address}")
        return cell

    def last_words(self, ref: Ref) -> tuple[DownReason, str]:
        """How an actor ended that is not here; one that is not remembered counts as failed."""
        unknown = (ANY, DownReason.ERROR, f"no actor {ref.name!r} at {self._address}")
        generation, reason, text = self._ends.get(ref.name, unknown)
        if ref.generation in (ANY, generation) and ref.incarnation in (ANY, self._incarnation):
            return reason, text
        return unknown[1:]
