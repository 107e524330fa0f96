"""The page of all options, made from the dataclasses that the commands parse, and that of the service's.

A class that several commands share has one section, to which they link: an option is described once.
"""

import dataclasses
import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygrade import _core
from pygrade.cli.option_list import COMMANDS, fields_of, in_words, is_options, options_class, typed
from pygrade.config.option import choices_of, default_of, field_types
from pygrade.config.shared import LogOptions, Output

_ROOT = Path(__file__).parents[1]
_PROGRAM = Path(_core.__file__).parent / "bin/pygraded"
_SCHEMA = re.compile(r"#/components/schemas/(\w+)")
SHARED = {Output: ("every-command", "Every command"), LogOptions: ("data", "Commands that read a log")}
INTRODUCTION = """\
This page is made from the dataclasses that the command line parses; in Python they take these arguments, and a few
more. The table of a class leaves out the prefix that a command puts before it: `page-size` of
[RewardConfig](#rewardconfig) is `--reward.page-size` of `pygrade train` and `--train.reward.page-size` of
`pygrade pipeline`, which takes the rarer ones in a file alone, `[pipeline.train.reward]`, as `pygrade online` does
(`[online.online.step]`). `--no-NAME` switches off what is on by default.
"""


def options_page() -> str:
    """The whole page, as Markdown."""
    parts = ["# Options\n", INTRODUCTION]
    parts += [f"## {title} {{#{place}}}\n\n{_table(kind)}" for kind, (place, title) in SHARED.items()]
    shared: dict[type, None] = {}
    for command in COMMANDS:
        kind = options_class(command)
        groups = [(prefix, group) for prefix, group in groups_of(kind)]
        shared |= dict.fromkeys(group for _, group in groups if group not in SHARED)
        parts += [f"## pygrade {typed(command)} {{#{command}}}\n\n{_description(kind)}\n", _table(kind)]
        links = [f"[{_title(group)}](#{_place(group)})" + f" as `--{p}…`" * bool(p) for p, group in groups]
        parts.append(f"Also: {'; '.join(links)}.\n")
    parts += [f"## {kind.__name__} {{#{_place(kind)}}}\n\n{_description(kind)}\n\n{_table(kind)}" for kind in shared]
    return "\n".join(parts)


def groups_of(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The classes besides this one that define its options, each with what a command puts before them."""
    yield from ((prefix, base) for base in kind.__mro__[1:] if inspect.get_annotations(base))
    for entry, hint in fields_of(kind):
        if is_options(hint):
            inner = f"{prefix}{_option(entry.name)}."
            yield inner, hint
            yield from groups_of(hint, inner)


def own_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """The fields that this very class defines and that are no group of options."""
    own = inspect.get_annotations(kind)
    return [entry for entry, hint in fields_of(kind) if entry.name in own and not is_options(hint)]


def _title(kind: type) -> str:
    return SHARED[kind][1].lower() if kind in SHARED else kind.__name__


def _place(kind: type) -> str:
    return SHARED[kind][0] if kind in SHARED else kind.__name__.lower()


def _description(kind: type) -> str:
    """The docstring, with its examples as code."""
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    text = re.sub(r"^Example: (.+)$", r"```sh\n\1\n```", text, flags=re.M)
    return re.sub(r"\n```\s+```sh\n", "\n", text)


def _table(kind: type) -> str:
    rows = []
    for entry in own_fields(kind):
        text = entry.metadata["text"]
        if entry.metadata.get("positional"):
            text += "; may come first, without its name"
        if choices := choices_of(field_types(kind)[entry.name]):
            text += f" ({', '.join(map(str, choices))})"
        if limits := entry.metadata.get("range"):
            text = f"{text.removesuffix('.')}; {limits}"
        rows.append(f"| `--{_option(entry.name)}` | {_default(entry)} | {_cell(text)} |\n")
    return "| option | default | |\n| --- | --- | --- |\n" + "".join(rows) if rows else ""


def _option(name: str) -> str:
    return name.replace("_", "-")


def _default(entry: dataclasses.Field[Any]) -> str:
    if other := entry.metadata.get("unless"):
        return f"**required**, or `--{other}`"
    value = default_of(entry)
    if value is dataclasses.MISSING:
        return "**required**"
    if isinstance(value, bool) or value is None or value in ("", (), {}):
        return in_words(value) or "none"
    return f"`{in_words(value)}`"


def _cell(text: str) -> str:
    return re.sub(r"([|<\[*$])", r"\\\1", text)


def service_page() -> str:
    """The options and metrics of the service and of pygraded, as Markdown."""
    head = "# Service: options and metrics\n\nMade from what the service declares. How they act: [the API](SERVICE.md)."
    return f"{head}\n\n## Options\n\n{_service_options()}\n\n## Metrics\n\n{_service_series()}\n"


def _service_options() -> str:
    """The options of the core and of pygraded as Markdown."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    schemas = json.loads(_core.Service.openapi())["components"]["schemas"]
    for name, option in schemas["Options"]["properties"].items():
        default = f"`{json.dumps(option['default'])}`" if "default" in option else ""
        found = _SCHEMA.search(json.dumps(option))
        keys = f" (keys: {', '.join(f'`{key}`' for key in schemas[found[1]]['properties'])})" if found else ""
        lines.append(f"| `{name}` | {default} | {option['description']}{keys} |")
    text = subprocess.run([_PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    for option, meaning in re.findall(r"^  --([\w-]+) \S+ +(.*)$", text, re.M):
        name = option.replace("-", "_")
        if name == "config" or name in schemas["Options"]["properties"]:
            continue
        end = re.search(r" \(([^()]+)\)$", meaning)
        cells = (f"`{end[1]}`", meaning[: end.start()]) if end else ("", meaning)
        lines.append(f"| `{name}` | {cells[0]} | pygraded: {cells[1].replace('|', ' or ')} |")
    return "\n".join(lines)


def _service_series() -> str:
    """The series of the core and of pygraded as Markdown."""
    families = json.loads(_core.Service.openapi())["paths"]["/metrics"]["get"]["x-metrics"]
    text = (_ROOT / "csrc/server/http.cpp").read_text()
    own = [
        (name, help.replace('"\n        "', "")) for name, help in re.findall(r'add\("(pygrade_\w+)", "(.*?)",', text)
    ]
    lines = ["| series | meaning |", "|---|---|"]
    for family in families:
        labels = f"{{{family['labels']}}}" if family["labels"] else ""
        lines.append(f"| `{family['name']}{labels}` | {family['help']} |")
    lines += [f"| `{name}` | pygraded: {help} |" for name, help in own]
    return "\n".join(lines)
