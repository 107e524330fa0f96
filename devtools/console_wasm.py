"""Builds the console's WebAssembly of the core: `python -m devtools.console_wasm`, which needs `pip install ziglang`.

``core.wasm`` is committed, and beside it ``core.json`` with the hashes of all that it was made from.
"""

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
    "csrc/src/fusion.cpp",
    "csrc/src/page_search.cpp",
    "csrc/src/ranking.cpp",
    "csrc/src/serving/mixture.cpp",
    "csrc/src/serving/page_places.cpp",
    "csrc/src/serving/page_terms.cpp",
    "csrc/src/serving/policy.cpp",
    "csrc/src/util/sha256.cpp",
    "csrc/src/simd/fusion.cpp",
    "csrc/src/simd/page_search.cpp",
    "csrc/src/simd/ranking.cpp",
    "csrc/src/simd/policy.cpp",
)
FLAGS = [
    "-target",
    "wasm32-wasi",
    "-mexec-model=reactor",
    "-std=c++20",
    "-O2",
    "-g0",
    "-DNDEBUG",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-c++11-narrowing",
    "-fvisibility=hidden",
    "-DPYGRADE_ISA_NAMESPACE=baseline",
    "-include",
    "csrc/wasm/prelude.hpp",
    "-Icsrc/src",
    "-Icsrc/include",
    "-Wl,--gc-sections",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=262144",
]


def sources() -> list[str]:
    """The units and every header of ours that they include, directly or not."""
    found: dict[str, None] = {}
    waiting = [*UNITS, "csrc/wasm/prelude.hpp"]
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
    """Build ``core.wasm`` and write ``core.json``."""
    with tempfile.TemporaryDirectory() as folder:
        content = build(Path(folder) / "core.wasm")
    record = {
        "sources_sha256": source_hash(),
        "wasm_sha256": hashlib.sha256(content).hexdigest(),
        "ziglang": importlib.metadata.version("ziglang"),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "core.wasm").write_bytes(content)
    (OUT / "core.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{len(content):,} bytes")


if __name__ == "__main__":
    main()
