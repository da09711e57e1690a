"""Routers tell what comes, and phases follow what stays, with their reasons."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from actors.messages import WorkloadSeen
from actors.phase_question import PhasedService, answer
from actors.rephasing import (
    LOOK_S,
    MIN_FINISHED,
    Rephaser,
    Rephasing,
    RephasingSettings,
    workload_seen,
)
from scheduling.goal import Goal, Limits
from scheduling.live import MeasuredDevice, Placed, Situation
from scheduling.model_profile import known_model
from scheduling.phases.bound import Phases
from scheduling.phases.flip_choice import FlipPolicy
from scheduling.phases.profiler import Tally
from scheduling.roofline import LinkRate
from scheduling.workload import Workload, fixed, synthetic
from transport.codec import Codec

SHAPE = known_model("llama-8b")
GOAL = Goal(measure="slo", ttft_s=1.0, tpot_s=0.03)
SETTINGS = RephasingSettings(goal=GOAL, window_s=60.0)
APART: Phases = ("prefill", "decode")
TOGETHER: Phases = ("both", "both")


def service(phases: Phases = TOGETHER, *, memory_gb: float = 40) -> PhasedService:
    """One pipeline with much arithmetic and one with much bandwidth."""
    devices = tuple(
        MeasuredDevice(
            node=node,
            device="gpu:0",
            memory_bytes=int(memory_gb * 1e9),
            flops_per_s=flops,
            bytes_per_s=num_bytes,
            layer_overhead_s=30e-6,
        )
        for node, flops, num_bytes in (("a", 290e12, 690e9), ("b", 250e12, 1240e9))
    )
    return PhasedService(
        names=("p", "q"),
        phases=phases,
        situation=Situation(
            devices=devices,
            links=(("a", "b", LinkRate(bytes_per_s=12.5e9, latency_s=1e-4)),),
            layout=tuple((Placed(d.node, d.device, 0, SHAPE.num_layers),) for d in devices),
            shape=SHAPE,
            workload=fixed(512, 512),
            limits=Limits(max_model_len=8192, memory_fraction=1.0),
        ),
    )


def reports(
    load: Workload, rate: float, *, start_s: float, num: int
) -> Iterator[tuple[float, WorkloadSeen]]:
    """What a router tells every second, for Poisson arrivals of a load."""
    rng, at_s = random.Random(int(start_s) + 1), start_s
    tally, told_s = Tally(start_s), start_s
    for _ in range(num):
        at_s += rng.expovariate(rate)
        while told_s + 1.0 <= at_s:
            told_s += 1.0
            yield told_s, workload_seen("router", tally.take(told_s))
        tally.arrived(at_s)
        pick = rng.randrange(len(load.prompts))
        tally.finished(load.prompts[pick], load.outputs[pick])


class Trial:
    """A rephaser whose advice is followed."""

    def __init__(self, settings: RephasingSettings = SETTINGS, phases: Phases = TOGETHER) -> None:
        self.rephaser, self.service = Rephaser(settings), service(phases)
        self.flips: list[tuple[float, Rephasing]] = []

    def serve(self, load: Workload, rate: float, *, start_s: float, num: int) -> float:
        for at_s, message in reports(load, rate, start_s=start_s, num=num):
            self.rephaser.take(message, at_s)
            question = self.rephaser.question(self.service, at_s)
            if question is None:
                continue
            found = self.rephaser.decide(answer(question), at_s)
            if found is not None and found.is_due:
                self.flips.append((at_s, found))
                self.service = service(tuple(found.phases[name] for name in ("p", "q")))
                self.rephaser.flipped()
        return at_s


CONVERSATION = synthetic("conversation")


def test_pipelines_are_parted_once_for_load_that_gains_by_it_and_stay_so() -> None:
    trial = Trial()
    trial.serve(CONVERSATION, 11.5, start_s=0.0, num=600)
    assert [dict(found.phases) for _, found in trial.flips] == [{"p": "prefill", "q": "decode"}]
    _, found = trial.flips[0]
    assert found.attainment > found.attainment_now
    assert set(found.routes) == {("p", "q")}
    assert found.cost.num_flips == 2
    assert "staying has lost the" in found.reason


def test_load_that_gains_nothing_flips_nothing() -> None:
    trial = Trial()
    trial.serve(CONVERSATION, 1.0, start_s=0.0, num=100)
    assert trial.flips == []
    assert trial.rephaser.report()["proposed"]["is_due"] is False


def test_nothing_is_asked_before_enough_requests_have_ended() -> None:
    rephaser = Rephaser(SETTINGS)
    for at_s, message in reports(CONVERSATION, 1.0, start_s=0.0, num=MIN_FINISHED // 2):
        rephaser.take(message, at_s)
        assert rephaser.question(service(), at_s) is None
    assert f"{MIN_FINISHED} are waited for" in rephaser.report()["state"]


def test_it_is_asked_no_more_often_than_every_look() -> None:
    rephaser, asked = Rephaser(SETTINGS), []
    for at_s, message in reports(CONVERSATION, 20.0, start_s=0.0, num=800):
        rephaser.take(message, at_s)
        if rephaser.question(service(), at_s) is not None:
            asked.append(at_s)
    assert len(asked) > 3
    assert all(later - at >= LOOK_S for at, later in pairwise(asked))


def test_a_change_of_requests_forgets_those_before() -> None:
    rephaser = Rephaser(SETTINGS)
    for at_s, message in reports(synthetic("code"), 10.0, start_s=0.0, num=400):
        rephaser.take(message, at_s)
    shifts = []
    change_s = at_s
    for at_s, message in reports(CONVERSATION, 10.0, start_s=change_s, num=200):
        shifts.append(rephaser.take(message, at_s))
    found = [shift for shift in shifts if shift is not None]
    assert [(shift.stream, shift.is_up) for shift in found] == [("output", True)]
    question = rephaser.question(service(), at_s)
    assert question is not None
    assert question.observed.num_finished < 250
    told = rephaser.report()
    assert told["last_shift"]["stream"] == "output"
    assert told["observed"]["mean_output"] > 100


def test_what_cannot_be_answered_is_told_and_nothing_is_decided() -> None:
    rephaser = Rephaser(SETTINGS)
    for at_s, message in reports(CONVERSATION, 20.0, start_s=0.0, num=200):
        rephaser.take(message, at_s)
    elsewhere = (Placed("c", "gpu:0", 0, SHAPE.num_layers),)
    situation = replace(service().situation, layout=(elsewhere, elsewhere))
    question = rephaser.question(replace(service(), situation=situation), at_s)
    assert question is not None
    found = answer(question)
    assert "nothing is known of gpu:0 of node c" in found.failure
    assert rephaser.decide(found, at_s) is None
    assert rephaser.report()["state"].startswith("no phases can be chosen")


def test_a_report_is_json_and_a_message_survives_the_wire() -> None:
    trial = Trial(RephasingSettings(goal=GOAL, policy=FlipPolicy(min_gain=0.9)))
    trial.serve(CONVERSATION, 11.5, start_s=0.0, num=300)
    told = trial.rephaser.report()
    assert json.loads(json.dumps(told)) == told
    assert set(told["proposed"]["phases"]) == {"p", "q"}
    assert told["proposed"]["cost_requests"] > 0
    assert trial.flips == []
    tally = Tally(0.0)
    tally.arrived(1.0)
    tally.finished(10, 20, prefill_queue_s=0.5)
    message = workload_seen("router", tally.take(2.0))
    codec = Codec([WorkloadSeen])
    assert codec.decode(codec.encode(message)) == message


def test_settings_and_services_that_make_no_sense_are_refused() -> None:
    with pytest.raises(
        ValueError, match="expected a goal 'slo' with ttft or tpot, got 'throughput'"
    ):
        RephasingSettings(goal=Goal())
    with pytest.raises(ValueError, match="each of 2 pipelines, got 1 names and 2 phases"):
        PhasedService(names=("p",), phases=TOGETHER, situation=service().situation)


def test_once_pipelines_are_others_it_is_asked_at_once_and_no_flip_is_to_be_made_up_for() -> None:
    def looks(*, is_changed: bool) -> int:
        """Looks until a flip is due, after one has been made."""
        rephaser, num, at_s = Rephaser(replace(SETTINGS, hand_off_s=4.0)), 0, 0.0
        for at_s, message in reports(CONVERSATION, 11.5, start_s=0.0, num=300):
            rephaser.take(message, at_s)
        first = rephaser.question(service(), at_s)
        assert first is not None
        assert rephaser.question(service(), at_s) is None
        rephaser.changed() if is_changed else rephaser.flipped()
        assert rephaser.question(service(), at_s) == first
        found = answer(first)
        while True:
            num += 1
            rephasing = rephaser.decide(found, at_s + num * LOOK_S)
            if rephasing is not None and rephasing.is_due:
                return num

    assert looks(is_changed=True) < looks(is_changed=False)


@pytest.mark.parametrize(("rate", "is_kept"), [(1.0, True), (400.0, False)])
def test_prompts_that_are_all_alike_and_come_like_a_clock_can_be_planned_for(
    rate: float, is_kept: bool
) -> None:
    tally = Tally(0.0)
    for number in range(100):
        tally.arrived((number + 1) / rate)
        tally.finished(1000, 100)
    rephaser, end_s = Rephaser(SETTINGS), 100 / rate
    rephaser.take(workload_seen("router", tally.take(end_s)), end_s)
    question = rephaser.question(service(), end_s)
    assert question is not None
    found = answer(question)
    assert found.now is not None
    assert (found.now.attainment > 0.99) == is_kept
    assert 0 <= found.now.attainment <= 1
