// Orders to the service: asked about first, sent as JSON under the operator's key, and shown with
// what became of them.

import { reasonOf } from "./connection.js";
import { byId, el, keyed, say } from "./dom.js";
import { bytes, duration } from "./format.js";
import { headersFor } from "./keys.js";

const KEPT = 4;

export class Orders {
  constructor() {
    this.orders = [];
    this.num = 0;
    this.root = byId("orders");
  }

  /** Send an order, and show it until it is dismissed. Gives the report, or null. */
  async give(title, path, body) {
    const order = { id: ++this.num, title, began: performance.now(), state: "running", text: "" };
    this.orders = [order, ...this.orders].slice(0, KEPT);
    this.show();
    try {
      const report = await post(path, body);
      order.state = report.done ? "done" : "refused";
      order.text = report.done ? outcome(report) : report.reason || "it was not done";
      return report;
    } catch (error) {
      order.state = "refused";
      order.text = error.message;
      return null;
    } finally {
      order.ended = performance.now();
      this.show();
    }
  }

  show() {
    keyed(
      this.root, this.orders, (order) => order.id, (order) => this.#element(order),
      (element, order) => {
        element.dataset.state = order.state;
        const seconds = ((order.ended ?? performance.now()) - order.began) / 1000;
        say(element.querySelector(".outcome"), `${order.state} · ${duration(seconds)}`);
        say(element.querySelector(".text"), order.text);
        element.querySelector("button").hidden = order.state === "running";
      },
    );
  }

  #element(order) {
    const dismiss = () => {
      this.orders = this.orders.filter((one) => one !== order);
      this.show();
    };
    return el("li", { className: "order" },
      el("b", {}, order.title), el("span", { className: "outcome" }), el("span", { className: "text" }),
      el("button", { type: "button", className: "quiet", on: { click: dismiss } }, "Dismiss"));
  }
}

function outcome(report) {
  if (!report.phases) return "";
  const phases = report.phases.map((phase) => {
    const moved = phase.bytes ? ` (${bytes(phase.bytes)})` : "";
    return `${phase.name} ${duration(phase.seconds)}${moved}`;
  });
  return [`epoch ${report.epoch}`, ...phases].join(" · ");
}

/** The answer to an order: a report, done or not; raises with what a refusal says. */
export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headersFor("admin") },
    body: JSON.stringify(body),
  });
  if (response.ok || response.status === 409) {
    const answer = await response.json();
    if ("done" in answer) return answer;
    throw new Error(answer.error?.message ?? `the service answered ${response.status}`);
  }
  throw new Error(await reasonOf(response));
}

/**
 * Ask before something is done; resolves to whether it is wanted.
 *
 * @param body elements that say what will happen
 * @param ready a promise that must be kept before it can be wanted (a dry run, say)
 */
export function confirmed({ title, body, action, danger = false, ready = null }) {
  const dialog = byId("confirm");
  const [yes, no] = [byId("confirm-yes"), byId("confirm-no")];
  say(byId("confirm-title"), title);
  byId("confirm-body").replaceChildren(...body);
  say(yes, action);
  yes.classList.toggle("danger", danger);
  yes.disabled = ready !== null;
  ready?.then((isGood) => { yes.disabled = !isGood; });
  dialog.showModal();
  no.focus();
  return new Promise((resolve) => {
    const end = (answer) => {
      yes.onclick = no.onclick = dialog.oncancel = null;
      dialog.close();
      resolve(answer);
    };
    yes.onclick = () => end(true);
    no.onclick = () => end(false);
    dialog.oncancel = () => end(false);
  });
}
