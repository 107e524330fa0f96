"""The Grafana dashboard of the service. `python -m devtools.dashboard` writes it beside the alert rules."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "csrc" / "packaging" / "monitoring" / "dashboard.json"
_WIDTH, _HEIGHT = 8, 7  # of a panel; a row has 24
_RATE = "[$__rate_interval]"


def _rate(metric: str, by: str, where: str = "") -> str:
    chosen = '{instance=~"$instance"' + (f",{where}" if where else "") + "}"
    return f"sum by ({by}) (rate({metric}{chosen}{_RATE}))"


def _quantile(share: str, metric: str, by: str, where: str = "") -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', f'{by}, le' if by else 'le', where)})"


def _gauge(metric: str, by: str, function: str = "sum") -> str:
    return f'{function} by ({by}) ({metric}{{instance=~"$instance"}})'


def _counters(names: str, by: str = "instance") -> list[tuple[str, str]]:
    """A rate for each counter pygrade_NAME_total."""
    return [(_rate(f"pygrade_{name}_total", by), name.replace("_", " ")) for name in names.split()]


_PAGE = 'endpoint="/v1/rank"'
_PANEL = tuple[str, str, list[tuple[str, str]]]  # title, unit, and queries with their legends
_STATUS = (_rate("pygrade_requests_total", "endpoint, status"), "{{endpoint}} {{status}}")
_SHED = (_rate("pygrade_shed_requests_total", "instance"), "refused, {{instance}}")
_TIMES = [(_quantile(q, "pygrade_request_seconds", "", _PAGE), f"p{q[2:]}") for q in ("0.5", "0.9", "0.99")]
_USE = [
    (_gauge(f"pygrade_{name}", "instance"), f"{name.replace('_', ' ')}, {{{{instance}}}}")
    for name in ("requests_in_progress", "requests_waiting", "connections")
]
_DEGRADED = (_rate("pygrade_degraded_pages_total", "reason", 'reason!="none"'), "{{reason}}")
_FALLBACK = (_rate("pygrade_fallback_pages_total", "weights", 'weights!="none"'), "{{weights}}")
_WEIGHT = (_gauge("pygrade_weight_mean", "scenario, task", "avg"), "{{task}} {{scenario}}")
_SAMPLES = (_gauge("pygrade_exploration_effective_samples", "arm, target"), "{{arm}} for {{target}}")
_RELOADS = [
    (f"sum(increase(pygrade_{name}_total{_RATE}))", name.replace("_", " ")) for name in ("reloads", "reload_failures")
]
ROWS: dict[str, list[_PANEL]] = {
    "Load": [
        ("Requests by status", "reqps", [_STATUS, _SHED]),
        ("Time of a page in the service", "s", _TIMES),
        ("In progress, waiting, connections", "short", _USE),
    ],
    "Pages": [
        ("Share that failed", "percentunit", [("pygrade:failed_pages:ratio_rate5m", "shed, degraded, slow, error")]),
        ("Degraded pages", "reqps", [_DEGRADED]),
        ("Pages by static weights", "reqps", [_FALLBACK]),
        ("Time of a step, p99", "s", [(_quantile("0.99", "pygrade_step_seconds", "step"), "{{step}}")]),
        ("Memory", "bytes", [(_gauge("process_resident_memory_bytes", "instance"), "{{instance}}")]),
        ("Store", "reqps", [(_rate("pygrade_store_errors_total", "instance"), "errors, {{instance}}")]),
    ],
    "Ranking": [
        ("Mean weight by task", "none", [_WEIGHT]),
        ("Drift of predictions (PSI)", "none", [(_gauge("pygrade_prediction_psi", "task", "max"), "{{task}}")]),
        ("Pages by arm", "reqps", [(_rate("pygrade_arm_pages_total", "arm"), "{{arm}}")]),
        ("Explored pages by arm", "reqps", [(_rate("pygrade_arm_explored_pages_total", "arm"), "{{arm}}")]),
        ("Effective samples of other policies", "short", [_SAMPLES]),
        ("Feedback by task", "reqps", [(_rate("pygrade_feedback_events_total", "task"), "{{task}}")]),
    ],
    "Versions and logs": [
        ("Replicas by artifact", "short", [("count by (artifact) (pygrade_artifact_info)", "{{artifact}}")]),
        ("Reloads", "short", _RELOADS),
        ("Log entries lost", "reqps", _counters("exposures_lost exposures_dropped feedback_errors")),
    ],
}
_HEAD = {
    "title": "pygrade",
    "uid": "pygrade",
    "schemaVersion": 39,
    "refresh": "30s",
    "time": {"from": "now-6h", "to": "now"},
}
_INSTANCE = {
    "name": "instance",
    "type": "query",
    "datasource": {"type": "prometheus", "uid": "${source}"},
    "query": "label_values(pygrade_info, instance)",
    "includeAll": True,
    "multi": True,
    "allValue": ".*",
    "current": {"text": "All", "value": "$__all"},
}


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, entries in ROWS.items():
        panels.append({"type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})
        y += 1
        for i, (title, unit, queries) in enumerate(entries):
            place = {"x": i * _WIDTH % 24, "y": y + i * _WIDTH // 24 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(
                {"type": "timeseries", "title": title, "gridPos": place, "datasource": _INSTANCE["datasource"]}
            )
            panels[-1]["fieldConfig"] = {"defaults": {"unit": unit, "min": 0}, "overrides": []}
            panels[-1]["targets"] = [
                {"refId": chr(ord("A") + n), "expr": expr, "legendFormat": legend}
                for n, (expr, legend) in enumerate(queries)
            ]
        y += -(-len(entries) * _WIDTH // 24) * _HEIGHT
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}
    numbered = [{"id": number, **panel} for number, panel in enumerate(panels, 1)]
    return _HEAD | {"templating": {"list": [source, _INSTANCE]}, "panels": numbered}


def text() -> str:
    """Of the file: a line for each panel."""
    head = dashboard()
    panels = ",\n  ".join(json.dumps(panel) for panel in head.pop("panels"))
    return f'{json.dumps(head, indent=1)[:-2]},\n "panels": [\n  {panels}\n ]\n}}\n'


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
