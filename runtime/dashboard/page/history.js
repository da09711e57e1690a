// Tokens a second over the last minutes, and below it, on the same axis, epochs and losses: what
// happened stands under what it did.

import { byId, el, keyed, say, setAttribute, svg } from "./dom.js";
import { compact, duration } from "./format.js";
import { marks, outages } from "./sentences.js";
import { areaPath, bands, linePath, niceTop, xAgo } from "./scale.js";
import { HISTORY_S, knownFor, series } from "./state.js";

const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const HEIGHT = 150;
const LANE = 26;
const AXIS = 22;
const MAX_LANES = 4;
const EVERY_S = 60;
const SPARSE_S = 120; // where labels would touch
const SPARSE_WIDTH = 380;

const SHAPES = {
  epoch: "M 0 -6 L 6 0 L 0 6 L -6 0 Z",
  loss: "M 0 -7 L 7 6 L -7 6 Z",
  join: "M -5 -5 H 5 V 5 H -5 Z",
  down: "M -8 -5 H 8 V 5 H -8 Z",
};

export class History {
  constructor() {
    this.root = byId("history");
    this.cursor = null; // seconds ago
    this.drawing = svg("svg", { class: "chart", tabindex: "0", role: "img" },
      svg("g", { class: "grid" }), svg("path", { class: "area" }), svg("path", { class: "line" }),
      svg("g", { class: "lanes" }), svg("g", { class: "outages" }), svg("g", { class: "marks" }), svg("line", { class: "cursor" }));
    const legend = el("p", { className: "legend" },
      ...["epoch", "loss", "join", "down"].map((kind) => el("span", {},
        svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" },
          svg("path", { class: `mark ${kind}`, d: SHAPES[kind] })),
        { epoch: "change of stages", loss: "loss", join: "node joined", down: "not serving" }[kind])));
    this.root.append(this.drawing, legend);
    this.drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.drawing.addEventListener("pointerleave", () => this.#choose(null));
    this.drawing.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(() => this.state && this.show(this.state)).observe(this.root);
  }

  show(state) {
    this.state = state;
    const width = Math.max(240, Math.floor(this.root.clientWidth) || 600);
    this.inner = width - LEFT - RIGHT;
    const pipelines = (state.plan?.pipelines ?? []).slice(0, MAX_LANES);
    const height = TOP + HEIGHT + AXIS + Math.max(1, pipelines.length) * LANE;
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${height}`);
    setAttribute(this.drawing, "height", height);
    this.known = Math.min(HISTORY_S, knownFor(state));
    this.points = series(state).filter(([ago]) => ago <= this.known);
    const top = niceTop(Math.max(0, ...this.points.map(([, value]) => value)));
    this.#grid(top);
    this.#curve(top);
    this.#lanes(state, pipelines);
    this.#cursorLine(height);
    setAttribute(this.drawing, "aria-label", this.#summary());
    this.#readout();
  }

  #grid(top) {
    const lines = [0, 0.5, 1].map((share) => ({ key: `y${share}`, share }));
    const times = [];
    const every = this.inner < SPARSE_WIDTH ? SPARSE_S : EVERY_S;
    for (let ago = 0; ago <= HISTORY_S; ago += every) times.push({ key: `x${ago}`, ago });
    keyed(
      this.drawing.querySelector(".grid"), [...lines, ...times], (one) => one.key,
      () => svg("g", {}, svg("line"), svg("text")),
      (group, one) => {
        const [line, text] = group.children;
        if (one.share !== undefined) {
          const y = TOP + HEIGHT * (1 - one.share);
          put(line, { x1: LEFT, x2: LEFT + this.inner, y1: y, y2: y });
          put(text, { x: LEFT - 8, y: y + 4, "text-anchor": "end" });
          say(text, compact(top * one.share));
        } else {
          const x = LEFT + xAgo(one.ago, HISTORY_S, this.inner);
          put(line, { x1: x, x2: x, y1: TOP + HEIGHT, y2: TOP + HEIGHT + 4 });
          const anchor = one.ago === 0 ? "end" : one.ago === HISTORY_S ? "start" : "middle";
          put(text, { x, y: TOP + HEIGHT + 17, "text-anchor": anchor });
          say(text, one.ago === 0 ? "now" : `−${one.ago / 60} min`);
        }
      },
    );
  }

  #curve(top) {
    const move = `translate(${LEFT} ${TOP})`;
    const [area, line] = [".area", ".line"].map((name) => this.drawing.querySelector(name));
    put(area, { transform: move, d: areaPath(this.points, HISTORY_S, top, this.inner, HEIGHT) });
    put(line, { transform: move, d: linePath(this.points, HISTORY_S, top, this.inner, HEIGHT) });
  }

  /** One lane for each pipeline: its epochs as bands; marks stand in the lanes they belong to. */
  #lanes(state, pipelines) {
    const found = [];
    const bandsOf = [];
    const down = [];
    pipelines.forEach((pipeline, index) => {
      const own = state.events.filter((event) => (event.facts.pipeline ?? pipeline.id) === pipeline.id);
      const itsMarks = marks(own);
      const y = TOP + HEIGHT + AXIS + index * LANE;
      outages(own).forEach((outage) => {
        const from = Math.min(this.known, state.at - outage.from);
        const to = outage.to === null ? 0 : state.at - outage.to;
        const text = `pipeline ${pipeline.id} did not serve for ${duration(from - to)}`;
        if (to < this.known) down.push({ from, to, y, text, key: `${pipeline.id}/${outage.from}` });
      });
      bands(itsMarks, pipeline.epoch, state.at, this.known).forEach((band, place) => {
        bandsOf.push({ ...band, y, place, key: `${pipeline.id}/${place}` });
      });
      itsMarks.filter((mark) => state.at - mark.at < HISTORY_S).forEach((mark) => {
        found.push({ ...mark, y: y + LANE / 2 - 1, ago: state.at - mark.at, key: `${pipeline.id}/${mark.at}/${mark.kind}` });
      });
    });
    this.found = found;
    keyed(
      this.drawing.querySelector(".lanes"), bandsOf, (band) => band.key,
      () => svg("g", {}, svg("rect", { rx: 4 }), svg("text")), (group, band) => this.#band(group, band),
    );
    keyed(
      this.drawing.querySelector(".outages"), down, (one) => one.key,
      () => svg("rect", { class: "outage", rx: 2 }, svg("title")), (rect, one) => {
        const x = LEFT + xAgo(one.from, HISTORY_S, this.inner);
        const width = Math.max(3, LEFT + xAgo(one.to, HISTORY_S, this.inner) - x);
        put(rect, { x, y: one.y, width, height: LANE - 4 });
        say(rect.firstElementChild, one.text);
      },
    );
    this.down = down;
    keyed(
      this.drawing.querySelector(".marks"), found, (mark) => mark.key,
      (mark) => svg("path", { class: `mark ${mark.kind}`, d: SHAPES[mark.kind] }, svg("title")),
      (path, mark) => {
        const x = LEFT + xAgo(mark.ago, HISTORY_S, this.inner);
        setAttribute(path, "transform", `translate(${x.toFixed(1)} ${mark.y})`);
        say(path.firstElementChild, mark.text);
      },
    );
  }

  #band(group, band) {
    const [rect, text] = group.children;
    const x = LEFT + xAgo(band.from, HISTORY_S, this.inner);
    const width = Math.max(0, LEFT + xAgo(band.to, HISTORY_S, this.inner) - x);
    put(rect, { x, y: band.y, width, height: LANE - 4, class: band.place % 2 ? "band odd" : "band" });
    put(text, { x: x + width / 2, y: band.y + 15, "text-anchor": "middle" });
    say(text, band.epoch !== null && width > 62 ? `epoch ${band.epoch}` : width > 22 ? band.epoch ?? "" : "");
  }

  #summary() {
    const values = this.points.map(([, value]) => value);
    const last = values.slice(-10);
    const mean = last.reduce((sum, value) => sum + value, 0) / Math.max(1, last.length);
    return (
      `Tokens a second over five minutes: ${compact(mean)} lately, ${compact(Math.max(0, ...values))} at ` +
      `most. ${this.found.length} changes and losses. Arrow keys read values.`
    );
  }

  #point(event) {
    const box = this.drawing.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / this.inner;
    this.#choose(share >= 0 && share <= 1 ? Math.round((1 - share) * HISTORY_S) : null);
  }

  #step(event) {
    const step = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#choose(Math.min(HISTORY_S - 1, Math.max(0, (this.cursor ?? 0) + step)));
  }

  #choose(ago) {
    this.cursor = ago;
    if (this.state) this.show(this.state);
  }

  #cursorLine(height) {
    const line = this.drawing.querySelector(".cursor");
    line.style.display = this.cursor === null ? "none" : "";
    const x = LEFT + xAgo(this.cursor ?? 0, HISTORY_S, this.inner);
    put(line, { x1: x, x2: x, y1: TOP, y2: height });
  }

  #readout() {
    const ago = this.cursor;
    if (ago === null) return say(byId("readout"), "tokens a second");
    const point = this.points.find(([seconds]) => seconds === ago);
    const near = this.found.find((mark) => Math.abs(mark.ago - ago) < 3);
    const down = this.down.find((one) => ago <= one.from + 1 && ago >= one.to - 1);
    const said = near?.text ?? down?.text;
    const what = said ? ` · ${said}` : "";
    return say(byId("readout"), `${duration(ago)} ago: ${compact(point?.[1] ?? 0)} tok/s${what}`);
  }
}

function put(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(element, name, typeof value === "number" ? +value.toFixed(1) : value);
  }
}

