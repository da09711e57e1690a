// A chat with the model that is served, by the same endpoint as every client's.

import { reasonOf } from "./connection.js";
import { byId, el, say } from "./dom.js";
import { compact, duration } from "./format.js";
import { headersFor } from "./keys.js";
import { eventsOf } from "./sse.js";

const QUIET_MS = 120000; // a request may wait for its turn
const MAX_TURNS = 40;

export class Chat {
  /** @param model gives the served model's name; onLocked is told where a key is wanted */
  constructor(model, onLocked) {
    this.model = model;
    this.onLocked = onLocked;
    this.messages = [];
    this.abort = null;
    this.talk = byId("talk");
    this.send = byId("send");
    this.send.addEventListener("click", () => (this.abort ? this.abort.abort() : this.#ask()));
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (!this.abort) this.#ask();
      }
    });
  }

  async #ask() {
    const question = byId("question").value.trim();
    if (!question) return;
    byId("question").value = "";
    const kept = this.messages.slice(-MAX_TURNS);
    const messages = [...kept, { role: "user", content: question }];
    this.#say("user", question);
    const answer = this.#say("assistant", "");
    answer.classList.add("open");
    this.abort = new AbortController();
    say(this.send, "Stop");
    try {
      const text = await this.#stream(messages, answer.lastElementChild);
      this.messages = [...messages, { role: "assistant", content: text }];
    } catch (error) {
      const stopped = error.name === "AbortError";
      answer.append(el("p", { className: "fault" }, stopped ? "stopped" : error.message));
    } finally {
      this.abort.abort();
      this.abort = null;
      say(this.send, "Send");
      answer.classList.remove("open");
      this.#low();
    }
  }

  #say(role, text) {
    const item = el("li", { className: role }, el("span", { className: "who" }, role === "user" ? "You" : "Model"), el("p", { className: "said" }, text));
    this.talk.append(item);
    this.#low();
    return item;
  }

  async #stream(messages, paragraph) {
    const began = performance.now();
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headersFor("serve") },
      body: JSON.stringify({
        model: this.model(), messages, stream: true,
        stream_options: { include_usage: true },
      }),
      signal: this.abort.signal,
    });
    if (!response.ok) {
      const reason = await reasonOf(response);
      if (response.status === 401 || response.status === 403) this.onLocked(reason);
      throw new Error(reason);
    }
    let text = "";
    let first = null;
    for await (const event of eventsOf(response, QUIET_MS)) {
      if (event.data === "[DONE]") break;
      const data = JSON.parse(event.data);
      if (event.name === "error" || data.error) throw new Error(data.error?.message ?? event.data);
      const piece = data.choices?.[0]?.delta?.content ?? "";
      if (piece) {
        first ??= performance.now();
        text += piece;
        paragraph.append(piece);
        this.#low();
      }
      if (data.usage) rate(data.usage.completion_tokens, began, first);
    }
    return text;
  }

  #low() {
    this.talk.scrollTop = this.talk.scrollHeight;
  }
}

function rate(tokens, began, first) {
  if (first === null) return;
  const seconds = Math.max(1e-3, (performance.now() - first) / 1000);
  const wait = duration((first - began) / 1000);
  say(byId("chat-rate"), `first token ${wait} · ${compact(Math.max(0, tokens - 1) / seconds)} tok/s`);
}
