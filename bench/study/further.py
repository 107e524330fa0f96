"""python -m bench.study.further DOCS NAME=RESULTS.json …: parts with results of their own, in docs/RESULTS.md.

NAME is whole_pages, which the guide of whole pages shows, too; whole_pages_grpo; or whole_pages_first: the run before
its guard was changed.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.study.report import add_to_docs
from bench.study.whole_pages_report import IN_GUIDE, earned, first_run, grpo, whole_pages

PARTS = {"whole_pages": whole_pages, "whole_pages_grpo": grpo, "whole_pages_first": first_run}


def main(docs: Path, words: Sequence[str]) -> None:
    for word in words:
        name, _, path = word.partition("=")
        if name not in PARTS:
            raise SystemExit(f"no part {name!r}; want {', '.join(PARTS)}")
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        add_to_docs(docs, PARTS[name](found))
        if name == "whole_pages":
            guide, (begin, end) = docs / "guides" / "pages.md", IN_GUIDE
            before, _, rest = guide.read_text(encoding="utf-8").partition(begin)
            guide.write_text(f"{before}{begin}{earned(found)}{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
