// The routes of this gateway, made of its /openapi.json: what there is, what a body may hold, and
// what is answered. The usual pages for that load scripts from elsewhere.

import { byId, html, say, show } from "./dom.js";
import { Refused, openapi } from "./gateway.js";

const METHODS = ["get", "post", "delete"];

try {
  draw(await openapi());
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  const hint = error.status === 401 ? " Enter the key on the dashboard, and come back." : "";
  say(byId("alarm"), `The routes could not be had: ${error.message}.${hint}`);
  show(byId("alarm"), true);
}

function draw({ info, paths }) {
  say(byId("version"), info.version);
  const byTag = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const method of METHODS.filter((each) => each in methods)) {
      const [tag] = methods[method].tags ?? ["other"];
      byTag.set(tag, [...(byTag.get(tag) ?? []), route(path, method, methods[method])]);
    }
  }
  byId("routes").replaceChildren(
    ...[...byTag].map(([tag, routes]) =>
      html("section", { class: "card" }, html("h2", {}, tag), ...routes),
    ),
  );
}

function route(path, method, { description, summary, requestBody, responses }) {
  const title = html("code", {}, `${method.toUpperCase()} ${path}`);
  const said = html("span", { class: "soft" }, description ?? summary ?? "");
  const schema = requestBody?.content?.["application/json"]?.schema;
  const statuses = Object.entries(responses).map(
    ([status, { description: meant }]) => `${status} ${meant}`,
  );
  return html(
    "details",
    { class: "route" },
    html("summary", {}, title, " ", said),
    ...(schema === undefined ? [] : [fields(schema)]),
    html("p", { class: "soft" }, `Answers: ${statuses.join("; ")}`),
  );
}

function fields({ properties = {}, required = [] }) {
  const rows = Object.entries(properties).map(([name, { description }]) => {
    const head = html("th", { scope: "row" }, html("code", {}, name));
    const need = required.includes(name) ? "required. " : "";
    return html("tr", {}, head, html("td", {}, `${need}${description ?? ""}`));
  });
  return html("table", { class: "fields" }, html("tbody", {}, ...rows));
}
