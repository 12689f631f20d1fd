// Asks the model, streams its answer, and shows the answer's receipt.

import { byId, html, say, show } from "./dom.js";
import { Refused, generate } from "./gateway.js";
import { KINDS, legend, timesTable } from "./kinds.js";
import { Receipt, totals } from "./receipt.js";

const KINDS_OF_A_STAGE = KINDS.filter((kind) => kind !== "other"); // that is no stage's

const REDRAW_MS = 100;

export class Playground {
  // `onUnauthorized` is told the server's sentence.
  constructor(onUnauthorized) {
    this.onUnauthorized = onUnauthorized;
    this.running = null;
    this.timer = null;
    this.pieces = [];
    this.receipt = new Receipt(byId("bars"), byId("bar-words"), (i) => this.mark(i));
    byId("receipt-legend").replaceChildren(legend());
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    byId("stop").addEventListener("click", () => this.running?.abort());
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        byId("ask").requestSubmit();
      }
    });
  }

  async ask() {
    if (this.running !== null) return;
    this.begin();
    try {
      await generate(request(), this.running.signal, (event) => this.take(event));
    } catch (error) {
      this.failed(error);
    } finally {
      this.end();
    }
  }

  begin() {
    this.running = new AbortController();
    this.pieces = [];
    this.seen = [];
    this.last = performance.now();
    byId("answer").replaceChildren(html("span", { class: "asked" }, byId("prompt").value));
    byId("answer").classList.add("running");
    say(byId("problem"), "");
    say(byId("outcome"), "waiting for the first token");
    for (const id of ["receipt", "receipt-sums", "notes", "problem"]) show(byId(id), false);
    this.buttons();
  }

  take(event) {
    const now = performance.now();
    const piece = html("span", {}, event.token.text);
    this.pieces.push(piece);
    this.seen.push({ total_ms: now - this.last });
    this.last = now;
    byId("answer").append(piece);
    if (event.timing !== undefined) {
      this.finished(event);
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

  finished({ timing, weights, simulation, details }) {
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
    say(byId("outcome"), `${timing.verdict}. Ended by: ${details.finish_reason}.`);
    const notes = [weights === "random" ? "random weights" : "", simulation ?? ""];
    say(byId("notes"), notes.filter(Boolean).join(", "));
    show(byId("notes"), byId("notes").textContent !== "");
  }

  failed(error) {
    if (error.name === "AbortError") {
      const seen = `Stopped after ${this.seen.length} tokens.`;
      say(byId("outcome"), `${seen} A receipt comes with the last token, so there is none.`);
      return;
    }
    if (!(error instanceof Refused)) throw error;
    say(byId("outcome"), "");
    say(byId("problem"), error.message);
    show(byId("problem"), true);
    if (error.status === 401) this.onUnauthorized(error.message);
  }

  end() {
    this.running = null;
    byId("answer").classList.remove("running");
    this.buttons();
  }

  buttons() {
    byId("send").disabled = this.running !== null;
    byId("stop").disabled = this.running === null;
  }

  mark(i) {
    byId("answer").querySelector(".chosen")?.classList.remove("chosen");
    this.pieces[i]?.classList.add("chosen");
  }
}

function request() {
  const parameters = {
    max_new_tokens: byId("max-tokens").valueAsNumber,
    temperature: byId("temperature").valueAsNumber,
  };
  return { inputs: byId("prompt").value, parameters };
}

function stagesTable(stages) {
  const rows = stages.map((stage) => ({
    name: `stage ${stage.stage}`,
    note: stage.worker,
    times: stage,
  }));
  return timesTable("Times of this answer by stage, in milliseconds", rows, KINDS_OF_A_STAGE);
}
