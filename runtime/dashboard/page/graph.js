// The pipelines: boxes of stages with their layers, hops between them on which tokens move, and a
// ruler that shows which layer is where. Boxes are kept from one update to the next.

import { byId, el, keyed, say, setAttribute, still, svg } from "./dom.js";
import { bytes, compact, duration, layers, percent } from "./format.js";
import { layout } from "./layout.js";
import { kvUse, loadOf, stageKey, tokensPerS } from "./state.js";

const COLOURS = 6;
const FULL_SPEED = 400; // tokens a second from which the flow is drawn no faster

export class Graph {
  /** @param onKill takes the name of a process that is to be ended */
  constructor(onKill) {
    this.onKill = onKill;
    this.root = byId("pipelines");
    this.flows = new Map();
    this.state = null;
    new ResizeObserver(() => this.state && this.show(this.state)).observe(this.root);
    still.addEventListener("change", () => this.state && this.show(this.state));
  }

  show(state) {
    this.state = state;
    const pipelines = state.plan?.pipelines ?? [];
    byId("no-pipelines").hidden = pipelines.length > 0;
    const shares = flowShares(state, pipelines);
    keyed(
      this.root, pipelines, (one) => one.id, () => pipelineElement(),
      (element, one) => this.#update(element, one, state, shares.get(one.id)),
    );
    for (const key of this.flows.keys()) {
      if (!pipelines.some((one) => one.id === key)) this.flows.delete(key);
    }
  }

  #update(element, pipeline, state, tokensPerS) {
    const load = loadOf(state, pipeline.id);
    heading(element, pipeline, load, tokensPerS);
    const area = element.querySelector(".area");
    const width = Math.floor(area.clientWidth) || 800;
    const places = layout(pipeline.stages.length, width);
    area.style.height = `${places.height}px`;
    this.#paths(element, pipeline.id, places, tokensPerS);
    place(element.querySelector(".gateway"), places.gateway);
    keyed(
      element.querySelector(".stages"), pipeline.stages.map((stage, index) => ({ stage, index })),
      ({ stage }) => stage.stage, ({ stage }) => this.#stageElement(pipeline, stage),
      (box, { stage, index }) => {
        place(box, places.stages[index]);
        stageUpdate(box, pipeline, stage, state, load);
      },
    );
    ruler(element.querySelector(".ruler"), pipeline);
  }

  #stageElement(pipeline, stage) {
    const kill = el("button", {
      type: "button", className: "kill quiet",
      on: { click: (event) => this.onKill(event.currentTarget.dataset.target) },
    }, "Kill");
    return el("article", { className: "stage", data: { stage: stage.stage } },
      el("header", {}, el("h4"), el("span", { className: "badge" })),
      el("p", { className: "layers" }),
      el("p", { className: "where" }),
      meter("kv", "KV"), meter("busy", "busy"),
      el("footer", {}, el("span", { className: "facts" }), kill));
  }

  /** Hops and the way back, and the dots on them. */
  #paths(element, id, places, tokensPerS) {
    const drawing = element.querySelector("svg");
    setAttribute(drawing, "viewBox", `0 0 ${Math.max(1, places.width)} ${places.height}`);
    setAttribute(drawing, "width", Math.max(1, places.width));
    setAttribute(drawing, "height", places.height);
    const paths = [...places.hops, places.ring].filter(Boolean);
    const tracks = paths.map((d, index) => {
      return { d, key: index, way: d === places.ring ? "back" : "on" };
    });
    keyed(
      drawing, tracks.flatMap((one) => [{ ...one, kind: "track" }, { ...one, kind: "flow" }]),
      (one) => `${one.kind}${one.key}`, (one) => svg("path", { class: one.kind }),
      (path, one) => {
        setAttribute(path, "d", one.d);
        setAttribute(path, "data-way", one.way);
      },
    );
    this.#move(id, [...drawing.querySelectorAll(".flow")], tokensPerS);
  }

  /** Dots move the faster the more tokens there are; none where motion is not wanted. */
  #move(id, paths, tokensPerS) {
    const moves = tokensPerS > 0.2 && !still.matches;
    const known = this.flows.get(id) ?? new Map();
    this.flows.set(id, known);
    for (const path of paths) {
      let flow = known.get(path);
      if (!flow) {
        flow = path.animate([{ strokeDashoffset: 24 }, { strokeDashoffset: 0 }], {
          duration: 1000, iterations: Infinity,
        });
        known.set(path, flow);
      }
      flow.updatePlaybackRate(0.4 + 3.6 * Math.min(1, tokensPerS / FULL_SPEED));
      if (moves && flow.playState !== "running") flow.play();
      else if (!moves && flow.playState === "running") flow.pause();
      path.classList.toggle("on", tokensPerS > 0.2);
    }
    for (const path of known.keys()) if (!paths.includes(path)) known.delete(path);
  }
}

function pipelineElement() {
  return el("section", { className: "pipeline" },
    el("header", {},
      el("h3"), el("span", { className: "badge" }), el("span", { className: "epoch" }),
      el("span", { className: "numbers" })),
    el("div", { className: "area" },
      svg("svg", { class: "hops", "aria-hidden": "true" }),
      el("div", { className: "gateway" }, el("b", {}, "Gateway"), el("span")),
      el("div", { className: "stages" })),
    el("div", { className: "ruler", role: "img" }));
}

function meter(name, label) {
  return el("div", { className: `meter ${name}` },
    el("span", { className: "label" }, label),
    el("span", { className: "track", "aria-hidden": "true" }, el("span", { className: "fill" })),
    el("span", { className: "value" }));
}

function heading(element, pipeline, load, tokensPerS) {
  say(element.querySelector("h3"), `Pipeline ${pipeline.id}`);
  badge(element.querySelector("header .badge"), pipeline.state);
  say(element.querySelector(".epoch"), `epoch ${pipeline.epoch}`);
  const numbers = load
    ? `${load.num_running} running · ${load.num_waiting} waiting · KV ${percent(kvUse([load]))}`
    : "not answering";
  say(element.querySelector(".numbers"), numbers);
  say(element.querySelector(".gateway span"), `${compact(tokensPerS)} tok/s`);
}

export function badge(element, state) {
  say(element, state);
  element.dataset.state = state;
}

function stageUpdate(box, pipeline, stage, state, load) {
  const rates = state.rates?.stages[stageKey(pipeline.id, stage.stage)];
  box.dataset.state = stage.state;
  box.dataset.colour = stage.stage % COLOURS;
  setAttribute(box, "aria-label", `stage ${stage.stage}, ${stage.state}`);
  say(box.querySelector("h4"), `Stage ${stage.stage}`);
  badge(box.querySelector(".badge"), stage.state);
  const number = stage.layers[1] - stage.layers[0];
  say(box.querySelector(".layers"), `layers ${layers(stage.layers)}`);
  box.querySelector(".layers").title = `${number} layers`;
  const where = `${stage.node} · ${stage.device}`;
  say(box.querySelector(".where"), where);
  box.querySelector(".where").title = where;
  fill(box.querySelector(".kv"), load ? kvUse([load]) : null, `of ${compact(stage.kv_blocks)} blocks`);
  fill(box.querySelector(".busy"), rates?.busy ?? null, rates ? `${duration(rates.stepS)} a step` : "");
  say(box.querySelector(".facts"), `${bytes(stage.resident_bytes)} resident · pid ${stage.pid || "–"}`);
  const target = killTarget(state, pipeline, stage);
  const kill = box.querySelector(".kill");
  kill.hidden = !state.can.kill.includes(target);
  kill.dataset.target = target;
  setAttribute(kill, "aria-label", `Kill ${target}`);
}

/** The name by which the service knows a stage's process. */
export function killTarget(state, pipeline, stage) {
  const isOne = state.plan.pipelines.length === 1;
  return isOne ? `stage:${stage.stage}` : `stage:${pipeline.id}/${stage.stage}`;
}

function fill(element, share, title) {
  element.querySelector(".fill").style.width = `${(share ?? 0) * 100}%`;
  const isFull = element.classList.contains("kv") && share > 0.9; // a busy device is a good one
  element.querySelector(".fill").classList.toggle("high", isFull);
  say(element.querySelector(".value"), share === null ? "–" : percent(share));
  element.title = title;
}

function place(element, box) {
  const style = element.style;
  style.transform = `translate(${box.x}px, ${box.y}px)`;
  style.width = `${box.width}px`;
  style.height = `${box.height}px`;
}

/** Which layer is on which stage: one cell a layer. */
function ruler(element, pipeline) {
  const text = pipeline.stages
    .map((stage) => `layers ${layers(stage.layers)} on stage ${stage.stage}`)
    .join(", ");
  setAttribute(element, "aria-label", text);
  keyed(
    element, pipeline.stages, (stage) => stage.stage,
    () => el("div", { className: "span" }, el("span")),
    (span, stage) => {
      const [start, end] = stage.layers;
      span.style.flexGrow = Math.max(0.001, end - start);
      span.dataset.colour = stage.stage % COLOURS;
      span.style.setProperty("--cells", Math.max(1, end - start));
      say(span.firstElementChild, end - start > 1 ? `${start}–${end - 1}` : `${start}`);
    },
  );
}

/** Tokens a second of each pipeline, by its part in the requests at work. */
function flowShares(state, pipelines) {
  const total = tokensPerS(state);
  const weights = pipelines.map((one) => {
    const load = loadOf(state, one.id);
    const steps = state.rates?.pipelines[one.id]?.stepsPerS ?? 0;
    return [one.id, (load?.num_running ?? 0) * steps];
  });
  const sum = weights.reduce((all, [, weight]) => all + weight, 0);
  return new Map(weights.map(([id, weight]) => {
    if (pipelines.length === 1) return [id, total];
    return [id, sum ? (total * weight) / sum : 0];
  }));
}
