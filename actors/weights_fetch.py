"""Weights that this node lacks, fetched from whoever has them and checked before they count.

The one idea: what is lacking is a list of pieces, and whoever has the model may send any of them.
One who dies, lies or stalls leaves a shorter list to the next. Nothing is asked for that would not
fit, and nothing is left behind by what breaks but whole, checked parts.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from actors.kernel.actor import Context
from actors.kernel.errors import ActorError
from actors.kernel.ref import Ref
from actors.messages import (
    MAX_REASON,
    FetchWeights,
    FindWeights,
    SendWeights,
    WeightFile,
    WeightPiece,
    WeightsFetched,
    WeightsFound,
    WeightsSent,
    WeightsWritten,
    WriteWeights,
)
from actors.weights_serving import Run
from models.checkpoint import FACTS_NAME
from models.errors import ModelError
from models.fingerprint import TensorFacts
from models.landing import PIECE_BYTES, Landing, LandingPart
from models.weight_places import WeightPlaces
from models.weight_source import SMALL_FILES
from transport.checksum import checksum
from transport.errors import TransportError
from transport.frame import Buffer

_log = logging.getLogger(__name__)

MAX_PIECES_ASKED = 256
FIND_TIMEOUT_S = 120.0
"""Whoever is asked may have to read a checkpoint once to know what it is."""
LEAST_DEADLINE_S = 60.0
ANSWER_GRACE_S = 5.0
MAX_SMALL_FILES_BYTES = 256 << 20

Write = Callable[[str, int, Buffer], None]
"""Puts a piece in its place; blocking; raises `ModelError` where it has none."""


class NotFetched(Exception):
    """Weights did not come; the text says which and why."""


class Fetching:
    """Fetches weights for one process of a node."""

    def __init__(self, context: Context, run: Run, places: WeightPlaces) -> None:
        self._context, self._run, self._places = context, run, places
        self._writes: dict[int, Write] = {}

    @property
    def num_transfers(self) -> int:
        """Transfers for which pieces are taken now."""
        return len(self._writes)

    async def fetch(self, wanted: FetchWeights) -> WeightsFetched:
        """Have the weights on this node; one answer: where they are, or why they are not."""
        try:
            return await self._fetch(wanted)
        except (NotFetched, ModelError, OSError) as error:
            _log.warning("weights not fetched model=%s reason=%s", wanted.model, error)
            return WeightsFetched(model=wanted.model, num_bytes=0, failure=str(error)[:MAX_REASON])

    async def write(self, piece: WriteWeights, buffers: Sequence[Buffer]) -> WeightsWritten:
        """Take a piece, if it is awaited and whole."""
        write = self._writes.get(piece.transfer)
        if write is None or len(buffers) != 1:
            return WeightsWritten(failure=f"transfer {piece.transfer} is over, or never was")
        data = buffers[0]

        def check_and_write() -> str | None:
            if checksum([data]) != piece.checksum:
                return "the bytes were damaged on the way"
            try:
                write(piece.name, piece.offset, data)
            except (ModelError, OSError) as error:
                return str(error)[:MAX_REASON]
            return None

        return WeightsWritten(failure=await self._run(check_and_write))

    async def _fetch(self, wanted: FetchWeights) -> WeightsFetched:
        policy, key = wanted.policy, (wanted.model, wanted.model_hash, wanted.policy.verify)
        why = "weights.source is peer"
        if policy.source != "peer":
            try:
                own = await self._run(lambda: self._places.own(*key))
                return WeightsFetched(model=str(own), num_bytes=0, failure=None)
            except (ModelError, OSError) as error:
                why = str(error)
        if policy.source == "disk" or not policy.holders:
            raise NotFetched(f"{why}; and no other node may be asked for the weights")
        asking = _Asking(self, wanted)
        landing = await self._run(lambda: self._places.landing_for(*key[1:]))
        if not landing.is_described:
            await asking.describe(landing)
        missing = await self._run(lambda: landing.missing(wanted.start, wanted.end))
        await self._run(lambda: landing.check_room(missing))
        num_bytes = 0
        for part, facts in missing.items():
            await self._fetch_part(asking, landing, part, facts)
            num_bytes += sum(fact.num_bytes for fact in facts.values())
        _log.info("weights fetched parts=%d bytes=%d", len(missing), num_bytes)
        return WeightsFetched(model=str(landing.directory), num_bytes=num_bytes, failure=None)

    async def _fetch_part(
        self, asking: "_Asking", landing: Landing, name: str, facts: Mapping[str, TensorFacts]
    ) -> None:
        part = await self._run(lambda: landing.begin(name, facts))
        try:
            await asking.fill(part)
        finally:
            await self._run(part.close)

    async def pieces_from(
        self, holder: Ref, wanted: FetchWeights, pieces: Sequence[WeightPiece], write: Write
    ) -> str | None:
        """Have a holder send pieces; why not all of them came, if so."""
        transfer = self._context.rng.getrandbits(47)
        num_bytes = sum(piece.num_bytes for piece in pieces)
        deadline_s = LEAST_DEADLINE_S + 4 * num_bytes / wanted.policy.max_bytes_per_s
        message = SendWeights(
            model=wanted.model,
            model_hash=wanted.model_hash,
            verify=wanted.policy.verify,
            transfer=transfer,
            pieces=tuple(pieces),
            target=self._context.self_ref,
            max_bytes_per_s=wanted.policy.max_bytes_per_s,
            deadline_s=min(deadline_s, 86400.0),
        )
        self._writes[transfer] = write
        try:
            answer = await self._context.ask(
                holder, message, timeout_s=message.deadline_s + ANSWER_GRACE_S
            )
        except (ActorError, TransportError) as error:
            return str(error)
        finally:
            del self._writes[transfer]
        return answer.failure if isinstance(answer, WeightsSent) else "another answer came"

    async def find(self, holder: Ref, wanted: FetchWeights) -> WeightsFound:
        """Ask a holder whether it has the model."""
        question = FindWeights(
            model=wanted.model, model_hash=wanted.model_hash, verify=wanted.policy.verify
        )
        try:
            answer = await self._context.ask(holder, question, timeout_s=FIND_TIMEOUT_S)
        except (ActorError, TransportError) as error:
            return WeightsFound(files=(), failure=str(error)[:MAX_REASON])
        if not isinstance(answer, WeightsFound):
            return WeightsFound(files=(), failure="another answer came")
        return answer

    async def run(self, function: Callable[[], list[WeightPiece]]) -> list[WeightPiece]:
        """Run a blocking function after the writes that have come."""
        return await self._run(function)

    async def try_to(self, function: Callable[[], None]) -> str | None:
        """Run a blocking function; why it failed, if it did."""
        try:
            await self._run(function)
        except ModelError as error:
            return str(error)
        return None


class _Asking:
    """Asks one holder after another for what is still missing, the one that last helped first."""

    def __init__(self, fetching: Fetching, wanted: FetchWeights) -> None:
        self._fetching, self._wanted = fetching, wanted
        self._holders = deque(wanted.policy.holders)
        self._reasons: dict[Ref, str] = {}

    async def describe(self, landing: Landing) -> None:
        """Fetch the small files and the list of all tensors from the first who can give them."""
        for _ in range(len(self._holders)):
            failure = await self._describe_from(self._holders[0], landing)
            if failure is None:
                return
            self._pass_on(failure)
        raise self._nobody("the list of its tensors")

    async def _describe_from(self, holder: Ref, landing: Landing) -> str | None:
        found = await self._fetching.find(holder, self._wanted)
        if found.failure is not None:
            return found.failure
        files = [file for file in found.files if file.name in (*SMALL_FILES, FACTS_NAME)]
        if sum(file.num_bytes for file in files) > MAX_SMALL_FILES_BYTES:
            return f"its small files are larger than {MAX_SMALL_FILES_BYTES} bytes"
        taken = {file.name: bytearray(file.num_bytes) for file in files}
        missing = dict.fromkeys(pieces_of(files))

        def write(name: str, offset: int, data: Buffer) -> None:
            piece = WeightPiece(name=name, offset=offset, num_bytes=len(data))
            if piece not in missing:
                raise ModelError(f"{name[:256]!r}: {len(data)} bytes at {offset} are not awaited")
            taken[name][offset : offset + len(data)] = data
            del missing[piece]

        failure = await self._fetching.pieces_from(holder, self._wanted, tuple(missing), write)
        if failure is not None or missing:
            return failure or "not all of its small files came"
        whole = {name: bytes(data) for name, data in taken.items()}
        return await self._fetching.try_to(lambda: landing.describe(whole))

    async def fill(self, part: LandingPart) -> None:
        """Fetch all pieces of a part, and have it checked."""
        num_useless = num_wrong = 0
        while True:
            missing = await self._missing(part)
            if missing:
                failure = await self._fetching.pieces_from(
                    self._holders[0], self._wanted, missing[:MAX_PIECES_ASKED], part.write
                )
                if failure is not None:
                    has_helped = len(await self._missing(part)) < len(missing)
                    num_useless = 0 if has_helped else num_useless + 1
                    self._pass_on(failure)
            else:
                failure = await self._fetching.try_to(part.finish)
                if failure is None:
                    return
                num_wrong += 1
                self._pass_on(failure)
            if num_useless >= len(self._holders) or num_wrong > len(self._holders):
                raise self._nobody(part.name)

    async def _missing(self, part: LandingPart) -> list[WeightPiece]:
        def pieces() -> list[WeightPiece]:
            return [
                WeightPiece(name=piece.name, offset=piece.offset, num_bytes=piece.num_bytes)
                for piece in part.missing
            ]

        return await self._fetching.run(pieces)

    def _pass_on(self, failure: str) -> None:
        _log.warning("weights not from here holder=%s reason=%s", self._holders[0], failure)
        self._reasons[self._holders[0]] = failure
        self._holders.rotate(-1)

    def _nobody(self, what: str) -> NotFetched:
        reasons = "; ".join(f"{ref.address}: {reason}" for ref, reason in self._reasons.items())
        return NotFetched(f"model {self._wanted.model}: nobody could give {what}: {reasons}")


def pieces_of(files: Iterable[WeightFile]) -> list[WeightPiece]:
    """Small files, cut into pieces."""
    return [
        WeightPiece(
            name=file.name, offset=begin, num_bytes=min(PIECE_BYTES, file.num_bytes - begin)
        )
        for file in files
        for begin in range(0, file.num_bytes, PIECE_BYTES)
    ]
