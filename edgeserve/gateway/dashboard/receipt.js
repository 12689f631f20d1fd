// The receipt of one answer, token by token: a bar for each, stacked by kind. Pointer, finger and
// arrow keys choose a bar, and its numbers are told in words.
//
// While the answer streams there is no receipt yet; the bars are then what this page saw between
// two tokens, and look pale. Those of an answer that was stopped stay so.

import { html, say, svg } from "./dom.js";
import { count, digits, milliseconds } from "./format.js";
import { KINDS, inWords, ofKind, sum } from "./kinds.js";

const HEIGHT = 120;
const PITCH_MAX = 14;
const PITCH_MIN = 4; // a finger's width of them is a dozen tokens; the keys are exact
const OUTLIER = 3; // what is this many times as long as nine tenths of the tokens is cut off

export class Receipt {
  // `onChoose` is told the number of the chosen token, or null.
  constructor(frame, words, onChoose) {
    this.frame = frame;
    this.words = words;
    this.onChoose = onChoose;
    this.tokens = [];
    this.bars = [];
    this.chosen = null;
    frame.addEventListener("pointermove", (event) => this.point(event));
    frame.addEventListener("pointerdown", (event) => this.point(event));
    frame.addEventListener("keydown", (event) => this.key(event));
  }

  // `tokens`: of the receipt's `per_token`, or {total_ms} of what the page saw.
  draw(tokens) {
    this.choose(null);
    this.tokens = tokens;
    const room = this.frame.clientWidth;
    this.pitch = Math.max(PITCH_MIN, Math.min(PITCH_MAX, room / Math.max(1, tokens.length)));
    const scale = scaleOf(tokens.map((token) => token.total_ms));
    const width = Math.max(this.pitch * tokens.length, 1);
    this.bars = tokens.map((token, i) => this.bar(token, i, scale));
    const label = `${count(tokens.length)} tokens; the tallest bar is ${milliseconds(scale)}`;
    const attributes = { width, height: HEIGHT, role: "img", "aria-label": label };
    const drawn = svg("svg", attributes, ...this.bars);
    this.frame.replaceChildren(html("p", { class: "scale" }, milliseconds(scale)), drawn);
    this.frame.scrollLeft = this.frame.scrollWidth;
  }

  bar(token, i, scale) {
    const gap = this.pitch > 6 ? 2 : 1;
    const place = { x: i * this.pitch, width: this.pitch - gap };
    const whole = Math.min(HEIGHT, (HEIGHT * token.total_ms) / scale);
    if (token.compute_ms === undefined) {
      const seen = svg("rect", { class: "seen", ...place, y: HEIGHT - whole, height: whole });
      return svg("g", { class: "token" }, seen);
    }
    const isCut = token.total_ms > scale * 1.001;
    let y = HEIGHT;
    const parts = KINDS.map((kind) => {
      const height = (whole * ofKind(token, kind)) / Math.max(token.total_ms, 1e-9);
      y -= height;
      return svg("rect", { class: kind, ...place, y, height });
    });
    const cut = isCut ? [svg("path", { class: "cut", d: zigzag(place.x, place.width) })] : [];
    return svg("g", { class: "token" }, ...parts, ...cut);
  }

  point(event) {
    const drawn = this.frame.querySelector("svg");
    if (drawn !== null) {
      const x = event.clientX - drawn.getBoundingClientRect().left;
      this.choose(Math.max(0, Math.min(this.tokens.length - 1, Math.floor(x / this.pitch))));
    }
  }

  key(event) {
    const last = this.tokens.length - 1;
    const from = this.chosen ?? -1;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to !== undefined && last >= 0) {
      event.preventDefault();
      this.choose(Math.max(0, Math.min(last, to)));
    }
  }

  choose(i) {
    this.bars[this.chosen]?.classList.remove("chosen");
    this.bars[i]?.classList.add("chosen");
    this.chosen = this.bars[i] === undefined ? null : i;
    this.frame.classList.toggle("choosing", this.chosen !== null);
    say(this.words, this.chosen === null ? "" : this.told(i));
    this.onChoose(this.chosen);
  }

  told(i) {
    const token = this.tokens[i];
    const total = `token ${count(i + 1)}: ${milliseconds(token.total_ms)}`;
    return token.compute_ms === undefined
      ? `${total} after the one before, as this page saw it`
      : `${total} = ${inWords(token)}`;
  }
}

// The first token takes the whole prompt with it, and a hiccup may take as long. Where those few
// would flatten all others, they are cut off: their numbers are told all the same.
function scaleOf(totals) {
  const sorted = [...totals].sort((a, b) => a - b);
  const usual = sorted[Math.floor(0.9 * (sorted.length - 1))] ?? 0;
  const most = Math.max(...totals, 1e-3);
  return usual > 0 && most > OUTLIER * usual ? 2 * usual : most;
}

const zigzag = (x, width) => `M${x - 1} 12l${width / 3} -5l${width / 3} 5l${width / 3 + 2} -5`;

// What the stages do not account for: waiting for other frames, scheduling, text, copies.
function outsideOfStages({ prefill, decode, stages }) {
  const inStages = stages.reduce((total, stage) => total + sum(stage), 0);
  return Math.max(0, prefill.total_ms + decode.total_ms - inStages);
}

// What the bars add up to, as a few figures.
export function totals(timing) {
  const { prefill, decode } = timing;
  const rate = decode.total_ms > 0 ? (1000 * decode.tokens) / decode.total_ms : 0;
  const cached = prefill.cached_tokens > 0 ? `, ${count(prefill.cached_tokens)} kept` : "";
  return [
    ["total", milliseconds(timing.total_ms)],
    ["queue", milliseconds(timing.queue_ms)],
    [`prefill, ${count(prefill.tokens)} tokens${cached}`, milliseconds(prefill.total_ms)],
    [`decode, ${count(decode.tokens)} tokens`, milliseconds(decode.total_ms)],
    ["decode rate", `${digits(rate)} tokens/s`],
    ["in the gateway, and in codecs", milliseconds(outsideOfStages(timing))],
  ];
}
