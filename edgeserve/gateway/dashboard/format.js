// Numbers for people: three digits where they help, and the unit beside them.

const COUNT = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

// For narrow places.
export const shortCount = (value) => (value < 100000 ? COUNT : COMPACT).format(value);
export const count = (value) => COUNT.format(value);
export const clockTime = (date) => CLOCK.format(date);

export function digits(value) {
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  if (value < 0.995) return value.toFixed(2);
  return value < 99.95 ? value.toFixed(1) : COUNT.format(Math.round(value));
}

export function percent(part, whole) {
  const value = whole > 0 ? (100 * part) / whole : 0;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

export const milliseconds = (value) =>
  value < 10000 ? `${digits(value)} ms` : `${digits(value / 1000)} s`;

// Decimal, as memory is sold and as `edgeserve plan` prints it.
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (value >= 1000 && i < units.length - 1) {
    value /= 1000;
    i += 1;
  }
  return `${i === 0 ? value : value.toPrecision(3)} ${units[i]}`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

// What fits into `width` pixels at about `perCharacter` each; names of machines can be long.
export function fitting(text, width, perCharacter) {
  const most = Math.max(3, Math.floor(width / perCharacter));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}
