"""pygrade info"""

from typing import Any

from pygrade.cli import terminal
from pygrade.config.export import InfoOptions
from pygrade.ops.info import collect


def run(options: InfoOptions) -> dict[str, Any]:
    record = collect()
    if not options.json:
        cpu, packages = record["cpu"], record["packages"]
        rows = {
            "pygrade": record["pygrade"],
            "python": record["python"],
            "packages": ", ".join(f"{name} {v}" for name, v in packages.items() if v is not None),
            "not installed": ", ".join(name for name, v in packages.items() if v is None) or "none",
            "CPU": f"{cpu['model']}, {cpu['cores']} cores, {cpu['torch_threads']} torch threads",
            "instruction set": f"{cpu['instruction_set']} (of {', '.join(cpu['instruction_sets_available'])})",
            "GPU": record["gpu"] or "none",
        } | {f"backend {name}": state for name, state in record["backends"].items()}
        for name, value in rows.items():
            terminal.text(f"{name:<18} {value}")
    return record
