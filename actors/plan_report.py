"""Predictions and costs of plans as JSON would hold them, for `GET /admin/plan`. Pure."""

from typing import Any

from scheduling.change_cost import ChangeCost
from scheduling.live import Advice, Predicted


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
