"""Requests leave a pipeline that is short of KV blocks for one that has them.

A pipeline says who should go, one at a time; what the others have is asked only then. It never
decides who is short, nor how a request is moved.
"""

import asyncio
import logging

from actors.asking import answer_of
from actors.cluster import Cluster
from actors.cluster_state import PipelineRecord
from actors.kernel.ref import Ref
from actors.messages import (
    READY,
    GetPipelineLoad,
    MoveOut,
    PipelineLoadReport,
    PipelineShort,
)
from actors.request_orders import ask_to_move
from scheduling.relief import Room, choose_taker, may_relieve

_log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 1.0
MOVE_TIMEOUT_S = 10.0


class Relief:
    """Moves requests between the pipelines of a cluster, one at a time out of each."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._relieved: set[str] = set()

    def on_short(self, news: PipelineShort) -> None:
        """Move the request elsewhere, if another pipeline has room and none is moved already."""
        giver = self._cluster.pipelines.get(news.pipeline)
        if giver is None or news.pipeline in self._relieved or not self._takers_for(giver):
            return
        self._relieved.add(news.pipeline)
        self._cluster.context.start_task(self._relieve(giver, news))

    def _takers_for(self, giver: PipelineRecord) -> list[PipelineRecord]:
        """Who may take requests of a pipeline that is short of blocks."""
        return [
            record
            for record in self._cluster.pipelines.values()
            if record is not giver
            and _takes(record)
            and may_relieve(giver.plan.phase, record.plan.phase)
        ]

    async def _relieve(self, giver: PipelineRecord, news: PipelineShort) -> None:
        try:
            taker = await self._find_taker(giver, news)
            if giver.home is not None and taker is not None and taker.home is not None:
                await self._move(giver.home, taker, news)
        finally:
            self._relieved.discard(news.pipeline)

    async def _find_taker(
        self, giver: PipelineRecord, news: PipelineShort
    ) -> PipelineRecord | None:
        homes = [record.home for record in self._takers_for(giver) if record.home]
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(self._room(home)) for home in homes]
        rooms = [room for task in asked if (room := task.result()) is not None]
        name = choose_taker(rooms, num_blocks=news.num_blocks)
        return None if name is None else self._cluster.pipelines.get(name)

    async def _room(self, home: Ref) -> Room | None:
        context, question = self._cluster.context, GetPipelineLoad()
        load = await answer_of(context, home, question, PipelineLoadReport, timeout_s=ASK_TIMEOUT_S)
        if load is None:
            return None
        return Room(
            pipeline=load.pipeline,
            num_free_blocks=load.num_free_blocks,
            num_running=load.num_running,
            num_waiting=load.num_waiting,
        )

    async def _move(self, giver: Ref, taker: PipelineRecord, news: PipelineShort) -> None:
        assert taker.home is not None
        order = MoveOut(request=news.request, to=taker.home, deadline_s=MOVE_TIMEOUT_S)
        failure = await ask_to_move(self._cluster.context, giver, order)
        _log.info(
            "request moved for want of blocks request=%s from=%s to=%s failure=%s",
            news.request,
            news.pipeline,
            taker.plan.id,
            failure,
        )


def _takes(record: PipelineRecord) -> bool:
    return record.state == READY and record.home is not None and not record.is_handing_over
