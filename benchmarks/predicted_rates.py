"""Predictions of a benchmark's combinations, by the rates fitted to some of them.

The one idea: it is the coordinator's own prediction, `scheduling.live`, of devices that are known
by their fitted rates.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks.emulated_cluster import ranges
from benchmarks.predicted_combinations import Combination, Measured
from benchmarks.steady_load import Seen, SteadyLoad
from scheduling.calibration import Calibration, calibrate
from scheduling.goal import Limits
from scheduling.live import LiveProblem, MeasuredDevice, Placed, Situation
from scheduling.steps_file import ToldStage, ToldSteps, kind_at_start, steps_of
from scheduling.workload import fixed

MAX_STEP_TOKENS, MAX_MODEL_LEN = 512, 2048


def fitted(told: Sequence[ToldSteps]) -> dict[str, Calibration]:
    """The rates of each kind of device, by its name.

    Raises:
        ValueError: one of them cannot be fitted; says why.
    """
    kinds: dict[str, list[ToldStage]] = defaultdict(list)
    shape = told[0].shape
    if shape is None:
        raise ValueError("the model's shape is not known to this service: nothing can be fitted")
    for stage in (stage for steps in told for stage in steps.stages):
        kinds[stage.name].append(stage)
    return {
        name: calibrate(kind_at_start(name, stages[0]), shape, steps_of(stages))
        for name, stages in kinds.items()
    }


def predicted(
    combination: Combination,
    measured: Measured,
    rates: Mapping[str, Calibration],
    load: SteadyLoad,
) -> Seen:
    """What a combination should give; of what was measured only who the stages were is used."""
    told = measured.rounds[0].steps
    assert told.shape is not None
    layout = tuple(
        Placed(stage.node, stage.device, start, end)
        for stage, (start, end) in zip(told.stages, ranges(combination.split), strict=True)
    )
    situation = Situation(
        devices=tuple(_device(stage, rates[stage.name]) for stage in told.stages),
        links=measured.links,
        layout=(layout,),
        shape=told.shape,
        workload=fixed(load.prompt, load.new),
        limits=Limits(
            max_running=combination.batch,
            max_step_tokens=MAX_STEP_TOKENS,
            max_model_len=MAX_MODEL_LEN,
            memory_fraction=1.0,
        ),
    )
    live = LiveProblem(situation)
    found = live.predict(live.placement(situation.layout))
    return Seen(tokens_per_s=found.tokens_per_s, tpot_s=found.cycle_s[0])


def _device(stage: ToldStage, found: Calibration) -> MeasuredDevice:
    rates = found.kind.rates
    return MeasuredDevice(
        node=stage.node,
        device=stage.device,
        memory_bytes=rates.memory_bytes,
        flops_per_s=rates.flops_per_s,
        bytes_per_s=rates.bytes_per_s,
        layer_overhead_s=rates.layer_overhead_s,
        step_overhead_s=rates.step_overhead_s,
    )
