// Makes elements. The only file that does, and the reason that nothing a worker or a model says can
// become markup: strings end up in text nodes and in attributes that are named here, never in HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children.map((each) => (each instanceof Node ? each : String(each))));
  return element;
}

// Only what differs is touched: a screen reader says again what is set again, and a selection
// would be lost.
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

export function show(element, isShown) {
  element.hidden = !isShown;
}

// Calls `draw` where what it is drawn of has changed since the last time.
export function onChange(draw) {
  let last;
  return (...of) => {
    const now = JSON.stringify(of);
    if (now !== last) {
      last = now;
      draw(...of);
    }
  };
}
