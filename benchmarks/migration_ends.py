"""The two ends of a copy of KV blocks, as stage actors and as bare endpoints, and the far process.

Both kinds share each process, its event loop and its settings. The bare kind is `transport.bulk`
between endpoints of its own: chunks with their checksums under the lane's credit, into a buffer
that was allotted. It reads no cache and writes none, so it is the lane's own speed.
"""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from actors.kernel.actor import Actor
from actors.kernel.ref import Ref
from actors.kernel.system import ActorSystem
from actors.messages import AssignStage, StageReady
from actors.migration import PIECE_BYTES
from actors.stage import StageActor
from benchmarks.hop_ends import HOST
from models.checkpoint import Checkpoint
from runtime.opening import open_system
from runtime.roles.worker import SWITCH_INTERVAL_S
from runtime.torch_device import TorchDevice
from transport.bulk import BulkReceiver, send_bulk
from transport.codec import Message
from transport.endpoint import Endpoint, Lane, Peer, Received
from transport.errors import EndpointClosed
from transport.frame import Buffer, Frame
from transport.zmq_endpoint import ZmqEndpoint

_T = TypeVar("_T")

TIMEOUT_S = 120.0
TOKEN = "MIGRATION_TOKEN"
EPOCH = 1
BLOCK_TOKENS = 16
STAGE_NAME = "stage"


class TimedDevice(TorchDevice):
    """A device that notes for how long each copy kept its thread."""

    def __init__(self) -> None:
        super().__init__("cpu", 1)
        self.occupied_s: list[float] = []

    def copy(self, function: Callable[[], _T]) -> "asyncio.Future[_T]":
        """As `TorchDevice.copy`."""

        def timed() -> _T:
            began = time.perf_counter()
            try:
                return function()
            finally:
                self.occupied_s.append(time.perf_counter() - began)

        return super().copy(timed)

    def take_times(self) -> list[float]:
        """The times since last asked."""
        times, self.occupied_s = self.occupied_s, []
        return times


class Deaf(Actor):
    """Takes whatever a stage tells those around it."""

    async def receive(
        self, message: Message, sender: Ref | None, buffers: Sequence[Buffer]
    ) -> Message | None:
        """Do nothing."""
        return None


def kv_block_bytes(model: str) -> int:
    """KV bytes of a block of one layer, in float32."""
    config = Checkpoint.open(model).config
    return 2 * config.num_kv_heads * BLOCK_TOKENS * config.head_dim * 4


def assignment(model: str, num_layers: int, num_blocks: int, anybody: Ref) -> AssignStage:
    """A stage of a model's first layers that is given no step, so that nothing ever leaves it."""
    checkpoint = Checkpoint.open(model)
    return AssignStage(
        epoch=EPOCH,
        pipeline="0",
        stage=0,
        model=model,
        model_hash=checkpoint.content_hash,
        start=0,
        end=num_layers,
        dtype="float32",
        wire_dtype="float32",
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
        successor=anybody,
        home=anybody,
        observer=anybody,
        log_bytes=0,
    )


async def assign(system: ActorSystem, stage: Ref, wanted: AssignStage) -> StageReady:
    """Have a stage load its layers."""
    answer = await system.ask(stage, wanted, timeout_s=TIMEOUT_S)
    if not isinstance(answer, StageReady):
        raise RuntimeError(f"the stage did not load: {answer}")
    return answer


class BareSender:
    """The near end of the bare copy: sends the same buffer again and again."""

    def __init__(self, endpoint: Endpoint, peer: Peer, data: bytes) -> None:
        self._endpoint, self._peer, self._data = endpoint, peer, data
        self._transfer = 0
        self.num_bytes = len(data)

    async def copy(self) -> None:
        """Send it all, and wait until the far end says that it has it."""
        self._transfer += 1
        order = {"transfer": self._transfer, "num_bytes": len(self._data)}
        await self._ask(order)
        await send_bulk(
            self._endpoint,
            self._peer,
            self._transfer,
            self._data,
            timeout_s=TIMEOUT_S,
            chunk_bytes=PIECE_BYTES,
        )
        await self._answer()

    async def take_times(self) -> list[float]:
        """How long the far stage's device was kept by each function since last asked."""
        return [float(seconds) for seconds in await self._ask({})]

    async def _ask(self, order: dict[str, int]) -> list[float]:
        frame = Frame(json.dumps(order).encode())
        await self._endpoint.send(self._peer, frame, Lane.CONTROL, timeout_s=TIMEOUT_S)
        return await self._answer()

    async def _answer(self) -> list[float]:
        async with asyncio.timeout(TIMEOUT_S):
            received = await self._endpoint.receive()
        if not isinstance(received, Received):
            raise received.error
        answer: list[float] = json.loads(received.frame.head)
        received.release()
        return answer


class BareReceiver:
    """The far end of the bare copy: takes what is ordered into one buffer, and says when."""

    def __init__(self, endpoint: Endpoint, device: TimedDevice) -> None:
        self._endpoint, self._device = endpoint, device
        self._receiver = BulkReceiver()
        self._buffer = bytearray()

    async def run(self) -> None:
        """Take orders and chunks until the endpoint closes."""
        async with asyncio.TaskGroup() as waiting:
            try:
                while True:
                    received = await self._endpoint.receive()
                    if not isinstance(received, Received):
                        self._receiver.fail_peer(received.peer)
                    elif received.lane is Lane.BULK:
                        self._receiver.take(received)
                    else:
                        order = json.loads(received.frame.head)
                        received.release()
                        self._take_order(order, received.peer, waiting)
            except EndpointClosed:
                return

    def _take_order(self, order: dict[str, int], peer: Peer, waiting: asyncio.TaskGroup) -> None:
        answer: list[float] = []
        if order:
            if len(self._buffer) != order["num_bytes"]:
                self._buffer = bytearray(order["num_bytes"])
            self._receiver.allot(order["transfer"], peer, self._buffer)
            waiting.create_task(self._tell_end(order["transfer"], peer))
        else:
            answer = self._device.take_times()
        self._tell(peer, answer)

    async def _tell_end(self, transfer: int, peer: Peer) -> None:
        await self._receiver.wait(transfer, timeout_s=TIMEOUT_S)
        self._tell(peer, [])

    def _tell(self, peer: Peer, answer: list[float]) -> None:
        self._endpoint.send_nowait(peer, Frame(json.dumps(answer).encode()), Lane.CONTROL)


@asynccontextmanager
async def open_end(name: str, token: str) -> AsyncIterator[tuple[ActorSystem, ZmqEndpoint]]:
    """An actor system and a bare endpoint in this process, set up as a stage worker is."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        async with (
            open_system(name, HOST, 0, token) as system,
            ZmqEndpoint.opened(name=f"bare-{name}", host=HOST, token=token.encode()) as endpoint,
        ):
            yield system, endpoint
    finally:
        sys.setswitchinterval(interval_s)


async def hold_far_end() -> None:
    """Offer a stage and a bare receiver, say where, until standard input ends."""
    async with open_end("far", os.environ[TOKEN]) as (system, endpoint):
        device = TimedDevice()
        stage = system.spawn(StageActor(device), name=STAGE_NAME)
        async with asyncio.TaskGroup() as serving:
            serving.create_task(BareReceiver(endpoint, device).run())
            sys.stdout.write(f"{stage.address} {endpoint.identity.address}\n")
            sys.stdout.flush()
            await _wait_end_of_input()
            await endpoint.aclose()


async def _wait_end_of_input() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()  # as long as whoever started us measures; its end closes the pipe
    loop.remove_reader(sys.stdin)


@asynccontextmanager
async def far_process(token: str) -> AsyncIterator[tuple[str, str, int]]:
    """The far end in a process of its own: addresses of its stage and bare receiver, its id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.migration_ends",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, TOKEN: token},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            line = (await process.stdout.readline()).decode().split()
        if len(line) != 2:
            raise SystemExit("the far process did not start")
        yield line[0], line[1], process.pid
    finally:
        process.stdin.close()
        async with asyncio.timeout(TIMEOUT_S):
            await process.wait()


def new_token() -> str:
    """A secret for both ends of one run."""
    return secrets.token_hex(16)


if __name__ == "__main__":
    asyncio.run(hold_far_end())
