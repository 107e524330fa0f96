"""The API as one HTML page that asks no other host for anything."""

import html
import json
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def docs_page(openapi: Json) -> str:
    """The page of /docs."""
    components = openapi.get("components", {}).get("schemas", {})
    body = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            body.append(_operation(path, method, operation, components))
    head = openapi["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(head['title'])} API</title><style>{_CSS}</style></head><body><main>"
        f"<h1>{html.escape(head['title'])} {html.escape(head['version'])}</h1>"
        f"<p>{html.escape(head.get('description', ''))} The same as JSON: "
        f'<a href="openapi.json">openapi.json</a>.</p>{"".join(body)}</main></body></html>\n'
    )


def _operation(path: str, method: str, operation: Json, components: Json) -> str:
    parts = [
        f'<section><h2><span class="{method}">{method.upper()}</span> <code>{html.escape(path)}</code></h2>'
        f"<p>{html.escape(operation.get('description', ''))}</p>"
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for entry in content.values():
        parts += ["<h3>Request</h3>", _schema(entry["schema"], components)]
    for status, response in operation.get("responses", {}).items():
        parts.append(f"<h3>{html.escape(status)} {html.escape(response.get('description', ''))}</h3>")
        parts += [_schema(entry.get("schema", {}), components) for entry in response.get("content", {}).values()]
    return "".join(parts) + "</section>"


def _schema(schema: Json, components: Json) -> str:
    """A table of the properties of an object."""
    own = _resolved(schema, components)
    rows = []
    for name, entry in own.get("properties", {}).items():
        needed = "required" if name in own.get("required", ()) else ""
        default = json.dumps(entry["default"]) if entry.get("default") is not None else ""
        rows.append(
            f"<tr><th><code>{html.escape(name)}</code></th><td>{html.escape(_kind(entry, components))}</td>"
            f"<td>{needed}{html.escape(default)}</td><td>{html.escape(entry.get('description', ''))}</td></tr>"
        )
    head = "<tr><th>name</th><th>kind</th><th>default</th><th>meaning</th></tr>"
    table = f"<div class=scroll><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    inner = [
        f"<h4>Each of {html.escape(name)}</h4>" + _schema(entry["items"], components)
        for name, entry in own.get("properties", {}).items()
        if "$ref" in entry.get("items", {})
    ]
    return (
        (f"<p>{html.escape(own['description'])}</p>" if "description" in own else "")
        + (table if rows else "")
        + "".join(inner)
    )


def _resolved(schema: Json, components: Json) -> Json:
    reference = schema.get("$ref")
    resolved: Json = components[reference.rpartition("/")[2]] if reference else schema
    return resolved


def _kind(entry: Json, components: Json) -> str:
    if "anyOf" in entry:
        return " or ".join(_kind(one, components) for one in entry["anyOf"])
    if "$ref" in entry:
        return str(entry["$ref"]).rpartition("/")[2]
    if entry.get("type") == "array":
        return f"list of {_kind(entry.get('items', {}), components)}"
    if entry.get("type") == "object" and isinstance(entry.get("additionalProperties"), dict):
        return f"object of {_kind(entry['additionalProperties'], components)}"
    return str(entry.get("type", "any"))


_CSS = """
:root{color-scheme:light dark;--ink:#1f2933;--soft:#5b6773;--back:#f5f7f9;--card:#fff;--line:#e3e8ee;--blue:#2b6cb0}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#a3afba;--back:#14191e;--card:#1c2329;--line:#303a43;
--blue:#7fb2e5}}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 16px 60px}h1{font-size:26px;margin:0 0 6px}
h2{font-size:18px;margin:0 0 6px}h3{font-size:14px;margin:18px 0 6px}h4{font-size:13.5px;margin:14px 0 6px}
p{margin:0 0 10px;color:var(--soft)}a{color:var(--blue)}code{font:13.5px ui-monospace,Menlo,Consolas,monospace}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:14px 0}
section h2 span{font-size:13px;font-weight:700;color:var(--blue)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px;width:100%}
th,td{padding:5px 10px;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:600}tbody th{font-weight:600}
"""
