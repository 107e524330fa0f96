// /docs: the document of the interface, drawn by a script in the page. Nothing is loaded.
#include "service/openapi.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr const char* head = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>pygrade API</title><style>
:root{color-scheme:light dark;--ink:#1c2530;--soft:#5a6675;--back:#f6f7f9;--card:#fff;--line:#dfe4ea;--accent:#1f6feb;
--post:#0b7a4b;--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b5;--back:#12171c;--card:#1a2129;--line:#2d3741;
--accent:#79b0ff;--post:#5fd39b}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.layout{display:grid;grid-template-columns:232px minmax(0,1fr);max-width:1180px;margin:0 auto}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:26px 14px;border-right:1px solid var(--line)}
nav a{display:block;padding:3px 10px;border-radius:6px;color:var(--soft);text-decoration:none;font-size:13.5px;
white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
nav a:hover,nav a:focus-visible{background:var(--card);color:var(--ink)}
nav b{display:block;margin:16px 10px 4px;font-size:11.5px;letter-spacing:.06em;text-transform:uppercase;color:var(--soft)}
main{padding:26px 28px 90px}h1{font-size:25px;margin:0}h2{font-size:17px;margin:0 0 4px;scroll-margin-top:14px}
h3{font-size:12.5px;margin:18px 0 6px;color:var(--soft);font-weight:600}
p{margin:0 0 8px;color:var(--soft)}a{color:var(--accent)}code{font:13px var(--mono);overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:16px 0}
.verb{display:inline-block;min-width:46px;font:700 12px var(--mono);color:var(--accent)}.verb.post{color:var(--post)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;vertical-align:top;padding:5px 12px 5px 0;border-bottom:1px solid var(--line)}
tr:last-child>*{border-bottom:0}thead th{color:var(--soft);font-weight:600;font-size:12px}
tbody th{font-weight:500;white-space:nowrap}td:nth-child(2){color:var(--soft);white-space:nowrap}
h2 code{font-size:16px}h2 .verb{font-size:13px}.needed{color:var(--accent)}.codes td:first-child{width:56px;font:13px var(--mono)}
@media (max-width:760px){.layout{grid-template-columns:minmax(0,1fr)}nav{display:none}main{padding:20px 14px 60px}
tbody th,td:nth-child(2){white-space:normal}th,td{padding-right:8px}}
</style></head><body><div class="layout"><nav aria-label="Contents"></nav><main></main></div>
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
  if (schema.type === "object" && schema.additionalProperties?.type) return [...kind(schema.additionalProperties), " by name"];
  if (schema.type === "object" && schema.additionalProperties?.$ref) return [...kind(schema.additionalProperties), " by name"];
  const limits = [schema.minimum !== undefined ? `≥ ${schema.minimum}` : "", schema.maximum !== undefined ? `≤ ${schema.maximum}` : ""];
  return [[types, ...limits.filter(Boolean)].join(" ")];
}

const table = (names, rows, attributes = {}) =>
  element("div", { class: "scroll", tabindex: "0" }, element("table", attributes,
    element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows)));

function fields(schema) {
  const defaults = Object.values(schema.properties).some((entry) => entry.default !== undefined);
  const rows = Object.entries(schema.properties).map(([name, entry]) => {
    const needed = schema.required.includes(name);
    const meaning = [entry.description ?? ""];
    return element("tr", {}, element("th", { scope: "row" }, code(name), needed ? element("span", { class: "needed", title: "always there" }, " *") : ""),
      element("td", {}, ...kind(entry)),
      ...(defaults ? [element("td", {}, entry.default !== undefined ? code(JSON.stringify(entry.default)) : "")] : []),
      element("td", {}, ...meaning));
  });
  return table(["name", "type", ...(defaults ? ["default"] : []), "meaning"], rows);
}

const main = document.querySelector("main"), nav = document.querySelector("nav");
const entry = (id, label) => nav.append(element("a", { href: `#${id}`, title: label }, label));
const group = (label) => nav.append(element("b", {}, label));
const said = (text) => (text ? element("p", {}, text) : "");

main.append(element("h1", {}, `${api.info.title} ${api.info.version}`),
  element("p", {}, api.info.summary, " ", "The same as JSON: ", element("a", { href: "openapi.json" }, "openapi.json"), ". ",
    "Keys with ", element("span", { class: "needed" }, "*"), " are required in requests and always in answers."));
group("Endpoints");
for (const [path, methods] of Object.entries(api.paths))
  for (const [method, operation] of Object.entries(methods)) {
    entry(path, path);
    const body = Object.entries(operation.requestBody?.content ?? {});
    const rows = Object.entries(operation.responses).map(([status, given]) => {
      const answer = given.$ref ? api.components.responses[last(given.$ref)] : given;
      const of = Object.entries(answer.content ?? {}).flatMap(([type, content]) => [content.schema.$ref ? link(last(content.schema.$ref)) : code(type), " "]);
      const headers = Object.entries(answer.headers ?? {}).map(([name, header]) => ` ${name}: ${header.description}`);
      return element("tr", {}, element("td", {}, status), element("td", {}, ...of), element("td", {}, answer.description, ...headers));
    });
    main.append(element("section", {}, element("h2", { id: path }, element("span", { class: `verb ${method}` }, method.toUpperCase()), " ", code(path)),
      said([operation.summary, operation.description].filter(Boolean).join(". ")),
      ...body.flatMap(([type, content]) => [element("h3", {}, `Request, ${type}`), content.schema.$ref ? fields(schemas[last(content.schema.$ref)]) : said(content.schema.description)]),
      element("h3", {}, "Answers"), table(["status", "body", "meaning"], rows, { class: "codes" })));
  }
group("Schemas");
for (const [name, schema] of Object.entries(schemas)) {
  entry(name, name);
  main.append(element("section", {}, element("h2", { id: name }, name), said(schema.description), fields(schema)));
}
group("Metrics");
entry("metrics", "Series");
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
