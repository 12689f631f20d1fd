// Tokens per second: a number and the line of the last two minutes.

import { svg } from "./dom.js";
import { digits } from "./format.js";

const RECENT_SECONDS = 5; // over which "now" is taken: steps of a large model take 0.1 s or more
const WIDTH = 240;
const HEIGHT = 44;

export function rateNow(tokensPerSecond) {
  const recent = tokensPerSecond.slice(-RECENT_SECONDS);
  return recent.reduce((total, each) => total + each, 0) / Math.max(1, recent.length);
}

export function sparkline(tokensPerSecond) {
  const most = Math.max(...tokensPerSecond, 1);
  const last = Math.max(1, tokensPerSecond.length - 1);
  const points = tokensPerSecond.map(
    (each, i) => `${((WIDTH * i) / last).toFixed(1)},${(HEIGHT * (1 - each / most)).toFixed(1)}`,
  );
  const now = digits(rateNow(tokensPerSecond));
  const label = `tokens per second in the last two minutes: now ${now}, at most ${digits(most)}`;
  return svg(
    "svg",
    {
      role: "img",
      "aria-label": label,
      class: "sparkline",
      viewBox: `0 -2 ${WIDTH} ${HEIGHT + 3}`,
      preserveAspectRatio: "none",
    },
    svg("polygon", { points: `0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}` }),
    svg("polyline", { points: points.join(" ") }),
  );
}
