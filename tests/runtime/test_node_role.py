"""What a node's process hands to the workers that it starts: the faults that disturb itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from actors.kernel.errors import ActorStopped
from actors.kernel.ref import ANY, Ref
from actors.messages import Disturbances, DisturbLinks, Progress
from runtime.fault_actor import NAME
from runtime.roles.node import present_faults
from transport.codec import Message

if TYPE_CHECKING:
    from actors.kernel.system import ActorSystem

CUT = DisturbLinks(name="cut", peers=("tcp://b",), after_s=0.0, for_s=3.0, is_cut=True)


@dataclass
class FakeSystem:
    answer: Message | Exception

    def local_ref(self, name: str) -> Ref:
        return Ref("tcp://a", ANY, name)

    async def ask(self, ref: Ref, message: Message, *, timeout_s: float) -> Message:
        assert ref.name == NAME
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (Disturbances(links=(CUT,)), (CUT,)),
        (Disturbances(links=()), ()),
        (ActorStopped("the process ends"), ()),
        (Progress(num_bytes=0, total_bytes=0), ()),
    ],
)
async def test_a_worker_that_begins_during_a_fault_of_its_node_takes_part_in_it(
    answer: Message | Exception, faults: tuple[DisturbLinks, ...]
) -> None:
    assert await present_faults(cast("ActorSystem", FakeSystem(answer))) == faults
