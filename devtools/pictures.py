"""The pictures of the guides: `python -m devtools.pictures` writes docs/assets/NAME.svg, by the docs' own figures
and the results of the examples.

They take the page's colors where site_hooks.py puts them into it; as files they follow the reader's scheme.
"""

import json
import re
from pathlib import Path

from pygrade._util.html_table import escape
from pygrade.metrics.picture import draw_lifts
from pygrade.metrics.texts import Estimate

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs/assets"
STYLE = "<style>svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ddd}}</style>"
FLOWS = Path(__file__).with_suffix(".txt")


def draw_flow(rows: str) -> str:
    """Rows of steps with arrows between them."""
    parts, y, widest = [], 2, 0
    for row in rows.split("\n"):
        x = 1
        for number, step in enumerate(row.split(" > ")):
            lines = [escape(line) for line in step.split("|")]
            width = 24 + 7 * max(map(len, step.split("|")))
            if number:
                parts.append(f'<path d="M{x} {y + 22}h20m-6 -5l6 5l-6 5" fill="none" stroke="currentColor"/>')
                x += 24
            box = f'<rect x="{x}" y="{y}" width="{width}" height="44" rx="6" fill="currentColor" fill-opacity=".06"'
            parts.append(f'{box} stroke="currentColor" stroke-opacity=".5"/>')
            first = y + (27 if len(lines) == 1 else 19)
            middle = f'x="{x + width / 2:g}" text-anchor="middle"'
            parts.append(f'<text {middle} y="{first}" font-weight="bold">{lines[0]}</text>')
            parts += [f'<text {middle} y="{first + 16}" font-size="12">{line}</text>' for line in lines[1:]]
            x += width + 4
        widest, y = max(widest, x), y + 56
    style = f'width="{widest}" style="max-width:100%;font:13px sans-serif;fill:currentColor"'
    return f'<svg viewBox="0 0 {widest} {y}" {style} role="img">{"".join(parts)}</svg>'


def draw_bars(rows: list[tuple[str, float, str]]) -> str:
    """A bar for each row, as long as its number, with its text behind it."""
    largest, parts = max(number for _, number, _ in rows), []
    for place, (name, number, text) in enumerate(rows):
        y, width = 24 * place, 1 + 300 * number / largest
        parts.append(f'<text y="{y + 16}">{escape(name)}</text>')
        parts.append(
            f'<rect x="290" y="{y + 4}" width="{width:.1f}" height="16" fill="currentColor" fill-opacity=".45"/>'
        )
        parts.append(f'<text x="{297 + width:.0f}" y="{y + 16}">{escape(text)}</text>')
    style = 'width="680" style="max-width:100%;font:13px sans-serif;fill:currentColor"'
    return f'<svg viewBox="0 0 680 {24 * len(rows) + 4}" {style} role="img">{"".join(parts)}</svg>'


def pictures() -> dict[str, str]:
    """Every picture by its name."""

    def text(page: str) -> str:
        return (ROOT / "docs" / page).read_text(encoding="utf-8")

    def lift(value: str, half: str) -> Estimate:
        middle, width = float(value) / 100, float(half) / 100
        return {"value": middle, "low": middle - width, "high": middle + width}

    def row(pattern: str, page: str, name: str) -> list[tuple[str, Estimate]]:
        return [(name.format(*found[:-2]), lift(*found[-2:])) for found in re.findall(pattern, text(page), re.M)]

    flows = (part.partition("]\n") for part in FLOWS.read_text(encoding="utf-8").split("\n[")[1:])
    served = r"^\| (default|hyped) \| ([\d,]+) \|.*\| \*\*(\S+) ± (\S+?)\*\*.*\|$"
    moved = r"^\| (\w+(?:, complements)?) \| (20,000) \| [^|]+ \| [^|]+ \| (\S+) ± (\S+) % \|"
    traded = r"^  (click|order) (× 4|/ 4) .* (\S+) ± (\S+) %$"
    verdict = re.search(
        r"^Test the new ranking: it earns (\S+) % \((\S+) to (\S+)\) over your pages, (\S+) % \((\S+) to (\S+)\)",
        text("guides/train.md"),
        re.M,
    )
    assert verdict
    ends = [float(number) / 100 for number in verdict.groups()]
    bounds = [dict(zip(("value", "low", "high"), part, strict=True)) for part in (ends[:3], ends[3:])]
    days = re.findall(r"^\| \**([^|*]+?)\** \| \**(\d+) of 100", text("guides/guardrails.md"), re.M)
    steps = re.findall(r"^\| (\w+) \| (.+?) \| (\d+) µs \|$", text("guides/operate.md"), re.M)
    exact = re.findall(r"^ +(\S+) ± (\S+) %  (\S.*)$", text("guides/x-value-model.md"), re.M)
    staged = r"^  (stage \d|library)  (\S+) ± (\S+) %$"
    intents = json.loads((ROOT / "bench/results/hybrid_search.json").read_text(encoding="utf-8"))["intents"]["weights"]
    weights = [
        (f"{intent}: {name}", weight, f"{weight:.0%}")
        for intent, found in intents.items()
        for name, weight in zip(("lexical", "vector", "fresh"), found, strict=True)
    ]
    drawn = {name: draw_flow(rows.strip()) for name, _, rows in flows} | {
        "correction": draw_lifts(row(served, "evidence.md", "{}, {} requests"), "value over expected value"),
        "pages": draw_lifts(row(moved, "guides/pages.md", "{} effects"), "value over sorted pages, 20,000 requests"),
        "trade-offs": draw_lifts(row(traded, "guides/trade-offs.md", "{} {}"), "value over production"),
        "train": draw_lifts([*zip(("over your pages", "over expected value"), bounds, strict=True)], "the new ranking"),
        "guardrails": draw_bars([(name, float(count), f"{count} of 100 days") for name, count in days]),
        "grade-in-one-file": draw_lifts(
            row(staged, "guides/grade-in-one-file.md", "{}"), "value over hand-tuned weights"
        ),
        "x-value-model": draw_lifts([(name, lift(*found)) for *found, name in exact], "exact value over X's formula"),
        "hybrid-search": draw_bars(weights),
        "operate": draw_bars([(f"{step}", float(time), f"{time} µs") for step, _, time in steps]),
    }
    return {
        name: svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" class="picture" ', 1)
        for name, svg in drawn.items()
    }


def in_file(svg: str) -> str:
    """A picture as a file of its own, which follows the reader's color scheme."""
    return svg.replace(">", f">{STYLE}", 1) + "\n"


if __name__ == "__main__":
    for name, svg in pictures().items():
        (ASSETS / f"{name}.svg").write_text(in_file(svg), encoding="utf-8")
