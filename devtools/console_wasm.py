"""Builds the console's WebAssembly of the core: `python -m devtools.console_wasm`, which needs `pip install ziglang`.

``core.txt`` is committed as the page has it, base64 of gzip, and beside it ``core.json`` with the hashes of all that it
was made from.
"""

import base64
import gzip
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "pygrade/console/web"
UNITS = (
    "csrc/wasm/console.cpp",
    *(f"csrc/src/{name}.cpp" for name in ("fusion", "page_search", "ranking")),
    *(f"csrc/src/serving/{name}.cpp" for name in ("correction", "history", "item_levels", "mixture")),
    *(f"csrc/src/serving/{name}.cpp" for name in ("page_places", "page_terms", "policy", "policy_file")),
    *(f"csrc/src/serving/{name}.cpp" for name in ("prediction_scales", "ranker")),
    *(f"csrc/src/simd/{name}.cpp" for name in ("correction", "fusion", "history", "page_search", "policy", "ranking")),
    *(f"csrc/src/util/{name}.cpp" for name in ("artifact_record", "blake2b", "json", "safetensors", "sha256")),
)
PRELUDE = "csrc/wasm/prelude.hpp"
FLAGS = [
    *("-target", "wasm32-wasi", "-mexec-model=reactor", "-std=c++20", "-Os", "-g0", "-DNDEBUG"),
    *(
        "-fexceptions",
        "-fno-rtti",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wno-c++11-narrowing",
    ),
    *("-fvisibility=hidden", "-DPYGRADE_ISA_NAMESPACE=baseline", "-include", PRELUDE, "-Icsrc/src", "-Icsrc/include"),
    *("-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=262144"),
]


def sources() -> list[str]:
    """The units and every header of ours that they include, directly or not."""
    found: dict[str, None] = {}
    waiting = [*UNITS, PRELUDE]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = None
        here = (ROOT / name).parent
        for included in re.findall(r'#include "([^"]+)"', (ROOT / name).read_text(encoding="utf-8")):
            for folder in (here, ROOT / "csrc/src", ROOT / "csrc/include"):
                if (folder / included).is_file():
                    waiting.append(str((folder / included).resolve().relative_to(ROOT)))
                    break
    return sorted(found)


def source_hash() -> str:
    """One hash of the sources, of the flags, and of the list of units."""
    digest = hashlib.sha256(json.dumps([UNITS, FLAGS]).encode())
    for name in sources():
        digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


def build(out: Path) -> bytes:
    """Compile to a file, and return its content."""
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *UNITS, "-o", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out.read_bytes()


def main() -> None:
    """Build, and write ``core.txt`` and ``core.json``."""
    with tempfile.TemporaryDirectory() as folder:
        content = build(Path(folder) / "core.wasm")
    record = {
        "sources_sha256": source_hash(),
        "wasm_sha256": hashlib.sha256(content).hexdigest(),
        "ziglang": importlib.metadata.version("ziglang"),
    }
    packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    (OUT / "core.txt").write_text(packed + "\n", encoding="utf-8")
    (OUT / "core.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{len(content):,} bytes, packed {len(packed):,}")


if __name__ == "__main__":
    main()
