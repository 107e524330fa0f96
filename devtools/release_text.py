"""The texts of a release: `python -m devtools.release_text` with one of these words.

check    the version is that of CHANGELOG.md and CITATION.cff; with --released, they have one date, too
notes    prints the part of CHANGELOG.md for this version, or "Unreleased" before it has one
fill     writes the addresses of devtools/publisher.toml into the files that name them
blank    prints the addresses that are not yet known
version  prints the version
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = ("SECURITY.md", "CODE_OF_CONDUCT.md", "SUPPORT.md")
_SLOT = re.compile(r"<!--(\w+)-->.*?<!--/-->")
_BLOCK = re.compile(r"(# from devtools/publisher\.toml\n).*?(# end\n)", re.DOTALL)
_HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?\n(.*?)(?=^## \[|\Z)", re.MULTILINE | re.DOTALL)


def version(root: Path = ROOT) -> str:
    """The version of the C++ header."""
    header = (root / "csrc/include/pygrade/version.hpp").read_text(encoding="utf-8")
    return header.split('PYGRADE_VERSION "')[1].split('"')[0]


def changes(root: Path = ROOT) -> dict[str, tuple[str, str]]:
    """Heading of CHANGELOG.md → its date, or "", and its text; the newest first."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return {name: (date, body.strip()) for name, date, body in _HEADING.findall(text)}


def faults(root: Path = ROOT, released: bool = False) -> list[str]:
    """Texts that disagree about the version; before a release its changes may still be under "Unreleased"."""
    now, headings = version(root), changes(root)
    newest = next(iter(headings), "")
    cited = dict(re.findall(r"^(version|date-released): (\S+)$", (root / "CITATION.cff").read_text("utf-8"), re.M))
    found = []
    if newest != now and (released or newest != "Unreleased"):
        found.append(f"CHANGELOG.md begins with [{newest}], version.hpp has {now}")
    if cited.get("version") != now:
        found.append(f"CITATION.cff has version {cited.get('version')}, version.hpp has {now}")
    date = headings.get(now, ("",))[0]
    if released and (not date or cited.get("date-released") != date):
        found.append(f"CHANGELOG.md has the date {date or 'none'}, CITATION.cff {cited.get('date-released', 'none')}")
    found += [f"{name} lacks what publisher.toml has: run fill" for name, text in filled(root).items()
              if text != (root / name).read_text(encoding="utf-8")]  # fmt: skip
    return found


def notes(root: Path = ROOT) -> str:
    """The changes of this version, in Markdown."""
    headings = changes(root)
    return headings[version(root) if version(root) in headings else "Unreleased"][1] + "\n"


def publisher(root: Path = ROOT) -> dict[str, str]:
    """Name → address, or "" where it is not yet known."""
    return tomllib.loads((root / "devtools/publisher.toml").read_text(encoding="utf-8"))["publisher"]


def filled(root: Path = ROOT) -> dict[str, str]:
    """File → its text with the addresses: slots of Markdown, a block of CITATION.cff and of pyproject.toml."""
    known = publisher(root)
    shown = {name: value or f"(not yet named: `{name}` in devtools/publisher.toml)" for name, value in known.items()}
    made = {
        name: _SLOT.sub(lambda slot: f"<!--{slot[1]}-->{shown[slot[1]]}<!--/-->", (root / name).read_text("utf-8"))
        for name in TEXTS
    }
    urls = {"Repository": "repository", "Documentation": "documentation", "Issues": "issues"}
    lines = [f'{title} = "{known[name]}"\n' for title, name in urls.items() if known[name]]
    if known["repository"]:
        lines.append(f'Changelog = "{known["repository"].rstrip("/")}/blob/main/CHANGELOG.md"\n')
    if known["maintainer"]:
        name, address = re.fullmatch(r"(.+) <(.+)>", known["maintainer"]).groups()
        lines.append(f'[[project.maintainers]]\nname = "{name}"\nemail = "{address}"\n')
    blocks = {"pyproject.toml": "[project.urls]\n" * any(urls[t] and known[urls[t]] for t in urls) + "".join(lines)}
    blocks["CITATION.cff"] = f"repository-code: {known['repository']}\n" if known["repository"] else ""
    for name, block in blocks.items():
        made[name] = _BLOCK.sub(
            lambda found, block=block: found[1] + block + found[2], (root / name).read_text("utf-8")
        )
    return made


def blank(root: Path = ROOT) -> list[str]:
    """The addresses that are not yet known."""
    return [name for name, value in publisher(root).items() if not value]


def main(arguments: list[str]) -> str | None:
    word, *rest = arguments
    if word == "check":
        return "\n".join(faults(released=rest == ["--released"])) or None
    if word == "fill":
        for name, text in filled().items():
            (ROOT / name).write_text(text, encoding="utf-8")
    else:
        print({"notes": notes, "version": version, "blank": lambda: ", ".join(blank())}[word]())
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
