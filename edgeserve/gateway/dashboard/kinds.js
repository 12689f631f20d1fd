// The four kinds of time, in the order and with the names in which they are drawn everywhere; the
// colour of each is a class of the style sheet. docs/timing.md defines them.

import { html, svg } from "./dom.js";
import { digits } from "./format.js";

export const KINDS = ["compute", "transfer", "waiting", "other"];

export const ofKind = (times, kind) => times[`${kind}_ms`] ?? 0;
export const sum = (times) => KINDS.reduce((total, kind) => total + ofKind(times, kind), 0);

export const inWords = (times) =>
  KINDS.map((kind) => `${kind} ${digits(ofKind(times, kind))}`).join(" + ");

const MEANT = {
  compute: "The device of a stage at work.",
  transfer: "What a round trip took beyond what the worker accounts for: the network, mostly.",
  waiting: "In a queue behind other requests, at a stage or in the gateway.",
  other: "The rest: packing, copies, scheduling, turning tokens into text.",
};

export function legend() {
  const items = KINDS.map((kind) => {
    const tip = html("span", { class: "tip", role: "tooltip" }, MEANT[kind]);
    const term = html("span", { class: "term", tabindex: 0 }, kind, tip);
    return html("li", { class: `kind ${kind}` }, term);
  });
  return html("ul", { class: "legend" }, ...items);
}

// A table of times by stage. Each stage has a row of numbers and a bar below it, all bars to one
// scale. `rows`: {name, note, times}; `kinds` are those that are known of a stage.
export function timesTable(caption, rows, kinds = KINDS) {
  const longest = Math.max(...rows.map((row) => sum(row.times)), 1e-9);
  const heads = ["stage", ...kinds, "sum"].map((name) => html("th", { scope: "col" }, name));
  const body = rows.flatMap((row) => [numbers(row, kinds), bar(row, kinds, longest)]);
  return html(
    "table",
    { class: "times" },
    html("caption", { class: "unseen" }, caption),
    html("thead", {}, html("tr", {}, ...heads)),
    html("tbody", {}, ...body),
  );
}

function numbers({ name, note, times }, kinds) {
  const cells = kinds.map((kind) => html("td", {}, digits(ofKind(times, kind))));
  const head = html("th", { scope: "row" }, name, html("span", { class: "note" }, note));
  return html("tr", {}, head, ...cells, html("td", { class: "sum" }, digits(sum(times))));
}

function bar({ times }, kinds, longest) {
  let x = 0;
  const parts = kinds.map((kind) => {
    const width = (100 * ofKind(times, kind)) / longest;
    const part = svg("rect", { class: kind, x, y: 0, width, height: 10 });
    x += width;
    return part;
  });
  const attributes = { viewBox: "0 0 100 10", preserveAspectRatio: "none" };
  const drawn = svg("svg", { class: "bar", ...attributes }, ...parts);
  const cell = html("td", { colspan: kinds.length + 2 }, drawn);
  return html("tr", { class: "bars", "aria-hidden": "true" }, cell); // the numbers above say it
}
