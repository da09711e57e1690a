"""Server-sent events out of the bytes of a stream, whole or not at all."""

from dataclasses import dataclass

from runtime.errors import RemudaError

MAX_EVENT_BYTES = 1 << 20


class NotEvents(RemudaError):
    """The bytes are no server-sent events."""


@dataclass(frozen=True, slots=True)
class Event:
    """One block of lines: its name, its data and its comments."""

    name: str = ""
    data: str = ""
    comments: tuple[str, ...] = ()


class EventReader:
    """Takes bytes as they come and gives events as they end."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes; the events that are whole by now.

        Raises:
            NotEvents: one is too long, or not text.
        """
        *whole, self._held = (self._held + data).split(b"\n\n")
        if len(self._held) > MAX_EVENT_BYTES:
            raise NotEvents(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return [_event(block) for block in whole]


def _event(block: bytes) -> Event:
    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise NotEvents("an event that is not UTF-8") from None
    names = [line.removeprefix("event:").strip() for line in lines if line.startswith("event:")]
    data = [line.removeprefix("data:").removeprefix(" ") for line in lines if line[:5] == "data:"]
    comments = tuple(line[1:].strip() for line in lines if line.startswith(":"))
    return Event(names[-1] if names else "", "\n".join(data), comments)
