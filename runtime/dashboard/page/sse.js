// Server-sent events out of a fetched body. EventSource can send no key, so that this is done here.
// Source: WHATWG HTML, 9.2.6 Interpreting an event stream.

/** Takes text in any pieces and gives back the events that are whole. Pure but for its rest. */
export class EventParser {
  constructor() {
    this.rest = "";
  }

  /** The events that ended in what has come by now, as {name, data, id}. */
  push(text) {
    const blocks = (this.rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.rest = blocks.pop();
    return blocks.map(parsed).filter((event) => event.data !== null);
  }
}

function parsed(block) {
  const event = { name: "message", data: null, id: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event.name = value;
    else if (field === "id") event.id = value;
    else if (field === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
  }
  return event;
}

/** The events of a response, one after another; each wait for the next has a deadline. */
export async function* eventsOf(response, quietMs) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), quietMs);
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A promise's value, or an error if it takes longer. */
export function within(promise, ms) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${Math.round(ms / 1000)} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
