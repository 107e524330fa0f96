"""What long logs take, from bench/results/cluster_plan.json."""

from typing import Any


def capacity(record: dict[str, Any]) -> str:
    """Hours, memory and bytes, and the walls."""
    parts = []
    for cluster, speeds in record["clusters"].items():
        plans = [plan for plan in record["plans"] if plan["cluster"] == cluster]
        head = ["rows", "cores", "hours", "simulated", "core hours", "memory a node", "over the network", "shuffled"]
        lines = ["| " + " | ".join(head) + " | longest stage, and why |", "|---" * (len(head) + 1) + "|"]
        for plan in plans:
            cells = [
                _power(plan["rows"]),
                f"{plan['cores']:,}",
                _short(plan["hours"]),
                _short(plan["simulated_hours"]),
                _short(plan["core_hours"]),
                f"{plan['node_gib']:.1f} GiB",
                f"{_short(plan['network_tb'])} TB",
                f"{_short(plan['shuffled_tb'])} TB",
                f"{plan['slowest']['stage']}: {plan['slowest']['by']}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append(f"**{_speeds(cluster, speeds)}**\n\n" + "\n".join(lines) + "\n")
        for rows in dict.fromkeys(plan["rows"] for plan in plans):
            met = [wall for wall in record["walls"] if wall["cluster"] == cluster and wall["rows"] == rows]
            if met:
                first = met[0]
                parts.append(
                    f"First wall with {_power(rows)} rows: from {first['cores']:,} cores on *{first['stage']}* loses "
                    f"half of their time ({first['resource']}).\n"
                )
    checks = [
        f"{name}: {entry['closed_form_seconds']:.0f} s for {entry['measured_seconds']:.0f} s"
        for name, entry in record["check"].items()
        if name != "rows"
    ]
    if checks:
        parts.append(f"Of the run with {record['check']['rows']:,} rows the closed form says: {'; '.join(checks)}.\n")
    return "\n".join(parts)


def _speeds(name: str, cluster: dict[str, Any]) -> str:
    return (
        f"Speeds {name}: a node of {cluster['node_cores']} cores moves {_rate(cluster['node_network'])}, the store "
        f"{_rate(cluster['store'])}, a stream {_rate(cluster['stream'])}; a job costs the driver "
        f"{cluster['hand_out_ms']:.1f} ms"
    )


def _rate(speed: float) -> str:
    return f"{_short(speed / 1e9)} GB/s" if speed >= 1e9 else f"{_short(speed / 1e6)} MB/s"


def _power(number: float) -> str:
    digits = f"{number:.0e}".split("e")
    superscript = str(int(digits[1])).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{superscript}" if digits[0] == "1" else f"{digits[0]}·10{superscript}"


def _short(number: float) -> str:
    """Two significant digits, or all of the whole number."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"
