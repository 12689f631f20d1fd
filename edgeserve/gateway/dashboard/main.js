// Polls /v1/cluster while somebody looks, and has it drawn.

import { Conversation } from "./conversation.js";
import { byId, onChange, say, show } from "./dom.js";
import { drawing, isLost } from "./drawing.js";
import {
  clockTime, count, digits, duration, milliseconds, percent, shortCount,
} from "./format.js";
import { Refused, cluster, forgetKey, hasKey, keepKey } from "./gateway.js";
import { legend, sum, timesTable } from "./kinds.js";
import { rateNow, sparkline } from "./rate.js";

const PERIOD_MS = 1000;
const PERIOD_MAX_MS = 15000; // of a gateway that does not answer, doubled from PERIOD_MS
const KEY_WANTED = "This gateway answers those who have its key.";
const HEADER_KEY = /^[\x20-\x7e]+$/; // what a header can carry

let period = PERIOD_MS;
let timer = null;
let latest = null;
let silentSince = null;
let wantsKey = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden || wantsKey) return;
  try {
    latest = await cluster();
    silentSince = null;
    period = PERIOD_MS;
    draw();
    conversation.learn();
  } catch (error) {
    failed(error);
  } finally {
    clearTimeout(timer); // of a poll that began meanwhile
    timer = setTimeout(poll, period);
  }
}

function failed(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) {
    askForKey(error.message);
    return;
  }
  silentSince ??= new Date();
  period = Math.min(PERIOD_MAX_MS, 2 * period);
  const what = error.status === 0 ? "is unreachable" : `answers ${error.status}`;
  const since = `gateway ${what} since ${clockTime(silentSince)}`;
  state("bad", since);
  alarm(`The ${since}: ${error.message}. What is shown is from before; asking again.`);
  byId("live").classList.add("stale");
}

// -- drawing

function draw() {
  const { status } = latest;
  const isReady = status.phase === "ready";
  state(isReady ? "good" : "bad", phase(status));
  alarm(isReady ? "" : sentence(status.reason));
  byId("live").classList.remove("stale");
  show(byId("live"), true);
  say(byId("model"), [latest.model, latest.dtype].filter(Boolean).join(" · "));
  say(byId("random"), latest.weights === "random" ? "random weights" : "");
  say(byId("simulation"), latest.simulation ?? "");
  drawFigures(latest);
  drawRate(latest.tokens_per_s);
  drawCluster(picture(latest), byId("drawing").clientWidth);
  drawTimes(latest.stages.map(withState), latest.better_layers);
}

function phase({ phase: name, stage }) {
  return name === "stage_lost" && stage !== null ? `stage ${stage} lost` : name.replace("_", " ");
}

function state(kind, text) {
  byId("state").className = kind;
  say(byId("state"), text);
}

function alarm(text) {
  say(byId("alarm"), text);
  show(byId("alarm"), text !== "");
}

function drawFigures({ requests, pages, generated_tokens: generated, ...rest }) {
  say(byId("running"), count(requests.running));
  say(byId("waiting"), count(requests.waiting));
  say(byId("pages"), percent(pages.in_use, pages.total));
  say(byId("pages-note"), `${count(pages.in_use)} of ${count(pages.total)}`);
  say(byId("generated"), shortCount(generated));
  say(byId("cached"), percent(rest.cached_tokens, rest.prompt_tokens));
  say(byId("rate"), digits(rateNow(rest.tokens_per_s)));
}

const drawRate = onChange((tokensPerSecond) => {
  byId("sparkline").replaceChildren(sparkline(tokensPerSecond));
  say(byId("rate-most"), `peak ${count(Math.max(...tokensPerSecond))} in 2 min`);
});

// What the drawing shows: without what changes each second for other reasons.
const picture = ({ stages, status, requests, pages }) => ({ stages, status, requests, pages });

const drawCluster = onChange((shown, width) => {
  if (width > 0) byId("drawing").replaceChildren(drawing(shown, width)); // 0: it is hidden
});

const withState = (stage) => ({ ...stage, isLost: isLost(latest, stage) });

const drawTimes = onChange((stages, betterLayers) => {
  const rows = stages.map((stage) => ({
    name: `stage ${stage.stage}`,
    note: stage.isLost ? `${stage.worker}, lost` : stage.worker,
    times: stage,
  }));
  const table = timesTable("Time of one step by stage, in milliseconds, medians", rows);
  byId("times").replaceChildren(table);
  say(byId("slowest"), slowest(stages));
  const slow = stages.filter((stage) => stage.straggling !== null);
  say(byId("straggling"), slow.map(straggling).concat(better(slow, betterLayers)).join(" "));
  show(byId("straggling"), slow.length > 0);
});

function slowest(stages) {
  const [first, second] = [...stages].sort((a, b) => b.compute_ms - a.compute_ms);
  if (first === undefined || first.compute_ms === 0) return "Nothing has been computed yet.";
  const lap = stages.reduce((total, stage) => total + sum(stage), 0);
  const of = `${milliseconds(first.compute_ms)} of a ${milliseconds(lap)} step`;
  if (second === undefined) return `The only stage computes ${of}.`;
  const more = Math.round(100 * (first.compute_ms / Math.max(second.compute_ms, 1e-9) - 1));
  const ahead = more >= 1 ? `${more} % more than the next` : "no more than the next";
  return `Stage ${first.stage} computes longest: ${of}, ${ahead}.`;
}

const straggling = ({ stage, worker, straggling: { percent: slower, since_s: since } }) =>
  `Stage ${stage} on ${worker} straggles: ${Math.round(slower)} % slower than its own median ` +
  `for ${duration(since)}.`;

const better = (slow, layers) =>
  slow.length > 0 && layers !== null
    ? [`A better split at these speeds: ${layers.join("/")} layers.`]
    : [];

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// -- the key

function askForKey(reason) {
  wantsKey = true;
  const wasSent = hasKey();
  forgetKey();
  state("bad", "key wanted");
  alarm("");
  show(byId("key-wanted"), true);
  show(byId("live"), false);
  show(byId("forget-key"), false);
  show(byId("for-programs"), false);
  say(byId("key-reason"), wasSent ? sentence(reason) : KEY_WANTED);
  byId("key").focus();
}

byId("key-wanted").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value;
  if (!HEADER_KEY.test(key)) {
    say(byId("key-reason"), "A key has letters, digits and marks of ASCII, and at least one.");
    return;
  }
  keepKey(key);
  byId("key").value = "";
  enter();
});

byId("forget-key").addEventListener("click", () => {
  forgetKey();
  askForKey("");
});

function enter() {
  wantsKey = false;
  show(byId("key-wanted"), false);
  show(byId("live"), true);
  show(byId("forget-key"), hasKey());
  show(byId("for-programs"), !hasKey()); // a link cannot carry the key
  state("", "connecting");
  poll();
}

// -- the start

// In a frame of its own: the observer would call a change of its own element's height a loop.
function fit() {
  if (latest !== null) drawCluster(picture(latest), byId("drawing").clientWidth);
}

byId("legend").replaceChildren(legend());
const conversation = new Conversation(askForKey);
document.addEventListener("visibilitychange", poll);
new ResizeObserver(() => requestAnimationFrame(fit)).observe(byId("drawing"));
enter();
