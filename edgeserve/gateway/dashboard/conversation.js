// Talks with the model: a chat where its tokenizer has a template for one, else a text that the
// model goes on with. Streams the answer, and shows its receipt below it, also of one that was
// stopped.

import { byId, html, say, show } from "./dom.js";
import { Refused, chat, complete, models, receiptOf } from "./gateway.js";
import { KINDS, legend, timesTable } from "./kinds.js";
import { Receipt, totals } from "./receipt.js";
import { Talk } from "./talk.js";

const KINDS_OF_A_STAGE = KINDS.filter((kind) => kind !== "other"); // that is no stage's
const REDRAW_MS = 100;
const TITLES = { chat: "Chat", completion: "Completion" };

export class Conversation {
  // `onUnauthorized` is told the server's sentence.
  constructor(onUnauthorized) {
    this.onUnauthorized = onUnauthorized;
    this.running = null;
    this.timer = null;
    this.mode = "completion";
    this.isKnown = false;
    this.messages = []; // of the chat, as the gateway wants them
    this.talk = new Talk(byId("talk"));
    this.receipt = new Receipt(byId("bars"), byId("bar-words"), (i) => this.talk.mark(i));
    byId("receipt-legend").replaceChildren(legend());
    this.listen();
  }

  listen() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    byId("stop").addEventListener("click", () => this.running?.abort());
    byId("clear").addEventListener("click", () => {
      this.clear();
      byId("prompt").focus({ preventScroll: true });
    });
    byId("prompt").addEventListener("keydown", (event) => {
      const isSend = event.key === "Enter" && !event.shiftKey && !event.isComposing;
      if (isSend) {
        event.preventDefault();
        byId("ask").requestSubmit();
      }
    });
    for (const mode of Object.keys(TITLES)) {
      byId(`mode-${mode}`).addEventListener("click", () => this.turnTo(mode));
    }
  }

  // What the model can do is asked once, when the gateway answers and the key is known.
  async learn() {
    if (this.isKnown) return;
    this.isKnown = true;
    try {
      const [model] = await models();
      const canChat = model.capabilities.includes("chat");
      show(byId("modes"), canChat);
      if (canChat && this.messages.length === 0 && this.running === null) this.turnTo("chat");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.isKnown = false;
    }
  }

  turnTo(mode) {
    if (this.running !== null || mode === this.mode) return;
    this.mode = mode;
    say(byId("talk-title"), TITLES[mode]);
    for (const each of Object.keys(TITLES)) {
      byId(`mode-${each}`).setAttribute("aria-pressed", String(each === mode));
    }
    show(byId("system-field"), mode === "chat");
    byId("prompt").value = mode === "chat" ? "" : "Once upon a time";
    this.clear();
  }

  clear() {
    if (this.running !== null) return;
    this.messages = [];
    this.talk.clear();
    for (const id of ["receipt", "notes", "problem"]) show(byId(id), false);
    say(byId("outcome"), "");
    this.buttons();
  }

  async ask() {
    if (this.running !== null || byId("prompt").value === "") return;
    const prompt = byId("prompt").value;
    this.begin(prompt);
    const stream = this.mode === "chat" ? chat : complete;
    try {
      await stream(this.request(prompt), this.running.signal, (event) => this.take(event));
      this.keep();
    } catch (error) {
      await this.failed(error, prompt);
    } finally {
      this.end();
    }
  }

  begin(prompt) {
    this.running = new AbortController();
    this.seen = [];
    this.last = performance.now();
    this.requestId = null;
    this.endedBy = undefined;
    if (this.mode === "chat") {
      this.messages.push({ role: "user", content: prompt });
      this.talk.ask(prompt);
      byId("prompt").value = "";
    } else {
      this.talk.clear();
    }
    this.talk.begin(this.mode === "chat" ? "" : prompt);
    say(byId("problem"), "");
    say(byId("outcome"), "waiting for the first token");
    for (const id of ["receipt", "receipt-sums", "notes", "problem"]) show(byId(id), false);
    this.buttons();
  }

  request(prompt) {
    const system = byId("system").value.trim();
    return {
      prompt,
      messages: [...(system === "" ? [] : [{ role: "system", content: system }]), ...this.messages],
      tokens: byId("max-tokens").valueAsNumber,
      temperature: byId("temperature").valueAsNumber,
    };
  }

  take({ requestId, text, ended, timing, notes }) {
    if (requestId !== undefined) {
      this.requestId = requestId;
      return;
    }
    if (text !== undefined) {
      const now = performance.now();
      this.talk.add(text);
      this.seen.push({ total_ms: now - this.last });
      this.last = now;
    }
    this.endedBy = ended ?? this.endedBy;
    if (timing !== undefined) {
      this.finished(timing, `Ended by: ${this.endedBy}.`, notes);
    } else {
      this.drawSoon();
    }
  }

  // However fast tokens come: all bars are drawn anew, and there may be thousands.
  drawSoon() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (this.running === null) return;
      say(byId("outcome"), `${this.seen.length} tokens so far`);
      show(byId("receipt"), true);
      this.receipt.draw(this.seen);
    }, REDRAW_MS);
  }

  finished(timing, how, notes) {
    clearTimeout(this.timer);
    this.timer = null;
    show(byId("receipt"), true);
    show(byId("receipt-sums"), true);
    this.receipt.draw(timing.per_token);
    const figures = totals(timing).map(([name, value]) =>
      html("div", {}, html("dt", {}, name), html("dd", {}, value)),
    );
    byId("totals").replaceChildren(...figures);
    byId("receipt-stages").replaceChildren(stagesTable(timing.stages));
    say(byId("outcome"), `${timing.verdict}. ${how}`);
    say(byId("notes"), (notes ?? []).join(", "));
    show(byId("notes"), byId("notes").textContent !== "");
  }

  async failed(error, prompt) {
    if (error.name === "AbortError") {
      this.keep();
      await this.stopped();
      return;
    }
    if (!(error instanceof Refused)) throw error;
    if (this.mode === "chat") {
      this.messages.pop();
      if (this.seen.length === 0) {
        this.talk.takeBack();
        byId("prompt").value = prompt; // to be changed and sent again
      }
    }
    say(byId("outcome"), "");
    say(byId("problem"), error.message);
    show(byId("problem"), true);
    if (error.status === 401) this.onUnauthorized(error.message);
  }

  // The gateway keeps the receipt of an answer whose reader left.
  async stopped() {
    const how = `Stopped after ${this.seen.length} tokens.`;
    say(byId("outcome"), how);
    if (this.requestId === null) return;
    try {
      const { timing } = await receiptOf(this.requestId);
      this.finished(timing, how, []);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(byId("outcome"), `${how} Its receipt could not be had: ${error.message}`);
    }
  }

  // What was said stays part of the chat.
  keep() {
    if (this.mode === "chat" && this.talk.said !== "") {
      this.messages.push({ role: "assistant", content: this.talk.said });
    } else if (this.mode === "chat") {
      this.messages.pop();
    }
  }

  end() {
    this.running = null;
    this.talk.end();
    this.buttons();
  }

  buttons() {
    const isRunning = this.running !== null;
    byId("send").disabled = isRunning;
    byId("stop").disabled = !isRunning;
    byId("clear").disabled = isRunning || this.talk.isEmpty;
    for (const mode of Object.keys(TITLES)) byId(`mode-${mode}`).disabled = isRunning;
  }
}

function stagesTable(stages) {
  const rows = stages.map((stage) => ({
    name: `stage ${stage.stage}`,
    note: stage.worker,
    times: stage,
  }));
  return timesTable("Times of this answer by stage, in milliseconds", rows, KINDS_OF_A_STAGE);
}
