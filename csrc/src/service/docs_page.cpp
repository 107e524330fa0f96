// /docs: the document of the interface, drawn by a script in the page. Nothing is loaded.
#include "service/openapi.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr const char* head = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>pygrade API</title><style>
:root{color-scheme:light dark}body{max-width:60em;margin:2em auto;padding:0 1em;font:15px/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}
a{color:LinkText}code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}nav a{margin-right:1em}
section{border-top:1px solid GrayText;margin-top:2em}.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-bottom:1px solid #8884;font-weight:400}
</style></head><body><main></main>
<script type="application/json" id="api">)";

constexpr const char* tail = R"js(</script>
<script>
"use strict";
const api = JSON.parse(document.getElementById("api").textContent);
const schemas = api.components.schemas;
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
};
const code = (text) => element("code", {}, text);
const last = (reference) => reference.split("/").pop();
const link = (name) => element("a", { href: `#${name}` }, code(name));

function kind(schema) {
  if (schema.$ref) return [link(last(schema.$ref))];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(", ")];
  const types = [schema.type].flat().join(" or ");
  if (schema.type === "array") return ["list of ", ...kind(schema.items)];
  const values = schema.type === "object" && schema.additionalProperties;
  if (values?.type || values?.$ref) return [...kind(values), " by name"];
  const limits = [schema.minimum !== undefined ? `≥ ${schema.minimum}` : "", schema.maximum !== undefined ? `≤ ${schema.maximum}` : ""];
  return [[types, ...limits.filter(Boolean)].join(" ")];
}

const table = (names, rows) =>
  element("div", { class: "scroll", tabindex: "0" }, element("table", {},
    element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows)));

function fields(schema) {
  const defaults = Object.values(schema.properties).some((entry) => entry.default !== undefined);
  const rows = Object.entries(schema.properties).map(([name, entry]) => {
    const needed = schema.required.includes(name);
    return element("tr", {}, element("th", { scope: "row" }, code(name), needed ? " *" : ""),
      element("td", {}, ...kind(entry)),
      ...(defaults ? [element("td", {}, entry.default !== undefined ? code(JSON.stringify(entry.default)) : "")] : []),
      element("td", {}, entry.description ?? ""));
  });
  return table(["name", "type", ...(defaults ? ["default"] : []), "meaning"], rows);
}

const main = document.querySelector("main");
const contents = (label, names) => element("nav", { "aria-label": label }, `${label}: `, ...names.map(link));
const said = (text) => (text ? element("p", {}, text) : "");

main.append(element("h1", {}, `${api.info.title} ${api.info.version}`),
  element("p", {}, api.info.summary, " ", "The same as JSON: ", element("a", { href: "openapi.json" }, "openapi.json"), ". ",
    "Keys with * are required in requests and always in answers."),
  contents("Endpoints", Object.keys(api.paths)), contents("Schemas", Object.keys(schemas)), link("metrics"));
for (const [path, methods] of Object.entries(api.paths))
  for (const [method, operation] of Object.entries(methods)) {
    const body = Object.entries(operation.requestBody?.content ?? {});
    const rows = Object.entries(operation.responses).map(([status, given]) => {
      const answer = given.$ref ? api.components.responses[last(given.$ref)] : given;
      const of = Object.entries(answer.content ?? {}).flatMap(([type, content]) => [content.schema.$ref ? link(last(content.schema.$ref)) : code(type), " "]);
      const headers = Object.entries(answer.headers ?? {}).map(([name, header]) => ` ${name}: ${header.description}`);
      return element("tr", {}, element("td", {}, status), element("td", {}, ...of), element("td", {}, answer.description, ...headers));
    });
    main.append(element("section", {}, element("h2", { id: path }, method.toUpperCase(), " ", code(path)),
      said([operation.summary, operation.description].filter(Boolean).join(". ")),
      ...body.flatMap(([type, content]) => [element("h3", {}, `Request, ${type}`), content.schema.$ref ? fields(schemas[last(content.schema.$ref)]) : said(content.schema.description)]),
      element("h3", {}, "Answers"), table(["status", "body", "meaning"], rows)));
  }
for (const [name, schema] of Object.entries(schemas))
  main.append(element("section", {}, element("h2", { id: name }, name), said(schema.description), fields(schema)));
const series = api.paths["/metrics"].get["x-metrics"].map(({ name, type, help, labels }) =>
  element("tr", {}, element("th", { scope: "row" }, code(name), labels ? code(`{${labels}}`) : ""), element("td", {}, type), element("td", {}, help)));
main.append(element("section", {}, element("h2", { id: "metrics" }, "Series of /metrics"), table(["name", "type", "meaning"], series)));
if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
</script></body></html>
)js";
}  // namespace

std::string docs_page() {
  std::string page = head;
  for (const char c : openapi_document())
    if (c == '<')
      page += "\\u003c";  // nothing in the document ends the element that holds it
    else
      page += c;
  return page + tail;
}
}  // namespace pygrade::inline v0_2::detail
