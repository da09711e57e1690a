// What somebody on a bad day asks first: is it serving, what is lost, what is being done. Pure.

import { count } from "./format.js";

const DOING = {
  loading: "loading weights",
  recovering: "recovering: its requests wait and will go on",
  lost: "lost: waiting for a place to go on",
};

const PHASES = {
  prepare: "loading layers beside those that serve",
  copy: "copying KV while it serves",
  pause: "streams stand still for a moment",
  delta: "copying the rest of the KV",
  commit: "going over to the new stages",
  rebuild: "computing lost KV again",
  release: "letting go of the old stages",
};

const RECOVERY_PHASES = {
  ...PHASES,
  prepare: "loading the layers that were lost",
  pause: "its requests wait",
};

/** A phase of a change in words. */
export function phaseText(phase, isRecovery = false) {
  return (isRecovery ? RECOVERY_PHASES : PHASES)[phase] ?? phase;
}

/**
 * How the service stands.
 *
 * Gives {level: "ok" | "busy" | "warn" | "bad" | "none", headline, lost: [], doing: [], key}; a key
 * that stays the same is the same trouble, so that its length can be told.
 */
export function verdict(plan) {
  if (!plan) return told("none", "Connecting", [], []);
  const lost = lostParts(plan);
  const doing = doingParts(plan);
  const pipelines = plan.pipelines ?? [];
  const ready = pipelines.filter((pipeline) => pipeline.state === "ready");
  if (plan.reason && ready.length === 0) {
    const began = pipelines.some((pipeline) => ["recovering", "lost"].includes(pipeline.state));
    if (began) return told("bad", "Not serving", lost, doing);
    return told("warn", "Starting", lost, doing.length ? doing : plan.missing ?? [plan.reason]);
  }
  if (lost.length || plan.reason || ready.length < pipelines.length) {
    const parts = pipelines.length > 1 ? ` by ${ready.length} of ${pipelines.length} pipelines` : "";
    return told("warn", `Serving${parts}, degraded`, lost.length ? lost : [plan.reason], doing);
  }
  if (plan.swap) return told("busy", "Serving, being changed", [], doing);
  return told("ok", "Serving", [], []);
}

function told(level, headline, lost, doing) {
  const key = [level, headline, ...lost].join("|");
  return { level, headline, lost: lost.filter(Boolean), doing: doing.filter(Boolean), key };
}

/** Stages that do not serve, in words. */
function lostParts(plan) {
  const found = [];
  for (const pipeline of plan.pipelines ?? []) {
    for (const stage of pipeline.stages) {
      if (stage.state === "ready" || stage.state === "loading") continue;
      if (stage.state === pipeline.state && stage.pid) continue;
      found.push(`stage ${stage.stage} of pipeline ${pipeline.id} on ${stage.node}`);
    }
    if (pipeline.state === "lost" && !found.length) found.push(`pipeline ${pipeline.id}`);
  }
  return found;
}

function doingParts(plan) {
  const found = [];
  const swap = plan.swap;
  for (const pipeline of plan.pipelines ?? []) {
    if (swap && swap.pipeline === pipeline.id) {
      const phase = phaseText(swap.phase, pipeline.state !== "ready");
      found.push(`pipeline ${pipeline.id} to epoch ${swap.epoch}: ${phase}`);
    } else if (DOING[pipeline.state]) {
      found.push(`pipeline ${pipeline.id} is ${DOING[pipeline.state]}`);
    }
  }
  for (const missing of plan.missing ?? []) {
    if (missing.startsWith("waiting for")) found.push(missing);
  }
  return found;
}

/** What serves, in one line. */
export function extent(plan) {
  const pipelines = plan?.pipelines ?? [];
  const stages = pipelines.reduce((sum, pipeline) => sum + pipeline.stages.length, 0);
  return [
    count((plan?.nodes ?? []).length, "node"), count(pipelines.length, "pipeline"),
    count(stages, "stage"),
  ].join(" · ");
}
