// What is told in rows: key figures, events, predictions, nodes, requests.

import { byId, el, keyed, say, setAttribute } from "./dom.js";
import { bytes, compact, count, duration, layers, percent, timeOfDay } from "./format.js";
import { sentence } from "./sentences.js";
import { kvUse, requestCounts, tokensPerS } from "./state.js";

const MAX_SHOWN = 120;

export function showTiles(state) {
  const { running, waiting } = requestCounts(state);
  const kv = kvUse(state.load?.pipelines ?? []);
  const totals = state.totals;
  const failed = totals ? totals.ended.error + totals.refused : null;
  const steps = Object.values(state.rates?.pipelines ?? {}).reduce((sum, one) => sum + one.stepsPerS, 0);
  const firsts = totals?.num_first_tokens ?? 0;
  const tiles = [
    ["tokens/s", state.now ? compact(tokensPerS(state)) : "–", "mean of three seconds"],
    ["running", state.load ? compact(running) : "–", "requests at work"],
    ["waiting", state.load ? compact(waiting) : "–", "in gateway and pipelines", waiting > 0 && "warn"],
    ["KV in use", kv === null ? "–" : percent(kv), "of all blocks", kv > 0.9 && "warn"],
    ["steps/s", state.rates ? compact(steps) : "–", "round all stages"],
    ["first token", firsts ? duration(totals.first_token_s / firsts) : "–", "mean since the start"],
    ["failed", failed === null ? "–" : compact(failed), totals ? `${totals.ended.error} errors, ${totals.refused} refused` : "", failed > 0 && "bad"],
    ["recovered", state.plan ? compact(state.plan.recoveries ?? 0) : "–", "requests that outlived a loss"],
  ];
  keyed(
    byId("tiles"), tiles, ([name]) => name,
    ([name]) => el("div", { className: "tile" }, el("p", { className: "name" }, name), el("p", { className: "figure" }), el("p", { className: "note" })),
    (tile, [, figure, note, level]) => {
      say(tile.children[1], figure);
      say(tile.children[2], note);
      tile.dataset.level = level || "";
    },
  );
}

export function showEvents(state) {
  const shown = state.events.slice(-MAX_SHOWN).reverse();
  byId("no-events").hidden = shown.length > 0;
  byId("events").hidden = shown.length === 0;
  say(byId("missed"), state.missed ? `${count(state.missed, "older event")} not kept` : "newest first");
  keyed(
    byId("events"), shown, (event) => event.id,
    (event) => {
      const { level, text } = sentence(event);
      return el("li", { className: "event", data: { level } },
        el("time", { dateTime: new Date(event.at * 1000).toISOString() }, timeOfDay(event.at)),
        el("span", { className: "shape", "aria-hidden": "true" }),
        el("span", { className: "text" }, text));
    },
    () => {},
  );
}

export function showPlanner(state) {
  const root = byId("planner");
  const told = state.planner;
  const planner = told?.planner;
  if (!planner) {
    const reason = told?.reason ? `Nothing is predicted: ${told.reason}.` : "Nothing is predicted yet.";
    return root.replaceChildren(el("p", { className: "empty" }, reason));
  }
  const current = planner.current;
  const parts = [el("p", { className: "lead" }, planner.state, planner.is_stale ? " (the cluster has changed since)" : "")];
  if (told.reason) parts.push(el("p", { className: "warning" }, `Not up to date: ${told.reason}.`));
  if (current) parts.push(comparison(current), stagesTable(current));
  if (planner.proposed && planner.gain > 0.005) parts.push(proposal(planner));
  parts.push(el("p", { className: "hint" }, "Predicted for full batches; measured over the last steps, as they were."));
  if (planner.unmeasured?.length) {
    parts.push(el("p", { className: "hint" }, `Not measured: ${planner.unmeasured.join(", ")}`));
  }
  return root.replaceChildren(...parts);
}

function comparison(current) {
  const measured = current.measured_tokens_per_s;
  const top = Math.max(current.tokens_per_s, measured ?? 0, 1e-9);
  const line = (name, value) => {
    const fill = el("span", { className: `fill ${name}` });
    fill.style.width = `${((value ?? 0) / top) * 100}%`;
    const text = value === null || value === undefined ? "not measured yet" : `${compact(value)} tok/s`;
    return el("div", { className: "bar" }, el("span", { className: "label" }, name), el("span", { className: "track", "aria-hidden": "true" }, fill), el("span", { className: "value" }, text));
  };
  return el("div", { className: "bars" }, line("predicted", current.tokens_per_s), line("measured", measured));
}

function stagesTable(planned) {
  const rows = planned.pipelines.flatMap((pipeline) => pipeline.stages);
  const body = rows.map((stage) => {
    const measured = stage.measured_step_s ?? null;
    const ratio = measured === null ? "–" : `${(measured / stage.step_s).toFixed(2)}×`;
    return el("tr", {},
      el("td", {}, `${stage.node} · ${stage.device}`), el("td", { className: "mono" }, layers(stage.layers)),
      el("td", { className: "number" }, duration(stage.step_s)),
      el("td", { className: "number" }, measured === null ? "–" : duration(measured)),
      el("td", { className: "number" }, ratio));
  });
  const heads = [["device", ""], ["layers", ""], ["step predicted", "number"], ["measured", "number"], ["ratio", "number"]];
  return el("div", { className: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map(([name, className]) => el("th", { scope: "col", className }, name)))),
    el("tbody", {}, ...body)));
}

function proposal(planner) {
  const { cost, gain, proposed } = planner;
  const price = cost ? `; costs ${bytes(cost.load_bytes)} to load, ${duration(cost.seconds)}, of these ${duration(cost.pause_s)} of pause` : "";
  return el("p", { className: "proposal" }, `Proposed: ${compact(proposed.tokens_per_s)} tok/s, ${(gain * 100).toFixed(1)} % more${price}.`);
}

/** Nodes with their stages and processes. */
export function showNodes(state, onDrain, onKill) {
  const plan = state.plan;
  const names = plan?.nodes ?? [];
  say(byId("kill-hint"), state.can.kill.length ? "kill is enabled (admin.kill)" : "");
  const others = (plan?.processes ?? []).filter((one) => one.role !== "node");
  const rows = [
    ...names.map((name) => ({ key: `node:${name}`, title: name, ...nodeFacts(plan, name), drain: name, target: killName(state, `node:${name}`) })),
    ...others.map((one) => ({ key: `${one.role}:${one.name}`, title: one.name, role: one.role, detail: `pid ${one.pid}`, drain: null, target: killName(state, one.role) ?? killName(state, `${one.role}:${one.name}`) })),
  ];
  keyed(
    byId("nodes"), rows, (row) => row.key,
    (row) => el("div", { className: "node" },
      el("div", {}, el("b", {}, row.title), el("span", { className: "role" }, row.role)), el("p", { className: "detail" }),
      el("div", { className: "buttons" },
        el("button", { type: "button", className: "drain", on: { click: () => onDrain(row.title) } }, "Drain…"),
        el("button", { type: "button", className: "kill quiet", on: { click: (event) => onKill(event.currentTarget.dataset.target) } }, "Kill"))),
    (element, row) => {
      say(element.querySelector(".detail"), row.detail);
      const drain = element.querySelector(".drain");
      drain.hidden = !row.drain || !state.can.order;
      setAttribute(drain, "aria-label", `Drain node ${row.title}`);
      const kill = element.querySelector(".kill");
      kill.hidden = !row.target;
      kill.dataset.target = row.target ?? "";
      setAttribute(kill, "aria-label", `Kill ${row.target ?? ""}`);
    },
  );
}

function killName(state, name) {
  return state.can.kill.includes(name) ? name : null;
}

function nodeFacts(plan, name) {
  const stages = plan.pipelines.flatMap((pipeline) => pipeline.stages.filter((stage) => stage.node === name));
  const weights = stages.reduce((sum, stage) => sum + stage.weight_bytes, 0);
  const pid = (plan.processes ?? []).find((one) => one.role === "node" && one.name === name)?.pid;
  const carries = stages.length ? `${count(stages.length, "stage")}, ${bytes(weights)} of weights` : "stands by";
  return { role: "node", detail: `${carries}${pid ? ` · pid ${pid}` : ""}` };
}

export function showRequests(state) {
  const requests = state.requests;
  byId("no-requests").hidden = requests.length > 0;
  byId("requests-table").hidden = requests.length === 0;
  say(byId("requests-hint"), requests.length ? "those that came first" : "");
  keyed(
    byId("requests"), requests, (one) => one.id,
    (one) => el("tr", {}, el("td", { className: "mono id", title: one.id }, one.id), ...["", "number", "number", "number"].map((className) => el("td", { className }))),
    (row, one) => {
      const cells = [one.pipeline ?? "waits", one.prompt_tokens, one.delivered_tokens, one.recoveries];
      cells.forEach((value, index) => say(row.children[index + 1], value));
    },
  );
}
