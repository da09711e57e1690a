// The live stream: opened, read, and opened again when it ends. It says how it stands and hands
// every message on; what messages mean it does not know.

import { headersFor } from "./keys.js";
import { eventsOf, within } from "./sse.js";

const QUIET_MS = 6000; // the service speaks twice a second
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 5000;
const OPEN_MS = 10000;

/** How long to wait before another try; `tries` failed in a row. */
export function retryAfterMs(tries) {
  return Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.max(0, tries - 1));
}

export class Connection {
  /**
   * @param position gives the query that says what is known already
   * @param onMessage takes each message
   * @param onChange is told {state: "connecting" | "live" | "lost" | "locked", reason, retryAt}
   */
  constructor(position, onMessage, onChange) {
    this.position = position;
    this.onMessage = onMessage;
    this.onChange = onChange;
    this.wake = () => {};
    this.abort = null;
    this.isWanted = false; // somebody asked for another try: what ends then is no loss
  }

  /** Read for as long as the page lives. */
  async run() {
    let tries = 0;
    for (;;) {
      const wasLive = await this.#readOnce(tries);
      if (wasLive === null) {
        tries = 0;
        await this.#waited(null); // until somebody gives a key
        continue;
      }
      tries = wasLive ? 1 : tries + 1;
      await this.#waited(retryAfterMs(tries));
    }
  }

  /** Try now: a person asked for it, or gave a key. */
  again() {
    this.isWanted = true;
    this.abort?.abort();
    this.wake();
  }

  /** Whether anything came; null where it needs a key. */
  async #readOnce(tries) {
    let wasLive = false;
    this.abort = new AbortController();
    if (tries === 0) this.onChange({ state: "connecting", reason: "" });
    try {
      const asked = fetch(`admin/live?${this.position()}`, {
        headers: { Accept: "text/event-stream", ...headersFor("admin") },
        cache: "no-store",
        signal: this.abort.signal,
      });
      const response = await within(asked, OPEN_MS);
      if (response.status === 401 || response.status === 403) {
        this.onChange({ state: "locked", reason: await reasonOf(response) });
        return null;
      }
      if (!response.ok) throw new Error(await reasonOf(response));
      for await (const event of eventsOf(response, QUIET_MS)) {
        if (event.name !== "state") continue;
        if (!wasLive) this.onChange({ state: "live", reason: "" });
        wasLive = true;
        this.onMessage(JSON.parse(event.data));
      }
      throw new Error("the service ended the connection");
    } catch (error) {
      this.abort.abort();
      if (this.isWanted) {
        this.onChange({ state: "connecting", reason: "" });
        return wasLive;
      }
      const retryMs = retryAfterMs(wasLive ? 1 : tries + 1);
      this.onChange({ state: "lost", reason: error.message, retryAt: performance.now() + retryMs });
      return wasLive;
    }
  }

  #waited(ms) {
    const isWanted = this.isWanted;
    this.isWanted = false;
    if (isWanted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = ms === null ? 0 : setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** What a refusal says, in its own words. */
export async function reasonOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the service answered ${response.status}`;
  }
}
