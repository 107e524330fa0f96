"""``pygrade --version --verbose``: versions, device, instruction set, and which backends work."""

import json

from pygrade._util.serialization import to_builtins
from pygrade.ops.info import collect


def versions_text(as_json: bool = False) -> str:
    """A line for each, or one JSON object."""
    record = collect()
    if as_json:
        return json.dumps(to_builtins(record), allow_nan=False)
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
    return "\n".join(f"{name:<18} {value}" for name, value in rows.items())
