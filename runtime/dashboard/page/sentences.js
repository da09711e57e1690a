// Events of the service as sentences. Pure; a kind that is not known here is shown as it came.

import { bytes, duration, layers } from "./format.js";

const STATE_LEVELS = { ready: "ok", loading: "info", recovering: "warn", lost: "bad" };

const DOWN = new Set(["recovering", "lost"]);

const SENTENCES = {
  node_joined: (f) => ["info", `node ${f.node} joined`],
  node_left: (f) => ["bad", `node ${f.node} left`],
  pipeline_state: (f) => [STATE_LEVELS[f.state] ?? "info", pipelineState(f)],
  pipeline_removed: (f) => ["warn", `pipeline ${f.pipeline} is gone`],
  stage_state: (f) => [STATE_LEVELS[f.state] ?? "info", `${stage(f)} is ${f.state}`],
  stage_placed: (f) => ["info", `${stage(f)} has layers ${layers(f.layers)}`],
  swap_phase: (f) => ["busy", `pipeline ${f.pipeline} to epoch ${f.epoch}: ${f.phase}`],
  stages_changed: (f) => ["ok", changed(f)],
  change_ordered: () => ["info", "change of the plan ordered"],
  change_done: (f) => ["ok", `change done in ${duration(f.seconds)}, epoch ${f.epoch}`],
  change_refused: (f) => ["warn", `change refused: ${f.reason}`],
  drain_ordered: (f) => ["info", `drain of node ${f.node} ordered, within ${duration(f.deadline_s)}`],
  drain_done: (f) => ["ok", `node ${f.node} drained in ${duration(f.seconds)}`],
  drain_refused: (f) => ["warn", `drain of node ${f.node} refused: ${f.reason}`],
  move_done: (f) => ["ok", `request ${f.request} moved to pipeline ${f.pipeline}`],
  move_refused: (f) => ["warn", `request ${f.request} not moved: ${f.reason}`],
  fault_ordered: (f) => ["warn", `${f.fault} between ${f.a} and ${f.b} for ${duration(f.for_s)}`],
  kill_ordered: (f) => ["warn", `kill of ${f.target} ordered`],
};

function stage(facts) {
  return `stage ${facts.stage} of pipeline ${facts.pipeline} on ${facts.node} (${facts.device})`;
}

function pipelineState(facts) {
  const again = facts.state === "ready" && DOWN.has(facts.was) ? " again" : "";
  return `pipeline ${facts.pipeline} is ${facts.state}${again}`;
}

function changed(facts) {
  if (facts.cause === "recovery") return recovered(facts);
  const moved = facts.moved_bytes ? `, ${bytes(facts.moved_bytes)} moved` : "";
  const again = facts.recomputed ? `, ${Math.round(facts.recomputed * 100)} % computed again` : "";
  return (
    `pipeline ${facts.pipeline} is at epoch ${facts.epoch} after a ${facts.cause}: streams stood ` +
    `still for ${duration(facts.pause_s)}${moved}${again}`
  );
}

/** The pause of a recovery says little: requests wait from the loss on, which outages tell. */
function recovered(facts) {
  const seconds = Object.values(facts.phases_s).reduce((sum, value) => sum + value, 0);
  const again = facts.recomputed ? `, ${Math.round(facts.recomputed * 100)} % computed again` : "";
  return (
    `pipeline ${facts.pipeline} is at epoch ${facts.epoch} after a recovery: new stages took over ` +
    `in ${duration(seconds)}${again}`
  );
}

/** {level, text} of an event. */
export function sentence(event) {
  const write = SENTENCES[event.kind];
  if (write) {
    try {
      const [level, text] = write(event.facts);
      return { level, text };
    } catch {
      // an event of another version, with other facts
    }
  }
  const facts = Object.entries(event.facts).map(([name, value]) => `${name}=${shown(value)}`);
  return { level: "info", text: [event.kind, ...facts].join(" ") };
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** When pipelines did not serve: {pipeline, from, to}, where `to` is null if one still does not. */
export function outages(events) {
  const open = new Map();
  const found = [];
  for (const { kind, at, facts } of events) {
    if (kind !== "pipeline_state" && kind !== "pipeline_removed") continue;
    const outage = open.get(facts.pipeline);
    if (DOWN.has(facts.state)) {
      if (outage) continue;
      const begun = { pipeline: facts.pipeline, from: at, to: null };
      open.set(facts.pipeline, begun);
      found.push(begun);
    } else if (outage) {
      outage.to = at;
      open.delete(facts.pipeline);
    }
  }
  return found;
}

/** What of the events belongs on a time line: epochs, losses, orders. */
export function marks(events) {
  const found = [];
  for (const event of events) {
    const { level, text } = sentence(event);
    if (event.kind === "stages_changed") {
      const phases = Object.values(event.facts.phases_s ?? {});
      const seconds = phases.reduce((sum, value) => sum + value, 0);
      const { epoch, cause } = event.facts;
      found.push({ at: event.at, kind: "epoch", epoch, cause, seconds, text });
    } else if (level === "bad" || event.kind === "kill_ordered") {
      found.push({ at: event.at, kind: "loss", text });
    } else if (event.kind === "node_joined") {
      found.push({ at: event.at, kind: "join", text });
    }
  }
  return found;
}
