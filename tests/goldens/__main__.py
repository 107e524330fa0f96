"""Makes or checks the goldens with the C++ core.

python -m tests.goldens           write the file; the diff shows which bits changed
python -m tests.goldens --check   compare with the instruction set that runs (PYGRADE_ISA chooses another)
"""

import sys

from pygrade import _core
from pygrade._util.json_text import json_text
from tests.goldens import FAMILIES, FILE, Golden, load
from tests.goldens.cases import CASES


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        for family in FAMILIES:
            cases = load(family)
            count = sum(golden.equal_values() for golden in cases)
            print(f"{_core.active_isa()} {family}: {count} values of {len(cases)} cases equal bit for bit")
        return 0
    made = {family: [Golden(*case, {}) for case in CASES[family]()] for family in FAMILIES}
    bits = {family: {golden.name: golden.hashes(golden.run()) for golden in cases} for family, cases in made.items()}
    FILE.write_text(json_text(bits) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
