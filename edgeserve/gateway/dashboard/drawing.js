// The cluster as a drawing: the gateway, the stages in their order, and the link to each.
//
//     gateway ═══╤════════════╤════════════╤═══    Every frame returns to the gateway after each
//               ↓↑           ↓↑           ↓↑       stage, so links lead to it, and not from stage
//            stage 0      stage 1      stage 2     to stage. Where boxes would be too narrow, they
//                                                  stand below one another.
//
// Sizes are pixels of the page: text does not shrink with the drawing.

import { svg } from "./dom.js";
import { bytes, count, duration, fitting, milliseconds } from "./format.js";

const BOX_WIDTH_MIN = 256; // the line about memory needs it
const BOX_HEIGHT = 192;
const GATEWAY_HEIGHT = 40;
const LINK_LENGTH = 54;
const GAP = 16;
const TRUNK = 22; // room for the links on the left, in the narrow drawing
const LABEL_HEIGHT = 30;
const PADDING = 14;
const CHARACTER = 6.5; // pixels of the small text
const MONO_CHARACTER = 7.3;

export function drawing(cluster, width) {
  const stages = cluster.stages;
  const boxWidth = (width - GAP * (stages.length - 1)) / Math.max(1, stages.length);
  const isWide = boxWidth >= BOX_WIDTH_MIN;
  const parts = isWide ? sideBySide(cluster, boxWidth) : oneBelowAnother(cluster, width);
  const rows = isWide ? Math.min(1, stages.length) : stages.length;
  const height = GATEWAY_HEIGHT + rows * ((isWide ? LINK_LENGTH : LABEL_HEIGHT) + BOX_HEIGHT);
  const kind = cluster.requests.running > 0 ? "drawing flows" : "drawing";
  return svg(
    "svg",
    { role: "img", "aria-label": inWords(cluster), class: kind, width, height },
    gateway(cluster, width),
    ...parts,
  );
}

function sideBySide(cluster, boxWidth) {
  return cluster.stages.flatMap((stage, i) => {
    const x = i * (boxWidth + GAP);
    const link = linkDown(stage, x + boxWidth / 2, isLost(cluster, stage));
    return [link, box(cluster, stage, { x, y: GATEWAY_HEIGHT + LINK_LENGTH, width: boxWidth })];
  });
}

function oneBelowAnother(cluster, width) {
  return cluster.stages.flatMap((stage, i) => {
    const y = GATEWAY_HEIGHT + i * (LABEL_HEIGHT + BOX_HEIGHT) + LABEL_HEIGHT;
    const link = linkRight(stage, y, isLost(cluster, stage));
    return [link, box(cluster, stage, { x: TRUNK, y, width: width - TRUNK })];
  });
}

export const isLost = (cluster, stage) =>
  cluster.status.phase === "stage_lost" && cluster.status.stage === stage.stage;

function inWords(cluster) {
  const stages = cluster.stages.map((stage) => {
    const state = isLost(cluster, stage) ? "lost" : slowness(stage) || "there";
    return `stage ${stage.stage} on ${stage.worker}, ${layersOf(stage)}, ${state}`;
  });
  return `A gateway and ${cluster.stages.length} stages. ${stages.join("; ")}`;
}

const layersOf = (stage) => `layers [${stage.layers[0]}, ${stage.layers[1]})`;

const slowness = (stage) =>
  stage.straggling
    ? `${Math.round(stage.straggling.percent)} % slower, for ${duration(stage.straggling.since_s)}`
    : "";

// -- the parts

function gateway(cluster, width) {
  const { running, waiting } = cluster.requests;
  const at = { y: 25 };
  return svg(
    "g",
    { class: "gateway" },
    svg("rect", { x: 0.5, y: 0.5, width: width - 1, height: GATEWAY_HEIGHT - 1, rx: 8 }),
    svg("text", { x: PADDING, ...at, class: "name" }, "gateway"),
    svg(
      "text",
      { x: width - PADDING, ...at, "text-anchor": "end" },
      `${count(running)} running, ${count(waiting)} waiting`,
    ),
  );
}

function linkDown(stage, x, lost) {
  const [top, bottom] = [GATEWAY_HEIGHT + 3, GATEWAY_HEIGHT + LINK_LENGTH - 3];
  const middle = (top + bottom) / 2;
  const lines = lost
    ? { ways: [`M${x} ${top}V${middle - 8}`, `M${x} ${middle + 8}V${bottom}`],
        ends: [cross(x, middle)] }
    : { ways: [`M${x - 5} ${top}V${bottom}`, `M${x + 5} ${bottom}V${top}`],
        ends: [arrow(x - 5, bottom, 0, 1), arrow(x + 5, top, 0, -1)] };
  return link(stage, lost, lines, x + 16, middle + 4);
}

function linkRight(stage, top, lost) {
  const [x, y] = [8, top + 24];
  const start = stage.stage === 0 ? GATEWAY_HEIGHT + 1 : top - BOX_HEIGHT - LABEL_HEIGHT + 24;
  const lines = lost
    ? { ways: [`M${x} ${start}V${y}`], ends: [cross(x + 6, y)] }
    : { ways: [`M${x} ${start}V${y}H${TRUNK - 3}`], ends: [arrow(TRUNK - 3, y, 1, 0)] };
  return link(stage, lost, lines, TRUNK, top - 9);
}

function link(stage, lost, { ways, ends }, x, y) {
  const says = lost ? "no connection" : `${milliseconds(stage.transfer_ms)} transfer`;
  return svg(
    "g",
    { class: lost ? "link lost" : "link" },
    ...ways.map((d) => svg("path", { class: "way", d })),
    ...ends.map((d) => svg("path", { d })),
    svg("text", { x, y }, says),
  );
}

const cross = (x, y) => `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`;

// The head of an arrow that points to (x, y), along (dx, dy).
function arrow(x, y, dx, dy) {
  const [backX, backY] = [x - 5 * dx, y - 5 * dy];
  const [sideX, sideY] = [4 * dy, 4 * dx];
  return `M${backX - sideX} ${backY - sideY}L${x} ${y}L${backX + sideX} ${backY + sideY}`;
}

function box(cluster, stage, { x, y, width }) {
  const lost = isLost(cluster, stage);
  const kinds = ["stage", lost ? "lost" : "", stage.straggling ? "slow" : ""];
  const state = { x: width - PADDING, y: 25, class: "state", "text-anchor": "end" };
  const frame = { class: "frame", x: 0.5, y: 0.5, width: width - 1, height: BOX_HEIGHT - 1, rx: 8 };
  return svg(
    "g",
    { class: kinds.join(" ").trim(), transform: `translate(${x} ${y})` },
    svg("rect", frame),
    svg("text", state, lost ? "lost" : slowness(stage)),
    contents(cluster, stage, width - 2 * PADDING),
  );
}

function contents(cluster, stage, width) {
  const line = (y, text, kind = "soft") => {
    const perCharacter = kind === "mono" ? MONO_CHARACTER : CHARACTER;
    const shown = fitting(text, width, perCharacter);
    return svg("text", { y, class: kind }, shown, svg("title", {}, text));
  };
  return svg(
    "g",
    { transform: `translate(${PADDING} 0)` },
    svg("text", { y: 25, class: "name" }, `stage ${stage.stage}`),
    line(43, stage.worker, "mono"),
    line(60, deviceOf(stage)),
    layerStrip(stage, width),
    line(104, holds(stage), ""),
    memoryBar(stage, width),
    line(139, memoryOf(stage)),
    pagesBar(cluster.pages, width),
    line(176, pagesOf(cluster.pages)),
  );
}

const deviceOf = (stage) => stage.simulation ?? `${stage.device} · ${stage.device_name}`;

function holds(stage) {
  const [start, end] = stage.layers;
  const ends = [stage.embedding ? "embedding + " : "", stage.head ? " + head" : ""];
  return `${ends[0]}layers [${start}, ${end})${ends[1]}`;
}

// One tick for each layer; embedding and head are ticks of their own look.
function layerStrip(stage, width) {
  const [start, end] = stage.layers;
  const kinds = [
    ...(stage.embedding ? ["end"] : []),
    ...Array.from({ length: end - start }, () => "layer"),
    ...(stage.head ? ["end"] : []),
  ];
  const pitch = Math.min(16, Math.max(3, width / kinds.length));
  const ticks = kinds.map((kind, i) =>
    svg("rect", { class: kind, x: i * pitch, y: 72, width: pitch - 2, height: 12, rx: 1.5 }),
  );
  return svg("g", { class: "layers" }, ...ticks);
}

function memoryBar(stage, width) {
  const pages = stage.pages * stage.page_bytes;
  return shares(118, width, stage.memory_bytes, [["slice", stage.slice_bytes], ["kept", pages]]);
}

const memoryOf = (stage) =>
  `slice ${bytes(stage.slice_bytes)}, pages ${bytes(stage.pages * stage.page_bytes)} ` +
  `of ${bytes(stage.memory_bytes)}`;

const pagesBar = (pages, width) =>
  shares(155, width, pages.total, [["used", pages.in_use], ["kept", pages.kept]]);

function pagesOf({ total, in_use: inUse, kept }) {
  const also = kept > 0 ? `, ${count(kept)} kept` : "";
  return `${count(inUse)} of ${count(total)} pages in use${also}`;
}

function shares(y, width, whole, parts) {
  let x = 0;
  const drawn = parts.map(([kind, part]) => {
    const share = whole > 0 ? Math.min(width - x, (width * part) / whole) : 0;
    const rect = svg("rect", { class: kind, x, y, width: share, height: 6 });
    x += share;
    return rect;
  });
  const all = svg("rect", { class: "whole", y, width, height: 6 });
  return svg("g", { class: "shares" }, all, ...drawn);
}
