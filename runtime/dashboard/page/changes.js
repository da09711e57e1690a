// The orders that a person can give here: swap, drain, kill; each shows first what it would do.

import { byId, el } from "./dom.js";
import { layers } from "./format.js";
import { confirmed, post } from "./orders.js";

const PLAN = "admin/plan";

export class Changes {
  /** @param state gives the state as it is now */
  constructor(orders, state) {
    this.orders = orders;
    this.state = state;
    byId("swap-layers").addEventListener("click", () => this.swapLayers());
    byId("swap-plan").addEventListener("click", () => this.swapToProposal());
  }

  /** Which buttons there are. */
  show(state) {
    const serves = state.can.order && (state.plan?.pipelines ?? []).length > 0;
    byId("swap-layers").hidden = !serves;
    const planner = state.planner?.planner;
    byId("swap-plan").hidden = !(serves && planner?.plan && planner.gain > 0.005);
  }

  /** Other layers for a pipeline: written, tried dry, and then ordered. */
  async swapLayers() {
    const pipelines = this.state().plan.pipelines;
    const which = el("select", { id: "swap-which" },
      ...pipelines.map((one) => el("option", { value: one.id }, `pipeline ${one.id}`)));
    const input = el("input", {
      id: "swap-input", type: "text", autocomplete: "off", spellcheck: false, maxLength: 8192,
    });
    const moves = el("ul", { className: "moves", role: "status" });
    const fillIn = () => { input.value = splitOf(pipelines.find((one) => one.id === which.value)); };
    fillIn();
    which.addEventListener("change", fillIn);
    const order = () => ({ layers: input.value.trim(), pipeline: which.value });
    const check = el("button", { type: "button", id: "swap-check" }, "Show what would move");
    const yes = byId("confirm-yes");
    const tryDry = async () => { yes.disabled = !(await dryRun(order(), moves)); };
    check.addEventListener("click", tryDry);
    const changed = () => { yes.disabled = true; moves.replaceChildren(); };
    for (const field of [input, which]) field.addEventListener("input", changed);
    input.addEventListener("keydown", (event) => { if (event.key === "Enter") tryDry(); });
    const body = [
      el("p", {}, "Streams go on: no token is lost or repeated. Layers of each stage, in order, the end not included:"),
      el("label", { htmlFor: "swap-which", hidden: pipelines.length < 2 }, "Pipeline"), which,
      el("label", { htmlFor: "swap-input" }, "Layers"), input,
      el("div", { className: "buttons" }, check), moves,
    ];
    which.hidden = pipelines.length < 2;
    const wanted = confirmed({
      title: "Swap layers", body, action: "Swap", ready: new Promise(() => {}),
    });
    input.focus();
    if (await wanted) {
      await this.orders.give(`Swap pipeline ${which.value} to ${order().layers}`, PLAN, order());
    }
  }

  /** The plan that the planner proposes. */
  async swapToProposal() {
    const { plan, gain } = this.state().planner.planner;
    const moves = el("ul", { className: "moves", role: "status" });
    const body = [
      el("p", {}, `The planner expects ${(gain * 100).toFixed(1)} % more tokens a second. What would move:`),
      moves,
    ];
    const ready = dryRun({ plan }, moves);
    if (await confirmed({ title: "Go to the proposed plan", body, action: "Swap", ready })) {
      await this.orders.give("Go to the proposed plan", PLAN, { plan });
    }
  }

  /** Everything off a node. */
  async drain(node) {
    const input = el("input", {
      id: "drain-deadline", type: "number", min: "1", max: "86400", step: "1", value: "30",
    });
    const body = [
      el("p", {}, "Its layers, KV and requests go to the other nodes, and then it leaves the service. What is not over in time is computed again elsewhere."),
      el("label", { htmlFor: "drain-deadline" }, "Seconds it has"), input,
    ];
    const title = `Drain node ${node}?`;
    if (await confirmed({ title, body, action: "Drain", danger: true })) {
      const deadline = Math.min(86400, Math.max(1, Number(input.value) || 30));
      await this.orders.give(`Drain node ${node}`, "admin/drain", { node, deadline_s: deadline });
    }
  }

  /** A process, as a fault would end it. */
  async kill(target) {
    const body = [
      el("p", {}, "The process is ended at once, as a fault would end it. Its requests wait, are recovered, and go on."),
    ];
    const title = `Kill ${target}?`;
    if (await confirmed({ title, body, action: "Kill", danger: true })) {
      await this.orders.give(`Kill ${target}`, "admin/kill", { target });
    }
  }
}

/** Show what a change would move; gives whether it can be done. */
async function dryRun(order, list) {
  list.replaceChildren(el("li", {}, "asking…"));
  try {
    const report = await post(PLAN, { ...order, dry_run: true });
    const lines = report.done ? report.moves : [report.reason || "it cannot be done"];
    list.replaceChildren(...(lines.length ? lines : ["nothing would move"]).map((line) => el("li", {}, line)));
    return report.done;
  } catch (error) {
    list.replaceChildren(el("li", {}, error.message));
    return false;
  }
}

function splitOf(pipeline) {
  return pipeline.stages.map((stage) => layers(stage.layers)).join(",");
}
