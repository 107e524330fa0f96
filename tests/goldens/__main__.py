"""Makes or checks the goldens with the C++ core.

python -m tests.goldens           write the files; the diff shows which bits changed
python -m tests.goldens --check   compare with the instruction set that runs (PYGRADE_ISA chooses another)
"""

import sys

from pygrade import _core
from tests.goldens import FAMILIES, FOLDER, load, save
from tests.goldens.cases import CASES


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        for family in FAMILIES:
            cases = load(family)
            count = sum(golden.equal_values() for golden in cases)
            print(f"{_core.active_isa()} {family}: {count} values of {len(cases)} cases equal bit for bit")
        return 0
    for family in FAMILIES:
        save(FOLDER / f"{family}.npz", CASES[family]())
        print(f"{family}: {(FOLDER / f'{family}.npz').stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
