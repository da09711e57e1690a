"""Predictions and costs of plans as JSON would hold them, for `GET /admin/plan`. Pure."""

from typing import Any

from actors.cluster import Cluster
from actors.recommending import Recommendation
from actors.situation import Measured, unmeasured
from actors.step_report import MeasuredStages, mean_step_s, total_tokens_per_s
from scheduling.change_cost import ChangeCost
from scheduling.live import Advice, Predicted
from scheduling.plan import Plan

CALIBRATED, DATASHEET = "calibrated", "datasheet"


def told_planner(
    cluster: Cluster, found: Recommendation | None, known: Measured, measured: MeasuredStages
) -> dict[str, Any]:
    """All that is known and was found, and beside it what stages measured."""
    auto = cluster.settings.auto
    return {
        "auto": auto.is_on,
        "horizon_s": auto.horizon_s,
        "interval_s": auto.interval_s,
        "min_gain": auto.min_gain,
        "current": None if found is None else _told_current(cluster, found, measured),
        "proposed": None if found is None else told_prediction(found.advice.proposed),
        "plan": None if found is None else _told_plan(cluster, found),
        "gain": None if found is None else gain_of(found.advice),
        "cost": None if found is None or found.cost is None else told_cost(found.cost),
        "rates": _told_rates(known),
        "links": [
            {"between": list(ends), "latency_s": rate.latency_s, "bytes_per_s": rate.bytes_per_s}
            for ends, rate in sorted(known.links.items(), key=lambda item: item[0])
        ],
        "unmeasured": [
            f"{device} of node {node}" for node, device in unmeasured(cluster.members, known)
        ],
    }


def _told_current(
    cluster: Cluster, found: Recommendation, measured: MeasuredStages
) -> dict[str, Any] | None:
    told = told_prediction(found.advice.current)
    if told is None:
        return None
    plans = [record.plan for record in cluster.pipelines.values()]
    told["measured_tokens_per_s"] = total_tokens_per_s(plans, measured)
    for pipeline in told["pipelines"]:
        for stage in pipeline["stages"]:
            place = (stage["node"], stage["device"], *stage["layers"])
            stage["measured_step_s"] = mean_step_s(measured, *place)
    return told


def _told_plan(cluster: Cluster, found: Recommendation) -> dict[str, Any] | None:
    if found.plan is None:
        return None
    name = cluster.settings.model_name
    return Plan(epoch=cluster.epoch, model=name, pipelines=found.plan).to_dict()


def _told_rates(known: Measured) -> list[dict[str, Any]]:
    """Each kind of device, and whether its rates are learnt or those of its start."""
    return [
        {
            "kind": kind,
            "source": CALIBRATED if kind in known.learnt else DATASHEET,
            "error": known.learnt[kind].mean_error if kind in known.learnt else None,
            "num_sizes": known.learnt[kind].num_sizes if kind in known.learnt else 0,
        }
        for kind in sorted(set(known.kinds.values()))
    ]


def gain_of(advice: Advice) -> float | None:
    """The part by which the rate would grow."""
    if advice.current is None or advice.proposed is None or not advice.current.tokens_per_s:
        return None
    return advice.proposed.tokens_per_s / advice.current.tokens_per_s - 1


def told_cost(cost: ChangeCost) -> dict[str, float]:
    """A cost as JSON would hold it; bytes and seconds."""
    return {
        "load_bytes": cost.load_bytes,
        "copy_bytes": cost.copy_bytes,
        "seconds": cost.seconds,
        "pause_s": cost.pause_s,
    }


def told_prediction(predicted: Predicted | None) -> dict[str, Any] | None:
    """A prediction as JSON would hold it, stage by stage; None where there is none."""
    if predicted is None:
        return None
    return {
        "tokens_per_s": predicted.tokens_per_s,
        "pipelines": [
            {
                "tokens_per_s": tokens_per_s,
                "cycle_s": cycle_s,
                "stages": [
                    {
                        "node": stage.node,
                        "device": stage.device,
                        "layers": [stage.start, stage.end],
                        "step_s": step_s,
                    }
                    for stage, step_s in zip(chain, seconds, strict=True)
                ],
            }
            for chain, tokens_per_s, cycle_s, seconds in zip(
                predicted.layout,
                predicted.pipeline_tokens_per_s,
                predicted.cycle_s,
                predicted.stage_s,
                strict=True,
            )
        ],
    }
