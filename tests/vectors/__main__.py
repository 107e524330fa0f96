"""Writes the vectors of the service and the correction by the core: python -m tests.vectors"""

import json
import shutil
import tempfile
from pathlib import Path

from pygrade._util.json_text import json_text
from tests.vectors import FOLDER
from tests.vectors.cases import corrected, exchange, page_requests, requests


def main() -> None:
    page = FOLDER / "policy/page.json"
    record = json.loads(page.read_text())
    page.write_text(json_text(record | {"corrected": corrected(record).tolist()}) + "\n")
    for policy, name, asked in (("policy", "http.json", requests()), ("pages", "http_pages.json", page_requests())):
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(FOLDER / policy, Path(scratch) / "policy")
            found = exchange(Path(scratch), asked)
        lines = ",\n".join(json.dumps(entry) for entry in found)
        (FOLDER / name).write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
