"""The table of the guide of guardrails is that of the committed results."""

import json

from tests.documents import ROOT

ARMS = {
    "none": "expected value, no limits",
    "once": "prices of the first day, never again",
    "estimates": "prices anew each day, limits on estimates",
    "guardrails": "**guardrails**",
}


def test_the_guide_shows_the_committed_results():
    record = json.loads((ROOT / "bench" / "results" / "guardrails.json").read_text(encoding="utf-8"))
    guide = (ROOT / "docs" / "guides" / "guardrails.md").read_text(encoding="utf-8")
    for name, title in ARMS.items():
        arm = record["arms"][name]
        days, worst = f"{arm['all'] * arm['days']:.0f} of {arm['days']}", f"{arm['worst_world'] * 20:.0f} of 20"
        days = f"**{days}**" if name == "guardrails" else days
        assert f"| {title} | {days} | {worst} | {100 * arm['value']:+.1f} % | {arm['alarms']} |" in guide
