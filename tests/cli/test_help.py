"""The short and the full help, and the list of options that both are made of."""

import importlib
import pkgutil
import re
import resource
import subprocess
import sys
from typing import get_type_hints

import pytest

from pygrade.cli import commands
from pygrade.cli import main as cli
from pygrade.cli.help import MAX_LINES, help_text
from pygrade.cli.option_list import COMMANDS, fields_of, is_options, options_class, options_of, table_of, typed


def test_help_lists_every_command_and_each_has_a_module(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)} == set(COMMANDS)
    for command in COMMANDS:
        assert re.search(rf"^  {typed(command)} ", text, re.MULTILINE)
        module = importlib.import_module(f"pygrade.cli.commands.{command.replace('-', '_')}")
        assert get_type_hints(module.run)["options"] is options_class(command)
    assert cli.main([]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_is_an_option_or_stands_in_a_file(command):
    kind, options = options_class(command), options_of(command)
    names = [option.name for option in options]
    assert len(set(names)) == len(names)
    groups = {option.name: option.hint for option in table_of(command) if is_options(option.hint)}
    for prefix, group in {"": kind, **groups}.items():
        for entry, _ in fields_of(group):
            name = ".".join(filter(None, (prefix, entry.name)))
            head, _, rest = name.partition(".")
            flags = getattr(kind, "FLAGS", {}).get(head, (rest,))
            assert (name in names) == (name not in groups and (not rest or rest in flags)), name
    assert set(getattr(kind, "ESSENTIAL", ())) <= set(names)
    assert {f"{head}.{name}" for head, flags in getattr(kind, "FLAGS", {}).items() for name in flags} <= set(names)


def test_the_commands_have_few_options():
    assert sum(len(options_of(command)) for command in COMMANDS) <= 350 and len(COMMANDS) <= 15


def test_defaults_of_nested_options_are_those_of_the_command():
    assert {option.name: option.default for option in options_of("online")}["online.step.steps"] == 25


@pytest.mark.parametrize("command", COMMANDS)
def test_the_short_help_fits_a_screen_and_has_the_required_options_first(command):
    lines = help_text(command, width=80).splitlines()
    assert len(lines) <= MAX_LINES == 40 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: pygrade {typed(command)}")
    text = "\n".join(lines)
    assert "--json" in text and "--traceback" in text and "--config FILE" in text and "--help-all" in text
    required = [option for option in options_of(command) if option.needed]
    shown = re.findall(r"^  (--\S+|[A-Z|]+(?=[ …\n]))", text, re.MULTILINE)
    assert set(shown[: len(required)]) == {o.kind.split()[0] if o.positional else o.flag for o in required}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_full_help_has_every_option_with_its_text(command):
    text = help_text(command, full=True, width=100)
    words = " ".join(text.split())
    for option in options_of(command):
        if not option.positional:
            assert option.flag in text or option.negative.replace("no-", "[no-]", 1) in text
        if option.name not in ("json", "quiet", "traceback"):
            assert option.text and " ".join(option.text.split()) in words, option.name
    assert max(map(len, text.splitlines())) <= 100


def test_a_flag_that_is_on_reads_like_one():
    text = help_text("train", width=80)
    assert "--[no-]resume" in text and "--no-resume  " not in text and "default: on" in text
    assert "--[no-]explore" not in help_text("rank", width=80)


@pytest.mark.parametrize("words", ["--help", "--version", "--cmake-dir", "pipeline --help", "pipeline --help-all"])
def test_what_needs_neither_torch_nor_the_command_imports_neither_and_is_quick(words):
    code = (
        f"import sys; from pygrade.cli.main import main; code = main({words.split()})\n"
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run.returncode == 0 and run.stdout, run.stderr
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) <= 0.25, times
