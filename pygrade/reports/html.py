"""The HTML of the report: one file that needs no other."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
_CSS_PIXEL = 0.61  # of a picture's pixel: one scale for all of them, the widest fill the column


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph that says what the reader sees, and a picture (PNG bytes) or a table (HTML)."""

    title: str
    text: str
    name: str = ""  # of the picture's file, without suffix
    picture: bytes = b""
    table: str = ""


def page_table(page: Json) -> str:
    """HTML of one ranked page: weights on top, contributions per item below; shades show size and sign."""
    mixed = page.get("trust", 1.0) < 1.0
    parts = [item["contributions"] + ([item["baseline"]] if mixed else []) for item in page["items"]]
    reach = max((abs(v) for part in parts for v in part), default=1.0) or 1.0
    names = page["tasks"] + ([page["baseline"]] if mixed else [])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    weights = "".join(
        f'<td><div class=bar><i style="width:{100 * w:.0f}%"></i></div>{100 * w:.1f} %</td>' for w in page["weights"]
    )
    weights += "<td></td>" if mixed else ""
    rows = []
    for slot, (item, part) in enumerate(zip(page["items"], parts, strict=True), 1):
        cells = "".join(f'<td style="background:{_shade(value / reach)}">{value:+.3f}</td>' for value in part)
        rows.append(
            f"<tr><th>{slot}</th><td>{html.escape(str(item['item_id']))}</td><td>{item['score']:+.3f}</td>{cells}</tr>"
        )
    return (
        f"<table><thead><tr><th>slot</th><th>item</th><th>score</th>{head}</tr></thead>"
        f"<tbody><tr class=own><th></th><td>weights</td><td></td>{weights}</tr>{''.join(rows)}</tbody></table>"
    )


def _shade(share: float) -> str:
    """Blue for a contribution that lifts the item, orange for one that sinks it; share from -1 to 1."""
    if not math.isfinite(share):
        return "none"
    return f"rgba({'126,170,219' if share >= 0 else '232,160,107'},{min(abs(share), 1.0) * 0.75:.2f})"


def document(title: str, lead: str, sections: Sequence[Section], summary: Json) -> str:
    links = "".join(f'<a href="#s{i}">{html.escape(s.title)}</a>' for i, s in enumerate(sections))
    body = []
    for i, section in enumerate(sections):
        figure = ""
        if section.picture:
            data = base64.b64encode(section.picture).decode()
            width = round(int.from_bytes(section.picture[16:20], "big") * _CSS_PIXEL)  # of the IHDR chunk
            figure = f'<img width="{width}" alt="{html.escape(section.title)}" src="data:image/png;base64,{data}">'
        inner = figure or f"<div class=scroll>{section.table}</div>"
        body.append(f'<section id="s{i}"><h2>{html.escape(section.title)}</h2><p>{section.text}</p>{inner}</section>')
    facts = _facts(summary)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_CSS}</style></head><body><main>'
        f"<h1>{html.escape(title)}</h1>{lead}<nav>{links}</nav>{''.join(body)}{facts}</main></body></html>\n"
    )


def _facts(summary: Json) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(_fact(value))}</td></tr>"
        for name, value in summary.items()
        if isinstance(value, str | int | float)
    )
    return f"<section><h2>The run</h2><table class=facts><tbody>{rows}</tbody></table></section>" if rows else ""


def _fact(value: str | int | float) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


_CSS = """
:root{color-scheme:light}
body{margin:0;background:#f5f7f9;color:#1f2933;font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1060px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:27px;margin:0 0 6px}h2{font-size:18px;margin:0 0 6px}
p{margin:0 0 14px;color:#4a5663;max-width:78ch}.lead{font-size:16px}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;margin:18px 0}nav a{color:#2b6cb0;text-decoration:none;font-size:14px}
section{background:#fff;border:1px solid #e3e8ee;border-radius:10px;padding:20px 24px;margin:16px 0}
img{max-width:100%;height:auto;display:block}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px}
.card{background:#fff;border:1px solid #e3e8ee;border-radius:10px;padding:12px 16px}
.name,.range{color:#667380;font-size:13px}.number{font-size:25px;font-weight:650;color:#2b6cb0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid #e9edf1;white-space:nowrap}
thead th{color:#667380;font-weight:600}tbody th{text-align:left;font-weight:600}small{color:#667380}
tr.own th,tr.own td{background:#edf4fb}
.facts{width:auto}.facts td{text-align:left}
.bar{height:5px;background:#dfe6ee;border-radius:3px;margin-bottom:3px}
.bar i{display:block;height:5px;border-radius:3px;background:#2b6cb0}
"""
