"""What must hold of a service, whatever happened to it: while it runs, of its answers, and at rest.

Each check gives sentences, one for each thing that is not as it must be.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from actors.cluster import MAX_FAILURES
from actors.messages import PipelineStatus
from actors.pipeline import PipelineActor
from actors.stream import MAX_FRUITLESS_RECOVERIES
from tests.actors.emulated_service import EmulatedWorker
from tests.simulation.clients import RIGHT, End
from tests.simulation.schedules import NUM_LAYERS, RECOVERY_TIMEOUT_S, Schedule
from tests.simulation.world import World

SLACK_S = 10.0
"""What it may take to serve again after all that was taken away is back."""


# --- answers


def problems_of_ends(ends: Sequence[End], schedule: Schedule) -> list[str]:
    """A request ends with its tokens, or with an error that the contract allows."""
    return [
        f"request {end.request} ended with {end.how} ({end.reason}) at {end.at_s:.3f} s"
        for end in ends
        if end.how != RIGHT and not _is_allowed(end, schedule)
    ]


def _is_allowed(end: End, schedule: Schedule) -> bool:
    num_losses = sum(fault.loses for fault in schedule.faults)
    match end.how:
        case "gateway_killed":
            return any(fault.what == "kill gateway" for fault in schedule.faults)
        case "no_capacity":
            return schedule.longest_outage_s + SLACK_S >= RECOVERY_TIMEOUT_S
        case "stage_lost" | "pipeline_lost" | "tokens_lost":
            return "without a token" in end.reason and num_losses >= MAX_FRUITLESS_RECOVERIES
    return False


# --- while it runs


def problems_now(world: World) -> list[str]:
    """No block has two owners or none, at any time."""
    problems = []
    for actor in world.pipeline_actors():
        try:
            _check_blocks(actor)
        except RuntimeError as error:
            problems.append(f"pipeline {_name(actor)}: {error}")
    return problems


def _check_blocks(actor: PipelineActor) -> None:
    """Compare the accounts of blocks; what is kept for requests to come counts as a sequence's."""
    actor._ring.batcher.check_integrity(actor._reserved.tables)


def _name(actor: PipelineActor) -> str:
    return actor.context.self_ref.name


# --- at rest


def problems_at_rest(world: World) -> list[str]:
    """Nothing is held, waited for or left over, once nobody asks for anything."""
    checks = (_service, _pipelines, _stages, _workers, _tasks)
    return [*problems_now(world), *(problem for check in checks for problem in check(world))]


def _statuses(world: World) -> tuple[PipelineStatus, ...]:
    plan = world.router.plan
    return () if plan is None else plan.pipelines


def _service(world: World) -> Iterator[str]:
    if world.failure is not None:
        yield f"the service gave up (allowed after {MAX_FAILURES} failures): {world.failure}"
    if (reason := world.router.not_ready_reason()) is not None:
        yield f"the service is not ready: {reason}"
    if world.router.streams:
        yield f"the router still has {[stream.request for stream in world.router.streams]}"


def _pipelines(world: World) -> Iterator[str]:
    wanted = {status.ref for status in _statuses(world)}
    actors = world.pipeline_actors()
    found = {actor.context.self_ref for actor in actors}
    for ref in sorted(map(str, wanted - found)):
        yield f"pipeline actor {ref} is planned and not there"
    for ref in sorted(map(str, found - wanted)):
        yield f"pipeline actor {ref} lives and is not planned"
    for actor in actors:
        yield from (f"pipeline {_name(actor)}: {what}" for what in _left_over(actor))


def _left_over(actor: PipelineActor) -> Iterator[str]:
    ring = actor._ring
    statistics = ring.batcher.statistics()
    if statistics.num_free_blocks != statistics.num_blocks:
        free = f"{statistics.num_free_blocks} of {statistics.num_blocks}"
        yield f"only {free} blocks are free"
    counts = {
        "running sequences": statistics.num_running,
        "waiting sequences": statistics.num_waiting,
        "steps in flight": ring.batcher.num_in_flight_steps,
        "reservations": len(actor._reserved),
        "hand-offs": len(actor._hand_offs._under_way) + len(actor._hand_offs._waiting),
        "requests": len(actor._routers),
        "pauses": ring._num_pauses,
        "replays": len(ring._replays),
        "lost stages": len(ring.lost),
    }
    yield from (f"{count} {what} are left" for what, count in counts.items() if count)
    if actor._is_changing:
        yield "a change is under way"


def _stages(world: World) -> Iterator[str]:
    """Each layer of each pipeline is held once, at the epoch that its actor is at."""
    by_ref = {worker.stage.context.self_ref: worker for worker in world.living_workers}
    used: set[str] = set()
    for actor in world.pipeline_actors():
        pipeline, epoch = actor._opened.pipeline, actor._ring.epoch
        layers: list[int] = []
        for number, spec in enumerate(actor._ring.stages):
            layers += range(spec.start, spec.end)
            worker = by_ref.get(spec.ref)
            if worker is None:
                yield f"stage {number} of pipeline {pipeline} is at {spec.ref}, which is gone"
                continue
            used.add(worker.address)
            held = _held_by(worker)
            if held != [(pipeline, epoch, spec.start, spec.end)]:
                yield f"stage {number} of pipeline {pipeline} at epoch {epoch} holds {held}"
        if layers != list(range(NUM_LAYERS)):
            yield f"pipeline {pipeline} covers layers {layers}"
    for worker in world.living_workers:
        if worker.address not in used and (held := _held_by(worker)):
            yield f"worker {worker.address} serves nothing and holds {held}"


def _held_by(worker: EmulatedWorker) -> list[tuple[str, int, int, int]]:
    assignments = [held.assignment for held in worker.stage._holding]
    return [(a.pipeline, a.epoch, a.start, a.end) for a in assignments]


def _workers(world: World) -> Iterator[str]:
    """Every worker that lives is known to its node, and there are as many as are needed."""
    living = [worker.name for worker in world.living_workers]
    twice = [name for name, count in Counter(living).items() if count > 1]
    if twice:
        yield f"workers live twice: {twice}"
    in_use = {stage.worker for status in _statuses(world) for stage in status.stages}
    if missing := sorted(in_use - {*living}):
        yield f"workers are planned and do not live: {missing}"
    for name, node in sorted(world.nodes.items()):
        mine = {worker for worker in living if worker.startswith(f"{name}/")}
        if mine != {*node._workers}:
            yield f"node {name} knows workers {sorted(node._workers)}, alive are {sorted(mine)}"
        num_spare = len(mine - in_use)
        wants = world.shape.num_spares if mine & in_use else 0
        if mine & in_use and num_spare != wants:
            yield f"node {name} has {num_spare} spare workers, wanted are {wants}"


def _tasks(world: World) -> Iterator[str]:
    """No ask is pending and no actor does anything, but for nodes that wait for their workers."""
    systems = {**world.systems}
    systems |= {w.address: w.system for w in world.living_workers if w.system is not None}
    for name, system in sorted(systems.items()):
        statistics = system.statistics()
        if statistics.num_asks_pending:
            yield f"{name} has {statistics.num_asks_pending} asks pending"
        for child in system._tree._by_name.values():
            actor = child.cell._actor
            num_expected = len(getattr(actor, "_workers", ())) if child.name == "node" else 0
            if len(child.cell.tasks) != num_expected:
                yield f"{child.name} of {name} has {len(child.cell.tasks)} tasks"
