"""Lifts with their intervals as one small SVG, which takes the colors of the notebook that shows it."""

from collections.abc import Sequence

from pygrade._util.axis import Axis
from pygrade._util.html_table import escape
from pygrade.metrics.texts import Estimate, bounds_text, known_numbers

COLORS = {"better": "#1a7f37", "worse": "#c0362c", "undecided": "#7a828c"}
_WIDTH, _LEFT, _RIGHT, _ROW, _LONGEST = 680, 200, 190, 24, 30


def kind_of(lift: Estimate) -> str:
    """One of `COLORS`: better or worse if its interval leaves 0 out."""
    _, low, high = known_numbers(lift)
    return "better" if low is not None and low > 0 else "worse" if high is not None and high < 0 else "undecided"


def draw_lifts(rows: Sequence[tuple[str, Estimate]], title: str) -> str:
    """An <svg> with a row for each lift that is known: its name, dot and 95 % interval, and figures; "" without any.

    >>> "+1.2 % (0.9 to 1.5)" in draw_lifts([("new", {"value": 0.012, "low": 0.009, "high": 0.015})], "lift")
    True
    """
    known = [(name, lift, number) for name, lift in rows if (number := known_numbers(lift))[0] is not None]
    if not known:
        return ""
    ends = [100 * number for *_, numbers in known for number in numbers if number is not None]
    axis, bottom = Axis.of([0.0, *ends], _LEFT, _WIDTH - _RIGHT), _ROW * (len(known) + 1)
    parts = [f'<text y="14" font-weight="bold">{escape(title)}</text>']
    for tick in axis.ticks():
        x, width = axis.at(tick), 1.5 if tick == 0 else 0.4
        parts.append(f'<path d="M{x} {_ROW}V{bottom}" stroke="currentColor" stroke-width="{width}"/>')
        label = f"{tick:+.3g} %" if tick else "0"
        parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" font-size="11">{label}</text>')
    for row, (name, lift, (value, low, high)) in enumerate(known, 1):
        y, color = _ROW * (row + 0.5), COLORS[kind_of(lift)]
        short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        parts.append(f'<text y="{y + 4}">{escape(short)}<title>{escape(name)}</title></text>')
        if low is not None and high is not None:
            band = f'd="M{axis.at(100 * low)} {y}H{axis.at(100 * high)}" stroke="{color}"'
            parts.append(f'<path {band} stroke-width="6" stroke-opacity=".45"/>')
        parts.append(f'<circle cx="{axis.at(100 * (value or 0.0))}" cy="{y}" r="4.5" fill="{color}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">{bounds_text(lift, None)}</text>')
    style = f'width="{_WIDTH}" style="max-width:100%;font:13px sans-serif;fill:currentColor"'
    head = f'<svg viewBox="0 0 {_WIDTH} {bottom + 20}" {style} role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"
