// The page: one state, made of the service's messages, and the parts that are drawn from it.

import { Changes } from "./changes.js";
import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import { byId, el, keyed, say, setAttribute } from "./dom.js";
import { duration } from "./format.js";
import { Graph } from "./graph.js";
import { History } from "./history.js";
import { forgetKeys, hasKey, keepKey } from "./keys.js";
import { Orders } from "./orders.js";
import { outages } from "./sentences.js";
import { EMPTY, next } from "./state.js";
import { showEvents, showNodes, showPlanner, showRequests, showTiles } from "./tables.js";
import { extent, verdict } from "./verdict.js";

const SIGNS = {
  ok: "M20 3a17 17 0 1 0 0 34a17 17 0 0 0 0-34Zm-3.500 24.500l-7-7 2.600-2.600 4.400 4.400 9.900-9.900 2.600 2.600Z",
  busy: "M20 3a17 17 0 1 0 0 34a17 17 0 0 0 0-34Zm-8 15h11v-5l8 7.500-8 7.500v-5h-11Z",
  warn: "M20 3 38 36H2Zm-2 12v10h4v-10Zm0 13v4h4v-4Z",
  bad: "M13 3h14l10 10v14l-10 10h-14l-10-10v-14Zm1 8-3 3 6 6-6 6 3 3 6-6 6 6 3-3-6-6 6-6-3-3-6 6Z",
  none: "M20 3a17 17 0 1 0 0 34a17 17 0 0 0 0-34Zm-9 15h4v4h-4Zm7 0h4v4h-4Zm7 0h4v4h-4Z",
};

let state = EMPTY;
let connection = { state: "connecting", reason: "" };
let lastMessageAt = null; // by performance.now()
let trouble = { key: null, since: null };
let lockScope = "admin";

const orders = new Orders();
const changes = new Changes(orders, () => state);
const graph = new Graph((target) => changes.kill(target));
const history = new History();
new Chat(() => state.plan?.model ?? "", (reason) => askForKey("serve", reason));

const live = new Connection(
  () => new URLSearchParams({ after: state.events.at(-1)?.id ?? 0, life: state.life ?? "" }),
  (message) => {
    state = next(state, message, Date.now() / 1000);
    lastMessageAt = performance.now();
    show();
  },
  (change) => {
    connection = change;
    document.body.dataset.connection = change.state;
    if (change.state === "locked") askForKey("admin", change.reason);
    else if (change.state === "live" && lockScope === "admin") byId("lock").close();
    showConnection();
    showVerdict();
  },
);

function show() {
  say(byId("model"), state.plan?.model ?? "");
  showVerdict();
  showTiles(state);
  graph.show(state);
  history.show(state);
  showEvents(state);
  showPlannerIfNew();
  showNodes(state, (node) => changes.drain(node), (target) => changes.kill(target));
  showRequests(state);
  changes.show(state);
}

let shownPlanner;
function showPlannerIfNew() {
  if (shownPlanner === state.planner) return;
  shownPlanner = state.planner;
  showPlanner(state);
}

/** Whether it serves, what is lost, what is done about it, for how long. */
function showVerdict() {
  const found = connection.state === "lost" || connection.state === "locked" ? unknown() : verdict(state.plan);
  const now = performance.now();
  if (trouble.key !== found.key) trouble = { key: found.key, since: now };
  byId("verdict").dataset.level = found.level;
  setAttribute(byId("sign"), "d", SIGNS[found.level]);
  say(byId("headline"), found.headline);
  document.title = `${found.headline} · ${state.plan?.model || "Remuda"}`;
  say(byId("extent"), found.extent ?? (state.plan ? `${extent(state.plan)} · epoch ${state.plan.epoch}` : ""));
  const seconds = Math.floor(lastingS(found.level, now));
  say(byId("lasting"), seconds >= 1 ? ` · for ${duration(seconds)}` : "");
  const rows = [["lost", found.lost], ["being done", found.doing]].filter(([, parts]) => parts.length);
  byId("troubles").hidden = rows.length === 0;
  keyed(
    byId("troubles"), rows, ([name]) => name,
    ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
    (row, [, parts]) => say(row.lastElementChild, parts.join("; ")),
  );
}

/** How long a trouble lasts: since the loss, where that is known, else since it is seen here. */
function lastingS(level, now) {
  if (!["warn", "bad", "busy"].includes(level)) return 0;
  const down = outages(state.events).filter((one) => one.to === null).map((one) => one.from);
  if (!down.length || connection.state !== "live") return (now - trouble.since) / 1000;
  return state.at - Math.min(...down) + (now - lastMessageAt) / 1000;
}

/** The page cannot see the service: what is shown is old, and says so. */
function unknown() {
  const locked = connection.state === "locked";
  const age = lastMessageAt === null ? null : (performance.now() - lastMessageAt) / 1000;
  const old = age !== null && age >= 1 ? `${duration(Math.floor(age))} old` : "of just now";
  const shown = age === null ? "" : `what is shown is ${old}`;
  return {
    level: locked ? "none" : "bad",
    headline: locked ? "Locked" : "Disconnected",
    extent: shown,
    lost: locked ? [] : [`connection to the gateway: ${connection.reason}`],
    doing: [locked ? "waiting for a key" : retryText()],
    key: connection.state,
  };
}

function retryText() {
  const left = ((connection.retryAt ?? 0) - performance.now()) / 1000;
  return left > 0.5 ? `trying again in ${duration(Math.ceil(left))}` : "trying again";
}

function showConnection() {
  const words = { connecting: "connecting", live: "live", lost: "disconnected", locked: "key wanted" };
  say(byId("connection-text"), words[connection.state]);
  const isLocked = connection.state === "locked";
  byId("retry").hidden = !isLocked && connection.state !== "lost";
  say(byId("retry"), isLocked ? "Give key" : "Try now");
  byId("forget").hidden = !hasKey();
}

function askForKey(scope, reason) {
  lockScope = scope;
  say(byId("lock-reason"), reason);
  say(byId("lock-scope"), scope);
  const dialog = byId("lock");
  if (!dialog.open) dialog.showModal();
  byId("key").focus();
}

function giveKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (!key) return;
  keepKey(lockScope, key);
  byId("key").value = "";
  byId("lock").close();
  showConnection();
  if (lockScope === "admin") live.again();
}

byId("lock-form").addEventListener("submit", giveKey);
byId("retry").addEventListener("click", () => {
  if (connection.state === "locked") askForKey("admin", connection.reason);
  else live.again();
});
byId("forget").addEventListener("click", () => {
  forgetKeys();
  state = EMPTY;
  live.again();
  show();
});
setInterval(() => {
  if (document.hidden) return;
  showVerdict();
  orders.show();
}, 500);

show();
live.run();
