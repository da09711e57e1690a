// All that the page knows of the service: made of messages, one after another. Pure: a message and a
// state give the next state.

export const HISTORY_S = 300;
const MAX_EVENTS = 400;
const RATE_S = 3; // seconds that a rate is the mean of

export const EMPTY = Object.freeze({
  life: null, version: "", at: 0, clockOffset: 0, plan: null, planner: null, requests: [],
  can: { order: false, kill: [] }, load: null, rates: null, totals: null, events: [],
  missed: 0, seconds: new Map(), now: 0, changed: {},
});

/** The state after a message; `localNow` is this machine's time in seconds since 1970. */
export function next(state, message, localNow) {
  const fresh = message.life !== undefined && message.life !== state.life;
  const before = fresh ? EMPTY : state;
  const events = before.events.concat(message.events).slice(-MAX_EVENTS);
  const known = {
    ...before,
    life: message.life ?? before.life,
    version: message.version ?? before.version,
    at: message.at,
    clockOffset: message.at - localNow,
    plan: message.plan ?? before.plan,
    planner: message.planner ?? before.planner,
    requests: message.requests ?? before.requests,
    can: message.can ?? before.can,
    totals: message.totals,
    events,
    missed: before.missed + message.missed,
    now: message.tokens.now,
    seconds: withSeconds(before.seconds, message.tokens),
  };
  return { ...known, load: message.load, rates: ratesOf(before, message.load) };
}

function withSeconds(known, tokens) {
  const seconds = new Map(known);
  for (const [second, number] of tokens.seconds) seconds.set(second, number);
  for (const second of seconds.keys()) {
    if (second < tokens.now - HISTORY_S - 1) seconds.delete(second);
  }
  return seconds;
}

/** Tokens a second, over the last whole seconds. */
export function tokensPerS(state) {
  const last = Math.floor(state.now) - 1;
  let sum = 0;
  for (let second = last - RATE_S + 1; second <= last; second += 1) {
    sum += state.seconds.get(second) ?? 0;
  }
  return sum / RATE_S;
}

/** Tokens of every whole second of the history, oldest first, as [seconds ago, tokens]. */
export function series(state) {
  const last = Math.floor(state.now) - 1;
  return Array.from({ length: HISTORY_S }, (_, index) => {
    const second = last - HISTORY_S + 1 + index;
    return [last - second, state.seconds.get(second) ?? 0];
  });
}

/** How long the gateway has been up, in seconds: before that nothing is known. */
export function knownFor(state) {
  return state.life === null ? 0 : Math.max(0, state.at - Number(state.life));
}

/** What counters grew by a second: steps by pipeline, busy share and bytes by stage. */
function ratesOf(before, load) {
  if (!load) return null;
  const old = before.load;
  if (!old || load.at <= old.at) return before.rates;
  const span = load.at - old.at;
  const pipelines = {};
  for (const now of load.pipelines) {
    const was = old.pipelines.find((one) => one.pipeline === now.pipeline);
    if (was) pipelines[now.pipeline] = { stepsPerS: growth(now.num_steps, was.num_steps) / span };
  }
  const stages = {};
  for (const now of load.stages) {
    const key = stageKey(now.pipeline, now.stage);
    const was = old.stages.find((one) => stageKey(one.pipeline, one.stage) === key);
    if (!was) continue;
    stages[key] = {
      busy: Math.min(1, growth(now.busy_s, was.busy_s) / span),
      bytesPerS: growth(now.sent_bytes, was.sent_bytes) / span,
      stepS: growth(now.busy_s, was.busy_s) / Math.max(1, growth(now.num_steps, was.num_steps)),
    };
  }
  return { pipelines, stages };
}

/** A counter of a process that began anew begins anew. */
function growth(now, was) {
  return now >= was ? now - was : now;
}

export function stageKey(pipeline, stage) {
  return `${pipeline}/${stage}`;
}

/** A pipeline's load, or null where it did not answer. */
export function loadOf(state, pipeline) {
  return state.load?.pipelines.find((one) => one.pipeline === pipeline) ?? null;
}

/** Share of the KV blocks in use, over all pipelines that answered; null where none did. */
export function kvUse(loads) {
  const blocks = loads.reduce((sum, one) => sum + one.num_blocks, 0);
  const free = loads.reduce((sum, one) => sum + one.num_free_blocks, 0);
  return blocks ? (blocks - free) / blocks : null;
}

/** Requests at work, and those that wait in pipelines and in the gateway. */
export function requestCounts(state) {
  const loads = state.load?.pipelines ?? [];
  const sum = (name) => loads.reduce((total, one) => total + one[name], 0);
  return { running: sum("num_running"), waiting: sum("num_waiting") + (state.totals?.waiting ?? 0) };
}
